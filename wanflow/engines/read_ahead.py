"""Weights on their way from the disk into the page cache, ahead of the loader that maps them.

A loader touches a mapping page after page, and waits for the disk whenever it is ahead of the kernel's small
read-ahead. Threads that read the same files, large pieces at once, keep the disk busy; what is in the page cache
already (another replica of the node has loaded it, or it was fetched just now) is not read again. Without it loading is
slower, and gives the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PIECE_BYTES = 8 * 2**20
PIECES_AT_ONCE = 4
#: of the memory that is free: more would push out what the loader has not come to yet
MEMORY_SHARE = 0.5


@contextmanager
def reading_ahead(paths: Sequence[Path]) -> Iterator[None]:
    """Read ``paths`` in the background, in this order, while the body runs."""
    pieces = _pieces(paths, _room_bytes())
    lock, is_over = threading.Lock(), threading.Event()

    def read() -> None:
        buffer = bytearray(PIECE_BYTES)
        with suppress(OSError):  # the loader meets the same trouble, and says so
            while not is_over.is_set():
                with lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                path, start, length = piece
                file = os.open(path, os.O_RDONLY)
                try:
                    if not is_cached(file, start, length):
                        os.preadv(file, [memoryview(buffer)[:length]], start)
                finally:
                    os.close(file)

    threads = [threading.Thread(target=read, name="read-ahead", daemon=True) for _ in range(PIECES_AT_ONCE)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def is_cached(file: int, start: int, length: int) -> bool:
    """Whether both ends of a piece of an open file are in the page cache; False where the system does not say."""
    try:
        for offset in (start, start + length - 1):
            os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT)
    except (OSError, AttributeError):  # not there without waiting, or not asked so of this file system
        return False
    return True


def _pieces(paths: Sequence[Path], room_bytes: int) -> Iterator[tuple[Path, int, int]]:
    for path in paths:
        size = path.stat().st_size
        for start in range(0, size, PIECE_BYTES):
            length = min(PIECE_BYTES, size - start)
            room_bytes -= length
            if room_bytes < 0:
                return
            yield path, start, length


def _room_bytes() -> int:
    return int(MEMORY_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
