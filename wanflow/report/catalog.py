"""The catalog, ``<publish.url>/catalog/files.parquet``: a row for every live file, replaced whole at a run's end.

"Live" means visible and equal to its record. Files of earlier runs, of rows that have left the manifest, and of other
jobs that publish to the same place stay in it for as long as they are live.
"""

from __future__ import annotations

import io
from collections import ChainMap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wanflow.errors import Conflict, StoreError
from wanflow.model import Record, Scalar
from wanflow.publish import CATALOG, Published
from wanflow.records import in_parallel
from wanflow.report.columns import carried_columns
from wanflow.storage import Stat, Store, join

if TYPE_CHECKING:
    import pyarrow as pa

PATH = f"{CATALOG}/files.parquet"


def schema() -> pa.Schema:
    """The columns before the carried ones."""
    import pyarrow as pa

    return pa.schema(
        [
            ("url", pa.string()),
            ("path", pa.string()),
            #: ``video`` or ``poster``
            ("kind", pa.string()),
            ("sha256", pa.string()),
            ("size_bytes", pa.int64()),
            ("etag", pa.string()),
            ("key", pa.string()),
            ("variant_id", pa.string()),
            ("output", pa.string()),
            ("made_at", pa.timestamp("ms", "UTC")),
            ("run_id", pa.string()),
            ("attempt", pa.string()),
            ("gpu_seconds", pa.float64()),
            ("cost", pa.float64()),
        ]
    )


def build_catalog(
    published: Published,
    target_url: str,
    carry: Mapping[str, Mapping[str, Scalar]],
    before: pa.Table | None = None,
    visible: Mapping[str, Stat] | None = None,
) -> pa.Table:
    """A row a live file, sorted by path.

    ``carry`` maps the path of a video to its carried columns as the manifest says them now. Paths that it lacks keep
    those of ``before``, the former catalog, from which rows of other jobs' live files are taken over too.
    ``visible``: what is live of those (default: ``published.visible``).
    """
    import pyarrow as pa

    plain = schema()
    former = {row["path"]: row for row in _former(published, before, carry)}
    rows: dict[str, tuple[dict[str, Any], Mapping[str, Scalar]]] = {}
    for path, record in published.records.items():
        cells = _rows(target_url, record) if published.key_of(path) is not None else []
        now = (
            {_free(name, plain.names): value for name, value in carry[path].items()}
            if path in carry
            else None
        )
        for file in record.files:
            old = former.pop(file.path, None)
            for row in cells:
                if row["path"] == file.path:
                    rows[file.path] = row, now if now is not None else _carried(old or {}, plain.names)
    for path, row in former.items():
        if _same(row, (published.visible if visible is None else visible).get(path)):
            rows[path] = {name: row[name] for name in plain.names}, _carried(row, plain.names)
    ordered = [rows[path] for path in sorted(rows)]
    table = pa.Table.from_pylist([cells for cells, _ in ordered], schema=plain)
    for name, column in carried_columns([carried for _, carried in ordered], plain.names).items():
        table = table.append_column(name, column)
    return table


def _former(
    published: Published, before: pa.Table | None, carry: Mapping[str, Mapping[str, Scalar]]
) -> list[dict[str, Any]]:
    """The former rows that still matter: not those of files whose record and carried columns are known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if before is None:
        return []
    known = [
        file.path for path, record in published.records.items() if path in carry for file in record.files
    ]
    rows: list[dict[str, Any]] = before.filter(
        pc.invert(pc.is_in(before["path"], value_set=pa.array(known, pa.string())))
    ).to_pylist()
    return rows


def _now_visible(
    target: Store, published: Published, before: pa.Table | None, carry: Mapping[str, Mapping[str, Scalar]]
) -> Mapping[str, Stat]:
    """The snapshot, brought up to date for rows of other jobs, which may have published since it was taken."""
    ours = {file.path for record in published.records.values() for file in record.files}
    doubtful = [
        row["path"]
        for row in _former(published, before, carry)
        if row["path"] not in ours and not _same(row, published.visible.get(row["path"]))
    ]
    fresh = {stat.path: stat for stat in in_parallel(target.stat, doubtful) if stat is not None}
    return ChainMap(fresh, published.visible)


def _same(row: Mapping[str, Any], stat: Stat | None) -> bool:
    return stat is not None and stat.etag == row["etag"] and stat.size_bytes == row["size_bytes"]


def update_catalog(
    target: Store,
    published: Published,
    carry: Mapping[str, Mapping[str, Scalar]],
    *,
    cache_control: str | None = None,
) -> pa.Table:
    """Build the catalog from ``published`` and the former one, and put it in its place; returns it."""
    import pyarrow.parquet as pq

    for _ in range(5):
        before, etag = _read(target)
        visible = _now_visible(target, published, before, carry)
        table = build_catalog(published, target.url, carry, before, visible)
        if before is not None and table.equals(before):
            return table
        file = io.BytesIO()
        pq.write_table(table, file, compression="zstd")
        try:
            target.replace(PATH, file.getvalue(), if_match=etag, cache_control=cache_control)
            return table
        except Conflict:  # another job of the same target, or my own lost acknowledgement: its rows are kept
            continue
    raise StoreError(f"{target.url}/{PATH} kept changing; is another run publishing there?")


def read_catalog(target: Store) -> pa.Table | None:
    """The catalog, or None when there is none (or it is damaged: the next run writes it anew)."""
    return _read(target)[0]


def _read(target: Store) -> tuple[pa.Table | None, str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data, stat = target.get(PATH)
    except FileNotFoundError:
        return None, None
    try:
        table = pq.read_table(pa.BufferReader(data))
        return (table if set(schema().names) <= set(table.column_names) else None), stat.etag
    except pa.ArrowException:
        return None, stat.etag


def _rows(target_url: str, record: Record) -> list[dict[str, Any]]:
    info = dict(record.info)
    made_at = info.get("made_at")
    return [
        {
            "url": join(target_url, file.path),
            "path": file.path,
            "kind": "video" if number == 0 else "poster",
            "sha256": file.sha256,
            "size_bytes": file.size_bytes,
            "etag": file.etag,
            "key": record.key,
            "variant_id": info.get("variant_id"),
            "output": info.get("output"),
            "made_at": round(made_at * 1000) if isinstance(made_at, (int, float)) else None,
            "run_id": info.get("run_id"),
            "attempt": record.attempt,
            "gpu_seconds": info.get("gpu_seconds"),
            "cost": info.get("cost"),
        }
        for number, file in enumerate(record.files)
    ]


def _free(name: str, taken: list[str]) -> str:
    return f"carry_{name}" if name in taken else name


def _carried(row: Mapping[str, Any], plain: list[str]) -> dict[str, Scalar]:
    return {name: value for name, value in row.items() if name not in plain and value is not None}
