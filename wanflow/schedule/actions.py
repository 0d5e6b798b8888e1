"""Orders that the scheduler gives. Imperative; each carries the reason of the decision into the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from wanflow.model import Attempt, Cause


class Reason(StrEnum):
    """Why the scheduler decided as it did."""

    BACKLOG = "backlog"
    REPLACES_LOST = "replaces_lost"
    NEXT_IN_ORDER = "next_in_order"
    STAGED = "staged"
    RETRY = "retry"
    MAY_BE_DONE = "may_be_done"
    CLIPS_READY = "clips_ready"
    NO_MORE_WORK = "no_more_work"
    OTHER_ENGINE_WAITS = "other_engine_waits"
    STOPPING = "stopping"
    WOULD_REPEAT = "would_repeat"
    DONE = "done"
    CANNOT_START = "cannot_start"
    STRAGGLER = "straggler"
    OTHER_WAS_FIRST = "other_was_first"
    DRAINING = "draining"
    RESUMED = "resumed"
    LESS_MEMORY = "less_memory"
    HUNG = "hung"
    SICK = "sick"
    POISON = "poison"
    RECYCLED = "recycled"
    COMMON_CAUSE = "common_cause"
    NOT_NEXT = "not_next"


@dataclass(frozen=True, slots=True)
class RequestCapacity:
    """Ask the cluster's autoscaler for room for ``num_replicas``; 0 clears the request."""

    num_replicas: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Start an actor that loads the engine of ``weights``."""

    replica: str
    weights: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Unstage:
    """The clip whose first steps were to be taken here goes elsewhere, or nowhere: no more of them."""

    replica: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Stage:
    """Fetch the clip's inputs now; it is this replica's next one.

    ``ahead_of``: the attempt on that replica during which its first steps may be taken, where the engine gains by that;
    None: it is to begin in its own turn.
    """

    replica: str
    key: str
    reason: Reason
    ahead_of: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Render:
    """Render a clip. ``thrift``: how many rungs down the memory ladder to try it, from the one that its replica begins
    on, after running out of memory.

    ``steps_lost``: steps that an earlier attempt did and did not keep, for the ledger: this one does them again.
    """

    replica: str
    key: str
    attempt: Attempt
    reason: Reason
    thrift: int = 0
    steps_lost: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the attempt at its next step."""

    replica: str
    key: str
    attempt: Attempt
    reason: Reason


@dataclass(frozen=True, slots=True)
class Save:
    """Keep the attempt's steps in the store and end it at its next step; answered by StepsKept(is_last), or by
    ClipRendered when it was over first."""

    replica: str
    key: str
    attempt: Attempt
    reason: Reason


@dataclass(frozen=True, slots=True)
class Probe:
    """Look whether the record of a clip exists; answered by ClipFound or ClipMissing."""

    key: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Assemble:
    """Assemble and publish a variant's files."""

    key: str
    attempt: Attempt
    reason: Reason


@dataclass(frozen=True, slots=True)
class Remember:
    """Write the clip's failure to the store: the next run would fail in the same way."""

    key: str
    cause: Cause
    message: str
    attempt: Attempt
    reason: Reason


@dataclass(frozen=True, slots=True)
class RetireReplica:
    replica: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class KillReplica:
    """End the replica's process whatever state it is in, and see to it that it is gone. No event answers.

    ``message``: the same as ``reason``, in words.
    """

    replica: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing more will be ordered. ``message`` is set when the run broke as a whole."""

    reason: Reason
    message: str = ""


Action = (
    RequestCapacity
    | StartReplica
    | Unstage
    | Stage
    | Render
    | Cancel
    | Save
    | Probe
    | Assemble
    | Remember
    | RetireReplica
    | KillReplica
    | Finish
)
