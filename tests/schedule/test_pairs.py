"""Clips in pairs, as the scheduler sees them: who may be taken ahead, and what the seconds of both are worth."""

from __future__ import annotations

import pytest

from tests.schedule.tasks import attempt, rendering, scheduler, started
from wanflow.model import Cause
from wanflow.schedule.actions import Action, Reason, Render, Unstage
from wanflow.schedule.actions import Stage as StageClip
from wanflow.schedule.events import (
    ClipMissing,
    ClipRendered,
    DrainNoticed,
    RenderFailed,
    ReplicaLost,
    ReplicaReady,
    StepDone,
    StepsKept,
    StopRequested,
    Tick,
)
from wanflow.schedule.scheduler import Scheduler


def pair() -> Scheduler:
    """a is rendered, b is staged behind it and c waits; each takes 100 seconds."""
    works = {"a": 100.0, "b": 100.0, "c": 100.0}
    s = started(scheduler(works, in_seconds=True, max_replicas=1))
    assert rendering(s, "replica-1")[1] == "a"
    return s


def taken_ahead(s: Scheduler, at_s: float = 80.0) -> list[Action]:
    """Half of b's steps, by a's attempt, in 40 seconds."""
    steps = s.clips["b"].num_steps // 2
    return s.handle(
        StepsKept(at_s, "replica-1", "b", attempt(1), "denoise", steps, seconds=(("denoise", 40.0),))
    )


def test_a_staged_clip_is_told_whose_attempt_it_may_go_with() -> None:
    """Orders of a replica reach it by two ways: the one does not know how far the other is."""
    s = scheduler({"a": 3.0, "b": 2.0, "c": 1.0}, max_replicas=1)
    s.handle(Tick(0))
    staged = s.handle(ReplicaReady(0, "replica-1"))[-1]
    assert staged == StageClip("replica-1", "b", Reason.NEXT_IN_ORDER, attempt(1))


def staged(actions: list[Action]) -> dict[str, bool]:
    """By clip, whether it may be taken ahead."""
    return {action.key: action.ahead_of is not None for action in actions if isinstance(action, StageClip)}


def test_a_clip_that_has_failed_goes_with_nobody() -> None:
    """Were it taken ahead and took the replica down, the clip before would pay; and the other way round."""
    s = started(scheduler(dict.fromkeys("abcd", 100.0), in_seconds=True, max_replicas=1))
    assert rendering(s, "replica-1")[1] == "a"
    actions = s.handle(RenderFailed(10.0, *rendering(s, "replica-1"), Cause.ITEM_ERROR, "odd"))
    assert staged(actions) == {"c": True}, "b is rendered"
    told: dict[str, bool] = {}
    order = []
    for at_s in (110.0, 210.0, 310.0):
        order.append(rendering(s, "replica-1")[1])
        told |= staged(s.handle(ClipRendered(at_s, *rendering(s, "replica-1"))))
    assert (order, told) == (["b", "c", "a"], {"a": False, "d": False})


@pytest.mark.parametrize(("deadline_s", "goes"), [(190.0, False), (210.0, True)])
def test_near_the_deadline_nobody_waits_for_another_clip(deadline_s: float, goes: bool) -> None:
    """Both would be half done at six o'clock, where one could have been published."""
    s = scheduler({"a": 100.0, "b": 100.0}, in_seconds=True, max_replicas=1, deadline_s=deadline_s)
    s.handle(Tick(0))
    assert staged(s.handle(ReplicaReady(0, "replica-1"))) == {"b": goes}


