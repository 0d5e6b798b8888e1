"""Which clip is next: priority, group, longest expected first; what is learnt; what is staged."""

from __future__ import annotations

from tests.schedule.tasks import attempt, rendering, running, scheduler, started
from wanflow.schedule import Scheduler
from wanflow.schedule.actions import Reason, Render, Stage
from wanflow.schedule.events import ClipRendered, ReplicaReady, RunStarted
from wanflow.schedule.state import ClipStatus, VariantStatus


def rendered(s: Scheduler, replica: str, at_s: float) -> list[str]:
    """The clip on ``replica`` is done; returns the clips whose render is ordered then."""
    actions = s.handle(ClipRendered(at_s, *rendering(s, replica)))
    s.validate()
    return [action.key for action in actions if isinstance(action, Render)]


def test_priority_comes_before_length() -> None:
    """The customer who pays for the morning gets his short clip before everybody's long ones."""
    s = scheduler({"long": 9, "urgent": 1}, priorities={"urgent": 1}, max_replicas=1)
    started(s)
    assert running(s, "replica-1") == "urgent"


def test_replica_stays_in_its_group_while_there_is_much_to_do() -> None:
    """Compiled shapes and a loaded LoRA are used while they are warm."""
    works = {f"a{i}": 10.0 for i in range(20)} | {f"b{i}": 11.0 for i in range(20)}
    s = scheduler(works, groups={key: key[0] for key in works}, in_seconds=True, max_replicas=1)
    started(s)
    order = [running(s, "replica-1") or ""]
    for number in range(1, 12):
        order += rendered(s, "replica-1", 10.0 * number)
    assert {key[0] for key in order} == {"b"}


def test_grouping_does_not_leave_the_longest_clip_for_the_end() -> None:
    """One long clip of another shape, started last, would be the whole tail."""
    works = {"a1": 10.0, "a2": 4.0, "a3": 4.0, "long": 9.0}
    groups = {key: key[0] for key in works}
    s = scheduler(works, groups=groups, in_seconds=True, max_replicas=1)
    started(s)
    assert running(s, "replica-1") == "a1"
    assert s.replicas["replica-1"].staged == "long", "the rest of its own group is too little to wait for"


def test_what_was_seen_of_a_kind_corrects_the_plan() -> None:
    """The plan thought tall clips cheap; the first one shows that they are not."""
    works = {"tall1": 6.0, "tall2": 3.0, "wide1": 5.0, "wide2": 4.0, "wide3": 3.5}
    kinds = {key: key[:4] for key in works}
    s = scheduler(works, kinds=kinds, groups=kinds, in_seconds=True, max_replicas=1, switch_s=0.0)
    started(s)
    assert rendered(s, "replica-1", 60.0) == ["wide1"], "it was staged before anything was learnt"
    assert rendered(s, "replica-1", 65.0) == ["wide2"], "staged while wide clips were taken for as slow"
    assert rendered(s, "replica-1", 69.0) == ["tall2"], "known to take 30 s by now, and wide3 3.5"


def test_estimate_of_a_clip_is_none_until_its_engine_was_seen() -> None:
    s = scheduler({"a": 2, "b": 4}, max_replicas=1)
    estimates = s._board.estimates
    assert estimates.seconds(s.clips["b"]) is None
    started(s)
    rendered(s, "replica-1", 40.0)
    assert round(estimates.seconds(s.clips["a"]) or 0) == 20


def test_slow_replica_is_known_as_such() -> None:
    """A card that throttles takes three times as long; its peers are not judged by it."""
    works = {f"c{i}": 10.0 for i in range(20)}
    s = started(scheduler(works, in_seconds=True), 2)
    for number in range(1, 5):
        rendered(s, "replica-1", 30.0 * number - 20)
        rendered(s, "replica-1", 30.0 * number - 10)
        rendered(s, "replica-1", 30.0 * number)
        rendered(s, "replica-2", 30.0 * number)
    assert s._board.estimates.slowness("replica-2") / s._board.estimates.slowness("replica-1") > 2


