"""What is true of a run's state after every event; ``check`` raises AssertionError where it is not.

The cheap half looks at replicas and counts; the whole looks at every clip and variant as well. For tests, simulations
and soaks: nothing here changes anything.
"""

from __future__ import annotations

from collections import Counter

from wanflow.schedule.assign import SLOW
from wanflow.schedule.backlog import MAX_LOOKS
from wanflow.schedule.board import Board
from wanflow.schedule.policy import MAX_TAKEN_DOWN, TOOK_DOWN, is_poison, num_own
from wanflow.schedule.state import ClipState, ClipStatus, ReplicaState, ReplicaStatus, VariantStatus

ENDED = (ClipStatus.DONE, ClipStatus.FAILED, ClipStatus.LEFT)


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
    num_finishing: Counter[str] = Counter()
    staged = set()
    for name, replica in board.replicas.items():
        num[replica.weights] += 1
        num_idle[replica.weights] += replica.status is ReplicaStatus.IDLE
        assert (replica.status is ReplicaStatus.BUSY) == (replica.copy is not None) == (name in board.busy), (
            name
        )
        is_starting = name in board.starting.get(replica.weights, ())
        assert (replica.status is ReplicaStatus.STARTING) == is_starting, name
        assert is_starting or board.watch.load_s(replica) is None, f"{name} is ready and said to load"
        for copy in replica.copies:
            clip = board.clips[copy.key]
            assert clip.weights == replica.weights, "a clip is at a replica of another engine"
            is_known = clip.copies.get(copy.attempt) is copy
            assert is_known != copy.is_void, f"{name} renders what nobody waits for"
        if replica.finishing is not None:
            num_finishing[replica.weights] += 1
            assert replica.copy is not None, f"{name} ends a clip beside none"
            assert replica.finishing.is_denoised, f"{name} renders two clips at once"
        if name in board.free_soon.get(replica.weights, ()):
            assert replica.copy is not None, f"{name} is idle and filed as busy"
            assert replica.copy.is_denoised, f"{name} denoises and is filed as free soon"
            assert replica.finishing is None, f"{name} has two clips and is filed for a third"
            assert replica.drain_s is None, f"{name} is drained and filed for another clip"
            next_one = board.clips.get(replica.staged or "")
            assert next_one is None or not board.is_suspect(next_one), (
                f"{name} would not fall idle for a suspect"
            )
        if replica.staged is not None:
            clip = board.clips[replica.staged]
            assert (clip.status, clip.replica) == (ClipStatus.STAGED, name), "clip and replica disagree"
            assert clip.weights == replica.weights, "a clip is at a replica of another engine"
            assert replica.drain_s is None, f"{name} is drained and has a clip staged"
            staged.add(clip.key)
        if replica.drain_s is not None:
            assert replica.copy is not None, f"{name} is drained, idle and still here"
    doubted = {name for names in board.doubted.values() for name in names}
    assert doubted <= board.replicas.keys(), "a replica that is gone is doubted"
    loading = {name for names in board.watch.loading.values() for name in names}
    assert loading <= board.replicas.keys(), "a replica that is gone is said to load"
    up = Counter(
        (r.weights, r.rung) for r in board.replicas.values() if r.status is not ReplicaStatus.STARTING
    )
    on_rung = {(w, rung): num for w, nums in board.num_on_rung.items() for rung, num in nums.items() if num}
    assert up == on_rung, "rungs miscounted"
    assert not board.watch.hung_loads(), "a load that hangs is waited for"
    assert +num == +board.num_replicas, "replicas miscounted"
    assert all(num_idle[w] == board.idle.num[w] for w in num), "idle replicas miscounted"
    assert +num_finishing == +board.num_finishing, "clips that end beside others miscounted"
    free_soon = {name for names in board.free_soon.values() for name in names}
    assert free_soon <= board.replicas.keys(), "a replica that is gone is filed as free soon"
    assert staged == {key for keys in board.staged.values() for key in keys}, "staged clips misfiled"


def _check_clips(board: Board) -> None:
    num_open: dict[str, int] = dict.fromkeys(board.num_open, 0)
    num_waiting = dict(num_open)
    num_queued = dict(num_open)
    for key, clip in board.clips.items():
        is_queued = key in board.backlog
        if clip.status in ENDED:
            assert not clip.copies, f"{key}: {clip.status} with copies"
            assert not clip.lost, f"{key}: {clip.status} while lost"
            assert not is_queued, f"{key}: {clip.status} and waits"
        else:
            num_open[clip.weights] += 1
            num_waiting[clip.weights] += clip.status in (ClipStatus.PENDING, ClipStatus.STAGED)
            num_queued[clip.weights] += is_queued
            _check_open_clip(board, clip, is_queued)
        if clip.failures:
            _check_budgets(board, clip)
    assert all(num == board.num_open[w] for w, num in num_open.items()), "open clips miscounted"
    assert all(num == board.num_waiting[w] for w, num in num_waiting.items()), "waiting clips miscounted"
    assert all(num == board.backlog.num(w) for w, num in num_queued.items()), "queued clips miscounted"


