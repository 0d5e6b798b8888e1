"""Clips that share a trunk: one makes it, the others come behind other work until it is there, and nobody idles."""

from __future__ import annotations

from tests.schedule.tasks import assembly, render, rendering, running, started
from wanflow.model import Cause
from wanflow.schedule import PlannedRender, Policy, Scheduler
from wanflow.schedule.events import ClipRendered, RenderFailed, StepDone
from wanflow.schedule.state import ClipStatus


def scheduler(
    trunks: dict[str, str], works: dict[str, float], max_replicas: int = 2, makers: tuple[str, ...] = ("a1",)
) -> Scheduler:
    """Clips by name with their work, and by name the trunk that they share."""
    planned = [
        PlannedRender(
            render(key, trunk=trunks.get(key, "")),
            0,
            work,
            kind="maker" if key in makers else key[0],
            makes_trunk=key in makers,
        )
        for key, work in works.items()
    ]
    assemblies = [(assembly(f"v-{key}", key), 0) for key in works]
    return Scheduler(planned, assemblies, Policy(max_replicas=max_replicas, max_assemblies=2), epoch=7)


A = {"a1": "t", "a2": "t", "a3": "t"}


def all_running(s: Scheduler) -> list[str | None]:
    return [running(s, name) for name in s.replicas]


def begun(s: Scheduler) -> set[str]:
    """Clips that some replica renders or has staged."""
    return {key for r in s.replicas.values() for key in (running(s, r.replica), r.staged) if key}


def test_others_of_a_group_wait_behind_shorter_clips_until_the_trunk_is_there() -> None:
    """Large clips of one composition, small ones of others: nobody makes the trunk a second time meanwhile."""
    s = scheduler(
        A, {"a1": 40.0, "a2": 14.0, "a3": 14.0, "b1": 5.0, "b2": 4.0, "b3": 3.0, "b4": 2.0, "b5": 1.0}
    )
    started(s, 2)
    for time_s in (5.0, 9.0):
        assert begun(s) == {"a1", *(key for key in begun(s) if key[0] == "b")}
        s.handle(ClipRendered(time_s, *rendering(s, "replica-2")))
        s.validate()
    s.handle(StepDone(9.5, *rendering(s, "replica-1"), "trunk", 1, 2))
    assert not {"a2", "a3"} & begun(s), "half of the trunk is no trunk"
    s.handle(StepDone(10.0, *rendering(s, "replica-1"), "denoise", 2, 4))
    s.validate()
    s.handle(ClipRendered(12.0, *rendering(s, "replica-2")))
    s.handle(ClipRendered(13.0, *rendering(s, "replica-2")))
    assert running(s, "replica-2") == "a2", "longest first, as ever"


def test_they_take_their_usual_places_once_the_trunk_is_there() -> None:
    s = scheduler(A, {"a1": 40.0, "a2": 14.0, "a3": 14.0, "b1": 5.0, "b2": 4.0}, max_replicas=1)
    started(s)
    assert all_running(s) == ["a1"]
    assert s.replicas["replica-1"].staged == "b1", "the longest of what need not wait"
    s.handle(ClipRendered(40.0, *rendering(s, "replica-1")))
    s.validate()
    assert all_running(s) == ["b1"], "it was staged"
    assert s.replicas["replica-1"].staged == "a2"


def test_no_replica_idles_for_a_trunk() -> None:
    """Waiting for it and beginning then would end no sooner than making it a second time."""
    s = scheduler(A, {"a1": 40.0, "a2": 14.0, "a3": 14.0})
    started(s, 2)
    s.validate()
    assert all_running(s) == ["a1", "a3"], "a2 is staged at its maker"


def test_a_trunk_that_another_clip_made_first_is_there_as_well() -> None:
    s = scheduler(A, {"a1": 40.0, "a2": 14.0, "a3": 14.0})
    started(s, 2)
    assert all_running(s) == ["a1", "a3"]
    s.handle(StepDone(20.0, *rendering(s, "replica-2"), "denoise", 2, 4))
    assert not s._board.trunks.is_behind(s.clips["a2"])
    s.validate()


def test_the_next_of_a_group_makes_the_trunk_when_the_first_has_failed() -> None:
    """The first one's own prompt was the trouble: its group goes on, and still makes one trunk."""
    works = {"a1": 40.0, "a2": 14.0, "a3": 14.0, "a4": 14.0} | {f"b{i}": 6.0 - i for i in range(1, 6)}
    s = scheduler(A | {"a4": "t"}, works)
    started(s, 2)
    s.handle(RenderFailed(1.0, *rendering(s, "replica-1"), Cause.BAD_INPUT, "no"))
    s.validate()
    assert s.clips["a1"].status is ClipStatus.FAILED
    assert not s._board.trunks.is_behind(s.clips["a2"])
    assert s._board.trunks.is_behind(s.clips["a3"])
    s.handle(ClipRendered(5.0, *rendering(s, "replica-2")))
    s.validate()
    assert "a2" in begun(s)
    assert not {"a3", "a4"} & begun(s)


def test_the_last_of_a_group_may_fail_too() -> None:
    s = scheduler(A, {"a1": 40.0, "a2": 14.0, "a3": 14.0}, max_replicas=1)
    started(s)
    for time_s in (1.0, 2.0, 3.0):
        s.handle(RenderFailed(time_s, *rendering(s, "replica-1"), Cause.BAD_INPUT, f"no {time_s}"))
        s.validate()
    assert {clip.status for clip in s.clips.values()} == {ClipStatus.FAILED}


def test_a_failed_clip_waits_behind_again_while_its_trunk_is_made() -> None:
    s = scheduler(A, {"a1": 40.0, "a2": 14.0, "a3": 14.0})
    started(s, 2)
    assert all_running(s) == ["a1", "a3"]
    s.handle(RenderFailed(5.0, *rendering(s, "replica-2"), Cause.ITEM_ERROR, "odd"))
    s.validate()
    assert all_running(s) == ["a1", "a2"], "the other's turn"
    assert s._board.trunks.is_behind(s.clips["a3"])


def test_estimates_tell_makers_of_trunks_from_others() -> None:
    """Whoever made a trunk unexpectedly says nothing about what clips of its kind take."""
    s = scheduler(A, {"a1": 4.0, "a2": 2.0, "a3": 2.0})
    started(s, 2)
    both = (("trunk", 20.0), ("denoise", 20.0))
    s.handle(ClipRendered(40.0, *rendering(s, "replica-2"), both))
    assert not s._board.estimates.is_seen("a")
    s.handle(ClipRendered(40.0, *rendering(s, "replica-1"), both))
    assert round(s._board.estimates.seconds(s.clips["a1"], share=1.0) or 0) == 40
    assert round(s._board.estimates.seconds(s.clips["a3"]) or 0) == 20, "of its engine, until it was seen"


def test_progress_counts_what_a_clip_takes_itself() -> None:
    """Step 2 of 4 is half of a clip that made its trunk, and the start of one that found it."""
    s = scheduler(A, {"a1": 4.0, "a2": 2.0, "a3": 2.0})
    share = s._board.estimates.share_done
    assert share(s.clips["a1"], "trunk", 1, 2) == 0.9 / 4
    assert share(s.clips["a1"], "denoise", 2, 4) == 0.9 / 2
    assert share(s.clips["a2"], "denoise", 2, 4) == 0.0
    assert share(s.clips["a2"], "denoise", 3, 4) == 0.9 / 2
    assert share(s.clips["a2"], "trunk", 1, 2) == 0.0
