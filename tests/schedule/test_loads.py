"""A replica that is not ready yet: it may wait for a machine for hours, but not load for ever."""

from __future__ import annotations

import pytest

from tests.schedule.tasks import rendering, scheduler, started
from wanflow.model import Cause
from wanflow.schedule import Scheduler
from wanflow.schedule.actions import Action, Finish, KillReplica, Reason, Render, RetireReplica, StartReplica
from wanflow.schedule.events import (
    ClipMissing,
    ClipRendered,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    RunStarted,
    Tick,
)
from wanflow.schedule.state import VariantStatus

HOUR_S = 3600.0


def ticks(s: Scheduler, from_s: float, to_s: float, every_s: float = 20.0) -> list[tuple[float, Action]]:
    """Time passes, looked at as the driver does: (when, what was ordered)."""
    found = []
    now_s = from_s
    while now_s < to_s and not s.finished:
        now_s = min(now_s + every_s, s.next_wake_s or to_s, to_s)
        found += [(now_s, action) for action in s.handle(Tick(now_s))]
        s.validate()
    return found


def kills(found: list[tuple[float, Action]]) -> list[tuple[float, str]]:
    """When which replica was ended as hung."""
    return [
        (at_s, each.replica)
        for at_s, each in found
        if isinstance(each, KillReplica) and each.reason is Reason.HUNG
    ]


def test_a_replica_may_wait_for_its_machine_for_hours() -> None:
    """Nobody has GPUs to lend before three in the morning: that is no fault of anybody's."""
    s = scheduler({"a": 1}, max_replicas=1)
    s.handle(RunStarted(0.0))
    assert ticks(s, 0.0, 9 * HOUR_S) == []
    s.handle(ReplicaPlaced(9 * HOUR_S, "replica-1", "gpu-7"))
    assert ticks(s, 9 * HOUR_S, 9.9 * HOUR_S) == []
    actions = s.handle(ReplicaReady(9.9 * HOUR_S, "replica-1"))
    assert [type(action) for action in actions] == [Render]


def test_a_replica_that_loads_for_ever_is_ended_and_replaced() -> None:
    """The mount under its checkpoint is dead: its one replica must not cost the whole night."""
    s = scheduler({"a": 1}, max_replicas=1, hang_load_s=600.0)
    s.handle(RunStarted(0.0))
    s.handle(ReplicaPlaced(100.0, "replica-1", "gpu-7"))
    assert s.next_wake_s == 700.0
    assert ticks(s, 100.0, 400.0) == []
    s.handle(ReplicaPlaced(400.0, "replica-1", "gpu-7"))  # said twice
    (at_s, kill), (_, start) = ticks(s, 400.0, 1000.0)
    assert at_s == 700.0
    assert isinstance(kill, KillReplica)
    assert (kill.replica, kill.reason) == ("replica-1", Reason.HUNG)
    assert "replica-1 hung while it loaded: not ready 600 s after its process began on gpu-7" in kill.message
    assert "limits.max_load_minutes" in kill.message
    assert start == StartReplica("replica-2", "w", Reason.HUNG)
    assert s.handle(ReplicaReady(1000.0, "replica-1")) == [], "that was late"
    s.handle(ReplicaPlaced(1000.0, "replica-2", "gpu-8"))
    assert isinstance(s.handle(ReplicaReady(1100.0, "replica-2"))[0], Render)
    assert not s.clips["a"].failures, "no clip pays"


def test_a_driver_that_slept_does_not_blame_a_replica_that_loads() -> None:
    """A laptop was closed over lunch; the cluster may have gone on, but its news is only now coming in."""
    s = scheduler({"a": 1}, max_replicas=1)
    s.handle(RunStarted(0.0))
    s.handle(ReplicaPlaced(0.0, "replica-1"))
    assert s.handle(Tick(2 * HOUR_S)) == []
    assert kills(ticks(s, 2 * HOUR_S, 3 * HOUR_S)) == [(3 * HOUR_S - 30.0, "replica-1")]


def test_a_sleep_of_the_driver_is_not_learnt_as_a_slow_load() -> None:
    """Else the next one that hangs would be waited for three times as long as the laptop slept."""
    s = started(scheduler({"a": 100, "b": 100}, max_replicas=2, hang_first_s=1e9))
    s.handle(ReplicaPlaced(0.0, "replica-2"))
    s.handle(ReplicaReady(8 * HOUR_S, "replica-2"))
    key = rendering(s, "replica-2")[1]
    s.handle(ReplicaLost(8 * HOUR_S, "replica-2", "process died"))
    s.handle(ClipMissing(8 * HOUR_S, key))
    s.handle(ReplicaPlaced(8 * HOUR_S, "replica-3"))
    assert kills(ticks(s, 8 * HOUR_S, 10 * HOUR_S)) == [(9 * HOUR_S, "replica-3")]


