"""Presets: what a job's `preset: instagram-story, height: 960` turns into."""

from __future__ import annotations

import pytest

from wanflow.assemble.presets import PRESETS, aspect_ratio, resolve
from wanflow.errors import JobError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_the_shape_that_it_says(name: str) -> None:
    """A table with a typo would publish squashed ads to one platform only, and nobody would look there."""
    preset = PRESETS[name]
    output = resolve(name, "x", aspect=preset.aspect or "16x9")
    assert output.width / output.height == pytest.approx(aspect_ratio(output.aspect), rel=0.01)
    assert output.width % 2 == output.height % 2 == 0


def test_unknown_preset_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(
        JobError, match=r"outputs\.story: .*'instagram-stroy'.*did you mean 'instagram-story'"
    ):
        resolve("instagram-stroy", "story")


@pytest.mark.parametrize(
    ("width", "height", "size"), [(540, None, (540, 960)), (None, 961, (540, 960)), (600, 700, (600, 700))]
)
def test_one_side_alone_scales_the_other_and_both_stay_even(
    width: int | None, height: int | None, size: tuple[int, int]
) -> None:
    """yuv420p has one colour sample for two by two pixels; an odd side fails in the encoder, hours into a run."""
    output = resolve("instagram-story", "story", width=width, height=height)
    assert (output.width, output.height) == size


@pytest.mark.parametrize(
    ("aspect", "size"), [("9x16", (404, 720)), ("16x9", (720, 404)), ("1x1", (720, 720))]
)
def test_preview_keeps_the_aspect_of_its_clips(aspect: str, size: tuple[int, int]) -> None:
    output = resolve("preview", "draft", aspect=aspect)
    assert (output.width, output.height) == size


def test_preset_without_an_aspect_asks_which_clips_it_is_made_from() -> None:
    with pytest.raises(JobError, match=r"say which with `from: 9x16`"):
        resolve("preview", "draft")


def test_job_can_change_every_number_of_a_preset() -> None:
    output = resolve("linkedin", "wide", "1x1", 300, 200, 24, 30, "contain", interpolate=True, poster=False)
    assert (output.aspect, output.width, output.height, output.fps, output.crf) == ("1x1", 300, 200, 24.0, 30)
    assert (output.fit, output.interpolate, output.poster) == ("contain", True, False)


@pytest.mark.parametrize(
    "wrong", [{"fps": 0.5}, {"fps": 500}, {"crf": 52}, {"width": 4, "height": 4}, {"height": 9000}]
)
def test_numbers_that_no_player_takes_are_refused_before_anything_is_rendered(wrong: dict[str, int]) -> None:
    with pytest.raises(JobError, match=r"outputs\.story"):
        resolve("instagram-story", "story", **wrong)  # type: ignore[arg-type]
