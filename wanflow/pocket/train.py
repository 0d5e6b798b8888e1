"""Rebuild pocket from a seed: ``python -m wanflow.pocket.train --out DIR``.

Hardware: one GPU (minutes) or two CPU cores (a few hours; ``torchrun --nproc-per-node 2 -m
wanflow.pocket.train ...`` uses both well). Stopped at any moment, the same command goes on from the last save. Stages:

    vae       the autoencoder, on crops of drawn scenes            -> vae.pt, vae.jsonl
    polish    the VAE once more, over the full length              -> polish.pt
    text      the text encoder, on captions alone; then frozen     -> text.pt
    latents   scenes drawn and encoded once                        -> latents/*.pt
    denoiser  one transformer on all times                         -> denoiser.pt
    high      the transformer continued above the boundary         -> high.pt
    low       and below it, where outlines are drawn, at twice the size too -> low.pt
    export    the folder that diffusers and wanflow load           -> checkpoint/

To fine-tune on other scenes, change ``scenes.draw`` and ``grammar`` (or write latent shards of your own clips
in the form of ``latents.Shard``) and run ``--stage high``, ``low`` and ``export`` with ``--start CHECKPOINT`` and a
lower ``--rate``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import nn
from transformers import UMT5EncoderModel

from wanflow.pocket.autoencoder import build_vae
from wanflow.pocket.denoiser import BOUNDARY, build_transformer
from wanflow.pocket.export import export
from wanflow.pocket.latents import make_shard, shard_path
from wanflow.pocket.reading import train_text
from wanflow.pocket.scenes import NUM_FRAMES
from wanflow.pocket.stages import Stage, load_average, rank
from wanflow.pocket.text import build_text_encoder, build_tokenizer
from wanflow.pocket.train_denoiser import Diet, Feed, train_denoiser
from wanflow.pocket.train_vae import SIZES, measure_latents, polish_vae, train_vae

STAGES = ("vae", "polish", "text", "latents", "denoiser", "high", "low", "export")
#: Clips by shape: half are 16:9.
SIZE_WEIGHTS = (0.5, 0.25, 0.25)
#: Latents across and down of the windows on which the low expert learns outlines.
WINDOW = 8
#: How often a step of the denoiser takes stills, and from which share of its steps on.
STILL_SHARES = {0.0: 0.72, 0.6: 0.3}


@dataclass(frozen=True)
class Pantry:
    """Clips of one length at one scale, in the three shapes."""

    num_frames: int
    #: Times the base size.
    scale: int
    num_shards: int
    #: Clips a shard.
    num_clips: int
    #: Clips a step, of each process.
    batch: int

    def shards(self) -> list[list[tuple[tuple[int, int], int]]]:
        """(size, number) of every shard, by shape."""
        return [
            [
                ((height * self.scale, width * self.scale), i)
                for i in range(max(1, round(self.num_shards * weight)))
            ]
            for (height, width), weight in zip(SIZES, SIZE_WEIGHTS, strict=True)
        ]


@dataclass(frozen=True)
class Recipe:
    """How much of everything. Batches are a process's own."""

    vae: Stage
    polish: Stage
    vae_batch: int
    text: Stage
    #: Single frames: what things look like is learned on these, at a fifth of a clip's cost.
    stills: Pantry
    clips: Pantry
    doubled: Pantry
    denoiser: Stage
    high: Stage
    low: Stage


CPU = Recipe(
    vae=Stage("vae", 4000, 0.03, cooldown=0.35),
    polish=Stage("polish", 2000, 0.005, cooldown=0.9),
    vae_batch=2,
    text=Stage("text", 3000, 0.016, cooldown=0.6, average=0.99),
    stills=Pantry(1, 1, num_shards=24, num_clips=1000, batch=40),
    clips=Pantry(NUM_FRAMES, 1, num_shards=24, num_clips=200, batch=8),
    doubled=Pantry(NUM_FRAMES, 2, num_shards=12, num_clips=80, batch=8),
    denoiser=Stage("denoiser", 6000, 0.006, warmup=40, cooldown=0.4, average=0.99, save_every=100),
    high=Stage("high", 1200, 0.006, warmup=20, cooldown=0.6, average=0.99, save_every=100),
    low=Stage("low", 4000, 0.006, warmup=20, cooldown=0.5, average=0.99, save_every=100),
)
GPU = replace(
    CPU,
    vae=Stage("vae", 6000, 0.03, cooldown=0.5),
    polish=Stage("polish", 3000, 0.01, cooldown=0.9),
    vae_batch=32,
    stills=Pantry(1, 1, num_shards=60, num_clips=1000, batch=640),
    clips=Pantry(NUM_FRAMES, 1, num_shards=120, num_clips=200, batch=128),
    doubled=Pantry(NUM_FRAMES, 2, num_shards=120, num_clips=200, batch=128),
    denoiser=Stage("denoiser", 12000, 0.01, warmup=100, cooldown=0.5, average=0.999),
    high=Stage("high", 2500, 0.008, warmup=20, cooldown=0.8, average=0.998),
    low=Stage("low", 2500, 0.008, warmup=20, cooldown=0.8, average=0.998),
)


