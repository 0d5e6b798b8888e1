"""Records: the small JSON files that say which keys are done, and with which files.

Generation is not deterministic across attempts, so attempts never share a payload path: only the record is contended,
and only one wins. A record whose payload is gone (expired, deleted) or that cannot be read counts as absent and is
replaced by the next attempt. Failures that would repeat are remembered beside them until the key changes or a retry is
asked for. Knows the workspace's layout; not what the files mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from sys import intern
from typing import TypeVar

from wanflow.errors import Conflict, StoreError
from wanflow.model import Attempt, Cause, Record, Scalar, StoredFile
from wanflow.storage import Store

#: below this many keys each record is asked for; above, one listing is cheaper
PROBE_KEYS = 64
#: requests under way at once
PARALLEL = 24
#: a record is a kilobyte or two
MAX_RECORD_BYTES = 1_000_000

#: facts of a record that many records share
_SHARED = frozenset({"run_id", "output", "reason", "stage", "device", "job"})

A = TypeVar("A")
B = TypeVar("B")


def clip_record(store: Store, key: str) -> Record | None:
    """The record of ``key`` if it and every file that it names are there, else None."""
    record = _load(store, _record_path(key))
    if record is None or record.key != key or not all(_holds(store, file) for file in record.files):
        return None
    return record


def held_clips(store: Store, keys: Collection[str]) -> dict[str, Record]:
    """The records of those ``keys`` that are done. A few are asked for one by one, many found by one listing."""
    if len(keys) <= PROBE_KEYS:
        found = in_parallel(lambda key: clip_record(store, key), keys)
    else:
        sizes = {stat.path: stat.size_bytes for stat in store.list("clips")}
        listed = [key for key in keys if _record_path(key) in sizes]
        found = [
            record
            if record and all(sizes.get(file.path) == file.size_bytes for file in record.files)
            else None
            for record in in_parallel(lambda key: _load(store, _record_path(key)), listed)
        ]
    return {record.key: record for record in found if record is not None}


def put_clip(
    store: Store, key: str, attempt: Attempt, files: Mapping[str, bytes | Path], info: Mapping[str, Scalar]
) -> tuple[Record, bool]:
    """Upload an attempt's files, then contend for the record of ``key``.

    Returns the record that holds and whether it is this attempt's. Several attempts may run at once: one wins, the
    others get the winner's record. The losers' files stay behind under their own paths (``gc`` finds them).
    """
    if not files:
        raise ValueError(f"clip {key}: a record needs at least one file")
    stored = tuple(
        upload(store, f"clips/{key[:2]}/{key}/{attempt}/{name}", data) for name, data in files.items()
    )
    record = Record(key=key, files=stored, attempt=str(attempt), info=tuple(info.items()))
    path = _record_path(key)
    lost: StoreError | None = None
    for _ in range(4):
        try:
            stat = store.create(path, dump_record(record))
            return replace(record, etag=stat.etag), True
        except StoreError as exc:  # a conflict, or an acknowledgement that never came: the store knows which
            lost = exc
        held = clip_record(store, key)
        if held is not None:
            return held, held.attempt == record.attempt
        stat_now = store.stat(path)
        if stat_now is None:
            if not isinstance(lost, Conflict):
                raise lost
            continue
        try:  # a record that is damaged, or whose files are gone: mine takes its place
            stat = store.replace(path, dump_record(record), if_match=stat_now.etag)
            return replace(record, etag=stat.etag), True
        except Conflict as exc:
            lost = exc
    raise StoreError(f"clip {key}: its record kept changing; run again") from lost


def forget_clip(store: Store, key: str) -> None:
    """Delete the record of ``key``: the next run makes it again. Its files stay, for ``gc`` to find."""
    store.delete(_record_path(key))


def file_of(record: Record, name: str) -> StoredFile:
    """The file that was put as ``name``; KeyError when the record has none."""
    for file in record.files:
        if file.path.rpartition("/")[2] == name:
            return file
    raise KeyError(f"record {record.key} has no file {name!r}, only {[file.path for file in record.files]}")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a key failed in a way that would repeat."""

    key: str
    cause: Cause
    reason: str
    attempt: str = ""

    def __str__(self) -> str:
        return self.reason


