"""``refine``: upscale a clip, put some noise back, and let the low-noise expert draw the detail at the larger
size.

The picture is decoded, scaled with a bicubic filter and encoded again, a chunk of frames at a time, so neither size
is ever held whole. Scaling the latents instead would be cheaper, but they end up further from those of the real
larger picture (0.60 against 0.38 RMSE, an early version of pocket's autoencoder on five drawn scenes). ``strength`` is
the share of noise in the mix (sigma), not of the schedule's steps, so 0.3 means the same whatever the model's flow
shift. It must stay below the boundary, above which the low-noise expert was never trained.

A picture that has been through the VAE twice more has shifted colours, and a brand's colour is what was approved. So
brightness and colour stay those of the clip before (``finish``): of the refined picture only what is finer than
``color_radius`` is taken, as upscalers do since StableSR's wavelet colour fix. That costs one more decoding of the
smaller clip.

An image-to-video clip is conditioned on its source image at the larger size, so its first frame gains real
detail; its last one too, where its image is given.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from wanflow.engines.spec import hint
from wanflow.errors import EngineError
from wanflow.model import Clip, EngineSpec, Scalar

if TYPE_CHECKING:
    from wanflow.engines import Engine, Keep, Latents, OnStep, Pixels

PARAMS: Mapping[str, str] = {
    "scale": "factor on width and height, 1 to 4; the result is rounded to the model's grid (default 2)",
    "strength": "share of noise put back, between 0 and 1 and below the boundary (default 0.3)",
    "steps": "denoise steps from there (default: that share of the base's steps, at least 4)",
    "color_radius": "pixels of the result; brightness and colour coarser than this stay as they were, finer detail is "
    "drawn anew; 0: everything is (default 16)",
    "grid": "filled in: the model's grid, to which sizes are rounded",
}


def check(given: Mapping[str, Scalar], spec: EngineSpec) -> dict[str, Scalar]:
    """All parameters as numbers; EngineError names the one that is wrong."""
    scale = _number(given, "scale", hint(spec, "refine_scale", 2.0))
    strength = _number(given, "strength", hint(spec, "refine_strength", 0.3))
    share = max(4, math.ceil(spec.sampling.steps * strength))
    steps = _number(given, "steps", hint(spec, "refine_steps", 0) or share)
    radius = _number(given, "color_radius", hint(spec, "refine_color_radius", 16.0))
    if not 1 <= scale <= 4:
        raise EngineError(f"cascade: refine.scale is {scale:g}; it must be from 1 to 4")
    if not 0 < strength < 1:
        raise EngineError(f"cascade: refine.strength is {strength:g}; it must be above 0 and below 1")
    boundary = spec.sampling.boundary
    if boundary is not None and strength >= boundary:
        raise EngineError(
            f"cascade: refine.strength is {strength:g}; it must be below {boundary:g}, where "
            f"the low-noise expert of {spec.name} takes over"
        )
    if steps != int(steps) or not 1 <= steps <= 1000:
        raise EngineError(f"cascade: refine.steps is {steps:g}; it must be a whole number from 1 to 1000")
    if not 0 <= radius <= 100:
        raise EngineError(f"cascade: refine.color_radius is {radius:g}; it must be from 0 to 100 pixels")
    if given.get("grid", spec.grid) != spec.grid:
        raise EngineError(f"cascade: refine.grid is the model's own ({spec.grid}) and cannot be set")
    return {
        "scale": float(scale),
        "strength": float(strength),
        "steps": int(steps),
        "color_radius": float(radius),
        "grid": spec.grid,
    }


def size(params: Mapping[str, Scalar], width: int, height: int) -> tuple[int, int]:
    """The size after this step: scaled, then rounded to the grid."""
    scale, grid = _number(params, "scale", 2.0), int(_number(params, "grid", 1))
    return (
        max(grid, math.floor(width * scale / grid + 0.5) * grid),
        max(grid, math.floor(height * scale / grid + 0.5) * grid),
    )


def num_steps(params: Mapping[str, Scalar]) -> int:
    """Denoising steps."""
    return int(_number(params, "steps", 4))


def apply(
    params: Mapping[str, Scalar],
    engine: Engine,
    clip: Clip,
    pixels: Iterator[Pixels],
    images: Sequence[bytes],
    on_step: OnStep,
    stage: str,
    keep: Keep | None = None,
) -> Latents:
    """Latents of the refined ``pixels``. The noise follows from the clip's seed and the stage, so chained steps draw
    different noise.
    """
    steps = num_steps(params)
    larger: Latents | None = None
    if keep is None or keep.start is None:
        # step 0 is reported at every chunk of the upscale, so that a cancelled clip stops there as well
        larger = engine.encode_pixels(_scaled(pixels, params, lambda: on_step(stage, 0, steps)))
    return engine.refine(
        clip,
        larger,
        images,
        strength=_number(params, "strength", 0.3),
        steps=steps,
        # 32 bits, because torch's generator on the CPU reads no more of a seed
        noise_seed=zlib.crc32(f"{clip.seed} {stage}".encode()),
        on_step=on_step,
        stage=stage,
        keep=keep,
    )


def finish(
    params: Mapping[str, Scalar], before: Iterator[Pixels], drawn: Iterator[Pixels]
) -> Iterator[Pixels]:
    """The picture after this step: what is finer than ``color_radius`` from the ``drawn`` pixels, decoded from
    ``apply``'s latents, the rest from the picture ``before`` it.
    """
    radius = _number(params, "color_radius", 0.0)
    if not radius:
        return drawn
    return map(partial(_recolored, radius), _scaled(before, params, lambda: None), drawn)


def _scaled(
    chunks: Iterator[Pixels], params: Mapping[str, Scalar], on_chunk: Callable[[], None]
) -> Iterator[Pixels]:
    import torch
    from torch.nn import functional

    for chunk in chunks:
        on_chunk()
        width, height = size(params, chunk.shape[4], chunk.shape[3])
        with torch.inference_mode():
            frames = chunk[0].transpose(0, 1)
            scaled = functional.interpolate(frames, (height, width), mode="bicubic", align_corners=False)
            larger = scaled.clamp(-1.0, 1.0).transpose(0, 1)[None]
        yield larger


def _recolored(radius: float, colors: Pixels, drawn: Pixels) -> Pixels:
    """``drawn`` with the coarse part of ``colors``: a Gaussian of ``radius`` pixels divides coarse from fine."""
    import torch
    from torch.nn import functional

    reach = math.ceil(3 * radius)
    with torch.inference_mode():
        offsets = torch.arange(-reach, reach + 1, device=drawn.device, dtype=torch.float32)
        weights = torch.exp(-(offsets**2) / (2 * radius**2))
        kernel = (weights / weights.sum()).view(1, 1, 1, -1)
        shift = (colors - drawn)[0].flatten(0, 1).unsqueeze(1)
        shift = functional.pad(shift, (reach,) * 4, mode="replicate")
        shift = functional.conv2d(functional.conv2d(shift, kernel), kernel.transpose(2, 3))
        return (drawn + shift.view_as(drawn)).clamp(-1.0, 1.0)


def _number(values: Mapping[str, Scalar], name: str, default: float) -> float:
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise EngineError(f"cascade: refine.{name} is {value!r}; it must be a number")
    return float(value)
