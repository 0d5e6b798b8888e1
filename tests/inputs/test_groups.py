"""Several rows, one video: ``manifest.group``."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inputs.conftest import ENGINES, Case, job_dict
from tests.sounds import tone, write_sound
from wanflow.errors import BadRow, JobError, ManifestError
from wanflow.inputs import Inputs
from wanflow.job import Job, job_schema, load_job
from wanflow.manifest import Notes, read_variants
from wanflow.manifest.groups import MAX_SCENES, MadeRow, gather, join
from wanflow.model import TextLayer, Variant

BY_SLIDE = {"by": "LESSON", "order": "SLIDE"}


def grouped(group: Any = "LESSON", **more: Any) -> dict[str, Any]:
    return {"url": "rows.parquet", "group": group, **more}


def slides(*rows: tuple[Any, Any, str]) -> list[dict[str, Any]]:
    return [{"LESSON": lesson, "SLIDE": slide, "prompt": prompt} for lesson, slide, prompt in rows]


def shown(variants: list[Variant]) -> dict[str, list[str]]:
    """Id -> the prompts of its scenes, in order."""
    return {v.variant_id: [scene.clip("16x9").prompt for scene in v.scenes] for v in variants}


def reasons(bad: list[BadRow]) -> list[str]:
    return [str(each) for each in bad]


# -- rows come together ------------------------------------------------------------------------------------------


def test_rows_of_a_group_are_the_scenes_of_one_video(case: Case) -> None:
    """A lesson has ten slides, a row each; a warehouse gives rows in any order."""
    case.rows(slides(("b", 2, "b2"), ("a", 2, "a2"), ("b", 1, "b1"), ("a", 1, "a1"), ("a", 3, "a3")))
    variants = case.variants(manifest=grouped(BY_SLIDE))
    assert shown(variants) == {"b": ["b1", "b2"], "a": ["a1", "a2", "a3"]}
    assert [(v.row, v.outputs[0][1]) for v in variants] == [(1, "b/wide.mp4"), (2, "a/wide.mp4")]


def test_without_an_order_scenes_come_as_in_the_table(case: Case) -> None:
    """``group: LESSON`` is all that a table in the right order needs."""
    case.rows(slides(("a", 9, "one"), ("b", 1, "x"), ("a", 3, "two"), ("a", 5, "three")))
    assert shown(case.variants(manifest=grouped())) == {"a": ["one", "two", "three"], "b": ["x"]}


def test_each_scene_has_its_own_clip_layers_and_length(case: Case) -> None:
    """Every slide has its own picture, words and seconds; the seed of one is not another's."""
    case.rows([
        {"LESSON": "a", "prompt": "x", "title": "Hello", "seconds": 1.0, "seed": 1},
        {"LESSON": "a", "prompt": "y", "title": "", "seconds": 2.0, "seed": 2},
    ])  # fmt: skip
    (variant,) = case.variants(manifest=grouped(), layers=[{"text": {"value": "{{ title }}"}}])
    first, second = variant.scenes
    assert (first.clip("16x9").num_frames, first.clip("16x9").seed) == (9, 1)
    assert (second.clip("16x9").num_frames, second.clip("16x9").seed) == (17, 2)
    (text,) = first.layers
    assert isinstance(text, TextLayer)
    assert text.text == "Hello"
    assert second.layers == ()


def test_a_layer_starts_before_the_end_of_its_own_scene(case: Case) -> None:
    """At 1.5 s the second slide, which lasts one, is over, however long its video is."""
    rows = slides(("a", 1, "x"), ("a", 2, "y"))
    case.rows([rows[0] | {"seconds": 2.0}, rows[1] | {"seconds": 1.0}])
    layers = [{"text": {"value": "late", "start": 1.5}}]
    (bad,) = case.bad(manifest=grouped(), layers=layers)
    assert str(bad) == "row 2 (a): layers.0.text.start: 1.5 s is not before the end of the clip (1.125 s)"


