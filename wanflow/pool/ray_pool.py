"""The pool on Ray: an actor a replica, a CPU task an assembly.

Ray's own actor restarts and task retries are off: the scheduler alone decides what is tried again. Every replica has
one question for news open, so its death is known here as soon as Ray knows it. The remote end of a replica is
``actor``, where replicas go is ``placement``'s, what becomes of their machines ``watching``'s.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wanflow.errors import EngineError
from wanflow.model import Cause, Loading
from wanflow.pool import RunContext, is_permanent, probe
from wanflow.pool.actor import Broken, News, ReplicaActor, Whereabouts
from wanflow.pool.answers import Answers, nothing
from wanflow.pool.assembler import cache_folder
from wanflow.pool.assemblies import Assemblies
from wanflow.pool.joining import init_ray
from wanflow.pool.pairs import num_high_steps
from wanflow.pool.placement import Placement
from wanflow.pool.processes import end
from wanflow.pool.rendering import Kept
from wanflow.pool.replica import Denoised, Rendered
from wanflow.pool.watching import NodeWatch
from wanflow.schedule.actions import (
    Action,
    Assemble,
    Cancel,
    KillReplica,
    Probe,
    Render,
    RequestCapacity,
    RetireReplica,
    Save,
    Stage,
    StartReplica,
    Unstage,
)
from wanflow.schedule.events import (
    ClipDenoised,
    ClipRendered,
    DrainNoticed,
    Event,
    RenderFailed,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    StepsKept,
)

#: assemblies that are ordered at once on a cluster, however small it is when the run starts
MIN_CLUSTER_ASSEMBLIES = 16
#: how long the end of a run waits for replicas that are being killed
CLOSE_S = 5.0

#: kind of answer: that a process has ended
ENDING = "ending"


@dataclass
class _Remote:
    """A replica as the driver knows it."""

    actor: Any
    #: its placement group, if it has one
    group: Any
    #: None until the actor runs
    where: Whereabouts | None = None
    #: its drain was told
    drains: bool = False


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
        self._replicas: dict[str, _Remote] = {}
        self._answers = Answers()
        self._events: deque[Event] = deque()
        self._nodes = NodeWatch()
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            init_ray(address)
        try:
            self._placement = Placement(max_replicas, gpus_per_replica, is_local=address is None)
        except EngineError:
            if self._owns_ray:
                ray.shutdown()
            raise
        self.max_replicas = self._placement.max_replicas
        # On a cluster that grows, work must wait for the CPUs that are to come; Ray queues what has no room.
        num_cpus = self._placement.num_cpus
        self.num_assembly_slots = num_cpus if address is None else max(num_cpus, MIN_CLUSTER_ASSEMBLIES)
        # Tasks travel with their orders; what every worker unpickles is small.
        self._context = ray.put(replace(context, renders={}, assemblies={}))
        remote: Any = ray.remote  # its overloads know neither concurrency groups nor our signatures
        self._actor = remote(
            num_cpus=0,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"progress": 1, "control": 2, "finish": 1},
        )(ReplicaActor)
        self._assemblies = Assemblies(context, self._context, self._answers, clock)
        self._end = remote(num_cpus=0, max_retries=0)(end)

    # -- actions ------------------------------------------------------------------------------------------------

    def perform(self, action: Action) -> None:
        match action:
            case StartReplica():
                self._start(action)
            case Render():
                self._render(action)
            case Stage(replica=name, key=key, ahead_of=attempt):
                task = self._local_context.renders[key]
                is_worth_it = task.clip.sources or (attempt and num_high_steps(task.clip))
                if is_worth_it and (found := self._replicas.get(name)):
                    found.actor.stage.remote(task, attempt)
            case Unstage(replica=name):
                if found := self._replicas.get(name):
                    found.actor.unstage.remote()
            case Cancel(replica=name, attempt=attempt):
                if found := self._replicas.get(name):
                    found.actor.cancel.remote(attempt)
            case Save(replica=name, attempt=attempt):
                if found := self._replicas.get(name):
                    found.actor.save.remote(attempt)
            case Probe(key=key):
                self._events.append(probe(self._local_context, key, self._clock()))
            case Assemble():
                self._assemblies.order(action)
            case RetireReplica(replica=name):
                self._drop(name)
            case KillReplica(replica=name):
                self._kill(name)
            case RequestCapacity(num_replicas=number):
                self._placement.request(number)
            case _:
                pass

    def _start(self, action: StartReplica) -> None:
        name = action.replica
        options, group = self._placement.reserve()
        placement = self._placement
        actor = self._actor.options(**options).remote(
            name, self._context, action.weights, placement.device, placement.num_threads, self.max_replicas
        )
        self._replicas[name] = _Remote(actor, group)

        def found(where: Whereabouts) -> Event | None:
            remote = self._replicas.get(name)
            if remote is None:
                return None
            remote.where = where
            # Only now: its process must be known before anything in it can hang.
            self._answers.expect(actor.load.remote(), ready, failed)
            return ReplicaPlaced(self._clock(), name, where.node)

        def ready(loading: Loading | None) -> Event | None:
            if name not in self._replicas:
                return None
            self._poll(name)
            return ReplicaReady(self._clock(), name, loading)

        def failed(error: Exception) -> Event | None:
            if not isinstance(error, RayTaskError):
                return self._lost(name, error)
            if name not in self._replicas:
                return None
            self._drop(name)
            permanent = is_permanent(error.cause)
            return ReplicaLost(self._clock(), name, str(error.cause), permanent=permanent)

        self._answers.expect(actor.where.remote(), found, failed)

    def _render(self, action: Render) -> None:
        name, key, attempt = action.replica, action.key, action.attempt

        def rendered(made: Rendered | Kept | Denoised | Broken) -> Event:
            now_s = self._clock()
            match made:
                case Denoised():
                    if remote := self._replicas.get(name):
                        self._answers.expect(remote.actor.finish.remote(attempt), rendered, failed)
                    return ClipDenoised(now_s, name, key, attempt)
                case Rendered(seconds, memory_bytes, first_step_s):
                    return ClipRendered(now_s, name, key, attempt, seconds, memory_bytes, first_step_s)
                case Kept(stage, step, seconds):
                    return StepsKept(now_s, name, key, attempt, stage, step, is_last=True, seconds=seconds)
                case Broken(error, seconds):
                    return RenderFailed(now_s, name, key, attempt, error.cause, str(error), seconds)

        def failed(error: Exception) -> Event | None:
            if isinstance(error, RayTaskError):  # ours, not the clip's
                return RenderFailed(self._clock(), name, key, attempt, Cause.ITEM_ERROR, str(error.cause))
            return self._lost(name, error)

        remote = self._replicas.get(name)
        if remote is None:
            return  # it was lost since; the event that says so is on its way
        reference = remote.actor.render.remote(self._local_context.renders[key], attempt, action.thrift)
        self._answers.expect(reference, rendered, failed)

    # -- events -------------------------------------------------------------------------------------------------

    def next_event(self, timeout_s: float) -> Event | None:
        until_s = time.monotonic() + timeout_s
        while not self._events:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return None
            if not self._answers:
                time.sleep(left_s)
                return None
            self._look_for_drains()
            self._events += self._answers.collect(min(left_s, self._nodes.next_look_s()))
        return self._events.popleft()

    def more_events(self) -> list[Event]:
        found = list(self._events)
        self._events.clear()
        return found

    def _poll(self, name: str) -> None:
        """Keep one open question for news at the replica."""

        def answered(found: list[News]) -> None:
            for news in found:
                if isinstance(news, DrainNoticed):
                    self._notice(name, news.grace_s)
                else:
                    self._events.append(replace(news, time_s=self._clock()))
            self._poll(name)

        if remote := self._replicas.get(name):
            self._answers.expect(remote.actor.poll.remote(), answered, lambda error: self._lost(name, error))

    def _look_for_drains(self) -> None:
        if self._nodes.next_look_s() > 0:
            return
        left_s = self._nodes.look()
        for name, remote in self._replicas.items():
            if remote.where and remote.where.node_id in left_s:
                self._notice(name, left_s[remote.where.node_id])

    def _notice(self, name: str, grace_s: float) -> None:
        """A replica's end is told once, by whichever sign comes first."""
        remote = self._replicas.get(name)
        if remote and not remote.drains:
            remote.drains = True
            self._events.append(DrainNoticed(self._clock(), name, grace_s))

    def _lost(self, name: str, error: Exception) -> Event | None:
        """The first sign of a replica's death is the event; later ones say nothing new."""
        remote = self._replicas.get(name)
        if remote is None:
            return None
        cause = self._nodes.cause_of_loss(error, remote.where.node_id if remote.where else None)
        if remote.drains:  # it went as it was told to
            cause = Cause.PREEMPTED
        words = {
            Cause.NODE_LOST: "its node is gone",
            Cause.PREEMPTED: "its node was taken back",
        }.get(cause, "process died" if isinstance(error, RayActorError) else type(error).__name__)
        if remote.where is None:  # it never came up, and only Ray can say why
            words += f" ({str(error).strip().splitlines()[-1]})" if str(error).strip() else ""
        if cause is Cause.NODE_LOST:
            self._drop(name)
        else:  # it may only be out of sight
            self._kill(name)
        return ReplicaLost(self._clock(), name, f"{name}: {words}", cause=cause)

    def _drop(self, name: str) -> _Remote | None:
        remote = self._replicas.pop(name, None)
        if remote is not None:
            ray.kill(remote.actor, no_restart=True)
            self._placement.give_back(remote.group)
        return remote

    def _kill(self, name: str) -> None:
        """Kill the actor, then see to it on its node that the process is gone: one that is stopped obeys no one."""
        remote = self._drop(name)
        if remote is None or remote.where is None:
            return
        there = NodeAffinitySchedulingStrategy(remote.where.node_id, soft=False)
        reference = self._end.options(scheduling_strategy=there).remote(remote.where.process)
        self._answers.expect(reference, nothing, kind=ENDING)

    def close(self) -> None:
        for name in list(self._replicas):
            self._drop(name)
        self._assemblies.cancel()
        if ray.is_initialized():
            self._placement.request(0)
            if ending := self._answers.open(ENDING):
                ray.wait(ending, num_returns=len(ending), timeout=CLOSE_S)
        self._answers.forget()
        shutil.rmtree(cache_folder(self._local_context.run_id), ignore_errors=True)
        if self._owns_ray and ray.is_initialized():
            ray.shutdown()
