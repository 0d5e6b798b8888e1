"""The only door to the object store: create-only, compare-and-replace, listing, retries.

A :class:`Store` is one prefix of a store: a directory, ``memory://``, ``s3://``, ``gs://`` or ``abfs://``. All of
them behave alike: a file appears whole or not at all; ``create`` has one winner; ``replace`` refuses to overwrite what
its caller has not seen. Where a store cannot do the last, it is check, then write (``conditional_writes`` tells).
Nothing is cached. Errors are :class:`StoreError` with the URL, the HTTP status and what to do, without credentials;
within :func:`wait_out` a store that is away is waited for first.

Inputs (manifests, images, checkpoints) are read by URL: ``read_url``, ``read_range``, ``open_url``, ``list_url``,
``size_of``, ``fetch_url``, ``fetch_files``. This package does not know what the files mean.
"""

from __future__ import annotations

import builtins
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from wanflow.errors import Conflict, StoreError
from wanflow.storage.fetch import fetch_files, fetch_url, size_of
from wanflow.storage.inputs import filesystem, is_web, list_url, open_url, read_range, read_url
from wanflow.storage.outage import at_once, outlast, wait_out
from wanflow.storage.paths import TEMPORARY, check_path, check_publish_path, is_local, join, redact, scheme_of
from wanflow.storage.retry import call
from wanflow.storage.stat import ABSENT, Stat, Unfinished

__all__ = [
    "Conflict",
    "Stat",
    "Store",
    "StoreError",
    "Unfinished",
    "at_once",
    "check_path",
    "check_publish_path",
    "fetch_files",
    "fetch_url",
    "filesystem",
    "is_local",
    "is_web",
    "join",
    "list_url",
    "open_url",
    "read_range",
    "read_url",
    "redact",
    "size_of",
    "wait_out",
]

T = TypeVar("T")

_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".mp4": "video/mp4",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".webm": "video/webm",
    ".yaml": "application/yaml",
}


class Files(Protocol):
    """What each kind of store does; errors are its client's own."""

    url: str
    #: how often a request that met passing trouble is tried; 1 where the client repeats by itself
    tries: int

    def get(self, path: str, max_bytes: int | None) -> tuple[bytes, Stat]: ...

    def put(
        self,
        path: str,
        data: bytes | Path,
        condition: str | None,
        content_type: str | None,
        cache_control: str | None,
    ) -> Stat: ...

    def stat(self, path: str) -> Stat | None: ...

    def list(self, prefix: str, skip: str) -> Iterator[Stat]: ...

    def folders(self, prefix: str) -> builtins.list[str]: ...

    def delete(self, path: str) -> None: ...

    def fetch(self, path: str, local: Path) -> None: ...

    def conditional_writes(self) -> bool: ...

    def unfinished(self) -> builtins.list[Unfinished]: ...

    def discard(self, write: Unfinished) -> None: ...


def _open(url: str) -> Files:
    scheme = scheme_of(url)
    if scheme in {"file", "local"}:
        from wanflow.storage.local import LocalFiles

        return LocalFiles(url)
    if scheme == "memory":
        from wanflow.storage.memory import MemoryFiles

        return MemoryFiles(url)
    if scheme in {"s3", "s3a"}:
        from wanflow.storage.s3 import S3Files

        return S3Files(url)
    if scheme in {"gs", "gcs", "abfs", "abfss", "az"}:
        from wanflow.storage.cloud import CloudFiles

        return CloudFiles(url)
    raise StoreError(
        f"{redact(url)}: no store for {scheme}://; use a directory, memory://, s3://, gs:// or abfs://"
    )