def train(
    out: Path,
    stages: tuple[str, ...],
    recipe: Recipe,
    device: torch.device,
    *,
    seed: int,
    minutes: float | None,
    fused: bool,
    start: Path | None = None,
) -> None:
    """Run ``stages`` in order. Each finds what the earlier ones left in ``out``, else in the checkpoint ``start``. What
    would build on a stage that ``minutes`` stopped waits for the next run.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    vae, encoder = build_vae().to(device), build_text_encoder(len(tokenizer)).to(device)
    base, high, low = (build_transformer().to(device) for _ in range(3))
    if start is not None:
        fill(start, vae, encoder, high, low)
        base.load_state_dict(low.state_dict())
    if "vae" in stages and not train_vae(
        vae, recipe.vae, out, seed=seed, batch=recipe.vae_batch, minutes=minutes
    ):
        return
    encodes = start is None and bool(set(stages) - {"vae", "text"})
    load_average(out / "vae.pt", nn.ModuleDict({"vae": vae}), needed=encodes)
    if "polish" in stages and not polish_vae(
        vae, recipe.polish, out, seed=seed, batch=recipe.vae_batch, minutes=minutes
    ):
        return
    load_average(out / "polish.pt", nn.ModuleDict({"vae": vae}), needed=False)
    if {"latents", "export"} & set(stages):
        set_latent_scale(vae, out, seed)
    if "text" in stages and not train_text(tokenizer, encoder, recipe.text, out, seed=seed, minutes=minutes):
        return
    reads = start is None and bool(set(stages) & {"denoiser", "high", "low", "export"})
    load_average(out / "text.pt", nn.ModuleDict({"text": encoder}), needed=reads)
    if "latents" in stages:
        make_shards(vae, recipe, out, seed)
    stills, clips, doubled = (feeds(out, p) for p in (recipe.stills, recipe.clips, recipe.doubled))
    if "denoiser" in stages:
        diets = {
            int(start * recipe.denoiser.num_steps): Diet(
                mixed(stills, share, clips), salience=1.5, layout=0.5
            )
            for start, share in STILL_SHARES.items()
        }
        if not train_denoiser(
            base, encoder, tokenizer, diets, recipe.denoiser, out, seed=seed, fused=fused, minutes=minutes
        ):
            return
    draws = start is None and bool(set(stages) & {"high", "low", "export"})
    load_average(out / "denoiser.pt", nn.ModuleDict({"transformer": base}), needed=draws)
    if start is None or (out / "denoiser.pt").exists():
        high.load_state_dict(base.state_dict())
        low.load_state_dict(base.state_dict())
    whole, near = mixed(stills, 0.5, clips), mixed(windowed(stills), 0.5, windowed(clips))
    fed_low = mixed(doubled, 0.25, mixed(near, 0.75, whole))
    for expert, stage, diet in (
        (high, recipe.high, Diet(whole, low=BOUNDARY, salience=1.5, layout=0.5)),
        (low, recipe.low, Diet(fed_low, high=BOUNDARY, salience=1.5, layout=0.5)),
    ):
        if stage.name in stages and not train_denoiser(
            expert, encoder, tokenizer, {0: diet}, stage, out, seed=seed, fused=fused, minutes=minutes
        ):
            return
    if "export" in stages and rank() == 0:
        load_average(out / "high.pt", nn.ModuleDict({"transformer": high}), needed=False)
        load_average(out / "low.pt", nn.ModuleDict({"transformer": low}), needed=False)
        export(out / "checkpoint", vae.cpu(), encoder.cpu(), tokenizer, high.cpu(), low.cpu())


def feeds(out: Path, pantry: Pantry) -> list[Feed]:
    """A feed a shape."""
    return [
        Feed([shard_path(out, size, pantry.num_frames, i) for size, i in shards], weight, pantry.batch)
        for shards, weight in zip(pantry.shards(), SIZE_WEIGHTS, strict=True)
    ]


def windowed(feeds: Sequence[Feed]) -> list[Feed]:
    """The same near the subjects; three times as many fit into a step, since most of a picture is wall."""
    return [replace(feed, window=WINDOW, batch=3 * feed.batch) for feed in feeds]


def mixed(some: Sequence[Feed], share: float, others: Sequence[Feed]) -> list[Feed]:
    """``share`` of the steps with the first, the rest with the others."""
    both = [(feed, share) for feed in some] + [(feed, 1 - share) for feed in others]
    return [replace(feed, weight=feed.weight * part) for feed, part in both]


def fill(
    checkpoint: Path, vae: AutoencoderKLWan, encoder: UMT5EncoderModel, high: nn.Module, low: nn.Module
) -> None:
    """Weights of a finished checkpoint, to go on from. Its latents keep their scale."""
    parts = {"vae": vae, "text_encoder": encoder, "transformer": high, "transformer_2": low}
    for name, module in parts.items():
        (path,) = (checkpoint / name).glob("*.safetensors")
        module.load_state_dict(load_file(path), strict=name != "text_encoder")
    saved = AutoencoderKLWan.load_config(checkpoint / "vae")
    vae.register_to_config(**{k: saved[k] for k in ("latents_mean", "latents_std")})


def set_latent_scale(vae: AutoencoderKLWan, out: Path, seed: int) -> None:
    """Measure the latents' mean and deviation once the VAE is trained; keep them beside its weights."""
    path = out / "latent_scale.pt"
    if not (out / "vae.pt").exists():
        return
    if not path.exists() and rank() == 0:
        torch.save(measure_latents(vae, seed=seed), path)
    if dist.is_initialized():
        dist.barrier()
    mean, std = torch.load(path, weights_only=True)
    vae.register_to_config(latents_mean=[round(m, 5) for m in mean], latents_std=[round(s, 5) for s in std])


