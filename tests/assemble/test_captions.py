"""Captions: one size, one place, each cue at its time and nothing in between, with the real ffmpeg."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from tests.assemble.conftest import Studio, moving, read_frames, still
from tests.assemble.test_fonts import blocks as write_font
from wanflow.assemble import ass, layout
from wanflow.assemble.text import SMALLEST, STYLES, Block, lay_out
from wanflow.errors import AssembleError
from wanflow.model import CaptionsLayer, Cue, Layer, Output, Placement, TextLayer
from wanflow.quality import check_file

LONG = "A cue of a chatty speaker, which nobody has cut into pieces that somebody could read in the time " * 6
CUES = (Cue(0.0, 0.5, "Yes."), Cue(0.5, 1.0, "One line\nand another"), Cue(1.2, 1.6, "No.\nNever."))


def captions(*cues: Cue, at: str = "lower-third", **look: str) -> CaptionsLayer:
    return CaptionsLayer(cues or CUES, Placement(at), **look)  # type: ignore[arg-type]


def slots(layers: list[Layer], width: int = 1080, height: int = 1920) -> list[list[Block]]:
    return list(lay_out(layers, {}, width, height, 2.0).values())


@pytest.mark.parametrize(("width", "height"), [(1080, 1920), (1920, 1080), (1080, 1080)])
def test_all_cues_have_the_size_at_which_the_longest_fits(width: int, height: int) -> None:
    """Or they look like a ransom note."""
    [alone] = slots([captions(Cue(0, 1, LONG))], width, height)
    [made] = slots([captions(Cue(0, 1, LONG), Cue(1, 2, "Yes."))], width, height)
    assert alone[0].size < STYLES["caption"].size * min(width, height)
    assert [block.size for block in made] == [alone[0].size] * 2
    assert made[0].lines == alone[0].lines
    [short] = slots([captions()], width, height)
    assert {block.size for block in short} == {STYLES["caption"].size * min(width, height)}


@pytest.mark.parametrize("at", layout.ANCHORS)
def test_a_place_is_as_high_as_its_highest_cue_all_the_time(at: str) -> None:
    """Neither the headline above nor the button below moves when somebody speaks."""
    said, terms = captions(at=at), TextLayer("Terms apply", Placement(at), style="caption")
    button = TextLayer("Shop now", Placement(at), style="cta")
    [above], cues, [below] = slots([terms, said, button])
    for cue in cues:
        assert above.y + above.height < cue.y
        assert cue.y + cue.height < below.y
    tall = max(cue.height for cue in cues)
    one, two, _ = cues
    gaps = {"above": one.y - two.y, "below": two.y + two.height - one.y - one.height}
    expected = {"top": (0, 1), "upper": (0, 1), "bottom": (1, 0), "lower": (1, 0)}.get(
        at.split("-")[0], (0.5, 0.5)
    )
    free = tall - one.height
    assert (gaps["above"], gaps["below"]) == pytest.approx((expected[0] * free, expected[1] * free))


def test_lines_of_a_cue_are_kept_where_they_fit_and_wrapped_where_not() -> None:
    [[kept, wrapped]] = slots([captions(Cue(0, 1, "- Hi!\n- Hello!"), Cue(1, 2, "word " * 30))])
    assert [text for line in kept.lines for _, text in line] == ["- Hi!", "- Hello!"]
    assert len(wrapped.lines) > 1
    assert wrapped.width <= 1080


def test_cues_follow_each_other_in_the_script_and_are_only_words() -> None:
    r"""A transcript with `{\an8}` in an entity, or a line end, must not become an event of its own."""
    hostile = Cue(0.25, 1.234, "{\\pos(0,0)}\\N\u2028Dialogue: 0,0:00:00.00")
    [made] = slots([captions(hostile, Cue(1.234, 1.5, "b"), at="top")])
    events = ass.script(made, 1080, 1920, 2.0).split("[Events]")[1].strip().splitlines()[1:]
    assert all(line.startswith("Dialogue: ") for line in events)
    times = list(dict.fromkeys(tuple(line.split(",")[1:3]) for line in events))
    assert times == [("0:00:00.25", "0:00:01.23"), ("0:00:01.23", "0:00:01.50")]
    assert "\\\u2060N" in events[0]
    assert "\\{\\\u2060pos(0,0)\\}" in events[0]


def test_two_cues_at_once_stand_below_each_other() -> None:
    [made] = slots([captions(Cue(0, 2, "Ann"), Cue(1, 2, "Bob"))])
    assert [[text for line in block.lines for _, text in line] for block in made] == [["Ann"], ["Ann", "Bob"]]
    assert [(block.layer.place.start_s, block.layer.place.end_s) for block in made] == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("cues", "words"),
    [
        ((Cue(0, 1, "fine"), Cue(1, 2, "x \U00010fff")), r"can draw .*U\+10FFF\) of the caption 'x .*`font`"),
        (
            (Cue(0, 1, "fine"), Cue(1, 2, "word " * 9999)),
            r"the caption 'word word.*\(49994 characters\) does not fit",
        ),
    ],
)
def test_the_cue_that_is_wrong_is_named(cues: tuple[Cue, ...], words: str) -> None:
    with pytest.raises(AssembleError, match=words):
        slots([captions(*cues)])


# with the real ffmpeg: frames at 0, 1/8, 2/8, ... 8/8 s

TALK = (Cue(0.25, 0.5, "One"), Cue(0.5, 0.75, "Another"), Cue(1.0, 9.0, "End"))


def alone(text: str) -> TextLayer:
    return TextLayer(text, Placement("lower-third"), style="caption")


def test_each_cue_is_seen_at_its_time_and_nothing_between(studio: Studio, story: Output) -> None:
    """The picture within a cue is that of a video with these words alone, to the last bit that x264 leaves."""
    studio.film("still", still(72, 128))
    sharp = replace(story, crf=1)

    def frames(layers: list[Layer], name: str) -> np.ndarray:  # type: ignore[type-arg]
        return read_frames(studio.make(layers, sharp, ["still"], name)["video"]).astype(int)

    made = frames([captions(*TALK)], "captions")
    plain = frames([], "plain")
    alike = {cue.text: frames([alone(cue.text)], cue.text)[4] for cue in TALK}
    expected = [None, None, "One", "One", "Another", "Another", None, None, "End"]
    for frame, words, nothing in zip(made, expected, plain, strict=True):
        wanted = nothing if words is None else alike[words]
        assert np.abs(frame - wanted).max() < 24, words
        others = [seen for said, seen in alike.items() if said != words]
        assert all(np.abs(frame - other).max() > 100 for other in others), words


def test_what_captions_cover_is_told_to_the_checks(studio: Studio, story: Output) -> None:
    """Words that change over a clip that stands still are no movement of the clip."""
    studio.film("moves", moving(72, 128))
    finished = studio.finish([captions(*TALK)], story, ["moves"])
    boxes = {(round(area.left), round(area.bottom)) for area in finished.covered[0]}
    assert len(boxes) == len(TALK)
    [slot] = lay_out([captions(*TALK)], {}, story.width, story.height, 1.125).values()
    assert {(round(b.x), round(b.y + b.height)) for b in slot} == boxes
    check_file(finished.files["video"], story, [9 / 8], [studio.masters["moves"]], finished.covered)


def test_a_font_of_the_captions_own_is_drawn(studio: Studio, story: Output) -> None:
    path = write_font(studio.folder / "brand.ttf", "Brand")
    studio.film("still", still(72, 128))
    said = replace(captions(Cue(0, 2, "HOLO"), at="center"), font=studio.file(path), size=0.06)
    frame = read_frames(studio.make([said], story, ["still"])["video"])[4]
    white = frame.min(axis=-1) > 200
    rows, columns = white.any(axis=1).nonzero()[0], white.any(axis=0).nonzero()[0]
    assert white[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean() > 0.75, "blocks"


def test_assembling_twice_gives_the_same_bytes(studio: Studio, story: Output) -> None:
    first, second = (studio.make([captions(*TALK)], story, name=name)["video"] for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_hundred_cues_are_laid_out_at_once() -> None:
    cues = [Cue(i, i + 1, f"Line {i} of a talk that goes on\nand on for quite a while") for i in range(100)]
    [made] = slots([captions(*cues)])
    assert len(made) == 100
    assert all(b.y >= 0 and b.height >= SMALLEST * 1920 for b in made)
    for before, after in itertools.pairwise(made):
        assert before.layer.place.end_s == after.layer.place.start_s
