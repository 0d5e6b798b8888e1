"""What the scheduler knows: clips, variants, replicas. Plain values; ``scheduler.py`` alone changes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from wanflow.model import Attempt, Cause


class ClipStatus(StrEnum):
    PENDING = "pending"
    STAGED = "staged"
    RUNNING = "running"
    PROBING = "probing"
    DONE = "done"
    FAILED = "failed"


class VariantStatus(StrEnum):
    WAITING = "waiting"
    READY = "ready"
    ASSEMBLING = "assembling"
    PUBLISHED = "published"
    FAILED = "failed"
    LEFT = "left"


class ReplicaStatus(StrEnum):
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"


@dataclass(slots=True)
class ClipState:
    key: str
    weights: str
    #: expected work, any unit, the same for all clips
    work: float
    #: sort key among waiting clips, smallest first: (-priority, -work, position in the plan)
    order: tuple[float, float, int]
    status: ClipStatus = ClipStatus.PENDING
    #: set while running or probing
    attempt: Attempt | None = None
    #: set while staged or running
    replica: str | None = None
    failures: tuple[Cause, ...] = ()
    message: str = ""
    num_attempts: int = 0
    not_before_s: float = 0.0
    #: when the current attempt began
    since_s: float = 0.0
    #: it was rendered in this run, not held from an earlier one
    done_here: bool = False
    #: stage name -> seconds over all attempts
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class VariantState:
    #: the assemble task's key
    key: str
    #: masters that it still waits for
    missing: set[str]
    #: sort key among ready variants, smallest first
    order: tuple[float, int]
    status: VariantStatus = VariantStatus.WAITING
    attempt: Attempt | None = None
    failures: tuple[Cause, ...] = ()
    message: str = ""
    num_attempts: int = 0
    not_before_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class ReplicaState:
    replica: str
    weights: str
    status: ReplicaStatus = ReplicaStatus.STARTING
    #: the clip that it renders
    running: str | None = None
    #: the clip that comes next, its inputs already ordered
    staged: str | None = None
