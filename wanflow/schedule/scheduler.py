"""The scheduler: ``handle(event)`` returns the actions that follow. A state machine without clock, network or Ray.

It decides who renders what and when, what is tried again, what has failed, and when the run is over. It does not know
what a clip looks like, how an order is carried out, or what time it is: time rides on the events. The same code runs
under Ray, inline and in simulations. ``README.md`` beside it has the state tables.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

from wanflow.model import AssembleVariant, Attempt, Cause, RenderClip
from wanflow.schedule.actions import (
    Action,
    Assemble,
    Cancel,
    Finish,
    Probe,
    Reason,
    Remember,
    Render,
    RetireReplica,
    Stage,
    StartReplica,
)
from wanflow.schedule.events import (
    AssembleFailed,
    ClipFound,
    ClipMissing,
    ClipRendered,
    DrainNoticed,
    Event,
    RenderFailed,
    ReplicaLost,
    ReplicaReady,
    RunStarted,
    StepDone,
    StepsKept,
    StopRequested,
    Tick,
    VariantPublished,
)
from wanflow.schedule.policy import REPEATING, Policy, backoff, choose_engine, is_spent, may_retry
from wanflow.schedule.state import (
    ClipState,
    ClipStatus,
    ReplicaState,
    ReplicaStatus,
    VariantState,
    VariantStatus,
)

#: (task, priority, expected work, held: the master's record exists already)
PlannedRender = tuple[RenderClip, int, float, bool]
PlannedAssembly = tuple[AssembleVariant, int]


class Scheduler:
    """State of one run. ``handle`` events in the order they come; ``finished`` after ``Finish`` was returned."""

    def __init__(
        self,
        renders: Iterable[PlannedRender],
        assemblies: Iterable[PlannedAssembly],
        policy: Policy,
        epoch: int,
    ) -> None:
        self.policy = policy
        self.epoch = epoch
        self.clips: dict[str, ClipState] = {}
        self.variants: dict[str, VariantState] = {}
        self.replicas: dict[str, ReplicaState] = {}
        self.finished = False
        #: set once the run is to end early: the reason in words
        self.stopping: str | None = None
        self.broken: str | None = None
        self._stopped_s = 0.0
        self._now_s = 0.0
        self._num_attempts = 0
        self._num_replicas = 0
        self._failed_starts = 0
        #: lost replicas that no start has replaced yet
        self._num_lost = 0
        self._pending: dict[str, list[tuple[tuple[float, float, int], str]]] = {}
        self._backlog: dict[str, float] = {}
        self._num_pending: Counter[str] = Counter()
        #: clips by weights that are neither done nor failed
        self._open: Counter[str] = Counter()
        self._ready: list[tuple[tuple[float, int], str]] = []
        self._later: list[tuple[float, str, str]] = []
        self._assembling = 0
        self._open_variants = 0
        self._waiters: dict[str, list[str]] = {}

        for position, (render, priority, work, held) in enumerate(renders):
            clip = ClipState(render.key, render.clip.weights, work, (-priority, -work, position))
            self.clips[clip.key] = clip
            if held:
                clip.status = ClipStatus.DONE
            else:
                self._open[clip.weights] += 1
                self._queue(clip)
        for position, (task, priority) in enumerate(assemblies):
            missing = {key for key in task.masters if self.clips[key].status is not ClipStatus.DONE}
            variant = VariantState(task.key, missing, (-priority, position))
            self.variants[variant.key] = variant
            self._open_variants += 1
            for key in task.masters:
                self._waiters.setdefault(key, []).append(variant.key)
            if not missing:
                self._make_ready(variant)

    # -- events -------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Action]:
        """Take in one fact; return what is to be done, in order."""
        if self.finished:
            return []
        self._now_s = max(self._now_s, event.time_s)
        actions = self._apply(event)
        deadline_s = self.policy.deadline_s
        if deadline_s is not None and self._now_s >= deadline_s and self.stopping is None:
            actions += self._stop("the deadline has passed")
        self._wake()
        actions += self._assign()
        actions += self._finish_if_over()
        return actions

    def _apply(self, event: Event) -> list[Action]:
        match event:
            case RunStarted() | Tick() | StepDone() | DrainNoticed() | StepsKept():
                return []
            case ReplicaReady(replica=name):
                if (ready := self.replicas.get(name)) and ready.status is ReplicaStatus.STARTING:
                    ready.status = ReplicaStatus.IDLE
                    self._failed_starts = 0
                return []
            case ReplicaLost():
                return self._replica_lost(event)
            case ClipRendered():
                if clip := self._current_clip(event.key, event.attempt):
                    self._free(clip)
                    _add_seconds(clip.seconds, event.seconds)
                    self._clip_done(clip)
                return []
            case RenderFailed():
                if clip := self._current_clip(event.key, event.attempt):
                    self._free(clip)
                    _add_seconds(clip.seconds, event.seconds)
                    return self._clip_failed(clip, event.cause, event.message)
                return []
            case ClipFound(key=key):
                if (probed := self.clips.get(key)) and probed.status is ClipStatus.PROBING:
                    self._clip_done(probed)
                return []
            case ClipMissing(key=key):
                if (probed := self.clips.get(key)) and probed.status is ClipStatus.PROBING:
                    return self._clip_failed(probed, Cause.REPLICA_LOST, probed.message)
                return []
            case VariantPublished():
                if variant := self._current_variant(event.key, event.attempt):
                    self._assembling -= 1
                    _add_seconds(variant.seconds, event.seconds)
                    self._close_variant(variant, VariantStatus.PUBLISHED, "")
                return []
            case AssembleFailed():
                return self._assemble_failed(event)
            case StopRequested(message=message):
                return self._stop(message)

    def _replica_lost(self, event: ReplicaLost) -> list[Action]:
        lost = self.replicas.pop(event.replica, None)
        if lost is None:
            return []
        self._num_lost += 1
        if lost.staged:
            self._queue(self.clips[lost.staged])
        if lost.status is ReplicaStatus.STARTING:
            self._failed_starts += 1
            alive = any(r.status is not ReplicaStatus.STARTING for r in self.replicas.values())
            given_up = event.permanent or self._failed_starts >= self.policy.max_failed_starts
            # Where others work, one node's trouble is not the run's.
            if given_up and not alive:
                self.broken = f"no replica can start: {event.message}"
                return self._stop(self.broken)
        if lost.running is None:
            return []
        clip = self.clips[lost.running]
        clip.status, clip.replica, clip.message = ClipStatus.PROBING, None, event.message
        # What it did is gone, but the time was spent.
        _add_seconds(clip.seconds, (("denoise", self._now_s - clip.since_s),))
        return [Probe(clip.key, Reason.MAY_BE_DONE)]

    def _clip_failed(self, clip: ClipState, cause: Cause, message: str) -> list[Action]:
        attempt, clip.attempt = clip.attempt, None
        assert attempt is not None, "a clip that was not tried failed"
        if cause is Cause.CANCELLED:
            self._queue(clip)
            return []
        clip.failures += (cause,)
        clip.message = message
        if may_retry(self.policy, clip.failures):
            wait_s = backoff(self.policy, clip.failures)
            if wait_s:
                clip.status, clip.not_before_s = ClipStatus.PENDING, self._now_s + wait_s
                heapq.heappush(self._later, (clip.not_before_s, "clip", clip.key))
            else:
                self._queue(clip)
            return []
        self._close_clip(clip, ClipStatus.FAILED)
        for key in self._waiters.get(clip.key, ()):
            variant = self.variants[key]
            if variant.status is VariantStatus.WAITING:
                variant.failures += (cause,)
                self._close_variant(variant, VariantStatus.FAILED, message)
        if cause in REPEATING and is_spent(self.policy, clip.failures):
            return [Remember(clip.key, cause, message, attempt, Reason.WOULD_REPEAT)]
        return []

    def _assemble_failed(self, event: AssembleFailed) -> list[Action]:
        variant = self._current_variant(event.key, event.attempt)
        if variant is None:
            return []
        self._assembling -= 1
        variant.attempt = None
        variant.message = event.message
        # A held master that is gone is nobody's failure; one that this run has made and lost again is.
        if not event.missing or any(self.clips[key].done_here for key in event.missing):
            variant.failures += (event.cause,)
            if not may_retry(self.policy, variant.failures):
                self._close_variant(variant, VariantStatus.FAILED, event.message)
                return []
        for key in event.missing:
            self._render_again(key, variant)
        if variant.missing:
            variant.status = VariantStatus.WAITING
            return []
        wait_s = backoff(self.policy, variant.failures) if variant.failures else 0.0
        variant.status, variant.not_before_s = VariantStatus.READY, self._now_s + wait_s
        heapq.heappush(self._later, (variant.not_before_s, "variant", variant.key))
        return []

    def _render_again(self, key: str, variant: VariantState) -> None:
        """A master that was held is not in the store: it becomes a render, never a failure."""
        clip = self.clips[key]
        if clip.status is ClipStatus.DONE:
            self._open[clip.weights] += 1
            self._queue(clip)
        if clip.status is not ClipStatus.FAILED:
            variant.missing.add(key)

    def _stop(self, message: str) -> list[Action]:
        if self.stopping is not None:
            return []
        self.stopping, self._stopped_s = message, self._now_s
        return [
            Cancel(replica.replica, replica.running, attempt, Reason.STOPPING)
            for replica in self.replicas.values()
            if replica.running and (attempt := self.clips[replica.running].attempt)
        ]

    # -- decisions ----------------------------------------------------------------------------------------------

    def _assign(self) -> list[Action]:
        actions: list[Action] = []
        if self.stopping is None:
            actions += self._assign_clips()
            actions += self._assign_replicas()
            while self._ready and self._assembling < self.policy.max_assemblies:
                variant = self.variants[heapq.heappop(self._ready)[1]]
                if variant.status is VariantStatus.READY:
                    variant.status, variant.attempt = VariantStatus.ASSEMBLING, self._next_attempt()
                    variant.num_attempts += 1
                    self._assembling += 1
                    reason = Reason.RETRY if variant.failures else Reason.CLIPS_READY
                    actions.append(Assemble(variant.key, variant.attempt, reason))
        return actions

    def _assign_clips(self) -> list[Action]:
        actions: list[Action] = []
        for replica in self.replicas.values():
            if replica.status is ReplicaStatus.IDLE:
                staged = replica.staged is not None
                clip = self.clips[replica.staged] if replica.staged else self._pop(replica.weights)
                if clip is None:
                    clip = self._take_back(replica.weights)
                if clip is None:
                    continue
                replica.staged = None
                clip.status, clip.replica, clip.attempt = (
                    ClipStatus.RUNNING,
                    replica.replica,
                    self._next_attempt(),
                )
                clip.num_attempts += 1
                clip.since_s = self._now_s
                replica.status, replica.running = ReplicaStatus.BUSY, clip.key
                reason = Reason.RETRY if clip.failures else Reason.STAGED if staged else Reason.NEXT_IN_ORDER
                actions.append(Render(replica.replica, clip.key, clip.attempt, reason))
        for replica in self.replicas.values():
            # Staging comes second, so that no clip waits behind a busy replica while another one is idle.
            if (
                replica.status is ReplicaStatus.BUSY
                and replica.staged is None
                and (clip := self._pop(replica.weights))
            ):
                clip.status, clip.replica = ClipStatus.STAGED, replica.replica
                replica.staged = clip.key
                actions.append(Stage(replica.replica, clip.key, Reason.NEXT_IN_ORDER))
        return actions

    def _take_back(self, weights: str) -> ClipState | None:
        """A clip staged at a busy replica, for an idle one of the same engine: the first in order."""
        holders = [r for r in self.replicas.values() if r.staged and r.weights == weights]
        if not holders:
            return None
        holder = min(holders, key=lambda r: self.clips[r.staged or ""].order)
        clip = self.clips[holder.staged or ""]
        holder.staged = None
        return clip

    def _assign_replicas(self) -> list[Action]:
        actions: list[Action] = []
        for replica in list(self.replicas.values()):
            if replica.status is ReplicaStatus.IDLE and self._num_pending[replica.weights] == 0:
                others_wait = any(n for w, n in self._num_pending.items() if w != replica.weights)
                full = len(self.replicas) >= self.policy.max_replicas
                spare = len(self.replicas) > self.policy.min_replicas
                if (self._open[replica.weights] == 0 and spare) or (others_wait and full):
                    reason = Reason.OTHER_ENGINE_WAITS if others_wait else Reason.NO_MORE_WORK
                    actions.append(RetireReplica(replica.replica, reason))
                    del self.replicas[replica.replica]
        while len(self.replicas) < self.policy.max_replicas:
            if self._failed_starts >= self.policy.max_failed_starts and self.replicas:
                break  # those that work go on; another start would fail too
            started = Counter(r.weights for r in self.replicas.values())
            held = Counter(r.weights for r in self.replicas.values() for key in (r.running, r.staged) if key)
            weights = choose_engine(self._backlog, started, self._num_pending + held)
            if weights is None:
                break
            self._num_replicas += 1
            name = f"replica-{self._num_replicas}"
            self.replicas[name] = ReplicaState(name, weights)
            reason = Reason.REPLACES_LOST if self._num_lost else Reason.BACKLOG
            self._num_lost = max(0, self._num_lost - 1)
            actions.append(StartReplica(name, weights, reason))
        return actions

    def _finish_if_over(self) -> list[Action]:
        if self.stopping is not None:
            under_way = self._assembling or any(r.running for r in self.replicas.values())
            if under_way and self._now_s < self._stopped_s + self.policy.stop_grace_s:
                return []
            self._assembling = 0
            for variant in self.variants.values():
                if variant.status in (VariantStatus.WAITING, VariantStatus.READY, VariantStatus.ASSEMBLING):
                    self._close_variant(variant, VariantStatus.LEFT, self.stopping)
        if self._open_variants:
            return []
        # A clip that still renders is wanted by no variant any more (all of them failed): it is not worth a GPU.
        self.finished = True
        retire: list[Action] = [RetireReplica(name, Reason.DONE) for name in self.replicas]
        self.replicas.clear()
        reason = Reason.CANNOT_START if self.broken else Reason.STOPPING if self.stopping else Reason.DONE
        return [*retire, Finish(reason, self.broken or "")]

    # -- state changes ------------------------------------------------------------------------------------------

    def _queue(self, clip: ClipState) -> None:
        clip.status, clip.replica, clip.attempt = ClipStatus.PENDING, None, None
        heapq.heappush(self._pending.setdefault(clip.weights, []), (clip.order, clip.key))
        self._num_pending[clip.weights] += 1
        self._backlog[clip.weights] = self._backlog.get(clip.weights, 0.0) + clip.work

    def _pop(self, weights: str) -> ClipState | None:
        heap = self._pending.get(weights)
        if not heap:
            return None
        clip = self.clips[heapq.heappop(heap)[1]]
        self._num_pending[weights] -= 1
        self._backlog[weights] -= clip.work
        return clip

    def _free(self, clip: ClipState) -> None:
        if clip.replica and (replica := self.replicas.get(clip.replica)):
            replica.status, replica.running = ReplicaStatus.IDLE, None
        clip.replica = None

    def _clip_done(self, clip: ClipState) -> None:
        clip.done_here = True
        self._close_clip(clip, ClipStatus.DONE)
        for key in self._waiters.get(clip.key, ()):
            variant = self.variants[key]
            variant.missing.discard(clip.key)
            if variant.status is VariantStatus.WAITING and not variant.missing:
                self._make_ready(variant)

    def _close_clip(self, clip: ClipState, status: ClipStatus) -> None:
        clip.status, clip.attempt = status, None
        self._open[clip.weights] -= 1

    def _make_ready(self, variant: VariantState) -> None:
        variant.status = VariantStatus.READY
        heapq.heappush(self._ready, (variant.order, variant.key))

    def _close_variant(self, variant: VariantState, status: VariantStatus, message: str) -> None:
        variant.status, variant.message, variant.attempt = status, message, None
        self._open_variants -= 1

    def _wake(self) -> None:
        while self._later and self._later[0][0] <= self._now_s:
            _, kind, key = heapq.heappop(self._later)
            if kind == "clip":
                self._queue(self.clips[key])
            else:
                self._make_ready(self.variants[key])

    def _next_attempt(self) -> Attempt:
        self._num_attempts += 1
        return Attempt(self.epoch, self._num_attempts)

    def _current_clip(self, key: str, attempt: Attempt) -> ClipState | None:
        clip = self.clips.get(key)
        return clip if clip and clip.status is ClipStatus.RUNNING and clip.attempt == attempt else None

    def _current_variant(self, key: str, attempt: Attempt) -> VariantState | None:
        variant = self.variants.get(key)
        return variant if variant and variant.attempt == attempt else None

    # -- questions ----------------------------------------------------------------------------------------------

    @property
    def next_wake_s(self) -> float | None:
        """When a Tick should come at the latest: end of a back-off, deadline, end of a stop's grace."""
        times = [self._later[0][0]] if self._later else []
        if self.stopping is not None:
            times.append(self._stopped_s + self.policy.stop_grace_s)
        elif self.policy.deadline_s is not None:
            times.append(self.policy.deadline_s)
        return min(times, default=None)

    def validate(self) -> None:
        """Raise AssertionError when an invariant of ``README.md`` does not hold. For tests and simulations."""
        running = [r.running for r in self.replicas.values() if r.running]
        staged = [r.staged for r in self.replicas.values() if r.staged]
        assert len(set(running + staged)) == len(running + staged), "a clip is at two replicas"
        for replica in self.replicas.values():
            assert (replica.status is ReplicaStatus.BUSY) == (replica.running is not None), replica
            for key in filter(None, (replica.running, replica.staged)):
                assert self.clips[key].weights == replica.weights, "a clip is at a replica of another engine"
                assert self.clips[key].replica == replica.replica, "clip and replica disagree"
        statuses = Counter(c.status for c in self.clips.values())
        if not self.finished:
            assert statuses[ClipStatus.RUNNING] == len(running), "a running clip without its replica"
            assert statuses[ClipStatus.STAGED] == len(staged), "a staged clip without its replica"
        assert len(self.replicas) <= self.policy.max_replicas, "more replicas than allowed"
        for clip in self.clips.values():
            num_own = sum(cause is not Cause.STORAGE for cause in clip.failures)
            assert num_own <= self.policy.max_attempts, f"{clip.key}: budget exceeded"
            for cause, spent in Counter(clip.failures).items():
                assert spent <= self.policy.budgets.get(cause, 1), f"{clip.key}: {cause} budget exceeded"
        assembling = sum(v.status is VariantStatus.ASSEMBLING for v in self.variants.values())
        assert assembling == self._assembling <= self.policy.max_assemblies, "assemblies miscounted"
        for variant in self.variants.values():
            if variant.status in (VariantStatus.READY, VariantStatus.ASSEMBLING):
                assert not variant.missing, f"{variant.key}: assembled before its clips"
        if self.finished:
            open_variants = (VariantStatus.WAITING, VariantStatus.READY, VariantStatus.ASSEMBLING)
            assert not any(v.status in open_variants for v in self.variants.values()), (
                "finished with open variants"
            )
            assert not self.replicas, "finished with replicas"
        elif self.stopping is None:
            idle = [r for r in self.replicas.values() if r.status is ReplicaStatus.IDLE]
            assert not any(self._num_pending[r.weights] for r in idle), (
                "a replica is idle while a clip waits for it"
            )


def _add_seconds(total: dict[str, float], seconds: Sequence[tuple[str, float]]) -> None:
    for stage, value in seconds:
        total[stage] = total.get(stage, 0.0) + value