def test_templates_know_the_groups_value_and_the_row(case: Case) -> None:
    """``variant_id`` is the video's, ``row`` the scene's, and the column keeps its own name too."""
    case.rows(slides(("a", 1, "x"), ("a", 2, "y")))
    (variant,) = case.variants(
        manifest=grouped(), layers=[{"text": {"value": "{{ variant_id }} {{ LESSON }} {{ row }}"}}]
    )
    texts = [layer.text for scene in variant.scenes for layer in scene.layers if isinstance(layer, TextLayer)]
    assert texts == ["a a 1", "a a 2"]


def test_the_most_urgent_row_decides_the_priority(case: Case) -> None:
    rows = slides(("a", 1, "x"), ("a", 2, "y"), ("b", 1, "z"))
    case.rows([row | {"priority": priority} for row, priority in zip(rows, (None, 7, -1), strict=True)])
    assert [v.priority for v in case.variants(manifest=grouped())] == [7, -1]


def test_the_same_intro_in_a_hundred_lessons_is_one_clip(case: Case) -> None:
    """What lessons share is rendered once."""
    case.rows([row for n in range(100) for row in slides((f"l{n}", 1, "intro"), (f"l{n}", 2, f"slide {n}"))])
    variants = case.variants(manifest=grouped(BY_SLIDE))
    assert len(variants) == 100
    assert len({clip for v in variants for _, clip in v.scenes[0].clips}) == 1
    assert len({clip for v in variants for scene in v.scenes for _, clip in scene.clips}) == 101


