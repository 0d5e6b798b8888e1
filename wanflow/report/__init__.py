"""Reading runs: what ``wanflow status`` and ``wanflow results`` show.

Reads only the workspace, so it works after any crash.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from wanflow.errors import StoreError, UsageError
from wanflow.lease import EXPIRY_S, Holder, holder_of, is_dead, lease_holders
from wanflow.ledger import Ledger, is_run_of, latest_run, run_ids
from wanflow.model import Status
from wanflow.report.outcome import Outcome
from wanflow.report.replicas import ReplicaTime, replica_times
from wanflow.report.results import schema as results_schema
from wanflow.storage import Store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Outcome", "RunState", "Summary", "leased_run", "results", "summary"]


class RunState(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    #: it has not begun: another run is at work
    WAITING = "waiting"
    #: no outcome, and no sign of life
    CRASHED = "crashed"
    #: it has an outcome
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Summary:
    """A run at a glance; of a run without an outcome, what its plan and events tell."""

    run_id: str
    state: RunState
    #: seconds since 1970; None when nothing was written yet
    started_at_s: float | None
    #: of the last thing that it wrote; the end of a run that has ended
    last_sign_at_s: float | None
    #: status -> number of variants; of a run without an outcome the tasks that are known to be so
    counts: dict[str, int] = field(default_factory=dict)
    #: event name -> how often, for a run without an outcome
    events: dict[str, int] = field(default_factory=dict)
    outcome: Outcome | None = None
    #: a sentence on what to do next
    message: str = ""
    replicas: list[ReplicaTime] = field(default_factory=list)

    @property
    def elapsed_s(self) -> float | None:
        if self.started_at_s is None or self.last_sign_at_s is None:
            return None
        return max(0.0, self.last_sign_at_s - self.started_at_s)


def leased_run(workspace: Store, target: Store, job_name: str) -> str | None:
    """The run of the job that holds the lease of its publish.url: it is at work, or dead. None: there is none."""
    holder = _holder(workspace, target, job_name)
    return None if holder is None else holder.run_id


def summary(
    workspace: Store, run_id: str | None = None, job_name: str = "", target: Store | None = None
) -> Summary | None:
    """The run ``run_id``; else the one of the job that is at work (where ``target``, its publish.url, is given), else
    its latest, or the latest of all where no job is named. None when there is none.
    """
    if run_id is None and target is not None:
        holder = _holder(workspace, target, job_name)
        run_id = holder.run_id if holder is not None and _alive(holder) else None
    run_id = run_id or latest_run(workspace, job_name)
    if run_id is None:
        return None
    ledger = Ledger(workspace, run_id)
    body = ledger.read_outcome()
    if body is not None:
        outcome = Outcome.from_json(body)
        return Summary(
            run_id,
            RunState.ENDED,
            outcome.started_at_s,
            outcome.ended_at_s,
            dict(outcome.counts),
            {},
            outcome,
            outcome.message,
            replica_times(ledger.read_events()),
        )
    events = ledger.read_events()
    holders = lease_holders(workspace)
    holder = next((each for each in holders if each.run_id == run_id), None)
    if holder is None and not events.num_rows and ledger.read_job() is None:
        raise UsageError(
            f"{workspace.url}/runs/{run_id}: no such run; without a run id the one at work or the latest is taken"
        )
    plan = ledger.read_plan()
    times = [time_s for time_s in events.column("time_s").to_pylist() if time_s]
    beats = [holder.beat_at_s] if holder else []
    if holder is not None and _alive(holder):
        state = RunState.RUNNING
    elif plan is None and any(map(_alive, holders)):
        state = RunState.WAITING
    else:
        state = RunState.CRASHED
    return Summary(
        run_id,
        state,
        min(times, default=None),
        max(times + beats, default=None),
        _counts(plan, events),
        dict(Counter(events.column("event").to_pylist())),
        None,
        _TODO.get(state, ""),
        replica_times(events),
    )


def results(
    workspace: Store, run_id: str | None = None, failed: bool = False, job_name: str = ""
) -> pa.Table:
    """``results.parquet`` of a run (default: the latest that has one); ``failed``: only what failed.

    An empty table where no run has ended yet.
    """
    import pyarrow.compute as pc

    for run in [run_id] if run_id else reversed(run_ids(workspace, job_name)):
        table = Ledger(workspace, run).read_results()
        if table is not None:
            return table.filter(pc.equal(table["status"], Status.FAILED.value)) if failed else table
    if run_id:
        raise StoreError(
            f"{workspace.url}/runs/{run_id} has no results: it is at work, crashed, or no run at all"
        )
    return results_schema().empty_table()


_TODO = {
    RunState.WAITING: "another run is at work here: it waits for that one to end, or was killed while it did",
    RunState.CRASHED: "it ended without an outcome; run the job again: what is done is kept",
}


def _holder(workspace: Store, target: Store, job_name: str) -> Holder | None:
    """Who holds the lease, where that is a run of the job."""
    holder = holder_of(workspace, target)
    return holder if holder is not None and is_run_of(holder.run_id, job_name) else None


def _alive(holder: Holder) -> bool:
    return not is_dead(holder) and time.time() - holder.beat_at_s < EXPIRY_S


def _counts(plan: pa.Table | None, events: pa.Table) -> dict[str, int]:
    """Statuses as far as plan and events tell: planned ones, moved on by what was published."""
    published = {
        task
        for event, task in zip(
            events.column("event").to_pylist(), events.column("task").to_pylist(), strict=True
        )
        if event == "VariantPublished"
    }
    counts: Counter[str] = Counter()
    if plan is not None:
        counts.update(
            row["status"] for row in plan.select(["kind", "status"]).to_pylist() if row["kind"] == "variant"
        )
    counts[Status.PUBLISHED] += len(published)
    counts[Status.LEFT] = max(0, counts[Status.LEFT] - len(published))
    return {status.value: counts[status] for status in Status}
