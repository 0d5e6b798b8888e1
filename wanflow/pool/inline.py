"""The pool without Ray: everything in this process, one thing after the other, in ``next_event``.

For notebooks, tests and machines where Ray cannot run. One replica, one assembly at a time. A crash of the process is
a crash of the driver.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable

from wanflow.errors import Cancelled, RenderError
from wanflow.model import Attempt
from wanflow.pool import RunContext, is_permanent, probe
from wanflow.pool.assembler import Failed, assemble_variant, cache_folder
from wanflow.pool.replica import Replica
from wanflow.schedule.actions import Action, Assemble, Cancel, Probe, Render, RetireReplica, StartReplica
from wanflow.schedule.events import (
    AssembleFailed,
    ClipRendered,
    Event,
    RenderFailed,
    ReplicaLost,
    ReplicaReady,
    StepDone,
    VariantPublished,
)


class InlinePool:
    num_assembly_slots = 1
    max_replicas = 1

    def __init__(
        self,
        context: RunContext,
        clock: Callable[[], float] = time.time,
        on_progress: Callable[[StepDone], None] | None = None,
        why_stop: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._context = context
        self._clock = clock
        self._on_progress = on_progress
        self._why_stop = why_stop
        self._cancelled: set[Attempt] = set()
        self._replicas: dict[str, Replica] = {}
        self._orders: deque[Action] = deque()

    def perform(self, action: Action) -> None:
        if isinstance(action, RetireReplica):
            self._replicas.pop(action.replica, None)
        elif isinstance(action, Cancel):
            self._cancelled.add(action.attempt)
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
                return probe(self._context, key, self._clock())
        raise AssertionError(order)

    def close(self) -> None:
        self._replicas.clear()
        self._orders.clear()
        shutil.rmtree(cache_folder(self._context.run_id), ignore_errors=True)

    def _start(self, order: StartReplica) -> Event:
        try:
            self._replicas[order.replica] = Replica(self._context, order.weights, None, None)
        except Exception as error:  # noqa: BLE001 - whatever loading can run into is a lost replica
            return ReplicaLost(self._clock(), order.replica, str(error), permanent=is_permanent(error))
        return ReplicaReady(self._clock(), order.replica)

    def _render(self, order: Render) -> Event:
        def on_step(stage: str, step: int, num_steps: int) -> None:
            # Nobody can call while this thread renders, so the reasons to stop are looked at from here.
            if order.attempt in self._cancelled or self._why_stop():
                raise Cancelled()
            if self._on_progress:
                done = StepDone(
                    self._clock(), order.replica, order.key, order.attempt, stage, step, num_steps
                )
                self._on_progress(done)

        task, replica = self._context.renders[order.key], self._replicas[order.replica]
        try:
            seconds = replica.render(task, order.attempt, on_step)
        except RenderError as error:
            words, spent = str(error), replica.seconds()
            return RenderFailed(
                self._clock(), order.replica, order.key, order.attempt, error.cause, words, spent
            )
        return ClipRendered(self._clock(), order.replica, order.key, order.attempt, seconds)

    def _assemble(self, order: Assemble) -> Event:
        made = assemble_variant(self._context, self._context.assemblies[order.key], order.attempt)
        if isinstance(made, Failed):
            return AssembleFailed(
                self._clock(), order.key, order.attempt, made.cause, made.message, made.missing, made.records
            )
        return VariantPublished(self._clock(), order.key, order.attempt, made.seconds, made.records)
