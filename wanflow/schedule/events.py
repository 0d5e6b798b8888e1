"""Facts that reach the scheduler. Past tense; time rides on each one, so that the core needs no clock.

An event whose attempt is not the current one of its task changes nothing: it is late news, and only logged.
"""

from __future__ import annotations

from dataclasses import dataclass

from wanflow.model import Attempt, Cause, Loading, Record


@dataclass(frozen=True, slots=True)
class RunStarted:
    time_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed and nothing else happened: back-offs and the deadline are looked at."""

    time_s: float


@dataclass(frozen=True, slots=True)
class ReplicaPlaced:
    """There is a machine for the replica: its process runs, and begins to load. Until then it may wait for hours.

    A pool that loads while it is asked for events never says so: who waits for it cannot end it either.
    """

    time_s: float
    replica: str
    #: its machine's name, for people
    node: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaReady:
    """Weights are loaded; the replica takes clips."""

    time_s: float
    replica: str
    #: None: there was nothing to load
    loading: Loading | None = None


@dataclass(frozen=True, slots=True)
class ReplicaLost:
    """The process is gone, or never came up. ``permanent``: another start would fail in the same way."""

    time_s: float
    replica: str
    message: str
    permanent: bool = False
    #: REPLICA_LOST (its process died), NODE_LOST or PREEMPTED
    cause: Cause = Cause.REPLICA_LOST


@dataclass(frozen=True, slots=True)
class DrainNoticed:
    """The replica's machine is to be taken back: ``grace_s`` seconds are left from now."""

    time_s: float
    replica: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class StepDone:
    """Progress: step ``step`` of ``num_steps`` of a clip's stage."""

    time_s: float
    replica: str
    key: str
    attempt: Attempt
    stage: str
    step: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class StepsKept:
    """Steps of an unfinished clip are in the store: whoever renders it next goes on from ``step`` of ``stage``.

    Comes from time to time while a clip renders. ``is_last``: it answers ``Save``, and the attempt ended with it.
    ``attempt`` is that which kept them: of this clip, or of another one, which took them ahead of this one's turn in
    ``seconds`` of its own.
    """

    time_s: float
    replica: str
    key: str
    attempt: Attempt
    stage: str
    step: int
    is_last: bool = False
    seconds: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ClipDenoised:
    """The attempt needs its replica's forwards no more: it ends beside the next clip, whose render may be ordered.

    A pool whose replicas end one clip before they begin the next never says so.
    """

    time_s: float
    replica: str
    key: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class ClipRendered:
    """Every stage of the clip has its record in the store. ``seconds`` is (stage, seconds) of this attempt."""

    time_s: float
    replica: str
    key: str
    attempt: Attempt
    seconds: tuple[tuple[str, float], ...] = ()
    #: resident memory of the replica's process after it; None: not measured
    memory_bytes: int | None = None
    #: from the replica's first moment to its first step; only with its first clip
    first_step_s: float | None = None


@dataclass(frozen=True, slots=True)
class RenderFailed:
    time_s: float
    replica: str
    key: str
    attempt: Attempt
    cause: Cause
    message: str
    seconds: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ClipFound:
    """Answer to a probe: the record is there, although the replica that wrote it is lost."""

    time_s: float
    key: str


@dataclass(frozen=True, slots=True)
class ClipMissing:
    """Answer to a probe: no record."""

    time_s: float
    key: str


@dataclass(frozen=True, slots=True)
class VariantPublished:
    """Its files are visible and recorded."""

    time_s: float
    key: str
    attempt: Attempt
    seconds: tuple[tuple[str, float], ...] = ()
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class AssembleFailed:
    time_s: float
    key: str
    attempt: Attempt
    cause: Cause
    message: str
    #: masters that were to be held and are not in the store: they are rendered again
    missing: tuple[str, ...] = ()
    #: of files that were published before the failure
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A person, a signal or the deadline ends the run early."""

    time_s: float
    message: str


Event = (
    RunStarted
    | Tick
    | ReplicaPlaced
    | ReplicaReady
    | ReplicaLost
    | DrainNoticed
    | StepDone
    | StepsKept
    | ClipDenoised
    | ClipRendered
    | RenderFailed
    | ClipFound
    | ClipMissing
    | VariantPublished
    | AssembleFailed
    | StopRequested
)
