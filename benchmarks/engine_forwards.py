"""Forwards of Wan2.2 T2V-A14B's true shape with random weights: wanflow's engine beside diffusers' own pipeline.

Needs torch, diffusers and wanflow's source; no Ray, no checkpoint, no network. The experts (28 GB each in bfloat16) are
made on the device. Prompts are random rows, so the text encoder is left out, and so is loading. Figures of a size:

``step_s``           the median step with guidance, two forwards, of wanflow's engine
``diffusers_step_s`` the same of ``WanPipeline`` on the same weights, in the same process
``vs_diffusers``     how many times longer diffusers takes
``tflops``           what wanflow's step does a second, and ``of_ceiling``: its share of the matrix product's
``clip_s``           all timed steps and the decoding of the clip; a whole clip with ``--steps 40``
``peak_gib``         memory of the device at its highest
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

from wanflow.engines.wan import WanEngine
from wanflow.model import Clip, EngineSpec, Mode, Sampling

#: tokens of the prompt and of the negative prompt; the engine and the pipeline pad them to 512
PROMPT_TOKENS = 60


@dataclass(frozen=True)
class Shape:
    """Dimensions of one expert, and of the VAE (None: the published one's)."""

    num_layers: int
    num_heads: int
    head_dim: int
    ffn_dim: int
    text_dim: int
    vae: dict[str, Any] | None = None

    @property
    def dim(self) -> int:
        return self.num_heads * self.head_dim


SHAPES = {
    "a14b": Shape(40, 40, 128, 13824, 4096),
    "tiny": Shape(2, 2, 16, 64, 32, {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}),
}


def measure_forwards(
    device: str, shape_name: str, sizes: list[tuple[int, ...]], num_frames: int, num_steps: int
) -> dict[str, Any]:
    shape = SHAPES[shape_name]
    if shape_name == "tiny":
        sizes, num_frames = [(64, 32)], 5
    engine = make_engine(shape, device, num_steps)
    ceiling = measure_ceiling(device)
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "shape": shape_name,
        "ceiling_tflops": round(ceiling, 2),
        "sizes": [],
    }
    for width, height in sizes:
        figures["sizes"].append(_measure_size(engine, shape, width, height, num_frames, num_steps, ceiling))
    return figures


