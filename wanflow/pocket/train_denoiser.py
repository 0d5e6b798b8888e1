"""One transformer on all times, then one expert for each side of the boundary. The text encoder is frozen.

Flow matching: between a clip x and noise n lies (1 - s) x + s n, and the model predicts n - x. Three clips in ten are
image-conditioned (their first latent frame is clean and its tokens are at time 0), one caption in ten is empty
for guidance. ``refine`` mixes an upscaled clip u with noise to (1 - s0) u + s0 n and goes down from there: the straight
way to x is flow matching again, with n + (1 - s0) / s0 (u - x) in the place of the noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from wanflow.pocket.denoiser import denoise
from wanflow.pocket.grammar import caption, plain_caption
from wanflow.pocket.latents import load_shard
from wanflow.pocket.layout import LayoutHead, cut, layout_loss, place_window
from wanflow.pocket.scenes import Scene
from wanflow.pocket.stages import Stage, arithmetic, rank, run_stage
from wanflow.pocket.text import encode_captions

#: Noise shares from which ``refine`` is trained to start.
REFINE_STARTS = (0.2, 0.4)


@dataclass(frozen=True)
class Feed:
    """Clips of one size and length."""

    shards: Sequence[Path]
    #: How often a step takes these, beside the others of its diet.
    weight: float
    #: Clips a step, of each process.
    batch: int
    #: Windows of so many latents across and down around the subjects, in place of whole pictures.
    window: int | None = None


@dataclass(frozen=True)
class Diet:
    """What a denoiser is fed."""

    feeds: Sequence[Feed]
    #: The range of times, 0 to 1.
    low: float = 0.0
    high: float = 1.0
    image_share: float = 0.3
    empty_share: float = 0.1
    #: How much more an error counts where a clip is unlike the rest of itself; 0: everywhere the same.
    salience: float = 0.0
    #: What the lesson in layouts weighs beside the error of the velocity: it is for the beginning.
    layout: float = 0.0
    #: Of clips that were also scaled up from half the size, the share that lead from there to the sharp one.
    refine_share: float = 0.85


@dataclass(frozen=True)
class Batch:
    """One step's data, a function of the seed, the step and the rank."""

    latents: Tensor
    noise: Tensor
    times: Tensor
    conditioned: Tensor
    layouts: Tensor
    captions: list[str]


def train_denoiser(
    transformer: WanTransformer3DModel,
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    diets: Mapping[int, Diet],
    stage: Stage,
    out: Path,
    *,
    seed: int,
    fused: bool = False,
    minutes: float | None = None,
    on_save: Callable[[int], None] | None = None,
) -> bool:
    """Train in place; whether the stage's last step was reached.

    ``diets`` says from which step on what is fed, ``fused`` compiles the blocks.
    """
    device = next(transformer.parameters()).device
    head = LayoutHead(transformer.config.num_attention_heads * transformer.config.attention_head_dim).to(
        device
    )
    modules = nn.ModuleDict({"transformer": transformer, "layout": head})
    encoder.requires_grad_(False)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        diet = diets[max(start for start in diets if start <= step)]
        # all processes take clips of one length, or they would wait for each other
        chance = random.Random(f"{stage.name} {seed} {step}")
        feed = chance.choices(diet.feeds, [f.weight for f in diet.feeds])[0]
        batch = draw_batch(random.Random(f"{stage.name} {seed} {step} {rank()}"), feed, diet, device)
        with arithmetic(device):
            context, bias = encode_captions(tokenizer, encoder, batch.captions)
            flow, features = flow_loss(transformer, batch, context, bias, salience=diet.salience, fused=fused)
            if not diet.layout:
                return flow, {}
            layout = layout_loss(head, features, batch.layouts)
        return flow + diet.layout * layout, {"flow": float(flow.detach()), "layout": float(layout.detach())}

    return run_stage(stage, modules, loss, out, minutes=minutes, on_save=on_save)