@settings(max_examples=30, deadline=None)
@given(
    places=st.lists(st.tuples(st.sampled_from("abc"), st.integers(-20, 20)), min_size=1, unique=True),
    chance=st.randoms(),
)
def test_the_order_of_the_table_does_not_matter(
    places: list[tuple[str, int]], chance: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An export is unsorted; the same rows are the same videos."""
    case = Case(tmp_path_factory.mktemp("case"))
    chance.shuffle(places)
    case.rows(slides(*((lesson, slide, f"{lesson} {slide}") for lesson, slide in places)))
    want: dict[str, list[str]] = {}
    for lesson, slide in sorted(places):
        want.setdefault(lesson, []).append(f"{lesson} {slide}")
    variants = case.variants(manifest=grouped(BY_SLIDE))
    assert shown(variants) == want
    assert [v.row for v in variants] == sorted(v.row for v in variants)


def test_without_a_group_rows_stream(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job without a group holds no rows: the first one is there before a later file is read."""
    case.rows([{"variant_id": "a", "prompt": "x"}], "rows/1.parquet")
    broken = case.rows([{"variant_id": "b", "prompt": "x" * 5000}], "rows/2.parquet")
    data = bytearray(broken.read_bytes())
    data[4:60] = bytes(56)
    broken.write_bytes(data)
    monkeypatch.setattr("wanflow.manifest.rows.CHUNK_ROWS", 1)
    for manifest, expected in (({"url": "rows"}, ["a"]), ({"url": "rows", "group": "variant_id"}, [])):
        made: list[str] = []
        with pytest.raises(ManifestError, match=r"2\.parquet"):  # noqa: PT012 - what came before it counts
            for item in read_variants(case.job(manifest=manifest), ENGINES, Inputs(case.folder)):
                made.append(item.variant_id)  # noqa: PERF401 - those before the error
        assert made == expected


# -- ids ---------------------------------------------------------------------------------------------------------


def test_rows_may_be_grouped_by_variant_id(case: Case) -> None:
    """The table says ``variant_id`` for the lesson already, or ``rename`` makes it so."""
    case.rows([{"variant_id": "a", "prompt": "x"}, {"variant_id": "a", "prompt": "y"}])
    assert shown(case.variants(manifest=grouped("variant_id"))) == {"a": ["x", "y"]}
    case.rows(slides(("a", 1, "x"), ("a", 2, "y")))
    renamed = grouped("variant_id", rename={"variant_id": "LESSON"})
    assert shown(case.variants(manifest=renamed)) == {"a": ["x", "y"]}


def test_a_column_variant_id_beside_the_groups_is_an_error_that_says_what_to_do(case: Case) -> None:
    """Two columns cannot both name the video, and neither is silently left aside."""
    case.rows([row | {"variant_id": f"s{i}"} for i, row in enumerate(slides(("a", 1, "x"), ("a", 2, "y")))])
    with pytest.raises(
        ManifestError, match="LESSON names the videos, but there is a column variant_id too"
    ) as e:
        case.read(manifest=grouped())
    assert "`manifest.rename: {scene_id: variant_id}`" in str(e.value)
    renamed = grouped(rename={"scene_id": "variant_id"})
    layers = [{"text": {"value": "{{ scene_id }}"}}]
    (variant,) = case.variants(manifest=renamed, layers=layers)
    assert [
        layer.text for scene in variant.scenes for layer in scene.layers if isinstance(layer, TextLayer)
    ] == [
        "s0",
        "s1",
    ]


def test_whole_numbers_name_videos_and_fractions_and_dates_do_not(case: Case) -> None:
    """The group's value is an id: it obeys the rules of ids, and the message says which column is meant."""
    case.rows(slides((7, 1, "x"), (7, 2, "y")))
    assert shown(case.variants(manifest=grouped())) == {"7": ["x", "y"]}
    case.rows(slides((7.5, 1, "x")))
    with pytest.raises(ManifestError, match="the column LESSON is double"):
        case.read(manifest=grouped())
    case.rows(slides((date(2026, 1, 31), 1, "x")))
    with pytest.raises(ManifestError, match="the column LESSON is date32"):
        case.read(manifest=grouped())


def test_rows_that_name_no_video_are_bad_one_by_one(case: Case) -> None:
    """An empty cell is no lesson of its own."""
    case.rows(slides((None, 1, "x"), ("a", 1, "y"), ("", 2, "z"), (" b", 1, "w")))
    found = case.read(manifest=grouped(BY_SLIDE))
    assert [str(item) for item in found if isinstance(item, BadRow)] == [
        "row 1: LESSON: is empty; every row needs one",
        "row 3: LESSON: is empty; every row needs one",
        "row 4: LESSON: ' b' has spaces around it or control characters in it",
    ]
    assert shown([item for item in found if isinstance(item, Variant)]) == {"a": ["y"]}


@pytest.mark.parametrize(("group", "place"), [
    ({"by": "LESON"}, r"manifest\.group\.by: .*there is no column `LESON`; did you mean `LESSON`"),
    ({"by": "LESSON", "order": "SLID"}, r"manifest\.group\.order: there is no column `SLID`; did you mean `SLIDE`"),
])  # fmt: skip
def test_a_column_that_is_not_there_is_told(case: Case, group: dict[str, str], place: str) -> None:
    case.rows(slides(("a", 1, "x")))
    with pytest.raises(ManifestError, match=place):
        case.read(manifest=grouped(group))


# -- order -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "expected"), [
    (["9", "10", "1"], ["1", "9", "10"]),
    (["1.5", "1", "2,5"], ["1", "1.5", "2,5"]),
    (["1.10", "1.9", "2.1"], ["1.9", "1.10", "2.1"]),
    (["4", "10", "3a", "3", "2"], ["2", "3", "3a", "4", "10"]),
    (["Slide 10", "Slide 2"], ["Slide 2", "Slide 10"]),
    (["b", "c", "a"], ["a", "b", "c"]),
    (["-1", "0", "9007199254740993", "9007199254740992"], ["-1", "0", "9007199254740992", "9007199254740993"]),
])  # fmt: skip
def test_texts_are_ordered_as_people_number_slides(case: Case, order: list[str], expected: list[str]) -> None:
    """CSV has text; and a slide 3a, put in between, must not bring 10 before 2."""
    lines = ["LESSON;SLIDE;prompt", *(f"a;{place};{place}" for place in order)]
    (case.folder / "rows.csv").write_text("\n".join(lines))
    variants = case.variants(manifest=grouped(BY_SLIDE, url="rows.csv"))
    assert shown(variants) == {"a": expected}


