"""Copies of files behind URLs on this machine's disk. Each appears whole, and its bytes are on the disk when it does.

Files of object stores come in pieces, several at once, whose tries are counted one by one; no more than
:data:`PIECES_AT_ONCE` pieces are in memory, whatever the files' sizes. Local files and answers of web servers, which
need not know ranges, come in one stream.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from pathlib import Path

from wanflow.storage.inputs import filesystem, is_web, open_input, read_range
from wanflow.storage.outage import at_once
from wanflow.storage.paths import TEMPORARY, is_local, redact
from wanflow.storage.retry import call

#: of one request; longer ones gain little and lose more when they fail
PIECE_BYTES = 16 * 2**20
PIECES_AT_ONCE = 8
_BLOCK_BYTES = 4 * 2**20


def size_of(url: str) -> int | None:
    """Bytes of the file behind ``url``; None where only reading it tells. FileNotFoundError when there is none."""
    if is_web(url):
        return None
    fs, path = filesystem(url)
    found = call(lambda: fs.info(path), f"look up {redact(url)}", absent=True).get("size")
    return None if found is None else int(found)


def fetch_url(url: str, local: Path) -> None:
    """Copy what a row names by ``url`` to ``local``. FileNotFoundError when there is none, else StoreError."""
    size_bytes = None if is_local(url) else size_of(url)
    if size_bytes is not None:
        with at_once():
            fetch_files([(url, local, size_bytes)])
        return
    part = _part_of(local)

    def load() -> None:
        with open_input(url) as file, open(part, "wb") as copy:
            shutil.copyfileobj(file, copy, _BLOCK_BYTES)
            copy.flush()
            os.fdatasync(copy.fileno())
        part.replace(local)

    try:
        call(load, f"fetch {redact(url)} to {local}", absent=True)
    finally:
        part.unlink(missing_ok=True)


def fetch_files(files: Iterable[tuple[str, Path, int]]) -> None:
    """Copy (URL, local path, size in bytes) of an object store; their folders are there. Raises as :func:`fetch_url`.

    Within ``wait_out`` each piece waits for a store that is away. Files that were whole before another one failed stay.
    """
    copies = [_Copy(*file) for file in files]
    threads = ThreadPoolExecutor(PIECES_AT_ONCE, thread_name_prefix="wanflow-fetch")
    try:
        # with the caller's patience
        pieces = [
            threads.submit(copy_context().run, copy.fetch, start) for copy in copies for start in copy.starts
        ]
        for piece in wait(pieces, return_when=FIRST_EXCEPTION).done:
            piece.result()
    finally:
        threads.shutdown(cancel_futures=True)
        for copy in copies:
            copy.part.unlink(missing_ok=True)


class _Copy:
    """One file on its way."""

    def __init__(self, url: str, local: Path, size_bytes: int) -> None:
        self.part = _part_of(local)
        #: where its pieces begin; an empty file has one, too
        self.starts = range(0, max(size_bytes, 1), PIECE_BYTES)
        self._url, self._local, self._size_bytes = url, local, size_bytes
        self._num_left = len(self.starts)
        self._lock = threading.Lock()

    def fetch(self, start: int) -> None:
        data = read_range(self._url, start, min(start + PIECE_BYTES, self._size_bytes))
        call(lambda: self._write(start, data), f"write {self._local}")

    def _write(self, start: int, data: bytes) -> None:
        file = os.open(self.part, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(file, view, start)
                view, start = view[written:], start + written
            with self._lock:
                self._num_left -= 1
                is_last = self._num_left == 0
            if is_last:
                # else a power cut could leave a file of the right name and size with holes in it
                os.fdatasync(file)
                self.part.replace(self._local)
        finally:
            os.close(file)


def _part_of(local: Path) -> Path:
    return local.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
