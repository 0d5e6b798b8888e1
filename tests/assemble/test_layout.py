"""Places: where `at: bottom` is on each shape of picture."""

from __future__ import annotations

import pytest

from wanflow.assemble import layout
from wanflow.errors import AssembleError
from wanflow.model import Placement


@pytest.mark.parametrize("at", layout.ANCHORS)
@pytest.mark.parametrize(("width", "height"), [(1080, 1920), (1080, 1080), (1920, 1080)])
def test_every_place_keeps_a_box_in_the_picture(at: str, width: int, height: int) -> None:
    for box in ((100.0, 50.0), (float(width), 40.0), (width * 1.0, height * 1.0)):
        x, y = layout.position(Placement(at), *box, width, height)
        assert 0 <= x <= width - box[0]
        assert 0 <= y <= height - box[1]


def test_story_keeps_words_and_logos_clear_of_the_players_buttons() -> None:
    """Instagram draws the account above and the reply field below: a logo there is covered on every phone."""
    top = layout.position(Placement("top"), 100, 100, 1080, 1920)[1]
    bottom = layout.position(Placement("bottom"), 100, 100, 1080, 1920)[1] + 100
    assert top >= 250
    assert bottom <= 1920 - 340
    assert layout.position(Placement("top", margin=0.0), 100, 100, 1080, 1920)[1] == 0, (
        "margin 0 is full bleed"
    )


def test_wide_picture_has_no_such_zone() -> None:
    assert layout.position(Placement("top-left"), 10, 10, 1920, 1080) == (54, 54)


def test_lower_third_lies_in_the_lower_third() -> None:
    y = layout.position(Placement("lower-third"), 400, 100, 1920, 1080)[1]
    assert 1080 * 2 / 3 < y < 1080 - 100


def test_image_fits_into_what_it_is_given_and_keeps_its_shape() -> None:
    assert layout.fit_image(Placement("center", height=0.1), 400, 100, 1000, 1000) == (400, 100)
    assert layout.fit_image(Placement("center", width=0.1, height=0.1), 400, 100, 1000, 1000) == (100, 25)
    assert layout.fit_image(Placement("center", height=1.0), 4000, 1000, 1000, 1000) == (1000, 250), (
        "never wider"
    )


def test_unknown_place_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(AssembleError, match="did you mean 'lower-third'"):
        layout.check_anchor("lower-thrid")
