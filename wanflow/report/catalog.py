"""The catalog, ``<publish.url>/catalog/files.parquet``: a row for every live file, replaced whole at a run's end.

"Live" means visible and equal to its record. Files of earlier runs, of rows that have left the manifest, and of other
jobs that publish to the same place stay in it for as long as they are live.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wanflow.errors import Conflict, StoreError
from wanflow.model import Record, Scalar
from wanflow.parquet import dump_table, load_table
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
            #: why it was made
            ("reason", pa.string()),
            #: its job no longer asks for it (and leaves it: ``publish.unpublish: false``)
            ("retired", pa.bool_()),
        ]
    )


def build_catalog(
    published: Published,
    target_url: str,
    carry: Mapping[str, Mapping[str, Scalar]],
    before: pa.Table | None = None,
    visible: Mapping[str, Stat] | None = None,
    retired: Collection[str] = (),
) -> pa.Table:
    """A row a live file, sorted by path.

    ``carry`` maps the path of a video to its carried columns as the manifest says them now. Paths that it lacks keep
    those of ``before``, the former catalog, from which rows of other jobs' live files are taken over too.
    ``visible``: what is live of those (default: ``published.visible``). ``retired``: paths of videos that the job no
    longer asks for; what it neither asks for nor retires stays as ``before`` says.
    """
    import pyarrow as pa

    plain = schema()
    seen = published.visible if visible is None else visible
    former = {row["path"]: row for row in _former(published, before, carry)}
    rows: dict[str, tuple[dict[str, Any], Mapping[str, Scalar]]] = {}
    for path, record in published.records.items():
        if published.key_of(path) is None:
            continue
        now = {_free(name, plain.names): value for name, value in carry.get(path, {}).items()}
        was = former.get(path, {}).get("retired") or False
        for row in _rows(target_url, record):
            row["retired"] = path in retired or (path not in carry and was)
            if _same(row, seen.get(row["path"])):
                old = _carried(former.get(row["path"], {}), plain.names)
                rows[row["path"]] = row, now if path in carry else old
    for path, row in former.items():
        # another job's, or published by another run since the snapshot was taken
        younger = path not in rows or _milliseconds(row["made_at"]) > (rows[path][0]["made_at"] or 0)
        if younger and _same(row, seen.get(path)):
            rows[path] = {name: row[name] for name in plain.names}, _carried(row, plain.names)
    ordered = [rows[path] for path in sorted(rows)]
    table = pa.Table.from_pylist([cells for cells, _ in ordered], schema=plain)
    for name, column in carried_columns([carried for _, carried in ordered], plain.names).items():
        table = table.append_column(name, column)
    return table


def _former(
    published: Published, before: pa.Table | None, carry: Mapping[str, Mapping[str, Scalar]]
) -> list[dict[str, Any]]:
    """The former rows that may still matter: not those of files that are known as they are, carried columns too."""
    import pyarrow as pa

    if before is None:
        return []
    known = {
        (file.path, file.etag, record.key, record.attempt)
        for path, record in published.records.items()
        if path in carry
        for file in record.files
    }
    columns = (before[name].to_pylist() for name in ("path", "etag", "key", "attempt"))
    keep = [row not in known for row in zip(*columns, strict=True)]
    rows: list[dict[str, Any]] = before.filter(pa.array(keep, pa.bool_())).to_pylist()
    return rows


def _now_visible(
    target: Store, published: Published, before: pa.Table | None, carry: Mapping[str, Mapping[str, Scalar]]
) -> Mapping[str, Stat]:
    """The snapshot, brought up to date for rows of others that are younger than it may know."""
    made_at = {file.path: _made_at(record) for record in published.records.values() for file in record.files}
    doubtful = [
        row["path"]
        for row in _former(published, before, carry)
        if not _same(row, published.visible.get(row["path"]))
        and (row["path"] not in made_at or _milliseconds(row["made_at"]) > (made_at[row["path"]] or 0))
    ]
    fresh = {stat.path: stat for stat in in_parallel(target.stat, doubtful) if stat is not None}
    return ChainMap(fresh, published.visible)


def _same(row: Mapping[str, Any], stat: Stat | None) -> bool:
    return stat is not None and stat.etag == row["etag"] and stat.size_bytes == row["size_bytes"]


def update_catalog(
    target: Store,
    published: Published,
    carry: Mapping[str, Mapping[str, Scalar]],
    retired: Collection[str] = (),
    *,
    cache_control: str | None = None,
) -> pa.Table:
    """Build the catalog from ``published`` and the former one, and put it in its place; returns it."""
    for _ in range(5):
        before, etag = _read(target)
        visible = _now_visible(target, published, before, carry)
        table = build_catalog(published, target.url, carry, before, visible, retired)
        if before is not None and table.equals(before):
            return table
        try:
            target.replace(PATH, dump_table(table), if_match=etag, cache_control=cache_control)
            return table
        except Conflict:  # another job of the same target, or my own lost acknowledgement: its rows are kept
            continue
    raise StoreError(f"{target.url}/{PATH} kept changing; is another run publishing there?")


def read_catalog(target: Store) -> pa.Table | None:
    """The catalog, or None when there is none (or it is damaged: the next run writes it anew)."""
    return _read(target)[0]


def _read(target: Store) -> tuple[pa.Table | None, str | None]:
    import pyarrow as pa

    try:
        data, stat = target.get(PATH)
    except FileNotFoundError:
        return None, None
    try:
        table = load_table(data)
        for name, value in (("reason", pa.scalar(None, pa.string())), ("retired", pa.scalar(False))):
            if name not in table.column_names:  # written by an earlier wanflow
                table = table.append_column(name, pa.repeat(value, table.num_rows))
        return (table if set(schema().names) <= set(table.column_names) else None), stat.etag
    except pa.ArrowException:
        return None, stat.etag


def _rows(target_url: str, record: Record) -> list[dict[str, Any]]:
    info = dict(record.info)
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
            "made_at": _made_at(record),
            "run_id": info.get("run_id"),
            "attempt": record.attempt,
            # the poster came with its video
            "gpu_seconds": info.get("gpu_seconds") if number == 0 else None,
            "cost": info.get("cost") if number == 0 else None,
            "reason": info.get("reason"),
        }
        for number, file in enumerate(record.files)
    ]


def _made_at(record: Record) -> int | None:
    """Milliseconds since 1970."""
    made_at = dict(record.info).get("made_at")
    return round(made_at * 1000) if isinstance(made_at, int | float) else None


def _milliseconds(made_at: datetime | None) -> int:
    return 0 if made_at is None else round(made_at.timestamp() * 1000)


def _free(name: str, taken: list[str]) -> str:
    return f"carry_{name}" if name in taken else name


def _carried(row: Mapping[str, Any], plain: list[str]) -> dict[str, Scalar]:
    return {name: value for name, value in row.items() if name not in plain and value is not None}