class Store:
    """One prefix of an object store; thread-safe; pickles as its URL."""

    def __init__(self, url: str) -> None:
        self._files = _open(str(url))
        #: normal form: absolute path for directories, no slash at the end
        self.url = self._files.url

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.url,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __repr__(self) -> str:
        return f"Store({redact(self.url)!r})"

    def child(self, path: str) -> Store:
        """The store whose prefix is ``path`` below this one's."""
        check_path(path)
        return Store(join(self.url, path))

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """The whole file; FileNotFoundError when it is absent, StoreError when it is larger than ``max_bytes``."""
        return self.get(path, max_bytes)[0]

    def get(self, path: str, max_bytes: int | None = None) -> tuple[bytes, Stat]:
        """:meth:`read`, with the size and ETag that belong to exactly these bytes."""
        return self._do("read", path, lambda: self._files.get(path, max_bytes), absent=True)

    def write(
        self,
        path: str,
        data: bytes | Path,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
    ) -> Stat:
        """Write bytes or a local file, over whatever is there."""
        return self._put(path, data, None, content_type, cache_control)

    def create(
        self,
        path: str,
        data: bytes | Path,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
    ) -> Stat:
        """Write only if the path is absent, else :class:`Conflict`.

        After a lost acknowledgement the conflict may be with this very call: read the file to know.
        """
        if (data.stat().st_size if isinstance(data, Path) else len(data)) == 0:
            raise ValueError(f"{path}: an empty file cannot be created exclusively on every store")
        return self._put(path, data, ABSENT, content_type, cache_control)

    def replace(
        self,
        path: str,
        data: bytes | Path,
        *,
        if_match: str | None,
        content_type: str | None = None,
        cache_control: str | None = None,
    ) -> Stat:
        """Write only if the path still has the ETag ``if_match`` (None: is absent), else :class:`Conflict`."""
        if if_match is None:
            return self.create(path, data, content_type=content_type, cache_control=cache_control)
        return self._put(path, data, if_match, content_type, cache_control)

    def stat(self, path: str) -> Stat | None:
        """Size and ETag, or None when absent."""
        return self._do("look up", path, lambda: self._files.stat(path))

    def list(self, prefix: str = "", *, skip: str = "") -> Iterator[Stat]:
        """Every file whose path begins with the folder ``prefix``, in no promised order; not those below ``skip``."""
        if prefix:
            check_path(prefix.rstrip("/"))
            prefix = prefix.rstrip("/") + "/"
        skip = skip.rstrip("/") + "/" if skip else ""
        pages = self._files.list(prefix, skip)
        doing = f"list {redact(join(self.url, prefix))}"
        try:
            # Pages are retried where they are asked for: a generator that raised is at its end, and asking it for
            # more would make a short listing of a broken one.
            yield from pages
        except Exception as exc:  # noqa: BLE001 - told apart by call()
            failed = exc
        else:
            return

        def fail() -> None:
            raise failed

        call(fail, doing, tries=1)

    def folders(self, path: str = "") -> builtins.list[str]:
        """Names of the folders directly below the folder ``path``, sorted; empty when there are none."""
        if path:
            check_path(path)
        prefix = f"{path}/" if path else ""
        return sorted(call(lambda: self._files.folders(prefix), f"list {redact(join(self.url, prefix))}"))

    def delete(self, path: str) -> None:
        """Delete; an absent file is fine."""
        self._do("delete", path, lambda: self._files.delete(path))

    def fetch(self, path: str, local: Path) -> None:
        """Download to ``local``, which appears whole; FileNotFoundError when the file is absent."""
        part = local.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")

        def load() -> None:
            self._files.fetch(path, part)
            part.replace(local)

        try:
            doing = f"fetch {redact(join(self.url, path))} to {local}"
            check_path(path)
            outlast(lambda: call(load, doing, absent=True, tries=self._files.tries))
        finally:
            part.unlink(missing_ok=True)

    def conditional_writes(self) -> bool:
        """Whether the store itself refuses a second create and a stale replace; tried once, remembered."""
        return call(self._files.conditional_writes, f"try conditional writes in {redact(self.url)}")

    def unfinished(self) -> builtins.list[Unfinished]:
        """Writes that have not ended, of processes that died or are still at work."""
        return call(
            self._files.unfinished, f"list unfinished writes in {redact(self.url)}", tries=self._files.tries
        )

    def discard(self, write: Unfinished) -> None:
        """Forget an unfinished write; one that has ended meanwhile is fine."""
        doing = f"discard the unfinished write of {redact(join(self.url, write.path))}"
        call(lambda: self._files.discard(write), doing, tries=self._files.tries)

    def _put(
        self,
        path: str,
        data: bytes | Path,
        condition: str | None,
        content_type: str | None,
        cache_control: str | None,
    ) -> Stat:
        kind = content_type or _CONTENT_TYPES.get(Path(path).suffix.lower())
        return self._do(
            "write", path, lambda: self._files.put(path, data, condition, kind, cache_control), room=True
        )

    def _do(
        self, verb: str, path: str, action: Callable[[], T], *, absent: bool = False, room: bool = False
    ) -> T:
        check_path(path)
        doing = f"{verb} {redact(join(self.url, path))}"
        return outlast(lambda: call(action, doing, absent=absent, room=room, tries=self._files.tries))
