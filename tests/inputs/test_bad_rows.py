"""Bad rows: every one with its number, its id and every reason, while the good ones go on."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tests.inputs.conftest import Case
from tests.inputs.test_inputs import png_header
from wanflow.errors import BadRow
from wanflow.model import Variant

GOOD = {"variant_id": "good", "prompt": "x"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"seed": -3}, "seed: -3 is negative; a seed is 0 or more"),
        ({"seed": 1.5}, "seed: `1.5` is not a whole number"),
        ({"seconds": -1.0}, "seconds: -1 seconds is out of range"),
        ({"aspect": "16:9"}, "aspect: `16:9` is not a ratio of width to height; write 16x9"),
        ({"aspect": "9x16,"}, "aspect: `` is not a ratio"),
        ({"aspect": "1x1"}, "aspect: no output is made from 1x1 (wide needs 16x9); change the aspect"),
        ({"image": "gone.png"}, "gone.png: does not exist"),
        ({"image": "text.png"}, "is not an image"),
        ({"image": "cut.png"}, "is broken or cut off"),
        ({"image": "bomb.png"}, "pixels; make it smaller"),
        ({"prompt": " "}, "prompt: is empty, and there is no image either"),
        ({"variant_id": "a\nb"}, "variant_id: 'a\\nb' has spaces around it or control characters"),
        ({"variant_id": ""}, "variant_id: is empty; every row needs one"),
        ({"variant_id": None}, "variant_id: is empty; every row needs one"),
        ({"variant_id": "x" * 201}, "variant_id: has 201 characters"),
        ({"variant_id": "../up"}, "unsafe path '../up/wide.mp4': it contains '..'"),
        ({"seconds": 1.0}, "layers.0.text.start: 1.5 s is not before the end of the clip (1.125 s)"),
        ({"priority": 0.5}, "priority: `0.5` is not a whole number"),
    ],
)
def test_a_wrong_value_is_told_with_number_id_and_reason(
    case: Case, row: dict[str, Any], reason: str
) -> None:
    """Row 2 is bad, rows 1 and 3 are not: that is what the report must say, and what must be rendered."""
    (case.folder / "text.png").write_text("hello")
    (case.folder / "cut.png").write_bytes(case.picture("whole.png", (50, 50)).read_bytes()[:-30])
    (case.folder / "bomb.png").write_bytes(png_header(50_000, 50_000))
    case.rows(
        [
            GOOD | dict.fromkeys(set(row) - set(GOOD)),
            GOOD | {"variant_id": "bad"} | row,
            GOOD | {"variant_id": "also"},
        ]
    )
    first, bad, third = case.read(layers=[{"text": {"value": "late", "start": 1.5}}])
    assert isinstance(first, Variant)
    assert isinstance(third, Variant)
    assert isinstance(bad, BadRow)
    assert bad.row == 2
    assert reason in bad.reason
    if "variant_id" not in row:
        assert str(bad).startswith("row 2 (bad): ")


@pytest.mark.parametrize(
    ("sections", "good", "bad", "reason"),
    [
        ({"layers": [{"text": {"value": "x", "color": "{{ a }}"}}]}, "#f00", "red", "color: `red` is not a colour"),
        ({"layers": [{"image": {"url": "{{ a }}"}}]}, "", "gone.png", "layers.0.image.url: "),
        ({"layers": [{"text": {"value": "{{ a }}"}}]}, "x", "x" * 2001, "layers.0.text.value: has 2,001 characters"),
        ({"layers": [{"text": {"value": "x", "start": 2, "end": "{{ a }}"}}]}, "3", "1", "1 s is not after start"),
        ({"layers": [{"text": {"value": "x", "start": "{{ a }}"}}]}, "2.1", "3", "start: 3 s is not before the end of"),
        (
            {"layers": [{"box": {"color": "#fff", "start": 1.2}}], "clip": {"prompt": "x", "seconds": "{{ a }}"}},
            "2", "1", "layers.0.box.start: 1.2 s is not before the end of the clip (1.125 s)",
        ),
        (
            {
                "layers": [{"box": {"color": "#fff", "start": 1.2}}],
                "clip": {"aspect": ["16x9", "9x16"], "seconds": "{{ a if aspect == '9x16' else 2 }}"},
                "outputs": [{"name": "tall", "preset": "tiktok"}, {"name": "wide", "preset": "linkedin"}],
            },
            "2", "1", "start: 1.2 s is not before the end of the clip (1.125 s)",
        ),
        ({"clip": {"prompt": "x", "seed": "{{ a }}"}}, "4", "z", "seed: `z` is not a whole number"),
        ({"clip": {"prompt": "x", "seed": "{{ a }}"}}, "4", "", "seed: is empty; give a whole number"),
        ({"clip": {"prompt": "{{ a ~ a }}"}}, "x", "y" * 19_000, "clip: the text is longer than"),
        ({"clip": {"prompt": "x", "aspect": "{{ a }}"}}, "16x9", "wide", "aspect: `wide` is not a ratio"),
        (
            {"clip": {"prompt": "x", "aspect": "{{ a }}"}, "outputs": [{"name": "any", "preset": "web"}]},
            "16x9", "5x1", "aspect 5x1: aspect 5x1 is more than four times as long as wide",
        ),
    ],
)  # fmt: skip
def test_a_template_that_a_row_fills_wrongly_is_that_rows_error(
    case: Case, sections: dict[str, Any], good: str, bad: str, reason: str
) -> None:
    """What is a column in the job is checked as strictly as what is written out, row by row."""
    case.rows([GOOD | {"a": good}, GOOD | {"variant_id": "bad", "a": bad}])
    first, second = case.read(**sections)
    assert isinstance(first, Variant)
    assert isinstance(second, BadRow)
    assert reason in second.reason


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("{{ a }}.mp4", "../x", "unsafe path '../x.mp4': it contains '..'"),
        ("{{ a }}.mp4", "/etc/x", "unsafe path '/etc/x.mp4': it is absolute"),
        ("{{ a }}", "", "unsafe path '': it is empty"),
        ("{{ a }}/{{ variant_id }}.mp4", None, "it is absolute"),
        ("{{ a }}.mp4", "x" * 300, "it has 304 characters"),
        ("{{ a }}.mp4", "a\\b", "it contains a backslash"),
        ("{{ a }}.mp4", "a\0b", "it contains the control character"),
        ("{{ a }}/x.mp4", "catalog", "catalog/ is wanflow's own folder"),
        ("{{ a }}/x.mp4", ".wanflow", ".wanflow/ is wanflow's own folder"),
        ("{{ a }}/x.mp4", "space", "lies in the workspace (space/ below publish.url)"),
        ("{{ a }}", "x.mov", "must end with a name and .mp4"),
        ("{{ variant_id }}/{{ a }}.mp4", "", "must end with a name and .mp4"),
        ("{{ a }}.mp4", ".x", "is a hidden file"),
    ],
)
def test_an_unsafe_path_is_refused(case: Case, path: str, value: str | None, reason: str) -> None:
    """Paths come from a table that other people write: none may leave its bucket, or land where wanflow writes."""
    case.rows([GOOD | {"a": value}])
    (bad,) = case.bad(publish={"url": "o", "path": path}, workspace="o/space")
    assert bad.reason.startswith("publish.path of output wide: ")
    assert reason in bad.reason


def test_every_reason_of_a_row_is_told(case: Case) -> None:
    """A row with three mistakes is fixed in one go."""
    case.rows(
        [
            {
                "variant_id": " a",
                "prompt": "",
                "seed": -1,
                "seconds": -2.0,
                "image": "gone.png",
                "logo": "lost.png",
            }
        ]
    )
    reasons = [bad.reason for bad in case.bad(layers=[{"image": {"url": "{{ logo }}"}}])]
    assert [reason.split(":")[0] for reason in reasons] == [
        "variant_id",
        "image",
        "seed",
        "seconds",
        "layers.0.image.url",
    ]


def test_duplicate_ids_name_both_rows(case: Case) -> None:
    """Which of the two is right only the manifest's owner knows."""
    case.rows([{"variant_id": name, "prompt": "x"} for name in ("a", "b", "a", "a")])
    words = "ids are unique; `manifest.group` makes such rows the scenes of one video"
    assert [str(bad) for bad in case.bad(publish={"url": "o", "path": "{{ variant_id }}-{{ row }}.mp4"})] == [
        f"row 3 (a): variant_id: row 1 has it already; {words}",
        f"row 4 (a): variant_id: row 1 has it already; {words}",
    ]


