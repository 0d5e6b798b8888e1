"""One rule a cause: who pays, what is tried again, what is remembered, who is to blame."""

from __future__ import annotations

import pytest

from tests.schedule.tasks import attempt, rendering, running, scheduler, started
from wanflow.model import Cause, Loading
from wanflow.schedule import Scheduler
from wanflow.schedule.actions import (
    Action,
    Finish,
    KillReplica,
    Probe,
    Reason,
    Remember,
    Render,
    StartReplica,
)
from wanflow.schedule.events import (
    ClipDenoised,
    ClipMissing,
    ClipRendered,
    RenderFailed,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    RunStarted,
    StepDone,
    Tick,
)
from wanflow.schedule.state import ClipStatus, VariantStatus


def fail(s: Scheduler, replica: str, cause: Cause, at_s: float, message: str = "boom") -> list[Action]:
    actions = s.handle(RenderFailed(at_s, *rendering(s, replica), cause, message))
    s.validate()
    return actions


def lose(s: Scheduler, replica: str, cause: Cause, at_s: float) -> list[Action]:
    """The replica goes, the record is not there; returns what follows from that."""
    key = running(s, replica) or ""
    s.handle(ReplicaLost(at_s, replica, "gone", cause=cause))
    actions = s.handle(ClipMissing(at_s, key))
    s.validate()
    return actions


def test_clip_that_took_two_replicas_down_is_poison_and_remembered() -> None:
    """It must not cost two replicas again every night."""
    s = started(scheduler({"a": 2, "b": 1}, max_replicas=1))
    lose(s, "replica-1", Cause.REPLICA_LOST, 1)
    s.handle(ReplicaReady(2, "replica-2"))
    s.handle(ClipRendered(3, *rendering(s, "replica-2")))
    actions = lose(s, "replica-2", Cause.REPLICA_LOST, 4)
    assert Remember("a", Cause.REPLICA_LOST, "gone", attempt(3), Reason.POISON) in actions
    assert s.variants["v-a.mp4"].status is VariantStatus.FAILED


def test_hanging_counts_as_taking_a_replica_down() -> None:
    """It hung one replica and killed another: the clip is what they have in common."""
    s = started(scheduler({"a": 2, "b": 1}, max_replicas=1, hang_first_s=100.0, max_gap_s=1000.0))
    s.handle(Tick(101))
    s.handle(ClipMissing(102, "a"))
    s.handle(ReplicaReady(103, "replica-2"))
    s.handle(ClipRendered(104, *rendering(s, "replica-2")))
    actions = lose(s, "replica-2", Cause.REPLICA_LOST, 105)
    assert [type(action) for action in actions][:1] == [Remember]


def test_poison_is_not_remembered_when_nothing_ever_rendered() -> None:
    """Broken drivers kill every replica: that is no property of the clips, and not to be remembered as one."""
    s = started(scheduler(dict.fromkeys("abcdef", 1), max_replicas=1))
    actions: list[Action] = []
    for number in range(1, 20):
        if s.finished:
            break
        name = f"replica-{number}"
        s.handle(ReplicaReady(number, name))
        actions += s.handle(ReplicaLost(number, name, f"{name}: process died"))
        if not s.finished:
            actions += s.handle(
                ClipMissing(number, next(iter(c.key for c in s.clips.values() if c.num_probes)))
            )
        s.validate()
    assert not any(isinstance(action, Remember) for action in actions)
    assert isinstance(actions[-1], Finish)
    assert actions[-1].reason is Reason.COMMON_CAUSE


@pytest.mark.parametrize("cause", [Cause.NODE_LOST, Cause.PREEMPTED])
def test_loss_of_a_machine_costs_the_clip_nothing(cause: Cause) -> None:
    """Spot instances come and go; with one attempt allowed the clip is rendered all the same."""
    s = started(scheduler({"a": 1}, max_replicas=1, max_attempts=1))
    for number in range(1, 8):
        lose(s, f"replica-{number}", cause, number)
        actions = s.handle(ReplicaReady(number, f"replica-{number + 1}"))
        assert actions == [Render(f"replica-{number + 1}", "a", attempt(number + 1), Reason.RETRY)]


