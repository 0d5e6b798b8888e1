"""The catalog, ``<publish.url>/catalog/files.parquet``: a row for every live file, replaced whole at a run's end.

"Live" means visible and equal to its record. Files of earlier runs, of rows that have left the manifest, and of other
jobs that publish to the same place stay in it for as long as they are live.
"""

from __future__ import annotations

import filecmp
import tempfile
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from wanflow.errors import Conflict, StoreError
from wanflow.model import Scalar
from wanflow.parquet import PART_ROWS, load_parts, parts_on_disk
from wanflow.publish import CATALOG, Published
from wanflow.records import in_parallel
from wanflow.report.columns import carried_column, carried_name, carried_type
from wanflow.storage import Stat, Store
from wanflow.unchanged import Unchanged

if TYPE_CHECKING:
    import numpy as np
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
    former: Sequence[Mapping[str, Any]] = (),
    fresh: Mapping[str, Stat] | None = None,
    retired: Collection[str] = (),
    unchanged: Unchanged | None = None,
) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """A row a live file, sorted by path, in parts.

    ``carry`` maps the path of a video to its carried columns as the manifest says them now, ``unchanged`` has those of
    the others that it asks for. What neither has keeps those of ``former``, rows of the former catalog, from which rows
    of other jobs' live files are taken over too. ``fresh``: what is younger than ``published`` knows.
    ``retired``: paths of videos that the job no longer asks for; what it neither asks for nor retires stays as
    ``former`` says.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = schema()
    fresh = fresh or {}
    before = {row["path"]: row for row in former}
    records = published.live()
    files = _Files(records)
    # Few rows of the former catalog matter as a rule: their paths are looked up among all, not the other way round.
    interesting = pc.is_in(files.paths, pa.array([*before, *fresh], pa.string())).to_numpy(
        zero_copy_only=False
    )
    stays = np.ones(len(files), bool)
    place = {files.paths[i].as_py(): int(i) for i in np.flatnonzero(interesting)}
    for path, stat in fresh.items():
        if (i := place.get(path)) is not None:
            stays[i] = (stat.size_bytes, stat.etag) == (files.size_of(i), files.etag_of(i))
    others = []
    for path, row in before.items():
        # another job's, or published by another run since the snapshot was taken
        mine = place.get(path)
        younger = mine is None or not stays[mine] or _milliseconds(row["made_at"]) > files.made_at_ms(mine)
        if younger and _shown(row, published, fresh):
            others.append(row)
            if mine is not None:
                stays[mine] = False
    asked, carried = _carried_of_records(records, carry, unchanged, plain.names)
    gone = pc.is_in(records["path"], pa.array(list(retired), pa.string())).to_numpy(zero_copy_only=False)
    is_retired = gone[files.parents]
    kept = np.flatnonzero(stays)
    parents = files.parents[kept]
    values = {name: np.array(column, object)[parents].tolist() for name, column in carried.items()}
    at = {int(i): number for number, i in enumerate(kept)} if before else {}
    for path, row in before.items():
        mine = place.get(path)
        if mine in at and not asked[files.parents[mine]]:
            is_retired[mine] |= bool(row["retired"])
            for name, value in _carried(row, plain.names).items():
                values.setdefault(name, [None] * len(kept))[at[mine]] = value
    for row in others:
        for name in _carried(row, plain.names):
            values.setdefault(name, [None] * len(kept))
    for name, column in values.items():
        column += [row.get(name) for row in others]
    paths = pa.concat_arrays(
        [files.paths.take(pa.array(kept)), pa.array([r["path"] for r in others], pa.string())]
    )
    order = pc.sort_indices(paths).to_numpy()
    types = {name: carried_type(column) for name, column in values.items()}
    whole = pa.schema([*plain, *(pa.field(name, kind) for name, kind in types.items())])

    def part(numbers: np.ndarray[Any, Any]) -> pa.Table:
        own = numbers[numbers < len(kept)]
        tables = [files.table(kept[own], target_url, is_retired)]
        if len(own) < len(numbers):
            strange = [others[i - len(kept)] for i in numbers[numbers >= len(kept)].tolist()]
            rows = [{name: row[name] for name in plain.names} for row in strange]
            tables.append(pa.Table.from_pylist(rows, schema=plain))
        table = pa.concat_tables(tables)
        numbers = np.concatenate([own, numbers[numbers >= len(kept)]])
        for name, kind in types.items():
            column = [values[name][i] for i in numbers.tolist()]
            table = table.append_column(name, carried_column(column, kind))
        return table.sort_by("path") if len(tables) > 1 else table

    return whole, (part(order[start : start + PART_ROWS]) for start in range(0, len(order), PART_ROWS))


class _Files:
    """The files of records, one after the other: of each record its video, then its poster."""

    def __init__(self, records: pa.Table) -> None:
        import numpy as np

        self._records = records
        lists = records["files"].chunk(0)
        self._files: pa.StructArray = lists.flatten()
        counts = lists.value_lengths().to_numpy()
        #: row of each file's record
        self.parents = np.repeat(np.arange(len(counts)), counts)
        starts = np.cumsum(counts) - counts
        self._is_video = np.arange(len(self.parents)) == starts[self.parents]
        self.paths: pa.StringArray = self._files.field("path")

    def __len__(self) -> int:
        return len(self.paths)

    def size_of(self, number: int) -> int:
        return int(self._files.field("size_bytes")[number].as_py())

    def etag_of(self, number: int) -> str:
        return str(self._files.field("etag")[number].as_py())

    def made_at_ms(self, number: int) -> int:
        made_at = self._records["made_at"][int(self.parents[number])].as_py()
        return round((made_at or 0) * 1000)

    def table(
        self, numbers: np.ndarray[Any, Any], target_url: str, is_retired: np.ndarray[Any, Any]
    ) -> pa.Table:
        """The files ``numbers`` as rows of :func:`schema`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        files, videos = self._files.take(pa.array(numbers)), pa.array(self._is_video[numbers])
        records = self._records.take(pa.array(self.parents[numbers]))
        columns: dict[str, pa.Array] = {
            name: files.field(name) for name in ("path", "sha256", "size_bytes", "etag")
        }
        for name in ("key", "variant_id", "output", "run_id", "attempt", "reason"):
            columns[name] = records[name].cast(pa.string())
        for name in ("gpu_seconds", "cost"):  # the poster came with its video
            columns[name] = pc.if_else(videos, records[name], None)
        milliseconds = pc.round(pc.multiply(records["made_at"], 1000)).cast(pa.int64())
        columns |= {
            "url": pc.binary_join_element_wise(target_url, columns["path"], "/"),
            "kind": pc.if_else(videos, "video", "poster"),
            "made_at": milliseconds.cast(pa.timestamp("ms", "UTC")),
            "retired": pa.array(is_retired[numbers]),
        }
        return pa.table([columns[name] for name in schema().names], schema=schema())