def _measure_size(
    engine: WanEngine, shape: Shape, width: int, height: int, num_frames: int, num_steps: int, ceiling: float
) -> dict[str, Any]:
    device = engine.device
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clip = Clip(
        Mode.T2V, engine.spec.weights, "a prompt", "what not", None, 0, width, height, num_frames, 16.0,
        engine.spec.sampling,
    )  # fmt: skip
    theirs = _time_steps(device, lambda after: _diffusers(engine, clip, num_steps, after))
    made: list[torch.Tensor] = []

    def ours(after: Callable[[], None]) -> None:
        made.append(
            engine.generate(clip, (), lambda stage, step, of: after() if stage == "denoise" else None)
        )

    began_s = time.perf_counter()
    steps = _time_steps(device, ours)
    for _ in engine.frames(engine.decode_pixels(made[0])):
        pass
    _wait(device)
    clip_s = time.perf_counter() - began_s
    tflops = 2 * forward_flop(shape, width, height, num_frames) / statistics.median(steps) / 1e12
    return {
        "size": f"{width}x{height}x{num_frames}",
        "steps": num_steps,
        "step_s": round(statistics.median(steps), 4),
        "diffusers_step_s": round(statistics.median(theirs), 4),
        "vs_diffusers": round(statistics.median(theirs) / statistics.median(steps), 3),
        "tflops": round(tflops, 2),
        "of_ceiling": round(tflops / ceiling, 3),
        "clip_s": round(clip_s, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if device == "cuda" else None,
    }


def make_engine(shape: Shape, device: str, num_steps: int) -> WanEngine:
    """wanflow's engine around two random experts and a random VAE."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    before = torch.get_default_dtype()
    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            experts = [
                WanTransformer3DModel(
                    num_layers=shape.num_layers, num_attention_heads=shape.num_heads, ffn_dim=shape.ffn_dim,
                    attention_head_dim=shape.head_dim, text_dim=shape.text_dim, in_channels=16, out_channels=16,
                ).eval()
                for _ in range(2)
            ]  # fmt: skip
        finally:
            torch.set_default_dtype(before)
        vae = AutoencoderKLWan(**(shape.vae or {})).eval()
    # half of the steps each: the boundary between the two middle ones
    schedule = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=12.0
    )
    schedule.set_timesteps(num_steps)
    middle = num_steps // 2
    boundary = (
        float(schedule.timesteps[middle - 1] + schedule.timesteps[middle]) / 2000 if num_steps > 1 else 0.0
    )
    spec = EngineSpec(
        url="random", family="wan", name="random", weights="random", modes=frozenset({Mode.T2V}), fps=16.0, grid=16,
        frame_stride=4, sizes=((832, 480),), num_frames=81,
        sampling=Sampling(num_steps, 4.0, 3.0, 12.0, "unipc", boundary),
    )  # fmt: skip
    return WanEngine(
        spec=spec, device=device, text=_RandomText(shape.text_dim, device, dtype), experts=experts, vae=vae,
        images=None, expand_timesteps=False, scheduler_config=dict(schedule.config),
    )  # type: ignore[arg-type]  # fmt: skip


class _RandomText(torch.nn.Module):
    """Rows as UMT5 would give them, for any prompt."""

    def __init__(self, width: int, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._rows = torch.randn(1, PROMPT_TOKENS, width, device=device, dtype=dtype)

    @property
    def model(self) -> torch.nn.Module:
        return self

    def knows(self, prompt: str) -> bool:
        return True

    def encode(self, prompt: str) -> torch.Tensor:
        return self._rows


def _diffusers(engine: WanEngine, clip: Clip, num_steps: int, after: Callable[[], None]) -> None:
    high, low = engine._experts
    sampling = clip.sampling
    scheduler = UniPCMultistepScheduler.from_config(engine._scheduler_config)
    pipeline: Any = WanPipeline(
        tokenizer=None, text_encoder=None, vae=engine._vae, scheduler=scheduler, transformer=high,
        transformer_2=low, boundary_ratio=sampling.boundary,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    rows = engine._text.encode("")
    padded = torch.cat([rows, rows.new_zeros(1, 512 - rows.shape[1], rows.shape[2])], dim=1)

    def step_done(pipe: object, step: int, t: object, given: dict[str, Any]) -> dict[str, Any]:
        after()
        return {}

    after()
    pipeline(
        prompt_embeds=padded, negative_prompt_embeds=padded, height=clip.height, width=clip.width,
        num_frames=clip.num_frames, num_inference_steps=num_steps, guidance_scale=sampling.guidance,
        guidance_scale_2=sampling.guidance_low, output_type="latent", callback_on_step_end=step_done,
    )  # fmt: skip


def _time_steps(device: str, work: Callable[[Callable[[], None]], None]) -> list[float]:
    """Seconds of each step of ``work``, which calls what it is given at the start and after every step; the first step
    warms up and does not count."""
    marks: list[float] = []

    def mark() -> None:
        _wait(device)
        marks.append(time.perf_counter())

    work(mark)
    steps = [b - a for a, b in pairwise(marks)]
    return steps[1:] or steps


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure_ceiling(device: str) -> float:
    """TFLOP/s of a large matrix product in the precision of the experts, best of ten."""
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        _wait(device)
        began_s = time.perf_counter()
        a @ b
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - began_s) / 1e12)
    return best


def forward_flop(shape: Shape, width: int, height: int, num_frames: int) -> float:
    """Multiplications and additions of one forward's blocks: projections and attention of itself, of the text, and the
    feed-forward; N tokens, T rows of text."""
    tokens = ((num_frames - 1) // 4 + 1) * (height // 16) * (width // 16)
    dim, text = shape.dim, 512
    itself = 8 * tokens * dim**2 + 4 * tokens**2 * dim
    cross = 4 * tokens * dim**2 + 4 * text * dim**2 + 4 * tokens * text * dim
    return float(shape.num_layers * (itself + cross + 4 * tokens * dim * shape.ffn_dim))


def table(figures: dict[str, Any]) -> str:
    rows = figures["sizes"]
    lines = [
        f"{figures['device']}, {figures['shape']}; matrix product {figures['ceiling_tflops']} TFLOP/s",
        "",
    ]
    lines += [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row.values()))} |" for row in rows)])
