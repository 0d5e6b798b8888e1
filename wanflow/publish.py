"""Publishing: files become visible under ``publish.url``, then their record says so.

One record a published video, ``<workspace>/published/<target>/<hh>/<sha256 of its path>.json``. A visible file that
does not match its record (size and ETag) counts as unpublished and is made again: that is how a crash between the two,
a late overwrite by a run that lost its lease, and a stranger's hand are all repaired. ``<target>`` tells the jobs of a
shared workspace apart, and is ``own`` where the workspace lies inside ``publish.url``, so that both can move together.

:class:`Published` is the snapshot that planning compares with. Its bodies come from one index file; only records whose
ETag the index does not know are read. The index is a cache: without it everything is only slower.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from posixpath import splitext
from typing import TYPE_CHECKING

from wanflow.errors import Conflict, StoreError
from wanflow.listing import Listing, total_of, weigh
from wanflow.model import Attempt, OutputFile, Record, Scalar, StoredFile
from wanflow.parquet import give_back, parts_on_disk, read_columns
from wanflow.record_table import PART_ROWS, Records, all_shown, joined, still_listed, table_of
from wanflow.record_table import schema as record_schema
from wanflow.records import MAX_RECORD_BYTES, digest, dump_record, in_parallel, parse_record
from wanflow.storage import Stat, Store, check_publish_path

if TYPE_CHECKING:
    import pyarrow as pa

#: how often an upload that met somebody else's write is tried over it
OVERWRITES = 5
#: top folder of ``publish.url`` for the catalog
CATALOG = "catalog"


def poster_path(path: str) -> str:
    """Where the poster of the video at ``path`` lies: beside it, as ``.jpg``."""
    return f"{splitext(path)[0]}.jpg"


def record_path(target: Store, workspace: Store, path: str) -> str:
    """Where in the workspace the record of the video at ``path`` lies."""
    return f"{_folder(target, workspace)}/{_name(path)}"


def publish(
    target: Store,
    workspace: Store,
    file: OutputFile,
    variant_id: str,
    local: Mapping[str, Path],
    attempt: Attempt,
    run_id: str,
    info: Mapping[str, Scalar],
    *,
    cache_control: str | None = None,
) -> Record:
    """Make ``local`` ("video" and perhaps "poster") visible at ``file.path``, then write its record.

    Idempotent: a path that holds exactly this key already is left alone. Raises :class:`Conflict` when a newer run
    (higher epoch) has published the path with another key: this run is stale.
    The record's ``info`` has variant_id, output, path, run_id and made_at (seconds since 1970) besides ``info``.
    """
    check_publish_path(file.path)
    record_at = record_path(target, workspace, file.path)
    held, held_etag = _load(workspace, record_at)
    if held is not None:
        if _epoch(held) > attempt.epoch and held.key != file.key:
            raise Conflict(
                f"{file.path}: a newer run ({held.attempt}) has published it; this run is out of date"
            )
        if held.key == file.key and all(_same(target.stat(each.path), each) for each in held.files):
            return replace(held, etag=held_etag or "")
    places = {"video": file.path, "poster": poster_path(file.path)}
    files = tuple(
        _overwrite(target, places[name], local[name], cache_control) for name in places if name in local
    )
    facts: dict[str, Scalar] = {
        **info,
        "path": file.path,
        "variant_id": variant_id,
        "output": file.output.name,
        "run_id": run_id,
        "made_at": round(time.time(), 3),
    }
    record = Record(key=file.key, files=files, attempt=str(attempt), info=tuple(facts.items()))
    for _ in range(OVERWRITES):
        try:
            stat = workspace.replace(record_at, dump_record(record), if_match=held_etag)
            _clear_away(target, held, record)
            return replace(record, etag=stat.etag)
        except Conflict:
            held, held_etag = _load(workspace, record_at)
            if held is not None and replace(held, etag="") == record:  # mine: its acknowledgement was lost
                return replace(held, etag=held_etag or "")
            if held is not None and _epoch(held) > attempt.epoch:
                raise Conflict(f"{file.path}: a newer run ({held.attempt}) is publishing it") from None
    raise StoreError(f"{file.path}: its record kept changing; is another run publishing to {target.url}?")


def forget_published(target: Store, workspace: Store, path: str) -> None:
    """Delete the record of the video at ``path``: the file stays visible, and the next run makes it again."""
    workspace.delete(record_path(target, workspace, path))


def unpublish(target: Store, workspace: Store, record: Record) -> None:
    """Take the files of ``record`` away, then the record. What somebody else has changed since is left alone.

    Idempotent: after a crash in between the record is still there, and the next run goes on.
    """
    for file in record.files:
        if _same(target.stat(file.path), file):
            target.delete(file.path)
    forget_published(target, workspace, record.files[0].path)


def _clear_away(target: Store, before: Record | None, now: Record) -> None:
    """Delete files of the former publication that the new one lacks (a poster that is no longer asked for)."""
    kept = {file.path for file in now.files}
    for file in before.files if before is not None else ():
        if file.path not in kept and _same(target.stat(file.path), file):
            target.delete(file.path)


def _overwrite(target: Store, path: str, local: Path, cache_control: str | None) -> StoredFile:
    sha256 = digest(local)
    for _ in range(OVERWRITES):
        seen = target.stat(path)
        try:
            stat = target.replace(
                path, local, if_match=seen.etag if seen else None, cache_control=cache_control
            )
            return StoredFile(path, sha256, stat.size_bytes, stat.etag)
        except Conflict:  # somebody else wrote it, or my own write's acknowledgement was lost: look again
            continue
    raise StoreError(f"{path}: others keep writing it; is another run publishing to {target.url}?")


class Published:
    """What is published at a target: records by path, and what was visible, as of one moment."""

    def __init__(
        self,
        table: pa.Table | None = None,
        visible: Listing | None = None,
        *,
        folder: str = "",
        listed: int = 0,
        num_read: int = 0,
        unsaved: bool = True,
    ) -> None:
        """``table`` is of ``wanflow.record_table.schema``."""
        #: record of each published video by its path
        self.records = Records(table)
        #: every visible file; the catalog and the workspace left out
        self.visible = visible or Listing()
        #: folder of the records in the workspace; empty: not made from listings
        self.folder = folder
        #: how many record bodies the index did not have; 0 when nothing changed since it was written
        self.num_read = num_read
        #: whether :meth:`save` would write anything new
        self.unsaved = unsaved
        #: sum of the weights of the records' listing
        self._listed = listed
        #: whether the visible files of each row of the records' table matched when they were listed
        self._live = all_shown(self.records.table, self.visible)

    @classmethod
    def load(cls, target: Store, workspace: Store) -> Published:
        """One index read and two listings, side by side; then only the bodies that the index does not know."""
        folder = _folder(target, workspace)
        with ThreadPoolExecutor(1, thread_name_prefix="wanflow-published") as pool:
            seen = pool.submit(lambda: Listing(_visible(target, workspace)))
            index = _read_index(workspace, _index_path(target, workspace))
            known, unknown, listed = still_listed(index, workspace.list(folder))
            visible = seen.result()
        made = cls(
            joined(known, table_of(_read_records(workspace, unknown))),
            visible,
            folder=folder,
            listed=listed,
            num_read=len(unknown),
            unsaved=bool(unknown) or known.num_rows != index.num_rows,
        )
        del index, known
        give_back()
        return made

    @property
    def digest(self) -> str | None:
        """:func:`digest_of_listings`, were it asked for now; None when the snapshot was not made from listings."""
        return _as_digest(self._listed + self.visible.total) if self.folder else None

    def key_of(self, path: str) -> str | None:
        """The key that is published at ``path``, if the visible files are those of its record, else None."""
        added = self.records.added.get(path)
        if added is not None:
            return added.key if self._shows(added) else None
        row = self.records.row_of(path)
        return None if row is None else self.key_at(row)

    def key_at(self, row: int) -> str | None:
        """:meth:`key_of` by the row of ``records``."""
        return self.records.key_at(row) if self._live[row] else None

    def reason(self, path: str) -> str:
        """Why :meth:`key_of` is what it is, in words for the plan."""
        record = self.records.get(path)
        if record is None:
            return "file without a record" if path in self.visible else "never published"
        for file in record.files:
            what = "file" if file.path == path else "poster"
            if file.path not in self.visible:
                return f"{what} is missing"
            if not self.visible.shows(file.path, file.size_bytes, file.etag):
                return f"{what} was changed by someone else"
        return "published"

    def live(self) -> pa.Table:
        """A row of ``wanflow.record_table.schema`` for every record whose visible files match, and ``row``.

        ``row`` is its number in ``records.table``; null for what was added since.
        """
        import numpy as np
        import pyarrow as pa

        live = self._live.copy()
        live[list(self.records.gone)] = False
        rows = np.flatnonzero(live)
        held = self.records.table.filter(pa.array(live)) if len(rows) < len(live) else self.records.table
        added = table_of(
            (each, self._weigh(each)) for each in self.records.added.values() if self._shows(each)
        )
        numbers = pa.array(rows.astype(np.int64)), pa.nulls(added.num_rows, pa.int64())
        return joined(held.append_column("row", numbers[0]), added.append_column("row", numbers[1]))

    def add(self, record: Record) -> None:
        """Take in what :func:`publish` has just returned."""
        self._forget(record.files[0].path)
        self.records[record.files[0].path] = record
        self._listed += int.from_bytes(self._weigh(record), "big")
        self.unsaved = True
        for file in record.files:
            self.visible.put(Stat(file.path, file.size_bytes, file.etag))

    def drop(self, record: Record) -> None:
        """Take in what :func:`unpublish` has just done."""
        self._forget(record.files[0].path)
        self.unsaved = True
        for file in record.files:
            if self.visible.shows(file.path, file.size_bytes, file.etag):
                self.visible.remove(file.path)

    def save(self, target: Store, workspace: Store) -> None:
        """Write the index if it would change, so that the next load reads no record that it knows."""
        if not self.unsaved:
            return
        added = ((record, self._weigh(record)) for record in self.records.added.values() if record.etag)
        parts = chain(self.records.parts(), [table_of(added)])
        with parts_on_disk(record_schema(), parts) as path:
            workspace.write(_index_path(target, workspace), path)
        self.unsaved = False

    def _forget(self, path: str) -> None:
        former = self.records.pop(path, None)
        if former is not None:
            self._listed -= int.from_bytes(self._weigh(former), "big")

    def _weigh(self, record: Record) -> bytes:
        """A record's ETag says all; its size is not always at hand."""
        return weigh(f"{self.folder}/{_name(record.files[0].path)}", 0, record.etag)

    def _shows(self, record: Record) -> bool:
        return all(self.visible.shows(file.path, file.size_bytes, file.etag) for file in record.files)


