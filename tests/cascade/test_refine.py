"""The refine step: its parameters, its sizes, and what it does to latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engines.conftest import checkpoint, engine, given, image, make_clip, one_thread, silent  # noqa: F401
from wanflow import cascade
from wanflow.engines import Engine, read_spec
from wanflow.engines.wan import WanEngine
from wanflow.errors import Cancelled, EngineError
from wanflow.model import CascadeStep, Clip, EngineSpec, Mode


@pytest.fixture(scope="session")
def spec(checkpoint: Callable[[str], Path]) -> EngineSpec:  # noqa: F811
    return read_spec(str(checkpoint("pocket")))


def _step(spec: EngineSpec, **params: float | str) -> CascadeStep:
    return cascade.check(CascadeStep("refine", tuple(params.items())), spec)


def test_defaults_are_filled_in_and_stay(spec: EngineSpec) -> None:
    """Keys see resolved numbers: a new default in a later version does not change what was rendered."""
    step = _step(spec)
    assert dict(step.params) == {
        "color_radius": 16.0,
        "grid": 16,
        "scale": 2.0,
        "steps": 4,
        "strength": 0.3,
    }
    assert cascade.check(step, spec) == step
    assert _step(spec, steps=7, scale=3) == _step(spec, scale=3.0, steps=7)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"strenght": 0.3}, "did you mean strength"),
        ({"colour": 1}, "known: scale, strength, steps"),
        ({"strength": 0}, "above 0"),
        ({"strength": 1}, "below 1"),
        ({"strength": 0.95}, "below 0.9"),
        ({"strength": "high"}, "must be a number"),
        ({"strength": float("nan")}, "must be a number"),
        ({"scale": 0.5}, "from 1 to 4"),
        ({"scale": 9}, "from 1 to 4"),
        ({"steps": 0}, "whole number"),
        ({"steps": 2.5}, "whole number"),
        ({"steps": True}, "must be a number"),
        ({"color_radius": -1}, "from 0 to 100 pixels"),
        ({"grid": 8}, "cannot be set"),
    ],
)
def test_wrong_parameters_are_refused_in_words(
    params: dict[str, float | str], words: str, spec: EngineSpec
) -> None:
    """Found while planning, not at three in the morning on the first GPU."""
    with pytest.raises(EngineError, match=words):
        _step(spec, **params)


def test_an_unknown_method_is_refused(spec: EngineSpec) -> None:
    """The message lists what there is."""
    with pytest.raises(EngineError, match="known: refine"):
        cascade.check(CascadeStep("upscale9000"), spec)


def test_sizes_chain_and_stay_on_the_grid(engine: Callable[[str], Engine]) -> None:  # noqa: F811
    """1.5 times 48 is 72, which no Wan model takes; 80 it takes."""
    wan = engine("pocket")
    clip = replace(make_clip(wan, Mode.T2V), cascade=(_step(wan.spec, scale=1.5), _step(wan.spec, scale=2)))
    assert cascade.size_after(clip, 0) == (48, 32)
    assert cascade.size_after(clip, 1) == (80, 48)
    assert cascade.size_after(clip) == (160, 96)


def _refined(
    wan: Engine, clip: Clip, source: bytes | None, latents: torch.Tensor, **params: float
) -> torch.Tensor:
    clip = replace(clip, cascade=(_step(wan.spec, **params),))
    return cascade.apply(wan, clip, [latents], given(source), silent, "cascade-1")[1]


@pytest.mark.parametrize(
    ("layout", "mode"),
    [
        ("pocket", Mode.T2V),
        ("pocket", Mode.I2V),
        ("ti2v_5b", Mode.I2V),
        ("a14b_t2v", Mode.T2V),
        ("a14b_i2v", Mode.I2V),
        ("wan21_i2v", Mode.I2V),
    ],
)
def test_a_chain_of_steps_makes_the_size_that_was_planned(
    layout: str,
    mode: Mode,
    engine: Callable[[str], Engine],  # noqa: F811
    image: bytes,  # noqa: F811
) -> None:
    """480p to 720p to 1080p: each step works on the result of the one before."""
    wan = engine(layout)
    source = image if mode is Mode.I2V else None
    size = (64, 32) if wan.spec.grid == 32 else (48, 32)
    steps = (_step(wan.spec, steps=2), _step(wan.spec, scale=1.5, steps=1))
    clip = replace(make_clip(wan, mode, size=size), cascade=steps)
    latents = [wan.generate(clip, given(source), silent)]
    for i in range(len(steps)):
        latents = cascade.apply(wan, clip, latents, given(source), silent, f"cascade-{i + 1}")
    frames = next(wan.frames(cascade.pixels(wan, clip, latents)))
    assert (frames.shape[2], frames.shape[1]) == cascade.size_after(clip)


def test_strength_is_how_far_a_clip_may_move(engine: Callable[[str], Engine]) -> None:  # noqa: F811
    """Near nothing the clip is only upscaled; the more noise, the more is drawn anew."""
    wan = engine("pocket")
    clip = make_clip(wan, Mode.T2V)
    latents = wan.generate(clip, (), silent)
    least, some, much = (_refined(wan, clip, None, latents, strength=s) for s in (1e-4, 0.3, 0.8))
    assert (some - least).abs().mean() > 1e-2
    assert (much - least).abs().mean() > 1.5 * (some - least).abs().mean()


def test_only_the_low_noise_expert_works(engine: Callable[[str], Engine]) -> None:  # noqa: F811
    """The high-noise expert would start a new composition."""
    wan = engine("pocket")
    assert isinstance(wan, WanEngine)
    clip = make_clip(wan, Mode.T2V)
    latents = wan.generate(clip, (), silent)
    calls = {0: 0, 1: 0}

    def count(i: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            calls[i] += 1

        return hook

    handles = [expert.register_forward_hook(count(i)) for i, expert in enumerate(wan._experts)]
    _refined(wan, clip, None, latents, strength=0.85, steps=3)
    for handle in handles:
        handle.remove()
    assert calls == {0: 0, 1: 6}


def test_the_first_frame_is_the_image_at_the_larger_size(
    engine: Callable[[str], Engine],  # noqa: F811
    image: bytes,  # noqa: F811
) -> None:
    """The source has detail that the small clip lost; the upscaled one gets it back."""
    wan = engine("pocket")
    assert isinstance(wan, WanEngine)
    clip = make_clip(wan, Mode.I2V)
    refined = _refined(wan, clip, image, wan.generate(clip, given(image), silent))
    assert torch.equal(refined[:, :, :1], wan._condition(clip, given(image), 96, 64).first)


def test_each_stage_draws_noise_of_its_own_and_always_the_same(engine: Callable[[str], Engine]) -> None:  # noqa: F811
    """The same noise in every step would push a clip twice the same way."""
    wan = engine("pocket")
    clip = replace(make_clip(wan, Mode.T2V), cascade=(_step(wan.spec, scale=1, steps=1),))
    latents = [wan.generate(clip, (), silent)]
    one, again, two = (
        cascade.apply(wan, clip, latents, (), silent, s)[1] for s in ("cascade-1", "cascade-1", "cascade-2")
    )
    assert torch.equal(one, again)
    assert (one - two).abs().max() > 1e-3


def test_progress_and_stopping_reach_into_the_upscale(engine: Callable[[str], Engine]) -> None:  # noqa: F811
    """Upscaling a long clip takes as long as some steps: it reports, and it can be stopped."""
    wan = engine("pocket")
    clip = replace(make_clip(wan, Mode.T2V), cascade=(_step(wan.spec, steps=2),))
    latents = [wan.generate(clip, (), silent)]
    seen: list[tuple[str, int, int]] = []
    cascade.apply(wan, clip, latents, (), lambda *s: seen.append(s), "cascade-1")
    assert seen == [("cascade-1", step, 2) for step in (0, 0, 0, 1, 2)]

    def stop(stage: str, step: int, of: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        cascade.apply(wan, clip, latents, (), stop, "cascade-1")


def test_colours_stay_as_they_were_and_detail_is_drawn(engine: Callable[[str], Engine]) -> None:  # noqa: F811
    """Whatever the VAE and the noise do to a picture, a brand's colour is that of the clip that was approved."""
    wan = engine("pocket")
    steps = (_step(wan.spec, strength=0.8, color_radius=3), _step(wan.spec, scale=1, color_radius=3))
    clip = replace(make_clip(wan, Mode.T2V), cascade=steps)
    latents = [wan.generate(clip, (), silent)]
    for stage in ("cascade-1", "cascade-2"):
        latents = cascade.apply(wan, clip, latents, (), silent, stage)
        before = _picture(wan, clip, latents[:-1])
        before = torch.nn.functional.interpolate(before, (64, 96), mode="bicubic", align_corners=False)
        after, drawn = _picture(wan, clip, latents), torch.cat(list(wan.decode_pixels(latents[-1])), dim=2)[0]
        kept, lost = (
            _coarse(picture.clamp(-1, 1) - before).abs().mean() for picture in (after, drawn.transpose(0, 1))
        )
        assert kept < 0.4 * lost, stage
        assert _detail(after - drawn.transpose(0, 1)) < 0.3 * _detail(after), stage


def test_without_a_radius_all_of_the_picture_is_drawn_anew(engine: Callable[[str], Engine]) -> None:  # noqa: F811
    """And the smaller clip is not decoded for nothing."""
    wan = engine("pocket")
    clip = replace(make_clip(wan, Mode.T2V), cascade=(_step(wan.spec, color_radius=0),))
    latents = cascade.apply(wan, clip, [wan.generate(clip, (), silent)], (), silent, "cascade-1")
    drawn = torch.cat(list(wan.decode_pixels(latents[1])), dim=2)[0].transpose(0, 1)
    assert torch.equal(_picture(wan, clip, [torch.full_like(latents[0], torch.nan), latents[1]]), drawn)


def _picture(wan: Engine, clip: Clip, latents: list[torch.Tensor]) -> torch.Tensor:
    """(frames, 3, height, width)"""
    return torch.cat(list(cascade.pixels(wan, clip, latents)), dim=2)[0].transpose(0, 1)


def _coarse(picture: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(picture, 16)


def _detail(picture: torch.Tensor) -> float:
    return float(picture.diff(dim=-1).square().mean())
