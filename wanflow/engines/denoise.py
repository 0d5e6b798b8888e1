"""The denoise loop: from noise (or re-noised latents) to latents, with one or two experts and guidance for
each.

Equals the loops of WanPipeline and WanImageToVideoPipeline on the same weights, noise and schedule (the
reference tests hold it to that), with two differences on purpose: guidance is off for each expert on its own
when it is 1 or less, where the pipelines look at the first number only; and text-to-video with
``expand_timesteps`` passes one timestep instead of one a token, which is the same arithmetic without the
memory. The profile ``fast`` may end guidance before the last step, and compute both of its branches in one forward:
rounded otherwise than in two, so never because there happens to be memory for it. Knows nothing of prompts, files
or clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from wanflow.engines.unfinished import Keep, restore, take
from wanflow.errors import RenderError
from wanflow.model import Cause, Sampling

_TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class Condition:
    """What image-to-video adds to the experts' input; all None: text-to-video.

    ``channels`` (36-channel layout): mask and image latents, joined to the latents at every step.
    ``first`` (``expand_timesteps``): the clean latents of the first frame, whose tokens are at time 0.
    ``features`` (Wan 2.1): what CLIP sees, (images, rows, width), which the blocks attend to beside the prompt.
    """

    channels: torch.Tensor | None = None
    first: torch.Tensor | None = None
    features: torch.Tensor | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """As its fields stand."""
        return self.channels, self.first, self.features

    def model_input(self, latents: torch.Tensor) -> torch.Tensor:
        if self.channels is not None:
            return torch.cat([latents, self.channels], dim=1)
        return self.hold(latents)

    def hold(self, latents: torch.Tensor) -> torch.Tensor:
        """``latents`` with the clean first frame in its place."""
        if self.first is None:
            return latents
        return torch.cat([self.first.expand(len(latents), -1, -1, -1, -1), latents[:, :, 1:]], dim=2)

    def timestep(self, t: torch.Tensor, latents: torch.Tensor, patch: tuple[int, int, int]) -> torch.Tensor:
        if self.first is None:
            return t.expand(len(latents))
        tokens = latents.shape[3] // patch[1] * (latents.shape[4] // patch[2])
        times = t.to(torch.float32).repeat(latents.shape[2] // patch[0], tokens)
        times[0] = 0
        return times.flatten()[None].expand(len(latents), -1)


def draw_noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise that depends on the seed and the shape alone: drawn on the CPU in float32."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def make_schedule(
    sampling: Sampling,
    saved: Mapping[str, Any],
    device: torch.device,
    strength: float | None = None,
    steps: int | None = None,
    last: int | None = None,
) -> Any:
    """A scheduler with its timesteps set: all of them, the ``last`` of these, or ``steps`` from the noise share
    ``strength`` down to none.

    ``saved`` is the checkpoint's own scheduler configuration; its flow shift is replaced. The shift maps an
    unshifted time u to ``sigma = shift * u / (1 + (shift - 1) * u)``; a partial schedule is even in u, as the
    full one is. Distilled weights (``turbo``) know the times that they were trained at and no others, 1000, 750, 500
    and 250 before the shift: exactly even ones, which neither schedule takes by itself.
    """
    same = str(saved.get("_class_name", "")).startswith(
        "UniPC" if sampling.scheduler == "unipc" else "FlowMatchEuler"
    )
    kept = {k: v for k, v in saved.items() if same and not k.startswith("_")}
    if sampling.scheduler == "unipc":
        flow = {
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": sampling.flow_shift,
        }
        scheduler: Any = UniPCMultistepScheduler.from_config(kept | flow)
    elif sampling.scheduler == "euler":
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(kept | {"shift": sampling.flow_shift})
    else:
        raise RenderError(f"unknown scheduler {sampling.scheduler!r}: unipc or euler", Cause.BAD_INPUT)
    if strength is None and sampling.profile == "turbo":
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, sampling.steps + 1)[:-1], device=device)
    elif strength is None:
        scheduler.set_timesteps(sampling.steps, device=device)
    else:
        start = strength / (sampling.flow_shift - (sampling.flow_shift - 1.0) * strength)
        sigmas = np.linspace(start, 0.0, (steps or sampling.steps) + 1)[:-1]
        scheduler.set_timesteps(sigmas=sigmas, device=device)
    if last is not None:
        scheduler.timesteps, scheduler.sigmas = scheduler.timesteps[-last:], scheduler.sigmas[-last - 1 :]
        scheduler.num_inference_steps = last
    scheduler.set_begin_index(0)
    return scheduler


def add_noise(schedule: Any, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """``latents`` with as much ``noise`` as the schedule begins with."""
    sigma = float(schedule.sigmas[0])
    return (1.0 - sigma) * latents + sigma * noise


#: (expert, its input, timestep, a prompt for each of the input, image features, guidance branch) -> predicted flow; the
#: caller knows how prompts and features get there
Predict = Callable[
    [Any, torch.Tensor, torch.Tensor, Sequence[torch.Tensor], torch.Tensor | None, str], torch.Tensor
]
#: names of the guidance branches, and of both in one forward
POSITIVE, NEGATIVE, BOTH = "positive", "negative", "both"


def num_guided_steps(sampling: Sampling, num_steps: int) -> int:
    """How many of a stage's steps may have guidance, counted from its first one."""
    return math.ceil((sampling.shortcuts.guidance_until if sampling.shortcuts else 1.0) * num_steps)


