"""The engine's loop against WanPipeline and WanImageToVideoPipeline of diffusers: same weights, noise and schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
)

from tests.engines.conftest import given, make_clip, silent
from wanflow.engines import Engine
from wanflow.engines.denoise import draw_noise
from wanflow.engines.picture import open_cover
from wanflow.model import Clip, Mode, Sampling

_TOLERANCE = 1e-4


def _pipeline(directory: Path, clip: Clip) -> WanPipeline | WanImageToVideoPipeline:
    kind = WanImageToVideoPipeline if clip.mode is Mode.I2V else WanPipeline
    pipeline = kind.from_pretrained(directory)
    shift = clip.sampling.flow_shift
    if clip.sampling.scheduler == "euler":
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    else:
        pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=shift)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _reference(
    directory: Path, clip: Clip, image: bytes | None, last_image: bytes | None = None
) -> tuple[torch.Tensor, np.ndarray]:
    """Latents and frames (frames, height, width, 3) in 0..1 as the pipeline makes them."""
    pipeline = _pipeline(directory, clip)
    spatial = pipeline.vae_scale_factor_spatial
    shape = (
        1,
        pipeline.vae.config.z_dim,
        (clip.num_frames - 1) // 4 + 1,
        clip.height // spatial,
        clip.width // spatial,
    )
    options = {
        "prompt": clip.prompt,
        "negative_prompt": clip.negative_prompt,
        "height": clip.height,
        "width": clip.width,
        "num_frames": clip.num_frames,
        "num_inference_steps": clip.sampling.steps,
        "guidance_scale": clip.sampling.guidance,
        "latents": draw_noise(clip.seed, shape),
    }
    if clip.sampling.boundary is not None:
        options["guidance_scale_2"] = clip.sampling.guidance_low
    if image is not None:
        options["image"] = open_cover(image, clip.width, clip.height)
    if last_image is not None:
        options["last_image"] = open_cover(last_image, clip.width, clip.height)
    latents = pipeline(**options, output_type="latent").frames
    frames = pipeline(**options, output_type="np").frames[0]
    return latents, frames


CASES = [
    pytest.param("a14b_t2v", Mode.T2V, {}, id="two experts with boundary"),
    pytest.param("a14b_i2v", Mode.I2V, {}, id="36-channel i2v"),
    pytest.param("wan21_i2v", Mode.I2V, {}, id="image features"),
    pytest.param("ti2v_5b", Mode.T2V, {}, id="expand_timesteps t2v"),
    pytest.param("ti2v_5b", Mode.I2V, {}, id="expand_timesteps i2v"),
    pytest.param("pocket", Mode.T2V, {}, id="expand_timesteps and two experts t2v"),
    pytest.param("pocket", Mode.I2V, {}, id="expand_timesteps and two experts i2v"),
    pytest.param("wan21_t2v", Mode.T2V, {}, id="one expert"),
    pytest.param("a14b_t2v", Mode.T2V, {"guidance": 1.0, "guidance_low": 1.0}, id="guidance off t2v"),
    pytest.param("a14b_i2v", Mode.I2V, {"guidance": 1.0, "guidance_low": 1.0}, id="guidance off i2v"),
    pytest.param(
        "a14b_t2v", Mode.T2V, {"guidance": 3.0, "guidance_low": 1.0}, id="guidance off for one expert"
    ),
]


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
@pytest.mark.parametrize(("layout", "mode", "change"), CASES)
def test_engine_makes_what_the_pipeline_makes(
    layout: str,
    mode: Mode,
    change: dict[str, float],
    scheduler: str,
    checkpoint: Callable[[str], Path],
    engine: Callable[[str], Engine],
    image: bytes,
) -> None:
    """A team that moves from a notebook with diffusers to wanflow gets the clips that it had chosen there."""
    wan = engine(layout)
    own = wan.spec.sampling
    sampling: Sampling = replace(own, steps=4, scheduler=scheduler, **change)
    if sampling.boundary is not None:
        # shifted times of four steps lie around 950, 850 and 600: both experts get steps
        sampling = replace(sampling, flow_shift=5.0)
    size = (64, 32) if wan.spec.grid == 32 else (48, 32)
    clip = make_clip(wan, mode, sampling, size)
    source = image if mode is Mode.I2V else None
    _assert_equal(
        wan, wan.generate(clip, given(source), silent), *_reference(checkpoint(layout), clip, source)
    )


@pytest.mark.parametrize("num_frames", [5, 9])
@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
@pytest.mark.parametrize("layout", ["a14b_i2v", "wan21_flf2v"])
def test_from_a_first_to_a_last_frame_as_the_pipeline_goes(
    layout: str,
    scheduler: str,
    num_frames: int,
    checkpoint: Callable[[str], Path],
    engine: Callable[[str], Engine],
    image: bytes,
    last_image: bytes,
) -> None:
    """A loop, or a cut to the next scene: the last frame is as exact as the first. With one expert and CLIP, or two."""
    wan = engine(layout)
    sampling = replace(wan.spec.sampling, steps=4, scheduler=scheduler, flow_shift=5.0)
    clip = replace(make_clip(wan, Mode.I2V, sampling, has_last=True), num_frames=num_frames)
    latents = wan.generate(clip, given(image, last_image), silent)
    _assert_equal(wan, latents, *_reference(checkpoint(layout), clip, image, last_image))


def _assert_equal(
    wan: Engine, latents: torch.Tensor, expected_latents: torch.Tensor, expected_frames: np.ndarray
) -> None:
    frames = np.concatenate([pixels[0].permute(1, 2, 3, 0).numpy() for pixels in wan.decode_pixels(latents)])
    assert (latents - expected_latents).abs().max() < _TOLERANCE
    assert np.abs((frames / 2 + 0.5).clip(0, 1) - expected_frames).max() < _TOLERANCE
    assert expected_latents.std() > 0.1
    assert expected_frames.std() > 0.005
