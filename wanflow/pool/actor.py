"""The remote end of a replica: an actor that renders in its main thread and answers in others.

Its news (progress, kept steps, notice of a drain) waits in a queue for the driver's open question. SIGTERM is notice:
the scheduler has ``SIGTERM_GRACE_S`` to let it finish or save; then the process ends by itself. Knows Ray and
:class:`Replica`; decides nothing.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import ray

from wanflow.errors import Cancelled, RenderError
from wanflow.model import Attempt, Loading, RenderClip
from wanflow.pool import RunContext
from wanflow.pool.processes import Process, this_process
from wanflow.pool.rendering import Kept, Watch
from wanflow.pool.replica import Denoised, Rendered, Replica
from wanflow.pool.stage_timer import Seconds
from wanflow.schedule.events import DrainNoticed, StepDone, StepsKept

#: each progress report costs the driver an answer: so many a second of all replicas together,
PROGRESS_REPORTS_PER_S = 16.0
#: and one replica's are at least and at most so far apart (what hangs is told by minutes without any)
PROGRESS_EVERY_S = (1.0, 30.0)
#: how long a replica holds a poll for news open; an empty answer costs the driver as much as news
POLL_S = 60.0
#: news comes in bursts (one stage ends, the next begins): each costs the driver one answer
GATHER_S = 0.1
#: what Kubernetes leaves a pod by default between SIGTERM and SIGKILL
SIGTERM_GRACE_S = 30.0

#: without times: the driver's clock is the one that counts
News = StepDone | StepsKept | DrainNoticed


@dataclass(frozen=True)
class Broken:
    """A render that failed, with what was spent on it."""

    error: RenderError
    seconds: Seconds


@dataclass(frozen=True)
class Whereabouts:
    """Where a replica lives."""

    node_id: str
    #: its name, for people
    node: str
    process: Process


class ReplicaActor:
    """``load`` and ``render`` run one at a time; ``finish`` and the control methods beside them.

    The concurrency groups stand on the class, so that every process that imports it sees them.
    """

    def __init__(
        self,
        name: str,
        context: RunContext,
        weights: str,
        device: str | None,
        num_threads: int | None,
        max_replicas: int,
    ) -> None:
        # a node of a cluster may have fewer cores than the driver thought of
        cores = os.cpu_count() or 1
        self._name = name
        self._arguments = (context, weights, device, num_threads and min(num_threads, cores))
        self._replica: Replica | None = None
        self._cancelled: set[Attempt] = set()
        self._saved: set[Attempt] = set()
        # its put may come between any two lines, from the signal's handler
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        shortest_s, longest_s = PROGRESS_EVERY_S
        self._report_every_s = min(longest_s, max(shortest_s, max_replicas / PROGRESS_REPORTS_PER_S))
        self._reported_s = 0.0
        with suppress(
            ValueError
        ):  # not the main thread: Ray's own handler stays, and the process ends at once
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def load(self) -> Loading | None:
        """Load the engine; returns how its weights came."""
        self._replica = Replica(*self._arguments)
        return self._replica.loading

    def render(self, task: RenderClip, attempt: Attempt, thrift: int) -> Rendered | Kept | Denoised | Broken:
        """Render; a failure is a value. After Denoised the next one may be asked for, and ``finish`` says the rest."""
        name, key = self._name, task.key
        # of this attempt alone: the news of one that ends beside it must not crowd out its own
        reported_s = self._reported_s

        def on_step(stage: str, step: int, num_steps: int) -> None:
            nonlocal reported_s
            if attempt in self._cancelled:
                raise Cancelled()
            if time.monotonic() - reported_s >= self._report_every_s:
                reported_s = self._reported_s = time.monotonic()
                self._news.put(StepDone(0.0, name, key, attempt, stage, step, num_steps))

        def on_kept(stage: str, step: int) -> None:
            self._news.put(StepsKept(0.0, name, key, attempt, stage, step))

        def on_ahead(other: str, step: int, seconds: Seconds) -> None:
            self._news.put(StepsKept(0.0, name, other, attempt, "denoise", step, seconds=seconds))

        assert self._replica is not None, "render before load"
        watch = Watch(on_step, lambda: attempt in self._saved, on_kept, on_ahead)
        try:
            return self._replica.begin(task, attempt, watch, thrift)
        except RenderError as error:
            return Broken(error, self._replica.seconds(attempt))

    @ray.method(concurrency_group="finish")
    def finish(self, attempt: Attempt) -> Rendered | Kept | Broken:
        """Wait for the end of a render that was Denoised."""
        assert self._replica is not None, "finish before load"
        try:
            return self._replica.finish(attempt)
        except RenderError as error:
            return Broken(error, self._replica.seconds(attempt))

    @ray.method(concurrency_group="progress")
    def poll(self) -> list[News]:
        """News since the last poll; waits up to POLL_S for some, and GATHER_S for what comes with it."""
        found: list[News] = []
        with suppress(queue.Empty):
            found.append(self._news.get(timeout=POLL_S))
            time.sleep(GATHER_S)
            while True:
                found.append(self._news.get_nowait())
        return found

    @ray.method(concurrency_group="control")
    def where(self) -> Whereabouts:
        return Whereabouts(ray.get_runtime_context().get_node_id(), socket.gethostname(), this_process())

    @ray.method(concurrency_group="control")
    def cancel(self, attempt: Attempt) -> None:
        self._cancelled.add(attempt)

    @ray.method(concurrency_group="control")
    def save(self, attempt: Attempt) -> None:
        self._saved.add(attempt)

    @ray.method(concurrency_group="control")
    def stage(self, task: RenderClip, ahead_of: Attempt | None) -> None:
        if self._replica is not None:
            self._replica.stage(task, ahead_of)

    @ray.method(concurrency_group="control")
    def unstage(self) -> None:
        if self._replica is not None:
            self._replica.unstage()

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._news.put(DrainNoticed(0.0, self._name, SIGTERM_GRACE_S))
        end = threading.Timer(SIGTERM_GRACE_S, os._exit, (128 + number,))
        end.daemon = True
        end.start()
