"""What is published and no longer asked for: with ``manifest.mode: snapshot``, rows that left the manifest.

Only what a job of this very name has published counts: other jobs may share workspace and target. A delta, a run of
some rows only (``--only``, ``--limit``), or one with bad rows retires nothing.
"""

from __future__ import annotations

from wanflow.planning.plan import Plan, Retired
from wanflow.publish import Published, unpublish
from wanflow.records import in_parallel
from wanflow.storage import Store


def find_retired(published: Published, asked: bytearray, job_name: str) -> tuple[Retired, ...]:
    """Videos with a record of ``job_name`` that are not asked for, sorted by path.

    ``asked`` says of each row of the records' table whether its video is.
    """
    found = []
    for row, job in enumerate(published.records.table["job"].cast("string").to_pylist()):
        if job == job_name and not asked[row]:
            record = published.records.at(row)
            found.append(Retired(str(dict(record.info).get("variant_id", "")), record.files[0].path, record))
    return tuple(sorted(found, key=lambda each: each.path))


def take_away(workspace: Store, target: Store, plan: Plan) -> None:
    """Un-publish what ``plan`` says; the caller holds the lease. What is done already stays done."""
    in_parallel(lambda retired: unpublish(target, workspace, retired.record), plan.to_unpublish)
    for retired in plan.to_unpublish:
        plan.published.drop(retired.record)
