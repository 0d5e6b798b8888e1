"""A clip ends beside the next one's steps: its replica has two for a while, and what happens to it concerns both."""

from __future__ import annotations

import pytest

from tests.schedule.tasks import attempt, rendering, scheduler, started
from wanflow.model import Attempt, Cause
from wanflow.schedule import Scheduler
from wanflow.schedule.actions import (
    Assemble,
    Cancel,
    Finish,
    KillReplica,
    Probe,
    Reason,
    Render,
    RetireReplica,
    Save,
    StartReplica,
    Unstage,
)
from wanflow.schedule.actions import Stage as StageClip
from wanflow.schedule.events import (
    AssembleFailed,
    ClipDenoised,
    ClipFound,
    ClipMissing,
    ClipRendered,
    DrainNoticed,
    RenderFailed,
    ReplicaLost,
    ReplicaReady,
    RunStarted,
    StepDone,
    StepsKept,
    StopRequested,
    Tick,
    VariantPublished,
)
from wanflow.schedule.state import ClipStatus

Running = tuple[str, str, Attempt]


def two_at_once(**policy: object) -> tuple[Scheduler, Running, Running]:
    """replica-1 ends ``a`` and renders ``b``; ``c`` is staged there. (name, key, attempt) of both."""
    works = {"a": 30.0, "b": 20.0, "c": 10.0}
    s = started(scheduler(works, in_seconds=True, **({"max_replicas": 1} | policy)))
    first = rendering(s, "replica-1")
    s.handle(ClipDenoised(25.0, *first))
    second = rendering(s, "replica-1")
    assert (first[1], second[1]) == ("a", "b")
    s.validate()
    return s, first, second


def test_next_clip_begins_while_the_former_one_ends() -> None:
    """Decoding, encoding and uploading take seconds in which the GPU's forwards would do nothing."""
    s = started(scheduler({"a": 30.0, "b": 20.0, "c": 10.0}, in_seconds=True, max_replicas=1))
    name, key, current = rendering(s, "replica-1")
    assert s.handle(ClipDenoised(25.0, name, key, current)) == [
        Render("replica-1", "b", attempt(2), Reason.STAGED),
        StageClip("replica-1", "c", Reason.NEXT_IN_ORDER, attempt(2)),
    ]
    s.validate()
    assert s.clips["a"].status is ClipStatus.RUNNING, "nobody may use it yet"
    assert s.handle(ClipRendered(30.0, name, key, current)) == [
        Assemble("v-a.mp4", attempt(3), Reason.CLIPS_READY)
    ]
    assert s.clips["a"].status is ClipStatus.DONE
    s.validate()


def test_a_replica_has_two_clips_at_most() -> None:
    """A store that is slow for hours must not pile up clips in the replica's memory."""
    s, first, second = two_at_once()
    assert s.handle(ClipDenoised(40.0, *second)) == []
    s.validate()
    actions = s.handle(ClipRendered(41.0, *first))
    assert Render("replica-1", "c", attempt(3), Reason.STAGED) in actions
    s.validate()


def test_news_that_a_clip_is_denoised_may_come_late_or_twice() -> None:
    """Of another attempt, of one that has ended: it changes nothing."""
    s, first, second = two_at_once()
    assert s.handle(ClipDenoised(26.0, *first)) == []
    s.handle(ClipRendered(30.0, *first))
    assert s.handle(ClipDenoised(31.0, *first)) == []
    assert s.handle(ClipDenoised(31.0, "replica-1", "b", attempt(99))) == []
    assert s.handle(ClipDenoised(31.0, "replica-9", "b", second[2])) == []
    s.validate()


def test_a_clip_that_comes_to_wait_later_begins_beside_the_end_as_well() -> None:
    """At the moment of the news nothing waited; a master that is gone from the store is a render again."""
    s = started(scheduler({"a": 30.0, "h": 20.0}, held=("h",), in_seconds=True, max_replicas=1))
    running = rendering(s, "replica-1")
    assert s.handle(ClipDenoised(25.0, *running)) == []
    actions = s.handle(AssembleFailed(26.0, "v-h.mp4", attempt(1), Cause.STORAGE, "gone", ("h",)))
    assert Render("replica-1", "h", attempt(3), Reason.NEXT_IN_ORDER) in actions
    s.validate()


def test_lost_replica_gives_both_its_clips_back() -> None:
    """kill -9 with two in flight: the store is asked for both, one of which was on record by then."""
    s, _, _ = two_at_once()
    actions = s.handle(ReplicaLost(28.0, "replica-1", "process died"))
    assert [action for action in actions if isinstance(action, Probe)] == [
        Probe("a", Reason.MAY_BE_DONE),
        Probe("b", Reason.MAY_BE_DONE),
    ]
    s.validate()
    s.handle(ClipFound(29.0, "a"))
    s.handle(ClipMissing(29.0, "b"))
    assert s.clips["a"].status is ClipStatus.DONE
    actions = s.handle(ReplicaReady(40.0, "replica-2"))
    assert [action.key for action in actions if isinstance(action, Render)] == ["b"]
    s.validate()


