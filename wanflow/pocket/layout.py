"""A second lesson for the denoiser: where the subject is, and its outline, read from the noise by its middle blocks.

A clip's layout is its scene in white on black, half the size, one picture a latent frame. A linear head reads it from
the tokens after the first blocks, 8x8 of its pixels a token. After REPA (Yu et al., 2024), which aligns a transformer's
middle with a pretrained encoder's features; drawn scenes have the truth itself. The head is not exported.
"""

from __future__ import annotations

import random
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanflow.pocket.scenes import Scene, draw

#: A token's pixels of the layout across and down: a token is two latents of eight pixels, the layout half the size.
_SIDE = 8
#: A latent's.
_LATENT_SIDE = _SIDE // 2


def draw_layout(scene: Scene, size: tuple[int, int], num_frames: int, device: torch.device) -> Tensor:
    """uint8 (latent frames, height / 2, width / 2): the first frame, then one of each four."""
    outline = replace(scene, colour="white", background="black")
    frames = draw(outline, size[0] // 2, size[1] // 2, num_frames, device).mean(0)
    layout: Tensor = frames[[0, *range(2, num_frames, 4)]]
    return layout.mul(255).round().to(torch.uint8)


def place_window(rng: random.Random, layout: Tensor, size: int) -> tuple[slice, slice]:
    """Rows and columns of latents, ``size`` each or all there are: the subject of ``layout`` near their middle."""
    outline = layout.float().sub(64).clamp_min(0).mean(0)  # a black wall is not quite black
    slices = []
    for axis in (0, 1):
        mass = outline.sum(1 - axis)
        middle = float((mass * torch.arange(len(mass))).sum() / mass.sum().clamp_min(1e-6)) / _LATENT_SIDE
        room = max(0, len(mass) // _LATENT_SIDE - size)
        start = min(max(0, round(middle - size / 2 + rng.uniform(-1.5, 1.5))), room)
        slices.append(slice(start, min(start + size, len(mass) // _LATENT_SIDE)))
    return slices[0], slices[1]


def cut(layout: Tensor, rows: slice, columns: slice) -> Tensor:
    """The part of a layout that these rows and columns of latents show."""
    across, down = ((part.start * _LATENT_SIDE, part.stop * _LATENT_SIDE) for part in (columns, rows))
    return layout[..., slice(*down), slice(*across)]


class LayoutHead(nn.Module):
    """Tokens to their part of the layout."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(dim, _SIDE * _SIDE)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, tokens, dim) to (batch, tokens, 64)."""
        read: Tensor = self.out(F.layer_norm(features, features.shape[-1:]))
        return read


def layout_loss(head: LayoutHead, features: Tensor, layouts: Tensor) -> Tensor:
    """The share of the layouts' variance that the head does not read; ``layouts`` as ``draw_layout`` draws them, a
    batch."""
    batch, _, height, width = layouts.shape
    parts = (
        layouts.float().div(255).unflatten(2, (height // _SIDE, _SIDE)).unflatten(4, (width // _SIDE, _SIDE))
    )
    truth = parts.transpose(3, 4).reshape(batch, -1, _SIDE * _SIDE)
    loss: Tensor = F.mse_loss(head(features), truth) / truth.var().clamp_min(0.01)
    return loss
