"""What each replica's time went into, from a run's events: seconds by stage, and how much of it was steps."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

#: stages of which each second is a step of some clip; those of a cascade are named ``cascade-1`` and so on
STEPS = ("trunk", "denoise", "ahead", "cascade")
#: events that end an attempt
_ENDS = frozenset({"ClipRendered", "RenderFailed", "StepsKept"})


@dataclass(frozen=True, slots=True)
class ReplicaTime:
    """A replica's attempts that have ended."""

    replica: str
    num_attempts: int
    #: stage -> seconds
    seconds: Mapping[str, float]
    #: of the time between the last steps of its first clip and those of its newest, the share in which it took steps;
    #: None where it has not rendered two
    steps_share: float | None


def replica_times(events: pa.Table) -> list[ReplicaTime]:
    """Of each replica that ended an attempt, in the order in which they came up. ``events``: those of the ledger."""
    #: (replica, attempt) -> when it needed the forwards no more
    free_s: dict[tuple[str, str], float] = {}
    ended: dict[str, list[tuple[float, Mapping[str, float]]]] = defaultdict(list)
    names = ("event", "time_s", "replica", "attempt", "data")
    for event, time_s, replica, attempt, data in zip(
        *(events.column(name).to_pylist() for name in names), strict=True
    ):
        if event == "ClipDenoised":
            free_s[replica, attempt] = time_s
        elif event in _ENDS and (seconds := (told := json.loads(data or "{}")).get("seconds")):
            if not told.get("is_last", True):  # of another clip's steps: the attempt tells them as ``ahead``
                continue
            ended[replica].append((free_s.pop((replica, attempt), time_s), seconds))
    return [_replica_time(replica, attempts) for replica, attempts in ended.items()]


def _replica_time(replica: str, attempts: list[tuple[float, Mapping[str, float]]]) -> ReplicaTime:
    attempts.sort(key=lambda attempt: attempt[0])
    total: dict[str, float] = defaultdict(float)
    for _, seconds in attempts:
        for stage, value in seconds.items():
            total[stage] += value
    wall_s = attempts[-1][0] - attempts[0][0]
    steps_s = sum(
        value
        for _, seconds in attempts[1:]
        for stage, value in seconds.items()
        if stage.partition("-")[0] in STEPS
    )
    rounded = {stage: round(value, 3) for stage, value in total.items()}
    share = round(steps_s / wall_s, 4) if wall_s > 0 else None
    return ReplicaTime(replica, len(attempts), rounded, share)
