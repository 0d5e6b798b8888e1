"""The engine of wanflow's replicas in this benchmark, in a module that takes nothing of the driver with it.

A clip is one frame of 16 x 16 pixels; its latents are a few bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.sleeper import Setup, Sleeper
from wanflow.engines import Keep, OnStep, Unfinished
from wanflow.model import Clip, EngineSpec, Loading
from wanflow.pool import keeping, rendering


class SleepingEngine:
    """Sleeps a clip's true duration, which stands in its prompt, step by step. Latents are a few bytes."""

    device = "sleeping"
    #: there is nothing to decode
    decodes_beside = False
    loading: Loading | None = None

    def __init__(self, spec: EngineSpec, setup: Setup) -> None:
        self.spec = spec
        self._sleeper = Sleeper(setup)

    def set_thrift(self, thrift: int) -> None:
        pass

    def generate(
        self, clip: Clip, images: Sequence[bytes], on_step: OnStep, keep: Keep | None = None
    ) -> bytes:
        num_steps = clip.sampling.steps
        first = keep.start.step if keep and keep.start else 0

        def after(step: int) -> None:
            if keep:
                keep.offer(step, num_steps, lambda: Unfinished(step, num_steps, "sleeping", {}))
            on_step("denoise", step, num_steps)

        on_step("denoise", first, num_steps)
        self._sleeper.work(float(clip.prompt.split()[1]), num_steps, after, first)
        return b"latents"

    def decode_pixels(self, latents: bytes) -> Iterator[bytes]:
        return iter([latents])

    def frames(self, pixels: Iterator[bytes]) -> Iterator[np.ndarray[Any, Any]]:
        yield np.full((1, 16, 16, 3), 128, np.uint8)


def load_sleeping_engine(
    setup: Setup, spec: EngineSpec, device: str | None, num_threads: int | None
) -> SleepingEngine:
    """In the replica's process. Its latents are bytes and its steps are numbers: torch, which takes seconds to load on
    a busy core and which no peer's actor needs here, stays out."""
    rendering.dump_latents = lambda latents: latents[0]  # type: ignore[assignment,return-value]
    rendering.load_latents = lambda data: [data]  # type: ignore[list-item]
    keeping.dump_unfinished = lambda state: json.dumps([state.step, state.num_steps]).encode()
    keeping.load_unfinished = lambda data: Unfinished(*json.loads(data), "sleeping", {})
    return SleepingEngine(spec, setup)
