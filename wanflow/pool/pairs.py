"""Clips in pairs, where the experts of a checkpoint take turns on the device: both clips pass the high-noise expert,
then the low-noise one.

The order of experts is high, high, low, low in place of high, low, high, low. What the second clip has then is an
unfinished clip's steps in the store, which whoever renders it goes on from. Pure but for the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from wanflow.engines import Engine, Keep, OnStep, Unfinished, high_noise_steps
from wanflow.engines.trunk import BranchReached, ToBranch
from wanflow.model import Clip


def num_high_steps(clip: Clip) -> int:
    """Steps of the high-noise expert that a clip may take in a pair; 0: it has none, or no others, or is to begin
    where another clip, or a video, ends. An image is encoded by the VAE, for which the expert would have to leave.
    """
    if clip.sampling.boundary is None or clip.images or clip.video is not None or clip.branch is not None:
        return 0
    found = high_noise_steps(clip.sampling)
    return found if found < clip.num_steps else 0


def is_like(clip: Clip, other: Clip) -> bool:
    """Whether both take the same steps with the same weights, so that nothing but the clip changes between them."""
    return num_high_steps(clip) > 0 and (clip.weights, clip.loras, clip.sampling) == (
        other.weights,
        other.loras,
        other.sampling,
    )


def take_first(
    engine: Engine, clip: Clip, images: Sequence[bytes], num_steps: int, on_step: OnStep, keep: Keep
) -> Unfinished:
    """The state of a clip without branch after its first ``num_steps`` steps. Raises as ``generate`` does."""
    end = ToBranch(num_steps, keep)
    with suppress(BranchReached):
        engine.generate(clip, images, on_step, end)
    assert end.reached is not None, "the engine offered no steps"
    return end.reached
