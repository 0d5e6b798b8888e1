"""The state of a run and every change of it: clips, copies, variants and replicas move here, their counts with them.

Each method is one step that keeps the invariants of ``invariants.py``; which step to take is decided elsewhere. Indexes
(what waits, who is idle, who could be staged for) are kept as the steps are taken, so that no decision has to look at
all replicas or clips.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count

from wanflow.model import Attempt
from wanflow.schedule.actions import Reason, Render, Stage
from wanflow.schedule.backlog import Backlog
from wanflow.schedule.estimates import Estimates, measured
from wanflow.schedule.idle import Idle
from wanflow.schedule.policy import TOOK_DOWN, Policy, is_worn
from wanflow.schedule.state import (
    ClipState,
    ClipStatus,
    Copy,
    PlannedAssembly,
    PlannedRender,
    ReplicaState,
    ReplicaStatus,
    VariantState,
    VariantStatus,
    clip_state,
)
from wanflow.schedule.trunks import Trunks
from wanflow.schedule.watch import Watch


class Board:
    def __init__(
        self,
        renders: Iterable[PlannedRender],
        assemblies: Iterable[PlannedAssembly],
        policy: Policy,
        epoch: int,
    ) -> None:
        renders = list(renders)
        self.policy = policy
        self.epoch = epoch
        self.now_s = 0.0
        self.clips: dict[str, ClipState] = {}
        self.variants: dict[str, VariantState] = {}
        self.replicas: dict[str, ReplicaState] = {}
        in_seconds, rates = measured(renders)
        self.estimates = Estimates(in_seconds, policy.switch_s)
        self.backlog = Backlog(self.clips, self.estimates)
        self.trunks = Trunks(self.clips, self.backlog)
        self.watch = Watch(policy, self.estimates)
        #: by weights: replicas that would be sick if anything were rendered elsewhere
        self.doubted: dict[str, dict[str, None]] = {}
        self.idle = Idle(self.replicas, self.doubted, self.estimates)
        #: the run is to end early, in words
        self.stopping: str | None = None
        self.stopped_s = 0.0
        #: why the run as a whole broke
        self.broken: str | None = None
        self.num_rendered = 0
        #: by weights: clips neither done nor given up; those that no replica has yet; replicas
        self.num_open: Counter[str] = Counter()
        self.num_waiting: Counter[str] = Counter()
        self.num_replicas: Counter[str] = Counter()
        #: by weights: of the replicas that are up, how many begin on each rung of the memory ladder
        self.num_on_rung: dict[str, Counter[int]] = {}
        #: by weights, in order of arrival: replicas that load; that could be staged for; staged clips
        self.starting: dict[str, dict[str, None]] = {}
        self.unstaged: dict[str, dict[str, None]] = {}
        self.staged: dict[str, dict[str, None]] = {}
        #: replicas to be told that no clip is to begin during the one that they are at
        self.parted: list[str] = []
        #: replicas with a copy
        self.busy: dict[str, None] = {}
        #: by weights: those of them that could begin another clip beside the end of theirs; those that did
        self.free_soon: dict[str, dict[str, None]] = {}
        self.num_finishing: Counter[str] = Counter()
        self.num_assembling = 0
        self.num_open_variants = 0
        self.ready: list[tuple[tuple[float, int], str]] = []
        #: (when, which, what is to be looked at again, its name)
        self.timers: list[tuple[float, int, str, str]] = []
        self._waiters: dict[str, list[str]] = {}
        self._num_attempts = 0
        self._num_started = 0
        self._count = count()
        self._plan(renders, list(assemblies), rates)

    def _plan(
        self,
        renders: Sequence[PlannedRender],
        assemblies: Sequence[PlannedAssembly],
        rates: dict[str, float],
    ) -> None:
        for position, planned in enumerate(renders):
            clip = clip_state(planned, position, rates)
            self.clips[clip.key] = clip
            if planned.held:
                clip.status = ClipStatus.DONE
            elif clip.trunk:
                self.trunks.add(clip)
        for position, (task, priority) in enumerate(assemblies):
            masters = tuple(sorted(task.masters))  # what follows must not depend on how a set is stored
            missing = {key for key in masters if self.clips[key].status is not ClipStatus.DONE}
            variant = VariantState(task.key, masters, missing, (-priority, position))
            self.variants[variant.key] = variant
            self.num_open_variants += 1
            for key in masters:
                self._waiters.setdefault(key, []).append(variant.key)
                self.clips[key].num_wanted += 1
            if not missing:
                self.make_ready(variant)
        for clip in self.clips.values():
            if clip.status is not ClipStatus.DONE:
                self.num_open[clip.weights] += 1
                self.wait(clip)

    # -- clips --------------------------------------------------------------------------------------------------

    def wait(self, clip: ClipState, last: bool = False, until_s: float = 0.0) -> None:
        """Let a clip that nobody renders wait for a replica, from ``until_s`` on."""
        assert not clip.copies, clip
        assert not clip.lost, clip
        if clip.status is not ClipStatus.STAGED:
            self.num_waiting[clip.weights] += 1
        clip.status, clip.replica = ClipStatus.PENDING, None
        if until_s > self.now_s:
            clip.not_before_s = until_s
            self.remind(until_s, "clip", clip.key)
        else:
            self.backlog.push(clip, last, self.trunks.is_behind(clip))

    def end_wait(self, clip: ClipState) -> None:
        """The clip's back-off is over."""
        if (
            clip.status is ClipStatus.PENDING
            and clip.key not in self.backlog
            and clip.not_before_s <= self.now_s
        ):
            self.backlog.push(clip, behind=self.trunks.is_behind(clip))

    def stage(self, clip: ClipState, replica: ReplicaState) -> Stage:
        assert clip.status is ClipStatus.PENDING
        assert replica.staged is None
        clip.status, clip.replica = ClipStatus.STAGED, replica.replica
        replica.staged = clip.key
        self.staged.setdefault(clip.weights, {})[clip.key] = None
        self.unstaged[replica.weights].pop(replica.replica, None)
        self.look_if_free(replica)
        attempt = self._goes_with(clip, replica)
        replica.is_pair = attempt is not None
        return Stage(replica.replica, clip.key, Reason.NEXT_IN_ORDER, attempt)

    def _goes_with(self, clip: ClipState, replica: ReplicaState) -> Attempt | None:
        """The attempt on ``replica`` in which first steps of ``clip`` may be taken: whoever waits for it must have the
        time. Who has failed has the engine for itself, and who has steps goes on from them in its own turn.
        """
        copy, deadline_s = replica.copy, self.policy.deadline_s
        if copy is None or clip.kept is not None:
            return None
        if any(each.failures or each.suspected for each in (clip, self.clips[copy.key])):
            return None
        if deadline_s is not None:
            longer_s = self.estimates.seconds(clip, replica.replica)
            if longer_s is None or (copy.expected_end_s or self.now_s) + longer_s > deadline_s:
                return None
        return copy.attempt

    def part(self, replica: ReplicaState) -> None:
        """What is staged at ``replica`` is not to begin during the clip before it, if it was to."""
        if replica.is_pair and replica.copy is not None:
            self.parted.append(replica.replica)
        replica.is_pair = False

    def unstage(self, replica: ReplicaState, begins: bool = False) -> ClipState | None:
        """The clip that was staged at ``replica``, which has it no longer; it counts as staged until it is moved on.
        ``begins``: it is to be rendered there now.
        """
        if replica.staged is None:
            return None
        clip = self.clips[replica.staged]
        replica.staged, clip.replica = None, None
        if begins:
            replica.is_pair = False
        self.part(replica)
        del self.staged[clip.weights][clip.key]
        if replica.status is ReplicaStatus.BUSY and replica.drain_s is None:
            self.unstaged.setdefault(replica.weights, {})[replica.replica] = None
        self.look_if_free(replica)
        return clip

    def render(self, clip: ClipState, replica: ReplicaState, reason: Reason) -> Render:
        """Begin a copy of ``clip``, the first or another one, on an idle replica or beside the end of a clip."""
        assert (replica.status is ReplicaStatus.IDLE) == (replica.copy is None)
        assert replica.finishing is None
        if clip.status in (ClipStatus.PENDING, ClipStatus.STAGED):
            self.num_waiting[clip.weights] -= 1
        self._num_attempts += 1
        attempt = Attempt(self.epoch, self._num_attempts)
        clip.status, clip.last_attempt = ClipStatus.RUNNING, attempt
        clip.num_attempts += 1
        clip.thrift = max(clip.thrift, self.estimates.thrift(clip.kind))
        is_switch = replica.group != clip.group
        copy = Copy(clip.key, attempt, replica.replica, self.now_s, clip.kept_share, clip.thrift, is_switch)
        lost_steps = self._lost_steps(clip)
        clip.copies[attempt] = copy
        if (former := replica.copy) is not None:
            assert replica.replica in self.free_soon[replica.weights]
            assert not self.is_suspect(clip), "it has its replica for itself"
            former.passed_s = self.now_s
            self.watch.passed(former)
            replica.finishing = former
            self.num_finishing[replica.weights] += 1
        else:
            self.idle.num[replica.weights] -= 1
        replica.copy, replica.status, replica.group = copy, ReplicaStatus.BUSY, clip.group
        self.busy[replica.replica] = None
        self.unstaged.setdefault(replica.weights, {})[replica.replica] = None
        self.look_if_free(replica)
        self.watch.begin(clip, copy, self.now_s)
        return Render(replica.replica, clip.key, attempt, reason, clip.thrift, lost_steps)

    def denoised(self, replica: ReplicaState) -> None:
        """The replica's copy needs its forwards no more."""
        assert replica.copy is not None
        replica.copy.is_denoised = True
        self.watch.denoised(self.clips[replica.copy.key], replica.copy, self.now_s)
        self.look_if_free(replica)

    def look_if_free(self, replica: ReplicaState) -> None:
        """File whether ``replica`` could begin another clip beside the end of the one that it renders.

        Not beside a clip that may have taken a replica down, nor where such a one comes next, nor where the replica is
        to go after the one that ends.
        """
        copy = replica.copy
        is_free = (
            copy is not None
            and copy.is_denoised
            and replica.finishing is None
            and replica.drain_s is None
            and not self.is_suspect(self.clips[copy.key])
            and not (replica.staged is not None and self.is_suspect(self.clips[replica.staged]))
            and not is_worn(
                self.policy, replica.num_clips + 1, replica.memory_bytes, replica.first_memory_bytes
            )
        )
        filed = self.free_soon.setdefault(replica.weights, {})
        if is_free:
            filed[replica.replica] = None
        else:
            filed.pop(replica.replica, None)

    def is_suspect(self, clip: ClipState) -> bool:
        """Whether ``clip`` is to have its replica for itself: it took one down, or may have."""
        return clip.suspected is not None or any(cause in TOOK_DOWN for cause in clip.failures)

    def release(self, replica: ReplicaState, copy: Copy) -> None:
        """``copy`` has ended: its clip has one copy less, and ``replica`` nothing to do, unless it has another."""
        clip = self.clips[copy.key]
        clip.copies.pop(copy.attempt, None)
        self.watch.end(clip, copy)
        if replica.finishing is not None:
            assert copy in (replica.finishing, replica.copy)
            if copy is replica.copy:
                replica.copy = replica.finishing
            replica.finishing = None
            self.num_finishing[replica.weights] -= 1
            self.look_if_free(replica)
            return
        assert copy is replica.copy
        replica.copy = None
        del self.busy[replica.replica]
        self.free_soon[replica.weights].pop(replica.replica, None)
        self.unstaged[replica.weights].pop(replica.replica, None)
        replica.status = ReplicaStatus.IDLE
        self.idle.num[replica.weights] += 1

    def finish_clip(self, clip: ClipState, status: ClipStatus) -> list[Copy]:
        """``clip`` is DONE, FAILED or LEFT; returns the copies of it that render still, for nothing."""
        if clip.status in (ClipStatus.PENDING, ClipStatus.STAGED):
            self.num_waiting[clip.weights] -= 1
        self.backlog.discard(clip)
        if clip.replica is not None:
            self.unstage(self.replicas[clip.replica])
        clip.status = status
        self.num_open[clip.weights] -= 1
        self.trunks.over(clip)
        copies = list(clip.copies.values())
        for copy in copies:
            copy.is_void = True
        clip.copies.clear()
        clip.lost.clear()
        return copies

    def reopen(self, clip: ClipState) -> None:
        """A clip that was done is gone from the store."""
        assert clip.status is ClipStatus.DONE
        clip.kept, clip.kept_share, clip.num_probes = None, 0.0, 0
        self.num_open[clip.weights] += 1
        for variant in self.waiters(clip.key):
            if variant.status is VariantStatus.WAITING:  # for other clips, too
                variant.missing.add(clip.key)
        self.wait(clip)

    def num_to_render(self, weights: str) -> int:
        """Open clips that need a replica's forwards, now or later: not those that end beside another one."""
        return self.num_open[weights] - self.num_finishing[weights]

    def _lost_steps(self, clip: ClipState) -> int:
        """Steps that were done by a copy that ended, and are to be done again."""
        reached, clip.reached = clip.reached, None
        if reached is None or clip.copies:
            return 0
        if clip.kept is not None and clip.kept[0] == reached[0]:
            return max(reached[1] - clip.kept[1], 0)
        return max(reached[1] - (clip.num_trunk_steps if reached[0] == "denoise" else 0), 0)

    # -- replicas -----------------------------------------------------------------------------------------------

    def add_replica(self, weights: str) -> ReplicaState:
        self._num_started += 1
        replica = ReplicaState(f"replica-{self._num_started}", weights, started_s=self.now_s)
        self.replicas[replica.replica] = replica
        self.num_replicas[weights] += 1
        self.starting.setdefault(weights, {})[replica.replica] = None
        return replica

    def replica_ready(self, replica: ReplicaState) -> None:
        del self.starting[replica.weights][replica.replica]
        self.watch.end_load(replica)
        replica.status = ReplicaStatus.IDLE
        self.idle.num[replica.weights] += 1
        self.num_on_rung.setdefault(replica.weights, Counter())[replica.rung] += 1
        self.make_idle(replica)

    def make_idle(self, replica: ReplicaState) -> None:
        """Let ``replica`` be found by who looks for an idle one, at the end of its rest."""
        if replica.rest_until_s > self.now_s:
            replica.idle_s = replica.rest_until_s
            self.remind(replica.rest_until_s, "rest", replica.replica)
        else:
            self.idle.add(replica, self.now_s)

    def remove_replica(self, replica: ReplicaState) -> list[Copy]:
        """It is gone, or given up; what it rendered is returned and renders no more, what it had staged waits."""
        copies = replica.copies
        for copy in copies:
            self.release(replica, copy)
        if (clip := self.unstage(replica)) is not None:
            self.wait(clip)
        del self.replicas[replica.replica]
        self.num_replicas[replica.weights] -= 1
        self.starting.get(replica.weights, {}).pop(replica.replica, None)
        self.watch.end_load(replica)
        self.unstaged.get(replica.weights, {}).pop(replica.replica, None)
        if replica.status is ReplicaStatus.IDLE:
            self.idle.num[replica.weights] -= 1
            self.num_on_rung[replica.weights][replica.rung] -= 1
        self.doubted.get(replica.weights, {}).pop(replica.replica, None)
        self.estimates.forget(replica.replica)
        return copies

    def num_fitting(self, clip: ClipState) -> int:
        """Replicas that may have room for ``clip``; those that load may, as far as anybody knows."""
        up = self.num_on_rung.get(clip.weights, Counter())
        num = sum(num for rung, num in up.items() if clip.may_fit(rung))
        return num + len(self.watch.loading.get(clip.weights, ()))

    def num_sound(self, clip: ClipState) -> int:
        """Those among them that are in no doubt."""
        doubted = self.doubted.get(clip.weights, ())
        return self.num_fitting(clip) - sum(clip.may_fit(self.replicas[name].rung) for name in doubted)

    def is_held(self, replica: ReplicaState) -> bool:
        """Whether ``replica`` is given nothing until another one, at work or still loading, shows who is to blame."""
        weights, doubted = replica.weights, self.doubted.get(replica.weights, {})
        if replica.replica not in doubted:
            return False
        num_busy = self.num_on_rung[weights].total() - self.idle.num[weights]
        num_busy -= sum(self.replicas[name].status is ReplicaStatus.BUSY for name in doubted)
        return num_busy > 0 or bool(self.watch.loading.get(weights))

    # -- variants -----------------------------------------------------------------------------------------------

    def waiters(self, key: str) -> list[VariantState]:
        return [self.variants[name] for name in self._waiters.get(key, ())]

    def make_ready(self, variant: VariantState) -> None:
        variant.status = VariantStatus.READY
        heapq.heappush(self.ready, (variant.order, variant.key))

    def begin_assembly(self, variant: VariantState) -> Attempt:
        self._num_attempts += 1
        variant.status, variant.attempt = VariantStatus.ASSEMBLING, Attempt(self.epoch, self._num_attempts)
        variant.num_attempts += 1
        variant.since_s = self.now_s
        self.num_assembling += 1
        return variant.attempt

    def end_assembly(self, variant: VariantState) -> None:
        variant.attempt = None
        self.num_assembling -= 1

    def close_variant(self, variant: VariantState, status: VariantStatus, message: str) -> None:
        """PUBLISHED, FAILED or LEFT. Clips that wait for it alone are not worth a replica any more."""
        if variant.status is VariantStatus.ASSEMBLING:
            self.end_assembly(variant)
        variant.status, variant.message = status, message
        self.num_open_variants -= 1
        for key in variant.masters:
            clip = self.clips[key]
            clip.num_wanted -= 1
            if clip.num_wanted == 0 and clip.status in (ClipStatus.PENDING, ClipStatus.STAGED):
                self.finish_clip(clip, ClipStatus.LEFT)

    # -- time ---------------------------------------------------------------------------------------------------

    def remind(self, at_s: float, what: str, name: str) -> None:
        heapq.heappush(self.timers, (at_s, next(self._count), what, name))

    def due(self) -> tuple[str, str] | None:
        """What is to be looked at again now, one after the other."""
        if self.timers and self.timers[0][0] <= self.now_s:
            _, _, what, name = heapq.heappop(self.timers)
            return what, name
        return None
