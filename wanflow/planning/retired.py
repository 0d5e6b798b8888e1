"""What is published and no longer asked for: with ``manifest.mode: snapshot``, rows that left the manifest.

Only what a job of this very name has published counts: other jobs may share workspace and target. A delta, a run of
some rows only (``--only``, ``--limit``), or one with bad rows retires nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from wanflow.model import Record, Status
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


def leaving(plan: Plan) -> list[Retired]:
    """What to un-publish at once. A variant whose video only moves keeps the old one until the new one is up."""
    to_make = _to_make(plan)
    return [each for each in plan.to_unpublish if each.variant_id not in to_make]


def replaced(plan: Plan, made: Collection[str]) -> list[Retired]:
    """What to un-publish now that the variants in ``made`` are published anew."""
    moved = _to_make(plan).intersection(made)
    return [each for each in plan.to_unpublish if each.variant_id in moved]


def take_away(workspace: Store, target: Store, plan: Plan, retired: Sequence[Retired]) -> int:
    """Un-publish ``retired`` and return how many they were; the caller holds the lease. What is done already stays
    done."""
    done: list[Record] = []

    def take(each: Retired) -> None:
        unpublish(target, workspace, each.record)
        done.append(each.record)

    try:
        in_parallel(take, retired)
    finally:
        for record in done:
            plan.published.drop(record)
    return len(done)


def _to_make(plan: Plan) -> frozenset[str]:
    return frozenset(v.variant.variant_id for v in plan.variants if v.status is not Status.UNCHANGED)
