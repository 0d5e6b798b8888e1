"""How a run ended: ``outcome.json``, and the last steps of a run in their safe order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wanflow.ledger import Ledger
from wanflow.model import Scalar, Status
from wanflow.parquet import give_back
from wanflow.publish import Published
from wanflow.report.catalog import update_catalog
from wanflow.report.results import ResultRow, UnchangedResults, build_results
from wanflow.storage import Store


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run in numbers; ``exit_code`` is what cron sees."""

    run_id: str
    job: str
    exit_code: int
    #: seconds since 1970
    started_at_s: float
    ended_at_s: float
    #: status -> number of variants
    counts: Mapping[str, int]
    num_clips_rendered: int = 0
    gpu_seconds: float = 0.0
    cost: float | None = None
    #: why it ended as it did; empty after a run without trouble
    message: str = ""
    #: published videos of the job that its manifest no longer asks for, and those of them that were taken away
    num_retired: int = 0
    num_unpublished: int = 0

    @property
    def elapsed_s(self) -> float:
        return self.ended_at_s - self.started_at_s

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Outcome:
        """Read back; fields that this version does not know are left out."""
        return cls(**{name: body[name] for name in cls.__dataclass_fields__ if name in body})


def count_statuses(rows: Sequence[ResultRow], num_unchanged: int = 0) -> dict[str, int]:
    """Every status with its number of rows, zeros included. ``num_unchanged`` are not among ``rows``."""
    counted = Counter(row.status for row in rows)
    counted[Status.UNCHANGED] += num_unchanged
    return {status.value: counted[status] for status in Status}


def write_end(
    ledger: Ledger,
    target: Store,
    outcome: Outcome,
    rows: Sequence[ResultRow],
    carry: Mapping[str, Mapping[str, Scalar]],
    published: Published | None = None,
    *,
    retired: Collection[str] = (),
    unchanged: UnchangedResults | None = None,
    cache_control: str | None = None,
) -> None:
    """Results, catalog, index and, last, the outcome: a run without an outcome is one that crashed.

    ``carry``: path of each video that the manifest asks for -> its carried columns, but for those of ``unchanged``
    variants. ``published``: the planning's snapshot with everything that was published since (``Published.add``); None:
    read the store anew. ``retired``: paths of videos that the job no longer asks for.
    """
    ledger.write_results(*build_results(rows, unchanged))
    give_back()
    snapshot = published or Published.load(target, ledger.workspace)
    variants = unchanged.variants if unchanged else None
    update_catalog(target, snapshot, carry, retired, unchanged=variants, cache_control=cache_control)
    snapshot.save(target, ledger.workspace)
    ledger.write_outcome(outcome.to_json())
