"""A store of millions of files that are not there: listings come from a formula, only what is written is kept, on disk.

``pretend()`` makes ``pretended://...`` a kind of store for this process. It stands for what a store answers, not for
how long it takes: a real one adds its latency, a request for every thousand files of a listing. What is asked of it is
counted, and the time that it takes to make up its listings is told, so that nobody takes it for the caller's.
"""

from __future__ import annotations

import builtins
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

import wanflow.storage
from wanflow.errors import Conflict
from wanflow.storage.stat import ABSENT, Stat, Unfinished

#: URL -> path of each file that was written -> where it is kept: what a store holds is not memory of its client
_kept: dict[str, dict[str, Path]] = {}
_folder = tempfile.TemporaryDirectory(prefix="wanflow-pretended-")
#: URL -> (prefix of a listing -> its files)
formulas: dict[str, dict[str, Callable[[], Iterator[Stat]]]] = {}
#: URL -> the body of a file that a listing makes up, None where there is none
bodies: dict[str, Callable[[str], tuple[bytes, str] | None]] = {}
#: kind of request -> how many there were; a page of a listing is one
requests: Counter[str] = Counter()
#: seconds of processor time that making up listings has taken
_spent_s: list[float] = []
#: files on a page of a listing
PAGE = 1000


def spent_s() -> float:
    """Seconds of processor time that the pretence itself has taken until now."""
    return sum(_spent_s)


class PretendedFiles:
    tries = 1

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._kept = _kept.setdefault(self.url, {})

    def get(self, path: str, max_bytes: int | None) -> tuple[bytes, Stat]:
        requests["get"] += 1
        stat = self._stat(path)
        if stat is None and (made_up := bodies.get(self.url, _nothing)(path)):
            return made_up[0], Stat(path, len(made_up[0]), made_up[1])
        if stat is None:
            raise FileNotFoundError(path)
        return self._kept[path].read_bytes(), stat

    def put(
        self,
        path: str,
        data: bytes | Path,
        condition: str | None,
        content_type: str | None,
        cache_control: str | None,
    ) -> Stat:
        requests["put"] += 1
        held = self._stat(path)
        if condition is not None and condition != (held.etag if held else ABSENT):
            raise Conflict(path)
        held_at = Path(_folder.name, hashlib.sha256(f"{self.url} {path}".encode()).hexdigest())
        held_at.write_bytes(data if isinstance(data, bytes) else data.read_bytes())
        self._kept[path] = held_at
        return _stat(path, held_at)

    def stat(self, path: str) -> Stat | None:
        requests["stat"] += 1
        return self._stat(path)

    def _stat(self, path: str) -> Stat | None:
        held_at = self._kept.get(path)
        return None if held_at is None else _stat(path, held_at)

    def list(self, prefix: str, skip: str) -> Iterator[Stat]:
        stats = chain(self._made_up(prefix, skip), self._written(prefix, skip))
        while True:
            began_s = time.thread_time()
            page = builtins.list(islice(stats, PAGE))
            _spent_s.append(time.thread_time() - began_s)
            requests["list"] += 1
            yield from page
            if len(page) < PAGE:
                return

    def _made_up(self, prefix: str, skip: str) -> Iterator[Stat]:
        for start, listing in formulas.get(self.url, {}).items():
            if start.startswith(prefix) and not (skip and start.startswith(skip)):
                yield from listing()

    def _written(self, prefix: str, skip: str) -> Iterator[Stat]:
        for path in builtins.list(self._kept):
            if path.startswith(prefix) and not (skip and path.startswith(skip)):
                stat = self._stat(path)
                assert stat is not None
                yield stat

    def folders(self, prefix: str) -> builtins.list[str]:
        requests["list"] += 1
        paths = [*self._kept, *formulas.get(self.url, ())]
        rests = [path[len(prefix) :] for path in paths if path.startswith(prefix)]
        return builtins.list({rest.split("/")[0]: None for rest in rests if "/" in rest})

    def delete(self, path: str) -> None:
        requests["delete"] += 1
        self._kept.pop(path, None)

    def fetch(self, path: str, local: Path) -> None:
        local.write_bytes(self.get(path, None)[0])

    def conditional_writes(self) -> bool:
        return True

    def unfinished(self) -> builtins.list[Unfinished]:
        requests["list"] += 1
        return []

    def discard(self, write: Unfinished) -> None:
        return


def _nothing(path: str) -> None:
    return None


def _stat(path: str, held_at: Path) -> Stat:
    with held_at.open("rb") as file:
        return Stat(path, held_at.stat().st_size, hashlib.file_digest(file, "md5").hexdigest())


def pretend() -> None:
    """Let ``Store`` open ``pretended://`` URLs."""
    real = wanflow.storage._open

    def open_any(url: str) -> wanflow.storage.Files:
        return PretendedFiles(url) if url.startswith("pretended://") else real(url)

    wanflow.storage._open = open_any
