"""The pool without Ray: everything in this process, one thing after the other, in ``next_event``.

For notebooks, tests and machines where Ray cannot run. One replica, one assembly at a time. A crash of the process is
a crash of the driver.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable

from wanflow.errors import RenderError, WanflowError
from wanflow.model import Attempt
from wanflow.pool import RunContext
from wanflow.pool.assembler import assemble_variant, cache_folder, failure_of
from wanflow.pool.replica import Replica
from wanflow.records import clip_record
from wanflow.schedule.actions import Action, Assemble, Probe, Render, RetireReplica, StartReplica
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
from wanflow.storage import Store


class InlinePool:
    num_assembly_slots = 1
    max_replicas = 1

    def __init__(
        self,
        context: RunContext,
        clock: Callable[[], float] = time.time,
        on_progress: Callable[[StepDone], None] | None = None,
    ) -> None:
        self._context = context
        self._clock = clock
        self._on_progress = on_progress
        self._replicas: dict[str, Replica] = {}
        self._orders: deque[Action] = deque()

    def perform(self, action: Action) -> None:
        if isinstance(action, RetireReplica):
            self._replicas.pop(action.replica, None)
        elif isinstance(action, Assemble):
            # Finished videos first: whoever waits for the run sees results as early as they can be had.
            self._orders.appendleft(action)
        elif isinstance(action, StartReplica | Render | Probe):
            self._orders.append(action)

    def next_event(self, timeout_s: float) -> Event | None:
        if not self._orders:
            time.sleep(timeout_s)
            return None
        order = self._orders.popleft()
        match order:
            case StartReplica():
                return self._start(order)
            case Render():
                return self._render(order)
            case Assemble():
                return self._assemble(order)
            case Probe(key=key):
                found = clip_record(Store(self._context.workspace), key)
                return ClipFound(self._clock(), key) if found else ClipMissing(self._clock(), key)
        raise AssertionError(order)

    def close(self) -> None:
        self._replicas.clear()
        self._orders.clear()
        shutil.rmtree(cache_folder(self._context.run_id), ignore_errors=True)

    def _start(self, order: StartReplica) -> Event:
        try:
            self._replicas[order.replica] = Replica(self._context, order.weights, None, None)
        except WanflowError as error:
            return ReplicaLost(self._clock(), order.replica, str(error), permanent=True)
        return ReplicaReady(self._clock(), order.replica)

    def _render(self, order: Render) -> Event:
        def on_step(stage: str, step: int, num_steps: int) -> None:
            if self._on_progress:
                done = StepDone(
                    self._clock(), order.replica, order.key, order.attempt, stage, step, num_steps
                )
                self._on_progress(done)

        task = self._context.renders[order.key]
        try:
            seconds = self._replicas[order.replica].render(task, order.attempt, on_step)
        except RenderError as error:
            return RenderFailed(
                self._clock(), order.replica, order.key, order.attempt, error.cause, str(error)
            )
        return ClipRendered(self._clock(), order.replica, order.key, order.attempt, seconds)

    def _assemble(self, order: Assemble) -> Event:
        attempt: Attempt = order.attempt
        try:
            made = assemble_variant(self._context, self._context.assemblies[order.key], attempt)
        except Exception as error:  # noqa: BLE001 - one variant's trouble must not end the run
            why = failure_of(error)
            return AssembleFailed(self._clock(), order.key, attempt, why.cause, why.message, why.missing)
        return VariantPublished(self._clock(), order.key, attempt, made.seconds, made.records)