def test_out_of_memory_goes_down_the_ladder_rung_by_rung() -> None:
    """Offload first the experts, then more; only at the last rung the clip is too large for these GPUs."""
    s = started(scheduler({"a": 1}, max_replicas=1, last_rung=2, max_attempts=1))
    assert fail(s, "replica-1", Cause.OUT_OF_MEMORY, 1) == [
        Render("replica-1", "a", attempt(2), Reason.LESS_MEMORY, thrift=1)
    ]
    assert fail(s, "replica-1", Cause.OUT_OF_MEMORY, 2) == [
        Render("replica-1", "a", attempt(3), Reason.LESS_MEMORY, thrift=2)
    ]
    fail(s, "replica-1", Cause.OUT_OF_MEMORY, 3)
    assert s.clips["a"].status is ClipStatus.FAILED


def test_no_try_is_spent_on_a_rung_that_was_tried() -> None:
    """A card of 48 GB begins at rung 2: below it there is one more, and no third."""
    s = scheduler({"a": 1}, max_replicas=1)
    s.handle(RunStarted(0.0))
    s.handle(ReplicaReady(0.0, "replica-1", Loading(0, 0.0, 0.0, 0, 0.0, rung=2)))
    assert fail(s, "replica-1", Cause.OUT_OF_MEMORY, 1) == [
        Render("replica-1", "a", attempt(2), Reason.LESS_MEMORY, thrift=1)
    ]
    fail(s, "replica-1", Cause.OUT_OF_MEMORY, 2)
    assert s.clips["a"].status is ClipStatus.FAILED
    assert s.clips["a"].num_attempts == 2


def test_a_clip_too_large_for_the_small_card_goes_to_the_larger_one() -> None:
    """Of a pool of 24 and 80 GB the small card says nothing about the other."""
    s = scheduler({"a": 5, "b": 4}, max_replicas=2)
    s.handle(RunStarted(0.0))
    for name, rung in (("replica-1", 3), ("replica-2", 0)):
        s.handle(ReplicaReady(0.0, name, Loading(0, 0.0, 0.0, 0, 0.0, rung=rung)))
    assert rendering(s, "replica-1")[1] == "a"
    fail(s, "replica-1", Cause.OUT_OF_MEMORY, 1)
    assert s.clips["a"].is_open
    actions = s.handle(ClipRendered(2, *rendering(s, "replica-2")))
    assert [(each.key, each.replica) for each in actions if isinstance(each, Render)] == [("a", "replica-2")]
    s.validate()


def on_rungs(s: Scheduler, *rungs: int) -> Scheduler:
    """The run has begun, and a replica is ready on each rung."""
    s.handle(RunStarted(0.0))
    for number, rung in enumerate(rungs, 1):
        s.handle(ReplicaReady(0.0, f"replica-{number}", Loading(0, 0.0, 0.0, 0, 0.0, rung=rung)))
    return s


def test_clip_too_large_for_small_cards_waits_for_the_large_one_without_trying_them_again() -> None:
    """Three of 48 GB and one of 80: the small ones do not use up its tries, and are idle rather than repeat one."""
    s = on_rungs(scheduler({"big": 9, "a": 8, "b": 7, "c": 6}, max_replicas=4), 2, 2, 2, 0)
    assert running(s, "replica-1") == "big"
    fail(s, "replica-1", Cause.OUT_OF_MEMORY, 1)
    s.handle(ClipRendered(2, *rendering(s, "replica-2")))
    for at_s, name in ((3, "replica-2"), (4, "replica-1")):
        assert running(s, name) == "big"
        fail(s, name, Cause.OUT_OF_MEMORY, at_s)
    s.handle(ClipRendered(5, *rendering(s, "replica-3")))
    assert s.clips["big"].is_open
    assert not any(running(s, f"replica-{number}") for number in (1, 2, 3))
    s.handle(Tick(6))
    s.validate()
    actions = s.handle(ClipRendered(10, *rendering(s, "replica-4")))
    assert [(each.key, each.replica) for each in actions if isinstance(each, Render)] == [
        ("big", "replica-4")
    ]
    for at_s in (11, 12, 13):
        assert s.clips["big"].is_open
        fail(s, "replica-4", Cause.OUT_OF_MEMORY, at_s)
    assert s.clips["big"].status is ClipStatus.FAILED, "the last rung of the largest"
    assert s.clips["big"].num_attempts == 6