def remember_failure(store: Store, key: str, cause: Cause, reason: str, attempt: Attempt | str = "") -> None:
    """Note that ``key`` would fail again; the last word counts."""
    body = {"key": key, "cause": cause.value, "reason": reason, "attempt": str(attempt)}
    store.write(f"failures/{key}.json", json.dumps(body, ensure_ascii=False).encode())


def failure(store: Store, key: str) -> Failure | None:
    """The remembered failure of ``key``, or None."""
    try:
        body = json.loads(store.read(f"failures/{key}.json", MAX_RECORD_BYTES))
        return Failure(key, Cause(body["cause"]), str(body["reason"]), str(body["attempt"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def failures(store: Store, keys: Collection[str] | None = None) -> dict[str, Failure]:
    """The remembered failures (of ``keys`` only, where given) by key: one listing, then a small read each."""
    listed = [stat.path.removeprefix("failures/").removesuffix(".json") for stat in store.list("failures")]
    asked = listed if keys is None else sorted(set(listed) & set(keys))
    return {
        found.key: found for found in in_parallel(lambda key: failure(store, key), asked) if found is not None
    }


def forget_failures(store: Store) -> int:
    """Forget them all, so that the next run tries again; returns how many there were."""
    paths = [stat.path for stat in store.list("failures")]
    in_parallel(store.delete, paths)
    return len(paths)


def dump_record(record: Record) -> bytes:
    """A record as JSON, the same bytes for the same record."""
    body = {
        "key": record.key,
        "attempt": record.attempt,
        "files": [
            {"path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes, "etag": file.etag}
            for file in record.files
        ],
        "info": dict(record.info),
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def parse_record(data: bytes | str, etag: str = "") -> Record | None:
    """The record in ``data``, or None when it is damaged."""
    try:
        body = json.loads(data)
        files = tuple(
            StoredFile(str(file["path"]), str(file["sha256"]), int(file["size_bytes"]), str(file["etag"]))
            for file in body["files"]
        )
        # a million records share their fields' names, and most of them run, output and attempt
        info = tuple(
            [
                (intern(name), intern(value) if name in _SHARED and isinstance(value, str) else value)
                for name, value in body["info"].items()
            ]
        )
        return Record(str(body["key"]), files, intern(str(body["attempt"])), info, etag)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def upload(store: Store, path: str, data: bytes | Path) -> StoredFile:
    """Write a payload under a path that is the attempt's own; an earlier try of the same attempt is overwritten."""
    stat = store.write(path, data)
    return StoredFile(path, digest(data), stat.size_bytes, stat.etag)


def digest(data: bytes | Path) -> str:
    """SHA-256, hex."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_parallel(action: Callable[[A], B], items: Iterable[A], at_once: int = PARALLEL) -> list[B]:
    """``action`` of every item, in order, up to ``at_once`` side by side, in the caller's context (``wait_out``).

    The first error is raised.
    """
    todo = list(items)
    if len(todo) < 2:
        return [action(item) for item in todo]
    with ThreadPoolExecutor(min(at_once, len(todo)), thread_name_prefix="wanflow-store") as pool:
        contexts = [copy_context() for _ in todo]
        return list(pool.map(lambda context, item: context.run(action, item), contexts, todo))


def _record_path(key: str) -> str:
    return f"clips/{key[:2]}/{key}.json"


def _load(store: Store, path: str) -> Record | None:
    try:
        data, stat = store.get(path, MAX_RECORD_BYTES)
    except FileNotFoundError:
        return None
    return parse_record(data, stat.etag)


def _holds(store: Store, file: StoredFile) -> bool:
    stat = store.stat(file.path)
    return stat is not None and stat.size_bytes == file.size_bytes
