"""Fakes for tests, ours and our users': a clock, an engine, a pool. Deterministic; they never sleep.

``FakeEngine`` draws flat moving colour instead of loading weights, so that a whole job can be tried in a second::

    from wanflow import Job, run
    from wanflow.testing import load_fake_engine

    outcome = run(job, inline=True, load_engine=load_fake_engine)

``FakePool`` is the world in virtual time for the scheduler: replicas that load, render, fail, die, and whose news may
come late, twice or not in order, all from one seed.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from wanflow.engines import Unfinished
from wanflow.errors import RenderError
from wanflow.model import Attempt, Cause, Clip, EngineSpec
from wanflow.schedule.actions import Action, Assemble, Cancel, Probe, Render, RetireReplica, StartReplica
from wanflow.schedule.events import (
    AssembleFailed,
    ClipFound,
    ClipMissing,
    ClipRendered,
    Event,
    RenderFailed,
    ReplicaLost,
    ReplicaReady,
    StepDone,
    VariantPublished,
)

if TYPE_CHECKING:
    import numpy as np

    from wanflow.engines import Keep, Latents, OnStep

# -- an engine -----------------------------------------------------------------------------------------------


class FakeEngine:
    """Follows the engine protocol; draws a colour that follows from the prompt and a band that moves.

    ``failures`` maps a part of a prompt to the cause that such clips fail with, every time.
    """

    def __init__(self, spec: EngineSpec, failures: Mapping[str, Cause] | None = None) -> None:
        self.spec = spec
        self.device = "fake"
        self.failures = dict(failures or {})
        #: prompts in the order in which they were rendered
        self.rendered: list[str] = []
        #: rung of the memory ladder
        self.thrift = 0

    def set_thrift(self, thrift: int) -> None:
        self.thrift = thrift

    def generate(self, clip: Clip, image: bytes | None, on_step: OnStep, keep: Keep | None = None) -> Latents:
        for part, cause in self.failures.items():
            if part in clip.prompt:
                raise RenderError(f"failed on purpose: {part!r} is in the prompt", cause)
        self._take_steps(clip, "denoise", clip.sampling.steps, on_step, keep)
        self.rendered.append(clip.prompt)
        colour = hashlib.sha256(f"{clip.prompt} {clip.seed} {len(image or b'')}".encode()).digest()[:3]
        return _fake_latents(tuple(colour), clip.num_frames, clip.height // 8, clip.width // 8)

    def refine(
        self,
        clip: Clip,
        latents: Latents | None,
        image: bytes | None,
        *,
        strength: float,
        steps: int,
        noise_seed: int,
        on_step: OnStep,
        stage: str,
        keep: Keep | None = None,
    ) -> Latents:
        if latents is None:
            assert keep is not None
            assert keep.start is not None
            latents = keep.start.latents
        self._take_steps(clip, stage, steps, on_step, keep, latents)
        return latents

    def take_step(self, clip: Clip, stage: str, step: int) -> None:
        """The work of a step, counted from 1: nothing, at once. For engines that sleep, or fail half way."""

    def _take_steps(
        self,
        clip: Clip,
        stage: str,
        num_steps: int,
        on_step: OnStep,
        keep: Keep | None,
        latents: Latents | None = None,
    ) -> None:
        first = keep.start.step if keep and keep.start else 0
        on_step(stage, first, num_steps)
        for step in range(first + 1, num_steps + 1):
            self.take_step(clip, stage, step)
            if keep:
                keep.offer(step, num_steps, partial(_fake_state, step, num_steps, latents))
            on_step(stage, step, num_steps)

    def decode(self, latents: Latents) -> Iterator[np.ndarray]:
        for pixels in self.decode_pixels(latents):
            yield ((pixels.numpy()[0].transpose(1, 2, 3, 0) + 1) * 127.5).round().astype("uint8")

    def decode_pixels(self, latents: Latents) -> Iterator[Any]:
        for frame in range(latents.shape[2]):
            yield latents[:, :, frame : frame + 1].repeat_interleave(8, 3).repeat_interleave(8, 4)

    def encode_pixels(self, chunks: Iterator[Any]) -> Latents:
        import numpy as np

        return _tensor(np.concatenate([chunk.numpy()[:, :, :, ::8, ::8] for chunk in chunks], axis=2))


def load_fake_engine(
    spec: EngineSpec, device: str | None = None, num_threads: int | None = None
) -> FakeEngine:
    """A ``load_engine`` for ``run`` and the pools."""
    return FakeEngine(spec)


def _fake_state(step: int, num_steps: int, latents: Latents | None) -> Unfinished:
    kept = _fake_latents((0, 0, 0), 1, 1, 1) if latents is None else latents
    return Unfinished(step, num_steps, "fake", {"latents": kept})


def _fake_latents(colour: tuple[int, ...], num_frames: int, height: int, width: int) -> Latents:
    import numpy as np

    values = np.empty((1, 3, num_frames, height, width), np.float32)
    values[:] = np.array(colour, np.float32).reshape(1, 3, 1, 1, 1) / 127.5 - 1
    for frame in range(num_frames):
        values[:, :, frame, :, frame * width // num_frames] *= -1
    return _tensor(values)


def _tensor(values: np.ndarray) -> Latents:
    from safetensors.numpy import save

    from wanflow.engines import load_latents

    return load_latents(save({"latents": values}))


# -- a world in virtual time ---------------------------------------------------------------------------------


@dataclass
class Faults:
    """How unkind the world is. Shares of 1; all draws come from the pool's seed."""

    #: a clip's attempt ends with a failure of a random kind
    render_fails: float = 0.0
    #: a replica dies during a clip; half of the time after the record was written
    replica_dies: float = 0.0
    #: a replica dies while it loads
    start_fails: float = 0.0
    #: an assembly fails
    assemble_fails: float = 0.0
    #: an assembly finds one of its masters gone
    master_vanishes: float = 0.0
    #: an event comes twice
    doubled: float = 0.0
    #: an event comes up to ``delay_s`` late
    delayed: float = 0.0
    delay_s: float = 5.0
    #: these keys always fail, and how
    always: Mapping[str, Cause] = field(default_factory=dict)


