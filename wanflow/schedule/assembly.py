"""Variants: assembled once their clips are done, tried again or failed when that goes wrong.

A master that is gone from the store becomes a render again, never a failure, unless this very run had made it.
"""

from __future__ import annotations

import heapq

from wanflow.schedule.actions import Action, Assemble, Reason
from wanflow.schedule.board import Board
from wanflow.schedule.events import AssembleFailed, VariantPublished
from wanflow.schedule.policy import backoff, may_retry
from wanflow.schedule.state import TOO_LATE, ClipState, ClipStatus, VariantState, VariantStatus


def clip_done(board: Board, clip: ClipState) -> None:
    """Variants that waited for ``clip`` alone are ready."""
    for variant in board.waiters(clip.key):
        variant.missing.discard(clip.key)
        if variant.status is VariantStatus.WAITING and not variant.missing:
            board.make_ready(variant)


def assign_assemblies(board: Board) -> list[Action]:
    actions: list[Action] = []
    while board.ready and board.num_assembling < board.policy.max_assemblies:
        variant = board.variants[heapq.heappop(board.ready)[1]]
        if variant.status is VariantStatus.READY:
            reason = Reason.RETRY if variant.failures else Reason.CLIPS_READY
            actions.append(Assemble(variant.key, board.begin_assembly(variant), reason))
    return actions


def published(board: Board, event: VariantPublished) -> None:
    variant = _current(board, event)
    if variant is not None:
        for stage, value in event.seconds:
            variant.seconds[stage] = variant.seconds.get(stage, 0.0) + value
        board.close_variant(variant, VariantStatus.PUBLISHED, "")


def failed(board: Board, event: AssembleFailed) -> None:
    variant = _current(board, event)
    if variant is None:
        return
    board.end_assembly(variant)
    variant.status, variant.message = VariantStatus.READY, event.message
    # What was rendered since this assembly was ordered is there again. In one and the same moment nobody knows which
    # was first: another try tells.
    gone = [
        c
        for c in map(board.clips.__getitem__, event.missing)
        if not (c.done_here and c.done_s >= variant.since_s)
    ]
    # A held master that is gone is nobody's failure; one that this run has made and lost again is.
    if not event.missing or any(clip.done_here for clip in gone):
        variant.failures += (event.cause,)
        if not may_retry(board.policy, variant.failures):
            board.close_variant(variant, VariantStatus.FAILED, event.message)
            return
    for clip in gone:
        if clip.status is ClipStatus.DONE:
            board.reopen(clip)
        elif clip.status is ClipStatus.FAILED:
            board.close_variant(variant, VariantStatus.FAILED, clip.message)
            return
        elif clip.status is ClipStatus.LEFT:
            board.close_variant(variant, VariantStatus.LEFT, TOO_LATE)
            return
        variant.missing.add(clip.key)
    if variant.missing:
        variant.status = VariantStatus.WAITING
        return
    # A store that is away, nodes that are taken back: what was in the way may take a while to pass.
    wait_s = backoff(board.policy, variant.failures.count(event.cause))
    variant.not_before_s = board.now_s + wait_s
    board.remind(variant.not_before_s, "variant", variant.key)


def _current(board: Board, event: VariantPublished | AssembleFailed) -> VariantState | None:
    variant = board.variants.get(event.key)
    return variant if variant and variant.attempt == event.attempt else None
