"""Variants whose assembly goes wrong: who pays, how often and how soon it is tried again."""

from __future__ import annotations

import pytest

from tests.schedule.tasks import attempt, scheduler
from wanflow.model import Cause
from wanflow.schedule import Scheduler
from wanflow.schedule.actions import Assemble, Finish, Reason
from wanflow.schedule.events import AssembleFailed, RunStarted, Tick, VariantPublished
from wanflow.schedule.state import VariantStatus


def assembling() -> Scheduler:
    """Attempt 1 at the one variant is under way."""
    s = scheduler({"a": 1}, {"v": ("a",)}, held=("a",))
    assert s.handle(RunStarted(0)) == [Assemble("v.mp4", attempt(1), Reason.CLIPS_READY)]
    return s


def fails(s: Scheduler, number: int, at_s: float, cause: Cause) -> None:
    assert s.handle(AssembleFailed(at_s, "v.mp4", attempt(number), cause, f"{cause} on purpose")) == []


def again(s: Scheduler, number: int, at_s: float) -> None:
    """Attempt ``number`` comes then, and not before."""
    assert s.handle(Tick(at_s - 0.01)) == []
    assert s.handle(Tick(at_s)) == [Assemble("v.mp4", attempt(number), Reason.RETRY)]


@pytest.mark.parametrize("cause", [Cause.NODE_LOST, Cause.PREEMPTED, Cause.OUT_OF_MEMORY, Cause.STORAGE])
def test_what_an_assembly_did_not_do_costs_it_waits_and_no_attempt(cause: Cause) -> None:
    """A wave of machines is taken back, and the next ones as well: the variant sits it out."""
    s, now_s = assembling(), 10.0
    for number in range(1, 7):
        fails(s, number, now_s, cause)
        now_s += 2.0 ** (number - 1)
        again(s, number + 1, now_s)
    s.validate()
    assert s.handle(VariantPublished(now_s + 1, "v.mp4", attempt(7))) == [Finish(Reason.DONE)]


def test_a_process_that_died_counts_and_the_second_one_is_the_last() -> None:
    """A file that kills the decoder; the nodes that went between the two are not held against the variant."""
    s = assembling()
    fails(s, 1, 10.0, Cause.REPLICA_LOST)
    again(s, 2, 11.0)
    fails(s, 2, 12.0, Cause.NODE_LOST)
    again(s, 3, 13.0)
    actions = s.handle(AssembleFailed(14.0, "v.mp4", attempt(3), Cause.REPLICA_LOST, "process died"))
    assert actions == [Finish(Reason.DONE)]
    variant = s.variants["v.mp4"]
    assert (variant.status, variant.message) == (VariantStatus.FAILED, "process died")
