"""The end of a run: second copies of stragglers, and replicas without work."""

from __future__ import annotations

from tests.schedule.tasks import attempt, rendering, running, scheduler, started
from wanflow.model import Cause
from wanflow.schedule import Scheduler
from wanflow.schedule.actions import Cancel, Reason, Render, RetireReplica
from wanflow.schedule.events import (
    AssembleFailed,
    ClipMissing,
    ClipRendered,
    RenderFailed,
    ReplicaLost,
    StepDone,
    StepsKept,
    Tick,
)
from wanflow.schedule.state import ClipStatus


def straggling(**policy: object) -> Scheduler:
    """Two clips of 100 s; the first one's replica makes a step of 100 s where 25 were expected."""
    works = {"a": 100.0, "b": 99.0}
    s = started(scheduler(works, in_seconds=True, idle_s=1000.0, switch_s=0.0, **policy), 2)
    name, key, current = rendering(s, "replica-1")
    s.handle(StepDone(1.0, name, key, current, "denoise", 0, 4))
    s.handle(StepDone(96.0, name, key, current, "denoise", 1, 4))
    assert s.handle(ClipRendered(99.0, *rendering(s, "replica-2")))[-1:] != []
    s.validate()
    return s


def test_idle_replica_renders_a_second_copy_of_a_straggler() -> None:
    """Three of four steps are left at a hundred seconds each; from the start it is a hundred in all."""
    s = straggling()
    assert running(s, "replica-2") == "a"
    assert len(s.clips["a"].copies) == 2


def test_first_record_wins_and_the_other_copy_is_cancelled() -> None:
    s = straggling()
    actions = s.handle(ClipRendered(190.0, *rendering(s, "replica-2")))
    assert actions[0] == Cancel("replica-1", "a", attempt(1), Reason.OTHER_WAS_FIRST)
    assert s.clips["a"].status is ClipStatus.DONE
    s.validate()
    s.handle(RenderFailed(200.0, *rendering(s, "replica-1"), Cause.CANCELLED, "told to stop"))
    assert not s.clips["a"].failures
    s.validate()


def test_end_of_a_cancelled_copy_does_not_move_a_clip_that_waits_again() -> None:
    """Its master vanished and it is staged anew, when the copy that was no longer needed says that it has ended."""
    s = straggling()
    s.handle(ClipRendered(190.0, *rendering(s, "replica-2")))
    variant = s.variants["v-a.mp4"]
    assert variant.attempt is not None
    s.clips["a"].done_here = False
    s.handle(AssembleFailed(191.0, variant.key, variant.attempt, Cause.STORAGE, "gone", ("a",)))
    s.handle(RenderFailed(192.0, *rendering(s, "replica-1"), Cause.CANCELLED, "told to stop"))
    s.validate()
    assert len(s.clips["a"].copies) == 1


def test_failure_of_one_copy_does_not_fail_the_clip() -> None:
    """The other one still renders: with one attempt allowed, the clip is done all the same."""
    s = straggling()
    s.handle(RenderFailed(110.0, *rendering(s, "replica-2"), Cause.BAD_INPUT, "cannot read it"))
    assert s.clips["a"].status is ClipStatus.RUNNING
    s.handle(ClipRendered(400.0, *rendering(s, "replica-1")))
    assert s.clips["a"].status is ClipStatus.DONE
    s.validate()


def test_second_copy_that_is_too_large_for_its_card_says_nothing_while_the_first_renders() -> None:
    """Then the first one's machine goes: the clip is tried again, and no card was too small for it."""
    s = straggling(last_rung=0)
    for at_s in (110.0, 120.0):
        s.handle(RenderFailed(at_s, *rendering(s, "replica-2"), Cause.OUT_OF_MEMORY, "out of memory"))
    s.handle(ReplicaLost(130.0, "replica-1", "its node is gone", cause=Cause.NODE_LOST))
    s.handle(ClipMissing(131.0, "a"))
    assert s.clips["a"].status is ClipStatus.RUNNING
    s.validate()


