"""Random jobs in random worlds, played in virtual time and validated after every event.

``draw_world`` draws a job, a policy and a world from a seed; ``play`` plays it to its end, and ``judge`` says whether
the end is true. What goes wrong raises :class:`Broken`, whose message is the story: every action, every event, and
the line that plays it again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tests.schedule.tasks import assembly, render
from wanflow.model import Cause
from wanflow.schedule import PlannedRender, Policy, Scheduler
from wanflow.schedule.actions import Finish, KillReplica, Reason, RetireReplica
from wanflow.schedule.events import ReplicaLost, ReplicaPlaced, ReplicaReady, RunStarted, StopRequested, Tick
from wanflow.schedule.state import TOO_LATE, VariantStatus
from wanflow.testing import FakePool, Faults

#: the driver looks up from waiting at least this often; below Policy.max_gap_s
MAX_WAIT_S = 20.0
MAX_EVENTS = 20_000
#: loads take five seconds, and ten by the news of them at most
HANG_LOAD_S = 15.0
LONGEST_LOAD_S = 10.0


class Broken(AssertionError):
    """A promise was broken; the message tells the story."""


@dataclass
class World:
    """A job, how it is to be done, and what happens to it."""

    seed: int
    lengths: dict[str, float]
    weights: dict[str, str]
    groups: dict[str, str]
    priorities: dict[str, int]
    #: the plan's guess; None: it has none
    expected: dict[str, float | None]
    variants: dict[str, tuple[str, ...]]
    held: frozenset[str]
    #: held by record, but somebody deleted the master
    vanished: frozenset[str]
    faults: Faults
    policy: Policy
    keep_every: int
    num_nodes: int
    #: None: as many as are asked for
    num_gpus: int | None
    stop_at_s: float | None
    #: the name of a trunk that clips of an engine share, or nothing
    trunks: dict[str, str]
    #: share of a clip's seconds that may pass beside the next one's steps
    tail_share: float

    @property
    def used(self) -> list[str]:
        return sorted({key for masters in self.variants.values() for key in masters})


def draw_world(seed: int) -> World:
    """One of very many; small enough that its story can be read."""
    draw = random.Random(seed)
    keys = [f"c{i}" for i in range(draw.choice([1, 2, 4, 8, 16, 30]))]
    engines = draw.choice([["w1"], ["w1"], ["w1", "w2"]])
    scale = draw.choice([1.0, 20.0])
    lengths = {key: scale * draw.lognormvariate(1.0, 0.8) for key in keys}
    guess = draw.choice(["none", "exact", "noisy", "some"])

    def expected(key: str) -> float | None:
        if guess == "none" or (guess == "some" and draw.random() < 0.5):
            return None
        return lengths[key] * (draw.uniform(0.8, 1.2) if guess != "exact" else 1.0)

    max_replicas = draw.randint(1, 6)
    # what has a draw of its own was added later, and leaves a seed's world otherwise what it was
    gpus, mixed = random.Random(f"gpus of {seed}"), random.Random(f"rungs of {seed}")
    policy = Policy(
        max_replicas=max_replicas,
        max_assemblies=2,
        min_replicas=gpus.choice([0, draw.choice([0, 0, 0, 1]), max_replicas]),
        max_attempts=draw.choice([1, 3, 3, 5]),
        deadline_s=draw.choice([None, None, None, None, draw.uniform(20, 400)]),
        stop_grace_s=draw.choice([20.0, 60.0]),
        recycle_after=draw.choice([None, None, None, 2]),
        idle_s=draw.choice([0.0, 30.0]),
        hang_load_s=HANG_LOAD_S,
    )
    numbers = range(1, 4 * max_replicas)
    faults = Faults(
        render_fails=draw.choice([0, 0, 0.1, 0.3]),
        replica_dies=draw.choice([0, 0, 0.1]),
        start_fails=draw.choice([0, 0, 0.2]),
        hangs=draw.choice([0, 0, 0.1]),
        preempted=draw.choice([0, 0, 0.2]),
        node_lost=draw.choice([0, 0, 0.1]),
        assemble_fails=draw.choice([0, 0, 0.1]),
        master_vanishes=draw.choice([0, 0, 0.1]),
        store_away=draw.choice([0, 0, 0.2]),
        doubled=draw.choice([0, 0.3]),
        delayed=draw.choice([0, 0.3]),
        dropped=draw.choice([0, 0, 0.3]),
        late_s=draw.choice([0, 0, 100.0]),
        sick=dict.fromkeys(draw.sample(numbers, 1), gpus.choice([0, 3])) if draw.random() < 0.15 else {},
        bad_nodes=gpus.choice([frozenset(), frozenset(), frozenset(), frozenset({1})]),
        slow={draw.choice(numbers): 3.0} if draw.random() < 0.3 else {},
        too_large={draw.choice(keys): draw.randint(1, 4)} if draw.random() < 0.15 else {},
        always={draw.choice(keys): draw.choice([c for c in Cause if c is not Cause.CANCELLED])}
        if draw.random() < 0.2
        else {},
        rungs=mixed.choice([(0,), (0,), (0,), (0, 2), (1, 2, 3)]),
        too_small={mixed.choice(keys): 2, mixed.choice(keys): 3} if mixed.random() < 0.5 else {},
        load_hangs=random.Random(f"loads of {seed}").choice([0, 0, 0, 0.2, 0.5]),
    )
    held = frozenset(key for key in keys if draw.random() < 0.1)
    return World(
        seed=seed,
        lengths=lengths,
        weights={key: draw.choice(engines) for key in keys},
        groups={key: draw.choice(["", "g1", "g2"]) for key in keys},
        priorities={key: draw.choice([0, 0, 0, 1]) for key in keys},
        expected={key: expected(key) for key in keys},
        variants={
            f"v{i}": tuple(draw.sample(keys, draw.randint(1, min(3, len(keys)))))
            for i in range(draw.randint(1, 2 * len(keys)))
        },
        held=held,
        vanished=frozenset(key for key in sorted(held) if draw.random() < 0.3),
        faults=faults,
        policy=policy,
        keep_every=draw.choice([0, 1, 2]),
        num_nodes=draw.randint(1, 3),
        num_gpus=gpus.choice([None, None, 1, 2]),
        stop_at_s=draw.uniform(0, 200) if draw.random() < 0.15 else None,
        trunks=_draw_trunks(seed, keys),
        tail_share=random.Random(f"tails of {seed}").choice([0.0, 0.05, 0.2, 0.7]),
    )


def _draw_trunks(seed: int, keys: list[str]) -> dict[str, str]:
    draw = random.Random(f"trunks of {seed}")
    names = draw.choice([[""], ["t1"], ["", "t1", "t2"]])
    return {key: draw.choice(names) for key in keys}


def kind(world: World) -> World:
    """The same job where nothing goes wrong and nobody is in a hurry."""
    policy = replace(world.policy, deadline_s=None, recycle_after=None)
    return replace(world, faults=Faults(), policy=policy, stop_at_s=None, vanished=frozenset())


def play(
    world: World, pool_type: type[FakePool] = FakePool, max_events: int = MAX_EVENTS
) -> tuple[Scheduler, FakePool]:
    """Play ``world`` to its end; raises Broken."""
    tasks = {name: assembly(name, *masters) for name, masters in world.variants.items()}
    pool = pool_type(
        world.lengths.__getitem__,
        {task.key: task.masters for task in tasks.values()},
        seed=world.seed,
        faults=world.faults,
        max_replicas=world.policy.max_replicas,
        keep_every=world.keep_every,
        num_nodes=world.num_nodes,
        num_gpus=world.num_gpus,
        held=world.held - world.vanished,
        tail_share=world.tail_share,
    )
    makers: dict[tuple[str, str], str] = {}
    for key in world.used:
        if world.trunks[key] and key not in world.held:
            makers.setdefault((world.weights[key], world.trunks[key]), key)
    scheduler = Scheduler(
        [
            PlannedRender(
                render(key, world.weights[key], world.trunks[key] and world.weights[key] + world.trunks[key]),
                world.priorities[key],
                world.lengths[key],
                world.expected[key],
                world.groups[key],
                world.groups[key] + world.weights[key],
                key in world.held,
                key in makers.values(),
            )
            for key in world.used
        ],
        [(task, 0) for task in tasks.values()],
        world.policy,
        epoch=1,
    )
    try:
        _play(world, scheduler, pool, max_events)
        judge(world, scheduler, pool)
    except AssertionError as error:
        raise Broken(story(world, pool, error)) from error
    return scheduler, pool


def _play(world: World, scheduler: Scheduler, pool: FakePool, max_events: int) -> None:
    actions = scheduler.handle(RunStarted(0.0))
    stop_at_s = world.stop_at_s
    for _ in range(max_events):
        scheduler.validate()
        for action in actions:
            pool.perform(action)
        if any(isinstance(action, Finish) for action in actions):
            return
        wake_s = scheduler.next_wake_s
        wait_s = MAX_WAIT_S if wake_s is None else min(MAX_WAIT_S, max(0.0, wake_s - pool.now_s))
        if stop_at_s is not None:
            if pool.now_s >= stop_at_s:
                stop_at_s = None
                actions = scheduler.handle(StopRequested(pool.now_s, "stop"))
                continue
            wait_s = min(wait_s, stop_at_s - pool.now_s)
        actions = scheduler.handle(pool.next_event(wait_s) or Tick(pool.now_s))
    raise AssertionError(f"no end after {max_events} events")


def judge(world: World, scheduler: Scheduler, pool: FakePool) -> None:
    """Every variant has ended with a true status."""
    in_time = world.policy.deadline_s is None or pool.now_s < world.policy.deadline_s
    for key, variant in scheduler.variants.items():
        match variant.status:
            case VariantStatus.PUBLISHED:
                assert key in pool.published, f"{key} is said to be published"
            case VariantStatus.FAILED:
                assert variant.message, f"{key} failed without a reason"
                assert variant.failures or any(scheduler.clips[k].failures for k in variant.masters), (
                    f"{key}: why?"
                )
            case VariantStatus.LEFT:
                late = variant.message == TOO_LATE and world.policy.deadline_s is not None
                assert scheduler.stopping or late, f"{key} is left although nobody stopped the run"
                assert scheduler.broken or world.stop_at_s is not None or late or not in_time, f"{key}: left"
            case other:
                raise AssertionError(f"{key} ends as {other}")
    _judge_loads(world, pool)


def _judge_loads(world: World, pool: FakePool) -> None:
    """A load that hangs is ended in time, and no other one is."""
    placed: dict[str, float] = {}
    budget_s = max(world.policy.hang_load_s, world.policy.hang_load_factor * LONGEST_LOAD_S)
    for time_s, fact in pool.story:
        match fact:
            case ReplicaPlaced(replica=name):
                placed.setdefault(name, time_s)
            case ReplicaReady(replica=name):
                placed[name] = float("inf")
            case KillReplica(replica=name, reason=Reason.HUNG) if placed[name] != float("inf"):
                assert name in pool.load_hung, f"{name} is ended while it loads"
                assert time_s >= placed[name] + world.policy.hang_load_s - 1e-3, f"{name} is ended too early"
                assert time_s <= placed[name] + budget_s + 1e-3, f"{name} is ended too late"
                placed[name] = float("inf")
            case RetireReplica(replica=name) | ReplicaLost(replica=name):
                placed[name] = float("inf")
    late = [name for name in pool.load_hung if placed.get(name, pool.now_s) < pool.now_s - budget_s - 1e-3]
    assert not late, f"{late} load for ever"


def story(world: World, pool: FakePool, error: AssertionError) -> str:
    """What happened, and how to see it again."""
    lines = [f"{time_s:9.2f}  {fact}" for time_s, fact in pool.story[-400:]]
    again = f"play it again: python -m tests.schedule.simulate --first {world.seed} --schedules 1"
    return "\n".join(
        [f"seed {world.seed}: {error}", str(world), *lines, f"seed {world.seed}: {error}", again]
    )