def runs_that_published(workspace: Store) -> frozenset[str]:
    """The runs that publish records of all targets name; records that the indexes know are not read."""
    found: set[str] = set()
    for name in workspace.folders("published"):
        index = _read_index(workspace, f"published-{name}.parquet")
        known, unknown, _ = still_listed(index, workspace.list(f"published/{name}"))
        found.update(filter(None, known["run_id"].cast("string").unique().to_pylist()))
        read = _read_records(workspace, unknown)
        found.update(str(dict(record.info).get("run_id", "")) for record, _ in read)
    give_back()
    return frozenset(found)


def digest_of_listings(target: Store, workspace: Store) -> str:
    """What the listings of records and of visible files say, as a short text; equal listings have equal ones.

    The sum of a 128-bit hash an entry, because no order is promised and entries come and go.
    """
    with ThreadPoolExecutor(2, thread_name_prefix="wanflow-published") as pool:
        listed = workspace.list(_folder(target, workspace))
        records = pool.submit(lambda: total_of(Stat(stat.path, 0, stat.etag) for stat in listed))
        files = pool.submit(lambda: total_of(_visible(target, workspace)))
        return _as_digest(records.result() + files.result())


def _as_digest(total: int) -> str:
    return f"{total % 2**128:032x}"


def _visible(target: Store, workspace: Store) -> Iterator[Stat]:
    stats = target.list(skip=_inside(target, workspace) or CATALOG)
    return (stat for stat in stats if not stat.path.startswith(f"{CATALOG}/"))


