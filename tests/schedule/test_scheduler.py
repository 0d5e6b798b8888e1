"""The scheduler's decisions, one behaviour a test, on exact lists of actions."""

from __future__ import annotations

import pytest

from tests.schedule.tasks import attempt, scheduler
from wanflow.model import Cause
from wanflow.schedule.actions import (
    Assemble,
    Finish,
    Probe,
    Reason,
    Remember,
    Render,
    RetireReplica,
    Save,
    StartReplica,
    Unstage,
)
from wanflow.schedule.actions import Stage as StageClip
from wanflow.schedule.events import (
    AssembleFailed,
    ClipFound,
    ClipMissing,
    ClipRendered,
    RenderFailed,
    ReplicaLost,
    ReplicaReady,
    RunStarted,
    StepsKept,
    StopRequested,
    Tick,
    VariantPublished,
)
from wanflow.schedule.state import ClipStatus, VariantStatus


def test_longest_clip_starts_first_and_the_next_one_is_staged() -> None:
    """A long clip that starts last would keep one GPU busy after all others are done."""
    s = scheduler({"short": 1, "long": 9, "mid": 5}, {"v1": ("short", "long", "mid")}, max_replicas=1)
    assert s.handle(RunStarted(0)) == [StartReplica("replica-1", "w", Reason.BACKLOG)]
    assert s.handle(ReplicaReady(5, "replica-1")) == [
        Render("replica-1", "long", attempt(1), Reason.NEXT_IN_ORDER),
        StageClip("replica-1", "mid", Reason.NEXT_IN_ORDER, attempt(1)),
    ]
    assert s.handle(ClipRendered(9, "replica-1", "long", attempt(1))) == [
        Render("replica-1", "mid", attempt(2), Reason.STAGED),
        StageClip("replica-1", "short", Reason.NEXT_IN_ORDER, attempt(2)),
    ]
    s.validate()


