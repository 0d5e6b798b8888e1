"""The job file's text: YAML 1.2, ``--set``, ``${VAR}``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanflow.errors import JobError
from wanflow.job import load_job
from wanflow.job.text import apply_sets, parse_set_value, parse_yaml, substitute

WriteJob = Callable[[str], Path]
#: each line is ten times the line before
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
JOB = "wanflow: 1\nname: a\nmanifest: m.csv\nengine: {checkpoint: pocket}\npublish: {url: out}\n"

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=30)


def test_yaml_is_read_as_1_2(write_job: WriteJob) -> None:
    """The Norway problem: in YAML 1.1 the locale ``no`` is false, 16:9 is the number 969 and 06:00 is 360."""
    job = load_job(write_job(JOB + "matrix: {locale: [de, no, on, y]}\nlimits: {deadline: 06:00}\n"), env={})
    assert job.matrix["locale"] == ("de", "no", "on", "y")
    assert job.limits.deadline is not None
    values = parse_yaml("{a: no, b: 16:9, c: 2026-01-31, d: 012, e: 1_0, f: true, g: 1e3, h: =, i: ~}", "x")
    assert values == {
        "a": "no", "b": "16:9", "c": "2026-01-31", "d": 12, "e": 10, "f": True, "g": 1000.0, "h": "=", "i": None,
    }  # fmt: skip


def test_a_ratio_with_a_colon_is_answered_with_an_x(write_job: WriteJob) -> None:
    """Everybody writes 16:9 once."""
    with pytest.raises(JobError, match=r"clip\.aspect: `16:9` is not a ratio of width to height; write 16x9"):
        load_job(write_job(JOB + "clip: {aspect: 16:9}\n"), env={})


def test_a_key_written_twice_is_an_error_with_its_line(write_job: WriteJob) -> None:
    """A copied section whose first version silently loses is found in production otherwise."""
    with pytest.raises(JobError, match=r"job\.yaml, line 6: `name` is written twice"):
        load_job(write_job(JOB + "name: b\n"), env={})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; a job begins with `wanflow: 1`"),
        ("- a\n- b\n", "is not a mapping"),
        ("a: [1, 2\n", "line 2"),
        ("a: 'x\n", "line"),
        ("clip:\n  prompt: {{ product }}\n", "a value with {{ in it needs quotes"),
        ("publish: {url: ${BUCKET}/a}\n", "a value with ${ in it needs quotes"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: &a [*a]\n", "endless"),
        (LAUGHS, "endless"),
        ("a: " + "x" * 1_000_001, "larger than"),
    ],
)  # fmt: skip
def test_a_broken_file_is_answered_in_words(write_job: WriteJob, text: str, words: str) -> None:
    """Whatever somebody saves as job.yaml must not end in a traceback, nor in a driver that runs out of memory."""
    with pytest.raises(JobError) as caught:
        load_job(write_job(text), env={})
    assert words in str(caught.value)


def test_a_file_that_is_missing_or_binary_is_named(tmp_path: Path) -> None:
    """A typo in the path is the most frequent mistake of all."""
    with pytest.raises(JobError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_job(tmp_path / "nowhere.yaml")
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(JobError, match="is not UTF-8"):
        load_job(tmp_path / "job.yaml")


def test_set_reaches_every_place(write_job: WriteJob) -> None:
    """``run job.yaml --set ...`` is how one job serves staging and production."""
    path = write_job(JOB + 'layers:\n  - image: {url: a.png, at: top-left}\n  - text: {value: "{{ h }}"}\n')
    job = load_job(
        path,
        [
            "layers.0.image.at=bottom-right",
            "layers.1.text.value=Now: 50 % # off",
            "layers.1.text.color=#ff0000",
            "clip.seed=7",
            "clip.aspect=[9x16, 1x1]",
            "clip.prompt={{ a }}: b",
            "limits.max_failed=0.5%",
            "publish.url=s3://b/c",
            'name="2024"',
        ],
        env={},
    )
    assert job.layers[0].image is not None
    assert job.layers[0].image.at == "bottom-right"
    assert job.layers[1].text is not None
    assert job.layers[1].text.value == "Now: 50 % # off"
    assert job.layers[1].text.color == "#ff0000"
    assert job.clip.seed == 7
    assert job.clip.aspect == ("9x16", "1x1")
    assert job.clip.prompt == "{{ a }}: b"
    assert job.publish.url == "s3://b/c"
    assert job.name == "2024"


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("publish.ulr=x", r"publish\.ulr: unknown key; did you mean `url`\?"),
        ("pubish.url=x", r"pubish: unknown key; did you mean `publish`\?"),
        ("layers.4.image.at=left", "layers.4.image.at=left: layers is a list with entries 0 to 0"),
        ("layers.first.image.at=left", "`first` is none of them"),
        ("name.first=x", "name is one value, not a mapping"),
        ("clip.seed", "write it as a.b=value"),
        ("=3", "write it as a.b=value"),
        ("clip..seed=3", "write it as a.b=value"),
        ("clip.seed=-1", r"clip\.seed: -1 is negative"),
    ],
)
def test_a_set_that_fits_nowhere_is_an_error(write_job: WriteJob, assignment: str, words: str) -> None:
    """A misspelt --set must not be ignored: the run would go to production's bucket."""
    path = write_job(JOB + "layers:\n  - image: {url: a.png}\n")
    with pytest.raises(JobError, match=words):
        load_job(path, [assignment], env={})


