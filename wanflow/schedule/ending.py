"""How a run ends: stopped by somebody, by the deadline or by its own trouble, or because everything is done.

A stop finishes what can be finished within the grace and has the rest saved. When it is over, every variant has its
status, every replica is given back, and nothing is asked of the cluster any more.
"""

from __future__ import annotations

from wanflow.schedule.actions import Action, Cancel, Finish, Reason, RetireReplica
from wanflow.schedule.board import Board
from wanflow.schedule.capacity import Capacity
from wanflow.schedule.faults import Faults
from wanflow.schedule.state import ClipStatus, Copy, VariantStatus


class Ending:
    def __init__(self, board: Board, capacity: Capacity, faults: Faults) -> None:
        self._board = board
        self._capacity = capacity
        self._faults = faults

    def stop(self, message: str) -> list[Action]:
        """The run is to end early, for the reason in ``message``."""
        board = self._board
        if board.stopping is not None:
            return []
        board.stopping, board.stopped_s = message, board.now_s
        actions: list[Action] = self._capacity.clear(Reason.STOPPING)
        for replica in list(board.replicas.values()):
            board.part(replica)
            if replica.copy is None:
                actions += self._capacity.retire(replica, Reason.STOPPING)
            elif not replica.copy.ending:
                actions += self._end_copy(replica.copy)
        return actions

    def _cancel(self, copy: Copy) -> list[Action]:
        copy.ending = True
        return [Cancel(copy.replica, copy.key, copy.attempt, Reason.STOPPING)]

    def _end_copy(self, copy: Copy) -> list[Action]:
        """At a stop: of several copies the one that should end first goes on, if it ends within the grace."""
        clip = self._board.clips[copy.key]
        best = min(clip.copies.values(), key=_expected_end)
        if copy is not best:
            return self._cancel(copy)
        until_s = self._board.stopped_s + self._board.policy.stop_grace_s
        return self._capacity.end_by(copy, until_s, Reason.STOPPING)

    def finish_if_over(self) -> list[Action]:
        """The last orders, once no variant is open any more or a stopped run has waited for long enough."""
        board = self._board
        if board.stopping is not None:
            under_way = board.num_assembling or board.busy
            if under_way and board.now_s < board.stopped_s + board.policy.stop_grace_s:
                return []
            for variant in board.variants.values():
                if variant.is_open:
                    board.close_variant(variant, VariantStatus.LEFT, board.stopping)
        if board.num_open_variants:
            return []
        # A clip that still renders is wanted by no variant any more (all of them failed): it is not worth a GPU.
        actions: list[Action] = [] if board.broken else self._faults.suspected()
        for replica in list(board.replicas.values()):
            for copy in board.remove_replica(replica):
                clip = board.clips[copy.key]
                if clip.is_open and not clip.copies:
                    board.finish_clip(clip, ClipStatus.LEFT)
            actions.append(RetireReplica(replica.replica, Reason.DONE))
        reason = Reason.DONE
        if board.broken and self._faults.give_up:
            reason = self._faults.give_up[0]
        elif board.stopping:
            reason = Reason.STOPPING
        return [*actions, *self._capacity.clear(reason), Finish(reason, board.broken or "")]


def _expected_end(copy: Copy) -> tuple[bool, bool, float]:
    """One that ends beside another clip is nearest to its end, and is let end."""
    return copy.passed_s is None, copy.expected_end_s is None, copy.expected_end_s or 0.0