def test_no_more_replicas_start_than_there_are_clips() -> None:
    """A replica that would load forty gigabytes to do nothing is money burnt."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=8)
    assert s.handle(RunStarted(0)) == [StartReplica("replica-1", "w", Reason.BACKLOG)]


def test_idle_replica_takes_back_a_clip_that_is_staged_elsewhere() -> None:
    """Nobody waits behind a busy GPU while another one is idle."""
    s = scheduler({"a": 3, "b": 2, "c": 1}, {"v": ("a", "b", "c")})
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    assert s.replicas["replica-1"].staged == "b"
    actions = s.handle(ReplicaReady(2, "replica-2"))
    assert actions == [
        Render("replica-2", "c", attempt(2), Reason.NEXT_IN_ORDER),
    ]
    assert s.handle(ClipRendered(3, "replica-2", "c", attempt(2))) == [
        Render("replica-2", "b", attempt(3), Reason.NEXT_IN_ORDER),
        Unstage("replica-1", Reason.NOT_NEXT),
    ]
    s.validate()


def test_variant_is_assembled_as_soon_as_its_last_clip_is_there() -> None:
    """The first finished video comes while the others still render."""
    s = scheduler({"a": 2, "b": 1}, {"v1": ("a",), "v2": ("a", "b")}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    actions = s.handle(ClipRendered(2, "replica-1", "a", attempt(1)))
    assert Assemble("v1.mp4", attempt(3), Reason.CLIPS_READY) in actions
    actions = s.handle(ClipRendered(3, "replica-1", "b", attempt(2)))
    assert actions == [
        RetireReplica("replica-1", Reason.NO_MORE_WORK),
        Assemble("v2.mp4", attempt(4), Reason.CLIPS_READY),
    ]
    s.handle(VariantPublished(4, "v1.mp4", attempt(3)))
    assert s.handle(VariantPublished(5, "v2.mp4", attempt(4))) == [Finish(Reason.DONE)]
    s.validate()


def test_held_clips_are_assembled_without_any_replica() -> None:
    """A changed headline costs ffmpeg only."""
    s = scheduler({"a": 1}, {"v": ("a",)}, held=("a",))
    assert s.handle(RunStarted(0)) == [Assemble("v.mp4", attempt(1), Reason.CLIPS_READY)]
    assert s.handle(VariantPublished(1, "v.mp4", attempt(1))) == [Finish(Reason.DONE)]


def test_held_master_that_is_gone_is_rendered_again() -> None:
    """Somebody cleaned the workspace by hand: that becomes a render, never a failure."""
    s = scheduler({"a": 1}, {"v": ("a",)}, held=("a",))
    s.handle(RunStarted(0))
    actions = s.handle(AssembleFailed(1, "v.mp4", attempt(1), Cause.STORAGE, "gone", ("a",)))
    assert actions == [StartReplica("replica-1", "w", Reason.BACKLOG)]
    s.handle(ReplicaReady(2, "replica-1"))
    actions = s.handle(ClipRendered(3, "replica-1", "a", attempt(2)))
    assert Assemble("v.mp4", attempt(3), Reason.CLIPS_READY) in actions
    assert not s.variants["v.mp4"].failures
    s.validate()


def test_variant_that_waits_for_another_clip_waits_for_a_lost_one_too() -> None:
    """Else it would be assembled for nothing, and what it finds missing be rendered a second time."""
    s = scheduler({"a": 1, "b": 9}, {"v1": ("a",), "v2": ("a", "b")}, held=("a",), max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    s.handle(AssembleFailed(2, "v1.mp4", attempt(1), Cause.STORAGE, "gone", ("a",)))
    actions = s.handle(ClipRendered(3, "replica-1", "b", attempt(2)))
    assert [action for action in actions if not isinstance(action, StageClip)] == [
        Render("replica-1", "a", attempt(3), Reason.STAGED)
    ]
    actions = s.handle(ClipRendered(4, "replica-1", "a", attempt(3)))
    assert sorted(action.key for action in actions if isinstance(action, Assemble)) == ["v1.mp4", "v2.mp4"]
    s.validate()


def test_master_that_came_back_in_the_moment_of_the_order_is_not_rendered_again() -> None:
    """The second assembly was ordered just before, and looked for the master just before it was there."""
    s = scheduler({"a": 1}, {"v1": ("a",), "v2": ("a",)}, held=("a",), max_replicas=1, max_assemblies=1)
    s.handle(RunStarted(0))
    actions = s.handle(AssembleFailed(1, "v1.mp4", attempt(1), Cause.STORAGE, "gone", ("a",)))
    assert Assemble("v2.mp4", attempt(2), Reason.CLIPS_READY) in actions
    s.handle(ReplicaReady(1, "replica-1"))
    s.handle(ClipRendered(1, "replica-1", "a", attempt(3)))
    actions = s.handle(AssembleFailed(2, "v2.mp4", attempt(2), Cause.STORAGE, "gone", ("a",)))
    assert not [action for action in actions if isinstance(action, Render | StartReplica)]
    assert [action for action in actions if isinstance(action, Assemble)]
    assert s.clips["a"].status is ClipStatus.DONE
    s.validate()


def test_failing_clip_ends_as_failed_and_the_rest_goes_on() -> None:
    """One bad row never stops the batch and never disappears."""
    s = scheduler({"bad": 2, "good": 1}, {"v1": ("bad",), "v2": ("good",)}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    s.handle(RenderFailed(2, "replica-1", "bad", attempt(1), Cause.ITEM_ERROR, "boom"))
    s.handle(ClipRendered(3, "replica-1", "good", attempt(2)))
    actions = s.handle(RenderFailed(4, "replica-1", "bad", attempt(3), Cause.ITEM_ERROR, "boom again"))
    assert s.variants["v1.mp4"].status is VariantStatus.FAILED
    assert s.variants["v1.mp4"].message == "boom again"
    assert RetireReplica("replica-1", Reason.NO_MORE_WORK) in actions
    assert s.handle(VariantPublished(5, "v2.mp4", attempt(4))) == [Finish(Reason.DONE)]
    s.validate()


def test_bad_input_is_not_tried_twice_and_is_remembered() -> None:
    """An image that cannot be decoded will not be better in a minute."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    actions = s.handle(RenderFailed(2, "replica-1", "a", attempt(1), Cause.BAD_INPUT, "truncated"))
    assert actions[0] == Remember("a", Cause.BAD_INPUT, "truncated", attempt(1), Reason.WOULD_REPEAT)
    assert actions[-1] == Finish(Reason.DONE)


