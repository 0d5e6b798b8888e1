"""What pocket was trained on must stay what it was: drawing is a pure function of scene and size."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from wanflow.pocket.scenes import (
    BACKGROUND_COLOURS,
    HELD_OUT_BACKGROUNDS,
    HELD_OUT_SUBJECTS,
    INVISIBLE,
    KINDS,
    SUBJECT_COLOURS,
    Scene,
    draw,
    sample_scene,
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_is_the_same_picture_every_time(kind: str) -> None:
    """A training run that resumes tomorrow must see the clips it would have seen today."""
    scene = Scene(kind, "red", "navy", "growing", "small", seed=5)
    assert torch.equal(draw(scene, 48, 80), draw(scene, 48, 80))


@pytest.mark.parametrize("kind", KINDS)
def test_twice_the_size_is_the_same_picture_with_more_detail(kind: str) -> None:
    """``refine`` is measured against drawn truth at twice the size, so the two drawings must agree."""
    scene = Scene(kind, "cyan", "maroon", "left", "large", seed=9)
    small, large = draw(scene, 96, 160), draw(scene, 192, 320)
    halved = F.avg_pool2d(large.transpose(0, 1), 2).transpose(0, 1)
    assert float((halved - small).abs().mean()) < 0.004


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_is_the_part_of_the_whole_picture(kind: str) -> None:
    """The VAE trains on crops that are drawn without the rest: they must be what the whole would show."""
    scene = Scene(kind, "yellow", "teal", "up", "small", seed=3)
    whole = draw(scene, 96, 160)
    part = draw(scene, 96, 160, crop=(16, 40, 32, 48))
    assert torch.allclose(part, whole[:, :, 16:48, 40:88], atol=1e-4)


def test_values_are_colours_of_seventeen_frames() -> None:
    """A value outside 0..1 would be clipped by a codec and never be learned."""
    rng = random.Random(0)
    for _ in range(10):
        video = draw(sample_scene(rng), 32, 48)
        assert video.shape == (3, 17, 32, 48)
        assert 0 <= float(video.min()) <= float(video.max()) <= 1


def test_training_never_draws_a_held_out_combination() -> None:
    """The evaluation's claim rests on it: colour and kind, or colour and background, never seen together."""
    rng = random.Random(1)
    for _ in range(2000):
        scene = sample_scene(rng)
        assert (scene.colour, scene.kind) not in HELD_OUT_SUBJECTS
        assert (scene.colour, scene.background) not in HELD_OUT_BACKGROUNDS
        assert (scene.colour, scene.background) not in INVISIBLE
    assert all(sample_scene(rng, held_out=True).held_out() for _ in range(200))


def test_every_word_of_every_part_is_seen_in_training() -> None:
    """Holding out combinations must not hold out a whole colour, kind or background."""
    rng = random.Random(2)
    scenes = [sample_scene(rng) for _ in range(3000)]
    assert {s.colour for s in scenes} == set(SUBJECT_COLOURS)
    assert {s.background for s in scenes} == set(BACKGROUND_COLOURS)
    assert len({(s.kind, s.motion, s.scale) for s in scenes}) == len(KINDS) * 6 * 2
