"""Where layers lie: names of places turned into pixels. Pure numbers; knows neither fonts nor ffmpeg.

Tall outputs (9:16) are watched under the buttons and captions of story and reel players, so layers that hug the top or
the bottom keep out of that zone, unless their margin is 0 (full bleed). Shares: 250 of 1920 pixels at the top and 340
at the bottom, which is what Meta's Ads Guide asks to leave free of text and logos in stories.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from wanflow.errors import AssembleError
from wanflow.model import Placement

#: Every place that a layer can name.
ANCHORS = (
    "top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right",
    "lower-third", "upper-third",
)  # fmt: skip

TALL = 1.6
SAFE_TOP = 250 / 1920
SAFE_BOTTOM = 340 / 1920


@dataclass(frozen=True, slots=True)
class Area:
    """A part of a picture, pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


def free_area(width: int, height: int, margin: float) -> Area:
    """What a layer may use: the picture minus ``margin`` (share of the shorter side) and, on tall outputs,
    minus the player's own buttons.
    """
    edge = margin * min(width, height)
    top = bottom = edge
    if margin > 0 and height / width >= TALL:
        top, bottom = max(edge, SAFE_TOP * height), max(edge, SAFE_BOTTOM * height)
    return Area(edge, top, width - edge, height - bottom)


def align(at: str) -> str:
    """``left``, ``center`` or ``right``: the side that lines of a text share."""
    check_anchor(at)
    return "left" if at.endswith("left") else "right" if at.endswith("right") else "center"


def share_above(at: str) -> float:
    """Of what a lower text leaves free of a place, which its highest one decides: the share that lies above it."""
    return 0.0 if at.startswith(("top", "upper")) else 1.0 if at.startswith(("bottom", "lower")) else 0.5


def position(
    place: Placement, box_width: float, box_height: float, width: int, height: int
) -> tuple[float, float]:
    """Top left corner of a box of this size at ``place``, pixels; it stays in the ``width`` x ``height`` picture."""
    area = free_area(width, height, place.margin)
    side = align(place.at)
    middle = (area.left + area.right - box_width) / 2
    x = {"left": area.left, "center": middle, "right": area.right - box_width}[side]
    if place.at.startswith("top"):
        y = area.top
    elif place.at.startswith("bottom"):
        y = area.bottom - box_height
    elif place.at == "lower-third":
        y = min((height * 2 / 3 + area.bottom - box_height) / 2, area.bottom - box_height)
    elif place.at == "upper-third":
        y = max((height / 3 + area.top - box_height) / 2, area.top)
    else:
        y = (height - box_height) / 2
    return _clamp(x, 0, width - box_width), _clamp(y, 0, height - box_height)


def fit_image(
    place: Placement, image_width: int, image_height: int, width: int, height: int
) -> tuple[int, int]:
    """Size of a picture inside ``place``'s width and height, its own aspect kept; without both 40 % of the output."""
    max_width = width * (
        place.width if place.width is not None else (1.0 if place.height is not None else 0.4)
    )
    max_height = height * (
        place.height if place.height is not None else (1.0 if place.width is not None else 0.4)
    )
    scale = min(
        max_width / image_width, max_height / image_height, width / image_width, height / image_height
    )
    return max(1, round(image_width * scale)), max(1, round(image_height * scale))


def check_anchor(at: str) -> None:
    """Raises :class:`AssembleError` when no such place exists."""
    if at not in ANCHORS:
        close = difflib.get_close_matches(at, ANCHORS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise AssembleError(f"layers: there is no place {at!r}; {hint}Places are {', '.join(ANCHORS)}")


def _clamp(value: float, low: float, high: float) -> float:
    return max(low, min(value, high))
