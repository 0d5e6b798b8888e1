"""What replicas are told of a run's clips before the first of them comes: how large they are, and their prompts."""

from __future__ import annotations

from collections.abc import Iterable

from wanflow import cascade
from wanflow.engines.prompts import MAX_PROMPTS, prompts_of
from wanflow.model import Clip


def largest_by_weights(clips: Iterable[Clip]) -> dict[str, tuple[int, int, int]]:
    """By weights, (width, height, frames) for which there must be memory: of the largest clip, after its cascade, at
    the length of the longest.
    """
    found: dict[str, tuple[int, int, int]] = {}
    for clip in clips:
        width, height, num_frames = found.get(clip.weights, (0, 0, 0))
        size = max((width, height), cascade.size_after(clip), key=lambda size: size[0] * size[1])
        found[clip.weights] = (*size, max(num_frames, clip.num_frames))
    return found


def prompts_by_weights(clips: Iterable[Clip]) -> dict[str, tuple[str, ...]]:
    """By weights, every prompt of ``clips`` and their trunks; without those that have more than an engine can keep."""
    found: dict[str, dict[str, None]] = {}
    for clip in clips:
        prompts = found.setdefault(clip.weights, {})
        if len(prompts) <= MAX_PROMPTS:
            prompts.update(dict.fromkeys(prompts_of(clip)))
            if clip.branch is not None:
                prompts[clip.branch.prompt] = None
    return {weights: tuple(prompts) for weights, prompts in found.items() if len(prompts) <= MAX_PROMPTS}
