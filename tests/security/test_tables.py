"""Manifests, jobs and templates that are made to exhaust, crash or mislead. Through plan and run."""

from __future__ import annotations

import io
import json
import os
import random
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.security.attacks import Target
from wanflow import Job
from wanflow.decoder import decoder
from wanflow.errors import JobError, ManifestError
from wanflow.job.text import parse_yaml, substitute
from wanflow.templates import MAX_CHARS, Template
from wanflow.where import parse_where


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/cron.d/x",
        "/etc/x",
        "..\\..\\x",
        "a/../../x",
        "a\0b",
        "a\nb",
        "x\x1b[2Jy",
        "gpj\u202e4pm",
        "con",
        "NUL",
        "aux.1",
        "a./b",
        ".wanflow/x",
        "catalog/x",
        "x" * 300,
        "a//b",
        " a",
        "https://evil.org/x",
        "a.mp4/b",
        "a.JPG/b",
    ],
)
def test_paths_that_leave_the_prefix_or_mislead_are_refused(target: Target, name: str) -> None:
    target.sections["publish"]["path"] = "{{ headline }}/{{ output }}.mp4"
    target.rows[1]["headline"] = name
    words = target.refused()
    assert "publish.path" in words
    assert "\x1b" not in words
    assert "\u202e" not in words


def test_nothing_is_written_outside_of_the_two_prefixes(target: Target) -> None:
    """The whole run, with every trick in one row: what is new lies below publish.url."""
    target.sections["publish"]["path"] = "{{ headline }}/{{ output }}.mp4"
    target.rows[1]["headline"] = "../../escaped"
    before = {path for path in target.folder.parent.rglob("*") if "out" not in path.parts}
    assert target.run(skip_bad_rows=True).exit_code == 3
    after = {path for path in target.folder.parent.rglob("*") if "out" not in path.parts}
    assert {path.name for path in after - before} == {"manifest.parquet"}


def test_names_that_look_alike_do_not_share_a_path(target: Target) -> None:
    """é as one character and as two is one name to people and to some file systems."""
    target.rows[0]["variant_id"], target.rows[1]["variant_id"] = "caf\u00e9", "cafe\u0301"
    assert "is published at" in target.refused()