class FakePool:
    """A :class:`wanflow.pool.Pool` in virtual time. ``clip_s`` gives the seconds that a clip's render takes."""

    def __init__(
        self,
        clip_s: Callable[[str], float],
        masters: Mapping[str, frozenset[str]],
        *,
        seed: int = 0,
        faults: Faults | None = None,
        load_s: float = 5.0,
        assemble_s: float = 1.0,
        num_assembly_slots: int = 2,
        max_replicas: int = 2,
    ) -> None:
        self.now_s = 0.0
        self.num_assembly_slots = num_assembly_slots
        self.max_replicas = max_replicas
        #: keys with records, and how often each was rendered to the end
        self.records: dict[str, int] = {}
        self.published: set[str] = set()
        #: every action in the order in which it was performed, with its time
        self.story: list[tuple[float, Action]] = []
        self._clip_s, self._masters = clip_s, masters
        self._random = random.Random(seed)
        self._faults = faults or Faults()
        self._load_s, self._assemble_s = load_s, assemble_s
        self._coming: list[tuple[float, int, Event]] = []
        self._count = 0
        self._alive: set[str] = set()
        self._rendering: dict[str, Attempt] = {}
        self._cancelled: set[Attempt] = set()

    def clock(self) -> float:
        return self.now_s

    def perform(self, action: Action) -> None:
        self.story.append((self.now_s, action))
        match action:
            case StartReplica(replica=name):
                self._alive.add(name)
                if self._happens(self._faults.start_fails):
                    self._send(self._load_s / 2, ReplicaLost(0, name, "died while loading"))
                    self._alive.discard(name)
                else:
                    self._send(self._load_s, ReplicaReady(0, name))
            case Render():
                self._render(action)
            case Cancel(replica=name, key=key, attempt=attempt):
                if self._rendering.get(name) == attempt:
                    self._cancelled.add(attempt)
                    self._send(0.1, RenderFailed(0, name, key, attempt, Cause.CANCELLED, "cancelled"))
            case Probe(key=key):
                self._send(0.05, ClipFound(0, key) if key in self.records else ClipMissing(0, key))
            case Assemble():
                self._assemble(action)
            case RetireReplica(replica=name):
                self._alive.discard(name)

    def next_event(self, timeout_s: float) -> Event | None:
        if not self._coming or self._coming[0][0] > self.now_s + timeout_s:
            self.now_s += timeout_s
            return None
        at_s, _, event = heapq.heappop(self._coming)
        self.now_s = max(self.now_s, at_s)
        if isinstance(event, ClipRendered) and event.attempt in self._cancelled:
            return None
        return event

    def close(self) -> None:
        self._alive.clear()

    def _render(self, action: Render) -> None:
        name, key, attempt = action.replica, action.key, action.attempt
        assert name in self._alive, f"{name} is not alive"
        self._rendering[name] = attempt
        seconds = self._clip_s(key)
        cause = self._faults.always.get(key)
        if cause is None and self._happens(self._faults.render_fails):
            cause = self._random.choice(
                [Cause.OUT_OF_MEMORY, Cause.ITEM_ERROR, Cause.BAD_OUTPUT, Cause.STORAGE]
            )
        if cause is Cause.REPLICA_LOST or (cause is None and self._happens(self._faults.replica_dies)):
            if cause is None and self._happens(0.5):
                self.records[key] = self.records.get(key, 0) + 1
            self._send(seconds * self._random.random(), ReplicaLost(0, name, "process died"))
            self._alive.discard(name)
        elif cause is not None:
            self._send(seconds / 2, RenderFailed(0, name, key, attempt, cause, f"{cause} on purpose"))
        else:
            self._send(seconds / 2, StepDone(0, name, key, attempt, "denoise", 1, 2))
            self.records[key] = self.records.get(key, 0) + 1
            self._send(seconds, ClipRendered(0, name, key, attempt, (("denoise", seconds),)))

    def _assemble(self, action: Assemble) -> None:
        key, attempt = action.key, action.attempt
        masters = sorted(self._masters[key])
        gone = tuple(m for m in masters if m not in self.records)
        if not gone and masters and self._happens(self._faults.master_vanishes):
            gone = (self._random.choice(masters),)
            self.records.pop(gone[0])
        if gone:
            self._send(0.1, AssembleFailed(0, key, attempt, Cause.STORAGE, "a master is gone", gone))
        elif self._happens(self._faults.assemble_fails):
            self._send(self._assemble_s, AssembleFailed(0, key, attempt, Cause.ITEM_ERROR, "ffmpeg died"))
        else:
            self.published.add(key)
            self._send(self._assemble_s, VariantPublished(0, key, attempt))

    def _send(self, after_s: float, event: Event) -> None:
        """Let ``event`` arrive, timed and perhaps late or twice."""
        times = [self.now_s + after_s]
        if self._happens(self._faults.doubled):
            times.append(times[0] + self._random.random() * self._faults.delay_s)
        for at_s in times:
            late_s = (
                self._random.random() * self._faults.delay_s if self._happens(self._faults.delayed) else 0.0
            )
            self._count += 1
            timed = _at(event, at_s + late_s)
            heapq.heappush(self._coming, (at_s + late_s, self._count, timed))

    def _happens(self, share: float) -> bool:
        return share > 0 and self._random.random() < share


def _at(event: Event, time_s: float) -> Event:
    from dataclasses import replace

    return replace(event, time_s=time_s)