def test_a_slow_load_that_was_seen_gives_the_next_ones_of_its_engine_more_time() -> None:
    """50 minutes from this store, as the first replica showed: two hours and a half are no sign of anything yet."""
    s = scheduler(dict.fromkeys("abcd", 1), max_replicas=3, hang_first_s=1e9, weights={"d": "v"})
    s.handle(RunStarted(0.0))
    (other,) = (name for name, replica in s.replicas.items() if replica.weights == "v")
    first, second = (name for name in s.replicas if name != other)
    s.handle(ReplicaPlaced(0.0, first))
    assert ticks(s, 0.0, 3000.0) == []
    s.handle(ReplicaReady(3000.0, first))
    s.handle(ReplicaPlaced(3000.0, second))
    s.handle(ReplicaPlaced(3000.0, other))
    found = kills(ticks(s, 3000.0, 4 * HOUR_S))
    assert (3000.0 + HOUR_S, other) in found
    assert (3000.0 + 3 * 3000.0, second) in found


def test_three_loads_that_hang_end_the_run_when_nobody_is_ready() -> None:
    """The store is behind a firewall that swallows packets: three hours tell it, and say where to look."""
    s = scheduler({"a": 1}, {"v": ("a",)}, max_replicas=1)
    s.handle(RunStarted(0.0))
    for number in (1, 2, 3):
        s.handle(ReplicaPlaced((number - 1) * HOUR_S, f"replica-{number}", f"gpu-{number}"))
        found = ticks(s, (number - 1) * HOUR_S, number * HOUR_S)
        assert kills(found) == [(number * HOUR_S, f"replica-{number}")]
    finish = found[-1][1]
    assert isinstance(finish, Finish)
    assert finish.reason is Reason.CANNOT_START
    assert "no replica can start: replica-3 hung while it loaded: not ready 3600 s" in finish.message
    assert "gpu-3" in finish.message
    assert s.variants["v.mp4"].status is VariantStatus.LEFT
    assert s.broken == finish.message


def eight_nodes() -> Scheduler:
    """Eight replicas load, each on a node of its own."""
    s = scheduler({f"c{i}": 1 for i in range(50)}, max_replicas=8)
    s.handle(RunStarted(0.0))
    for number in range(1, 9):
        s.handle(ReplicaPlaced(0.0, f"replica-{number}", f"gpu-{number}"))
    return s


def test_a_start_that_dies_before_its_node_is_known_is_no_second_node() -> None:
    """Its process did not live for long enough to say where it was."""
    s = eight_nodes()
    s.handle(ReplicaLost(10.0, "replica-3", "no driver", permanent=True))
    s.handle(ReplicaLost(11.0, "replica-9", "process died", permanent=True))
    assert s.stopping is None


@pytest.mark.parametrize("permanent", [True, False])
def test_a_node_on_which_nothing_starts_does_not_end_the_run_while_others_load(permanent: bool) -> None:
    """It has no driver, says so in seconds, and is the only one with room for each replacement."""
    s = eight_nodes()
    name, num_tried = "replica-3", 0
    for at_s in range(10, 300):
        actions = s.handle(ReplicaLost(at_s, name, "no driver", permanent)) if name else s.handle(Tick(at_s))
        num_tried += bool(name)
        s.validate()
        name = next((each.replica for each in actions if isinstance(each, StartReplica)), "")
        if name:
            s.handle(ReplicaPlaced(at_s, name, "gpu-3"))
    assert s.stopping is None
    assert 5 < num_tried < 15, "starts there are spaced out"
    assert isinstance(s.handle(ReplicaReady(300.0, "replica-1"))[0], Render)


def test_an_error_that_would_come_again_ends_the_run_when_a_second_node_has_it() -> None:
    """The checkpoint is broken: two nodes tell it, and nobody waits for the other six."""
    s = eight_nodes()
    s.handle(ReplicaLost(10.0, "replica-3", "no such tensor", permanent=True))
    assert s.stopping is None
    actions = s.handle(ReplicaLost(11.0, "replica-4", "no such tensor", permanent=True))
    assert isinstance(actions[-1], Finish)
    assert actions[-1].message == "no replica can start: no such tensor"