def test_names_that_differ_in_case_collide_where_the_file_system_says_so(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.rows[0]["variant_id"], target.rows[1]["variant_id"] = "Ann", "ann"
    target.plan()
    monkeypatch.setattr("wanflow.manifest.outputs.folds_case", lambda folder: True)
    assert "is published at" in target.refused()


@pytest.mark.parametrize("name", ["a\0b", "a\x1b[31mb", "a\u202eb", "a\u2028b", "x" * 201, " a"])
def test_ids_that_a_terminal_or_a_reader_would_misread_are_refused(target: Target, name: str) -> None:
    target.sections["publish"]["path"] = "{{ row }}/{{ output }}.mp4"
    target.rows[1]["variant_id"] = name
    assert "variant_id" in target.refused()


def test_reasons_do_not_repeat_what_a_terminal_would_obey(target: Target) -> None:
    """An error message is shown on an operator's terminal and in a CI log."""
    words = target.refused_image("\x1b]0;owned\x07\u202e" + "a" * 5000)
    assert "\x1b" not in words
    assert "\x07" not in words
    assert "\u202e" not in words
    assert len(words) < 2000


@pytest.mark.parametrize(
    "content",
    [
        b'{"variant_id":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n",
        b'{"variant_id":"a"}{"x":' + b"[" * 50_000,
        b"".join(b'{"variant_id":"a","c%d":1}\n' % i for i in range(20_000)),
        b'{"variant_id":"a","s":{' + b",".join(b'"c%d":1' % i for i in range(20_000)) + b"}}\n",
        b'{"variant_id":"' + b"a" * 10_000_000 + b'"}\n',
    ],
    ids=["nested lists", "nested objects", "two values in a line", "columns", "fields", "line"],
)
def test_json_bombs_end_in_words(target: Target, content: bytes) -> None:
    """Some of these end the process that reads them, without a word."""
    (target.folder / "m.jsonl").write_bytes(content)
    target.sections["manifest"] = {"url": "m.jsonl"}
    with pytest.raises(ManifestError, match=r"m\.jsonl"):
        target.plan()


@pytest.mark.parametrize(
    "content",
    [
        b"variant_id" + b",c" * 600_000 + b"\n",
        b",".join(b"c%d" % i for i in range(6_000)) + b"\n" + b",".join([b"1"] * 6_000) + b"\n",
        b"a" * 3_000_000 + b"\nx\n",
        b'variant_id,"' + b"\n" * 2_000_000,
        b"\0" * 100_000,
        b"variant_id,prompt\nann," + b"x" * 9_000_000 + b"\n",
    ],
    ids=["header", "columns", "name", "open quote", "zeros", "cell"],
)
def test_csv_bombs_end_in_words(target: Target, content: bytes) -> None:
    (target.folder / "m.csv").write_bytes(content)
    target.sections["manifest"] = {"url": "m.csv"}
    with pytest.raises(ManifestError, match=r"m\.csv"):
        target.plan()


def test_a_parquet_footer_that_lies_is_refused(target: Target) -> None:
    (target.folder / "m.parquet").write_bytes(b"PAR1" + b"\xff\xff\xff\x7fPAR1")
    target.sections["manifest"] = {"url": "m.parquet"}
    with pytest.raises(ManifestError, match=r"footer claims"):
        target.plan()


def test_a_parquet_footer_that_ends_its_reader_is_refused(target: Target) -> None:
    """pyarrow aborts the process at some footers in which a single byte is another one: no error, no line, exit 134."""
    file = io.BytesIO()
    pq.write_table(pa.table({name: ["a", "b"] for name in ("variant_id", "prompt", "headline")}), file)
    whole = file.getvalue()
    footer = int.from_bytes(whole[-8:-4], "little")
    chance, ending = random.Random(1), []
    for _ in range(3000):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole) - 8 - footer, len(whole) - 8)] = chance.randrange(256)
        if decoder.problem("parquet", b"PAR1" + damaged[-8 - footer :]):
            ending.append(bytes(damaged))
    if not ending:
        pytest.skip("this pyarrow aborts at none of 3,000 damaged footers")
    target.sections["manifest"] = {"url": "m.parquet"}
    for damaged_file in ending[:3]:
        (target.folder / "m.parquet").write_bytes(damaged_file)
        with pytest.raises(ManifestError, match=r"m\.parquet"):
            target.plan()


def test_too_many_columns_of_parquet_are_refused(target: Target) -> None:
    table = pa.table({"variant_id": ["a"], **{f"c{i}": [1] for i in range(5_100)}})
    pq.write_table(table, target.folder / "m.parquet")
    target.sections["manifest"] = {"url": "m.parquet"}
    with pytest.raises(ManifestError, match="more than 5,000 columns"):
        target.plan()


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_one_long_text_in_every_row_of_parquet_stays_one_text(target: Target, kind: pa.DataType) -> None:
    """20 kB of file, 4,000 rows of 2 MB each: 8 GB for whoever spreads the dictionary out."""
    rows = 4000
    texts = pa.DictionaryArray.from_arrays(
        pa.array([0] * rows, pa.int32()), pa.array(["x" * 2_000_000], kind)
    )
    table = pa.table(
        {
            "variant_id": [str(i) for i in range(rows)],
            "prompt": texts,
            "headline": ["h"] * rows,
            "image": [""] * rows,
            "segment": ["s"] * rows,
        }
    )
    pq.write_table(table, target.folder / "m.parquet")
    assert (target.folder / "m.parquet").stat().st_size < 400_000
    target.sections["manifest"] = {"url": "m.parquet"}
    with pytest.raises(ManifestError) as caught:
        target.plan()
    assert len(caught.value.bad_rows) == rows
    assert "longer than 20,000 characters" in caught.value.bad_rows[0].reason


