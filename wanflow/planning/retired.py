"""What is published and no longer asked for: with ``manifest.mode: snapshot``, rows that left the manifest.

Only what a job of this very name has published counts: other jobs may share workspace and target. A delta, a run of
some rows only (``--only``, ``--limit``), or one with bad rows retires nothing.
"""

from __future__ import annotations

from collections.abc import Container

from wanflow.planning.plan import Plan, Retired
from wanflow.publish import Published, unpublish
from wanflow.records import in_parallel
from wanflow.storage import Store


def find_retired(published: Published, wanted: Container[str], job_name: str) -> tuple[Retired, ...]:
    """Videos with a record of ``job_name`` at paths that are not ``wanted``, sorted by path."""
    found = []
    for path, record in published.records.items():
        if path in wanted:
            continue
        info = dict(record.info)
        if info.get("job") == job_name:
            found.append(Retired(str(info.get("variant_id", "")), path, record))
    return tuple(sorted(found, key=lambda each: each.path))


def take_away(workspace: Store, target: Store, plan: Plan) -> None:
    """Un-publish what ``plan`` says; the caller holds the lease. What is done already stays done."""
    in_parallel(lambda retired: unpublish(target, workspace, retired.record), plan.to_unpublish)
    for retired in plan.to_unpublish:
        plan.published.drop(retired.record)