def test_numbers_are_ordered_by_their_value(case: Case) -> None:
    case.rows(slides(("a", 1.5, "x"), ("a", 1.25, "y"), ("a", -1.0, "z")))
    assert shown(case.variants(manifest=grouped(BY_SLIDE))) == {"a": ["z", "y", "x"]}


def test_a_word_among_numbers_is_its_rows_trouble(case: Case) -> None:
    """``priority`` is a number in CSV, too; the plan must tell the row, and not break off."""
    (case.folder / "rows.csv").write_text("LESSON,priority,prompt\na,1,x\na,two,y\na,3,z\nb,1,x\n")
    found = case.read(manifest=grouped({"by": "LESSON", "order": "priority"}, url="rows.csv"))
    assert [item.row for item in found if isinstance(item, BadRow)] == [2]
    assert shown([item for item in found if isinstance(item, Variant)]) == {"b": ["x"]}


def test_order_may_be_a_date(case: Case) -> None:
    """A diary's days."""
    case.rows(slides(("a", date(2026, 2, 1), "second"), ("a", date(2026, 1, 31), "first")))
    assert shown(case.variants(manifest=grouped(BY_SLIDE))) == {"a": ["first", "second"]}


def test_two_scenes_at_one_place_and_a_scene_without_one_are_bad(case: Case) -> None:
    """Which comes first would be chance."""
    rows = slides(("a", "2", "x"), ("a", "02", "y"), ("a", "1", "z"), ("b", "1", "x"), ("b", None, "y"))
    case.rows([*rows, *slides(("c", "1", "fine"))])
    found = case.read(manifest=grouped(BY_SLIDE))
    assert reasons([item for item in found if isinstance(item, BadRow)]) == [
        "row 2 (a): SLIDE: row 1 has 2 already; each scene has its own place",
        "row 5 (b): SLIDE: is empty; every scene of a video needs its place",
    ]
    assert shown([item for item in found if isinstance(item, Variant)]) == {"c": ["fine"]}


def test_a_list_is_no_place(case: Case) -> None:
    case.rows(slides(("a", [1, 2], "x")))
    (bad,) = case.bad(manifest=grouped(BY_SLIDE))
    assert bad.reason.startswith("SLIDE: a list has no text of its own")


# -- what a video has one of -------------------------------------------------------------------------------------


def test_rows_of_a_video_are_published_at_one_path(case: Case) -> None:
    """The template of the path has the slide in it: the message says which rows, and what to write."""
    case.rows(slides(("b", 9, "w"), ("b", 8, "v"), ("a", 1, "x"), ("a", 2, "y")))
    bad = case.bad(manifest=grouped(BY_SLIDE), publish={"url": "out", "path": "{{ LESSON }}/{{ SLIDE }}.mp4"})
    assert reasons(bad) == [
        "row 2 (b): publish.path: gives b/9.mp4 in row 1 and b/8.mp4 in row 2; a video has one; use {{ variant_id }}",
        "row 4 (a): publish.path: gives a/1.mp4 in row 3 and a/2.mp4 in row 4; a video has one; use {{ variant_id }}",
    ]


def test_rows_of_a_video_have_the_same_aspects(case: Case) -> None:
    """A story that turns into a landscape half way is no story."""
    rows = slides(("a", 1, "x"), ("a", 2, "y"), ("a", 3, "z"))
    case.rows([row | {"aspect": aspect} for row, aspect in zip(rows, ("9x16", "16x9", "9x16"), strict=True)])
    outputs = [{"name": "tall", "preset": "instagram-story"}, {"name": "wide", "preset": "linkedin"}]
    assert reasons(case.bad(manifest=grouped(), outputs=outputs)) == [
        "row 2 (a): outputs: are tall from 9x16 in row 1 and wide from 16x9 in row 2; give all rows of a video the "
        "same aspects"
    ]


