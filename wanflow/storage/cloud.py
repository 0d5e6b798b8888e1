"""``gs://``, ``abfs://`` and any other fsspec store, through its own file system.

Create-only is the service's own (generation match, If-None-Match); replacing is check, then write. The clients retry
by themselves, so the house's rule does not repeat them. Tried on fsspec's memory file system, not on the services.
"""

from __future__ import annotations

import builtins
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wanflow.errors import Conflict, StoreError
from wanflow.storage.paths import scheme_of
from wanflow.storage.retry import call
from wanflow.storage.stat import ABSENT, Stat, Unfinished

_filesystems: dict[tuple[int, str, str], Any] = {}


class CloudFiles:
    tries = 1

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._scheme = scheme_of(url)

    def get(self, path: str, max_bytes: int | None) -> tuple[bytes, Stat]:
        for _ in range(3):
            before = self.stat(path)
            if before is None:
                raise FileNotFoundError(path)
            if max_bytes is not None and before.size_bytes > max_bytes:
                raise StoreError(
                    f"{self.url}/{path} has {before.size_bytes} bytes, more than the {max_bytes} allowed"
                )
            data = bytes(self._fs().cat_file(self._full(path)))
            if self.stat(path) == before:
                return data, before
        raise ConnectionResetError(f"{self.url}/{path} kept changing while it was read")

    def put(
        self,
        path: str,
        data: bytes | Path,
        condition: str | None,
        content_type: str | None,
        cache_control: str | None,
    ) -> Stat:
        fs, full = self._fs(), self._full(path)
        if condition not in (None, ABSENT):
            held = self.stat(path)
            if held is None or held.etag != condition:
                raise Conflict(f"{self.url}/{path} was changed by somebody else")
        mode = "create" if condition == ABSENT else "overwrite"
        more: dict[str, Any] = {}
        facts = {"content_type": content_type, "cache_control": cache_control}
        facts = {name: value for name, value in facts.items() if value}
        if self._scheme in {"gs", "gcs"}:
            more = {"content_type": content_type or "application/octet-stream"}
            if cache_control:
                more["fixed_key_metadata"] = {"cache_control": cache_control}
        elif facts and self._scheme in {"abfs", "abfss", "az"}:
            more = {"content_settings": facts}
        if isinstance(data, Path):
            fs.put_file(str(data), full, mode=mode, **more)
        else:
            fs.pipe_file(full, data, mode=mode, **more)
        fs.invalidate_cache()
        stat = self.stat(path)
        if stat is None:
            raise ConnectionResetError(f"{self.url}/{path} was written and is not there")
        return stat

    def stat(self, path: str) -> Stat | None:
        fs = self._fs()
        fs.invalidate_cache()
        try:
            info = fs.info(self._full(path))
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else Stat(path, int(info["size"]), _etag(info))

    def list(self, prefix: str, skip: str) -> Iterator[Stat]:
        fs = self._fs()
        fs.invalidate_cache()
        top = fs._strip_protocol(self.url).rstrip("/") + "/"
        found: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError):
            full = self._full(prefix.rstrip("/"))
            found = call(lambda: fs.find(full, detail=True), f"list {full}", absent=True)
        for name, info in found.items():
            path = name.removeprefix(top)
            if info["type"] == "file" and not (skip and path.startswith(skip)):
                yield Stat(path, int(info["size"]), _etag(info))

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs().rm_file(self._full(path))

    def fetch(self, path: str, local: Path) -> None:
        self._fs().get_file(self._full(path), str(local))

    def folders(self, prefix: str) -> builtins.list[str]:
        fs = self._fs()
        fs.invalidate_cache()
        try:
            found = fs.ls(self._full(prefix.rstrip("/")), detail=True)
        except FileNotFoundError:
            return []
        return [info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory"]

    def conditional_writes(self) -> bool:
        """Create-only is the store's own; a replace is check, then write."""
        return False

    def unfinished(self) -> builtins.list[Unfinished]:
        """None that can be named: the services drop unfinished uploads by themselves after some days."""
        return []

    def discard(self, write: Unfinished) -> None:
        return

    def _fs(self) -> Any:
        where = (os.getpid(), self._scheme, urlsplit(self.url).netloc)
        if where not in _filesystems:
            from fsspec.core import url_to_fs

            _filesystems[where], _ = url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
        return _filesystems[where]

    def _full(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url


def _etag(info: dict[str, Any]) -> str:
    for name in ("etag", "ETag", "e_tag", "generation", "md5Hash", "mtime", "created"):
        value = info.get(name)
        if value:
            return str(value).strip('"')
    return str(info["size"])