def test_an_error_that_would_come_again_ends_the_run_when_no_other_node_loads() -> None:
    """Two replicas share the only node that there is; a third one has no machine, and may never get one."""
    s = scheduler(dict.fromkeys("abc", 1), max_replicas=3)
    s.handle(RunStarted(0.0))
    for name in ("replica-1", "replica-2"):
        s.handle(ReplicaPlaced(0.0, name, "gpu-1"))
    actions = s.handle(ReplicaLost(10.0, "replica-1", "no such tensor", permanent=True))
    assert isinstance(actions[-1], Finish)
    assert actions[-1].reason is Reason.CANNOT_START


def test_the_last_other_node_that_loads_settles_what_is_wrong() -> None:
    """Seven nodes are taken back while they load: what is left is the node without a driver, and the run ends."""
    s = eight_nodes()
    s.handle(ReplicaLost(10.0, "replica-3", "no driver", permanent=True))
    for number in (1, 2, 4, 5, 6, 7, 8):
        s.handle(ReplicaLost(20.0, f"replica-{number}", "taken back", cause=Cause.PREEMPTED))
    assert s.stopping is None
    s.handle(ReplicaPlaced(30.0, "replica-9", "gpu-3"))
    actions = s.handle(ReplicaLost(31.0, "replica-9", "no driver", permanent=True))
    assert isinstance(actions[-1], Finish)


def test_loads_that_hang_at_once_are_all_ended() -> None:
    """Eight replicas wait for one dead mount: none is only let go, as if it would heed that."""
    s = scheduler(dict.fromkeys("abcdefgh", 1), max_replicas=8)
    s.handle(RunStarted(0.0))
    for number in range(1, 8):
        s.handle(ReplicaPlaced(0.0, f"replica-{number}"))
    found = ticks(s, 0.0, HOUR_S)
    assert kills(found) == [(HOUR_S, f"replica-{number}") for number in range(1, 8)]
    assert [each for _, each in found if isinstance(each, RetireReplica)] == [
        RetireReplica("replica-8", Reason.STOPPING)
    ], "it still waits for its machine"
    assert isinstance(found[-1][1], Finish)


def test_loads_that_hang_while_others_work_do_not_end_the_run() -> None:
    """One node's mount is dead; the others go on, and starts there are tried again and again."""
    s = scheduler({f"c{i}": 1 for i in range(9)}, max_replicas=2, hang_first_s=1e9)
    s.handle(RunStarted(0.0))
    s.handle(ReplicaReady(0.0, "replica-1"))
    ended = []
    now_s = 0.0
    while now_s < 8 * HOUR_S:
        for name, replica in list(s.replicas.items()):
            if replica.status == "starting":
                s.handle(ReplicaPlaced(now_s, name))
        found = ticks(s, now_s, now_s + HOUR_S / 4)
        now_s += HOUR_S / 4
        ended += kills(found)
    assert len(ended) >= 5
    assert s.stopping is None
    s.handle(ClipRendered(now_s, *rendering(s, "replica-1")))
    s.validate()


def test_a_replica_that_is_lost_while_it_loads_is_not_ended_later() -> None:
    """Its process died at minute ten: the one that took its place has an hour of its own."""
    s = scheduler({"a": 1}, max_replicas=1)
    s.handle(RunStarted(0.0))
    s.handle(ReplicaPlaced(0.0, "replica-1"))
    ticks(s, 0.0, 600.0)
    s.handle(ReplicaLost(600.0, "replica-1", "process died"))
    s.handle(ReplicaPlaced(600.0, "replica-2"))
    assert kills(ticks(s, 600.0, 2 * HOUR_S)) == [(600.0 + HOUR_S, "replica-2")]


def test_a_wait_for_a_machine_is_not_learnt_as_a_slow_load() -> None:
    """Two hours in a queue and a minute of loading: one without work stays for a minute, not for two hours."""
    s = scheduler({"a": 1000, "b": 10}, max_replicas=2, hang_first_s=1e9)
    s.handle(RunStarted(0.0))
    ticks(s, 0.0, 2 * HOUR_S)
    for name in ("replica-1", "replica-2"):
        s.handle(ReplicaPlaced(2 * HOUR_S, name))
    ticks(s, 2 * HOUR_S, 2 * HOUR_S + 60.0)
    for name in ("replica-1", "replica-2"):
        s.handle(ReplicaReady(2 * HOUR_S + 60.0, name))
    s.handle(ClipRendered(2 * HOUR_S + 70.0, *rendering(s, "replica-2")))
    found = ticks(s, 2 * HOUR_S + 70.0, 3 * HOUR_S)
    assert (2 * HOUR_S + 130.0, RetireReplica("replica-2", Reason.NO_MORE_WORK)) in found