def _carried_of_records(
    records: pa.Table,
    carry: Mapping[str, Mapping[str, Scalar]],
    unchanged: Unchanged | None,
    taken: list[str],
) -> tuple[np.ndarray[Any, Any], dict[str, list[Scalar]]]:
    """Of each record whether the manifest asks for it, and the carried columns as it says them."""
    import numpy as np

    asked = np.zeros(records.num_rows, bool)
    carried: dict[str, list[Scalar]] = {}
    if unchanged is not None:
        rows = records["row"].fill_null(-1).to_numpy()
        owners = np.append(unchanged.owners(int(rows.max(initial=-1)) + 1), -1)[rows]
        asked = owners >= 0
        for name, values in unchanged.carry.items():
            of_owners = np.array([*values, None], object)  # the last is what -1 stands for
            carried[carried_name(name, taken)] = of_owners[owners].tolist()
    for number, path in enumerate(records["path"].to_pylist()) if carry else ():
        if (mine := carry.get(path)) is not None:
            asked[number] = True
            for name, value in mine.items():
                column = carried.setdefault(carried_name(name, taken), [None] * records.num_rows)
                column[number] = value
    return asked, carried


def _former(
    published: Published,
    catalog: Path,
    carry: Mapping[str, Mapping[str, Scalar]],
    unchanged: Unchanged | None,
) -> list[dict[str, Any]]:
    """The former rows that may still matter: not those of files that are known as they are, carried columns too."""
    import numpy as np
    import pyarrow as pa

    records = published.live()
    asked, _ = _carried_of_records(records, carry, unchanged, [])
    known = array("q")
    held = records.select(["files", "key", "attempt"]).filter(pa.array(asked))
    for batch in held.to_batches(PART_ROWS):
        files = batch["files"].flatten()
        keys, attempts = batch["key"].to_pylist(), batch["attempt"].to_pylist()
        counts = batch["files"].value_lengths().to_pylist()
        of = [number for number, count in enumerate(counts) for _ in range(count)]
        for path, etag, number in zip(
            files.field("path").to_pylist(), files.field("etag").to_pylist(), of, strict=True
        ):
            known.append(hash((path, etag, keys[number], attempts[number])))
    hashes = np.frombuffer(known, np.int64) if known else np.empty(0, np.int64)
    found: list[dict[str, Any]] = []
    for part in _complete(load_parts(catalog)[2]):
        rows = zip(*(part[name].to_pylist() for name in ("path", "etag", "key", "attempt")), strict=True)
        unknown = ~np.isin(np.fromiter(map(hash, rows), np.int64, part.num_rows), hashes)
        if unknown.any():
            found += part.filter(pa.array(unknown)).to_pylist()
    return found


