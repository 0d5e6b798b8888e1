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
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from wanflow.errors import Conflict, StoreError
from wanflow.model import Attempt, OutputFile, Record, Scalar, StoredFile
from wanflow.parquet import dump_table, load_table
from wanflow.records import MAX_RECORD_BYTES, digest, dump_record, in_parallel, parse_record
from wanflow.storage import Stat, Store, check_publish_path

#: how often an upload that met somebody else's write is tried over it
OVERWRITES = 5
#: top folder of ``publish.url`` for the catalog
CATALOG = "catalog"


def poster_path(path: str) -> str:
    """Where the poster of the video at ``path`` lies: beside it, as ``.jpg``."""
    return str(PurePosixPath(path).with_suffix(".jpg"))


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


@dataclass
class Published:
    """What is published at a target: records by path, and what was visible, as of one moment."""

    #: record of each published video by its path
    records: dict[str, Record] = field(default_factory=dict)
    #: every visible file by path (size, ETag); the catalog and the workspace left out
    visible: dict[str, Stat] = field(default_factory=dict)
    #: how many record bodies the index did not have; 0 when nothing changed since it was written
    num_read: int = 0
    #: whether :meth:`save` would write anything new
    unsaved: bool = True
    #: folder of the records in the workspace
    folder: str = ""
    #: sum over both listings, see :func:`digest_of_listings`
    listed: int = 0

    @classmethod
    def load(cls, target: Store, workspace: Store) -> Published:
        """One index read and two listings, side by side; then only the bodies that the index does not know."""
        with ThreadPoolExecutor(3, thread_name_prefix="wanflow-published") as pool:
            index = pool.submit(_read_index, target, workspace)
            listed = pool.submit(lambda: list(workspace.list(_folder(target, workspace))))
            seen = pool.submit(
                lambda: {stat.path: stat for stat in target.list(skip=_inside(target, workspace) or CATALOG)}
            )
            known, stats, visible = index.result(), listed.result(), seen.result()
        bodies: list[tuple[str, str | bytes]] = []
        unknown: list[Stat] = []
        for stat in stats:
            noted = known.get(stat.path)
            if noted is not None and noted[0] == stat.etag:
                bodies.append((stat.etag, noted[1]))
            else:
                unknown.append(stat)
        bodies += [
            body
            for body in in_parallel(lambda stat: _body(workspace, stat.path), unknown)
            if body is not None
        ]
        records = {}
        for etag, body in bodies:
            record = parse_record(body, etag)
            if record is not None and record.files:
                records[record.files[0].path] = record
        visible = {path: stat for path, stat in visible.items() if not path.startswith(f"{CATALOG}/")}
        return cls(
            records,
            visible,
            len(unknown),
            unsaved=bool(unknown) or len(known) != len(stats),
            folder=_folder(target, workspace),
            listed=sum(map(_record_weight, stats)) + sum(map(_weight, visible.values())),
        )

    @property
    def digest(self) -> str | None:
        """:func:`digest_of_listings`, were it asked for now; None when the snapshot was not made from listings."""
        return _as_digest(self.listed) if self.folder else None

    def key_of(self, path: str) -> str | None:
        """The key that is published at ``path``, if the visible files are those of its record, else None."""
        record = self.records.get(path)
        return record.key if record is not None and self._live(record) else None

    def reason(self, path: str) -> str:
        """Why :meth:`key_of` is what it is, in words for the plan."""
        record = self.records.get(path)
        if record is None:
            return "file without a record" if path in self.visible else "never published"
        for file in record.files:
            stat = self.visible.get(file.path)
            what = "file" if file.path == path else "poster"
            if stat is None:
                return f"{what} is missing"
            if not _same(stat, file):
                return f"{what} was changed by someone else"
        return "published"

    def live(self) -> Iterator[tuple[str, Record]]:
        """Every (path, record) whose visible files match."""
        return ((path, record) for path, record in self.records.items() if self._live(record))

    def add(self, record: Record) -> None:
        """Take in what :func:`publish` has just returned."""
        path = record.files[0].path
        former = self.records.get(path)
        for each, sign in ((former, -1), (record, 1)):
            if each is not None:
                self.listed += sign * _record_weight(Stat(f"{self.folder}/{_name(path)}", 0, each.etag))
        self.records[path] = record
        self.unsaved = True
        for file in record.files:
            self._show(file.path, Stat(file.path, file.size_bytes, file.etag))

    def drop(self, record: Record) -> None:
        """Take in what :func:`unpublish` has just done."""
        path = record.files[0].path
        if (former := self.records.pop(path, None)) is not None:
            self.listed -= _record_weight(Stat(f"{self.folder}/{_name(path)}", 0, former.etag))
        self.unsaved = True
        for file in record.files:
            if _same(self.visible.get(file.path), file):
                self._show(file.path, None)

    def _show(self, path: str, stat: Stat | None) -> None:
        if (former := self.visible.pop(path, None)) is not None:
            self.listed -= _weight(former)
        if stat is not None:
            self.visible[path] = stat
            self.listed += _weight(stat)

    def save(self, target: Store, workspace: Store) -> None:
        """Write the index if it would change, so that the next load reads no record that it knows."""
        if not self.unsaved:
            return
        import pyarrow as pa

        folder = _folder(target, workspace)
        records = [(path, record) for path, record in self.records.items() if record.etag]
        table = pa.table(
            {
                "record": pa.array([f"{folder}/{_name(path)}" for path, _ in records], pa.string()),
                "etag": pa.array([record.etag for _, record in records], pa.string()),
                "body": pa.array([dump_record(record).decode() for _, record in records], pa.string()),
            }
        )
        workspace.write(_index_path(target, workspace), dump_table(table))
        self.unsaved = False

    def _live(self, record: Record) -> bool:
        return all(_same(self.visible.get(file.path), file) for file in record.files)


def digest_of_listings(target: Store, workspace: Store) -> str:
    """What the listings of records and of visible files say, as a short text; equal listings have equal ones.

    The sum of a 128-bit hash an entry, because no order is promised and entries come and go.
    """
    with ThreadPoolExecutor(2, thread_name_prefix="wanflow-published") as pool:
        records = pool.submit(lambda: sum(map(_record_weight, workspace.list(_folder(target, workspace)))))
        files = pool.submit(
            lambda: sum(
                _weight(stat)
                for stat in target.list(skip=_inside(target, workspace) or CATALOG)
                if not stat.path.startswith(f"{CATALOG}/")
            )
        )
        return _as_digest(records.result() + files.result())


def _weight(stat: Stat) -> int:
    text = f"{stat.path}\0{stat.size_bytes}\0{stat.etag}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def _record_weight(stat: Stat) -> int:
    """A record's ETag says all; its size is not always at hand."""
    return _weight(Stat(stat.path, 0, stat.etag))


def _as_digest(total: int) -> str:
    return f"{total % 2**128:032x}"


def _read_index(target: Store, workspace: Store) -> dict[str, tuple[str, str]]:
    import pyarrow as pa

    try:
        table = load_table(workspace.read(_index_path(target, workspace)))
        columns = (table.column(name).to_pylist() for name in ("record", "etag", "body"))
        return {record: (etag, body) for record, etag, body in zip(*columns, strict=True)}
    except (
        FileNotFoundError,
        pa.ArrowException,
        KeyError,
    ):  # a cache: absent or damaged, all records are read
        return {}


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
