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


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A write that did not end: a temporary file, or the parts of an upload. Nobody who lists the store sees it."""

    path: str
    size_bytes: int
    #: seconds since 1970 by the store's clock
    since_s: float
    #: what tells several of one path apart
    upload_id: str = ""