def test_a_number_and_its_text_are_one_id(case: Case) -> None:
    """Ids are compared as what is published, so 7 of one file and "7" of the next collide."""
    case.rows(pa.table({"variant_id": [7, 7], "prompt": ["x", "y"]}))
    assert "row 1 has it already" in str(case.bad()[0])


def test_colliding_paths_name_both_rows(case: Case) -> None:
    """The second would overwrite the first, every night, and nobody would notice."""
    case.rows(
        [
            {"variant_id": name, "prompt": "x", "slug": slug}
            for name, slug in zip("abc", ("s", "t", "s"), strict=True)
        ]
    )
    (bad,) = case.bad(publish={"url": "o", "path": "{{ slug }}.mp4"})
    assert str(bad) == "row 3 (c): publish.path: row 1 is published at s.mp4 too; make the path differ"


def test_matrix_values_that_share_a_path_collide(case: Case) -> None:
    """Two languages under one name: the path must have the locale in it."""
    case.rows([{"variant_id": "a", "prompt": "x"}])
    (bad,) = case.bad(matrix={"locale": ["de", "no"]})
    assert "the same row with other values of the matrix is published at a/wide.mp4 too" in bad.reason


def test_outputs_of_one_row_that_share_a_path_collide(case: Case) -> None:
    """``{{ aspect }}`` in the path tells aspects apart, not outputs."""
    case.rows([GOOD])
    outputs = [{"name": "a", "preset": "linkedin"}, {"name": "b", "preset": "youtube"}]
    (bad,) = case.bad(outputs=outputs, publish={"url": "o", "path": "{{ variant_id }}-{{ aspect }}.mp4"})
    assert "output a of the same row is published at good-16x9.mp4 too" in bad.reason