def _read_records(workspace: Store, stats: list[Stat]) -> Iterator[tuple[Record, bytes]]:
    """The records at ``stats`` that can be read, each with its weight."""
    for start in range(0, len(stats), PART_ROWS):
        part = stats[start : start + PART_ROWS]
        for stat, body in zip(part, in_parallel(lambda each: _body(workspace, each.path), part), strict=True):
            record = parse_record(body[1], body[0]) if body is not None else None
            if record is not None and record.files:
                yield record, weigh(stat.path, 0, record.etag)


def _read_index(workspace: Store, path: str) -> pa.Table:
    import pyarrow as pa

    with tempfile.TemporaryDirectory(prefix="wanflow-index-") as folder:
        local = Path(folder, "index.parquet")
        try:
            workspace.fetch(path, local)
            return read_columns(local, record_schema())
        except (FileNotFoundError, pa.ArrowException, KeyError):
            # a cache: absent or damaged, all records are read
            return record_schema().empty_table()


def _body(workspace: Store, path: str) -> tuple[str, bytes] | None:
    try:
        data, stat = workspace.get(path, MAX_RECORD_BYTES)
    except FileNotFoundError:  # deleted since it was listed
        return None
    return stat.etag, data


def _load(workspace: Store, path: str) -> tuple[Record | None, str | None]:
    """The record at ``path`` and its ETag: both None when absent, the record None when damaged."""
    found = _body(workspace, path)
    return (None, None) if found is None else (parse_record(found[1], found[0]), found[0])


def _same(stat: Stat | None, file: StoredFile) -> bool:
    return stat is not None and stat.etag == file.etag and stat.size_bytes == file.size_bytes


def _epoch(record: Record) -> int:
    head = record.attempt.partition(".")[0]
    return int(head) if head.isdigit() else 0


def _inside(target: Store, workspace: Store) -> str:
    """The workspace's path below the target; empty when it lies elsewhere."""
    return workspace.url.removeprefix(target.url + "/") if workspace.url.startswith(target.url + "/") else ""


def _target_id(target: Store, workspace: Store) -> str:
    return "own" if _inside(target, workspace) else hashlib.sha256(target.url.encode()).hexdigest()[:16]


def _folder(target: Store, workspace: Store) -> str:
    return f"published/{_target_id(target, workspace)}"


def _index_path(target: Store, workspace: Store) -> str:
    return f"published-{_target_id(target, workspace)}.parquet"


def _name(path: str) -> str:
    name = hashlib.sha256(path.encode()).hexdigest()
    return f"{name[:2]}/{name}.json"
