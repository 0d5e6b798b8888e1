"""What stores say about many input files at once, without reading them: a text a file that changes when the file does.

Folders from which many files are asked for are listed, single files are looked up side by side. A file whose store says
neither ETag nor time of change has no validator: nobody can know that it is unchanged.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wanflow.errors import StoreError
from wanflow.storage.inputs import filesystem, is_web
from wanflow.storage.paths import is_local, local_path
from wanflow.storage.retry import call
from wanflow.storage.web import Gate, facts

#: a folder is listed when so many of its files are asked for
LIST_FILES = 256
#: single look-ups at once
PARALLEL = 16
#: a local file younger than this may change again without a trace in its times
SETTLED_NS = 2_000_000_000


class Validators:
    """Asks the stores; a folder is listed at most once in its lifetime. Thread-safe for different files."""

    def __init__(self) -> None:
        self._listed: dict[str, Mapping[str, str]] = {}

    def of(self, urls: Iterable[str], gate: Gate | None = None) -> dict[str, str]:
        """URL -> validator, of those that have one. An outage counts as not knowing.

        Web servers are asked only with a ``gate``.
        """
        folders: dict[str, list[str]] = defaultdict(list)
        for url in urls:
            folders[url.rpartition("/")[0]].append(url)
        found: dict[str, str] = {}
        single: list[str] = []
        for folder, names in folders.items():
            if folder not in self._listed and len(names) >= LIST_FILES and _can_list(folder):
                self._listed[folder] = _list(folder)
            if (listed := self._listed.get(folder)) is None:
                single += names
                continue
            found.update({url: listed[url] for url in names if url in listed})
        if len(single) < 2:
            looked = [_look(url, gate) for url in single]
        else:
            with ThreadPoolExecutor(PARALLEL, thread_name_prefix="validators") as pool:
                looked = list(pool.map(lambda url: _look(url, gate), single))
        found.update({url: text for url, text in zip(single, looked, strict=True) if text})
        return found


def _can_list(folder: str) -> bool:
    return not is_web(folder)


def _list(folder: str) -> dict[str, str]:
    try:
        if is_local(folder):
            return dict(_scan(folder))
        fs, path = filesystem(folder)
        facts = call(lambda: fs.find(path, maxdepth=1, detail=True), "list images")
        named = ((f"{folder}/{name.rpartition('/')[2]}", _validator(info)) for name, info in facts.items())
        return {url: text for url, text in named if text}
    except (OSError, StoreError, ValueError):
        return {}


def _scan(folder: str) -> Iterator[tuple[str, str]]:
    now_ns = time.time_ns()
    with os.scandir(os.path.expanduser(local_path(folder))) as entries:
        for entry in entries:
            if entry.is_file() and (text := _local(entry.stat(), now_ns)):
                yield f"{folder}/{entry.name}", text


def _look(url: str, gate: Gate | None) -> str:
    try:
        if is_web(url):
            return _validator(facts(url, gate)) if gate else ""
        if is_local(url):
            return _local(os.stat(os.path.expanduser(local_path(url))), time.time_ns())
        fs, path = filesystem(url)
        return _validator(fs.info(path))
    except Exception:  # noqa: BLE001 - whatever a client raises: reading the file says what is wrong
        return ""


def _local(stat: os.stat_result, now_ns: int) -> str:
    """The time of the last change of the inode counts too: unlike the file's own, nobody can set it back."""
    if now_ns - max(stat.st_mtime_ns, stat.st_ctime_ns) < SETTLED_NS:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _validator(facts: Mapping[str, Any]) -> str:
    """Size and ETag, or size and time, as file systems of fsspec name them."""
    for name in (
        "ETag",
        "etag",
        "LastModified",
        "Last-Modified",
        "last_modified",
        "updated",
        "mtime",
        "created",
    ):
        if facts.get(name):
            return f"{facts.get('size')} {facts[name]}"
    return ""
