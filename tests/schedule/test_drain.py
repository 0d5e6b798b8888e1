"""A machine is taken back, or the run is stopped: finish what can be finished, save the rest."""

from __future__ import annotations

from tests.schedule.tasks import attempt, rendering, scheduler, started
from wanflow.model import Cause
from wanflow.schedule.actions import Reason, Render, RetireReplica, Save, StartReplica, Unstage
from wanflow.schedule.events import (
    ClipMissing,
    ClipRendered,
    DrainNoticed,
    ReplicaLost,
    ReplicaReady,
    StepDone,
    StepsKept,
    StopRequested,
    Tick,
)
from wanflow.schedule.state import ClipStatus


def test_drained_replica_saves_what_it_cannot_finish_and_another_resumes() -> None:
    """Two minutes' notice for a clip of ten: its steps are kept, and cost the clip nothing."""
    s = started(scheduler({"a": 600.0, "b": 500.0}, in_seconds=True, max_replicas=1, max_attempts=1))
    name, key, current = rendering(s, "replica-1")
    s.handle(StepDone(10.0, name, key, current, "denoise", 0, 4))
    assert s.handle(DrainNoticed(20.0, name, 120.0)) == [
        Save(name, key, current, Reason.DRAINING),
        Unstage(name, Reason.NOT_NEXT),
    ]
    assert s.replicas[name].staged is None
    s.validate()
    actions = s.handle(StepsKept(30.0, name, key, current, "denoise", 2, is_last=True))
    assert actions == [
        RetireReplica(name, Reason.DRAINING),
        StartReplica("replica-2", "w", Reason.BACKLOG),
    ]
    s.validate()
    assert s.clips["a"].left_nominal < 400, "half of its steps are in the store"
    s.handle(ReplicaReady(40.0, "replica-2"))
    s.handle(ClipRendered(540.0, *rendering(s, "replica-2")))
    copy = s.replicas["replica-2"].copy
    assert copy is not None
    assert (copy.key, s.clips["a"].failures) == ("a", ())


def test_drained_replica_finishes_what_it_can() -> None:
    """Thirty seconds are left of the clip, two minutes of the machine."""
    s = started(scheduler({"a": 100.0, "b": 90.0}, in_seconds=True, max_replicas=1))
    name, key, current = rendering(s, "replica-1")
    assert s.handle(DrainNoticed(70.0, name, 120.0)) == [Unstage(name, Reason.NOT_NEXT)]
    actions = s.handle(ClipRendered(100.0, name, key, current))
    assert RetireReplica(name, Reason.DRAINING) in actions
    assert not any(isinstance(action, Render) for action in actions), "nothing new for it"


def test_clip_that_takes_longer_than_expected_is_saved_in_time() -> None:
    """It was to end within the notice; ten seconds before the end it has not."""
    s = started(scheduler({"a": 100.0}, in_seconds=True, max_replicas=1))
    name, key, current = rendering(s, "replica-1")
    assert s.handle(DrainNoticed(70.0, name, 120.0)) == []
    assert s.next_wake_s is not None
    assert s.handle(Tick(180.0)) == [Save(name, key, current, Reason.DRAINING)]


def test_idle_replica_on_a_drained_machine_is_given_back() -> None:
    s = started(scheduler({"a": 100.0, "b": 90.0}, in_seconds=True), 2)
    s.handle(ClipRendered(90.0, *rendering(s, "replica-2")))
    assert s.handle(DrainNoticed(91.0, "replica-2", 30.0)) == [RetireReplica("replica-2", Reason.DRAINING)]
    assert s.handle(DrainNoticed(92.0, "replica-2", 30.0)) == []


def test_loss_without_notice_costs_the_steps_since_the_last_save() -> None:
    """Steps were kept at 2, the machine went at 3: one step is done again, and the ledger says so."""
    s = started(scheduler({"a": 100.0}, in_seconds=True, max_replicas=1))
    name, key, current = rendering(s, "replica-1")
    for step in range(4):
        s.handle(StepDone(step * 20.0, name, key, current, "denoise", step, 4))
    s.handle(StepsKept(41.0, name, key, current, "denoise", 2))
    s.handle(ReplicaLost(62.0, name, "taken back", cause=Cause.PREEMPTED))
    s.handle(ClipMissing(63.0, key))
    assert s.handle(ReplicaReady(90.0, "replica-2")) == [
        Render("replica-2", "a", attempt(2), Reason.RESUMED, steps_lost=1)
    ]


def test_steps_kept_of_an_old_attempt_change_nothing() -> None:
    """Late news from a replica that was given up."""
    s = started(scheduler({"a": 100.0}, in_seconds=True, max_replicas=1))
    assert s.handle(StepsKept(5.0, "replica-1", "a", attempt(99), "denoise", 3, is_last=True)) == []
    assert s.clips["a"].status is ClipStatus.RUNNING
    assert s.clips["a"].kept is None


def test_stop_lets_a_clip_finish_that_ends_within_the_grace() -> None:
    """Ctrl-C twenty seconds before the end of a ten-minute clip does not throw it away."""
    s = started(scheduler({"a": 600.0, "b": 300.0}, in_seconds=True, stop_grace_s=60.0), 2)
    s.handle(ClipRendered(300.0, *rendering(s, "replica-2")))
    actions = s.handle(StopRequested(580.0, "stop"))
    assert not any(isinstance(action, Save) for action in actions)
    s.handle(ClipRendered(600.0, *rendering(s, "replica-1")))
    assert s.clips["a"].status is ClipStatus.DONE
