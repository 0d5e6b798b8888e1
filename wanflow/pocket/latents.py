"""The training set of the denoiser: scenes drawn and encoded once, kept as normalised latents in shards on disk.

Drawing and encoding a clip costs as much as training on it twice, and a clip is worth several visits: every visit has
new words, new noise and a new time. A shard is a function of its name and the seed; missing ones are made,
present ones kept.
"""

from __future__ import annotations

import functools
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from wanflow.pocket.autoencoder import decode_whole, encode_whole
from wanflow.pocket.layout import cut, draw_layout, place_window
from wanflow.pocket.scenes import Scene, draw, sample_scene
from wanflow.pocket.stages import arithmetic

#: Pixels of a latent, across and down.
SIDE = 8
#: Latents across and down of a window that is upscaled.
UPSCALED_WINDOW = 16


@dataclass(frozen=True)
class Shard:
    """Clips of one size and length."""

    scenes: list[Scene]
    #: (clips, channels, latent frames, height / 8, width / 8), float16; of windows, their height and width
    latents: Tensor
    #: ``layout.draw_layout`` of each, (clips, latent frames, height / 2, width / 2), uint8
    layouts: Tensor
    #: At doubled sizes, of windows: latents of the same drawn at half the size and scaled up, what ``refine`` starts
    #: from.
    upscaled: Tensor | None = None


def shard_path(out: Path, size: tuple[int, int], num_frames: int, number: int) -> Path:
    """Where the shard lies."""
    return out / "latents" / f"{num_frames}x{size[0]}x{size[1]}-{number:03d}.pt"


@torch.no_grad()
def make_shard(
    vae: AutoencoderKLWan,
    size: tuple[int, int],
    num_frames: int,
    number: int,
    out: Path,
    *,
    seed: int,
    num_clips: int,
    upscaled: bool = False,
    batch: int = 4,
) -> Path:
    """Draw and encode a shard unless it is there. ``upscaled``: windows of it only, from half the size as well; the
    whole of a doubled picture costs four times as much, and has four times as much of the wall."""
    path = shard_path(out, size, num_frames, number)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"shard {seed} {size} {num_frames} {number}")
    device = next(vae.parameters()).device
    scenes = [sample_scene(rng) for _ in range(num_clips)]
    whole = (slice(0, size[0] // SIDE), slice(0, size[1] // SIDE))
    parts, upscaled_parts, layouts = [], [], []
    for start in range(0, num_clips, batch):
        videos, halves = [], []
        for scene in scenes[start : start + batch]:
            layout = draw_layout(scene, size, num_frames, device).cpu()
            window = place_window(rng, layout, UPSCALED_WINDOW) if upscaled else whole
            layouts.append(cut(layout, *window).clone())
            videos.append(_draw_window(scene, size, num_frames, device, window, 1))
            if upscaled:
                halves.append(_draw_window(scene, size, num_frames, device, window, 2))
        video = torch.stack(videos)
        parts.append(normalise(vae, encode_mean(vae, video)).half().cpu())
        if upscaled:
            larger = enlarge(vae, torch.stack(halves), (video.shape[3], video.shape[4]))
            upscaled_parts.append(normalise(vae, encode_mean(vae, larger)).half().cpu())
    content = {
        "scenes": [asdict(s) for s in scenes],
        "latents": torch.cat(parts),
        "layouts": torch.stack(layouts),
    }
    if upscaled:
        content["upscaled"] = torch.cat(upscaled_parts)
    partial = path.with_suffix(f".partial{os.getpid()}")
    torch.save(content, partial)
    os.replace(partial, path)
    return path


def _draw_window(
    scene: Scene,
    size: tuple[int, int],
    num_frames: int,
    device: torch.device,
    window: tuple[slice, slice],
    share: int,
) -> Tensor:
    """Those rows and columns of latents of a scene of this size, drawn at one in ``share`` of it; in -1..1."""
    rows, columns = window
    crop = (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
    top, left, height, width = (part * SIDE // share for part in crop)
    part = (top, left, height, width)
    return draw(scene, size[0] // share, size[1] // share, num_frames, device, part).mul_(2).sub_(1)


def enlarge(vae: AutoencoderKLWan, video: Tensor, size: tuple[int, int]) -> Tensor:
    """A clip through the VAE and a bicubic filter, as ``cascade.refine`` does before it puts noise back."""
    with arithmetic(video.device):
        picture = decode_whole(vae, encode_whole(vae, video)[0]).float().clamp(-1, 1)
    frames = picture.transpose(1, 2)
    scaled = F.interpolate(frames.flatten(0, 1), size, mode="bicubic", align_corners=False).clamp(-1, 1)
    larger: Tensor = scaled.unflatten(0, frames.shape[:2]).transpose(1, 2)
    return larger


@functools.cache
def load_shard(path: Path) -> Shard:
    """Read a shard; the latents stay on disk until touched."""
    raw = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return Shard([Scene(**s) for s in raw["scenes"]], raw["latents"], raw["layouts"], raw.get("upscaled"))


def encode_mean(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """The latents' mean in float32, in bfloat16 arithmetic where that is fast."""
    with arithmetic(video.device):
        mean, _ = encode_whole(vae, video)
    return mean.float()


def normalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """To zero mean and unit deviation a channel, as the pipelines do."""
    mean = torch.tensor(vae.config.latents_mean, device=latents.device).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=latents.device).view(1, -1, 1, 1, 1)
    return (latents - mean) / std
