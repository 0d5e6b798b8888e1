"""Everything that wanflow raises on purpose, and the exit code that each one ends a command with.

::

    WanflowError                 1  the run itself broke; a retry may help
    +-- UsageError               2  a flag or argument is wrong
    +-- JobError                 4  the job file is invalid
    +-- ManifestError            4  the manifest cannot be read, or rows are bad (``bad_rows`` lists them all)
    +-- InputError               4  one input (image, video, font) is missing, broken or too large
    +-- EngineError              4  the checkpoint cannot be read or cannot do what the job asks
    +-- StoreError               1  the object store (or the hub of models) cannot be read or written
    |   +-- Conflict             1  a conditional write lost: somebody else wrote first
    |   +-- StoreAway            1  it does not answer now, or its disk is full; a later try may succeed
    +-- RenderError              1  a clip's attempt failed; ``cause`` says how
    |   +-- Cancelled            1  it was told to stop
    +-- AssembleError            1  ffmpeg failed; ``stderr`` has its words
    +-- Stopped                  5  held or stopped with work left
    +-- Refused                  5  the plan goes further than the job's limits; ``--accept PLAN`` lets it go on

Each message says what is wrong, where (row, key, path, replica) and what to do next. All of them survive pickling,
because Ray carries them between processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wanflow.model import Cause


class WanflowError(Exception):
    """Base of all; catch this to catch everything that wanflow raises on purpose."""

    exit_code = 1


class UsageError(WanflowError):
    exit_code = 2


class JobError(WanflowError):
    exit_code = 4


@dataclass(frozen=True, slots=True)
class BadRow:
    """One reason why a row cannot be rendered. A matrix repeats a row, and with it most reasons: those are equal."""

    #: 1-based, as the manifest counts
    row: int
    variant_id: str
    reason: str
    #: number of the variant that is not made: all reasons of one are one failure
    variant: int = field(default=0, compare=False)

    def __str__(self) -> str:
        name = f" ({self.variant_id})" if self.variant_id else ""
        return f"row {self.row}{name}: {self.reason}"


class ManifestError(WanflowError):
    exit_code = 4

    def __init__(self, message: str, bad_rows: tuple[BadRow, ...] = ()) -> None:
        super().__init__(message, bad_rows)
        self.message = message
        self.bad_rows = bad_rows

    def __str__(self) -> str:
        return "\n  ".join([self.message, *map(str, self.bad_rows)])


class InputError(WanflowError):
    exit_code = 4


class EngineError(WanflowError):
    exit_code = 4


class StoreError(WanflowError):
    pass


class Conflict(StoreError):
    pass


class StoreAway(StoreError):
    pass


class RenderError(WanflowError):
    def __init__(self, message: str, cause: Cause = Cause.ITEM_ERROR) -> None:
        super().__init__(message, cause)
        self.message = message
        self.cause = cause

    def __str__(self) -> str:
        return self.message


class Cancelled(RenderError):
    def __init__(self, message: str = "cancelled") -> None:
        super().__init__(message, Cause.CANCELLED)

    def __reduce__(self) -> tuple[type[Cancelled], tuple[str]]:
        return type(self), (self.message,)


class AssembleError(WanflowError):
    def __init__(self, message: str, stderr: str = "") -> None:
        super().__init__(message, stderr)
        self.message = message
        self.stderr = stderr

    def __str__(self) -> str:
        return f"{self.message}\n{self.stderr}".rstrip()


class Stopped(WanflowError):
    exit_code = 5


class Refused(WanflowError):
    exit_code = 5
