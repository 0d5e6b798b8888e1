"""``memory://``: a store in this process, for the inline pool and tests.

It lives in fsspec's own memory file system, so that inputs read from ``memory://`` URLs see the same files.
"""

from __future__ import annotations

import builtins
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wanflow.errors import Conflict, StoreError
from wanflow.storage.retry import TRIES
from wanflow.storage.stat import ABSENT, Stat, Unfinished

_lock = threading.RLock()


class MemoryFiles:
    tries = TRIES

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") if not url.endswith("://") else url
        self._root = "/" + url.split("://", 1)[1].strip("/")

    def get(self, path: str, max_bytes: int | None) -> tuple[bytes, Stat]:
        with _lock:
            stat = self.stat(path)
            if stat is None:
                raise FileNotFoundError(path)
            if max_bytes is not None and stat.size_bytes > max_bytes:
                raise StoreError(
                    f"{self.url}/{path} has {stat.size_bytes} bytes, more than the {max_bytes} allowed"
                )
            return bytes(_files()[self._full(path)].getvalue()), stat

    def put(
        self,
        path: str,
        data: bytes | Path,
        condition: str | None,
        content_type: str | None,
        cache_control: str | None,
    ) -> Stat:
        from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

        content = data.read_bytes() if isinstance(data, Path) else bytes(data)
        with _lock:
            if condition is not None:
                held = self.stat(path)
                if condition != (held.etag if held else ABSENT):
                    raise Conflict(f"{self.url}/{path} was written by somebody else first")
            _files()[self._full(path)] = MemoryFile(MemoryFileSystem(), self._full(path), content)
            stat = self.stat(path)
        assert stat is not None
        return stat

    def stat(self, path: str) -> Stat | None:
        with _lock:
            file = _files().get(self._full(path))
            return None if file is None else Stat(path, file.getbuffer().nbytes, _etag(file))

    def list(self, prefix: str, skip: str) -> Iterator[Stat]:
        top = self._full("")
        with _lock:
            names = [name.removeprefix(top) for name in _files() if name.startswith(top + prefix)]
        for name in sorted(names):
            found = None if skip and name.startswith(skip) else self.stat(name)
            if found:
                yield found

    def delete(self, path: str) -> None:
        with _lock:
            _files().pop(self._full(path), None)

    def fetch(self, path: str, local: Path) -> None:
        local.write_bytes(self.get(path, None)[0])

    def folders(self, prefix: str) -> builtins.list[str]:
        rests = [stat.path[len(prefix) :] for stat in self.list(prefix, "")]
        return builtins.list({rest.split("/")[0]: None for rest in rests if "/" in rest})

    def conditional_writes(self) -> bool:
        return True

    def unfinished(self) -> builtins.list[Unfinished]:
        """None: a write is one step."""
        return []

    def discard(self, write: Unfinished) -> None:
        return

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"


def _files() -> dict[str, Any]:
    from fsspec.implementations.memory import MemoryFileSystem

    files: dict[str, Any] = MemoryFileSystem.store
    return files


def _etag(file: Any) -> str:
    """Of content and time of writing; kept on the file object, which every write replaces."""
    noted = getattr(file, "wanflow_etag", None)
    if noted is None:
        noted = (
            hashlib.md5(file.getbuffer(), usedforsecurity=False).hexdigest()[:16]
            + f"-{file.created.timestamp():.6f}"
        )
        file.wanflow_etag = noted
    return str(noted)