def test_values_of_one_great_width_are_refused(target: Target) -> None:
    """As above, with bytes of a fixed length, which pyarrow spreads out whatever it is told."""
    texts = pa.array([b"x" * 100_000] * 4000, pa.binary(100_000))
    pq.write_table(
        pa.table({"variant_id": pa.array(range(4000)), "prompt": texts}), target.folder / "m.parquet"
    )
    assert (target.folder / "m.parquet").stat().st_size < 2_000_000
    target.sections["manifest"] = {"url": "m.parquet"}
    with pytest.raises(ManifestError, match="every value of the column `prompt` has 100,000 bytes"):
        target.plan()


def test_huge_cells_are_their_rows_trouble(target: Target) -> None:
    for column in ("prompt", "headline", "segment"):
        target.rows[1] = {**target.rows[0], "variant_id": "bob", column: "x" * 1_000_000}
        assert target.refused()


def test_bytes_that_are_no_text_are_told(target: Target) -> None:
    """Ids, prompts and headlines, short and of a megabyte; the row beside them is fine."""
    broken, long = pa.array([b"\xff\xfe", b"bob"]), pa.array([b"\xff" * 1_000_000, b"waves"])
    table = pa.table(
        {"variant_id": broken, "prompt": broken, "headline": long, "image": ["", ""], "segment": ["s", "s"]}
    )
    as_text = [
        pa.Array.from_buffers(pa.string(), 2, column.chunk(0).buffers()) for column in table.columns[:3]
    ]
    for kind in (table, pa.table([*as_text, *table.columns[3:]], names=table.column_names)):
        pq.write_table(kind, target.folder / "m.parquet")
        target.sections["manifest"] = {"url": "m.parquet"}
        with pytest.raises(ManifestError) as caught:
            target.plan()
        assert {bad.row for bad in caught.value.bad_rows} == {1}
        reasons = [bad.reason for bad in caught.value.bad_rows]
        for name in ("variant_id", "prompt"):
            assert f"{name}: `\ufffd\ufffd` is not UTF-8 text" in reasons
        assert any(reason.startswith("headline: `\ufffd") for reason in reasons)
        assert max(map(len, reasons)) < 500


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**9 }}",
        "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
        "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a + a %}" * 40 + "{{ a }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 1.5|round(999999999, 'ceil') }}",
        "{{ ('a' ~ headline)|replace('', headline * 10) }}",
        "{% set a = 'a' %}" + "{% set a = a|replace('a', 'aaaaaaaaaaaaaaaaaaaa') %}" * 20 + "{{ a }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in headline recursive %}{{ loop(headline) }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
        "{{ " + "-" * 15000 + "1 }}",
        "{% if 1 %}" * 900 + "{% endif %}" * 900,
        "{{ " + "9" * 19000 + " }}",
        "{{ ''.__class__ }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ headline|attr('__class__') }}",
        "{{ headline.__class__.__base__.__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ headline.format_map({}) }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ headline|map('upper') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ config }}",
        "x" * 30_000,
    ],
)
def test_templates_neither_exhaust_nor_escape(target: Target, template: str) -> None:
    """Processor time, because a clock would blame the machine."""
    before = time.process_time()
    target.sections["layers"][1]["text"]["value"] = template
    with pytest.raises((JobError, ManifestError)) as caught:
        target.plan()
    assert time.process_time() - before < 10
    assert "class '" not in str(caught.value)


def test_a_template_that_is_long_and_honest_ends_soon() -> None:
    """The most that fits: every operation on texts of the greatest length."""
    before = time.process_time()
    template = Template("{{ " + " ~ ".join(["a|upper|lower|title"] * 400) + " }}")
    with pytest.raises(ValueError, match="longer than"):
        template.render({"a": "x" * (MAX_CHARS - 1)})
    assert time.process_time() - before < 20


