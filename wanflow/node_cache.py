"""What a node keeps of remote files (checkpoints, LoRAs, videos): one copy, however many replicas use it.

::

    $WANFLOW_CACHE/<kind>/<name>          a file or a directory, whole or absent (default: ~/.cache/wanflow)
                          <stem>.lock     locked shared while it is made or used, exclusively while it is removed;
                                          its time is that of the last use
                          <stem>.turn.lock  locked by the one process that looks for it, and makes it if it must
                          .tmp-<stem>/    what is being made, or was when its process died

The locks are the kernel's, which frees those of a dead process. What was used longest ago, and is not used now, is
removed when all of it would take more than ``WANFLOW_CACHE_GIB`` (default: no limit), or would leave less than a tenth
of the disk free: Ray takes a disk that is 95 % full for a broken one. What a replica needs now is kept in any case.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wanflow.errors import StoreAway, StoreError
from wanflow.storage.paths import TEMPORARY

KINDS = ("checkpoints", "loras", "videos")
#: share of the disk that stays free as long as something can be removed
FREE_SHARE = 0.1
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory that nobody removes before :meth:`release`, or the end of this process."""

    path: Path
    #: what was fetched for it just now; 0 when it was here
    fetched_bytes: int = 0
    #: descriptor of the lock; None: it is no part of the cache
    _lock: int | None = None

    def release(self) -> None:
        """Once only."""
        if self._lock is not None:
            os.close(self._lock)


def root() -> Path:
    """The cache's folder on this node."""
    return Path(os.environ.get("WANFLOW_CACHE") or Path.home() / ".cache" / "wanflow")


def max_bytes() -> int | None:
    """``WANFLOW_CACHE_GIB`` in bytes, None without it; StoreError when it is no number."""
    text = os.environ.get("WANFLOW_CACHE_GIB")
    if not text:
        return None
    with suppress(ValueError):
        if math.isfinite(number := float(text)) and number > 0:
            return int(number * _GIB)
    raise StoreError(f"WANFLOW_CACHE_GIB is {text!r}: give a number of GiB above zero, or leave it out")


def keep(
    kind: str,
    name: str,
    size_bytes: Callable[[], int],
    make: Callable[[Path], None],
    is_whole: Callable[[Path], bool] = lambda path: True,
) -> Entry:
    """The entry ``name``; made first by ``make(path)`` when it is absent, or there and not ``is_whole``.

    One process makes it while the others wait. ``path`` may have whole files of an earlier ``make`` that met a store
    that was away, or was killed. ``size_bytes`` is asked only if it has to be made. StoreError when there is no room.
    """
    target = root() / kind / name
    lock, turn = _open(target, _lock_of(target)), None
    try:
        # Never from shared to exclusive: two that were here together would wait for each other, one for good.
        turn = _open(target, _lock_of(target).with_suffix(".turn.lock"))
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_SH)
        fetched_bytes = 0
        if not (target.exists() and is_whole(target)):
            fetched_bytes = _make(target, size_bytes(), make)
        os.utime(lock)
        return Entry(target, fetched_bytes, lock)
    except BaseException:
        os.close(lock)
        raise
    finally:
        if turn is not None:
            os.close(turn)


def _make(target: Path, size_bytes: int, make: Callable[[Path], None]) -> int:
    """Make ``target``; returns how many bytes were missing of it."""
    scratch = _scratch(target)
    unfinished = scratch / target.name
    if target.exists():
        _remove(target)
    scratch.mkdir(exist_ok=True)
    for path in scratch.iterdir():
        if path != unfinished:
            _delete(path)
    for part in unfinished.rglob(f"{TEMPORARY}*"):
        part.unlink()
    missing_bytes = max(1, size_bytes - _bytes_of(unfinished))
    try:
        _make_room(missing_bytes)
        make(unfinished)
        unfinished.rename(target)
    except StoreAway:
        raise
    except BaseException:
        _delete(scratch)
        raise
    _delete(scratch)
    return missing_bytes


def _make_room(missing_bytes: int) -> None:
    limit, entries = max_bytes(), _entries()
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        disk = shutil.disk_usage(root())
        if (limit is None or total + missing_bytes <= limit) and (
            disk.free - missing_bytes >= FREE_SHARE * disk.total
        ):
            return
        if _remove_unless_used(path):
            total -= size
    free = shutil.disk_usage(root()).free
    if free < missing_bytes:
        raise StoreError(
            f"no room in {root()}: {_gib(missing_bytes)} are needed, {_gib(free)} are free, and all that is kept there "
            "is in use; free space, or let WANFLOW_CACHE name a folder on a larger disk"
        )


def _entries() -> list[tuple[float, int, Path]]:
    """(time of the last use, bytes, path) of all that is here, leftovers of dead processes included."""
    found = []
    for kind in KINDS:
        with suppress(FileNotFoundError):
            for path in (root() / kind).iterdir():
                if path.suffix != ".lock":
                    lock = _lock_of(path)
                    found.append((lock.stat().st_mtime if lock.exists() else 0.0, _bytes_of(path), path))
    return found


def _remove_unless_used(path: Path) -> bool:
    lock = _open(path, _lock_of(path))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)


def _remove(path: Path) -> None:
    """At once for all who look; whoever has mapped its files keeps them."""
    scratch = _scratch(path)
    if path != scratch:
        scratch.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            path.rename(scratch / "removed")
    _delete(scratch)


def _open(path: Path, lock: Path) -> int:
    """A lock of the entry at ``path``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StoreError(
            f"remote files cannot be kept in {path.parent} ({error.strerror}): let WANFLOW_CACHE name a folder that "
            "can be written"
        ) from error


def _scratch(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name.removeprefix(TEMPORARY).partition('.')[0]}")


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name.removeprefix(TEMPORARY).partition('.')[0]}.lock")


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _bytes_of(path: Path) -> int:
    with suppress(FileNotFoundError):  # it may go at any moment
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return path.stat().st_size
    return 0


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f} GiB"
