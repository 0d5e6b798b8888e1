"""Stage one: the VAE, on crops of scenes at the base size and twice that, at last over the full length.

Short clips teach the first half of the stage most of what there is to learn at half the price, but are no
substitute: a VAE trained on nine frames alone drifts in colour after the ninth. The second half sees the full
length only.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from wanflow.pocket.autoencoder import decode_whole, encode_whole, picture_loss, reconstruction_loss
from wanflow.pocket.layout import draw_layout, place_window
from wanflow.pocket.scenes import NUM_FRAMES, draw, sample_scene
from wanflow.pocket.stages import Stage, arithmetic, rank, run_stage

#: (height, width) at the base resolution: 16:9, 9:16, 1:1.
SIZES = ((96, 160), (160, 96), (128, 128))
#: Kinds whose colours drift, soft all over.
CALM = ("bokeh", "gradient")


def train_vae(
    vae: AutoencoderKLWan,
    stage: Stage,
    out: Path,
    *,
    seed: int,
    batch: int,
    crop: int = 64,
    minutes: float | None = None,
    on_save: Callable[[int], None] | None = None,
) -> bool:
    """Train in place; whether the stage's last step was reached."""
    device = next(vae.parameters()).device

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(f"vae {seed} {step} {rank()}")
        short = step < 0.7 * stage.num_steps and rng.random() < 0.7
        video = draw_crops(rng, batch, crop, device, 9 if short else NUM_FRAMES)
        shape = (
            video.shape[0],
            vae.config.z_dim,
            (video.shape[2] - 1) // 4 + 1,
            video.shape[3] // 8,
            video.shape[4] // 8,
        )
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(2**62))).to(device)
        with arithmetic(device):
            value, mse = reconstruction_loss(vae, video, noise)
        psnr = 10 * torch.log10(4 / mse.detach())
        return value, {"psnr": float(psnr)}

    lay_out_for_convolutions(vae)
    return run_stage(stage, nn.ModuleDict({"vae": vae}), loss, out, minutes=minutes, on_save=on_save)


def polish_vae(
    vae: AutoencoderKLWan,
    stage: Stage,
    out: Path,
    *,
    seed: int,
    batch: int,
    crop: int = 64,
    minutes: float | None = None,
    on_save: Callable[[int], None] | None = None,
) -> bool:
    """Go on over the full length, on whole frames of calm scenes half of the time: their colours drift behind the
    ninth frame, by two or three levels all over, of which differences hear nothing and crops little. Whether the
    stage's last step was reached.

    The latents stay near those of the VAE that the stage began with, so that a denoiser which learned on them
    understands those to come.
    """
    device = next(vae.parameters()).device
    before = copy.deepcopy(vae).requires_grad_(False)
    # the first frame has a latent frame of its own and needs the least care, the last one gets the most
    care, late = (torch.linspace(a, 2 - a, NUM_FRAMES, device=device) for a in (0.6, 0.2))
    care[0], late[0] = 0.1, 0.0

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(f"{stage.name} {seed} {step} {rank()}")
        is_calm = random.Random(f"{stage.name} {seed} {step}").random() < 0.5
        video = draw_crops(rng, batch, crop, device, NUM_FRAMES, is_calm=is_calm)
        with arithmetic(device):
            mean, logvar = (moment.float() for moment in encode_whole(vae, video))
            with torch.no_grad():
                was = encode_whole(before, video)[0].float()
            noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(rng.randrange(2**62)))
            picture = decode_whole(vae, mean + torch.exp(0.5 * logvar) * noise.to(device)).float()
        each = care.view(1, 1, -1, 1, 1)
        value, _ = picture_loss(picture * each, video * each)
        error = picture - video
        mse = error.square().mean((1, 3, 4))
        shift = error.mean((3, 4))
        value = value + 0.3 * (late * mse.clamp_min(2e-5).log()).mean()
        value = value + (late * (40 * shift.square() + 3 * shift.abs())).mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        moved = ((mean - was) / was.std((0, 2, 3, 4), keepdim=True)).square().mean()
        psnr = 10 * torch.log10(4 / mse.detach())
        told = {"psnr": float(psnr.mean()), "drift": float((psnr[:, 0] - psnr[:, -1]).mean())}
        return value + 2e-4 * kl + 0.3 * moved, told

    lay_out_for_convolutions(vae)
    return run_stage(stage, nn.ModuleDict({"vae": vae}), loss, out, minutes=minutes, on_save=on_save)


def draw_crops(
    rng: random.Random,
    batch: int,
    crop: int,
    device: torch.device,
    num_frames: int,
    *,
    is_calm: bool = False,
) -> Tensor:
    """(batch, 3, frames, h, w) in -1..1: square crops, most of them where the subject begins, as walls teach little;
    and now and then as many whole frames as cost the same. ``is_calm``: whole frames of ``CALM`` kinds only."""
    whole = is_calm or rng.random() < 0.15
    height, width = rng.choice(SIZES)
    clips = []
    for _ in range(max(1, batch * crop * crop // (height * width)) if whole else batch):
        scene = sample_scene(rng)
        while is_calm and scene.kind not in CALM:
            scene = sample_scene(rng)
        if whole:
            clips.append(draw(scene, height, width, num_frames, device))
            continue
        height, width = rng.choice(SIZES)
        scale = 2 if rng.random() < 0.5 else 1
        h, w = height * scale, width * scale
        if rng.random() < 0.7:
            rows, columns = place_window(rng, draw_layout(scene, (h, w), 1, device).cpu(), crop // 8)
            top, left = 8 * rows.start, 8 * columns.start
        else:
            top, left = rng.randint(0, (h - crop) // 2) * 2, rng.randint(0, (w - crop) // 2) * 2
        clips.append(draw(scene, h, w, num_frames, device, (top, left, crop, crop)))
    return torch.stack(clips).mul_(2).sub_(1)


def lay_out_for_convolutions(vae: AutoencoderKLWan) -> None:
    """Channels last: the layout in which bfloat16 convolutions are fastest, on CPUs with AMX as on GPUs."""
    for p in vae.parameters():
        if p.ndim == 5:
            p.data = p.data.contiguous(memory_format=torch.channels_last_3d)
        elif p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def measure_latents(
    vae: AutoencoderKLWan, *, seed: int, num_clips: int = 48
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel over drawn clips: what the pipelines normalise by."""
    rng = random.Random(f"latents {seed}")
    device = next(vae.parameters()).device
    values = []
    for _ in range(num_clips):
        height, width = rng.choice(SIZES)
        video = draw(sample_scene(rng), height, width, device=device).mul(2).sub(1)
        with arithmetic(device):
            mean, _ = encode_whole(vae, video.unsqueeze(0))
        values.append(mean.float().flatten(2)[0])
    flat = torch.cat(values, dim=1)
    return flat.mean(1).tolist(), flat.std(1).tolist()