def test_rows_of_a_video_carry_the_same(case: Case) -> None:
    """Results have one row a video: which of two segments would it show?"""
    rows = slides(("a", 1, "x"), ("a", 2, "y"))
    case.rows([rows[0] | {"segment": "gold", "lang": "de"}, rows[1] | {"segment": None, "lang": "de"}])
    (bad,) = case.bad(manifest=grouped(), publish={"url": "out", "carry": ["segment", "lang", "LESSON"]})
    assert str(bad) == (
        "row 2 (a): publish.carry: segment is gold in row 1 and nothing in row 2; a video has one; make it the same in "
        "all its rows, or leave it out"
    )


def test_music_that_differs_is_told_by_what_differs(case: Case) -> None:
    """One piece lies under the whole video; a voice is each scene's own."""
    write_sound(case.folder / "calm.wav", tone(1))
    write_sound(case.folder / "loud.wav", tone(1.5))
    rows = slides(("a", 1, "x"), ("a", 2, "y"), ("b", 1, "x"), ("b", 2, "y"), ("c", 1, "x"), ("c", 2, "y"))
    music = ["calm.wav", "loud.wav", "calm.wav", "", "calm.wav", "calm.wav"]
    voices = ["calm.wav", "", "calm.wav", "", "calm.wav", "loud.wav"]
    case.rows([row | {"m": m, "v": v} for row, m, v in zip(rows, music, voices, strict=True)])
    sound = {"music": {"url": "{{ m }}"}, "voice": {"url": "{{ v }}"}}
    found = case.read(manifest=grouped(BY_SLIDE), sound=sound)
    words = "a video has one; make it the same in all its rows"
    assert reasons([item for item in found if isinstance(item, BadRow)]) == [
        f"row 2 (a): music.source: is calm.wav in row 1 and loud.wav in row 2; {words}",
        f"row 4 (b): music: is calm.wav in row 3 and nothing in row 4; {words}",
    ]
    (variant,) = (item for item in found if isinstance(item, Variant))
    assert [scene.voice and scene.voice.source.url.rpartition("/")[2] for scene in variant.scenes] == [
        "calm.wav",
        "loud.wav",
    ]
    assert variant.music is not None


@dataclass(frozen=True, slots=True)
class Later(Variant):
    """A Variant of a later wanflow."""

    mood: str = field(default="")


def test_whatever_a_variant_has_must_agree_but_its_rows_scenes_and_priority(case: Case) -> None:
    """A field that is added to Variant is compared without anybody thinking of it."""
    case.rows(slides(("a", 1, "x")))
    (variant,) = case.variants(manifest=grouped())
    given = {f.name: getattr(variant, f.name) for f in fields(Variant)}

    def rows(*moods: str) -> list[MadeRow]:
        made = [Later(**(given | {"row": n, "priority": n}), mood=mood) for n, mood in enumerate(moods, 1)]
        return [MadeRow(0, later.row, {"variant_id": "a"}, later) for later in made]

    (bad,) = join(rows("calm", "loud"), "LESSON", None)
    assert str(bad) == (
        "row 2 (a): mood: is calm in row 1 and loud in row 2; a video has one; make it the same in all its rows"
    )
    (joined,) = join(rows("calm", "calm"), "LESSON", None)
    assert isinstance(joined, Later)
    assert (joined.row, joined.priority, joined.mood, len(joined.scenes)) == (1, 2, "calm", 2)


def test_a_column_that_is_empty_in_all_rows_of_a_video_agrees(case: Case) -> None:
    """Spark and polars write NaN for it, and no NaN is another's equal."""
    nan = float("nan")
    case.rows([row | {"score": nan} for row in slides(("a", 1, "x"), ("a", 2, "y"))])
    assert len(case.variants(manifest=grouped(), publish={"url": "out", "carry": ["score"]})) == 1


