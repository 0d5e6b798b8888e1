"""Everything that the checks look at, read once: the workspace's listing and records, what is visible, the catalogs.

The whole listing is held in memory, about half a kilobyte a file. A listing may lag behind what was written and
deleted: where it contradicts a record, the file itself is asked for. Runs are read by ``history``, one after the other.
Publish targets that the caller does not name are found in the results of the workspace's runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from wanflow.errors import UsageError
from wanflow.storage import Stat, Store, Unfinished, redact
from wanflow.verify.history import History, read_history
from wanflow.verify.index import indexed_records
from wanflow.verify.reader import (
    CLIP_RECORD,
    PUBLISH_RECORD,
    NamedFile,
    RecordRead,
    Unreadable,
    hash_of,
    read_record,
    read_table,
    side_by_side,
)

if TYPE_CHECKING:
    import pyarrow as pa

CATALOG = "catalog/files.parquet"


@dataclass
class Target:
    """One place to publish to, and this workspace's records of it."""

    store: Store
    workspace: Store
    #: of ``published/`` in the workspace, where its records lie
    folder: str
    #: every file below it, catalog and workspaces left out
    visible: dict[str, Stat]
    #: path of the record in the workspace -> what it says
    records: dict[str, RecordRead | Unreadable]
    catalog: pa.Table | Unreadable | None
    unfinished: list[Unfinished]
    #: path -> SHA-256 of what is visible; empty unless it was asked for
    hashes: dict[str, str] = field(default_factory=dict)
    _asked: dict[str, Stat | None] = field(default_factory=dict)
    _asked_records: dict[str, RecordRead | None] = field(default_factory=dict)

    @cached_property
    def by_path(self) -> dict[str, RecordRead]:
        """Publish records by the path of each file that they name."""
        good = (record for record in self.records.values() if isinstance(record, RecordRead))
        return {file.path: record for record in good for file in record.files}

    def file(self, path: str, size_bytes: int, etag: str) -> Stat | None:
        """What is visible at ``path``: as it was listed, or as it is now where that is not of this size and ETag."""
        stat = self.visible.get(path)
        if stat is None or (stat.size_bytes, stat.etag) != (size_bytes, etag):
            return self._now(path)
        return stat

    def is_as_named(self, named: NamedFile) -> bool:
        """Whether the file is visible as its record names it."""
        stat = self.file(named.path, named.size_bytes, named.etag)
        return stat is not None and (stat.size_bytes, stat.etag) == (named.size_bytes, named.etag)

    def record_of(self, path: str) -> RecordRead | None:
        """The publish record that names the file at ``path``; one that was not listed is asked for."""
        if path in self.by_path or path in self._asked_records:
            return self.by_path.get(path) or self._asked_records[path]
        found = None
        for video in (path, str(PurePosixPath(path).with_suffix(".mp4"))):
            name = hashlib.sha256(video.encode()).hexdigest()
            record = read_record(self.workspace, f"published/{self.folder}/{name[:2]}/{name}.json")
            if isinstance(record, RecordRead) and any(file.path == path for file in record.files):
                found = record
        self._asked_records[path] = found
        return found

    def _now(self, path: str) -> Stat | None:
        if path not in self._asked:
            self._asked[path] = self.store.stat(path)
        return self._asked[path]


@dataclass
class Evidence:
    workspace: Store
    #: every file of the workspace by path
    files: dict[str, Stat]
    #: path of each clip record -> what it says
    clips: dict[str, RecordRead | Unreadable]
    targets: list[Target]
    #: folders of ``published/`` whose publish.url nobody knows
    unknown_targets: list[str]
    history: History
    unfinished: list[Unfinished]
    #: paths of publish records that an index repeats wrongly; looked for with ``deep``
    misindexed: list[str] = field(default_factory=list)
    #: path in the workspace -> SHA-256, of clips' files and inputs; empty unless it was asked for
    hashes: dict[str, str] = field(default_factory=dict)

    def file(self, path: str, size_bytes: int | None = None) -> Stat | None:
        """A file of the workspace: as it was listed, or as it is now where that is not of this size."""
        stat = self.files.get(path)
        if stat is None or size_bytes not in (None, stat.size_bytes):
            return self.workspace.stat(path)
        return stat

    @cached_property
    def keys(self) -> dict[str, RecordRead]:
        """Clip records that can be read, by the key that their path says."""
        found = {}
        for path, record in self.clips.items():
            if isinstance(record, RecordRead) and (match := CLIP_RECORD.match(path)):
                found[match[2]] = record
        return found