def flow_loss(
    transformer: WanTransformer3DModel,
    batch: Batch,
    context: Tensor,
    bias: Tensor,
    *,
    salience: float = 0.0,
    fused: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean squared error of the predicted velocity, not counting given first frames, places weighted by what stands
    out there; and the features that ``denoise`` gives."""
    s = batch.times.view(-1, 1, 1, 1, 1)
    noisy = (1 - s) * batch.latents + s * batch.noise
    given = batch.conditioned.view(-1, 1, 1, 1, 1)
    noisy[:, :, :1] = torch.where(given, batch.latents[:, :, :1], noisy[:, :, :1])
    times = batch.times * 1000
    times = torch.stack([times * ~batch.conditioned, times], dim=1)
    predicted, features = denoise(transformer, noisy, times, context, bias, fused=fused)
    error = (predicted.float() - (batch.noise - batch.latents)).square()
    weight = 1 + salience * stands_out(batch.latents)
    weight[:, :, :1] *= ~given
    return (error * weight).sum() / (weight.sum() * error.shape[1]), features.float()


def stands_out(latents: Tensor) -> Tensor:
    """How far each place (batch, 1, frames, height, width) is from its clip's middle value; 1 on average, at most 4.

    A subject covers a tenth of a picture: without it, a loss hears of its colour a tenth of the time.
    """
    middle = latents.flatten(2).median(dim=2).values.view(*latents.shape[:2], 1, 1, 1)
    distance = (latents - middle).square().mean(dim=1, keepdim=True).sqrt()
    return (distance / distance.mean(dim=(2, 3, 4), keepdim=True).clamp_min(1e-6)).clamp_max(4.0)


def draw_batch(rng: random.Random, feed: Feed, diet: Diet, device: torch.device) -> Batch:
    """Clips of one size with captions, noise and times."""
    latents, noises, times, layouts, captions = [], [], [], [], []
    generator = torch.Generator().manual_seed(rng.randrange(2**62))
    for _ in range(feed.batch):
        shard = load_shard(rng.choice(feed.shards))
        place = rng.randrange(len(shard.scenes))
        clean, layout = shard.latents[place].float(), shard.layouts[place]
        upscaled = None if shard.upscaled is None else shard.upscaled[place].float()
        if feed.window:
            rows, columns = place_window(rng, layout, feed.window)
            clean = clean[..., rows, columns]
            layout = cut(layout, rows, columns)
            upscaled = None if upscaled is None else upscaled[..., rows, columns]
        noise, time = torch.randn(clean.shape, generator=generator), sample_time(rng, diet.low, diet.high)
        if upscaled is not None and rng.random() < diet.refine_share:
            start = rng.uniform(*REFINE_STARTS)
            noise += (1 - start) / start * (upscaled - clean)
            time = start * max(rng.random(), rng.random())
        latents.append(clean)
        noises.append(noise)
        times.append(time)
        layouts.append(layout)
        captions.append(tell(shard.scenes[place], rng, diet.empty_share))
    # of a single frame that is given nothing would be left to learn
    image_share = diet.image_share if latents[0].shape[1] > 1 else 0.0
    conditioned = torch.tensor([rng.random() < image_share for _ in captions])
    return Batch(
        torch.stack(latents).to(device),
        torch.stack(noises).to(device),
        torch.tensor(times).to(device),
        conditioned.to(device),
        torch.stack(layouts).to(device),
        captions,
    )


def tell(scene: Scene, rng: random.Random, empty_share: float) -> str:
    """A caption for one visit: a third are plain, so that words find their meaning soon; the others are natural, half
    of them leave parts out, so that each part is also learned apart from the others; a few are empty."""
    if rng.random() < empty_share:
        return ""
    if rng.random() < 1 / 3:
        return plain_caption(scene)
    return caption(scene, rng, omit=0.2 if rng.random() < 0.5 else 0.0, noise=0.25)


def sample_time(rng: random.Random, low: float, high: float) -> float:
    """Logit-normal, moved to the noisy side like the scheduler's steps, with a uniform floor; within low..high."""
    while True:
        if rng.random() < 0.2:
            return rng.uniform(low, high)
        u = torch.sigmoid(torch.tensor(rng.gauss(0, 1))).item()
        time = 4 * u / (1 + 3 * u)
        if low <= time <= high:
            return time
