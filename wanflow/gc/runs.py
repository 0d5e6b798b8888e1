"""Directories of old runs: which of them nobody looks into any more.

Never the newest complete run of a job nor anything since, nor a run that a quiet night leans on, that holds a lease or
that is young. Of a run that has published what is still recorded, plan and outcome stay: they are what ``--why``, and
the refusal to render everything anew after an upgrade, compare with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wanflow.gc.needed import Needed, started_s
from wanflow.lease import lease_holders
from wanflow.ledger import job_of
from wanflow.planning.quiet import quiet_runs
from wanflow.publish import runs_that_published
from wanflow.storage import Store

#: what stays of a run that has published what is still recorded
EVIDENCE = frozenset({"plan.parquet", "outcome.json"})


@dataclass(frozen=True, slots=True)
class OldRuns:
    """Runs whose directories may go."""

    ids: frozenset[str] = frozenset()
    #: of them, those that have published what is still recorded
    told: frozenset[str] = frozenset()

    def wants(self, path: str) -> bool:
        """Whether the file at ``path``, below ``runs/``, is not needed."""
        _, run_id, name = path.split("/", 2)
        return run_id in self.ids and not (run_id in self.told and name in EVIDENCE)


def find_old_runs(workspace: Store, runs: Iterable[str], needed: Needed, young_s: float) -> OldRuns:
    """``runs``: every run of the workspace. ``young_s``: seconds since 1970; runs that began later are young."""
    found = {run_id for run_id in runs if _is_over(run_id, needed.complete) and started_s(run_id) < young_s}
    found -= set(needed.runs)
    if found:
        found -= quiet_runs(workspace) | {holder.run_id for holder in lease_holders(workspace)}
    told = runs_that_published(workspace) if found else frozenset()
    return OldRuns(frozenset(found), frozenset(found & told))


def _is_over(run_id: str, complete: Mapping[str, str]) -> bool:
    """Whether a complete run of the same job came after it."""
    newest = complete.get(job_of(run_id))
    return newest is not None and run_id < newest
