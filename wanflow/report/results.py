"""``results.parquet``: one row a variant, whatever became of it. Its columns are a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wanflow.model import Record, Scalar, Status
from wanflow.report.columns import carried_columns
from wanflow.storage import join

if TYPE_CHECKING:
    import pyarrow as pa

#: stages whose seconds have a column, in the order of the work
STAGES = ("encode", "denoise", "cascade", "decode", "assemble", "publish")


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A published file of a variant."""

    path: str
    url: str
    output: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ResultRow:
    """What became of one variant in one run."""

    variant_id: str
    #: 1-based row of the manifest
    row: int
    status: Status
    #: why; empty for a variant that was simply published
    reason: str = ""
    #: attempts of this run at its clips and its assembly
    attempts: int = 0
    #: stage name -> seconds; ``cascade-1`` and the like count as ``cascade``
    seconds: Mapping[str, float] = field(default_factory=dict)
    #: its share of the GPU seconds of its clips
    gpu_seconds: float = 0.0
    #: in the currency of ``resources.gpu_hour``; None: no price was given
    cost: float | None = None
    files: tuple[ResultFile, ...] = ()
    carry: Mapping[str, Scalar] = field(default_factory=dict)


def result_files(target_url: str, output: str, record: Record) -> tuple[ResultFile, ...]:
    """The files of a published record, video first."""
    return tuple(
        ResultFile(file.path, join(target_url, file.path), output, file.sha256, file.size_bytes)
        for file in record.files
    )


def schema() -> pa.Schema:
    """The columns before the carried ones."""
    import pyarrow as pa

    file = pa.struct(
        [
            ("path", pa.string()),
            ("url", pa.string()),
            ("output", pa.string()),
            ("sha256", pa.string()),
            ("size_bytes", pa.int64()),
        ]
    )
    return pa.schema(
        [
            ("variant_id", pa.string()),
            ("row", pa.int64()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("attempts", pa.int32()),
            *((f"seconds_{stage}", pa.float64()) for stage in STAGES),
            ("gpu_seconds", pa.float64()),
            ("cost", pa.float64()),
            ("files", pa.list_(file)),
        ]
    )


def build_results(rows: Sequence[ResultRow]) -> pa.Table:
    """Rows as a table of :func:`schema` plus the carried columns, in the order given."""
    import pyarrow as pa

    plain = schema()
    table = pa.Table.from_pylist([_cells(row) for row in rows], schema=plain)
    for name, column in carried_columns([row.carry for row in rows], plain.names).items():
        table = table.append_column(name, column)
    return table


def as_unchanged(table: pa.Table, cost: float | None) -> pa.Table:
    """The results of a later run in which every variant of ``table`` is unchanged; ``cost`` is that of nothing."""
    import pyarrow as pa

    values = {"status": Status.UNCHANGED.value, "reason": "", "attempts": 0, "gpu_seconds": 0.0, "cost": cost}
    values |= {f"seconds_{stage}": 0.0 for stage in STAGES}
    for name, value in values.items():
        number = table.schema.get_field_index(name)
        field = table.schema.field(number)
        table = table.set_column(number, field, pa.repeat(pa.scalar(value, field.type), table.num_rows))
    return table


def _cells(row: ResultRow) -> dict[str, object]:
    seconds = dict.fromkeys(STAGES, 0.0)
    for name, value in row.seconds.items():
        stage = name.partition("-")[0]
        if stage in seconds:
            seconds[stage] += value
    return {
        "variant_id": row.variant_id,
        "row": row.row,
        "status": row.status.value,
        "reason": row.reason,
        "attempts": row.attempts,
        **{f"seconds_{stage}": value for stage, value in seconds.items()},
        "gpu_seconds": row.gpu_seconds,
        "cost": row.cost,
        "files": [
            {"path": f.path, "url": f.url, "output": f.output, "sha256": f.sha256, "size_bytes": f.size_bytes}
            for f in row.files
        ],
    }