def test_large_card_is_found_behind_any_number_of_small_ones_without_work() -> None:
    """Nine small cards have been idle for long, as all that waits is too large for them."""
    works = {"big1": 90, "big2": 80, "big3": 70} | {f"c{i}": 9 - i for i in range(8)}
    s = on_rungs(scheduler(works, max_replicas=10, idle_s=1e6), *(3,) * 9, 0)
    for at_s in range(1, 30):
        for number in range(1, 10):
            if key := running(s, f"replica-{number}"):
                if key.startswith("big"):
                    fail(s, f"replica-{number}", Cause.OUT_OF_MEMORY, at_s)
                else:
                    s.handle(ClipRendered(at_s, *rendering(s, f"replica-{number}")))
    at_s = 30
    while any(clip.is_open for clip in s.clips.values()):
        s.handle(ClipRendered(at_s, *rendering(s, "replica-10")))
        s.validate()
        at_s += 1
    assert {clip.status for clip in s.clips.values()} == {ClipStatus.DONE}


def test_clip_that_waits_for_a_large_card_does_not_wait_for_ever() -> None:
    """That card's node goes away: a small one tries the clip once more, and it has failed."""
    s = on_rungs(scheduler({"b": 9, "big": 8}, max_replicas=2), 0, 3)
    assert running(s, "replica-2") == "big"
    fail(s, "replica-2", Cause.OUT_OF_MEMORY, 1)
    assert running(s, "replica-2") is None
    lose(s, "replica-1", Cause.NODE_LOST, 2)
    s.handle(Tick(3))
    while s.clips["big"].is_open:
        assert running(s, "replica-2")
        if running(s, "replica-2") == "big":
            fail(s, "replica-2", Cause.OUT_OF_MEMORY, 4)
        else:
            s.handle(ClipRendered(4, *rendering(s, "replica-2")))
    assert s.clips["big"].failures == (Cause.OUT_OF_MEMORY,) * 2


def test_clip_too_large_for_the_first_card_that_is_ready_waits_for_those_that_load() -> None:
    """The small card is ready first, and the longest clips come first; the large one needs ten seconds more."""
    s = scheduler({"big": 9, "a": 1}, max_replicas=2)
    s.handle(RunStarted(0.0))
    s.handle(ReplicaPlaced(0.0, "replica-2"))
    s.handle(ReplicaReady(1.0, "replica-1", Loading(0, 0.0, 0.0, 0, 0.0, rung=3)))
    fail(s, "replica-1", Cause.OUT_OF_MEMORY, 2.0)
    assert s.clips["big"].is_open
    actions = s.handle(ReplicaReady(12.0, "replica-2", Loading(0, 0.0, 0.0, 0, 0.0, rung=0)))
    assert [(each.key, each.replica) for each in actions if isinstance(each, Render)] == [
        ("big", "replica-2")
    ]
    s.validate()


def test_last_word_that_a_clip_is_too_large_takes_two_replicas_where_there_are() -> None:
    """On one of two cards of 24 GB a dead process holds the memory: nothing fits there, and everything on the other."""
    s = on_rungs(scheduler({f"c{i:02}": 1 for i in range(30)}, max_replicas=2), 3, 3)
    keys = fail_all(s, "replica-1", Cause.OUT_OF_MEMORY, 1)
    assert len(keys) == len(set(keys)) > 20
    at_s = 2
    while any(clip.is_open for clip in s.clips.values()):
        s.handle(ClipRendered(at_s, *rendering(s, "replica-2")))
        fail_all(s, "replica-1", Cause.OUT_OF_MEMORY, at_s)
        at_s += 1
    assert {clip.status for clip in s.clips.values()} == {ClipStatus.DONE}


def test_first_clips_that_are_too_large_for_the_last_rung_stop_the_run() -> None:
    """On cards that begin at the last rung the very first failures tell."""
    s = scheduler(dict.fromkeys("abcdef", 1), max_replicas=1, last_rung=3)
    s.handle(RunStarted(0.0))
    s.handle(ReplicaReady(0.0, "replica-1", Loading(0, 0.0, 0.0, 0, 0.0, rung=3)))
    for number in range(5):
        actions = fail(s, "replica-1", Cause.OUT_OF_MEMORY, number + 1)
    assert isinstance(actions[-1], Finish)
    assert actions[-1].reason is Reason.COMMON_CAUSE


