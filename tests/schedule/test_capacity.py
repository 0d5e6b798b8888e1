"""How many replicas: asked for by backlog, kept, recycled, started again after a while."""

from __future__ import annotations

import itertools

from tests.schedule.tasks import rendering, scheduler, started
from wanflow.schedule.actions import Finish, Reason, RequestCapacity, RetireReplica, StartReplica
from wanflow.schedule.events import (
    ClipRendered,
    ReplicaLost,
    ReplicaReady,
    RunStarted,
    Tick,
    VariantPublished,
)
from wanflow.schedule.policy import Policy, choose_capacity


def test_capacity_is_requested_by_backlog_and_cleared_at_the_end() -> None:
    """The cluster grows for the night's work and shrinks with it; nothing is asked for in the morning."""
    s = scheduler({"a": 3, "b": 2, "c": 1}, max_replicas=8, quiet=False)
    assert s.handle(RunStarted(0))[0] == RequestCapacity(3, Reason.BACKLOG)
    for number in (1, 2, 3):
        s.handle(ReplicaReady(1, f"replica-{number}"))
    assert RequestCapacity(2, Reason.NO_MORE_WORK) in s.handle(ClipRendered(2, *rendering(s, "replica-3")))
    s.handle(ClipRendered(3, *rendering(s, "replica-2")))
    assert RequestCapacity(0, Reason.NO_MORE_WORK) in s.handle(ClipRendered(4, *rendering(s, "replica-1")))


def test_stop_clears_the_request_at_once() -> None:
    from wanflow.schedule.events import StopRequested

    s = scheduler({"a": 3, "b": 2}, max_replicas=8, quiet=False)
    s.handle(RunStarted(0))
    actions = s.handle(StopRequested(1, "stop"))
    assert actions[0] == RequestCapacity(0, Reason.STOPPING)
    assert isinstance(actions[-1], Finish)


def test_large_runs_change_their_request_in_steps() -> None:
    """The tail of a thousand replicas is twenty requests, not a thousand."""
    policy = Policy(max_replicas=1000, max_assemblies=1)
    assert len({choose_capacity(policy, num) for num in range(2000)}) == 21
    assert choose_capacity(policy, 1) == 50
    assert choose_capacity(policy, 0) == 0


def test_min_replicas_stay_to_the_end_of_the_run() -> None:
    s = started(scheduler({"a": 2, "b": 1}, min_replicas=2, idle_s=0.0), 2)
    s.handle(ClipRendered(1, *rendering(s, "replica-2")))
    s.handle(Tick(1000))
    assert s.replicas.keys() == {"replica-1", "replica-2"}


def test_min_replicas_go_for_another_engine_that_waits() -> None:
    """One GPU, two engines, a minimum of two: the second engine's replica waits for the GPU that the first one has."""
    s = scheduler({"a": 2, "b": 1}, weights={"a": "t2v", "b": "i2v"}, min_replicas=2)
    s.handle(RunStarted(0))
    (name,) = (name for name, replica in s.replicas.items() if replica.weights == "t2v")
    s.handle(ReplicaReady(1, name))
    actions = s.handle(ClipRendered(2, *rendering(s, name)))
    assert RetireReplica(name, Reason.OTHER_ENGINE_WAITS) in actions
    s.validate()


def test_min_replicas_at_the_tail_go_for_another_engine_that_waits() -> None:
    """The last clip of the first engine takes an hour: its second replica is not kept idle beside it all the time."""
    weights = {"a1": "t2v", "a2": "t2v", "b": "i2v"}
    s = scheduler(
        {"a1": 3600, "a2": 10, "b": 1}, weights=weights, min_replicas=3, max_replicas=3, idle_s=30.0
    )
    s.handle(RunStarted(0))
    first, second = (name for name, replica in s.replicas.items() if replica.weights == "t2v")
    for name in (first, second):
        s.handle(ReplicaReady(1, name))
    s.handle(ClipRendered(11, *rendering(s, second)))
    assert RetireReplica(second, Reason.NO_MORE_WORK) in s.handle(Tick(41))
    s.validate()


def test_replica_that_still_loads_is_not_waited_for_at_the_tail() -> None:
    """The machine came when the work was done: it is given back before it has loaded anything."""
    s = scheduler({"a": 2, "b": 1})
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    assert RetireReplica("replica-2", Reason.NO_MORE_WORK) in s.handle(
        ClipRendered(2, *rendering(s, "replica-1"))
    )


def test_replica_is_recycled_after_so_many_clips_while_there_is_work() -> None:
    """Drivers leak; a fresh process now and then is cheaper than a dead one."""
    s = started(scheduler(dict.fromkeys("abcd", 1), max_replicas=1, recycle_after=2))
    s.handle(ClipRendered(1, *rendering(s, "replica-1")))
    actions = s.handle(ClipRendered(2, *rendering(s, "replica-1")))
    assert actions[:1] == [RetireReplica("replica-1", Reason.RECYCLED)]
    assert StartReplica("replica-2", "w", Reason.RECYCLED) in actions
    s.handle(ReplicaReady(3, "replica-2"))
    s.handle(ClipRendered(4, *rendering(s, "replica-2")))
    actions = s.handle(ClipRendered(5, *rendering(s, "replica-2")))
    assert not any(isinstance(action, StartReplica) for action in actions), "nothing is left to do"


def test_replica_whose_memory_grows_is_recycled() -> None:
    """Twice what it had after its first clip, and more than eight gigabytes on top: that is a leak."""
    gib = 1 << 30
    s = started(scheduler(dict.fromkeys("abcdef", 1), max_replicas=1))
    for number, memory_bytes in enumerate([10 * gib, 12 * gib, 17 * gib]):
        s.handle(ClipRendered(number, *rendering(s, "replica-1"), memory_bytes=memory_bytes))
    actions = s.handle(ClipRendered(4, *rendering(s, "replica-1"), memory_bytes=21 * gib))
    assert actions[:1] == [RetireReplica("replica-1", Reason.RECYCLED)]


def test_starts_that_fail_are_spaced_out_while_others_work() -> None:
    """One node type has no driver: its replicas die at once, and are not tried again every second."""
    s = scheduler({f"c{i}": 100 for i in range(10)})
    s.handle(RunStarted(0))
    s.handle(ReplicaReady(1, "replica-1"))
    started_at = []
    for now_s in range(2, 200):
        actions = s.handle(Tick(float(now_s)))
        started_at += [now_s for action in actions if isinstance(action, StartReplica)]
        for name, replica in list(s.replicas.items()):
            if replica.status == "starting":
                actions = s.handle(ReplicaLost(now_s + 0.5, name, "no driver"))
                started_at += [now_s for action in actions if isinstance(action, StartReplica)]
    gaps = [after - before for before, after in itertools.pairwise(started_at)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 32
    assert s.stopping is None
    s.validate()


def test_published_variants_end_the_run_although_replicas_wait() -> None:
    s = started(scheduler({"a": 1}, max_replicas=1, min_replicas=1))
    s.handle(ClipRendered(1, *rendering(s, "replica-1")))
    variant = s.variants["v-a.mp4"]
    assert variant.attempt
    assert s.handle(VariantPublished(2, "v-a.mp4", variant.attempt)) == [
        RetireReplica("replica-1", Reason.DONE),
        Finish(Reason.DONE),
    ]
