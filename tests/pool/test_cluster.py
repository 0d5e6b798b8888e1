"""The Ray pool on a cluster of three nodes with fake GPUs: real processes, real kills, real drains. No scheduler."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.schedule.tasks import assembly
from wanflow.engines import read_spec  # noqa: F401 - the replica's first import, paid once here
from wanflow.errors import StoreAway
from wanflow.model import AssembleVariant, Attempt, Cause, Clip, EngineSpec, Mode, RenderClip, Sampling, Stage
from wanflow.pool import LoadEngine, RunContext
from wanflow.pool.processes import is_running
from wanflow.records import clip_record
from wanflow.schedule.actions import (
    Assemble,
    KillReplica,
    Reason,
    Render,
    RequestCapacity,
    RetireReplica,
    Save,
    StartReplica,
)
from wanflow.schedule.events import (
    AssembleFailed,
    ClipRendered,
    DrainNoticed,
    Event,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    StepDone,
    StepsKept,
)
from wanflow.steps import list_steps
from wanflow.storage import Store
from wanflow.storage.outage import outlast
from wanflow.testing import FakeEngine

ray = pytest.importorskip("ray")
NodeAffinitySchedulingStrategy = pytest.importorskip(
    "ray.util.scheduling_strategies"
).NodeAffinitySchedulingStrategy

pytestmark = pytest.mark.slow

#: generous: machines that run tests are busy
PATIENCE_S = 120.0
STEP_S = 0.1
SAMPLING = Sampling(100, 1.0, None, 3.0, "unipc", None)
SPEC = EngineSpec("fake", "fake", "fake", "w", frozenset({Mode.T2V}), 8.0, 16, 4, ((32, 32),), 5, SAMPLING)
CLIP = Clip(Mode.T2V, "w", "waves", "", None, 0, 32, 32, 5, 8.0, SAMPLING)

E = TypeVar("E", bound=Event)


class SteppingEngine(FakeEngine):
    def take_step(self, clip: Clip, stage: str, step: int) -> None:
        time.sleep(STEP_S)


def load_stepping_engine(spec: EngineSpec, device: str | None, num_threads: int | None) -> SteppingEngine:
    return SteppingEngine(spec)


def load_from_a_store_that_is_away(spec: EngineSpec, device: str | None, num_threads: int | None) -> Any:
    def ask() -> None:
        raise StoreAway("503")

    return outlast(ask)


class Nodes:
    """A Ray cluster on this machine: a head, and nodes that come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
        )
        try:
            self.ensure(2)
            ray.init(address=self.cluster.address, log_to_driver=False)
        except BaseException:
            self.close()
            raise

    def ensure(self, number: int) -> None:
        """``number`` nodes of two GPUs each."""
        tries = 0
        while len(self.cluster.worker_nodes) < number:
            try:
                self.cluster.add_node(num_cpus=1, num_gpus=2)
            except Exception:  # Ray gives a node 30 seconds, which a busy machine may not have
                tries += 1
                if tries == 4:
                    raise

    def remove(self, node_id: str) -> None:
        """Without grace: as when the power fails."""
        self.cluster.remove_node(self._node(node_id), allow_graceful=False)

    def workers(self, node_id: str, title: str) -> list[int]:
        """Ids of the node's worker processes that are called so."""
        raylet = self._node(node_id).all_processes["raylet"][0].process.pid
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it may end at any moment
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == raylet and (folder / "cmdline").read_bytes().startswith(title.encode()):
                    found.append(int(folder.name))
        return found

    def _node(self, node_id: str) -> Any:
        return next(node for node in self.cluster.worker_nodes if node.node_id == node_id)

    def drain(self, node_id: str, grace_s: float) -> None:
        """What a cloud's agent tells Ray two minutes before it takes a spot machine back."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + grace_s) * 1000)
        accepted, why = GcsClient(address=self.cluster.gcs_address).drain_node(
            node_id, reason, "spot", deadline_ms
        )
        assert accepted, why

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.close()


class World:
    """A pool on the cluster, one clip after the other, and what came of it."""

    def __init__(
        self, nodes: Nodes, folder: Path, gpus: float = 1, load_engine: LoadEngine = load_stepping_engine
    ) -> None:
        from wanflow.pool.ray_pool import RayPool

        self.nodes = nodes
        nodes.ensure(2)
        self.store = Store(str(folder / "work"))
        self.store.write("nonce", b"n")
        self.tasks: dict[str, RenderClip] = {}
        self.assemblies: dict[str, AssembleVariant] = {}
        context = RunContext(
            "r", 1, self.store.url, str(folder), {"w": SPEC}, self.tasks, self.assemblies, ("nonce", "n"),
            save_every_s=0.5, load_engine=load_engine,
        )  # fmt: skip
        self.pool = RayPool(context, address=nodes.cluster.address, max_replicas=4, gpus_per_replica=gpus)
        self.assembler = self.pool._assemblies._assembler
        self.seen: list[Event] = []

    def start(self, name: str) -> None:
        self.pool.perform(StartReplica(name, "w", Reason.BACKLOG))
        until = len(self.seen)
        self.until_true(lambda: any(_is_about(event, name) for event in self.seen[until:]))
        if isinstance(self.seen[-1], ReplicaLost):
            # Ray may not know yet that a node is gone, and put it there.
            lost = self.seen.pop()
            assert isinstance(lost, ReplicaLost)
            assert lost.cause is Cause.NODE_LOST, lost
            self.start(name)

    def render(self, name: str, attempt: int, steps: int = 1000) -> str:
        clip = replace(CLIP, sampling=replace(SAMPLING, steps=steps))
        task = RenderClip(clip, (Stage("base", f"{steps:064x}"), Stage("master", f"{steps + 1:064x}")))
        self.tasks[task.key] = task
        self.pool.perform(Render(name, task.key, Attempt(1, attempt), Reason.NEXT_IN_ORDER))
        return task.key

    def assemble(self, attempt: int, node_id: str) -> int:
        """Order an assembly, on that node, which does not get beyond its first master; returns its process id."""
        key = "ab" * 32
        record = Path(self.store.url) / "clips" / key[:2] / f"{key}.json"
        if not record.exists():
            record.parent.mkdir(parents=True)
            os.mkfifo(record)
        task = assembly("v", key)
        self.assemblies[task.key] = task
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        self.pool._assemblies._assembler = self.assembler.options(scheduling_strategy=there)
        self.pool.perform(Assemble(task.key, Attempt(1, attempt), Reason.CLIPS_READY))
        found: list[int] = []

        def is_there() -> bool:
            found.extend(self.nodes.workers(node_id, "ray::assemble_in_time"))
            return bool(found)

        self.until_true(is_there)
        return found[0]

    def until(self, kind: type[E], which: Callable[[E], bool] = lambda event: True) -> E:
        """The next event of a kind; what else comes on the way is noted only."""
        found: list[E] = []

        def is_it() -> bool:
            event = self.seen[-1] if self.seen else None
            if isinstance(event, kind) and which(event):
                found.append(event)
            return bool(found)

        self.until_true(is_it)
        return found[0]

    def until_true(self, condition: Callable[[], bool]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            event = self.pool.next_event(0.5)
            if event is not None:
                self.seen.append(event)
            if condition():
                return
        raise AssertionError(f"it never came; seen: {self.seen[-20:]}")

    def where(self, name: str) -> Any:
        return self.pool._replicas[name].where

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.seen)


def _is_about(event: Event, name: str) -> bool:
    return isinstance(event, ReplicaReady | ReplicaLost) and event.replica == name


@pytest.fixture
def world(nodes: Nodes, tmp_path: Path) -> Iterator[World]:
    made = World(nodes, tmp_path)
    yield made
    made.pool.close()


def test_a_replica_killed_in_mid_clip_costs_only_the_steps_since_the_last_save(world: World) -> None:
    """kill -9 at step n: the next replica goes on from the last save, and the record is whole."""
    world.start("r1")
    key = world.render("r1", 1, steps=60)
    kept = world.until(StepsKept)
    assert not kept.is_last
    os.kill(world.where("r1").process.pid, signal.SIGKILL)
    lost = world.until(ReplicaLost)
    assert (lost.replica, lost.cause, lost.permanent) == ("r1", Cause.REPLICA_LOST, False)
    world.start("r2")
    world.render("r2", 2, steps=60)
    first = world.until(StepDone, lambda event: event.replica == "r2" and event.stage == "denoise")
    assert first.step >= kept.step > 0
    done = world.until(ClipRendered)
    assert (done.replica, done.key, done.attempt) == ("r2", key, Attempt(1, 2))
    assert done.memory_bytes
    assert done.memory_bytes > 50_000_000
    assert clip_record(world.store, key)
    assert list(world.store.list("steps")) == []
    assert world.count(ReplicaLost) == 1


def test_a_node_that_goes_without_a_word_is_told_from_a_process_that_died(world: World) -> None:
    """The clip did nothing wrong: it must not pay for a power failure."""
    world.start("r1")
    world.render("r1", 1)
    world.until(StepDone)
    world.nodes.remove(world.where("r1").node_id)
    lost = world.until(ReplicaLost)
    assert (lost.replica, lost.cause) == ("r1", Cause.NODE_LOST)
    world.start("r2")
    assert world.where("r2").node_id in {node.node_id for node in world.nodes.cluster.worker_nodes}


def test_an_assembly_whose_node_goes_is_told_from_one_whose_process_died(world: World) -> None:
    """A wave of spot machines that are taken back must not fail the variants that were assembled there."""
    node_id = next(iter(world.nodes.cluster.worker_nodes)).node_id
    os.kill(world.assemble(1, node_id), signal.SIGKILL)
    died = world.until(AssembleFailed)
    assert died.cause is Cause.REPLICA_LOST
    assert "process died" in died.message
    world.assemble(2, node_id)
    world.nodes.remove(node_id)
    lost = world.until(AssembleFailed, lambda event: event.attempt == Attempt(1, 2))
    assert lost.cause is Cause.NODE_LOST
    assert "its node is gone" in lost.message


def test_a_drain_is_told_and_the_clip_goes_on_elsewhere(world: World) -> None:
    """Two minutes' notice of a spot machine: save, leave, go on from the very step."""
    world.start("r1")
    world.render("r1", 1)
    world.until(StepDone, lambda event: event.step > 3)
    node_id = world.where("r1").node_id
    world.nodes.drain(node_id, 100.0)
    notice = world.until(DrainNoticed)
    assert notice.replica == "r1"
    assert 0 < notice.grace_s <= 100.0
    key = next(iter(world.tasks))
    world.pool.perform(Save("r1", key, Attempt(1, 1), Reason.DRAINING))
    kept = world.until(StepsKept, lambda event: event.is_last)
    assert (kept.key, kept.attempt, kept.stage) == (key, Attempt(1, 1), "denoise")
    assert [found.step for found in list_steps(world.store, world.tasks[key].stages[0].key)] == [kept.step]
    world.start("r2")
    assert world.where("r2").node_id != node_id, "nothing new goes to a node that is leaving"
    world.render("r2", 2)
    first = world.until(StepDone, lambda event: event.replica == "r2" and event.stage == "denoise")
    assert first.step == kept.step
    world.nodes.remove(node_id)
    lost = world.until(ReplicaLost)
    assert (lost.replica, lost.cause) == ("r1", Cause.PREEMPTED)
    assert world.count(DrainNoticed) == 1, "told once, however often it is seen"