def test_the_environment_fills_strings_and_is_never_yaml(write_job: WriteJob) -> None:
    """A secret or a headline from the environment must not be able to add keys or change types."""
    path = write_job(
        JOB.replace("out", "'${BUCKET}/${PREFIX:-night}'")
        + 'clip: {prompt: "${WORDS}", negative_prompt: "$${X} $5 $$"}\n'
    )
    job = load_job(path, env={"BUCKET": "s3://b", "WORDS": "[1, 2]: {a: no}"})
    assert job.publish.url == "s3://b/night"
    assert job.clip.prompt == "[1, 2]: {a: no}"
    assert job.clip.negative_prompt == "${X} $5 $$"


def test_a_number_may_come_from_the_environment(write_job: WriteJob) -> None:
    """``${SEED}`` is text, and still a seed."""
    job = load_job(
        write_job(JOB + 'clip: {seed: "${SEED}"}\nresources: {replicas: "${N:-3}"}\n'), env={"SEED": "12"}
    )
    assert job.clip.seed == 12
    assert job.resources.replicas.max == 3


def test_missing_variables_are_all_named_with_their_place(write_job: WriteJob) -> None:
    """A CronJob without its environment must say so, not write to a bucket called ``${BUCKET}``."""
    path = write_job(
        JOB.replace("out", "'${BUCKT}/x'") + 'clip: {prompt: "${A-b} ${C"}\nworkspace: "${NOWHERE}"\n'
    )
    with pytest.raises(JobError) as caught:
        load_job(path, env={"BUCKET": "b"})
    text = str(caught.value)
    assert "publish.url: the environment has no BUCKT (did you mean `BUCKET`?); set it" in text
    assert "clip.prompt: `${A-b}` is not a variable" in text
    assert "clip.prompt: `${C` is not a variable" in text
    assert "workspace: the environment has no NOWHERE" in text


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), texts), texts)
def test_whatever_a_variable_holds_arrives_unchanged(env: dict[str, str], rest: str) -> None:
    """Values of the environment are data: no character in them means anything."""
    rest = rest.replace("$", "")
    data = {"k": [f"${{{name}}}{rest}" for name in env], "n": 3}
    assert substitute(data, env) == {"k": [value + rest for value in env.values()], "n": 3}


@settings(max_examples=100, deadline=None)
@given(texts)
def test_any_text_without_a_variable_stays_as_it_is(text: str) -> None:
    """Prices in prompts ($5, $$$) are not variables."""
    text = text.replace("${", "")
    assert substitute({"a": text}, {}) == {"a": text}


@settings(max_examples=150, deadline=None)
@given(texts)
def test_a_set_value_is_text_or_a_yaml_value_and_never_a_traceback(text: str) -> None:
    """Shells hand over anything."""
    value: Any = parse_set_value(text)
    assert value is None or isinstance(value, str | int | float | bool | list | dict)
    if any(c in text for c in "#:@%&") and text.strip()[:1] not in ("[", "{", '"', "'"):
        assert value == text


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "0", "1", "c"]), min_size=1, max_size=4), st.integers())
def test_a_set_changes_one_place_or_says_why_not(path: list[str], value: int) -> None:
    """Nothing beside the named place may move, and the caller's mapping never does."""
    data = {"a": {"b": 1}, "b": [{"c": 2}, 5], "c": "text"}
    before = repr(data)
    try:
        changed = apply_sets(data, [f"{'.'.join(path)}={value}"])
    except JobError:
        changed = None
    assert repr(data) == before
    if changed is not None:
        here: Any = changed
        for name in path:
            here = here[int(name)] if isinstance(here, list) else here[name]
        assert here == value
