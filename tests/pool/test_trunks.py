"""A replica and trunks: saved, resumed and cancelled in the middle, and the winner's where two were made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.pool.test_replica import SPEC, SlowEngine, World
from wanflow import keys
from wanflow.engines import Unfinished, dump_unfinished
from wanflow.errors import RenderError
from wanflow.model import Attempt, Branch, CascadeStep, Clip, Mode, RenderClip
from wanflow.pool.rendering import Kept
from wanflow.pool.replica import Rendered
from wanflow.pool.trunks import TRUNK
from wanflow.records import clip_record, file_of, put_clip
from wanflow.testing import FakeEngine, _fake_latents

CLIP = Clip(
    Mode.T2V, "w", "waves", "", None, 0, 32, 32, 5, 8.0, SPEC.sampling,
    (CascadeStep("refine", (("scale", 1.0), ("steps", 2), ("strength", 0.3))),), Branch("sea", 4),
)  # fmt: skip
TASK = RenderClip(CLIP, keys.stages(CLIP))
TRUNK_KEY, BASE = TASK.stages[0].key, TASK.stages[1].key
OTHER = replace(CLIP, prompt="bokeh", cascade=())
STEPS = [("trunk", step) for step in range(1, 5)] + [("denoise", 5), ("denoise", 6)]


class Group(World):
    """Replicas that render clips of one trunk."""

    def render(
        self, engine: FakeEngine, number: int = 1, task: RenderClip = TASK, thrift: int = 0
    ) -> Rendered | Kept:
        return super().render(engine, number, task, thrift)


def test_a_group_is_rendered_with_one_trunk(tmp_path: Path) -> None:
    """The whole chain: trunk, base, a refine; the second clip finds the trunk."""
    world, engine = Group(tmp_path), SlowEngine()
    made = world.render(engine)
    assert isinstance(made, Rendered)
    assert engine.steps == [*STEPS, ("cascade-1", 1), ("cascade-1", 2)]
    assert dict(made.seconds)["trunk"] > 0
    record = clip_record(world.store, TRUNK_KEY)
    assert record
    assert dict(record.info) == {"stage": "trunk", "step": 4, "maker": "fake"}
    engine.steps.clear()
    made = world.render(engine, 2, RenderClip(OTHER, keys.stages(OTHER)))
    assert isinstance(made, Rendered)
    assert engine.steps == [("denoise", 5), ("denoise", 6)]
    assert "trunk" not in dict(made.seconds)


def test_an_order_to_save_in_a_trunk_or_behind_it_loses_no_step(tmp_path: Path) -> None:
    """Two minutes' notice at any step: what is in the store leads on from there."""
    for number, (stage, at) in enumerate(STEPS):
        world, engine = Group(tmp_path / str(number)), SlowEngine()
        engine.before = lambda s, n, world=world, mark=(stage, at): setattr(world, "saves", (s, n) == mark)
        made = world.render(engine)
        assert isinstance(made, Kept)
        assert (made.stage, made.step) == (stage, at)
        world.saves = False
        assert isinstance(world.render(engine, 2), Rendered)
        assert engine.steps[: len(STEPS)] == STEPS
        assert world.steps(TRUNK_KEY) == world.steps(BASE) == []


def test_an_order_to_save_before_the_first_own_step_ends_with_the_trunk(tmp_path: Path) -> None:
    """The trunk is on record: there is nothing else to keep."""
    world, engine = Group(tmp_path), SlowEngine()
    replica = world.replica(engine)
    watch = world.watch()

    def on_step(stage: str, step: int, num_steps: int) -> None:
        world.saves = world.saves or (stage, step) == ("denoise", 4)

    made = replica.render(TASK, Attempt(1, 1), replace(watch, on_step=on_step))
    assert isinstance(made, Kept)
    assert (made.stage, made.step) == ("denoise", 4)
    assert engine.steps == STEPS[:4]
    assert clip_record(world.store, TRUNK_KEY)
    assert world.steps(BASE) == []


def test_a_clip_can_be_cancelled_in_its_trunk(tmp_path: Path) -> None:
    world, engine = Group(tmp_path), SlowEngine()
    engine.before = lambda stage, step: setattr(world, "cancels", step == 2)
    with pytest.raises(RenderError) as caught:
        world.render(engine)
    assert caught.value.cause == "cancelled"
    assert clip_record(world.store, TRUNK_KEY) is None


def _others_trunk(world: World, step: int = 4, maker: str = "fake") -> None:
    """Another replica puts the trunk on record."""
    state = Unfinished(step, 6, maker, {"latents": _fake_latents((9, 9, 9), 1, 1, 1)})
    put_clip(world.store, TRUNK_KEY, Attempt(1, 9), {TRUNK: dump_unfinished(state)}, {"stage": "trunk"})


def test_who_comes_second_with_a_trunk_goes_on_from_the_first_ones(tmp_path: Path) -> None:
    """Generation is not the same twice: a group descends from the trunk that is on record."""
    world, engine = Group(tmp_path), SlowEngine()
    begun: list[object] = []

    class Telling(SlowEngine):
        def generate(self, clip, images, on_step, keep=None):  # type: ignore[no-untyped-def]
            begun.append(keep.start.latents.flatten()[0].item())
            return super().generate(clip, images, on_step, keep)

    engine = Telling()
    engine.before = lambda stage, step: _others_trunk(world) if (stage, step) == ("trunk", 4) else None
    assert isinstance(world.render(engine), Rendered)
    record = clip_record(world.store, TRUNK_KEY)
    assert record
    assert record.attempt == "1.9"
    assert begun == [pytest.approx(1 - 9 / 127.5)]


@pytest.mark.parametrize("how", ["step", "maker", "damaged"])
def test_a_trunk_on_record_that_does_not_fit_is_replaced(tmp_path: Path, how: str) -> None:
    world, engine = Group(tmp_path), SlowEngine()
    _others_trunk(world, step=3 if how == "step" else 4, maker="other" if how == "maker" else "fake")
    if how == "damaged":
        record = clip_record(world.store, TRUNK_KEY)
        assert record
        path = file_of(record, TRUNK).path
        world.store.write(path, bytes(len(world.store.read(path))))
    assert isinstance(world.render(engine), Rendered)
    assert engine.steps[: len(STEPS)] == STEPS
    record = clip_record(world.store, TRUNK_KEY)
    assert record
    assert record.attempt == "1.1"


def test_steps_of_a_trunk_of_another_release_are_passed_over(tmp_path: Path) -> None:
    world, engine = Group(tmp_path), SlowEngine()
    state = Unfinished(3, 6, "fake of last year", {"latents": _fake_latents((9, 9, 9), 1, 1, 1)})
    world.store.write(f"steps/{TRUNK_KEY}/3-1.1.safetensors", dump_unfinished(state))
    assert isinstance(world.render(engine, 2), Rendered)
    assert engine.steps[: len(STEPS)] == STEPS


def test_steps_of_a_base_are_gone_on_from_rather_than_its_trunk(tmp_path: Path) -> None:
    world, engine = Group(tmp_path), SlowEngine()
    engine.before = lambda stage, step: setattr(world, "saves", (stage, step) == ("denoise", 5))
    world.render(engine)
    world.saves = False
    engine.steps.clear()
    world.render(engine, 2)
    assert engine.steps[0] == ("denoise", 6)