def make_shards(vae: AutoencoderKLWan, recipe: Recipe, out: Path, seed: int) -> None:
    """Every missing shard, shared out among the processes."""
    pantries = (recipe.stills, recipe.clips, recipe.doubled)
    wanted = [(pantry, *shard) for pantry in pantries for shape in pantry.shards() for shard in shape]
    num_processes = dist.get_world_size() if dist.is_initialized() else 1
    for pantry, size, i in wanted[rank() :: num_processes]:
        make_shard(
            vae,
            size,
            pantry.num_frames,
            i,
            out,
            seed=seed,
            num_clips=pantry.num_clips,
            upscaled=pantry.scale > 1,
        )
    if dist.is_initialized():
        dist.barrier()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m wanflow.pocket.train", description="Rebuild the pocket checkpoint from a seed."
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for states, logs, latents and the checkpoint"
    )
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--minutes", type=float, help="stop when a stage has taken so many minutes; run again to go on"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="factor on all learning rates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fused", action="store_true", help="compile the transformer's blocks: slower start, faster steps"
    )
    parser.add_argument(
        "--start", type=Path, help="a finished checkpoint to go on from, where --out has no state of its own"
    )
    chosen = parser.parse_args(arguments)
    recipe = GPU if chosen.device == "cuda" else CPU
    for name in ("vae", "text", "polish", "denoiser", "high", "low"):
        stage = getattr(recipe, name)
        recipe = replace(recipe, **{name: replace(stage, lr=stage.lr * chosen.rate)})
    device = torch.device(chosen.device)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl" if chosen.device == "cuda" else "gloo")
        if chosen.device == "cuda":
            device = torch.device("cuda", rank())
            torch.cuda.set_device(device)
        else:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // dist.get_world_size()))
    stages = STAGES if chosen.stage == "all" else (chosen.stage,)
    train(
        chosen.out,
        stages,
        recipe,
        device,
        seed=chosen.seed,
        minutes=chosen.minutes,
        fused=chosen.fused,
        start=chosen.start,
    )
    if dist.is_initialized():  # a process that ends with its group alive may abort
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
