"""Does ``refine`` add detail? Against drawn truth at twice the size, beside plain bicubic and the best unsharp mask.

The base clip is a drawn scene through the VAE at the base size: what a perfect render would be. The unsharp mask gets
its radius and amount on other scenes, those that bring it nearest to the truth.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wanflow.pocket.grammar import plain_caption
from wanflow.pocket.render import Case, Renderer, drawn_frames
from wanflow.pocket.scenes import sample_scene

SIZES = ((96, 160), (160, 96), (128, 128))


@dataclass(frozen=True)
class Upscaled:
    """One clip at twice the size, in 0..1, (frames, 3, height, width)."""

    truth: Tensor
    bicubic: Tensor
    refined: Tensor


def measure_refine(renderer: Renderer, num: int, seed: int) -> list[tuple[str, float, float, str]]:
    """Rows of (name, value, target, unit); a positive gain means that refine is the better one."""
    tuning = [upscale(renderer, f"tune {seed} {i}", i, refined=False) for i in range(max(3, num // 3))]
    radius, amount = tune_unsharp(tuning)
    clips = [upscale(renderer, f"judge {seed} {i}", i) for i in range(num)]
    sharpened = [unsharp(c.bicubic, radius, amount) for c in clips]
    rows = []
    quality = {
        "refine": [quality_of(c.refined, c.truth) for c in clips],
        "bicubic": [quality_of(c.bicubic, c.truth) for c in clips],
        "best unsharp": [quality_of(s, c.truth) for s, c in zip(sharpened, clips, strict=True)],
    }
    means = {name: np.mean(values, axis=0) for name, values in quality.items()}
    for name in ("bicubic", "best unsharp"):
        rows.append((f"refine: PSNR gain on {name}", float(means["refine"][0] - means[name][0]), 0.0, "dB"))
        rows.append(
            (f"refine: edges gain on {name}", float(100 * (means["refine"][1] - means[name][1])), 0.0, "%")
        )
    return rows


def upscale(renderer: Renderer, seed: str, i: int, *, refined: bool = True) -> Upscaled:
    """Base clip, bicubic and refined of one drawn scene."""
    rng = random.Random(seed)
    scene, size = sample_scene(rng), SIZES[i % 3]
    large = (2 * size[0], 2 * size[1])
    truth = _tensor(drawn_frames(scene, large))
    latents = renderer.encoded(drawn_frames(scene, size))
    base = _tensor(renderer.frames(latents))
    bicubic = F.interpolate(base, large, mode="bicubic", align_corners=False).clamp(0, 1)
    case = Case(scene, plain_caption(scene), size, rng.randrange(2**31))
    out = _tensor(renderer.refined(case, latents)) if refined else bicubic
    return Upscaled(truth, bicubic, out)


def quality_of(picture: Tensor, truth: Tensor) -> tuple[float, float]:
    """PSNR in dB, and edge sharpness: the steepness of the picture where the truth is steep, as a share of the
    truth's."""
    psnr = float(-10 * torch.log10((picture - truth).square().mean()))
    slope, true_slope = _slope(picture), _slope(truth)
    edges = true_slope > torch.quantile(true_slope.flatten()[::7], 0.97)
    return psnr, float(slope[edges].mean() / true_slope[edges].mean())


def tune_unsharp(clips: list[Upscaled]) -> tuple[float, float]:
    """The radius (pixels) and amount nearest to the truth."""

    def error(setting: tuple[float, float]) -> float:
        return sum(float((unsharp(c.bicubic, *setting) - c.truth).square().mean()) for c in clips)

    return min(product((0.7, 1.0, 1.5, 2.5), (0.0, 0.2, 0.4, 0.7, 1.0, 1.5)), key=error)


def unsharp(picture: Tensor, radius: float, amount: float) -> Tensor:
    """The picture plus ``amount`` times what a Gaussian of ``radius`` takes away."""
    reach = int(3 * radius) + 1
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(x**2) / (2 * radius**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    padded = F.pad(picture, (reach,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    return (picture + amount * (picture - blurred)).clamp(0, 1)


def _slope(picture: Tensor) -> Tensor:
    dx, dy = picture.diff(dim=-1)[..., :-1, :], picture.diff(dim=-2)[..., :-1]
    return (dx.square() + dy.square()).sum(1).sqrt()


def _tensor(frames: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