def test_steps_taken_ahead_are_the_clips_own_wherever_it_is_rendered() -> None:
    """It is resumed, and is expected to take what is left."""
    s = pair()
    assert taken_ahead(s) == []
    s.validate()
    clip = s.clips["b"]
    assert clip.kept == ("denoise", clip.num_steps // 2)
    assert 0.3 < clip.kept_share < 0.6
    assert s.clips["a"].kept is None
    assert clip.seconds == {"denoise": 40.0}, "it pays for them"
    (begun, *_) = [
        a for a in s.handle(ClipRendered(140.0, *rendering(s, "replica-1"))) if isinstance(a, Render)
    ]
    assert (begun.key, begun.reason, begun.steps_lost) == ("b", Reason.RESUMED, 0)
    copy = s.replicas["replica-1"].copy
    assert copy is not None
    assert copy.first_share == clip.kept_share


def test_a_pair_teaches_what_one_clip_takes() -> None:
    """The first of the two takes longer for the second one, which takes less: neither is the kind's time."""
    s = pair()
    taken_ahead(s)
    s.handle(ClipRendered(140.0, *rendering(s, "replica-1"), (("denoise", 100.0), ("ahead", 40.0))))
    usual_s = s._board.estimates.seconds(s.clips["c"])
    assert usual_s == pytest.approx(100.0)
    s.handle(ClipRendered(200.0, *rendering(s, "replica-1"), (("denoise", 60.0),)))
    assert s._board.estimates.seconds(s.clips["c"]) == pytest.approx(100.0)
    assert s.clips["b"].seconds == {"denoise": 100.0}


def test_a_clip_whose_replica_is_busy_with_the_next_one_does_not_hang() -> None:
    """Steps of the other one are news of its attempt, and none of its own steps are taken for lost."""
    s = pair()
    for step in range(1, 4):
        s.handle(StepDone(10.0 * step, "replica-1", "a", attempt(1), "denoise", step, 6))
    for step in range(1000):
        assert s.handle(StepDone(40.0 + 10 * step, "replica-1", "a", attempt(1), "ahead", step, 2000)) == []
    assert s.clips["a"].reached == ("denoise", 3)


def test_a_replica_that_dies_with_the_next_clips_steps_is_charged_to_one_clip_and_paid_once() -> None:
    """Whose steps they were nobody can tell; one that has failed is tried again with nobody beside it."""
    s = pair()
    taken_ahead(s)
    s.handle(ReplicaLost(100.0, "replica-1", "process died"))
    s.handle(ClipMissing(101.0, "a"))
    assert s.clips["a"].failures == (Cause.REPLICA_LOST,)
    assert s.clips["b"].failures == ()
    assert s.clips["a"].seconds["denoise"] + s.clips["b"].seconds["denoise"] == pytest.approx(100.0)


def test_news_of_steps_for_a_clip_that_is_over_change_nothing() -> None:
    """Another replica was faster."""
    s = pair()
    for at_s in (100.0, 200.0):
        s.handle(ClipRendered(at_s, *rendering(s, "replica-1")))
    third = rendering(s, "replica-1")
    s.handle(StepsKept(210.0, "replica-1", "b", third[2], "denoise", 1, seconds=(("denoise", 1.0),)))
    assert s.clips["b"].kept is None
    s.validate()


def test_a_replica_is_told_when_the_staged_clip_is_not_next_any_more() -> None:
    """The clip before would take its steps all the same: in vain, and out of what a stop or a drain leaves it."""
    told = Unstage("replica-1", Reason.NOT_NEXT)
    assert told in pair().handle(StopRequested(5.0, "enough"))
    assert told in pair().handle(DrainNoticed(5.0, "replica-1", 200.0))
    s = started(scheduler({"a": 100.0, "b": 90.0, "c": 5.0}, in_seconds=True, max_replicas=2), 2)
    assert s.replicas["replica-1"].staged == "b"
    stolen = s.handle(ClipRendered(5.0, *rendering(s, "replica-2")))
    assert rendering(s, "replica-2")[1] == "b"
    assert told in stolen


def test_a_replica_that_begins_its_staged_clip_is_told_nothing_else() -> None:
    s = pair()
    actions = s.handle(ClipRendered(100.0, *rendering(s, "replica-1")))
    assert rendering(s, "replica-1")[1] == "b"
    assert not any(isinstance(action, Unstage) for action in actions)
