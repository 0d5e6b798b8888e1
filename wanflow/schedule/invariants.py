"""What is true of a run's state after every event; ``check`` raises AssertionError where it is not.

The cheap half looks at replicas and counts; the whole looks at every clip and variant as well. For tests, simulations
and soaks: nothing here changes anything.
"""

from __future__ import annotations

from collections import Counter

from wanflow.model import Cause
from wanflow.schedule.board import Board
from wanflow.schedule.policy import MAX_TAKEN_DOWN, TOOK_DOWN, num_own
from wanflow.schedule.state import ClipState, ClipStatus, ReplicaState, ReplicaStatus, VariantStatus


def check(board: Board, finished: bool, whole: bool = True) -> None:
    _check_replicas(board)
    if whole:
        _check_clips(board)
        _check_variants(board)
    if finished:
        assert not board.replicas, "finished with replicas"
        assert board.num_open_variants == 0, "finished with open variants"
    elif board.stopping is None:
        _check_nobody_idles(board)


def _check_replicas(board: Board) -> None:
    assert len(board.replicas) <= board.policy.max_replicas, "more replicas than allowed"
    assert board.num_assembling <= board.policy.max_assemblies, "more assemblies than allowed"
    num: Counter[str] = Counter()
    num_idle: Counter[str] = Counter()
    staged = set()
    for name, replica in board.replicas.items():
        num[replica.weights] += 1
        num_idle[replica.weights] += replica.status is ReplicaStatus.IDLE
        assert (replica.status is ReplicaStatus.BUSY) == (replica.copy is not None) == (name in board.busy), (
            name
        )
        is_starting = name in board.starting.get(replica.weights, ())
        assert (replica.status is ReplicaStatus.STARTING) == is_starting, name
        if replica.copy is not None:
            clip = board.clips[replica.copy.key]
            assert clip.weights == replica.weights, "a clip is at a replica of another engine"
            is_known = clip.copies.get(replica.copy.attempt) is replica.copy
            assert is_known != replica.copy.is_void, f"{name} renders what nobody waits for"
        if replica.staged is not None:
            clip = board.clips[replica.staged]
            assert (clip.status, clip.replica) == (ClipStatus.STAGED, name), "clip and replica disagree"
            assert clip.weights == replica.weights, "a clip is at a replica of another engine"
            assert replica.drain_s is None, f"{name} is drained and has a clip staged"
            staged.add(clip.key)
        if replica.drain_s is not None:
            assert replica.copy is not None, f"{name} is drained, idle and still here"
    assert +num == +board.num_replicas, "replicas miscounted"
    assert all(num_idle[w] == board.num_idle(w) for w in num), "idle replicas miscounted"
    assert staged == {key for keys in board.staged.values() for key in keys}, "staged clips misfiled"


def _check_clips(board: Board) -> None:
    num_open: Counter[str] = Counter()
    num_waiting: Counter[str] = Counter()
    num_queued: Counter[str] = Counter()
    for clip in board.clips.values():
        num_open[clip.weights] += clip.is_open
        num_waiting[clip.weights] += clip.status in (ClipStatus.PENDING, ClipStatus.STAGED)
        num_queued[clip.weights] += clip.key in board.backlog
        _check_clip(board, clip)
    assert +num_open == +board.num_open, "open clips miscounted"
    assert +num_waiting == +board.num_waiting, "waiting clips miscounted"
    assert all(num_queued[w] == board.backlog.num(w) for w in num_open), "queued clips miscounted"


