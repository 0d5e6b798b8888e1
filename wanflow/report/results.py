"""``results.parquet``: one row a variant, whatever became of it. Its columns are a contract."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from wanflow.model import Record, Scalar, Status
from wanflow.parquet import PART_ROWS
from wanflow.report.columns import carried_column, carried_name, carried_type
from wanflow.storage import join
from wanflow.unchanged import Unchanged

if TYPE_CHECKING:
    import pyarrow as pa

#: stages whose seconds have a column, in the order of the work
STAGES = ("encode", "denoise", "cascade", "decode", "assemble", "publish")

#: stages that count in the column of another
_COLUMNS = {"trunk": "denoise", "decode_beside": "decode"}


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
    #: stage name -> seconds; ``cascade-1`` and the like count as ``cascade``, ``trunk`` as ``denoise``, and
    #: ``decode_beside`` as ``decode``
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


@dataclass(frozen=True, slots=True)
class UnchangedResults:
    """Variants that a run left as they were, and where their files stand."""

    variants: Unchanged
    #: ``Published.records.table``
    records: pa.Table
    target_url: str
    #: of nothing; None: no price was given
    cost: float | None


def build_results(
    rows: Sequence[ResultRow], unchanged: UnchangedResults | None = None
) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """Rows as a table of :func:`schema` plus the carried columns, by row of the manifest, in parts."""
    import pyarrow as pa

    plain = schema()
    held = unchanged.variants.carry if unchanged else {}
    names = dict.fromkeys([*held, *(name for row in rows for name in row.carry)])
    types = {
        name: carried_type(chain(held.get(name, ()), (row.carry.get(name) for row in rows))) for name in names
    }
    whole = plain
    for name, kind in types.items():
        whole = whole.append(pa.field(carried_name(name, plain.names), kind))
    return whole, _parts(sorted(rows, key=lambda row: row.row), unchanged, whole, types)


def _parts(
    rows: Sequence[ResultRow],
    unchanged: UnchangedResults | None,
    whole: pa.Schema,
    types: Mapping[str, pa.DataType],
) -> Iterator[pa.Table]:
    """Unchanged variants a part at a time, each with the other rows that come before its end."""
    import pyarrow as pa

    def made(part: Sequence[ResultRow]) -> pa.Table:
        cells = pa.Table.from_pylist([_cells(row) for row in part], schema())
        carried = [carried_column([row.carry.get(n) for row in part], kind) for n, kind in types.items()]
        return pa.table([*cells.columns, *carried], schema=whole)

    taken = 0
    for start in range(0, len(unchanged.variants) if unchanged else 0, PART_ROWS):
        assert unchanged
        end = min(start + PART_ROWS, len(unchanged.variants))
        table = pa.table(_unchanged_columns(unchanged, range(start, end), types), schema=whole)
        last = unchanged.variants.rows[end - 1]
        upto = bisect_right(rows, last, lo=taken, key=lambda row: row.row)
        if upto > taken:
            table = pa.concat_tables([table, made(rows[taken:upto])]).sort_by("row")
            taken = upto
        yield table
    for start in range(taken, len(rows), PART_ROWS):
        yield made(rows[start : start + PART_ROWS])


def _unchanged_columns(
    unchanged: UnchangedResults, part: range, types: Mapping[str, pa.DataType]
) -> Iterable[pa.Array]:
    """The columns of results of the variants whose numbers are in ``part``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    variants, span = unchanged.variants, slice(part.start, part.stop)
    lists = unchanged.records["files"].chunk(0)
    ends = memoryview(lists.offsets.to_numpy())
    files, outputs, offsets = array("q"), array("q"), array("i", [0])
    for number in part:
        for record, output in variants.files_of(number):
            num_files = ends[record + 1] - ends[record]
            files.extend(range(ends[record], ends[record + 1]))
            outputs.extend([output] * num_files)
        offsets.append(len(files))
    named = {
        name: lists.values.field(name).take(pa.array(files)) for name in ("path", "sha256", "size_bytes")
    }
    urls = pc.binary_join_element_wise(unchanged.target_url, named["path"], "/")
    names = pa.array(variants.output_names, pa.string()).take(pa.array(outputs))
    kind = schema().field("files").type
    structs = pa.StructArray.from_arrays(
        [named["path"], urls, names, named["sha256"], named["size_bytes"]], fields=list(kind.value_type)
    )
    constant = _constants(unchanged.cost)
    plain: dict[str, pa.Array] = {
        "variant_id": pa.array(variants.variant_ids[span], pa.string()),
        "row": pa.array(variants.rows[span], pa.int64()),
        "files": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=kind),
    }
    for each in schema():
        if each.name not in plain:
            plain[each.name] = pa.repeat(pa.scalar(constant[each.name], each.type), len(part))
    carried = [
        carried_column(variants.carry.get(n, [None] * len(variants))[span], k) for n, k in types.items()
    ]
    return [*(plain[name] for name in schema().names), *carried]


def as_unchanged(table: pa.Table, cost: float | None) -> pa.Table:
    """The results of a later run in which every variant of ``table`` is unchanged; ``cost`` is that of nothing."""
    import pyarrow as pa

    for name, value in _constants(cost).items():
        number = table.schema.get_field_index(name)
        field = table.schema.field(number)
        table = table.set_column(number, field, pa.repeat(pa.scalar(value, field.type), table.num_rows))
    return table


def _constants(cost: float | None) -> dict[str, Scalar]:
    """What is the same in the row of every unchanged variant."""
    same: dict[str, Scalar] = {
        "status": Status.UNCHANGED.value,
        "reason": "",
        "attempts": 0,
        "gpu_seconds": 0.0,
        "cost": cost,
    }
    return same | {f"seconds_{stage}": 0.0 for stage in STAGES}


def _cells(row: ResultRow) -> dict[str, object]:
    seconds = dict.fromkeys(STAGES, 0.0)
    for name, value in row.seconds.items():
        stage = _COLUMNS.get(name) or name.partition("-")[0]
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