def test_a_delta_has_no_groups(case: Case) -> None:
    """A warehouse that exports the slides that changed would replace lessons by fragments of them."""
    with pytest.raises(JobError, match=r"manifest\.group: a delta may have some scenes of a video"):
        case.job(manifest=grouped(mode="delta"))


# -- bad rows ----------------------------------------------------------------------------------------------------


def test_a_bad_row_makes_its_video_impossible_and_no_other(case: Case) -> None:
    """A lesson without its third slide must not be published; every bad row is told at once, once."""
    rows = slides(("a", 1, "x"), ("b", 1, "x"), ("a", 2, ""), ("a", 3, "z"), ("b", 2, "y"), ("a", 4, "w"))
    case.rows([row | {"seed": seed} for row, seed in zip(rows, (0, 0, 0, -1, 0, 0), strict=True)])
    found = case.read(manifest=grouped(BY_SLIDE))
    assert reasons([item for item in found if isinstance(item, BadRow)]) == [
        "row 3 (a): prompt: is empty, and there is no image either",
        "row 4 (a): seed: -1 is negative; a seed is 0 or more",
    ]
    assert shown([item for item in found if isinstance(item, Variant)]) == {"b": ["x", "y"]}


def test_a_column_that_makes_one_video_of_everything_is_told(case: Case) -> None:
    """Grouped by the course in place of the lesson: ffmpeg would open a thousand clips at once."""
    case.rows(slides(*(("course", n, "x") for n in range(MAX_SCENES + 1)), ("fine", 1, "x")))
    found = case.read(manifest=grouped(BY_SLIDE))
    assert reasons([item for item in found if isinstance(item, BadRow)]) == [
        "row 1 (course): LESSON: 101 rows have this value, but a video has at most 100 scenes; is it the column to "
        "group by?"
    ]
    assert shown([item for item in found if isinstance(item, Variant)]) == {"fine": ["x"]}


def test_two_videos_at_one_path_are_told(case: Case) -> None:
    """Lessons of a course whose path has the course alone."""
    case.rows([row | {"course": "c"} for row in slides(("a", 1, "x"), ("a", 2, "y"), ("b", 1, "z"))])
    (bad,) = case.bad(manifest=grouped(), publish={"url": "out", "path": "{{ course }}.mp4"})
    assert str(bad) == "row 3 (b): publish.path: row 1 is published at c.mp4 too; make the path differ"


# -- where, only, limit ------------------------------------------------------------------------------------------


def test_only_chooses_whole_videos(case: Case) -> None:
    """`run --only "SLIDE = 2"` to look at what was changed must not publish lessons of one slide."""
    case.rows(slides(("a", 1, "x"), ("b", 1, "y"), ("a", 2, "z"), ("c", 1, "x")))
    assert shown(case.variants(manifest=grouped(BY_SLIDE), only="SLIDE = 2")) == {"a": ["x", "z"]}
    assert shown(case.variants(manifest=grouped(BY_SLIDE), only="prompt = 'x'")) == {
        "a": ["x", "z"],
        "c": ["x"],
    }
    both = case.variants(
        manifest=grouped(BY_SLIDE),
        only="SLIDE = 2 and lang = 'de'",
        matrix={"lang": ["de", "no"]},
        publish={"url": "out", "path": "{{ variant_id }}-{{ lang }}.mp4"},
    )
    assert [path for variant in both for _, path in variant.outputs] == ["a-de.mp4"]


def test_conditions_drop_scenes(case: Case) -> None:
    """A draft slide is left out; ``variant_id`` and the column's own name are one in a condition."""
    rows = slides(("a", 1, "x"), ("a", 2, "y"), ("b", 1, "z"))
    case.rows([row | {"draft": draft} for row, draft in zip(rows, (True, False, False), strict=True)])
    where = grouped(where="draft = false")
    assert shown(case.variants(manifest=where)) == {"a": ["y"], "b": ["z"]}
    for only in ("LESSON = 'a'", "variant_id = 'a'"):
        assert shown(case.variants(manifest=where, only=only)) == {"a": ["y"]}


