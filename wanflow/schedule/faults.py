"""What follows when something goes wrong: who pays, what is tried again, what has failed, who is to blame.

Each cause has its own rule (``policy.BUDGETS``; README has the table). Blame is looked for in three places before a
clip pays: the replica (three different clips failed on it while others were rendered, there or elsewhere: it is sick),
the run (the first clips all fail alike, or no replica can start: it stops), the clip (it took two replicas down:
poison). Does not order renders; a clip that may be tried again is put back among the waiting ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from wanflow.model import Cause
from wanflow.schedule.actions import Action, KillReplica, Probe, Reason, Remember
from wanflow.schedule.board import Board
from wanflow.schedule.capacity import Capacity
from wanflow.schedule.policy import TOOK_DOWN, backoff, is_poison, may_retry, num_own
from wanflow.schedule.state import (
    ClipState,
    ClipStatus,
    Copy,
    Lost,
    ReplicaState,
    ReplicaStatus,
    VariantStatus,
)

#: these say nothing about the replica that they happened on
NOT_THE_REPLICA = frozenset({Cause.BAD_INPUT, Cause.CANCELLED, Cause.PREEMPTED, Cause.NODE_LOST})
#: these could be common to all clips
COMMON = frozenset({Cause.ITEM_ERROR, Cause.BAD_OUTPUT, Cause.OUT_OF_MEMORY, *TOOK_DOWN})


class Faults:
    def __init__(self, board: Board, capacity: Capacity) -> None:
        self._board = board
        self._capacity = capacity
        #: why the run should be given up, and in words
        self.give_up: tuple[Reason, str] | None = None
        #: failures that look alike -> clips that failed so, and on which replicas; until the first clip is rendered
        self._alike: dict[tuple[Cause, str], tuple[set[str], set[str]]] = {}
        #: poison that was found before any clip was rendered: it may be the run's trouble
        self._suspected: list[Remember] = []
        #: by weights, the newest successes of the two replicas that had one last: (time, replica)
        self._successes: dict[str, list[tuple[float, str]]] = {}

    # -- what went well -----------------------------------------------------------------------------------------

    def rendered(self, clip: ClipState, replica: ReplicaState) -> list[Action]:
        """A clip was rendered on ``replica``."""
        replica.streak.clear()
        replica.num_storage = 0
        self._board.doubted.get(clip.weights, {}).pop(replica.replica, None)
        others = [each for each in self._successes.get(clip.weights, []) if each[1] != replica.replica]
        self._successes[clip.weights] = [(self._board.now_s, replica.replica), *others[:1]]
        actions = self._look_at_doubted(clip.weights)
        if self._board.num_rendered == 1:
            self._alike.clear()
            self._board.backlog.release()
            actions += self.suspected()
        return actions

    def suspected(self) -> list[Action]:
        """Poison that was found early is poison, now that something was rendered or the run is over."""
        actions: list[Action] = [*self._suspected]
        self._suspected.clear()
        return actions

    # -- what did not -------------------------------------------------------------------------------------------

    def failed(self, copy: Copy, replica: ReplicaState, cause: Cause, message: str) -> list[Action]:
        """``copy`` has failed, and is off ``replica`` already."""
        clip = self._board.clips[copy.key]
        if copy.is_void:
            return self._capacity.after_clip(replica)
        if cause not in (Cause.CANCELLED, Cause.STORAGE):
            clip.failed_on = replica.replica
        if cause is Cause.OUT_OF_MEMORY:
            self._go_down(clip, copy, replica)
        self._charge(clip, replica.replica, cause, message)
        actions: list[Action] = []
        if cause not in NOT_THE_REPLICA:
            if not replica.streak:
                replica.streak_s = self._board.now_s
            replica.streak[clip.key] = cause
            if cause is Cause.STORAGE:
                replica.num_storage += 1
                rest_s = backoff(self._board.policy, replica.num_storage)
                replica.rest_until_s = self._board.now_s + rest_s
        if self._is_sick(replica):
            actions += self._retire_sick(replica)
        else:
            if self._is_conspicuous(replica):
                self._board.doubted.setdefault(replica.weights, {})[replica.replica] = None
            actions += self._capacity.after_clip(replica)
        return actions + self.settle(clip)

    def _go_down(self, clip: ClipState, copy: Copy, replica: ReplicaState) -> None:
        """``copy`` did not find the memory: next a rung further down the ladder, or a replica with a larger GPU.

        What is too large for the last rung of one replica is so for smaller ones; of two, for all of their size.
        """
        board, rung, known = self._board, replica.rung, clip.too_large_from
        if rung + copy.thrift < board.policy.last_rung:
            clip.thrift = max(clip.thrift, copy.thrift + 1)
        elif not clip.copies:  # else it is not said: that one may be where there is room
            clip.too_large_from = rung + 1 if known is None or known > rung + 1 else min(known, rung)
            clip.is_too_large = board.num_fitting(clip) <= clip.may_fit(rung)

    def lost(self, copies: Sequence[Copy], cause: Cause, message: str) -> list[Action]:
        """The replica of ``copies`` is gone; each may have written its record before."""
        return [action for copy in copies for action in self._lost(copy, cause, message, len(copies) > 1)]

    def _lost(self, copy: Copy, cause: Cause, message: str, is_one_of_two: bool) -> list[Action]:
        board = self._board
        clip = board.clips[copy.key]
        # What it did is gone, but the time was spent; from then on, the time is that of the clip after it.
        until_s = board.now_s if copy.passed_s is None else copy.passed_s
        clip.seconds["denoise"] = clip.seconds.get("denoise", 0.0) + until_s - copy.started_s - copy.ahead_s
        if copy.is_void:
            return []
        clip.lost.append(Lost(copy.replica, cause, message, is_one_of_two))
        clip.num_probes += 1
        if not clip.copies:
            clip.status = ClipStatus.PROBING
        clip.message = message
        return [Probe(clip.key, Reason.MAY_BE_DONE)]

    def not_found(self, clip: ClipState) -> list[Action]:
        """The store has no record of ``clip``: what was lost is lost."""
        lost = clip.lost[:]
        clip.lost.clear()
        for each in lost:
            if each.is_one_of_two and each.cause in TOOK_DOWN:
                self._suspect(clip, each)
            else:
                self._charge(clip, each.replica, each.cause, each.message)
        return self.settle(clip) if lost else []

    def hung(self, copy: Copy) -> list[Action]:
        """No news of ``copy`` for longer than is its budget: its replica is ended, whatever state it is in."""
        board = self._board
        replica = board.replicas[copy.replica]
        copy = max(replica.copies, key=lambda each: each.heard_s)
        what = f"step {copy.step} of {copy.stage}" if copy.stage else "its start"
        silent_s = board.now_s - copy.heard_s
        message = f"{copy.replica} hung: no news for {silent_s:.0f} s after {what}"
        return self._kill(replica, Reason.HUNG, Cause.HUNG, message)

    def settle(self, clip: ClipState) -> list[Action]:
        """Decide what becomes of a clip that may have no copy left."""
        board = self._board
        if clip.copies or clip.status not in (ClipStatus.RUNNING, ClipStatus.PROBING):
            return []  # another copy renders; or it waits already, or has ended: this one was no longer its own
        if clip.lost:
            clip.status = ClipStatus.PROBING
            return []
        if not may_retry(board.policy, clip.failures) or clip.is_too_large:
            return self._fail(clip)
        if clip.num_wanted == 0:
            board.finish_clip(clip, ClipStatus.LEFT)
            return []
        until_s = 0.0
        if clip.failures and clip.failures[-1] is Cause.STORAGE:
            until_s = board.now_s + backoff(board.policy, clip.failures.count(Cause.STORAGE))
        # Until anything was rendered, other clips are tried first: they tell a bad clip from a bad run.
        board.wait(clip, last=num_own(clip.failures) > 0 and board.num_rendered == 0, until_s=until_s)
        return []

    def _suspect(self, clip: ClipState, lost: Lost) -> None:
        """A replica went down with ``clip`` and another one on it: that counts once it is known which of them did it,
        and costs the innocent one nothing. Until then each has its replica for itself."""
        clip.suspected, clip.message = lost.cause, lost.message
        self._look_for_common_cause(clip, lost.replica, lost.cause, lost.message)

    def _charge(self, clip: ClipState, replica: str, cause: Cause, message: str) -> None:
        clip.message = message
        if cause in TOOK_DOWN and clip.suspected is not None:
            if not any(each in TOOK_DOWN for each in clip.failures):  # else it is poison without
                clip.failures += (clip.suspected,)
            clip.suspected = None
        # While another copy renders, only what took a replica down is held against the clip.
        if not clip.copies or cause in TOOK_DOWN:
            clip.failures += (cause,)
        self._look_for_common_cause(clip, replica, cause, message)

    def _fail(self, clip: ClipState) -> list[Action]:
        board = self._board
        cause = clip.failures[-1]
        poison = is_poison(clip.failures)
        if poison and cause not in TOOK_DOWN:
            cause = next(each for each in reversed(clip.failures) if each in TOOK_DOWN)
        board.finish_clip(clip, ClipStatus.FAILED)
        for variant in board.waiters(clip.key):
            if variant.status is VariantStatus.WAITING:
                variant.failures += (cause,)
                board.close_variant(variant, VariantStatus.FAILED, clip.message)
        assert clip.last_attempt is not None, "a clip that was not tried failed"
        if cause is Cause.BAD_INPUT:
            return [Remember(clip.key, cause, clip.message, clip.last_attempt, Reason.WOULD_REPEAT)]
        if poison:
            self._suspected.append(Remember(clip.key, cause, clip.message, clip.last_attempt, Reason.POISON))
            return self.suspected() if board.num_rendered else []
        return []

    # -- the replica --------------------------------------------------------------------------------------------

    def _is_conspicuous(self, replica: ReplicaState) -> bool:
        """Whether many clips in a row failed on it, of what neither the store nor their size nor their pictures
        explain: a fresh process may be all that it takes."""
        return list(replica.streak.values()).count(Cause.ITEM_ERROR) >= self._board.policy.sick_after

    def _is_sick(self, replica: ReplicaState) -> bool:
        """Whether many clips in a row failed on ``replica``, and others do not: there before, or elsewhere since."""
        if len(replica.streak) < self._board.policy.sick_after:
            return False
        if replica.num_clips and self._is_conspicuous(replica):
            return True
        return any(
            name != replica.replica and at_s >= replica.streak_s
            for at_s, name in self._successes.get(replica.weights, ())
        )

    def _look_at_doubted(self, weights: str) -> list[Action]:
        """Something was rendered: it was not the clips. Who is at one still shows by that."""
        actions: list[Action] = []
        for name in list(self._board.doubted.get(weights, ())):
            replica = self._board.replicas[name]
            if replica.status is ReplicaStatus.IDLE and self._is_sick(replica):
                actions += self._retire_sick(replica)
        return actions

    def _retire_sick(self, replica: ReplicaState) -> list[Action]:
        """End a replica, and take what failed on it off the clips' accounts."""
        board = self._board
        for key, cause in replica.streak.items():
            clip = board.clips[key]
            if clip.is_open and cause in clip.failures:
                last = len(clip.failures) - 1 - clip.failures[::-1].index(cause)
                clip.failures = clip.failures[:last] + clip.failures[last + 1 :]
                if cause is Cause.OUT_OF_MEMORY:
                    clip.thrift = max(clip.thrift - 1, 0)
                    clip.too_large_from, clip.is_too_large = None, False
        message = f"{replica.replica} was ended as sick: {len(replica.streak)} clips in a row failed on it"
        return self._kill(replica, Reason.SICK, Cause.CANCELLED, message)

    def _kill(self, replica: ReplicaState, reason: Reason, cause: Cause, message: str) -> list[Action]:
        """End a replica, whatever state it is in; what it renders ends by ``cause``."""
        copies = self._board.remove_replica(replica)
        self._capacity.replace(reason)
        return [KillReplica(replica.replica, reason, message), *self.lost(copies, cause, message)]

    # -- starts -------------------------------------------------------------------------------------------------

    def start_failed(self, node: str, message: str, permanent: bool = False) -> None:
        """A replica on ``node`` did not become ready, and is gone.

        One node's trouble is not the run's, where others work, or load on another node and may yet.
        """
        board = self._board
        self._capacity.start_failed(node)
        failed = self._capacity.failed_starts
        is_enough = permanent or len(failed) >= board.policy.max_failed_starts
        nodes = set(failed) - {""}
        if is_enough and not any(
            each.status is not ReplicaStatus.STARTING or (len(nodes) <= 1 and each.node not in ("", *nodes))
            for each in board.replicas.values()
        ):
            self.give_up = Reason.CANNOT_START, f"no replica can start: {message}"

    def load_hung(self, replica: ReplicaState) -> list[Action]:
        """``replica`` has loaded for longer than is its budget."""
        load_s = self._board.watch.load_s(replica)
        assert load_s is not None, "nobody said that it loads"
        message = (
            f"{replica.replica} hung while it loaded: not ready {load_s:.0f} s after its process began on "
            f"{replica.node or 'its node'}; look there at what its weights come from (mount, cache, network) and at "
            "the GPU's driver; a load that is only slow is given more time by limits.max_load_minutes"
        )
        actions = self._kill(replica, Reason.HUNG, Cause.HUNG, message)
        self.start_failed(replica.node, message)
        return actions

    # -- the run ------------------------------------------------------------------------------------------------

    def _look_for_common_cause(self, clip: ClipState, replica: str, cause: Cause, message: str) -> None:
        board = self._board
        if board.num_rendered or cause not in COMMON:
            return
        if cause is Cause.OUT_OF_MEMORY and not clip.is_too_large:
            return
        clips, replicas = self._alike.setdefault((cause, _pattern(message)), (set(), set()))
        clips.add(clip.key)
        replicas.add(replica)
        # The first to fail are not the first to run, and one bad replica fails faster than good ones render.
        num = sum(board.num_replicas.values()) - sum(map(len, board.starting.values()))
        num += sum(map(len, board.watch.loading.values()))
        if len(clips) >= board.policy.common_cause_after and len(replicas) >= min(num, max(2, num // 2)):
            words = f"the first {len(clips)} clips all failed alike ({cause}): {message}"
            self.give_up = Reason.COMMON_CAUSE, words


def _pattern(message: str) -> str:
    """What messages of one trouble share: names and numbers left out."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|0x[0-9a-f]+|\d+", "", message)[:80]