def test_neither_of_two_clips_pays_until_it_is_known_which_took_the_replica_down() -> None:
    """The innocent one may have had one attempt only; and it must not meet the other one a second time."""
    s, _, _ = two_at_once(max_attempts=1)
    s.handle(ReplicaLost(28.0, "replica-1", "process died"))
    s.handle(ClipMissing(29.0, "a"))
    s.handle(ClipMissing(29.0, "b"))
    assert (s.clips["a"].failures, s.clips["b"].failures) == ((), ())
    s.handle(ReplicaReady(40.0, "replica-2"))
    name, key, current = rendering(s, "replica-2")
    assert key == "a"
    assert s.handle(ClipDenoised(65.0, name, key, current)) == [], "it has its replica for itself"
    s.handle(ReplicaLost(66.0, name, "process died"))
    s.handle(ClipMissing(67.0, "a"))
    assert s.clips["a"].status is ClipStatus.FAILED
    assert s.clips["a"].failures == (Cause.REPLICA_LOST, Cause.REPLICA_LOST), "poison, with the first time"
    s.validate()
    s.handle(ReplicaReady(80.0, "replica-3"))
    name, key, current = rendering(s, "replica-3")
    assert key == "b"
    s.handle(ClipRendered(100.0, name, key, current))
    assert (s.clips["b"].status, s.clips["b"].suspected) == (ClipStatus.DONE, None)
    s.validate()


def test_a_suspect_is_not_begun_beside_the_end_of_another_clip() -> None:
    s, _, _ = two_at_once()
    s.handle(ReplicaLost(28.0, "replica-1", "process died"))
    s.handle(ClipFound(29.0, "a"))
    s.handle(ReplicaReady(40.0, "replica-2"))
    innocent = rendering(s, "replica-2")
    assert innocent[1] == "c"
    s.handle(ClipMissing(41.0, "b"))
    assert s.handle(ClipDenoised(45.0, *innocent)) == []
    s.validate()
    actions = s.handle(ClipRendered(50.0, *innocent))
    assert [action.key for action in actions if isinstance(action, Render)] == ["b"]
    s.validate()


@pytest.mark.parametrize("cause", [Cause.NODE_LOST, Cause.PREEMPTED])
def test_machine_that_goes_with_two_clips_makes_neither_a_suspect(cause: Cause) -> None:
    s, _, _ = two_at_once()
    s.handle(ReplicaLost(28.0, "replica-1", "gone", cause=cause))
    for key in "ab":
        s.handle(ClipMissing(29.0, key))
        assert (s.clips[key].suspected, s.clips[key].failures) == (None, (cause,))


@pytest.mark.parametrize("cause", [Cause.BAD_OUTPUT, Cause.STORAGE, Cause.OUT_OF_MEMORY])
def test_an_end_that_fails_is_that_clips_failure_and_the_next_one_goes_on(cause: Cause) -> None:
    """Black frames, a full disk, a decoder without room: seconds into the next clip's steps."""
    s, first, second = two_at_once()
    assert s.handle(RenderFailed(28.0, *first, cause, "it failed")) == []
    assert s.clips["a"].failures == (cause,)
    assert s.clips["a"].status is ClipStatus.PENDING
    assert rendering(s, "replica-1") == second
    s.validate()
    s.handle(ClipRendered(50.0, *second))
    s.handle(ClipRendered(60.0, *rendering(s, "replica-1")))
    assert rendering(s, "replica-1")[1] == "a"
    s.validate()


def test_a_clip_that_fails_beside_the_end_of_another_gives_its_place_to_the_next() -> None:
    s, first, second = two_at_once()
    actions = s.handle(RenderFailed(28.0, *second, Cause.BAD_INPUT, "no image"))
    assert [action.key for action in actions if isinstance(action, Render)] == ["c"]
    s.validate()
    s.handle(ClipRendered(30.0, *first))
    s.validate()


def test_drained_replica_saves_the_one_and_lets_the_other_end() -> None:
    """What ends has nothing to save: its latents are made. The replica goes after both."""
    s, first, second = two_at_once()
    assert s.handle(DrainNoticed(27.0, "replica-1", 15.0)) == [
        Save(*second, Reason.DRAINING),
        Unstage("replica-1", Reason.NOT_NEXT),
    ]
    s.validate()
    assert s.handle(StepsKept(28.0, *second, "denoise", 2, is_last=True)) == []
    s.validate()
    actions = s.handle(ClipRendered(30.0, *first))
    assert actions[0] == RetireReplica("replica-1", Reason.DRAINING)
    assert s.clips["a"].status is ClipStatus.DONE
    s.validate()


