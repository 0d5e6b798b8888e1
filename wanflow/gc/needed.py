"""What stays: the pins of the newest complete run of every job and of everything since, and those of young runs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from wanflow.errors import UsageError
from wanflow.ledger import Ledger, job_of
from wanflow.pins import Pins, read_pins
from wanflow.storage import Store


@dataclass(frozen=True, slots=True)
class Needed:
    """What stays, and because of which runs."""

    keys: frozenset[str]
    inputs: frozenset[str]
    runs: tuple[str, ...]
    #: jobs of which no run says what it needs; while there are any, nothing is deleted
    unknown_jobs: tuple[str, ...] = ()
    #: job -> its newest complete run
    complete: Mapping[str, str] = field(default_factory=dict)


def find_needed(
    workspace: Store, runs: Iterable[str], young_s: float, forgotten: frozenset[str] = frozenset()
) -> Needed:
    """What the pins of the newest complete run of every job and of all runs since, and of young runs, name.

    ``runs``: every run of the workspace. ``young_s``: seconds since 1970; runs that began later are young.
    """
    by_job: dict[str, list[str]] = defaultdict(list)
    for run_id in sorted(runs):
        by_job[job_of(run_id)].append(run_id)
    missing = forgotten - set(by_job)
    if missing:
        raise UsageError(
            f"no run of {', '.join(sorted(missing))} here; the jobs are {', '.join(sorted(by_job))}"
        )
    found: dict[str, Pins] = {}
    unknown: list[str] = []
    complete: dict[str, str] = {}
    for job, ids in by_job.items():
        pinned = {}
        for run_id, pins, is_complete in _pins_back_to_a_whole_run(workspace, ids, young_s):
            pinned[run_id] = pins
            if is_complete:
                complete.setdefault(job, run_id)
        if job in forgotten:
            continue
        found.update(pinned)
        if not pinned:
            unknown.append(job or "(no name)")
    keys = frozenset().union(*(pins.keys for pins in found.values()))
    inputs = frozenset().union(*(pins.inputs for pins in found.values()))
    return Needed(keys, inputs, tuple(sorted(found)), tuple(sorted(unknown)), complete)


def _pins_back_to_a_whole_run(
    workspace: Store, runs: list[str], young_s: float
) -> Iterator[tuple[str, Pins, bool]]:
    """Newest first, to the first one that is complete (it ended, and looked at the whole manifest) and to the last
    young one: each run that has pins, and whether it is complete.
    """
    is_reached = False
    for run_id in reversed(runs):
        if is_reached and started_s(run_id) < young_s:
            return
        pins = read_pins(workspace, run_id)
        if pins is not None:
            is_complete = pins.is_whole and Ledger(workspace, run_id).has_ended()
            yield run_id, pins, is_complete
            is_reached = is_reached or is_complete


def started_s(run_id: str) -> float:
    """When a run began, by its id; now for an id that does not say, so that it counts as young."""
    try:
        return (
            datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC).timestamp()
        )
    except ValueError:
        return time.time()
