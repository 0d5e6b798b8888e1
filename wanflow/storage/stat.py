"""What a store says about one file, and the condition of a write."""

from __future__ import annotations

from dataclasses import dataclass

#: condition of a write: the path must not exist (None: no condition; else the ETag that it must still have)
ABSENT = ""


@dataclass(frozen=True, slots=True)
class Stat:
    """One file of a store: ``path`` relative to it, and an ETag that changes with every write of the path."""

    path: str
    size_bytes: int
    etag: str