def test_sigterm_is_notice_and_the_clip_can_still_be_saved(world: World) -> None:
    """An agent on the node ends processes politely first."""
    world.start("r1")
    key = world.render("r1", 1)
    world.until(StepDone, lambda event: event.step > 1)
    os.kill(world.where("r1").process.pid, signal.SIGTERM)
    notice = world.until(DrainNoticed)
    assert notice.replica == "r1"
    assert notice.grace_s > 5
    world.pool.perform(Save("r1", key, Attempt(1, 1), Reason.DRAINING))
    assert world.until(StepsKept, lambda event: event.is_last).step > 1


def test_a_replica_that_is_stopped_ends_when_it_is_killed(world: World) -> None:
    """SIGSTOP, a hung driver call: it obeys neither a cancel nor ray.kill, and must give its GPU back all the same."""
    world.start("r1")
    world.render("r1", 1)
    world.until(StepDone)
    process = world.where("r1").process
    os.kill(process.pid, signal.SIGSTOP)
    world.pool.perform(KillReplica("r1", Reason.HUNG, "hung"))
    world.until_true(lambda: not is_running(process))
    assert world.count(ReplicaLost) == 0, "an order is no news"
    world.start("r2")


def test_a_replica_that_waits_for_its_store_is_not_lost_and_ends_when_told_to(
    nodes: Nodes, tmp_path: Path
) -> None:
    """The store is away while it loads: it waits, and a stop has its GPU back at once all the same."""
    world = World(nodes, tmp_path, load_engine=load_from_a_store_that_is_away)
    try:
        world.pool.perform(StartReplica("r1", "w", Reason.BACKLOG))
        world.until(ReplicaPlaced)
        process, until_s = world.where("r1").process, time.monotonic() + 4.0
        world.until_true(lambda: time.monotonic() > until_s)
        assert world.count(ReplicaLost) == 0
        assert is_running(process)
        world.pool.perform(RetireReplica("r1", Reason.STOPPING))
        world.until_true(lambda: not is_running(process))
    finally:
        world.pool.close()


