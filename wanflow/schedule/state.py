"""What the scheduler knows: planned renders, clips, copies, variants, replicas. Plain values; ``board.py`` moves them
from status to status, and nobody else does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from wanflow.model import AssembleVariant, Attempt, Cause, RenderClip
from wanflow.schedule.actions import Reason


@dataclass(frozen=True, slots=True)
class PlannedRender:
    """A clip that the run needs."""

    task: RenderClip
    #: higher first
    priority: int
    #: relative cost, the same unit for all clips
    work: float
    #: seconds on a usual replica, measured earlier; None: never measured
    expected_s: float | None = None
    #: what a replica prepares once for all clips of it: weights, LoRA, shape
    group: str = ""
    #: clips of one kind take the same time on the same hardware: weights, shape, steps
    kind: str = ""
    #: the master's record exists already
    held: bool = False
    #: ``work``, ``expected_s`` and ``kind`` have its trunk in them: it makes the one of its group
    makes_trunk: bool = False


#: what a variant is told whose clips the deadline leaves no time for
TOO_LATE = "there was not enough time to render it before the deadline"

#: (task, priority)
PlannedAssembly = tuple[AssembleVariant, int]


class ClipStatus(StrEnum):
    #: waits, perhaps for the end of a back-off
    PENDING = "pending"
    STAGED = "staged"
    RUNNING = "running"
    #: its replica was lost: the store is asked whether it is done
    PROBING = "probing"
    DONE = "done"
    FAILED = "failed"
    #: it is not started any more: too late for the deadline, or no variant needs it
    LEFT = "left"


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


@dataclass(slots=True, eq=False)
class Copy:
    """One attempt at a clip, on a replica now."""

    key: str
    attempt: Attempt
    replica: str
    started_s: float
    #: share of the clip that was kept when it started
    first_share: float
    thrift: int
    #: the replica rendered clips of another group before
    is_switch: bool
    #: last news of it
    stage: str = ""
    step: int = 0
    num_steps: int = 0
    heard_s: float = 0.0
    #: None: nothing to expect it from
    expected_end_s: float | None = None
    #: on the watch's own clock, and as the watch has it on file
    hang_due_s: float = 0.0
    hang_filed_s: float = 0.0
    #: it must have ended, or be saved, by then
    until_s: float | None = None
    why_until: Reason = Reason.STOPPING
    #: Cancel or Save was ordered
    ending: bool = False
    #: it needs the replica's forwards no more
    is_denoised: bool = False
    #: when the replica began another clip beside the end of this one
    passed_s: float | None = None
    #: what it spent on the steps of other clips, which those pay
    ahead_s: float = 0.0
    #: its clip was done, or given up, without it: whatever comes of it concerns the replica alone
    is_void: bool = False


@dataclass(slots=True)
class Lost:
    """A copy whose replica is gone; whether it wrote its record before is being asked."""

    replica: str
    cause: Cause
    message: str
    #: another clip was on the replica as well: either may have taken it down
    is_one_of_two: bool = False


@dataclass(slots=True, eq=False)
class ClipState:
    key: str
    weights: str
    priority: int
    #: expected work of the whole clip: seconds where some were measured for its weights, else any unit
    nominal: float
    position: int
    group: str
    kind: str
    #: steps of the base stage, and stages after it before the master
    num_steps: int
    num_cascade: int
    #: key of its trunk, which other clips share, and how many of ``num_steps`` that has; none: "" and 0
    trunk: str = ""
    num_trunk_steps: int = 0
    #: whether it is expected to make it
    makes_trunk: bool = False
    status: ClipStatus = ClipStatus.PENDING
    #: attempts that render now; more than one at the tail
    copies: dict[Attempt, Copy] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    #: answers of the store that are still to come
    num_probes: int = 0
    #: set while staged
    replica: str | None = None
    failures: tuple[Cause, ...] = ()
    message: str = ""
    last_attempt: Attempt | None = None
    num_attempts: int = 0
    num_second_copies: int = 0
    #: rungs down the memory ladder
    thrift: int = 0
    #: replicas that begin on this rung, or further down, were too small for it even on the last one
    too_large_from: int | None = None
    #: so were all that there are
    is_too_large: bool = False
    #: it may have taken a replica down, or the other clip there did: it shares no replica until that is known
    suspected: Cause | None = None
    #: the replica that it failed on last: the next try goes elsewhere
    failed_on: str | None = None
    not_before_s: float = 0.0
    #: share of the clip whose steps are in the store
    kept_share: float = 0.0
    kept: tuple[str, int] | None = None
    #: the last step that any copy reported
    reached: tuple[str, int] | None = None
    #: open variants that wait for it
    num_wanted: int = 0
    #: it was rendered in this run, not held from an earlier one
    done_here: bool = False
    #: when its record was heard of
    done_s: float = 0.0
    #: stage name -> seconds over all attempts
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.status not in (ClipStatus.DONE, ClipStatus.FAILED, ClipStatus.LEFT)

    @property
    def left_nominal(self) -> float:
        """Expected work of what is not kept."""
        return self.nominal * (1.0 - self.kept_share)

    def may_fit(self, rung: int) -> bool:
        """Whether a replica that begins on ``rung`` of the memory ladder may have room for it."""
        return self.too_large_from is None or rung < self.too_large_from


def clip_state(planned: PlannedRender, position: int, rates: Mapping[str, float]) -> ClipState:
    """A clip that waits. ``rates``: by weights, seconds for one of ``work``, for clips that were never measured."""
    clip = planned.task.clip
    nominal = planned.expected_s
    return ClipState(
        key=planned.task.key,
        weights=clip.weights,
        priority=planned.priority,
        nominal=planned.work * rates.get(clip.weights, 1.0) if nominal is None else nominal,
        position=position,
        group=planned.group or clip.weights,
        kind=planned.kind or clip.weights,
        num_steps=clip.num_steps,
        num_cascade=len(clip.cascade),
        trunk="" if clip.branch is None else planned.task.stages[0].key,
        num_trunk_steps=0 if clip.branch is None else clip.branch.steps,
        makes_trunk=planned.makes_trunk,
    )


@dataclass(slots=True, eq=False)
class VariantState:
    #: the assemble task's key
    key: str
    #: every master that it needs
    masters: tuple[str, ...]
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
    #: when its newest assembly was ordered
    since_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.status in (VariantStatus.WAITING, VariantStatus.READY, VariantStatus.ASSEMBLING)


@dataclass(slots=True, eq=False)
class ReplicaState:
    replica: str
    weights: str
    status: ReplicaStatus = ReplicaStatus.STARTING
    #: its machine's name, for people; "" until its process runs
    node: str = ""
    #: what it renders; of two clips, the one that began last
    copy: Copy | None = None
    #: the clip before, while it ends (decoded, encoded, stored) beside the steps of ``copy``
    finishing: Copy | None = None
    #: the clip that comes next, its inputs already ordered
    staged: str | None = None
    #: first steps of that one may be taken during ``copy``
    is_pair: bool = False
    #: the group of the clip that it rendered last
    group: str | None = None
    started_s: float = 0.0
    #: since when it has nothing to do; it rests until ``rest_until_s`` after storage trouble
    idle_s: float = 0.0
    rest_until_s: float = 0.0
    #: its machine is taken back then
    drain_s: float | None = None
    num_clips: int = 0
    #: of the memory ladder, on which it begins; ``Render.thrift`` counts from there
    rung: int = 0
    #: resident memory after its first clip, and after the newest
    first_memory_bytes: int | None = None
    memory_bytes: int | None = None
    #: different clips that failed on it since its last success, with the cause that each was charged
    streak: dict[str, Cause] = field(default_factory=dict)
    streak_s: float = 0.0
    #: storage failures in a row
    num_storage: int = 0

    @property
    def copies(self) -> list[Copy]:
        """What is on it, in the order in which it began."""
        return [copy for copy in (self.finishing, self.copy) if copy is not None]