def test_drained_replica_begins_nothing_beside_an_end() -> None:
    s = started(scheduler({"a": 30.0, "b": 20.0}, in_seconds=True, max_replicas=1))
    running = rendering(s, "replica-1")
    s.handle(DrainNoticed(20.0, "replica-1", 120.0))
    assert s.handle(ClipDenoised(25.0, *running)) == []
    s.validate()


def test_a_stop_waits_for_a_clip_that_ends() -> None:
    """Ctrl-C while a master is uploaded: five seconds later it is there, and the run is over."""
    s, first, second = two_at_once()
    s.handle(StepDone(26.0, *second, "denoise", 1, 4))
    actions = s.handle(StopRequested(27.0, "stop"))
    assert not [action for action in actions if isinstance(action, Cancel | Save) and action.key == "a"]
    s.handle(StepsKept(28.0, *second, "denoise", 2, is_last=True))
    assert not s.finished
    actions = s.handle(ClipRendered(30.0, *first))
    assert actions[0] == RetireReplica("replica-1", Reason.STOPPING)
    assert s.clips["a"].status is ClipStatus.DONE
    assert isinstance(actions[-1], Finish)


def test_a_replica_is_recycled_between_clips_never_while_one_ends() -> None:
    """After two clips: the second one's end is waited for, and no third one begins beside it."""
    s, first, second = two_at_once(recycle_after=2)
    s.handle(ClipRendered(30.0, *first))
    assert s.handle(ClipDenoised(40.0, *second)) == []
    actions = s.handle(ClipRendered(45.0, *second))
    assert RetireReplica("replica-1", Reason.RECYCLED) in actions
    s.validate()


def test_a_replica_that_has_grown_begins_nothing_beside_an_end() -> None:
    """Its memory was measured after the clip before: the next replica has a fresh one."""
    works = dict.fromkeys("abcd", 20.0)
    s = started(scheduler(works, in_seconds=True, max_replicas=1))
    for number, memory_gib in enumerate((2, 40)):
        running = rendering(s, "replica-1")
        s.handle(ClipDenoised(20.0 * number, *running))
        s.handle(ClipRendered(20.0 * number + 5, *running, (), memory_gib << 30))
    running = rendering(s, "replica-1")
    assert s.handle(ClipDenoised(40.0, *running)) == []
    actions = s.handle(ClipRendered(45.0, *running))
    assert RetireReplica("replica-1", Reason.RECYCLED) in actions
    s.validate()


def test_an_end_that_waits_for_the_next_clips_steps_is_no_hang() -> None:
    """It ran out of memory beside them and is tried again alone, silent meanwhile; its replica is not."""
    s, first, second = two_at_once(hang_first_s=300.0)
    s.handle(StepDone(26.0, *first, "decode", 9, 81))
    for step in range(1, 150):
        assert s.handle(StepDone(26.0 + 10.0 * step, *second, "denoise", step, 200)) == []
        s.validate()


def test_two_clips_without_news_are_a_hang() -> None:
    """ffmpeg stands still, or the store, and the next clip waits for it: the replica is ended, both are looked for."""
    s, _, second = two_at_once(hang_first_s=900.0)
    now_s = 25.0
    for step in range(100):
        now_s += 10.0
        assert s.handle(StepDone(now_s, *second, "denoise", step, 200)) == []
    silent_since_s = now_s
    while not (actions := s.handle(Tick(now_s))):
        now_s += 10.0
        assert now_s < silent_since_s + 1000.0
    assert now_s == pytest.approx(silent_since_s + 120.0, abs=20.0)
    words = f"replica-1 hung: no news for {now_s - silent_since_s:.0f} s after step 99 of denoise"
    assert actions[:3] == [
        KillReplica("replica-1", Reason.HUNG, words),
        Probe("a", Reason.MAY_BE_DONE),
        Probe("b", Reason.MAY_BE_DONE),
    ]
    s.validate()


def test_no_second_copy_of_a_clip_that_only_has_to_end() -> None:
    """It would begin with decoding what the first one decodes already."""
    s = started(scheduler({"a": 600.0, "b": 10.0}, in_seconds=True), 2)
    s.handle(ClipDenoised(5.0, *rendering(s, "replica-1")))
    actions = s.handle(ClipRendered(10.0, *rendering(s, "replica-2")))
    assert not [action for action in actions if isinstance(action, Render)]