def test_rung_that_two_clips_of_a_kind_needed_is_where_others_begin() -> None:
    """A thousand clips of 720p do not have to run out of memory a thousand times."""
    s = started(scheduler(dict.fromkeys("abcd", 1), max_replicas=1))
    for number in range(2):
        fail(s, "replica-1", Cause.OUT_OF_MEMORY, 10 * number + 1)
        while s.replicas["replica-1"].copy and s.replicas["replica-1"].copy.thrift == 0:
            fail(s, "replica-1", Cause.OUT_OF_MEMORY, 10 * number + 2)
        s.handle(ClipRendered(10 * number + 3, *rendering(s, "replica-1")))
    copy = s.replicas["replica-1"].copy
    assert copy is None or copy.thrift == 1


@pytest.mark.parametrize("cause", [Cause.ITEM_ERROR, Cause.BAD_OUTPUT])
def test_second_try_of_a_failed_clip_goes_to_another_replica(cause: Cause) -> None:
    """A second opinion: the same card could be the reason."""
    s = started(scheduler({"a": 5, "b": 4}), 2)
    assert fail(s, "replica-1", cause, 1) == []
    actions = s.handle(ClipRendered(2, *rendering(s, "replica-2")))
    assert actions[0] == Render("replica-2", "a", attempt(3), Reason.RETRY)


def test_storage_trouble_rests_the_replica_and_others_go_on() -> None:
    """One node's way to the store is blocked: its replica waits a second, the others do not."""
    s = started(scheduler(dict.fromkeys("abcdef", 1)), 2)
    fail(s, "replica-1", Cause.STORAGE, 1, "503")
    assert running(s, "replica-1") is None
    actions = s.handle(ClipRendered(1.5, *rendering(s, "replica-2")))
    assert any(isinstance(action, Render) and action.replica == "replica-2" for action in actions)
    actions = s.handle(Tick(2.0))
    assert any(isinstance(action, Render) and action.replica == "replica-1" for action in actions)


def test_replica_without_a_step_for_too_long_is_ended_and_its_clip_looked_for() -> None:
    """Steps took a second each; for two minutes now there was none."""
    s = started(scheduler({"a": 1}, max_replicas=1, hang_floor_s=120.0))
    name, key, current = rendering(s, "replica-1")
    now_s = 0.0
    for step in range(3):
        now_s = float(step + 1)
        s.handle(StepDone(now_s, name, key, current, "denoise", step, 40))
    while now_s < 110:
        now_s += 10
        assert s.handle(Tick(now_s)) == []
    assert s.handle(Tick(122.0)) == []
    assert s.next_wake_s == 123
    actions = s.handle(Tick(123.0))
    words = "replica-1 hung: no news for 120 s after step 2 of denoise"
    assert actions == [KillReplica(name, Reason.HUNG, words), Probe(key, Reason.MAY_BE_DONE)]
    assert s.handle(ClipMissing(133.0, key)) == [StartReplica("replica-2", "w", Reason.HUNG)]
    assert s.clips[key].failures == (Cause.HUNG,)
    s.validate()


def test_first_step_and_decoding_may_take_long() -> None:
    """Compiling and decoding send no steps; fifteen minutes are theirs."""
    s = started(scheduler({"a": 1}, max_replicas=1))
    now_s = 0.0
    while now_s < 880:
        now_s += 20
        assert s.handle(Tick(now_s)) == []
    words = "replica-1 hung: no news for 900 s after its start"
    assert s.handle(Tick(900.0))[:1] == [KillReplica("replica-1", Reason.HUNG, words)]


def test_driver_that_was_away_blames_nobody() -> None:
    """The laptop slept for an hour: no replica has hung, their news is only now coming in."""
    s = started(scheduler({"a": 1}, max_replicas=1))
    assert s.handle(Tick(3600.0)) == []


def test_sick_replica_is_replaced_and_its_clips_do_not_pay() -> None:
    """Three different clips failed on one card while another one renders: it is the card."""
    s = started(scheduler({f"c{i}": 9 - i for i in range(9)}), 2)
    s.handle(ClipRendered(1, *rendering(s, "replica-2")))
    victims = []
    for number in range(3):
        victims.append(rendering(s, "replica-1")[1])
        actions = fail(s, "replica-1", Cause.ITEM_ERROR, 2 + number, "illegal instruction")
        if number < 2:
            s.handle(ClipRendered(2.5 + number, *rendering(s, "replica-2")))
    words = "replica-1 was ended as sick: 3 clips in a row failed on it"
    assert actions[0] == KillReplica("replica-1", Reason.SICK, words)
    assert StartReplica("replica-3", "w", Reason.SICK) in actions
    assert all(not s.clips[key].failures for key in victims)