def gather(workspace: Store, target_urls: Iterable[str] = (), deep: bool = False) -> Evidence:
    """Read it all. ``deep``: every payload, input and visible file too, to hash it."""
    files = {stat.path: stat for stat in workspace.list()}
    if not files:
        raise UsageError(
            f"{redact(workspace.url)}: nothing is there; give a job that has run, or the workspace's URL"
        )
    history = read_history(workspace, files)
    folders = {match[1] for path in files if (match := PUBLISH_RECORD.match(path))}
    indexed = {
        path: told for each in sorted(folders) for path, told in indexed_records(workspace, each, files)
    }
    records = _read_records(workspace, [path for path in files if deep or path not in indexed])
    wrong = [path for path, told in indexed.items() if path in records and records[path] != told]
    records = {**indexed, **records}
    places = {
        _folder(workspace, Store(url)): Store(url) for url in sorted({*target_urls, *history.target_urls})
    }
    nested = [store.url + "/" for store in places.values()] + [workspace.url + "/"]
    evidence = Evidence(
        workspace,
        files,
        {path: record for path, record in records.items() if path.startswith("clips/")},
        [_target(workspace, store, folder, records, nested) for folder, store in places.items()],
        sorted(folders - set(places)),
        history,
        list(workspace.unfinished()),
        wrong,
    )
    if deep:
        _hash_all(evidence)
    return evidence


def _read_records(workspace: Store, paths: list[str]) -> dict[str, RecordRead | Unreadable]:
    named = [path for path in paths if CLIP_RECORD.match(path) or PUBLISH_RECORD.match(path)]
    read = side_by_side(lambda path: read_record(workspace, path), named)
    return {path: record for path, record in zip(named, read, strict=True) if record is not None}


def _folder(workspace: Store, target: Store) -> str:
    """The folder of ``published/`` that this target's records lie in."""
    inside = workspace.url.startswith(target.url + "/")
    return "own" if inside else hashlib.sha256(target.url.encode()).hexdigest()[:16]


def _target(
    workspace: Store,
    store: Store,
    folder: str,
    records: dict[str, RecordRead | Unreadable],
    nested: list[str],
) -> Target:
    """``nested``: URLs, some of them below this target, whose files are looked at in their own right."""
    below = [
        url[len(store.url) + 1 :]
        for url in nested
        if url.startswith(store.url + "/") and url != store.url + "/"
    ]
    visible = {
        stat.path: stat
        for stat in store.list()
        if not stat.path.startswith(("catalog/", ".wanflow/", *below))
    }
    mine = {path: record for path, record in records.items() if path.startswith(f"published/{folder}/")}
    unfinished = [each for each in store.unfinished() if not each.path.startswith((".wanflow/", *below))]
    return Target(store, workspace, folder, visible, mine, read_table(store, CATALOG), unfinished)


def _hash_all(evidence: Evidence) -> None:
    listed = [
        path
        for path in evidence.files
        if path.startswith(("clips/", "inputs/")) and path not in evidence.clips
    ]
    sums = side_by_side(lambda path: hash_of(evidence.workspace, path), listed)
    evidence.hashes = dict(zip(listed, sums, strict=True))
    for target in evidence.targets:
        paths = list(target.visible)
        sums = side_by_side(lambda path, store=target.store: hash_of(store, path), paths)  # type: ignore[misc]
        target.hashes = dict(zip(paths, sums, strict=True))
