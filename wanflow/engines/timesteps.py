"""The timesteps of a sampling, and the step at which its clips leave their trunk, worked out without torch.

A plan must know how many steps a trunk has before anything is loaded. The formulas are those of diffusers' UniPC with
flow sigmas and of its FlowMatchEuler, in their precision, and tests hold them to each other. Limit: they follow the
sampling alone; a checkpoint whose own scheduler configuration bends the schedule further (``shift_terminal``, Karras
sigmas; no published Wan has any) branches at the same number of steps, but its boundary may lie at another.
"""

from __future__ import annotations

import math
from typing import Literal

from wanflow.errors import EngineError
from wanflow.model import EngineSpec, Sampling

_TRAIN_TIMESTEPS = 1000


def timesteps(sampling: Sampling) -> list[float]:
    """The timestep of each step, from noise to picture, as the scheduler of ``sampling`` sets them."""
    import numpy as np

    shift, num = sampling.flow_shift, sampling.steps
    if sampling.scheduler == "unipc":
        sigmas = np.linspace(1, 1 / _TRAIN_TIMESTEPS, num + 1)[:-1]
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        if abs(float(sigmas[0]) - 1) < 1e-6:
            sigmas[0] -= 1e-6
        return [float(t) for t in (sigmas * _TRAIN_TIMESTEPS).astype(np.int64)]
    # its range is shifted once when it is made, and each step once more
    least = np.float32(1) / np.float32(_TRAIN_TIMESTEPS)
    least = np.float32(shift) * least / (np.float32(1) + np.float32(shift - 1) * least)
    spread = np.linspace(1.0 * _TRAIN_TIMESTEPS, float(least) * _TRAIN_TIMESTEPS, num) / _TRAIN_TIMESTEPS
    shifted = (shift * spread / (1 + (shift - 1) * spread)).astype(np.float32)
    return [float(t) for t in shifted * np.float32(_TRAIN_TIMESTEPS)]


def high_noise_steps(sampling: Sampling) -> int:
    """How many steps lie at or above the boundary: those of the high-noise expert. All, where there is no boundary."""
    if sampling.boundary is None:
        return sampling.steps
    return sum(t >= sampling.boundary * _TRAIN_TIMESTEPS for t in timesteps(sampling))


def last_steps(sampling: Sampling, strength: float) -> int:
    """How many of the schedule's last steps a clip takes that redraws ``strength`` of a source video.

    As WanVideoToVideoPipeline of diffusers counts them. EngineError where it is none.
    """
    found = min(int(sampling.steps * strength), sampling.steps)
    if found < 1:
        raise EngineError(
            f"{strength:g} of {sampling.steps} steps is less than one; give at least {1 / sampling.steps:.3g}"
        )
    return found


def branch_steps(spec: EngineSpec, sampling: Sampling, at: float | Literal["boundary"]) -> int:
    """Steps of the trunk of a clip that branches at a share of its steps, or at the boundary.

    EngineError where there is no boundary, or nothing would be shared, or nothing be the clip's own.
    """
    num = sampling.steps
    if at == "boundary":
        if sampling.boundary is None:
            raise EngineError(
                f"clip.branch.at: boundary: {spec.name} has one expert and so no boundary; "
                "give a share of the steps, such as 0.6"
            )
        found, what = high_noise_steps(sampling), f"boundary: the boundary ({sampling.boundary:g})"
    else:
        found, what = math.floor(at * num + 0.5), f"{at:g} of {num} steps"
    if 0 < found < num:
        return found
    if found == 0:
        raise EngineError(
            f"clip.branch.at: {what} is before the first step, so that clips would share nothing; "
            f"{_instead(num)}, or leave clip.branch out"
        )
    raise EngineError(
        f"clip.branch.at: {what} is after the last of {num} steps, so that a clip's own prompt would change nothing; "
        f"{_instead(num)}"
    )


def _instead(num_steps: int) -> str:
    if num_steps < 2:
        return "take more than one step (engine.steps)"
    least, most = 1 / num_steps, 1 - 1 / num_steps
    return f"give a share of the steps from {least:.3g} to {most:.3g}"