def many(num_replicas: int, num_clips: int = 100) -> Scheduler:
    works = {f"c{i:03}": 1.0 for i in range(num_clips)}
    return started(scheduler(works, max_replicas=num_replicas), num_replicas)


def fail_all(s: Scheduler, replica: str, cause: Cause, at_s: float, max_clips: int = 1000) -> list[str]:
    """Whatever ``replica`` is given fails at once, until it goes or is given no more; returns the clips."""
    keys: list[str] = []
    while len(keys) < max_clips and replica in s.replicas and (key := running(s, replica)):
        keys.append(key)
        fail(s, replica, cause, at_s, "CUDA error: an illegal memory access was encountered")
    return keys


def test_replica_that_fails_fast_takes_no_clip_twice_however_many_wait() -> None:
    """One card fails in a fifth of a second what takes five minutes on the other one, with black pictures."""
    s = many(2)
    keys = fail_all(s, "replica-1", Cause.BAD_OUTPUT, 1)
    assert len(keys) == len(set(keys)) > 50
    assert all(s.clips[key].is_open for key in keys)


@pytest.mark.parametrize("num_broken", [1, 3])
def test_replica_that_never_rendered_is_held_after_three_errors_until_others_tell(num_broken: int) -> None:
    """A node's cards are broken from the start: they wait for the first clip of the others, and are replaced."""
    s = many(8)
    broken = [f"replica-{number + 1}" for number in range(num_broken)]
    for name in broken:
        assert len(fail_all(s, name, Cause.ITEM_ERROR, 1)) == 3
    assert all(clip.is_open for clip in s.clips.values())
    s.handle(Tick(20))
    assert not any(running(s, name) or s.replicas[name].staged for name in broken)
    actions = s.handle(ClipRendered(300, *rendering(s, "replica-8")))
    kills = [each for each in actions if isinstance(each, KillReplica)]
    assert [each.replica for each in kills] == broken
    assert {each.reason for each in kills} == {Reason.SICK}
    assert (
        sum(isinstance(each, StartReplica) and each.reason is Reason.SICK for each in actions) == num_broken
    )
    assert not any(clip.failures for clip in s.clips.values())
    s.validate()


def test_sound_replica_is_found_behind_any_number_of_held_ones() -> None:
    """Two bad nodes have nine cards, idle since the first second; one of the other eleven ends a clip."""
    s = many(20)
    for number in range(1, 10):
        fail_all(s, f"replica-{number}", Cause.ITEM_ERROR, 1)
    fail(s, "replica-20", Cause.BAD_OUTPUT, 2)
    assert running(s, "replica-20")


def test_nobody_waits_for_the_second_opinion_of_a_held_replica() -> None:
    """One card is broken and waits for the other, on which all that is left fails: that one gives both opinions."""
    s = many(2, 6)
    fail_all(s, "replica-1", Cause.ITEM_ERROR, 1)
    fail_all(s, "replica-2", Cause.BAD_OUTPUT, 2)
    assert {clip.status for clip in s.clips.values()} == {ClipStatus.FAILED}


