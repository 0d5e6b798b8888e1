"""Numbers and rules that the scheduler decides by; pure functions of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wanflow.model import Cause

#: attempts that a task may spend on each cause before it fails. Those that say nothing about the task have a number
#: too, so that nothing goes on for ever.
BUDGETS: Mapping[Cause, int] = {
    Cause.REPLICA_LOST: 2,
    Cause.HUNG: 2,
    Cause.OUT_OF_MEMORY: 12,
    Cause.BAD_OUTPUT: 2,
    Cause.ITEM_ERROR: 2,
    Cause.BAD_INPUT: 1,
    Cause.STORAGE: 8,
    Cause.NODE_LOST: 10,
    Cause.PREEMPTED: 100,
    Cause.CANCELLED: 50,
}
#: these say nothing about the task, and do not count as its attempts
FREE = frozenset({Cause.STORAGE, Cause.NODE_LOST, Cause.PREEMPTED, Cause.CANCELLED, Cause.OUT_OF_MEMORY})
#: a replica went down with the clip on it
TOOK_DOWN = frozenset({Cause.REPLICA_LOST, Cause.HUNG})
#: replicas that a clip may take down; then it is poison, remembered by key
MAX_TAKEN_DOWN = 2


@dataclass(frozen=True, slots=True)
class Policy:
    #: replicas at once, over all engines
    max_replicas: int
    #: assemblies at once
    max_assemblies: int
    #: replicas that are kept to the end of the run, idle or not, unless clips of another engine wait
    min_replicas: int = 0
    #: attempts at a task over all causes but the free ones
    max_attempts: int = 5
    #: replicas that may die while loading, in a row, before the run is given up, or starts are spaced out
    max_failed_starts: int = 3
    #: first wait after a storage failure, or one of an assembly; doubles with each further one of the same task
    backoff_s: float = 1.0
    #: the longest such wait
    max_backoff_s: float = 60.0
    #: on the clock of the events; None: no deadline
    deadline_s: float | None = None
    #: how long a stopped run waits for what is under way
    stop_grace_s: float = 60.0
    #: what saving a clip's steps may take; so long before a replica's end the order to save is given
    save_s: float = 10.0
    #: the last rung of the memory ladder
    last_rung: int = 3
    #: a replica hangs when a step takes this many times what its steps take,
    hang_factor: float = 10.0
    #: but never before so many seconds,
    hang_floor_s: float = 120.0
    #: and where nothing is known of the step (the first of a stage, decoding, storing), not before so many
    hang_first_s: float = 900.0
    #: a replica hangs while it loads after so many seconds (118 GB at 50 MB/s are 40 minutes),
    hang_load_s: float = 3600.0
    #: but never before so many times the longest load of its engine that this run has seen
    hang_load_factor: float = 3.0
    #: events further apart than this: the driver itself was away, and nobody else is to blame
    max_gap_s: float = 30.0
    #: different clips that must fail on a replica in a row, where others were rendered there or elsewhere, for it to
    #: be sick
    sick_after: int = 3
    #: different clips that must fail alike before any is rendered, for the run to stop, on half of
    #: the replicas
    common_cause_after: int = 5
    #: a second copy must be expected to end sooner than the first by this many seconds,
    copy_margin_s: float = 1.0
    #: and by this share of what it takes
    copy_margin: float = 0.15
    #: second copies that one clip may get
    max_second_copies: int = 2
    #: how long a replica without work stays, at least; longer where loading takes longer
    idle_s: float = 30.0
    #: clips after which a replica is replaced by a fresh one; None: never
    recycle_after: int | None = None
    #: resident memory of a replica above which it is replaced; None: no limit
    max_memory_bytes: int | None = None
    #: and growth over what it had after its first clip; below ``min_growth_bytes`` it is no leak
    max_memory_growth: float = 2.0
    min_growth_bytes: int = 8 << 30
    #: what a switch to clips of another group costs, until it was measured
    switch_s: float = 2.0
    budgets: Mapping[Cause, int] = field(default_factory=lambda: BUDGETS)


def is_poison(failures: Sequence[Cause]) -> bool:
    return sum(cause in TOOK_DOWN for cause in failures) >= MAX_TAKEN_DOWN


def num_own(failures: Sequence[Cause]) -> int:
    """Failures that count as attempts."""
    return sum(cause not in FREE for cause in failures)


def is_spent(policy: Policy, failures: Sequence[Cause], cause: Cause) -> bool:
    """Whether ``cause`` has used up its own budget."""
    return failures.count(cause) >= policy.budgets.get(cause, 1)


def may_retry(policy: Policy, failures: Sequence[Cause]) -> bool:
    """Whether a task with these ``failures`` has an attempt left."""
    return (
        not is_poison(failures)
        and num_own(failures) < policy.max_attempts
        and not any(is_spent(policy, failures, cause) for cause in set(failures))
    )


def backoff(policy: Policy, num_failures: int) -> float:
    """Seconds to wait after this many failures in a row of the same kind."""
    if num_failures <= 0:
        return 0.0
    return float(min(policy.max_backoff_s, policy.backoff_s * 2 ** min(num_failures - 1, 30)))


def choose_engine(
    backlog: Mapping[str, float], replicas: Mapping[str, int], clips: Mapping[str, int]
) -> str | None:
    """Which weights the next replica should load: those with most waiting work for each replica they have.

    ``backlog`` is waiting work by weights, ``replicas`` those started, ``clips`` the clips that are open. An engine
    with as many replicas as clips gets no more. None: nobody needs one.
    """
    needy = [w for w in sorted(backlog) if clips.get(w, 0) > replicas.get(w, 0)]
    # An engine without any replica comes first: its work cannot move at all.
    return max(
        needy, key=lambda w: (replicas.get(w, 0) == 0, backlog[w] / (replicas.get(w, 0) + 1)), default=None
    )


def choose_capacity(policy: Policy, num_open: int) -> int:
    """Replicas worth having for ``num_open`` clips, in steps of a twentieth of the most, so that the tail of a large
    run is not a request a clip."""
    step = max(1, policy.max_replicas // 20)
    wanted = min(policy.max_replicas, -(-num_open // step) * step)
    return max(wanted, min(policy.min_replicas, policy.max_replicas)) if num_open else 0


def is_worn(
    policy: Policy, num_clips: int, memory_bytes: int | None = None, first_memory_bytes: int | None = None
) -> bool:
    """Whether a replica that has rendered so many clips is to be replaced by a fresh one.

    ``memory_bytes`` is its resident memory after the newest clip, ``first_memory_bytes`` after the first.
    """
    if policy.recycle_after is not None and num_clips >= policy.recycle_after:
        return True
    if memory_bytes is None or first_memory_bytes is None:
        return False
    if policy.max_memory_bytes is not None and memory_bytes > policy.max_memory_bytes:
        return True
    grown = memory_bytes - first_memory_bytes
    return grown > policy.min_growth_bytes and memory_bytes > first_memory_bytes * policy.max_memory_growth
