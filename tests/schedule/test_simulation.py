"""Hundreds of random worlds in virtual time: whatever happens, every variant ends with a true status.

``python -m tests.schedule.simulate --schedules 20000`` plays as many as there is time for.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.schedule.tasks import assembly, render
from tests.schedule.worlds import Broken, draw_world, kind, play
from wanflow.model import Cause
from wanflow.schedule import PlannedRender, Policy, Scheduler
from wanflow.schedule.actions import KillReplica, Reason, Render, Save
from wanflow.schedule.events import ReplicaLost, RunStarted, Tick
from wanflow.schedule.state import ClipStatus, VariantStatus
from wanflow.testing import FakePool, Faults

NUM_WORLDS = 200


def test_every_variant_ends_with_a_true_status_in_random_worlds() -> None:
    """Published means published; failed comes with its reason; nothing is left while nobody asked to stop."""
    for seed in range(NUM_WORLDS):
        play(draw_world(seed))


def test_a_kind_world_publishes_everything_and_renders_nothing_twice() -> None:
    for seed in range(60):
        scheduler, pool = play(kind(draw_world(seed)))
        assert {v.status for v in scheduler.variants.values()} == {VariantStatus.PUBLISHED}
        assert set(pool.records.values()) <= {0, 1}
        assert not any(clip.failures for clip in scheduler.clips.values())


def test_a_stop_at_any_moment_ends_the_run() -> None:
    """Ctrl-C in the first second, in the middle, or at the end."""
    for seed in range(60):
        world = replace(draw_world(seed), stop_at_s=seed % 30 + 0.5)
        scheduler, _ = play(world)
        assert scheduler.finished


def test_what_is_not_the_clips_fault_fails_no_variant() -> None:
    """Machines are taken back, nodes go away, one replica is sick: every variant is published all the same."""
    for seed in range(60):
        world = kind(draw_world(seed))
        faults = Faults(preempted=0.2, node_lost=0.05, late_s=30.0, doubled=0.2, delayed=0.2, dropped=0.2)
        scheduler, _ = play(replace(world, faults=faults))
        assert {v.status for v in scheduler.variants.values()} == {VariantStatus.PUBLISHED}, f"seed {seed}"


def test_poisonous_clip_does_not_take_the_others_with_it() -> None:
    """A clip that kills every replica it meets fails; all variants without it are published."""
    for seed in range(60):
        world = kind(draw_world(seed))
        scheduler, _ = play(
            replace(world, held=frozenset(), faults=Faults(always={"c0": Cause.REPLICA_LOST}))
        )
        for key, variant in scheduler.variants.items():
            expected = VariantStatus.FAILED if "c0" in variant.masters else VariantStatus.PUBLISHED
            assert variant.status is expected, f"seed {seed}: {key}"


def test_makespan_stays_within_the_bound_of_list_scheduling() -> None:
    """Without faults no replica idles while a clip waits: at most the work over the replicas, and the longest clip."""
    for seed in range(60):
        world = kind(draw_world(seed))
        weights = dict.fromkeys(world.weights, "w1")
        groups = dict.fromkeys(world.groups, "")
        world = replace(world, weights=weights, groups=groups, held=frozenset())
        _, pool = play(world)
        lengths = [world.lengths[key] for key in world.used]
        num = min(world.policy.max_replicas, len(lengths), world.num_gpus or len(lengths))
        ended_s = max(time_s for time_s, fact in pool.story if type(fact).__name__ == "ClipRendered")
        assert ended_s <= 5.0 + sum(lengths) / num + max(lengths) * (num - 1) / num + 1e-6, f"seed {seed}"


def test_resumed_clips_do_not_start_over() -> None:
    """A drained replica saves; whoever goes on from there renders only what is left."""
    world = replace(kind(draw_world(5)), keep_every=1, faults=Faults(preempted=0.5), held=frozenset())
    _, pool = play(world)
    facts = [fact for _, fact in pool.story]
    assert any(isinstance(fact, Render) and fact.reason is Reason.RESUMED for fact in facts)


def test_hung_replicas_are_ended_and_their_clips_rendered_elsewhere() -> None:
    """Nobody waits at 95 % for a replica that makes no steps."""
    num_killed = num_saved = 0
    for seed in range(30):
        _, pool = play(replace(kind(draw_world(seed)), faults=Faults(hangs=0.2)))
        num_killed += sum(isinstance(f, KillReplica) and f.reason is Reason.HUNG for _, f in pool.story)
        num_saved += sum(isinstance(f, Save) for _, f in pool.story)
    assert num_killed > 0
    assert num_saved == 0


@pytest.mark.parametrize("num_before", [0, 2])
def test_a_replica_that_breaks_and_fails_fast_costs_no_clip(num_before: int) -> None:
    """A CUDA context is broken: each clip fails there at once, long before any other one is rendered elsewhere."""
    num_sick = 0
    for seed in range(100):
        world = kind(draw_world(seed))
        num = min(world.policy.max_replicas, len(set(world.used) - world.held), world.num_gpus or 9)
        if num == 1 or world.policy.max_attempts == 1:
            continue
        # of one engine, so that there is another replica to ask
        weights = dict.fromkeys(world.weights, "w1")
        scheduler, pool = play(replace(world, weights=weights, faults=Faults(sick={1: num_before})))
        num_sick += any(isinstance(f, KillReplica) and f.reason is Reason.SICK for _, f in pool.story)
        failed = [key for key, clip in scheduler.clips.items() if clip.status is ClipStatus.FAILED]
        assert not failed, f"seed {seed}"
    assert num_sick > 10


def test_a_node_on_which_nothing_starts_does_not_end_the_run() -> None:
    """One of several has no driver. It says so in a second, gets each replacement, and the others load five."""
    num_failed = 0
    for seed in range(100):
        world = kind(draw_world(seed))
        if world.num_nodes == 1:
            continue
        scheduler, pool = play(replace(world, faults=Faults(bad_nodes=frozenset({1}))))
        num_failed += sum(isinstance(fact, ReplicaLost) for _, fact in pool.story)
        assert {v.status for v in scheduler.variants.values()} == {VariantStatus.PUBLISHED}, f"seed {seed}"
    assert num_failed > 50


def test_a_clip_that_fits_the_large_gpu_alone_is_rendered_there() -> None:
    """Two cards in three are small ones, and half of the clips are too large for those, whatever they offload."""
    num_failures = 0
    for seed in range(100):
        world = kind(draw_world(seed))
        policy = replace(world.policy, max_replicas=6, min_replicas=6, idle_s=1e9)
        weights = dict.fromkeys(world.weights, "w1")
        world = replace(world, weights=weights, policy=policy, num_gpus=None)
        if len(set(world.used) - world.held) < 6:
            continue
        too_small = dict.fromkeys(list(world.lengths)[::2], 2)
        scheduler, _ = play(replace(world, faults=Faults(rungs=(0, 2, 3), too_small=too_small)))
        num_failures += sum(len(clip.failures) for clip in scheduler.clips.values())
        assert {v.status for v in scheduler.variants.values()} == {VariantStatus.PUBLISHED}, f"seed {seed}"
    assert num_failures > 50


def test_loads_that_hang_are_replaced_and_no_clip_pays() -> None:
    """Machines come late, and on every fifth nothing loads: all is published, or the run says that nobody can start."""
    num_killed = num_broken = 0
    for seed in range(60):
        world = replace(kind(draw_world(seed)), faults=Faults(load_hangs=0.2, late_s=400.0))
        scheduler, pool = play(world)
        num_killed += sum(isinstance(f, KillReplica) and f.reason is Reason.HUNG for _, f in pool.story)
        num_broken += scheduler.broken is not None
        if scheduler.broken is None:
            assert {v.status for v in scheduler.variants.values()} == {VariantStatus.PUBLISHED}, (
                f"seed {seed}"
            )
        assert not any(clip.failures for clip in scheduler.clips.values()), f"seed {seed}"
    assert num_killed > 20
    assert num_broken < 10


def test_broken_promise_tells_a_story_that_can_be_played_again() -> None:
    """Whoever meets a failing seed at night has all of it on one page."""

    class Lazy(FakePool):
        def next_event(self, timeout_s: float) -> None:
            self.now_s += max(timeout_s, 0.1)

    with pytest.raises(Broken, match=r"(?s)StartReplica.*no end after.*--first 3 --schedules 1"):
        play(kind(draw_world(3)), Lazy, max_events=200)


@pytest.mark.parametrize("num_clips", [1_000, 5_000])
def test_run_of_many_clips_ends_near_the_ideal(num_clips: int) -> None:
    """A hundred replicas: the heaps stay consistent, and the tail is short."""
    pool = FakePool(
        lambda key: 1.0 + int(key) % 7,
        {f"{i}.mp4": frozenset({str(i)}) for i in range(num_clips)},
        max_replicas=100,
        num_steps=2,
        tell_story=False,
    )
    scheduler = Scheduler(
        [PlannedRender(render(str(i)), 0, 1.0 + i % 7, 1.0 + i % 7) for i in range(num_clips)],
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
    assert pool.now_s < ideal_s * 1.05 + 3
