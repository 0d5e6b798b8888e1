"""The scheduler: ``handle(event)`` returns the actions that follow. A state machine without clock, network or Ray.

Here events meet the state; the decisions are next door, one module each (see the map in ``README.md``). It does not
know what a clip looks like, how an order is carried out, or what time it is: time rides on the events. The same code
runs under Ray, inline and in simulations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wanflow.model import Attempt, Cause
from wanflow.schedule import assembly
from wanflow.schedule.actions import Action, Cancel, Finish, Reason, Unstage
from wanflow.schedule.assembly import assign_assemblies, clip_done
from wanflow.schedule.assign import assign_clips
from wanflow.schedule.board import Board
from wanflow.schedule.capacity import Capacity
from wanflow.schedule.ending import Ending
from wanflow.schedule.events import (
    AssembleFailed,
    ClipDenoised,
    ClipFound,
    ClipMissing,
    ClipRendered,
    DrainNoticed,
    Event,
    RenderFailed,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    RunStarted,
    StepDone,
    StepsKept,
    StopRequested,
    Tick,
    VariantPublished,
)
from wanflow.schedule.faults import Faults
from wanflow.schedule.invariants import check
from wanflow.schedule.policy import Policy
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
)


class Scheduler:
    """State of one run. ``handle`` events in the order they come; ``finished`` after ``Finish`` was returned."""

    def __init__(
        self,
        renders: Iterable[PlannedRender],
        assemblies: Iterable[PlannedAssembly],
        policy: Policy,
        epoch: int,
    ) -> None:
        self.finished = False
        self._board = Board(renders, assemblies, policy, epoch)
        self._capacity = Capacity(self._board)
        self._faults = Faults(self._board, self._capacity)
        self._ending = Ending(self._board, self._capacity, self._faults)

    @property
    def clips(self) -> dict[str, ClipState]:
        return self._board.clips

    @property
    def variants(self) -> dict[str, VariantState]:
        return self._board.variants

    @property
    def replicas(self) -> dict[str, ReplicaState]:
        return self._board.replicas

    @property
    def stopping(self) -> str | None:
        """Why the run is to end early, in words."""
        return self._board.stopping

    @property
    def broken(self) -> str | None:
        """Why the run as a whole broke."""
        return self._board.broken

    def handle(self, event: Event) -> list[Action]:
        """Take in one fact; return what is to be done, in order."""
        if self.finished:
            return []
        board = self._board
        board.now_s = max(board.now_s, event.time_s)
        board.watch.advance(board.now_s)
        actions = self._apply(event)
        actions += self._look_at_time()
        if self._faults.give_up is not None and board.stopping is None:
            board.broken = self._faults.give_up[1]
            actions += self._ending.stop(board.broken)
        if board.stopping is None:
            actions += assign_clips(board)
            actions += self._capacity.plan()
            actions += assign_assemblies(board)
        actions += [Unstage(name, Reason.NOT_NEXT) for name in board.parted if name in board.replicas]
        board.parted.clear()
        actions += self._ending.finish_if_over()
        self.finished = any(isinstance(action, Finish) for action in actions[-1:])
        return actions

    # -- events -------------------------------------------------------------------------------------------------

    def _apply(self, event: Event) -> list[Action]:
        board = self._board
        match event:
            case RunStarted() | Tick():
                return []
            case ReplicaPlaced(replica=name, node=node):
                if replica := self._starting(name):
                    replica.node = node
                    board.watch.begin_load(replica)
                return []
            case ReplicaReady(replica=name, loading=loading):
                if replica := self._starting(name):
                    replica.rung = loading.rung if loading else 0
                    self._capacity.ready(replica)
                return []
            case ReplicaLost():
                return self._replica_lost(event)
            case DrainNoticed(replica=name, grace_s=grace_s):
                replica = board.replicas.get(name)
                return self._capacity.drain(replica, board.now_s + grace_s) if replica else []
            case StepDone():
                return self._step_done(event)
            case StepsKept():
                return self._steps_kept(event)
            case ClipDenoised():
                return self._clip_denoised(event)
            case ClipRendered():
                return self._clip_rendered(event)
            case RenderFailed():
                return self._render_failed(event)
            case ClipFound(key=key) | ClipMissing(key=key):
                return self._probed(key, isinstance(event, ClipFound))
            case VariantPublished():
                assembly.published(board, event)
                return []
            case AssembleFailed():
                assembly.failed(board, event)
                return []
            case StopRequested(message=message):
                return self._ending.stop(message)

    def _step_done(self, event: StepDone) -> list[Action]:
        if (current := self._current(event.replica, event.attempt)) is None:
            return []
        clip, copy = self.clips[event.key], current[1]
        self._board.watch.step(clip, copy, self._board.now_s, event.stage, event.step, event.num_steps)
        if event.stage == "denoise":
            self._board.trunks.made(clip)
        if copy.attempt in clip.copies and event.stage != "ahead":
            clip.reached = (event.stage, event.step)
        return self._capacity.look_at(copy)

    def _steps_kept(self, event: StepsKept) -> list[Action]:
        if (current := self._current(event.replica, event.attempt)) is None:
            return []
        replica, copy = current
        board, clip = self._board, self.clips[event.key]
        num_steps = board.estimates.num_steps(clip, event.stage)
        share = board.estimates.share_done(clip, event.stage, event.step, num_steps) or 0.0
        is_ahead = event.key != copy.key
        is_wanted = clip.is_open if is_ahead else copy.attempt in clip.copies
        if is_wanted and (clip.kept is None or share >= clip.kept_share):
            clip.kept, clip.kept_share = (event.stage, event.step), min(share, 0.99)
        if is_ahead:
            _add_seconds(clip, event.seconds)
            copy.ahead_s += sum(seconds for _, seconds in event.seconds)
        if not event.is_last:
            return []
        _add_seconds(clip, event.seconds)
        board.release(replica, copy)
        return self._capacity.after_clip(replica) + self._faults.settle(clip)

    def _clip_denoised(self, event: ClipDenoised) -> list[Action]:
        current = self._current(event.replica, event.attempt)
        if current is not None and current[1] is current[0].copy:
            self._board.denoised(current[0])
            self._board.trunks.made(self.clips[event.key])
        return []

    def _clip_rendered(self, event: ClipRendered) -> list[Action]:
        if (current := self._current(event.replica, event.attempt)) is None:
            return []
        replica, copy = current
        board, clip = self._board, self.clips[event.key]
        replica.num_clips += 1
        board.release(replica, copy)
        _add_seconds(clip, event.seconds)
        actions: list[Action] = []
        if not copy.is_void:
            is_usual = clip.makes_trunk == any(stage == "trunk" for stage, _ in event.seconds)
            if copy.first_share == 0 and not copy.ending and is_usual:
                wall_s = board.now_s - copy.started_s
                board.estimates.learn_render(clip, replica.replica, wall_s, copy.is_switch, event.seconds)
                board.backlog.learnt(clip.kind)
            if copy.thrift:
                board.estimates.learn_thrift(clip.kind, copy.thrift)
            actions += self._done(clip)
            actions += self._faults.rendered(clip, replica)
        return actions + self._capacity.after_clip(replica, event.memory_bytes)

    def _done(self, clip: ClipState) -> list[Action]:
        """The record of ``clip`` is there; whoever renders it still does so for nothing."""
        board = self._board
        clip.done_here, clip.done_s, clip.suspected = True, board.now_s, None
        board.num_rendered += 1
        copies = board.finish_clip(clip, ClipStatus.DONE)
        clip_done(board, clip)
        for copy in copies:
            copy.ending = True
        return [Cancel(copy.replica, copy.key, copy.attempt, Reason.OTHER_WAS_FIRST) for copy in copies]

    def _render_failed(self, event: RenderFailed) -> list[Action]:
        if (current := self._current(event.replica, event.attempt)) is None:
            return []
        replica, copy = current
        clip = self.clips[event.key]
        self._board.release(replica, copy)
        _add_seconds(clip, event.seconds)
        if event.cause is Cause.CANCELLED and (copy.ending or self.stopping is not None):
            return self._capacity.after_clip(replica) + self._faults.settle(clip)
        return self._faults.failed(copy, replica, event.cause, event.message)

    def _probed(self, key: str, found: bool) -> list[Action]:
        clip = self.clips.get(key)
        if clip is None or clip.num_probes == 0:
            return []
        clip.num_probes -= 1
        if not clip.is_open:
            return []
        return self._done(clip) if found else self._faults.not_found(clip)

    def _replica_lost(self, event: ReplicaLost) -> list[Action]:
        board = self._board
        replica = board.replicas.get(event.replica)
        if replica is None:
            return []
        was_starting = replica.status is ReplicaStatus.STARTING
        copies = board.remove_replica(replica)
        self._capacity.replace(Reason.REPLACES_LOST)
        if was_starting and (event.permanent or event.cause is Cause.REPLICA_LOST):
            self._faults.start_failed(replica.node, event.message, event.permanent)
        return self._faults.lost(copies, event.cause, event.message)

    def _starting(self, name: str) -> ReplicaState | None:
        """The replica, if it is not ready yet."""
        replica = self.replicas.get(name)
        return replica if replica and replica.status is ReplicaStatus.STARTING else None

    def _current(self, name: str, attempt: Attempt) -> tuple[ReplicaState, Copy] | None:
        """The replica, if this attempt is on it, and the attempt; news of other attempts is late."""
        replica = self.replicas.get(name)
        found = (copy for copy in (replica.copies if replica else ()) if copy.attempt == attempt)
        return (replica, copy) if replica and (copy := next(found, None)) else None

    # -- time, the end ------------------------------------------------------------------------------------------

    def _look_at_time(self) -> list[Action]:
        board = self._board
        actions: list[Action] = []
        deadline_s = board.policy.deadline_s
        if deadline_s is not None and board.now_s >= deadline_s and board.stopping is None:
            actions += self._ending.stop("the deadline has passed")
        while due := board.due():
            what, name = due
            if what == "clip":
                board.end_wait(board.clips[name])
            elif what == "variant":
                if (variant := board.variants[name]).status is VariantStatus.READY:
                    board.make_ready(variant)
            elif replica := board.replicas.get(name):
                actions += self._look_at_replica(what, replica)
        for copy in board.watch.hung():
            heard = [each for each in board.replicas[copy.replica].copies if board.watch.is_heard(each)]
            if heard:
                board.watch.wait_with(copy, heard[0])
            else:
                actions += self._faults.hung(copy)
        for name in board.watch.hung_loads():
            actions += self._faults.load_hung(board.replicas[name])
        return actions

    def _look_at_replica(self, what: str, replica: ReplicaState) -> list[Action]:
        if (
            what == "rest"
            and replica.status is ReplicaStatus.IDLE
            and replica.rest_until_s <= self._board.now_s
        ):
            self._board.make_idle(replica)
        elif what == "idle":
            return self._capacity.look_at_idle(replica)
        elif what == "until" and (copy := replica.copy) is not None:
            return self._capacity.look_at(copy)
        return []

    @property
    def next_wake_s(self) -> float | None:
        """When a Tick should come at the latest: a back-off ends, a deadline passes, a replica may hang."""
        board = self._board
        times: list[float | None] = [board.timers[0][0] if board.timers else None]
        times.append(board.watch.next_hang_s(board.now_s))
        if board.stopping is not None:
            times.append(board.stopped_s + board.policy.stop_grace_s)
        elif board.policy.deadline_s is not None:
            times.append(board.policy.deadline_s)
        for weights, num in board.num_replicas.items():
            # Somebody could take over from a straggler.
            if num and board.idle.num[weights] and (first := board.watch.first(weights, board.now_s)):
                times.append(first.expected_end_s)
        return min((at_s for at_s in times if at_s is not None), default=None)

    def validate(self, whole: bool = True) -> None:
        """Raise AssertionError when an invariant does not hold; ``whole`` looks at every clip and variant too."""
        check(self._board, self.finished, whole)


def _add_seconds(clip: ClipState, seconds: Sequence[tuple[str, float]]) -> None:
    for stage, value in seconds:
        clip.seconds[stage] = clip.seconds.get(stage, 0.0) + value
