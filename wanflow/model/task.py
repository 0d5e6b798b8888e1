"""What is to be done, who tried it, how it ended, and what is left of it in the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from wanflow.model.clip import Clip
from wanflow.model.engine import Scalar
from wanflow.model.video import Output, Variant


class Cause(StrEnum):
    """Why an attempt did not end well; the scheduler has one rule a cause."""

    REPLICA_LOST = "replica_lost"
    #: its machine went away: nothing that the clip did
    NODE_LOST = "node_lost"
    #: its machine was taken back, with notice or without: costs the clip nothing
    PREEMPTED = "preempted"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_OUTPUT = "bad_output"
    ITEM_ERROR = "item_error"
    BAD_INPUT = "bad_input"
    STORAGE = "storage"
    HUNG = "hung"
    CANCELLED = "cancelled"


class Status(StrEnum):
    """How a variant stands at the end of a run."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    HELD = "held"
    FAILED = "failed"
    LEFT = "left"


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """One try at a task. Epochs grow with every run start, so two runs never share an attempt."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store as it was when its record was written."""

    path: str
    sha256: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Record:
    """The small JSON that says: this key is done, here are its files."""

    key: str
    files: tuple[StoredFile, ...]
    attempt: str
    #: facts worth keeping with the result (seconds by stage, frames, device)
    info: tuple[tuple[str, Scalar], ...] = ()
    #: the record's own ETag, where the reader learnt it
    etag: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """One keyed step of a clip: ``trunk`` where it has a branch, ``base``, ``cascade-1`` ..., ``master``.

    Each result has a record of its own.
    """

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class RenderClip:
    """GPU task: make every stage of ``clip`` that has no record yet; the last one is the master."""

    clip: Clip
    stages: tuple[Stage, ...]

    @property
    def key(self) -> str:
        """The master's key: what assembly waits for."""
        return self.stages[-1].key


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to assemble and publish, with the keys of the masters it is made from, in scene order."""

    output: Output
    path: str
    key: str
    masters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AssembleVariant:
    """CPU task: assemble and publish ``files`` of ``variant``."""

    variant: Variant
    files: tuple[OutputFile, ...]

    @property
    def key(self) -> str:
        """Unique within a run: the path of its first file."""
        return self.files[0].path

    @property
    def masters(self) -> frozenset[str]:
        return frozenset(key for file in self.files for key in file.masters)


Task = RenderClip | AssembleVariant
