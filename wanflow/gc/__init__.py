"""``wanflow gc``: what no job needs any more leaves the workspace.

Needed is what the newest complete run of every job in the workspace pinned, and what runs younger than some days did.
Two phases: what is not needed is marked with the time; what was marked long enough ago, and is still not needed, is
deleted. Pins are read again before every batch, records go before their files, and every run of the workspace is kept
waiting meanwhile; so the worst that can happen beside a run is that a clip which it counted on is rendered again.
Directories of old runs (``runs``) go the same way. Publish records and visible files are never touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from wanflow.errors import UsageError
from wanflow.gc.needed import Needed, find_needed
from wanflow.gc.runs import find_old_runs
from wanflow.gc.sweep import read_marks, sweep, write_marks
from wanflow.gc.waste import by_kind, due_of, find_waste
from wanflow.lease import all_leases, last_holders
from wanflow.ledger import run_ids
from wanflow.pins import has_pins
from wanflow.storage import Store, redact

__all__ = ["Collected", "collect", "workspace_of"]

KEEP_DAYS = 7.0
GRACE_H = 24.0
#: an upload that is younger may be under way
MIN_UPLOAD_AGE_S = 3600.0
DAY_S, HOUR_S = 86_400.0, 3_600.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What ``gc`` found and did."""

    needed: Needed
    #: kind -> (files, bytes)
    waste: Mapping[str, tuple[int, int]]
    #: of it, what was marked long enough ago
    due: Mapping[str, tuple[int, int]]
    kept: Mapping[str, int]
    #: kind -> (files, bytes) that this call deleted
    deleted: Mapping[str, tuple[int, int]]

    def to_json(self) -> dict[str, Any]:
        def counts(kinds: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
            return {kind: {"files": n, "bytes": size} for kind, (n, size) in kinds.items()}

        return {
            "event": "Collected",
            "runs": list(self.needed.runs),
            "unknown_jobs": list(self.needed.unknown_jobs),
            "waste": counts(self.waste),
            "due": counts(self.due),
            "deleted": counts(self.deleted),
            "kept_bytes": dict(self.kept),
        }


def collect(
    workspace: Store,
    *,
    delete: bool = False,
    keep_days: float = KEEP_DAYS,
    grace_h: float = GRACE_H,
    forget: Iterable[str] = (),
    on_wait: Callable[[str], object] | None = None,
    now_s: Callable[[], float] = time.time,
) -> Collected:
    """Find what nobody needs; with ``delete``, mark it, and delete what has been marked for ``grace_h`` hours.

    Without ``delete`` nothing is written. ``forget`` names jobs that are over: their runs keep nothing.
    """
    young_s = now_s() - keep_days * DAY_S
    with all_leases(workspace, "gc", on_wait) if delete else nullcontext() as leases:
        last = [lease.former for lease in leases] if leases is not None else last_holders(workspace)
        # listings may lag: who was last at work is known without them
        runs = sorted({*run_ids(workspace), *(run_id for run_id in last if has_pins(workspace, run_id))})
        needed = find_needed(workspace, runs, young_s, frozenset(forget))
        old_runs = find_old_runs(workspace, runs, needed, young_s)
        old_upload_s = now_s() - max(grace_h * HOUR_S, MIN_UPLOAD_AGE_S)
        waste = find_waste(workspace, needed, old_upload_s, old_runs)
        marks = read_marks(workspace)
        if delete:
            marks = {path: marks.get(path, now_s()) for path in waste.files}
            write_marks(workspace, marks)
        due = due_of(waste, marks, now_s() - grace_h * HOUR_S)
        gone: set[str] = set()
        if delete and not needed.unknown_jobs:
            gone = set(sweep(workspace, waste, due, runs))
            write_marks(workspace, {path: since_s for path, since_s in marks.items() if path not in gone})
    return Collected(
        needed,
        by_kind(waste, waste.files),
        by_kind(waste, due),
        dict(waste.kept),
        by_kind(waste, gone),
    )


def workspace_of(places: Iterable[Store]) -> Store:
    """The one workspace that all jobs share; UsageError when there are several, or nothing is there."""
    found = set(places)
    if len(found) != 1:
        urls = ", ".join(sorted(redact(store.url) for store in found))
        raise UsageError(f"these jobs have several workspaces ({urls}); collect them one by one")
    (workspace,) = found
    if not workspace.folders("runs"):
        raise UsageError(
            f"{redact(workspace.url)}: no run has worked there; give a job, or the URL of its workspace"
        )
    return workspace