def test_held_replica_makes_no_second_copy() -> None:
    """The last clip is late; a card on which everything failed is no help."""
    works = {"last": 100.0, "a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    s = started(scheduler(works, in_seconds=True, max_replicas=3, switch_s=0.0, idle_s=1000.0), 3)
    s.handle(StepDone(1, *rendering(s, "replica-1"), "denoise", 0, 4))
    fail_all(s, "replica-2", Cause.ITEM_ERROR, 2)
    fail_all(s, "replica-3", Cause.BAD_INPUT, 3)
    s.handle(ReplicaLost(4, "replica-3", "its node is gone", cause=Cause.NODE_LOST))
    s.handle(StepDone(96, *rendering(s, "replica-1"), "denoise", 1, 4))
    s.handle(Tick(97))
    assert s.replicas.keys() == {"replica-1", "replica-2"}
    assert len(s.clips["last"].copies) == 1


def test_what_a_sick_replica_said_of_a_clips_size_is_taken_back() -> None:
    """A dead process held its memory: nothing was too large for the card."""
    s = on_rungs(scheduler({f"c{i}": 1 for i in range(9)}, max_replicas=2), 3, 3)
    for at_s in (1, 2):
        fail(s, "replica-1", Cause.OUT_OF_MEMORY, at_s)
    s.handle(ClipRendered(3, *rendering(s, "replica-2")))
    fail(s, "replica-1", Cause.OUT_OF_MEMORY, 4)
    assert "replica-1" not in s.replicas
    assert all(clip.too_large_from is None and not clip.failures for clip in s.clips.values())


def test_held_replica_goes_on_when_nobody_else_is_left_to_tell() -> None:
    """The other card's node goes away: the last one tries on, and the run ends one way or the other."""
    s = many(2)
    fail_all(s, "replica-1", Cause.ITEM_ERROR, 1)
    assert running(s, "replica-1") is None
    lose(s, "replica-2", Cause.NODE_LOST, 2)
    assert running(s, "replica-1")


def test_doubted_replica_at_a_clip_is_judged_by_that_clip() -> None:
    """Two bad rows, and a third whose end failed beside the steps of a good one: the card renders that, and stays."""
    s = many(2)
    fail_all(s, "replica-1", Cause.ITEM_ERROR, 1, max_clips=2)
    third = rendering(s, "replica-1")
    s.handle(ClipDenoised(2, *third))
    assert rendering(s, "replica-1") != third
    s.handle(RenderFailed(3, *third, Cause.ITEM_ERROR, "the encoder died"))
    actions = s.handle(ClipRendered(4, *rendering(s, "replica-2")))
    actions += s.handle(ClipRendered(5, *rendering(s, "replica-1")))
    assert running(s, "replica-1")
    assert not any(isinstance(each, KillReplica) for each in actions)
    s.validate()


def test_only_replica_is_replaced_when_it_breaks() -> None:
    """The one GPU there is has rendered all evening; now three clips in a row fail on it: a fresh process may do."""
    s = many(1)
    s.handle(ClipRendered(300, *rendering(s, "replica-1")))
    keys = fail_all(s, "replica-1", Cause.ITEM_ERROR, 301)
    assert len(set(keys)) == 3
    assert s.replicas.keys() == {"replica-2"}
    assert len([clip for clip in s.clips.values() if not clip.is_open]) == 1 + 2
    # the fresh one has to render something before it can be replaced as well
    s.handle(ReplicaReady(400, "replica-2"))
    assert len(set(fail_all(s, "replica-2", Cause.ITEM_ERROR, 401, max_clips=20))) == 10
    assert "replica-2" in s.replicas


@pytest.mark.parametrize("cause", [Cause.BAD_OUTPUT, Cause.OUT_OF_MEMORY, Cause.STORAGE, Cause.BAD_INPUT])
def test_only_replica_is_not_replaced_for_what_no_fresh_process_would_mend(cause: Cause) -> None:
    """A store that is away, clips that are large or come out black: another load of the weights would help nobody."""
    s = many(1)
    s.handle(ClipRendered(300, *rendering(s, "replica-1")))
    for number in range(1, 20):
        if running(s, "replica-1"):
            fail(s, "replica-1", cause, 300 + 100 * number)
        s.handle(Tick(300 + 100 * number + 99))
    assert "replica-1" in s.replicas


def test_run_stops_when_the_first_clips_all_fail_alike() -> None:
    """A library is missing in the image: five clips tell it as well as five thousand."""
    s = started(scheduler({f"c{i}": 1 for i in range(50)}), 2)
    actions: list[Action] = []
    for number in range(6):
        if not s.finished:
            actions = fail(
                s, f"replica-{number % 2 + 1}", Cause.ITEM_ERROR, number + 1, f"no module x ({number})"
            )
        if s.stopping is not None:
            break
    assert "failed alike" in (s.broken or "")
    for name in list(s.replicas):
        if s.replicas[name].copy:
            actions = s.handle(RenderFailed(20, *rendering(s, name), Cause.CANCELLED, "told to stop"))
    assert isinstance(actions[-1], Finish)
    assert actions[-1].reason is Reason.COMMON_CAUSE
    assert "no module x" in actions[-1].message
    assert not s.replicas, "the GPUs are given back"


def test_one_replica_that_fails_everything_at_once_does_not_stop_the_run() -> None:
    """It fails in a second what takes a minute elsewhere, so that the first five failures are all its own."""
    s = started(scheduler({f"c{i}": 1 for i in range(50)}), 4)
    for number in range(7):
        if s.replicas["replica-1"].copy:
            fail(s, "replica-1", Cause.ITEM_ERROR, number + 1, "illegal instruction")
    assert s.stopping is None


def test_first_replica_that_is_ready_does_not_stop_the_run_while_others_load() -> None:
    """It is the broken one, and fails five clips in the second before the next one is ready."""
    s = scheduler({f"c{i}": 1 for i in range(50)}, max_replicas=4)
    s.handle(RunStarted(0.0))
    for number in (1, 2, 3, 4):
        s.handle(ReplicaPlaced(0.0, f"replica-{number}", f"gpu-{number}"))
    s.handle(ReplicaReady(60.0, "replica-1"))
    keys = fail_all(s, "replica-1", Cause.ITEM_ERROR, 60.5)
    assert len(keys) == len(set(keys)) == 3
    assert s.stopping is None
    s.handle(ReplicaReady(61.0, "replica-2"))
    fail_all(s, "replica-2", Cause.ITEM_ERROR, 61.5)
    assert "failed alike" in (s.broken or ""), "two of four tell"


def test_different_failures_of_the_first_clips_are_no_common_cause() -> None:
    """Five bad rows at the top of the manifest, each in its own way."""
    s = started(scheduler({f"c{i}": 1 for i in range(50)}, max_replicas=1))
    for number, words in enumerate(
        ["no picture", "too dark", "bad prompt", "odd size", "no sound", "no text"]
    ):
        fail(s, "replica-1", Cause.ITEM_ERROR, number + 1, words)
    assert s.stopping is None


def test_doubt_says_nothing_about_the_memory_of_a_large_card() -> None:
    """The only card that a clip fits is doubted for other clips' errors, and nobody else has work to show by."""
    s = scheduler({"big": 9, "x1": 8, "x2": 7, "x3": 6}, max_replicas=2)
    s.handle(RunStarted(0.0))
    s.handle(ReplicaReady(0.0, "replica-2", Loading(0, 0.0, 0.0, 0, 0.0, rung=3)))
    assert running(s, "replica-2") == "big"
    s.handle(ReplicaReady(0.0, "replica-1", Loading(0, 0.0, 0.0, 0, 0.0, rung=0)))
    for at_s, trouble in enumerate(("a", "b", "c"), start=1):
        fail(s, "replica-1", Cause.ITEM_ERROR, at_s, trouble)
    assert running(s, "replica-1") is None, "it is held while the small one is at work"
    fail(s, "replica-2", Cause.OUT_OF_MEMORY, 5)
    assert s.clips["big"].is_open
    assert running(s, "replica-2") in ("x1", "x2", "x3"), "that one gives the second opinions"
    s.handle(ClipRendered(6, *rendering(s, "replica-2")))
    assert s.replicas.keys() == {"replica-2", "replica-3"}, "the doubted one was sick"
    assert s.clips["big"].is_open
    s.validate()


def test_doubted_large_card_renders_what_fits_no_other() -> None:
    """Nobody else has work by which it could show who is to blame."""
    s = scheduler({"big": 9, "x1": 8, "x2": 7, "x3": 6}, max_replicas=2)
    s.handle(RunStarted(0.0))
    s.handle(ReplicaReady(0.0, "replica-2", Loading(0, 0.0, 0.0, 0, 0.0, rung=3)))
    s.handle(ReplicaReady(0.0, "replica-1", Loading(0, 0.0, 0.0, 0, 0.0, rung=0)))
    for at_s, trouble in enumerate(("a", "b", "c"), start=1):
        fail(s, "replica-1", Cause.ITEM_ERROR, at_s, trouble)
    for at_s in range(4, 20):
        if running(s, "replica-2") is None:
            break
        is_big = running(s, "replica-2") == "big"
        fail(s, "replica-2", Cause.OUT_OF_MEMORY if is_big else Cause.ITEM_ERROR, at_s, f"trouble {at_s}")
    assert running(s, "replica-1") == "big"
