"""A checkpoint at a URL: list, read a range, copy a file. The one place where engines meet remote storage."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from wanflow.errors import EngineError


class RemoteFiles:
    """A folder behind an fsspec URL. Configuration files are read whole, weights by range."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @cached_property
    def _sizes(self) -> Mapping[str, int]:
        fs, root = _filesystem(self.url)
        found = fs.find(root, detail=True)
        if not found:
            raise EngineError(f"checkpoint {self.url}: nothing is there, or it may not be listed")
        return {path.removeprefix(root).lstrip("/"): int(facts["size"]) for path, facts in found.items()}

    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        fs, root = _filesystem(self.url)
        end = None if length is None else start + length
        return bytes(fs.cat_file(f"{root}/{path}", start=start, end=end))

    def fetch(self, path: str, local: Path) -> None:
        fs, root = _filesystem(self.url)
        fs.get_file(f"{root}/{path}", str(local))


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    fs, root = fsspec.core.url_to_fs(url)
    return fs, root.rstrip("/")
