"""What is published and no longer asked for: with ``manifest.mode: snapshot``, rows that left the manifest.

Only what a job of this very name has published counts: other jobs may share workspace and target. A delta, a run of
some rows only (``--only``, ``--limit``), or one with bad rows retires nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from wanflow.model import Record, Status
from wanflow.planning.plan import Plan, PlannedVariant, Retired
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
    """What to un-publish now, of what still is published. A video that only moves stays until the new one is up.

    Nothing says which of the videos of an id (a matrix makes several) has moved where, so all of them have to be up.
    """
    waiting = {planned.variant.variant_id for planned in plan.variants if not _is_up(plan, planned)}
    return [
        each
        for each in plan.to_unpublish
        if each.variant_id not in waiting and each.path in plan.published.records
    ]


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


def _is_up(plan: Plan, planned: PlannedVariant) -> bool:
    return planned.status is not Status.FAILED and all(
        plan.published.key_of(file.path) == file.key for file in planned.files
    )
