"""A checkpoint at a URL: list, read a range, copy files. The one place where engines meet remote storage."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from wanflow.errors import EngineError


class RemoteFiles:
    """A folder behind any URL that ``storage`` opens. Weights are read by range, not whole."""

    def __init__(self, url: str) -> None:
        from wanflow.storage import redact

        self._root = url.rstrip("/")
        #: without credentials: what messages say
        self.url = redact(self._root)

    @cached_property
    def _sizes(self) -> Mapping[str, int]:
        from wanflow.storage import filesystem
        from wanflow.storage.outage import outlast
        from wanflow.storage.retry import call

        fs, root = filesystem(self._root)
        found = outlast(lambda: call(lambda: fs.find(root, detail=True), f"list {self.url}"))
        if not found:
            raise EngineError(f"checkpoint {self.url}: nothing is there, or it may not be listed")
        start = root.strip("/") + "/"
        return {path.strip("/").removeprefix(start): int(facts["size"]) for path, facts in found.items()}

    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        from wanflow.storage import join, read_range

        size = self._sizes.get(path)
        if size is None:
            raise FileNotFoundError(f"{self.url} has no {path}")
        end = size if length is None else min(size, start + length)
        return read_range(join(self._root, path), start, end)

    def fetch(self, sizes: Mapping[str, int], folder: Path) -> None:
        """Copy these files (path to size in bytes) into ``folder``, under their paths."""
        from wanflow.storage import fetch_files, join

        for path in {(folder / path).parent for path in sizes}:
            path.mkdir(parents=True, exist_ok=True)
        fetch_files((join(self._root, path), folder / path, size) for path, size in sizes.items())
