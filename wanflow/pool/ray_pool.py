"""The pool on Ray: an actor a replica, a CPU task an assembly. The only module that imports ray.

Ray's own actor restarts and task retries are off: the scheduler alone decides what is tried again. A replica renders in
its main thread and answers progress, stage and cancel in others, so that they work in mid-render. Replicas on CPUs
reserve no logical CPU, and share the cores as torch threads, so that assembly always finds a CPU.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from wanflow.errors import Cancelled, EngineError, RenderError, UsageError
from wanflow.model import Attempt, Cause, RenderClip
from wanflow.pool import RunContext, is_permanent, probe
from wanflow.pool.assembler import Assembled, Failed, assemble_variant, cache_folder
from wanflow.pool.replica import Replica, Seconds
from wanflow.schedule.actions import (
    Action,
    Assemble,
    Cancel,
    Probe,
    Render,
    RetireReplica,
    Stage,
    StartReplica,
)
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

#: progress reports of one replica are at least this far apart
PROGRESS_EVERY_S = 0.25
#: how long a replica holds a poll for progress open
POLL_S = 5.0

#: assemblies that are ordered at once on a cluster, however small it is when the run starts
MIN_CLUSTER_ASSEMBLIES = 16

Progress = tuple[str, Attempt, str, int, int]


class ReplicaActor:
    """The remote end. ``load`` and ``render`` run one at a time; the control methods beside them.

    The concurrency groups stand on the class, so that every process that imports it sees them.
    """

    def __init__(
        self, context: RunContext, weights: str, device: str | None, num_threads: int | None
    ) -> None:
        # a node of a cluster may have fewer cores than the driver thought of
        cores = os.cpu_count() or 1
        self._arguments = (context, weights, device, num_threads and min(num_threads, cores))
        self._replica: Replica | None = None
        self._cancelled: set[Attempt] = set()
        self._progress: queue.Queue[Progress] = queue.Queue()
        self._reported_s = 0.0

    def load(self) -> None:
        """Load the engine."""
        self._replica = Replica(*self._arguments)

    def render(self, task: RenderClip, attempt: Attempt) -> Seconds | tuple[RenderError, Seconds]:
        """Render; a failure is a value, with the seconds that were spent on it."""

        def on_step(stage: str, step: int, num_steps: int) -> None:
            if attempt in self._cancelled:
                raise Cancelled()
            if step in (0, num_steps) or time.monotonic() - self._reported_s >= PROGRESS_EVERY_S:
                self._reported_s = time.monotonic()
                self._progress.put((task.key, attempt, stage, step, num_steps))

        assert self._replica is not None, "render before load"
        try:
            return self._replica.render(task, attempt, on_step)
        except RenderError as error:
            return error, self._replica.seconds()

    @ray.method(concurrency_group="progress")
    def poll(self) -> list[Progress]:
        """Progress since the last poll; waits up to POLL_S for some."""
        found: list[Progress] = []
        with contextlib.suppress(queue.Empty):
            found.append(self._progress.get(timeout=POLL_S))
            while True:
                found.append(self._progress.get_nowait())
        return found

    @ray.method(concurrency_group="control")
    def cancel(self, attempt: Attempt) -> None:
        self._cancelled.add(attempt)

    @ray.method(concurrency_group="control")
    def stage(self, task: RenderClip) -> None:
        if self._replica is not None:
            self._replica.stage(task)


#: what a Ray reference answers: makes the event (or none) from its value
OnValue = Callable[[Any], Event | None]
OnError = Callable[[Exception], Event | None]


class RayPool:
    """``address``: None starts Ray on this machine; ``auto`` or ``ray://...`` joins a cluster.

    ``gpus_per_replica`` None: one where the cluster has GPUs now, else the CPU; a number waits for GPUs that the
    cluster may still add. ``max_replicas`` None: as many as there is room for now (two on CPUs).
    """

    def __init__(
        self,
        context: RunContext,
        *,
        address: str | None = None,
        max_replicas: int | None,
        gpus_per_replica: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._local_context = context
        self._replicas: dict[str, Any] = {}
        self._waiting: dict[Any, tuple[OnValue, OnError]] = {}
        self._assembling: set[Any] = set()
        self._events: deque[Event] = deque()
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            init_ray(address)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        num_cpus = max(1, int(resources.get("CPU", 1)))
        has_gpus = resources.get("GPU", 0) > 0
        self._num_gpus = gpus_per_replica if gpus_per_replica is not None else float(has_gpus)
        if address is None and self._num_gpus > resources.get("GPU", 0):
            self.close()
            raise EngineError(
                f"resources.gpus_per_replica asks for {self._num_gpus:g} GPU(s) and this machine has "
                f"{resources.get('GPU', 0):g}; leave it out to use what is there, or join a cluster with --address"
            )
        if self._num_gpus:
            room = int(resources.get("GPU", 0) // self._num_gpus)
            self.max_replicas = max_replicas or max(1, room)
            self._device, self._num_threads = None, None
        else:
            self.max_replicas = min(max_replicas or 2, num_cpus)
            self._device, self._num_threads = "cpu", max(1, num_cpus // self.max_replicas)
        # On a cluster that grows, work must wait for the CPUs that are to come; Ray queues what has no room.
        self.num_assembly_slots = num_cpus if address is None else max(num_cpus, MIN_CLUSTER_ASSEMBLIES)
        # Tasks travel with their orders; what every worker unpickles is small.
        self._context = ray.put(replace(context, renders={}, assemblies={}))
        remote: Any = ray.remote  # its overloads know neither concurrency groups nor our signatures
        self._actor = remote(
            num_cpus=0,
            num_gpus=self._num_gpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"progress": 1, "control": 2},
        )(ReplicaActor)
        self._assembler = remote(num_cpus=1, max_retries=0)(assemble_variant)

    # -- actions ------------------------------------------------------------------------------------------------

    def perform(self, action: Action) -> None:
        match action:
            case StartReplica():
                self._start(action)
            case Render():
                self._render(action)
            case Stage(replica=name, key=key):
                if name in self._replicas:
                    self._replicas[name].stage.remote(self._local_context.renders[key])
            case Cancel(replica=name, attempt=attempt):
                if name in self._replicas:
                    self._replicas[name].cancel.remote(attempt)
            case Probe(key=key):
                self._events.append(probe(self._local_context, key, self._clock()))
            case Assemble():
                self._assemble(action)
            case RetireReplica(replica=name):
                self._drop(name)
            case _:
                pass

    def _start(self, action: StartReplica) -> None:
        name = action.replica
        actor = self._actor.remote(self._context, action.weights, self._device, self._num_threads)
        self._replicas[name] = actor

        def ready(_: None) -> Event:
            self._poll(name)
            return ReplicaReady(self._clock(), name)

        def failed(error: Exception) -> Event | None:
            cause = error.cause if isinstance(error, RayTaskError) else error
            self._drop(name)
            return ReplicaLost(self._clock(), name, str(cause), permanent=is_permanent(cause))

        self._waiting[actor.load.remote()] = (ready, failed)

    def _render(self, action: Render) -> None:
        name, key, attempt = action.replica, action.key, action.attempt

        def rendered(value: Seconds | tuple[RenderError, Seconds]) -> Event:
            if value and isinstance(value[0], RenderError):
                error, seconds = value
                return RenderFailed(self._clock(), name, key, attempt, error.cause, str(error), seconds)
            return ClipRendered(self._clock(), name, key, attempt, value)

        def failed(error: Exception) -> Event | None:
            if isinstance(error, RayTaskError):  # ours, not the clip's
                return RenderFailed(self._clock(), name, key, attempt, Cause.ITEM_ERROR, str(error.cause))
            return self._lost(name, error)

        actor = self._replicas.get(name)
        if actor is None:
            return  # it was lost since; the event that says so is on its way
        reference = actor.render.remote(self._local_context.renders[key], attempt)
        self._waiting[reference] = (rendered, failed)

    def _assemble(self, action: Assemble) -> None:
        key, attempt = action.key, action.attempt

        def assembled(made: Assembled | Failed) -> Event:
            if isinstance(made, Failed):
                return AssembleFailed(
                    self._clock(), key, attempt, made.cause, made.message, made.missing, made.records
                )
            return VariantPublished(self._clock(), key, attempt, made.seconds, made.records)

        def failed(error: Exception) -> Event:
            words = f"the worker that assembled it was lost ({type(error).__name__})"
            return AssembleFailed(self._clock(), key, attempt, Cause.REPLICA_LOST, words)

        reference = self._assembler.remote(self._context, self._local_context.assemblies[key], attempt)
        self._waiting[reference] = (assembled, failed)
        self._assembling.add(reference)

    # -- events -------------------------------------------------------------------------------------------------

    def next_event(self, timeout_s: float) -> Event | None:
        until_s = time.monotonic() + timeout_s
        while not self._events:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return None
            if not self._waiting:
                time.sleep(left_s)
                return None
            ready, _ = ray.wait(list(self._waiting), num_returns=1, timeout=left_s)
            for reference in ready:
                on_value, on_error = self._waiting.pop(reference)
                self._assembling.discard(reference)
                try:
                    event = on_value(ray.get(reference))
                except RayError as error:
                    event = on_error(error)
                if event is not None:
                    self._events.append(event)
        return self._events.popleft()

    def _poll(self, name: str) -> None:
        """Keep one open question for progress at the replica."""

        def progressed(found: list[Progress]) -> None:
            for key, attempt, stage, step, num_steps in found:
                self._events.append(StepDone(self._clock(), name, key, attempt, stage, step, num_steps))
            self._poll(name)

        if actor := self._replicas.get(name):
            self._waiting[actor.poll.remote()] = (progressed, lambda error: self._lost(name, error))

    def _lost(self, name: str, error: Exception) -> Event | None:
        """The first sign of a replica's death is the event; later ones say nothing new."""
        if name not in self._replicas:
            return None
        self._drop(name)
        words = "process died" if isinstance(error, RayActorError) else type(error).__name__
        return ReplicaLost(self._clock(), name, f"{name}: {words}")

    def _drop(self, name: str) -> None:
        if actor := self._replicas.pop(name, None):
            ray.kill(actor, no_restart=True)

    def close(self) -> None:
        for name in list(self._replicas):
            self._drop(name)
        for reference in self._assembling:
            with contextlib.suppress(RayError):  # nobody publishes after the run has given up its lease
                ray.cancel(reference, force=True)
        self._waiting.clear()
        self._assembling.clear()
        shutil.rmtree(cache_folder(self._local_context.run_id), ignore_errors=True)
        if self._owns_ray and ray.is_initialized():
            ray.shutdown()


def init_ray(address: str | None) -> None:
    """Start Ray here, without its dashboard, or join the cluster at ``address``. UsageError when there is none."""
    # It says at each start that local tokens are used, which asks nothing of anybody.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address is None:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "on this machine" if address is None else f"at {address}"
        raise UsageError(f"Ray cannot be reached {where}: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(number, handler)
