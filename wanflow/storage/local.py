"""A store in a directory: files appear whole under their name or not at all.

A file is written beside its name as ``.tmp-…`` (never listed) and then linked (create-only) or renamed (replace).
Overwriting takes the folder's ``flock``, so check and write are one step also between processes; where the file system
has no locks (some network mounts) it is check, then write. Nothing is flushed to the platter: after a power cut a
record may be damaged, which its readers take as absent.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from wanflow.errors import Conflict, StoreError
from wanflow.storage.paths import TEMPORARY, local_path
from wanflow.storage.retry import TRIES
from wanflow.storage.stat import ABSENT, Stat, Unfinished

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class LocalFiles:
    tries = TRIES

    def __init__(self, url: str) -> None:
        self._root = os.path.abspath(os.path.expanduser(local_path(url)))
        self.url = self._root

    def get(self, path: str, max_bytes: int | None) -> tuple[bytes, Stat]:
        try:
            with open(self._full(path), "rb") as file:
                stat = _stat(path, os.fstat(file.fileno()))
                if max_bytes is not None and stat.size_bytes > max_bytes:
                    raise StoreError(
                        f"{self._full(path)} has {stat.size_bytes} bytes, more than the {max_bytes} allowed"
                    )
                return file.read(), stat
        except (IsADirectoryError, NotADirectoryError):
            raise FileNotFoundError(path) from None

    def put(
        self,
        path: str,
        data: bytes | Path,
        condition: str | None,
        content_type: str | None,
        cache_control: str | None,
    ) -> Stat:
        full = self._full(path)
        folder = os.path.dirname(full)
        try:
            os.makedirs(folder, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StoreError(
                f"cannot write {full}: a file stands where a folder is needed; move it away"
            ) from None
        temporary = os.path.join(folder, f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
        try:
            if isinstance(data, Path):
                shutil.copyfile(data, temporary)
            else:
                with open(temporary, "xb") as file:
                    file.write(data)
            now = time.time_ns()  # the kernel's own stamps are some ms apart; an ETag must differ each time
            os.utime(temporary, ns=(now, now))
            stat = _stat(path, os.stat(temporary))
            self._place(temporary, full, condition)
            return stat
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def stat(self, path: str) -> Stat | None:
        try:
            found = os.stat(self._full(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _stat(path, found) if os.path.isfile(self._full(path)) else None

    def list(self, prefix: str, skip: str) -> Iterator[Stat]:
        folders = [prefix.rstrip("/")]
        while folders:
            folder = folders.pop()
            try:
                entries = os.scandir(os.path.join(self._root, folder) if folder else self._root)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith(TEMPORARY):
                        continue
                    if entry.is_dir(follow_symlinks=True):
                        if not skip or path + "/" != skip:
                            folders.append(path)
                        continue
                    with contextlib.suppress(FileNotFoundError):  # deleted while we listed
                        yield _stat(path, entry.stat())

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self._full(path))

    def fetch(self, path: str, local: Path) -> None:
        try:
            shutil.copyfile(self._full(path), local)
        except (IsADirectoryError, NotADirectoryError):
            raise FileNotFoundError(path) from None

    def folders(self, prefix: str) -> builtins.list[str]:
        try:
            with os.scandir(os.path.join(self._root, prefix)) as entries:
                found = [entry.name for entry in entries if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        # a directory whose files are gone is no folder of a store
        return [name for name in found if any(True for _ in self.list(f"{prefix}{name}/", ""))]

    def conditional_writes(self) -> bool:
        return True

    def unfinished(self) -> builtins.list[Unfinished]:
        found = []
        for folder, _, names in os.walk(self._root):
            for name in names:
                if name.startswith(TEMPORARY):
                    with contextlib.suppress(FileNotFoundError):  # it has ended
                        stat = os.stat(os.path.join(folder, name))
                        path = os.path.relpath(os.path.join(folder, name), self._root)
                        found.append(Unfinished(path, stat.st_size, stat.st_mtime))
        return found

    def discard(self, write: Unfinished) -> None:
        if not os.path.basename(write.path).startswith(TEMPORARY):
            raise StoreError(f"{self._full(write.path)} is no temporary file; it was not discarded")
        self.delete(write.path)

    def _full(self, path: str) -> str:
        return os.path.join(self._root, path)

    def _place(self, temporary: str, full: str, condition: str | None) -> None:
        if condition == ABSENT:
            try:
                os.link(temporary, full)
                return
            except FileExistsError:
                raise Conflict(f"{full} exists already") from None
            except OSError as exc:
                if exc.errno not in _NO_LINKS:
                    raise
        if os.path.isdir(full):
            raise StoreError(f"cannot write {full}: a folder of this name exists; move it away")
        with _locked(os.path.dirname(full)):
            if condition is not None:
                try:
                    held = _stat("", os.stat(full)).etag
                except FileNotFoundError:
                    held = ABSENT
                if held != condition:
                    raise Conflict(f"{full} was changed by somebody else")
            os.replace(temporary, full)


def _stat(path: str, found: os.stat_result) -> Stat:
    return Stat(path, found.st_size, f"{found.st_mtime_ns:x}-{found.st_size:x}")


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: check, then write
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
