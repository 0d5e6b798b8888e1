"""The pool without Ray: everything in this process, one thing after the other, in ``next_event``.

For notebooks, tests and machines where Ray cannot run. One replica, one assembly at a time. A crash of the process is
a crash of the driver.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections import deque
from collections.abc import Callable

from wanflow.errors import Cancelled, RenderError
from wanflow.model import Attempt, Cause
from wanflow.pool import RunContext, is_permanent, probe
from wanflow.pool.assembler import Failed, assemble_variant, cache_folder
from wanflow.pool.rendering import Kept, Watch
from wanflow.pool.replica import Replica
from wanflow.pool.stage_timer import Seconds
from wanflow.schedule.actions import (
    Action,
    Assemble,
    Cancel,
    KillReplica,
    Probe,
    Render,
    RetireReplica,
    Save,
    Stage,
    StartReplica,
    Unstage,
)
from wanflow.schedule.events import (
    AssembleFailed,
    ClipRendered,
    Event,
    RenderFailed,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    StepDone,
    StepsKept,
    VariantPublished,
)


class InlinePool:
    num_assembly_slots = 1
    max_replicas = 1

    def __init__(
        self,
        context: RunContext,
        clock: Callable[[], float] = time.time,
        on_progress: Callable[[ReplicaPlaced | StepDone], None] | None = None,
        why_stop: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._context = context
        self._clock = clock
        self._on_progress = on_progress
        self._why_stop = why_stop
        self._cancelled: set[Attempt] = set()
        self._saved: set[Attempt] = set()
        self._replicas: dict[str, Replica] = {}
        self._orders: deque[Action] = deque()
        self._events: deque[Event] = deque()

    def perform(self, action: Action) -> None:
        match action:
            case RetireReplica(replica=name) | KillReplica(replica=name):
                self._replicas.pop(name, None)
            case Cancel(attempt=attempt):
                self._cancelled.add(attempt)
            case Save(attempt=attempt):
                self._saved.add(attempt)
            case Assemble():
                # Finished videos first: whoever waits for the run sees results as early as they can be had.
                self._orders.appendleft(action)
            case Stage(replica=name, key=key, ahead_of=attempt) if attempt is not None:
                task = self._context.renders[key]
                if not task.clip.sources and (
                    found := self._replicas.get(name)
                ):  # nothing is fetched while none works
                    found.stage(task, attempt)
            case Unstage(replica=name):
                if found := self._replicas.get(name):
                    found.unstage()
            case StartReplica() | Render() | Probe():
                self._orders.append(action)
            case _:
                pass

    def next_event(self, timeout_s: float) -> Event | None:
        if not self._events:
            if not self._orders:
                time.sleep(timeout_s)
                return None
            self._work(self._orders.popleft())
        return self._events.popleft() if self._events else None

    def more_events(self) -> list[Event]:
        return []  # what comes next is work, and what the last event asks for may go before it

    def _work(self, order: Action) -> None:
        match order:
            case StartReplica():
                self._events.append(self._start(order))
            case Render():
                self._events.append(self._render(order))
            case Assemble():
                self._events.append(self._assemble(order))
            case Probe(key=key):
                self._events.append(probe(self._context, key, self._clock()))

    def close(self) -> None:
        self._replicas.clear()
        self._orders.clear()
        shutil.rmtree(cache_folder(self._context.run_id), ignore_errors=True)

    def _start(self, order: StartReplica) -> Event:
        if self._on_progress:
            self._on_progress(ReplicaPlaced(self._clock(), order.replica, socket.gethostname()))
        try:
            replica = self._replicas[order.replica] = Replica(self._context, order.weights, None, None)
        except Exception as error:  # noqa: BLE001 - whatever loading can run into is a lost replica
            return ReplicaLost(self._clock(), order.replica, str(error), permanent=is_permanent(error))
        return ReplicaReady(self._clock(), order.replica, replica.loading)

    def _render(self, order: Render) -> Event:
        name, key, attempt = order.replica, order.key, order.attempt
        if name not in self._replicas:
            return ReplicaLost(self._clock(), name, f"{name} is not there any more")
        replica = self._replicas[name]

        def on_step(stage: str, step: int, num_steps: int) -> None:
            if attempt in self._cancelled:
                raise Cancelled()
            if self._on_progress:
                self._on_progress(StepDone(self._clock(), name, key, attempt, stage, step, num_steps))

        def on_kept(stage: str, step: int) -> None:
            self._events.append(StepsKept(self._clock(), name, key, attempt, stage, step))

        def on_ahead(other: str, step: int, seconds: Seconds) -> None:
            self._events.append(
                StepsKept(self._clock(), name, other, attempt, "denoise", step, seconds=seconds)
            )

        # Nobody can call while this thread renders, so the reasons to stop are looked at from here.
        watch = Watch(on_step, lambda: attempt in self._saved or bool(self._why_stop()), on_kept, on_ahead)
        try:
            made = replica.render(self._context.renders[key], attempt, watch, order.thrift)
        except RenderError as error:
            return RenderFailed(
                self._clock(), name, key, attempt, error.cause, str(error), replica.seconds(attempt)
            )
        if not isinstance(made, Kept):
            return ClipRendered(
                self._clock(), name, key, attempt, made.seconds, made.memory_bytes, made.first_step_s
            )
        if attempt in self._saved:
            return StepsKept(
                self._clock(), name, key, attempt, made.stage, made.step, is_last=True, seconds=made.seconds
            )
        if made.step:
            on_kept(made.stage, made.step)
        # The scheduler has not ordered it; its own order to stop is still to come.
        words = f"stopped after step {made.step} of {made.stage}"
        return RenderFailed(self._clock(), name, key, attempt, Cause.CANCELLED, words, made.seconds)

    def _assemble(self, order: Assemble) -> Event:
        made = assemble_variant(self._context, self._context.assemblies[order.key], order.attempt)
        if isinstance(made, Failed):
            return AssembleFailed(
                self._clock(), order.key, order.attempt, made.cause, made.message, made.missing, made.records
            )
        return VariantPublished(self._clock(), order.key, order.attempt, made.seconds, made.records)
