"""The judge is judged first: on drawn scenes, where the truth is known."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest

from wanflow.pocket.detect import detect, detect_at
from wanflow.pocket.render import drawn_frames
from wanflow.pocket.scenes import KINDS, MOTIONS, Scene, sample_scene

_SIZES = ((96, 160), (160, 96), (128, 128))


def _score(num: int, seed: int) -> Counter[str]:
    rng, right = random.Random(seed), Counter[str]()
    for i in range(num):
        scene = sample_scene(rng, held_out=i % 2 == 0)
        seen = asdict(detect(drawn_frames(scene, _SIZES[i % 3])))
        right.update(part for part, value in seen.items() if value == getattr(scene, part))
    return right


@pytest.mark.slow
def test_detectors_are_right_on_drawn_truth() -> None:
    """An evaluation cannot be more right than its judge."""
    right = _score(150, seed=5)
    assert right["colour"] >= 148
    assert right["background"] >= 148
    assert right["motion"] >= 147
    assert right["kind"] >= 144


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_known(kind: str) -> None:
    """One plain example a kind, quick enough for every change."""
    scene = Scene(kind, "orange", "navy", "right", "large", seed=12)
    seen = detect(drawn_frames(scene, (96, 160)))
    assert (seen.kind, seen.colour, seen.background) == (kind, "orange", "navy")


@pytest.mark.parametrize("motion", MOTIONS)
def test_each_motion_is_known(motion: str) -> None:
    """The direction is the easiest thing to get backwards."""
    scene = Scene("circle", "yellow", "maroon", motion, "large", seed=4)
    assert detect(drawn_frames(scene, (96, 160))).motion == motion


def test_a_reversed_clip_moves_the_other_way() -> None:
    """Guards against a detector that reads anything but motion."""
    frames = drawn_frames(Scene("square", "white", "teal", "left", "small", seed=1), (96, 160))
    assert detect(frames).motion == "left"
    assert detect(np.ascontiguousarray(frames[::-1])).motion == "right"


def test_identity_at_the_last_frame_is_read_from_that_frame() -> None:
    """A clip that turns into something else at its end must not pass for itself."""
    start = drawn_frames(Scene("circle", "red", "gray", "left", "large", seed=2), (96, 160))
    end = drawn_frames(Scene("square", "blue", "gray", "left", "large", seed=2), (96, 160))
    mixed = np.concatenate([start[:9], end[9:]])
    assert detect_at(mixed, 0) == ("circle", "red")
    assert detect_at(mixed, -1) == ("square", "blue")