def test_a_replica_that_waits_for_gpus_is_not_said_to_load(nodes: Nodes, tmp_path: Path) -> None:
    """It may wait for hours for a machine; what it may take to load counts from when it has one."""
    world = World(nodes, tmp_path, gpus=2)
    try:
        world.start("r1")
        world.start("r2")
        world.pool.perform(StartReplica("r3", "w", Reason.BACKLOG))
        until_s = time.monotonic() + 3.0
        world.until_true(lambda: time.monotonic() > until_s)
        assert not [event for event in world.seen if getattr(event, "replica", "") == "r3"]
        world.pool.perform(RetireReplica("r1", Reason.NO_MORE_WORK))
        placed = world.until(ReplicaPlaced, lambda event: event.replica == "r3")
        assert placed.node == socket.gethostname()
        world.until(ReplicaReady, lambda event: event.replica == "r3")
    finally:
        world.pool.close()


def test_the_gpus_of_a_large_replica_lie_on_one_node(nodes: Nodes, tmp_path: Path) -> None:
    """Two GPUs a replica: a group of their own, given back with the replica."""
    from ray.util import placement_group_table

    def groups(state: str) -> list[dict[str, Any]]:
        table: dict[str, dict[str, Any]] = placement_group_table()
        return [group for group in table.values() if group["state"] == state]

    world = World(nodes, tmp_path, gpus=2)
    try:
        world.start("r1")
        (group,) = groups("CREATED")
        assert group["strategy"] == "STRICT_PACK"
        assert group["bundles"] == {0: {"GPU": 2.0}}
        world.pool.perform(RequestCapacity(3, Reason.BACKLOG))
        assert _requested() == [{"GPU": 2.0}] * 3
        world.pool.perform(RetireReplica("r1", Reason.NO_MORE_WORK))
        world.until_true(lambda: not groups("CREATED"))
    finally:
        world.pool.close()
    assert _requested() == [], "a request outlives its driver unless it is cleared"


def _requested() -> list[dict[str, float]]:
    """The room that the cluster's autoscaler is asked for."""
    import json

    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    stored = _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)
    found: list[dict[str, float]] = json.loads(stored) if stored else []
    return found