def _check_clip(board: Board, clip: ClipState) -> None:
    status = clip.status
    assert (status is ClipStatus.RUNNING) == bool(clip.copies), (
        f"{clip.key}: {status} with {len(clip.copies)} copies"
    )
    assert bool(clip.lost) <= (status in (ClipStatus.RUNNING, ClipStatus.PROBING)), (
        f"{clip.key}: {status} while lost"
    )
    assert status is not ClipStatus.PROBING or clip.num_probes > 0, f"{clip.key}: nobody looks for its record"
    assert (clip.replica is not None) == (status is ClipStatus.STAGED), (
        f"{clip.key}: {status} at {clip.replica}"
    )
    if clip.key in board.backlog:
        assert status is ClipStatus.PENDING, f"{clip.key}: waits while {status}"
    elif status is ClipStatus.PENDING:
        assert clip.not_before_s > 0, f"{clip.key}: forgotten"
    for copy in clip.copies.values():
        assert board.replicas[copy.replica].copy is copy, "clip and replica disagree"
    places = [copy.replica for copy in clip.copies.values()]
    assert len(set(places)) == len(places), f"{clip.key}: twice on one replica"
    extra = clip.num_second_copies
    assert len(places) <= 1 + extra, f"{clip.key}: more copies than were ordered"
    assert num_own(clip.failures) <= board.policy.max_attempts + extra, f"{clip.key}: budget exceeded"
    assert sum(cause in TOOK_DOWN for cause in clip.failures) <= MAX_TAKEN_DOWN, (
        f"{clip.key}: poison tried again"
    )
    for cause, spent in Counter(clip.failures).items():
        budget = board.policy.budgets.get(cause, 1)
        assert spent <= budget, f"{clip.key}: {cause} budget exceeded"
        assert spent < budget or not clip.is_open or clip.copies or clip.lost, (
            f"{clip.key}: {cause} and still open"
        )
    assert clip.thrift <= board.policy.max_thrift
    if status is ClipStatus.FAILED:
        assert clip.failures, f"{clip.key}: failed without a cause"
        assert clip.message, f"{clip.key}: failed without a reason"
        assert Cause.CANCELLED not in clip.failures[-1:] or len(clip.failures) >= 50, (
            f"{clip.key}: told to stop, failed"
        )


def _check_variants(board: Board) -> None:
    num_open = num_assembling = 0
    wanted: Counter[str] = Counter()
    for variant in board.variants.values():
        num_open += variant.is_open
        num_assembling += variant.status is VariantStatus.ASSEMBLING
        assert (variant.attempt is not None) == (variant.status is VariantStatus.ASSEMBLING), variant.key
        if not variant.is_open:
            assert variant.status is VariantStatus.PUBLISHED or variant.message, f"{variant.key}: no reason"
            continue
        wanted.update(variant.masters)
        if variant.status is VariantStatus.WAITING:
            assert variant.missing, f"{variant.key}: waits for nothing"
            states = {board.clips[key].status for key in variant.missing}
            assert not states & {ClipStatus.DONE, ClipStatus.FAILED, ClipStatus.LEFT}, (
                f"{variant.key}: waits in vain"
            )
        else:
            assert not variant.missing, f"{variant.key}: assembled before its clips"
    assert num_open == board.num_open_variants, "open variants miscounted"
    assert num_assembling == board.num_assembling, "assemblies miscounted"
    assert all(clip.num_wanted == wanted[clip.key] for clip in board.clips.values()), (
        "wanted clips miscounted"
    )


def _check_nobody_idles(board: Board) -> None:
    """A replica without work, while a clip waits that it may render, is waste. See README for what it may wait for."""
    waiting = {w for w in board.num_replicas if board.backlog.num(w)}
    for replica in board.replicas.values():
        if replica.status is not ReplicaStatus.IDLE or replica.weights not in waiting:
            continue
        assert replica.rest_until_s > board.now_s or _may_wait(board, replica), f"{replica.replica} idles"


def _may_wait(board: Board, replica: ReplicaState) -> bool:
    queued = [c for c in board.clips.values() if c.key in board.backlog and c.weights == replica.weights]
    return all(
        clip.failed_on == replica.replica
        or board.policy.deadline_s is not None
        or board.estimates.slowness(replica.replica) > 1.0
        for clip in queued
    )