def _seen_since(target: Store, published: Published, former: Sequence[Mapping[str, Any]]) -> dict[str, Stat]:
    """What is there of ``former`` rows of others that are younger than the snapshot may know."""
    doubtful = [row for row in former if not _shown(row, published, {})]
    made_at = _made_at(published, [row["path"] for row in doubtful])
    younger = [
        row["path"]
        for row in doubtful
        if row["path"] not in made_at or _milliseconds(row["made_at"]) > made_at[row["path"]]
    ]
    return {stat.path: stat for stat in in_parallel(target.stat, younger) if stat is not None}


def _made_at(published: Published, paths: list[str]) -> dict[str, int]:
    """When the records of those of ``paths`` that have one were made, in milliseconds since 1970."""
    found = {}
    for path in paths:
        for video in (path, str(PurePosixPath(path).with_suffix(".mp4"))):
            record = published.records.get(video)
            if record is not None and any(file.path == path for file in record.files):
                found[path] = round(float(dict(record.info).get("made_at") or 0) * 1000)
                break
    return found


def _shown(row: Mapping[str, Any], published: Published, fresh: Mapping[str, Stat]) -> bool:
    stat = fresh.get(row["path"])
    if stat is not None:
        return (stat.etag, stat.size_bytes) == (row["etag"], row["size_bytes"])
    return published.visible.shows(row["path"], row["size_bytes"], row["etag"])


def update_catalog(
    target: Store,
    published: Published,
    carry: Mapping[str, Mapping[str, Scalar]],
    retired: Collection[str] = (),
    *,
    unchanged: Unchanged | None = None,
    cache_control: str | None = None,
) -> None:
    """Build the catalog from ``published`` and the former one, and put it in its place."""
    for _ in range(5):
        with tempfile.TemporaryDirectory(prefix="wanflow-") as folder:
            before = Path(folder, "before.parquet")
            etag, is_whole = _fetch(target, before)
            former = _former(published, before, carry, unchanged) if is_whole else []
            fresh = _seen_since(target, published, former)
            whole, parts = build_catalog(published, target.url, carry, former, fresh, retired, unchanged)
            with parts_on_disk(whole, parts) as path:
                if is_whole and filecmp.cmp(path, before, shallow=False):
                    return
                try:
                    target.replace(PATH, path, if_match=etag, cache_control=cache_control)
                    return
                except (
                    Conflict
                ):  # another job of the same target, or my own lost acknowledgement: its rows are kept
                    continue
    raise StoreError(f"{target.url}/{PATH} kept changing; is another run publishing there?")


def read_catalog(target: Store) -> pa.Table | None:
    """The catalog, or None when there is none (or it is damaged: the next run writes it anew)."""
    import pyarrow as pa

    with tempfile.TemporaryDirectory(prefix="wanflow-") as folder:
        path = Path(folder, "catalog.parquet")
        _, is_whole = _fetch(target, path)
        return pa.concat_tables(_complete(load_parts(path)[2])) if is_whole else None


def _fetch(target: Store, local: Path) -> tuple[str | None, bool]:
    """The catalog's ETag, None when there is none, and whether a catalog that can be read is at ``local`` now."""
    import pyarrow as pa

    stat = target.stat(PATH)  # of an older one than is fetched, if any: then it is not replaced
    if stat is None:
        return None, False
    try:
        target.fetch(PATH, local)
        names = {*load_parts(local)[0].names, "reason", "retired"}
        return stat.etag, set(schema().names) <= names
    except FileNotFoundError:
        return None, False
    except pa.ArrowException:
        return stat.etag, False


def _complete(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """With the columns that an earlier wanflow did not write."""
    import pyarrow as pa

    for table in tables:
        for name, value in (("reason", pa.scalar(None, pa.string())), ("retired", pa.scalar(False))):
            if name not in table.column_names:
                table = table.append_column(name, pa.repeat(value, table.num_rows))
        yield table


def _milliseconds(made_at: datetime | None) -> int:
    return 0 if made_at is None else round(made_at.timestamp() * 1000)


def _carried(row: Mapping[str, Any], plain: list[str]) -> dict[str, Scalar]:
    return {name: value for name, value in row.items() if name not in plain and value is not None}