def test_lost_copy_is_looked_for_while_the_other_renders() -> None:
    """Both copies' replicas die: that is two replicas for one clip."""
    s = straggling()
    s.handle(ReplicaLost(110.0, "replica-2", "died"))
    s.validate()
    s.handle(ClipMissing(111.0, "a"))
    assert s.clips["a"].status is ClipStatus.RUNNING
    s.handle(ReplicaLost(112.0, "replica-1", "died"))
    s.handle(ClipMissing(113.0, "a"))
    assert s.clips["a"].status is ClipStatus.FAILED
    s.validate()


def test_no_second_copy_where_it_would_not_end_sooner() -> None:
    """A clip that is where it should be is left alone."""
    s = started(scheduler({"a": 100.0, "b": 60.0}, in_seconds=True), 2)
    actions = s.handle(ClipRendered(60.0, *rendering(s, "replica-2")))
    assert not any(isinstance(action, Render) for action in actions)


def test_second_copy_goes_on_from_the_steps_that_are_kept() -> None:
    """Three of four steps are in the store: a second copy has a quarter to do, and ends before the first."""
    s = started(scheduler({"a": 100.0, "b": 90.0}, in_seconds=True, switch_s=0.0, idle_s=1000.0), 2)
    name, key, current = rendering(s, "replica-1")
    s.handle(StepDone(0.0, name, key, current, "denoise", 0, 4))
    s.handle(StepDone(80.0, name, key, current, "denoise", 3, 4))
    s.handle(StepsKept(80.0, name, key, current, "denoise", 3))
    s.handle(ClipRendered(90.0, *rendering(s, "replica-2")))
    assert len(s.clips["a"].copies) == 1, "it should end in time"
    actions = []
    for now_s in range(100, 400, 20):
        actions += s.handle(Tick(float(now_s)))
    assert [(action.replica, action.reason) for action in actions if isinstance(action, Render)] == [
        ("replica-2", Reason.STRAGGLER)
    ], "but it is overdue, and gets later the longer it takes"


def test_replica_without_work_is_given_back_after_a_while() -> None:
    """Half a minute for a straggler that it could take over; then somebody else can have the GPU."""
    s = started(scheduler({"a": 100.0, "b": 50.0}, in_seconds=True, idle_s=30.0), 2)
    assert s.handle(ClipRendered(50.0, *rendering(s, "replica-2")))[:1] != [
        RetireReplica("replica-2", Reason.NO_MORE_WORK)
    ]
    assert s.handle(Tick(79.0)) == []
    assert s.handle(Tick(80.0)) == [RetireReplica("replica-2", Reason.NO_MORE_WORK)]


def test_replica_stays_as_long_as_loading_took() -> None:
    """Weights that take five minutes to load are not dropped after thirty seconds."""
    from wanflow.schedule.events import ReplicaReady, RunStarted

    s = scheduler({"a": 1000.0, "b": 50.0}, in_seconds=True, idle_s=30.0)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(300.0, "replica-1"))
    s.handle(ReplicaReady(300.0, "replica-2"))
    s.handle(ClipRendered(350.0, *rendering(s, "replica-2")))
    assert s.handle(Tick(400.0)) == []
    assert s.handle(Tick(650.0)) == [RetireReplica("replica-2", Reason.NO_MORE_WORK)]


def test_warm_replica_is_not_retired_while_a_clip_waits_out_a_back_off() -> None:
    """The store was slow for a minute: that is no reason to load weights again."""
    s = started(scheduler({"a": 1.0}, max_replicas=1, idle_s=0.0, backoff_s=50.0))
    assert s.handle(RenderFailed(1.0, *rendering(s, "replica-1"), Cause.STORAGE, "503")) == []
    for now_s in (10.0, 20.0, 30.0, 40.0, 50.0):
        assert s.handle(Tick(now_s)) == []
    assert s.handle(Tick(51.0)) == [Render("replica-1", "a", attempt(2), Reason.RETRY)]
