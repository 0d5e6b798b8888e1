"""Thousands of random worlds in virtual time: whatever happens, every variant ends with a true status."""

from __future__ import annotations

import random

import pytest

from tests.schedule.test_scheduler import assembly, render
from wanflow.model import Cause
from wanflow.schedule import Policy, Scheduler
from wanflow.schedule.actions import Finish, Render
from wanflow.schedule.events import RunStarted, StopRequested, Tick
from wanflow.schedule.state import VariantStatus
from wanflow.testing import FakePool, Faults

NUM_WORLDS = 2000


def play(
    seed: int, faults: Faults | None = None, stop_at_s: float | None = None
) -> tuple[Scheduler, FakePool]:
    """One random job in one random world, validated after every event."""
    draw = random.Random(seed)
    weights = {f"c{i}": draw.choice(["w1", "w2"]) for i in range(draw.randint(1, 12))}
    lengths = {key: draw.lognormvariate(1.0, 0.8) for key in weights}
    variants = {
        f"v{i}": tuple(draw.sample(sorted(weights), draw.randint(1, min(3, len(weights)))))
        for i in range(draw.randint(1, 20))
    }
    faults = faults or Faults(
        render_fails=draw.choice([0, 0.2]),
        replica_dies=draw.choice([0, 0.15]),
        start_fails=draw.choice([0, 0.2]),
        assemble_fails=draw.choice([0, 0.1]),
        master_vanishes=draw.choice([0, 0.1]),
        doubled=draw.choice([0, 0.3]),
        delayed=draw.choice([0, 0.3]),
    )
    tasks = {name: assembly(name, *masters) for name, masters in variants.items()}
    max_replicas = draw.randint(1, 4)
    pool = FakePool(
        lengths.__getitem__,
        {task.key: task.masters for task in tasks.values()},
        seed=seed,
        faults=faults,
        max_replicas=max_replicas,
    )
    used = {key for masters in variants.values() for key in masters}
    scheduler = Scheduler(
        [(render(key, weights[key]), draw.randint(0, 2), lengths[key], False) for key in sorted(used)],
        [(task, 0) for task in tasks.values()],
        Policy(max_replicas=max_replicas, max_assemblies=2),
        epoch=1,
    )
    actions = scheduler.handle(RunStarted(0.0))
    for _ in range(20_000):
        scheduler.validate()
        for action in actions:
            # With vanishing masters a late report may order a clip that is back by then; the replica finds its record.
            if isinstance(action, Render) and not faults.master_vanishes:
                assert action.key not in pool.records, f"{action.key} is rendered after its record"
            pool.perform(action)
        if any(isinstance(action, Finish) for action in actions):
            return scheduler, pool
        actions = scheduler.handle(pool.next_event(1.0) or Tick(pool.now_s))
        if stop_at_s is not None and pool.now_s >= stop_at_s and not scheduler.finished:
            actions += scheduler.handle(StopRequested(pool.now_s, "stop"))
            stop_at_s = None
    raise AssertionError(f"seed {seed} does not end: {pool.story[-20:]}")


def test_every_variant_ends_with_a_true_status_in_random_worlds() -> None:
    """Published means published; failed comes with its reason; nothing is left while nobody asked to stop."""
    for seed in range(NUM_WORLDS):
        scheduler, pool = play(seed)
        for key, variant in scheduler.variants.items():
            if variant.status is VariantStatus.PUBLISHED:
                assert key in pool.published, f"seed {seed}: {key} is said to be published"
            elif variant.status is VariantStatus.FAILED:
                assert variant.message, f"seed {seed}: {key} failed without a reason"
            else:
                assert scheduler.broken, f"seed {seed}: {key} is {variant.status}"


def test_a_kind_world_publishes_everything_and_renders_nothing_twice() -> None:
    for seed in range(200):
        scheduler, pool = play(seed, Faults())
        assert {v.status for v in scheduler.variants.values()} == {VariantStatus.PUBLISHED}
        assert set(pool.records.values()) == {1}


def test_a_stop_at_any_moment_ends_the_run() -> None:
    """Ctrl-C in the first second, in the middle, or at the end."""
    for seed in range(300):
        scheduler, _ = play(seed, stop_at_s=seed % 30 + 0.5)
        assert scheduler.finished


def test_poisonous_clip_does_not_take_the_others_with_it() -> None:
    """A clip that kills every replica it meets fails; all variants without it are published."""
    for seed in range(100):
        scheduler, _ = play(seed, Faults(always={"c0": Cause.REPLICA_LOST}))
        for task_key, variant in scheduler.variants.items():
            needs = {key for key, users in scheduler._waiters.items() if task_key in users}
            expected = VariantStatus.FAILED if "c0" in needs else VariantStatus.PUBLISHED
            assert variant.status is expected, f"seed {seed}: {task_key}"


@pytest.mark.parametrize("num_clips", [2_000, 20_000])
def test_decisions_stay_cheap_at_size(num_clips: int) -> None:
    """Twenty thousand clips on a hundred replicas: heaps stay consistent and the run ends."""
    pool = FakePool(
        lambda key: 1.0 + int(key) % 7,
        {f"{i}.mp4": frozenset({str(i)}) for i in range(num_clips)},
        max_replicas=100,
    )
    scheduler = Scheduler(
        [(render(str(i)), 0, 1.0 + i % 7, False) for i in range(num_clips)],
        [(assembly(str(i), str(i)), 0) for i in range(num_clips)],
        Policy(max_replicas=100, max_assemblies=100),
        epoch=1,
    )
    actions = scheduler.handle(RunStarted(0.0))
    while not scheduler.finished:
        for action in actions:
            pool.perform(action)
        actions = scheduler.handle(pool.next_event(1.0) or Tick(pool.now_s))
    scheduler.validate()
    assert len(pool.published) == num_clips
    ideal_s = sum(1.0 + i % 7 for i in range(num_clips)) / 100 + 5
    assert pool.now_s < ideal_s * 1.1 + 10