def test_storage_trouble_waits_before_the_next_try() -> None:
    """A store that answers 503 is not hammered; it gets one second, then two."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    assert s.handle(RenderFailed(2, "replica-1", "a", attempt(1), Cause.STORAGE, "503")) == []
    assert s.next_wake_s == 3
    assert s.handle(Tick(2.5)) == []
    assert s.handle(Tick(3)) == [Render("replica-1", "a", attempt(2), Reason.RETRY)]
    assert s.handle(RenderFailed(4, "replica-1", "a", attempt(2), Cause.STORAGE, "503")) == []
    assert s.next_wake_s == 6


def test_lost_replica_is_probed_before_its_clip_is_tried_again() -> None:
    """The process may die after the record was written: what is done is not rendered twice."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    assert s.handle(ReplicaLost(2, "replica-1", "died")) == [Probe("a", Reason.MAY_BE_DONE)]
    s.validate()
    assert s.handle(ClipFound(3, "a")) == [Assemble("v.mp4", attempt(2), Reason.CLIPS_READY)]


def test_lost_replica_requeues_its_clip_once_and_is_replaced() -> None:
    """A spot instance went away in the middle of a clip."""
    s = scheduler({"a": 2, "b": 1}, {"v": ("a", "b")}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    s.handle(ReplicaLost(2, "replica-1", "its node is gone", cause=Cause.NODE_LOST))
    assert s.replicas.keys() == {"replica-2"}, "the staged clip alone is reason enough for a replacement"
    assert s.handle(ReplicaLost(2.1, "replica-1", "died")) == []
    assert s.handle(ClipMissing(3, "a")) == []
    assert s.handle(ReplicaReady(8, "replica-2"))[0] == Render("replica-2", "a", attempt(2), Reason.RETRY)
    s.validate()


def test_late_news_of_an_old_attempt_changes_nothing() -> None:
    """A replica that was given up answers after all; its clip runs elsewhere by then."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    s.handle(RenderFailed(2, "replica-1", "a", attempt(1), Cause.ITEM_ERROR, "boom"))
    assert list(s.clips["a"].copies) == [attempt(2)]
    assert s.handle(ClipRendered(3, "replica-1", "a", attempt(1))) == []
    assert s.clips["a"].status is ClipStatus.RUNNING


def test_two_engines_share_one_gpu_one_after_the_other() -> None:
    """Text-to-video and image-to-video weights do not fit on one GPU together."""
    s = scheduler({"t": 2, "i": 1}, {"v": ("t", "i")}, weights={"t": "t2v", "i": "i2v"}, max_replicas=1)
    assert s.handle(RunStarted(0)) == [StartReplica("replica-1", "t2v", Reason.BACKLOG)]
    s.handle(ReplicaReady(1, "replica-1"))
    assert s.handle(ClipRendered(2, "replica-1", "t", attempt(1))) == [
        RetireReplica("replica-1", Reason.OTHER_ENGINE_WAITS),
        StartReplica("replica-2", "i2v", Reason.BACKLOG),
    ]
    s.validate()


def test_run_is_given_up_when_replicas_cannot_start() -> None:
    """Bad weights: three starts tell it as well as three thousand."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaLost(1, "replica-1", "no CUDA"))
    s.handle(ReplicaLost(2, "replica-2", "no CUDA"))
    actions = s.handle(ReplicaLost(3, "replica-3", "no CUDA"))
    assert actions == [Finish(Reason.CANNOT_START, "no replica can start: no CUDA")]
    assert s.variants["v.mp4"].status is VariantStatus.LEFT


def test_start_failure_while_others_work_is_not_the_end() -> None:
    """In the fifth hour one node lacks the mount: seven healthy replicas go on."""
    s = scheduler({"a": 3, "b": 2, "c": 1}, {"v": ("a", "b", "c")}, max_replicas=2)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    actions = s.handle(ReplicaLost(2, "replica-2", "cannot see the workspace", permanent=True))
    assert actions == [StartReplica("replica-3", "w", Reason.REPLACES_LOST)]
    assert s.stopping is None


def test_storage_trouble_is_not_capped_by_the_jobs_attempts() -> None:
    """A store that is away for a minute says nothing about the clip."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=1, max_attempts=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    now_s = 1.0
    for number in range(1, 5):
        s.handle(RenderFailed(now_s, "replica-1", "a", attempt(number), Cause.STORAGE, "503"))
        now_s = s.next_wake_s or 0.0
        s.handle(Tick(now_s))
    assert s.clips["a"].status is ClipStatus.RUNNING


def test_lost_node_alone_is_not_remembered_as_poison() -> None:
    """With one attempt allowed, a spot loss fails the clip tonight, not for ever."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=1, max_attempts=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    s.handle(ReplicaLost(2, "replica-1", "died"))
    actions = s.handle(ClipMissing(3, "a"))
    assert s.variants["v.mp4"].status is VariantStatus.FAILED
    assert not any(isinstance(action, Remember) for action in actions)


def test_stop_does_not_wait_for_ever() -> None:
    """A replica that hangs does not keep the GPUs past the deadline."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    s.handle(StopRequested(10, "stopped"))
    assert s.next_wake_s == 60, "the last moment to save, if it were known to end in time"
    assert s.handle(Tick(69)) == []
    assert s.next_wake_s == 70
    assert s.handle(Tick(70)) == [RetireReplica("replica-1", Reason.DONE), Finish(Reason.STOPPING)]
    assert s.variants["v.mp4"].status is VariantStatus.LEFT


def test_permanent_start_failure_ends_the_run_at_once() -> None:
    """A workspace that only the driver can see will not become visible by trying again."""
    s = scheduler({"a": 1, "b": 1}, {"v": ("a", "b")}, max_replicas=2)
    s.handle(RunStarted(0))
    actions = s.handle(ReplicaLost(1, "replica-1", "cannot see the workspace", permanent=True))
    assert actions == [
        RetireReplica("replica-2", Reason.STOPPING),
        Finish(Reason.CANNOT_START, "no replica can start: cannot see the workspace"),
    ]


def test_stop_saves_renders_and_lets_assemblies_end() -> None:
    """Ctrl-C: what is nearly done is done, the rest is kept for the next run."""
    s = scheduler({"a": 2, "b": 1}, {"v1": ("a",), "v2": ("b",)}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    s.handle(ClipRendered(601, "replica-1", "a", attempt(1)))
    assert s.handle(StopRequested(603, "stopped by SIGINT")) == [
        Save("replica-1", "b", attempt(2), Reason.STOPPING)
    ]
    assert s.handle(StepsKept(604, "replica-1", "b", attempt(2), "denoise", 2, is_last=True)) == [
        RetireReplica("replica-1", Reason.STOPPING)
    ]
    assert s.handle(VariantPublished(605, "v1.mp4", attempt(3))) == [Finish(Reason.STOPPING)]
    assert s.variants["v2.mp4"].status is VariantStatus.LEFT
    assert not s.clips["b"].failures, "being told to stop is nobody's failure"


def test_deadline_stops_the_run() -> None:
    """At 06:00 the GPUs belong to somebody else."""
    s = scheduler({"a": 2, "b": 1}, {"v": ("a", "b")}, max_replicas=1, deadline_s=100.0)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    assert s.next_wake_s == 100
    assert s.handle(Tick(100)) == [Save("replica-1", "a", attempt(1), Reason.STOPPING)]


@pytest.mark.parametrize("cause", [c for c in Cause if c is not Cause.CANCELLED])
def test_every_cause_has_a_budget_and_ends(cause: Cause) -> None:
    """No kind of trouble can hold a run for ever."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=1)
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    now_s = 1.0
    for _ in range(200):
        if s.finished:
            break
        now_s += 100
        s.handle(Tick(now_s))
        for current in list(s.clips["a"].copies):
            s.handle(RenderFailed(now_s, "replica-1", "a", current, cause, "again"))
        s.validate()
    assert s.finished
    assert s.variants["v.mp4"].status is VariantStatus.FAILED
