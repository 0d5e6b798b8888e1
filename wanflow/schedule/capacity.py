"""How many replicas, of which engine: started by backlog, given back at the tail, drained, recycled, replaced.

Decides on replicas that have nothing to do, that load, or that have just ended a clip; a replica at work is ended by
others (``faults``: hung, sick) or by a drain. A warm replica is never retired while a clip waits, in a back-off or for
its inputs.
"""

from __future__ import annotations

from collections import deque

from wanflow.schedule.actions import (
    Action,
    Cancel,
    Reason,
    RequestCapacity,
    RetireReplica,
    Save,
    StartReplica,
)
from wanflow.schedule.board import Board
from wanflow.schedule.policy import backoff, choose_capacity, choose_engine, is_worn
from wanflow.schedule.state import Copy, ReplicaState, ReplicaStatus

#: a copy that may end in time needs this share of what is left on top
DOUBT = 0.1
#: a replica without work is not looked at more often
MIN_PATIENCE_S = 1.0


class Capacity:
    def __init__(self, board: Board) -> None:
        self._board = board
        #: nodes of the starts that failed in a row
        self.failed_starts: list[str] = []
        self._start_not_before_s = 0.0
        #: why the replicas to come replace others
        self._replacing: deque[Reason] = deque()
        self._requested = 0

    # -- the end of a clip, of a replica --------------------------------------------------------------------------

    def after_clip(self, replica: ReplicaState, memory_bytes: int | None = None) -> list[Action]:
        """``replica`` has ended a clip: it takes the next one, or goes, unless it is at another one still."""
        board = self._board
        if replica.first_memory_bytes is None:
            replica.first_memory_bytes = memory_bytes
        if memory_bytes is not None:
            replica.memory_bytes = memory_bytes
        if replica.copy is not None:
            board.look_if_free(replica)
            return []
        if replica.drain_s is not None:
            return self.retire(replica, Reason.DRAINING)
        if board.stopping is not None:
            return self.retire(replica, Reason.STOPPING)
        worn = is_worn(board.policy, replica.num_clips, replica.memory_bytes, replica.first_memory_bytes)
        if board.num_waiting[replica.weights] and worn:
            self._replacing.append(Reason.RECYCLED)
            return self.retire(replica, Reason.RECYCLED)
        board.make_idle(replica)
        return []

    def ready(self, replica: ReplicaState) -> None:
        board = self._board
        self.failed_starts.clear()
        load_s = board.watch.load_s(replica)
        board.estimates.learn_load(
            replica.weights, board.now_s - replica.started_s if load_s is None else load_s
        )
        board.replica_ready(replica)

    def start_failed(self, node: str) -> None:
        """A replica on ``node`` died, or hung, before it was ready."""
        board = self._board
        self.failed_starts.append(node)
        if (over := len(self.failed_starts) - board.policy.max_failed_starts) >= 0:
            self._start_not_before_s = board.now_s + backoff(board.policy, over + 1)
            board.remind(self._start_not_before_s, "start", "")

    def replace(self, reason: Reason) -> None:
        """The next start stands for a replica that is gone for ``reason``."""
        self._replacing.append(reason)

    def retire(self, replica: ReplicaState, reason: Reason) -> list[Action]:
        self._board.remove_replica(replica)
        return [RetireReplica(replica.replica, reason)]

    # -- drains ---------------------------------------------------------------------------------------------------

    def drain(self, replica: ReplicaState, until_s: float) -> list[Action]:
        """Its machine is taken back at ``until_s``: nothing new for it, and what it renders ends or is saved.

        A clip that ends beside another one is let end: there is little left of it, and it has no steps to save.
        """
        board = self._board
        until_s = until_s if replica.drain_s is None else min(until_s, replica.drain_s)
        replica.drain_s = until_s
        if (clip := board.unstage(replica)) is not None:
            board.wait(clip)
        board.unstaged.get(replica.weights, {}).pop(replica.replica, None)
        board.look_if_free(replica)
        if replica.copy is None:
            return self.retire(replica, Reason.DRAINING)
        return self.end_by(replica.copy, until_s, Reason.DRAINING)

    def end_by(self, copy: Copy, until_s: float, reason: Reason) -> list[Action]:
        """Let ``copy`` finish if it should within ``until_s``; else have its steps saved."""
        if copy.until_s is None or until_s < copy.until_s:
            copy.until_s, copy.why_until = until_s, reason
            self._board.remind(until_s - self._board.policy.save_s, "until", copy.replica)
        return self.look_at(copy)

    def look_at(self, copy: Copy) -> list[Action]:
        """Order ``copy`` to be saved when it will not end in its time."""
        board = self._board
        if copy.until_s is None or copy.ending or self._ends_in_time(copy, copy.until_s):
            return []
        copy.ending = True
        clip = board.clips[copy.key]
        if len(clip.copies) > 1 or not clip.is_open:
            return [Cancel(copy.replica, copy.key, copy.attempt, copy.why_until)]
        return [Save(copy.replica, copy.key, copy.attempt, copy.why_until)]

    def _ends_in_time(self, copy: Copy, until_s: float) -> bool:
        now_s, end_s = self._board.now_s, copy.expected_end_s
        if end_s is None or end_s < now_s:
            return False
        return end_s + DOUBT * (end_s - now_s) <= until_s - self._board.policy.save_s

    # -- how many -------------------------------------------------------------------------------------------------

    def plan(self) -> list[Action]:
        """Give back what nobody needs, start what somebody does, and tell the cluster."""
        actions = self._retire_needless()
        actions += self._start()
        for replica in self._board.idle.take_new():
            self._remind_idle(replica, replica.idle_s)
        board = self._board
        num = choose_capacity(board.policy, sum(map(board.num_to_render, board.num_open)))
        if num != self._requested:
            reason = Reason.BACKLOG if num > self._requested else Reason.NO_MORE_WORK
            self._requested = num
            actions.insert(0, RequestCapacity(num, reason))
        return actions

    def clear(self, reason: Reason) -> list[Action]:
        """Ask for nothing any more."""
        if self._requested == 0:
            return []
        self._requested = 0
        return [RequestCapacity(0, reason)]

    def _start(self) -> list[Action]:
        board = self._board
        actions: list[Action] = []
        if board.now_s < self._start_not_before_s:
            return actions
        while len(board.replicas) < board.policy.max_replicas:
            work = {weights: board.backlog.work(weights) for weights, num in board.num_waiting.items() if num}
            num_clips = {weights: board.num_to_render(weights) for weights in board.num_open}
            weights = choose_engine(work, board.num_replicas, num_clips)
            if weights is None:
                break
            reason = self._replacing.popleft() if self._replacing else Reason.BACKLOG
            actions.append(StartReplica(board.add_replica(weights).replica, weights, reason))
        return actions

    def _retire_needless(self) -> list[Action]:
        board = self._board
        actions: list[Action] = []
        for weights in [weights for weights, num in board.num_replicas.items() if num]:
            if board.num_waiting[weights]:
                continue
            others = [other for other, num in board.num_waiting.items() if num and other != weights]
            if board.num_open[weights] == 0:
                reason = Reason.OTHER_ENGINE_WAITS if others else Reason.NO_MORE_WORK
                while self._is_spare(weights) and (
                    replica := self._loading(weights) or board.idle.pop(weights)
                ):
                    actions += self.retire(replica, reason)
            # At the tail a replica without work stays a while, for stragglers; one that still loads does not,
            while self._is_spare(weights) and (replica := self._loading(weights)):
                actions += self.retire(replica, Reason.NO_MORE_WORK)
            # nor one whose place another engine needs.
            needed = sum(max(board.num_to_render(other) - board.num_replicas[other], 0) for other in others)
            while board.policy.max_replicas - len(board.replicas) < needed:
                if (idle := board.idle.pop(weights)) is None:
                    break
                actions += self.retire(idle, Reason.OTHER_ENGINE_WAITS)
        return actions

    def _loading(self, weights: str) -> ReplicaState | None:
        """The replica that began to load last."""
        loading = self._board.starting.get(weights)
        return self._board.replicas[next(reversed(loading))] if loading else None

    def look_at_idle(self, replica: ReplicaState) -> list[Action]:
        """``replica`` may have been without work for long enough."""
        board = self._board
        if replica.status is not ReplicaStatus.IDLE or board.now_s < replica.idle_s + self._patience_s(
            replica
        ):
            return []
        if board.idle.num[replica.weights] > board.num_waiting[replica.weights] and self._is_spare(
            replica.weights
        ):
            return self.retire(replica, Reason.NO_MORE_WORK)
        self._remind_idle(replica, board.now_s)
        return []

    def _remind_idle(self, replica: ReplicaState, since_s: float) -> None:
        self._board.remind(since_s + self._patience_s(replica), "idle", replica.replica)

    def _patience_s(self, replica: ReplicaState) -> float:
        """As long as another start would take: then waiting has cost as much as coming back would."""
        return max(self._board.policy.idle_s, self._board.estimates.load_s(replica.weights), MIN_PATIENCE_S)

    def _is_spare(self, weights: str) -> bool:
        """Whether a replica of ``weights`` without work may go: it may have the GPU that another engine waits for."""
        board = self._board
        others_wait = any(num for other, num in board.num_waiting.items() if other != weights)
        return others_wait or len(board.replicas) > board.policy.min_replicas