def test_limit_counts_videos_and_cuts_none(case: Case) -> None:
    """Ten lessons before a thousand, whole ones; a bad one counts."""
    case.rows(slides(("a", 1, "x"), ("b", 1, ""), ("c", 1, "z"), ("a", 2, "y"), ("b", 2, "w")))
    found = case.read(manifest=grouped(BY_SLIDE), limit=2)
    assert shown([item for item in found if isinstance(item, Variant)]) == {"a": ["x", "y"]}
    assert [item.row for item in found if isinstance(item, BadRow)] == [2]


def test_inputs_beyond_the_limit_are_not_read(case: Case) -> None:
    """``--limit 1`` of a thousand lessons must not fetch the pictures of all."""
    for name in ("a.png", "b.png"):
        case.picture(name)
    rows = slides(("a", 1, "x"), ("b", 1, "y"))
    case.rows([row | {"image": f"{row['LESSON']}.png"} for row in rows])
    read: list[str] = []

    class Watched(Inputs):
        def prefetch_images(self, urls: Any) -> None:
            read.extend(urls)
            super().prefetch_images(urls)

    list(read_variants(case.job(manifest=grouped()), ENGINES, Watched(case.folder), limit=1))
    assert read == ["a.png"]


# -- matrix ------------------------------------------------------------------------------------------------------


def test_a_video_has_rows_of_the_same_matrix_values(case: Case) -> None:
    """Three languages of a lesson are three videos, each with all slides."""
    case.rows(slides(("a", 2, "y"), ("b", 1, "z"), ("a", 1, "x")))
    variants = case.variants(
        manifest=grouped(BY_SLIDE),
        matrix={"locale": ["de", "no"]},
        clip={"prompt": "{{ prompt }} {{ locale }}"},
        publish={"url": "out", "path": "{{ variant_id }}/{{ locale }}.mp4"},
    )
    assert [(v.outputs[0][1], *(s.clip("16x9").prompt for s in v.scenes)) for v in variants] == [
        ("a/de.mp4", "x de", "y de"),
        ("a/no.mp4", "x no", "y no"),
        ("b/de.mp4", "z de"),
        ("b/no.mp4", "z no"),
    ]


def test_matrix_values_that_are_equal_to_python_are_different_videos() -> None:
    """1, true and "1" are three values of a YAML list."""
    rows = [(row, {"variant_id": "a", "x": x}, ()) for row in (1, 2) for x in (1, True, "1", 1.0)]
    assert [video for video, *_ in gather(rows, ("x",))] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_limit_counts_videos_of_a_matrix(case: Case) -> None:
    case.rows(slides(("a", 1, "x"), ("b", 1, "z"), ("a", 2, "y")))
    path = {"url": "out", "path": "{{ variant_id }}/{{ locale }}.mp4"}
    matrix = {"locale": ["de", "no"]}
    variants = case.variants(manifest=grouped(), matrix=matrix, publish=path, limit=3)
    assert [(v.outputs[0][1], len(v.scenes)) for v in variants] == [
        ("a/de.mp4", 2),
        ("a/no.mp4", 2),
        ("b/de.mp4", 1),
    ]


def test_videos_come_in_the_order_of_their_first_rows() -> None:
    """A condition leaves the Norwegian video only its last slide: its row is the third, and so is its place."""
    rows = [(1, "a", "de"), (2, "b", "de"), (2, "b", "no"), (3, "a", "de"), (3, "a", "no")]
    found = gather([(row, {"variant_id": name, "x": x}, ()) for row, name, x in rows], ("x",))
    assert [(video, row) for video, row, *_ in found] == [(0, 1), (0, 3), (1, 2), (2, 2), (3, 3)]