def test_slow_replica_leaves_the_last_long_clip_to_a_faster_one() -> None:
    """One second later the fast one is free, and done with it before the slow one would be."""
    s = started(scheduler({"a": 12.0, "last": 10.0, "c": 9.0}, in_seconds=True), 2)
    assert s.replicas["replica-1"].staged == "last"
    s._board.estimates._slowness["replica-2"] = s._board.estimates._slowness.get("replica-2") or _seen(1.2, 9)
    s.handle(ClipRendered(11.0, *rendering(s, "replica-2")))
    assert running(s, "replica-2") is None
    actions = s.handle(ClipRendered(12.0, *rendering(s, "replica-1")))
    assert actions[0] == Render("replica-1", "last", attempt(4), Reason.STAGED)


def _seen(log_slowness: float, num: int) -> object:
    from wanflow.schedule.estimates import _Mean

    return _Mean(log_slowness, num)


def test_nothing_is_staged_at_the_tail() -> None:
    """With fewer clips than replicas, each goes to whoever is free first."""
    s = scheduler({"a": 3, "b": 2, "c": 1})
    s.handle(RunStarted(0))
    assert Stage("replica-1", "b", Reason.NEXT_IN_ORDER, attempt(1)) in s.handle(ReplicaReady(0, "replica-1"))
    s = scheduler({"a": 3, "b": 2})
    s.handle(RunStarted(0))
    actions = s.handle(ReplicaReady(0, "replica-1"))
    assert actions == [Render("replica-1", "a", attempt(1), Reason.NEXT_IN_ORDER)]


def test_clip_that_cannot_end_before_the_deadline_is_not_started() -> None:
    """At 05:50 a clip of twenty minutes is left for the next night; one of five still goes."""
    s = scheduler({"long": 1200.0, "short": 300.0}, in_seconds=True, max_replicas=1, deadline_s=600.0)
    s.handle(RunStarted(0))
    actions = s.handle(ReplicaReady(1, "replica-1"))
    assert actions == [Render("replica-1", "short", attempt(1), Reason.NEXT_IN_ORDER)]
    assert s.variants["v-long.mp4"].status is VariantStatus.LEFT
    assert "deadline" in s.variants["v-long.mp4"].message
    s.validate()


def test_slow_replica_takes_what_still_ends_before_the_deadline_however_far_behind_it_waits() -> None:
    """An hour before six the slow machine has no time for the long clips, and stood idle in front of the short ones."""
    works = {f"long{i}": 300.0 for i in range(10)} | {f"short{i}": 5.0 for i in range(10)}
    first = {f"first{i}": 10.0 for i in range(8)}
    s = scheduler(works | first, priorities=dict.fromkeys(first, 1), in_seconds=True, deadline_s=600.0)
    started(s, 2)
    for at_s, number in ((10.0, 1), (20.0, 1), (30.0, 1), (31.0, 2), (40.0, 1), (50.0, 1), (62.0, 2)):
        rendered(s, f"replica-{number}", at_s)
    assert rendered(s, "replica-2", 93.0) == ["short0"]
    assert running(s, "replica-1") == "long0"


def test_clip_that_no_variant_needs_any_more_is_not_rendered() -> None:
    """Its only variant has failed by another clip: the GPU has better things to do."""
    from wanflow.model import Cause
    from wanflow.schedule.events import RenderFailed

    s = scheduler({"bad": 9, "other": 1, "good": 2}, {"v": ("bad", "other"), "w": ("good",)}, max_replicas=1)
    started(s)
    s.handle(RenderFailed(1, *rendering(s, "replica-1"), Cause.BAD_INPUT, "no such picture"))
    assert s.clips["other"].status is ClipStatus.LEFT
    s.validate()


def test_idle_replica_takes_a_staged_clip_although_the_one_staged_last_is_too_late() -> None:
    """At five in the morning: the short clip that waits behind a busy replica can still be done by six."""
    priorities = {"a": 1, "b": 0, "short": 1, "long": 0, "other": 0}
    works = {"a": 100.0, "b": 100.0, "short": 50.0, "long": 80.0, "other": 70.0}
    s = scheduler(works, priorities=priorities, in_seconds=True, max_replicas=3, deadline_s=150.0)
    started(s, 2)
    assert (s.replicas["replica-1"].staged, s.replicas["replica-2"].staged) == ("short", "long")
    s.handle(ReplicaReady(85.0, "replica-3"))
    assert running(s, "replica-3") == "short"
    s.validate()