def denoise(
    experts: list[Any],
    predict: Predict,
    scheduler: Any,
    sampling: Sampling,
    latents: torch.Tensor,
    prompts: tuple[torch.Tensor, torch.Tensor | None],
    condition: Condition,
    on_step: Callable[[int, int], None],
    keep: Keep | None = None,
) -> torch.Tensor:
    """Denoised latents. ``prompts`` are positive and negative; ``on_step(done, of)`` may raise to stop.

    ``keep.start`` takes the place of ``latents``; the steps that it stands for are not taken again.
    """
    boundary = None if sampling.boundary is None else sampling.boundary * _TRAIN_TIMESTEPS
    positive, negative = prompts
    num_steps, first = len(scheduler.timesteps), 0
    num_guided = num_guided_steps(sampling, num_steps)
    batches = sampling.shortcuts is not None and sampling.shortcuts.batch_guidance
    if keep is not None and keep.start is not None:
        latents, first = restore(scheduler, keep.start, latents.device), keep.start.step
    on_step(first, num_steps)
    for i, t in enumerate(scheduler.timesteps[first:], first):
        high = boundary is None or bool(t >= boundary)
        expert = experts[0] if high else experts[-1]
        guidance = sampling.guidance if high or sampling.guidance_low is None else sampling.guidance_low
        x = condition.model_input(latents).to(expert.dtype)
        time = condition.timestep(t, latents, expert.config.patch_size)
        features = condition.features
        if guidance > 1.0 and i < num_guided:
            assert negative is not None
            if batches:
                x, time = torch.cat([x, x]), torch.cat([time, time])
                flow, without = predict(expert, x, time, (positive, negative), features, BOTH).chunk(2)
            else:
                flow = predict(expert, x, time, (positive,), features, POSITIVE)
                without = predict(expert, x, time, (negative,), features, NEGATIVE)
            flow = without + guidance * (flow - without)
        else:
            flow = predict(expert, x, time, (positive,), features, POSITIVE)
        # In the order in which a file would hold it: no kernel may see whether a clip was ever interrupted.
        latents = scheduler.step(flow.contiguous(), t, latents, return_dict=False)[0]
        if keep is not None:
            keep.offer(i + 1, num_steps, partial(take, scheduler, latents, i + 1))
        on_step(i + 1, num_steps)
    latents = condition.hold(latents)
    if not bool(torch.isfinite(latents).all()):
        raise RenderError("denoising gave NaN or infinite latents", Cause.BAD_OUTPUT)
    return latents
