"""Reads a store as ``docs/store.md`` says: paths taken apart, records parsed, tables loaded.

A second implementation on purpose. It uses :class:`wanflow.storage.Store` for plain reading and nothing of the code
that writes records, ledgers or catalogs, so that a mistake of theirs is found here instead of agreed with. What cannot
be read is a value (:class:`Unreadable`), not an exception: the checks say what it means.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wanflow.storage import Store

if TYPE_CHECKING:
    import pyarrow as pa

#: requests under way at once
READERS = 24
#: larger than any record that was written in good order
MAX_JSON_BYTES = 4_000_000

CLIP_RECORD = re.compile(r"^clips/([0-9a-f]{2})/([0-9a-f]{64})\.json$")
CLIP_FILE = re.compile(r"^clips/([0-9a-f]{2})/([0-9a-f]{64})/(\d+\.\d+)/[^/]+$")
STEP = re.compile(r"^steps/([^/]+)/.+$")
INPUT = re.compile(r"^inputs/([0-9a-f]{64})$")
FAILURE = re.compile(r"^failures/([0-9a-f]{64})\.json$")
PUBLISH_RECORD = re.compile(r"^published/(own|[0-9a-f]{16})/([0-9a-f]{2})/([0-9a-f]{64})\.json$")
EPOCH = re.compile(r"^epochs/(\d+)$")
LEASE = re.compile(r"^(lease|leases/[0-9a-f]{16})$")
EVENTS = re.compile(r"^runs/([^/]+)/events/(\d+)\.parquet$")
#: at these places lies what no check looks into
OTHERS = re.compile(
    r"^((runs/[^/]+|quiet|forced|gc|\.wanflow)/.+"
    r"|published-(own|[0-9a-f]{16})\.parquet|timings\.json|inputs-memo\.parquet)$"
)
#: files that are still being written
TEMPORARY = re.compile(r"(^|/)\.tmp-\d+-[0-9a-f]{16}$")
ATTEMPT = re.compile(r"^(\d+)\.(\d+)$")
SHA256 = re.compile(r"^[0-9a-f]{64}$")
RUN = re.compile(r"^\d{8}T\d{6}\.\d+Z-(?:(.*)-)?[0-9a-f]{6}$")

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What was there instead of what should be."""

    reason: str


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file as a record names it."""

    path: str
    sha256: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class RecordRead:
    """A record of a clip's stage or of a published video."""

    key: str
    attempt: tuple[int, int]
    files: tuple[NamedFile, ...]
    info: dict[str, Any]


def parse_attempt(text: object) -> tuple[int, int] | None:
    """``12.3`` as (12, 3)."""
    found = ATTEMPT.match(text) if isinstance(text, str) else None
    return None if found is None else (int(found[1]), int(found[2]))


def parse_record(data: bytes) -> RecordRead | Unreadable:
    """A record of bytes; what is wrong with it otherwise."""
    body = parse_json(data)
    return body if isinstance(body, Unreadable) else check_record(body)


def check_record(body: dict[str, Any]) -> RecordRead | Unreadable:
    """Every field of the contract, of its type; the first that is not so is the reason."""
    if not isinstance(body.get("key"), str) or not body["key"]:
        return Unreadable("it has no key")
    attempt = parse_attempt(body.get("attempt"))
    if attempt is None:
        return Unreadable(f"its attempt {body.get('attempt')!r} is not EPOCH.NUMBER")
    if not isinstance(body.get("info"), dict):
        return Unreadable("it has no info")
    named = body.get("files")
    if not isinstance(named, list) or not named:
        return Unreadable("it names no file")
    files = []
    for number, file in enumerate(named):
        if not isinstance(file, dict):
            return Unreadable(f"file {number} is not an object")
        path, sha256, size, etag = (file.get(name) for name in ("path", "sha256", "size_bytes", "etag"))
        if not isinstance(path, str) or not path or path.startswith("/") or ".." in path.split("/"):
            return Unreadable(f"file {number} has no good path: {path!r}")
        if not isinstance(sha256, str) or not SHA256.match(sha256):
            return Unreadable(f"{path} has no SHA-256: {sha256!r}")
        if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
            return Unreadable(f"{path} has no size: {size!r}")
        if not isinstance(etag, str) or not etag:
            return Unreadable(f"{path} has no ETag")
        files.append(NamedFile(path, sha256, size, etag))
    return RecordRead(body["key"], attempt, tuple(files), body["info"])


def parse_json(data: bytes) -> dict[str, Any] | Unreadable:
    """A JSON object."""
    if not data:
        return Unreadable("it is empty")
    try:
        body = json.loads(data)
    except ValueError as error:
        return Unreadable(f"it is not JSON ({error})")
    return body if isinstance(body, dict) else Unreadable("it is not a JSON object")


def read_json(store: Store, path: str) -> dict[str, Any] | Unreadable | None:
    """The object at ``path``; None when there is no file."""
    try:
        return parse_json(store.read(path, MAX_JSON_BYTES))
    except FileNotFoundError:
        return None


def read_record(store: Store, path: str) -> RecordRead | Unreadable | None:
    """The record at ``path``; None when it has gone since it was listed."""
    try:
        return parse_record(store.read(path, MAX_JSON_BYTES))
    except FileNotFoundError:
        return None


def read_table(store: Store, path: str) -> pa.Table | Unreadable | None:
    """The Parquet file at ``path``; None when there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = store.read(path)
    except FileNotFoundError:
        return None
    try:
        return pq.read_table(
            pa.BufferReader(data), use_threads=False, pre_buffer=False
        )  # see wanflow.parquet
    except (pa.ArrowException, OSError) as error:
        return Unreadable(f"it is not a Parquet file ({str(error)[:120]})")


def hash_of(store: Store, path: str) -> str:
    """SHA-256 of the bytes that the store gives now, through a file, whatever their size; empty when it is absent."""
    with tempfile.TemporaryDirectory(prefix="wanflow-verify-") as folder:
        local = Path(folder, "file")
        try:
            store.fetch(path, local)
        except FileNotFoundError:
            return ""
        with open(local, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def side_by_side(action: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """``action`` of every item in order, :data:`READERS` at once."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="wanflow-verify") as threads:
        return list(threads.map(action, items))
