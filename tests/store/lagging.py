"""A store whose listings lag behind what is written and deleted: in front of a real one, of whatever kind.

Reads, looks at single files and conditions are the real store's own. Listings show everything as it was when
:meth:`Lag.begin` was called, until :meth:`Lag.catch_up`: what was written since is missing, what was replaced has its
former size and ETag, what was deleted is still there.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wanflow.storage
from wanflow.storage.stat import Stat


class Lag:
    """How far listings of all stores are behind."""

    def __init__(self) -> None:
        self._lags = False
        #: URL of each file that has changed since -> what listings still show; None: nothing
        self.shown: dict[str, Stat | None] = {}

    def begin(self) -> None:
        self._lags = True

    def catch_up(self) -> None:
        self._lags = False
        self.shown.clear()

    def note(self, files: Any, path: str) -> None:
        """The file is about to change."""
        url = f"{files.url}/{path}"
        if self._lags and url not in self.shown:
            self.shown[url] = files.stat(path)


class LaggingFiles:
    def __init__(self, files: Any, lag: Lag) -> None:
        self._files, self._lag = files, lag
        self.url, self.tries = files.url, files.tries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def put(self, path: str, data: bytes | Path, *more: Any) -> Stat:
        self._lag.note(self._files, path)
        stat: Stat = self._files.put(path, data, *more)
        return stat

    def delete(self, path: str) -> None:
        self._lag.note(self._files, path)
        self._files.delete(path)

    def list(self, prefix: str, skip: str) -> Iterator[Stat]:
        top = f"{self.url}/"
        changed = {url.removeprefix(top): was for url, was in self._lag.shown.items() if url.startswith(top)}
        for stat in self._files.list(prefix, skip):
            if stat.path not in changed:
                yield stat
        for path, was in changed.items():
            if was is not None and path.startswith(prefix) and not (skip and path.startswith(skip)):
                yield Stat(path, was.size_bytes, was.etag)

    def folders(self, prefix: str) -> builtins.list[str]:
        rests = (stat.path.removeprefix(prefix) for stat in self.list(prefix, ""))
        return builtins.list(dict.fromkeys(rest.split("/")[0] for rest in rests if "/" in rest))


def lagging(monkeypatch: pytest.MonkeyPatch) -> Lag:
    """From now on every ``Store`` is one of these, for the length of the test."""
    lag, real = Lag(), wanflow.storage._open
    monkeypatch.setattr(wanflow.storage, "_open", lambda url: LaggingFiles(real(url), lag))
    return lag