def test_a_bad_row_of_a_matrix_is_one_mistake_and_a_failure_a_video(case: Case) -> None:
    """Ten locales do not make one missing image ten mistakes, but ten videos are not made."""
    case.rows([{"variant_id": "a", "prompt": "x", "image": "gone.png"}])
    publish = {"url": "o", "path": "{{ variant_id }}-{{ locale }}.mp4"}
    bad = case.bad(matrix={"locale": ["de", "no", "se"]}, publish=publish)
    assert ([each.variant for each in bad], len(set(bad))) == ([0, 1, 2], 1)


def test_all_bad_rows_of_a_large_manifest_are_listed(case: Case) -> None:
    """The list is complete: a second run must not find what the first could have said."""
    case.rows([{"variant_id": i, "prompt": "x", "seed": -1 if i % 10 == 0 else 1} for i in range(3000)])
    assert [bad.row for bad in case.bad()] == list(range(1, 3001, 10))


def test_a_csv_tells_every_bad_number_with_its_row(case: Case) -> None:
    """One ``high`` in 20,000 rows is that row's mistake, told beside its others."""
    (case.folder / "rows.csv").write_text(
        "variant_id,prompt,seed,seconds,priority\n"
        "a,x,5.0,1.5,2.0\n"
        "b,x,five,long,high\n"
        "c,x,1.5,nan,1e3\n"
        'd,x,-1,"1,5",1.5\n'
        "e,x,,,\n"
    )
    found = case.read(manifest="rows.csv")
    assert [str(item) for item in found if isinstance(item, BadRow)] == [
        "row 2 (b): seed: `five` is not a whole number",
        "row 2 (b): seconds: `long` is not a number of seconds",
        "row 2 (b): priority: `high` is not a whole number",
        "row 3 (c): seed: `1.5` is not a whole number",
        "row 4 (d): seed: -1 is negative; a seed is 0 or more",
        "row 4 (d): priority: `1.5` is not a whole number",
    ]
    first, last = (item for item in found if isinstance(item, Variant))
    assert (first.scenes[0].clip("16x9").seed, first.priority, first.scenes[0].clip("16x9").num_frames) == (
        5,
        2,
        13,
    )
    assert (last.scenes[0].clip("16x9").seed, last.priority) == (0, 0)


def test_bytes_that_are_no_text_are_their_rows_trouble(case: Case) -> None:
    case.rows(
        pa.table({"variant_id": ["a", "b"], "prompt": ["x", "x"], "headline": [b"Sommer", b"f\xfcr Sie"]})
    )
    good, bad = case.read(layers=[{"text": {"value": "{{ headline }}"}}])
    assert isinstance(good, Variant)
    assert good.scenes[0].layers[0].text == "Sommer"  # type: ignore[union-attr]
    assert str(bad) == "row 2 (b): headline: `f\ufffdr Sie` is not UTF-8 text"