def test_the_matrix_repeats_reasons_only_to_tell_which_videos_fail(case: Case) -> None:
    """A bad slide in eleven languages is one bad slide; that the path lacks the language is another's words."""
    case.rows(slides(("a", 1, "x"), ("a", 2, "")))
    path = {"url": "out", "path": "{{ variant_id }}/{{ locale }}.mp4"}
    bad = case.bad(manifest=grouped(), matrix={"locale": ["de", "no", "en"]}, publish=path)
    assert [each.variant for each in bad] == [0, 1, 2]
    assert reasons(list(set(bad))) == ["row 2 (a): prompt: is empty, and there is no image either"]
    bad = case.bad(manifest=grouped(), matrix={"locale": ["de", "no"]}, clip={"prompt": "x"})
    words = "publish.path: the same row with other values of the matrix is published at a/wide.mp4 too"
    assert reasons(bad) == [f"row {row} (a): {words}; make the path differ" for row in (1, 2)]


def test_a_gap_counts_its_rows_once_and_names_the_first(case: Case) -> None:
    """The plan's note says in how many rows a name is missing: not times the languages, not the last slide first."""
    case.rows([row | {"name": ""} for row in slides(("b", 2, "x"), ("a", 1, "y"), ("b", 1, "z"))])
    notes = Notes()
    job = case.job(
        manifest=grouped(BY_SLIDE),
        matrix={"locale": ["de", "no"]},
        layers=[{"text": {"value": "Hello {{ name }}, {{ locale }}"}}],
        publish={"url": "out", "path": "{{ variant_id }}/{{ locale }}.mp4"},
    )
    assert all(isinstance(v, Variant) for v in read_variants(job, ENGINES, Inputs(case.folder), notes=notes))
    assert list(notes.gaps()) == [("name", "layers.0.text.value", 3, 1)]


# -- the job -----------------------------------------------------------------------------------------------------


def test_both_forms_are_in_the_schema_and_a_misspelt_key_is_told(write_job: Callable[[str], Path]) -> None:
    """An editor paints a good job green, and a bad one red."""
    validator = jsonschema.Draft202012Validator(job_schema())
    for group in ("LESSON", {"by": "LESSON"}, BY_SLIDE, None):
        data = job_dict(manifest=grouped(group))
        assert [e.message for e in validator.iter_errors(data)] == []
        Job.from_dict(data)
    wrong = job_dict(manifest=grouped({"by": "LESSON", "ordr": "SLIDE"}))
    assert list(validator.iter_errors(wrong))
    with pytest.raises(JobError, match=r"manifest\.group\.ordr: unknown key; did you mean `order`"):
        Job.from_dict(wrong)
    with pytest.raises(JobError, match=r"manifest\.group\.by: is missing; Column whose value"):
        Job.from_dict(job_dict(manifest=grouped({"order": "SLIDE"})))
    with pytest.raises(JobError, match=r"group: unknown key; did you mean `manifest\.group`"):
        Job.from_dict(job_dict(group="LESSON"))


def test_it_can_be_set_for_one_run(write_job: Callable[[str], Path]) -> None:
    path = write_job(
        "wanflow: 1\nname: x\nmanifest: {url: m.csv}\nengine: {checkpoint: pocket}\npublish: {url: out}\n"
    )
    short = load_job(path, sets=["manifest.group=LESSON"]).manifest.group
    assert short is not None
    assert (short.by, short.order) == ("LESSON", None)
    full = load_job(path, sets=["manifest.group={by: LESSON, order: SLIDE}"]).manifest.group
    assert full is not None
    assert (full.by, full.order) == ("LESSON", "SLIDE")


def test_a_partitioned_table_is_grouped_by_a_folder(case: Case) -> None:
    """``lesson=a/part.parquet``: the value is the folder's."""
    case.rows(pa.table({"prompt": ["x", "y"]}), "rows/lesson=a/part.parquet")
    case.rows(pa.table({"prompt": ["z"]}), "rows/lesson=b/part.parquet")
    assert shown(case.variants(manifest={"url": "rows", "group": "lesson"})) == {"a": ["x", "y"], "b": ["z"]}
