"""The pool without Ray takes the same orders and gives the same events."""

from __future__ import annotations

from pathlib import Path

from tests.pool.test_replica import BASE, SPEC, TASK, SlowEngine
from wanflow.model import Attempt, Cause, Loading
from wanflow.pool import RunContext
from wanflow.pool.inline import InlinePool
from wanflow.schedule.actions import (
    KillReplica,
    Probe,
    Reason,
    Render,
    RequestCapacity,
    Save,
    StartReplica,
)
from wanflow.schedule.events import (
    ClipFound,
    ClipRendered,
    Event,
    RenderFailed,
    ReplicaLost,
    ReplicaReady,
    StepsKept,
)
from wanflow.steps import list_steps
from wanflow.storage import Store

FIRST, SECOND = Attempt(1, 1), Attempt(1, 2)


class World:
    def __init__(self, folder: Path, save_every_s: float = 1e9) -> None:
        self.store = Store(str(folder))
        self.store.write("nonce", b"n")
        self.engine = SlowEngine()
        self.stop: str | None = None
        context = RunContext(
            "r", 1, self.store.url, "", {"w": SPEC}, {TASK.key: TASK}, {}, ("nonce", "n"),
            save_every_s=save_every_s, load_engine=lambda *_: self.engine,
        )  # fmt: skip
        self.pool = InlinePool(context, clock=lambda: 7.0, why_stop=lambda: self.stop)
        self.pool.perform(StartReplica("r1", "w", Reason.BACKLOG))
        assert self.pool.next_event(0) == ReplicaReady(7.0, "r1")

    def render(self, attempt: Attempt, thrift: int = 0) -> None:
        self.pool.perform(Render("r1", TASK.key, attempt, Reason.NEXT_IN_ORDER, thrift))

    def events(self) -> list[Event]:
        found = []
        while event := self.pool.next_event(0):
            found.append(event)
        return found


def test_an_order_to_save_is_answered_and_the_next_attempt_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)

    def save(stage: str, step: int) -> None:
        if step == 3:
            world.pool.perform(Save("r1", TASK.key, FIRST, Reason.DRAINING))

    world.engine.before = save
    world.render(FIRST)
    (kept,) = world.events()
    assert isinstance(kept, StepsKept)
    assert (kept.attempt, kept.stage, kept.step, kept.is_last) == (FIRST, "denoise", 3, True)
    assert kept.seconds
    world.render(SECOND, thrift=1)
    (done,) = world.events()
    assert isinstance(done, ClipRendered)
    assert done.memory_bytes
    assert world.engine.thrift == 1
    assert [step for _, step in world.engine.steps] == [1, 2, 3, 4, 5, 6]
    world.pool.perform(RequestCapacity(3, Reason.BACKLOG))
    world.pool.perform(Probe(TASK.key, Reason.MAY_BE_DONE))
    assert world.events() == [ClipFound(7.0, TASK.key)]


def test_how_a_replica_came_to_its_first_step_is_told_once(tmp_path: Path) -> None:
    """Bandwidth of its start with its readiness, time to its first step with its first clip."""
    world = World(tmp_path)
    loading = world.engine.loading = Loading(126 * 10**9, 105.0, 0.5, 126 * 10**9, 50.0)
    world.pool.perform(StartReplica("r1", "w", Reason.BACKLOG))
    assert world.events() == [ReplicaReady(7.0, "r1", loading)]
    world.render(FIRST)
    (done,) = world.events()
    assert isinstance(done, ClipRendered)
    assert done.first_step_s is not None
    world.render(SECOND)
    (done,) = world.events()
    assert isinstance(done, ClipRendered)
    assert done.first_step_s is None


def test_a_stop_in_mid_clip_keeps_its_steps(tmp_path: Path) -> None:
    """Ctrl-C at minute nine of a ten-minute clip: the next run has one minute to go."""
    world = World(tmp_path)

    def stop(stage: str, step: int) -> None:
        if step == 5:
            world.stop = "stopped by SIGINT"

    world.engine.before = stop
    world.render(FIRST)
    kept, failed = world.events()
    assert kept == StepsKept(7.0, "r1", TASK.key, FIRST, "denoise", 5)
    assert isinstance(failed, RenderFailed)
    assert failed.cause is Cause.CANCELLED
    assert [kept.step for kept in list_steps(world.store, BASE)] == [5]


def test_steps_kept_on_the_way_are_told(tmp_path: Path) -> None:
    world = World(tmp_path, save_every_s=0.0)
    world.render(FIRST)
    *kept, done = world.events()
    assert isinstance(done, ClipRendered)
    assert kept
    assert all(isinstance(event, StepsKept) and not event.is_last for event in kept)


def test_a_killed_replica_renders_no_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pool.perform(KillReplica("r1", Reason.SICK, "sick"))
    assert world.events() == []
    world.render(FIRST)
    (lost,) = world.events()
    assert isinstance(lost, ReplicaLost)