@pytest.mark.parametrize(
    "condition",
    [
        "a = 1" + " or a = 1" * 1000,
        "(" * 5000,
        "not " * 2000 + "a",
        "a = " + "9" * 9000,
        "'" * 9999,
        '"' * 9999,
        "1" * 9000 + "a",
        "a = 1e" + "9" * 5000,
        " a" * 4999,
        "a in (" + "1," * 4990 + ")",
        "__import__('os').system('id')",
        "a = 'x' " * 900,
        "x" * 20_000,
    ],
)
def test_conditions_end_soon_and_in_words(target: Target, condition: str) -> None:
    before = time.process_time()
    with pytest.raises(ValueError, match=r"character|longer"):
        parse_where(condition)
    target.sections["manifest"]["where"] = condition
    with pytest.raises((JobError, ManifestError)):
        target.plan()
    assert time.process_time() - before < 10


def test_half_a_character_in_a_job_is_told() -> None:
    """JSON and YAML can write what no file can keep: a lone surrogate."""
    with pytest.raises(JobError, match=r"U\+D800"):
        Job.from_dict({"wanflow": 1, "name": "\ud800"})


def test_yaml_aliases_do_not_laugh() -> None:
    """Nine levels of nine aliases are three billion values; a merge key multiplies as well."""
    lists = "a0: &a0 [x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
    )
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10)
    )
    before = time.process_time()
    for text in (
        lists,
        merges,
        "a: &a [*a]\n",
        "[" * 50_000,
        "{a: " * 20_000,
        "a: !!python/object/apply:os.system [id]\n",
    ):
        with pytest.raises(JobError):
            substitute(parse_yaml(text, "job.yaml"), {})
    assert time.process_time() - before < 30


def test_a_job_file_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "job.yaml", "wb") as file:
        file.truncate(2**34)
    with pytest.raises(JobError, match="larger than"):
        Job.load(tmp_path / "job.yaml")


def test_words_of_a_row_never_reach_a_filter_or_an_option(target: Target) -> None:
    """What breaks out of drawtext, of an ASS script and of a command line: it is shown, and nothing else happens."""
    target.rows[1]["headline"] = (
        "';[in]movie=/etc/passwd[x];%{pts} \\N{\\fnX}{\\p1}m 0 0 -i /etc/passwd\n[Events]"
    )
    outcome = target.run()
    assert outcome.exit_code == 0
    assert outcome.counts["published"] == 3


def test_every_input_of_ffmpeg_has_a_protocol_whitelist(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crafted picture may point elsewhere: nothing but files is opened, and no credential is in reach."""
    from wanflow.assemble import ffmpeg

    seen: list[tuple[list[str], dict[str, str]]] = []
    real = ffmpeg.subprocess.Popen

    def watched(command: list[str], **options: Any) -> Any:
        seen.append((command, options["env"]))
        return real(command, **options)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-here")
    monkeypatch.setattr(ffmpeg.subprocess, "Popen", watched)
    assert target.run().exit_code == 0
    commands = [command for command, _ in seen if "-i" in command]
    assert commands
    for command in commands:
        assert "-nostdin" in command
        starts = [0, *(i + 2 for i, word in enumerate(command) if word == "-i")]
        for start, end in pairwise(starts):
            options = command[start:end]
            assert options[options.index("-protocol_whitelist") + 1] == "file,pipe"
            assert os.path.isabs(command[end - 1])
    assert all("AWS_SECRET_ACCESS_KEY" not in environment for _, environment in seen)


def test_calls_without_a_whitelist_are_given_one() -> None:
    from wanflow.assemble.ffmpeg import _fenced

    fence = ["-protocol_whitelist", "file,pipe"]
    assert _fenced(["-y", "-i", "a", "-i", "b", "c"]) == ["-y", *fence, "-i", "a", *fence, "-i", "b", "c"]
    assert _fenced([*fence, "-i", "a"]) == [*fence, "-i", "a"]


def test_results_are_json_and_parquet_so_no_spreadsheet_runs_them(target: Target) -> None:
    """=HYPERLINK(...) in a carried column is text in Parquet; there is no CSV that a spreadsheet would open."""
    target.rows[1]["segment"] = "=cmd|' /C calc'!A0"
    target.run()
    assert list(target.folder.rglob("*.csv")) == []
    found = pq.read_table(target.folder / "out/catalog/files.parquet").to_pylist()
    assert "=cmd|' /C calc'!A0" in json.dumps(found, default=str)