def _check_open_clip(board: Board, clip: ClipState, is_queued: bool) -> None:
    key, status, copies = clip.key, clip.status, clip.copies
    assert (status is ClipStatus.RUNNING) == bool(copies), f"{key}: {status} with {len(copies)} copies"
    assert (clip.replica is not None) == (status is ClipStatus.STAGED), f"{key}: {status} at {clip.replica}"
    if clip.lost:
        assert status in (ClipStatus.RUNNING, ClipStatus.PROBING), f"{key}: {status} while lost"
        assert clip.num_probes > 0, f"{key}: nobody looks for its record"
    assert clip.lost or status is not ClipStatus.PROBING, (
        f"{key}: its record is looked for, but nothing was lost"
    )
    if is_queued:
        assert status is ClipStatus.PENDING, f"{key}: waits while {status}"
    elif status is ClipStatus.PENDING:
        assert clip.not_before_s > 0, f"{key}: forgotten"
    for copy in copies.values():
        assert any(copy is each for each in board.replicas[copy.replica].copies), "clip and replica disagree"
    assert len(copies) <= 1 + clip.num_second_copies, f"{key}: more copies than were ordered"
    assert clip.thrift <= board.policy.last_rung, f"{key}: below the last rung"


def _check_budgets(board: Board, clip: ClipState) -> None:
    key, failures, policy = clip.key, clip.failures, board.policy
    # a suspicion that came true counts beside what proved it
    allowed = policy.max_attempts + clip.num_second_copies + is_poison(failures)
    assert num_own(failures) <= allowed, f"{key}: budget exceeded"
    assert sum(cause in TOOK_DOWN for cause in failures) <= MAX_TAKEN_DOWN, f"{key}: poison tried again"
    is_settled = clip.is_open and not clip.copies and not clip.lost
    for cause in set(failures):
        spent, budget = failures.count(cause), policy.budgets.get(cause, 1)
        assert spent <= budget, f"{key}: {cause} budget exceeded"
        assert spent < budget or not is_settled, f"{key}: {cause} spent and still open"
    if clip.status is ClipStatus.FAILED:
        assert clip.message, f"{key}: failed without a reason"


def _check_variants(board: Board) -> None:
    num_open = num_assembling = 0
    wanted: dict[str, int] = {}
    for variant in board.variants.values():
        num_open += variant.is_open
        num_assembling += variant.status is VariantStatus.ASSEMBLING
        assert (variant.attempt is not None) == (variant.status is VariantStatus.ASSEMBLING), variant.key
        if not variant.is_open:
            assert variant.status is VariantStatus.PUBLISHED or variant.message, f"{variant.key}: no reason"
            continue
        for key in variant.masters:
            wanted[key] = wanted.get(key, 0) + 1
        if variant.status is VariantStatus.WAITING:
            assert variant.missing, f"{variant.key}: waits for nothing"
            waits = not any(board.clips[key].status in ENDED for key in variant.missing)
            assert waits, f"{variant.key}: waits in vain"
        else:
            assert not variant.missing, f"{variant.key}: assembled before its clips"
    assert num_open == board.num_open_variants, "open variants miscounted"
    assert num_assembling == board.num_assembling, "assemblies miscounted"
    assert all(clip.num_wanted == wanted.get(clip.key, 0) for clip in board.clips.values()), (
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
    if board.is_held(replica):
        return True
    queued = [c for c in board.clips.values() if c.key in board.backlog and c.weights == replica.weights]
    is_slow = board.estimates.slowness(replica.replica) >= SLOW and len(queued) <= len(board.busy)
    deadline_s = board.policy.deadline_s
    num_passed = 0
    for clip in queued:
        seconds = board.estimates.seconds(clip, replica.replica) or 0.0
        is_late = deadline_s is not None and board.now_s + seconds > deadline_s
        is_elsewhere = clip.failed_on == replica.replica or not clip.may_fit(replica.rung)
        num_passed += is_late or is_slow or is_elsewhere
    return num_passed >= min(len(queued), MAX_LOOKS)