def test_an_end_whose_second_copy_was_first_is_cancelled_and_its_replica_goes_on() -> None:
    s = started(scheduler({"a": 600.0, "b": 10.0, "h": 20.0}, held=("h",), in_seconds=True), 2)
    first = rendering(s, "replica-1")
    s.handle(ClipRendered(1.0, *rendering(s, "replica-2")))
    s.handle(StepDone(5.0, *first, "denoise", 0, 4))
    s.handle(StepDone(2000.0, *first, "denoise", 1, 4))
    copy = s.replicas["replica-2"].copy
    assert copy is not None
    assert copy.key == "a", "a straggler's second copy"
    s.handle(ClipDenoised(2010.0, *first))
    held = next(variant for variant in s.variants.values() if variant.key == "v-h.mp4").attempt
    assert held is not None
    s.handle(AssembleFailed(2011.0, "v-h.mp4", held, Cause.STORAGE, "gone", ("h",)))
    assert rendering(s, "replica-1")[1] == "h"
    actions = s.handle(ClipRendered(2020.0, "replica-2", "a", copy.attempt))
    assert Cancel(*first, Reason.OTHER_WAS_FIRST) in actions
    s.validate()
    s.handle(RenderFailed(2021.0, *first, Cause.CANCELLED, "cancelled"))
    assert rendering(s, "replica-1")[1] == "h"
    assert s.clips["a"].status is ClipStatus.DONE
    s.validate()


def test_sick_replica_takes_no_other_clip_with_it() -> None:
    """Three clips failed on it while others succeed elsewhere; a fourth one is on it, and costs that one nothing."""
    works = {key: 30.0 - number for number, key in enumerate("abcdef")}
    s = started(scheduler(works, in_seconds=True, sick_after=2), 2)
    s.handle(RenderFailed(1.0, *rendering(s, "replica-1"), Cause.ITEM_ERROR, "odd"))
    ending = rendering(s, "replica-1")
    s.handle(ClipDenoised(2.0, *ending))
    other = rendering(s, "replica-1")
    s.handle(ClipRendered(30.0, *rendering(s, "replica-2")))
    actions = s.handle(RenderFailed(31.0, *ending, Cause.ITEM_ERROR, "odd"))
    words = "replica-1 was ended as sick: 2 clips in a row failed on it"
    assert KillReplica("replica-1", Reason.SICK, words) in actions
    assert Probe(other[1], Reason.MAY_BE_DONE) in actions
    s.validate()
    s.handle(ClipMissing(32.0, other[1]))
    assert (s.clips[other[1]].failures, s.clips[other[1]].suspected) == ((Cause.CANCELLED,), None)
    s.validate()


def test_no_replica_is_started_for_a_clip_that_only_has_to_end() -> None:
    """One renders, one ends, one waits, and a replica loads for it: a lost third one is not replaced."""
    s = scheduler({"a": 30.0, "b": 20.0, "c": 10.0}, in_seconds=True, max_replicas=3)
    s.handle(RunStarted(0.0))
    s.handle(ReplicaReady(1.0, "replica-1"))
    s.handle(ClipDenoised(25.0, *rendering(s, "replica-1")))
    actions = s.handle(ReplicaLost(26.0, "replica-3", "no machine", cause=Cause.NODE_LOST))
    assert not [action for action in actions if isinstance(action, StartReplica)]
    s.validate()


def test_a_clip_without_news_of_its_end_is_rendered_as_ever() -> None:
    """Pools that do one clip after the other say nothing in between."""
    s = started(scheduler({"a": 30.0, "b": 20.0}, in_seconds=True, max_replicas=1))
    for at_s, key in ((30.0, "a"), (50.0, "b")):
        running = rendering(s, "replica-1")
        assert running[1] == key
        s.handle(ClipRendered(at_s, *running))
    for variant in s.variants.values():
        if variant.attempt:
            s.handle(VariantPublished(60.0, variant.key, variant.attempt))
    assert s.finished


def test_an_end_beside_other_steps_takes_the_place_of_any_other_end_in_what_is_expected() -> None:
    """One clip is decoded alone, the next one beside steps: each is four fifths through when its decoding begins."""
    works = dict.fromkeys("abc", 100.0)
    s = started(scheduler(works, in_seconds=True, max_replicas=1, kinds=dict.fromkeys("abc", "k")))
    for at_s, stage in ((100.0, "decode"), (200.0, "decode_beside")):
        s.handle(ClipRendered(at_s, *rendering(s, "replica-1"), (("denoise", 80.0), (stage, 20.0))))
    running = rendering(s, "replica-1")
    s.handle(StepDone(280.0, *running, "decode", 0, 5))
    copy = s.replicas["replica-1"].copy
    assert copy is not None
    assert copy.expected_end_s == pytest.approx(300.0)
