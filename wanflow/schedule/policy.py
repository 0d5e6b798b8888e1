"""Numbers and rules that the scheduler decides by; pure functions of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wanflow.model import Cause

#: attempts that a task may spend on each cause before it fails; CANCELLED costs nothing
BUDGETS: Mapping[Cause, int] = {
    Cause.REPLICA_LOST: 3,
    Cause.OUT_OF_MEMORY: 2,
    Cause.BAD_OUTPUT: 2,
    Cause.ITEM_ERROR: 2,
    Cause.BAD_INPUT: 1,
    Cause.STORAGE: 8,
    Cause.HUNG: 2,
}

#: a budget spent on one of these would be spent again the next night, so the store remembers it
REPEATING = frozenset({Cause.BAD_INPUT, Cause.REPLICA_LOST})


@dataclass(frozen=True, slots=True)
class Policy:
    #: replicas at once, over all engines
    max_replicas: int
    #: assemblies at once
    max_assemblies: int
    #: replicas that are kept to the end of the run, idle or not
    min_replicas: int = 0
    #: attempts at a task over all causes but storage trouble, which says nothing about the task
    max_attempts: int = 5
    #: replicas that may die while loading, in a row, before the run is given up
    max_failed_starts: int = 3
    #: first wait after a storage failure; doubles with each further one of the same task
    backoff_s: float = 1.0
    #: the longest such wait
    max_backoff_s: float = 60.0
    #: on the clock of the events; None: no deadline
    deadline_s: float | None = None
    #: how long a stopped run waits for what is under way
    stop_grace_s: float = 60.0
    budgets: Mapping[Cause, int] = field(default_factory=lambda: BUDGETS)


def may_retry(policy: Policy, failures: tuple[Cause, ...]) -> bool:
    """Whether a task that failed for ``failures`` (the newest last) has an attempt left."""
    newest = failures[-1]
    if is_spent(policy, failures):
        return False
    return (
        newest is Cause.STORAGE or sum(cause is not Cause.STORAGE for cause in failures) < policy.max_attempts
    )


def is_spent(policy: Policy, failures: tuple[Cause, ...]) -> bool:
    """Whether the newest cause has used up its own budget."""
    return failures.count(failures[-1]) >= policy.budgets.get(failures[-1], 1)


def backoff(policy: Policy, failures: tuple[Cause, ...]) -> float:
    """Seconds to wait before the next attempt. Only storage trouble is waited out."""
    if failures[-1] is not Cause.STORAGE:
        return 0.0
    return float(min(policy.max_backoff_s, policy.backoff_s * 2 ** (failures.count(Cause.STORAGE) - 1)))


def choose_engine(
    backlog: Mapping[str, float], replicas: Mapping[str, int], clips: Mapping[str, int]
) -> str | None:
    """Which weights the next replica should load: those with most waiting work for each replica they have.

    ``backlog`` is waiting work by weights, ``replicas`` those started, ``clips`` the clips that wait. An engine with as
    many replicas as clips gets no more. None: nobody needs one.
    """
    needy = [w for w in sorted(backlog) if clips[w] > replicas.get(w, 0)]
    # An engine without any replica comes first: its work cannot move at all.
    return max(
        needy, key=lambda w: (replicas.get(w, 0) == 0, backlog[w] / (replicas.get(w, 0) + 1)), default=None
    )
