"""A replica on its own: what it keeps of an unfinished clip, how it ends one, what its failures say."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wanflow.engines import Unfinished, dump_unfinished, load_unfinished
from wanflow.errors import Cancelled, RenderError
from wanflow.model import Attempt, CascadeStep, Cause, Clip, EngineSpec, Mode, RenderClip, Sampling, Stage
from wanflow.pool import RunContext
from wanflow.pool.rendering import Kept, Watch
from wanflow.pool.replica import Rendered, Replica
from wanflow.records import clip_record, put_clip
from wanflow.steps import list_steps
from wanflow.storage import Store
from wanflow.testing import FakeEngine, _fake_latents

SAMPLING = Sampling(6, 1.0, None, 3.0, "unipc", None)
SPEC = EngineSpec("fake", "fake", "fake", "w", frozenset({Mode.T2V}), 8.0, 16, 4, ((32, 32),), 5, SAMPLING)
CLIP = Clip(Mode.T2V, "w", "waves", "", None, 0, 32, 32, 5, 8.0, SAMPLING)
BASE, MASTER = "ba" * 32, "ee" * 32
TASK = RenderClip(CLIP, (Stage("base", BASE), Stage("master", MASTER)))


class SlowEngine(FakeEngine):
    """Calls ``before`` in front of each step, where a test may do what the world would do at that moment."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.steps: list[tuple[str, int]] = []
        self.before: Callable[[str, int], None] = lambda stage, step: None

    def take_step(self, clip: Clip, stage: str, step: int) -> None:
        self.before(stage, step)
        self.steps.append((stage, step))


class World:
    """A store, and replicas that share it."""

    def __init__(self, folder: Path, save_every_s: float = 1e9) -> None:
        self.store = Store(str(folder))
        self.store.write("nonce", b"n")
        self.save_every_s = save_every_s
        self.kept: list[tuple[str, int]] = []
        self.seen: list[tuple[str, int, int]] = []
        self.saves = False
        self.cancels = False

    def replica(self, engine: FakeEngine) -> Replica:
        context = RunContext(
            "r", 1, self.store.url, "", {"w": SPEC}, {}, {}, ("nonce", "n"),
            save_every_s=self.save_every_s, load_engine=lambda *_: engine,
        )  # fmt: skip
        return Replica(context, "w", None, None)

    def watch(self) -> Watch:
        def on_step(stage: str, step: int, num_steps: int) -> None:
            self.seen.append((stage, step, num_steps))
            if self.cancels:
                raise Cancelled

        return Watch(on_step, lambda: self.saves, lambda stage, step: self.kept.append((stage, step)))

    def render(
        self, engine: FakeEngine, number: int = 1, task: RenderClip = TASK, thrift: int = 0
    ) -> Rendered | Kept:
        return self.replica(engine).render(task, Attempt(1, number), self.watch(), thrift)

    def steps(self, key: str = BASE) -> list[int]:
        return [kept.step for kept in list_steps(self.store, key)]


def test_a_clip_told_to_save_ends_at_its_step_and_another_replica_goes_on(tmp_path: Path) -> None:
    """Two minutes' notice: the steps are in the store long before, and none is taken twice."""
    world, one, two = World(tmp_path), SlowEngine(), SlowEngine()

    def drain(stage: str, step: int) -> None:
        world.saves = step == 3

    one.before = drain
    made = world.render(one)
    assert isinstance(made, Kept)
    assert (made.stage, made.step) == ("denoise", 3)
    assert dict(made.seconds)["denoise"] > 0
    assert world.steps() == [3]
    world.saves = False
    assert isinstance(world.render(two, 2), Rendered)
    assert two.steps == [("denoise", 4), ("denoise", 5), ("denoise", 6)]
    assert world.steps() == []
    assert clip_record(world.store, MASTER)


def test_an_order_to_save_at_any_step_loses_none(tmp_path: Path) -> None:
    """From the first step to the last, also when the last one has just been taken."""
    for at in range(1, 7):
        world, engine = World(tmp_path / str(at)), SlowEngine()
        engine.before = lambda stage, step, world=world, at=at: setattr(world, "saves", step == at)
        made = world.render(engine)
        assert isinstance(made, Kept)
        assert made.step == at
        world.saves = False
        assert isinstance(world.render(engine, 2), Rendered)
        assert engine.steps == [("denoise", step) for step in range(1, 7)]


def test_an_order_to_save_between_a_step_and_its_news_loses_none(tmp_path: Path) -> None:
    """The order comes from another thread: after the step was offered, before it was reported."""
    for step in range(1, SAMPLING.steps + 1):
        world = World(tmp_path / str(step))

        def report(stage: str, done: int, num_steps: int, world: World = world, last: int = step) -> None:
            world.saves = world.saves or (stage, done) == ("denoise", last)

        watch = Watch(report, lambda world=world: world.saves, lambda stage, step: None)
        world.replica(SlowEngine()).render(TASK, Attempt(1, 1), watch, 0)
        engine = SlowEngine()
        world.saves = False
        world.render(engine, number=2)
        again = [taken for stage, taken in engine.steps if stage == "denoise"]
        # the step under way when the order came is finished, and none is taken twice
        assert again == list(range(step + 2, SAMPLING.steps + 1))


def test_an_order_to_save_before_the_first_step_ends_at_once(tmp_path: Path) -> None:
    """There is nothing to keep but what earlier attempts kept."""
    world, engine = World(tmp_path), SlowEngine()
    world.saves = True
    made = world.render(engine)
    assert isinstance(made, Kept)
    assert made.step == 0
    assert engine.steps == []
    world.saves = False
    engine.before = lambda stage, step: setattr(world, "saves", step == 2)
    world.render(engine)
    engine.steps.clear()
    again = world.render(engine, 2)
    assert isinstance(again, Kept)
    assert (again.stage, again.step, engine.steps) == ("denoise", 2, [])


def test_an_order_to_save_while_decoding_keeps_the_latents(tmp_path: Path) -> None:
    """What took minutes is on record by then; decoding it again takes seconds."""

    class Decoding(SlowEngine):
        def frames(self, pixels: Any) -> Iterator[Any]:
            for number, frames in enumerate(super().frames(pixels)):
                world.saves = number == 2
                yield frames

    world = World(tmp_path)
    made = world.render(Decoding())
    assert isinstance(made, Kept)
    assert (made.stage, made.step) == ("decode", 0)
    assert clip_record(world.store, BASE)
    assert clip_record(world.store, MASTER) is None
    world.saves = False
    later = SlowEngine()
    assert isinstance(world.render(later, 2), Rendered)
    assert later.steps == []


def test_cascade_steps_are_kept_under_their_own_key(tmp_path: Path) -> None:
    """The refine of a 1080p clip is most of its time."""
    refine = CascadeStep("refine", (("grid", 16), ("scale", 1.0), ("steps", 4), ("strength", 0.3)))
    stages = (Stage("base", BASE), Stage("cascade-1", "cc" * 32), Stage("master", MASTER))
    task = RenderClip(replace(CLIP, cascade=(refine,)), stages)
    world, engine = World(tmp_path), SlowEngine()
    engine.before = lambda stage, step: setattr(world, "saves", (stage, step) == ("cascade-1", 2))
    made = world.render(engine, task=task)
    assert isinstance(made, Kept)
    assert (made.stage, made.step) == ("cascade-1", 2)
    assert (world.steps(), world.steps("cc" * 32)) == ([], [2])
    world.saves = False
    engine.steps.clear()
    assert isinstance(world.render(engine, 2, task=task), Rendered)
    assert engine.steps == [("cascade-1", 3), ("cascade-1", 4)]
    assert list(world.store.list("steps")) == []


def test_steps_are_saved_in_the_background_and_only_the_newest_stay(tmp_path: Path) -> None:
    """A kill without notice costs at most the seconds between two saves."""
    world, engine = World(tmp_path, save_every_s=0.0), SlowEngine()

    def crash(stage: str, step: int) -> None:
        for thread in threading.enumerate():
            if thread.name == "wanflow-steps":
                thread.join()
        if step == 6:
            raise SystemExit  # as far as the store can tell, a kill

    engine.before = crash
    with pytest.raises(SystemExit):
        world.render(engine)
    assert world.kept == [("denoise", step) for step in range(1, 6)]
    assert world.steps() == [5]
    later = SlowEngine()
    world.render(later, 2)
    assert later.steps == [("denoise", 6)]
    assert world.steps() == []


def test_a_store_that_stalls_holds_up_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket takes minutes for a write: the GPU goes on, and no second write is begun meanwhile."""
    writes: list[int] = []
    moving = threading.Event()

    def stalled(store: Store, key: str, step: int, attempt: Attempt, data: bytes) -> None:
        writes.append(step)
        moving.wait(60)

    monkeypatch.setattr("wanflow.pool.keeping.put_steps", stalled)
    world, engine = World(tmp_path, save_every_s=0.0), SlowEngine()
    engine.before = lambda stage, step: moving.set() if step == 6 else None
    assert isinstance(world.render(engine), Rendered)
    assert writes[0] == 1
    assert len(writes) <= 2, "one write under way at a time; the rest of the steps were done beside it"


def test_a_save_that_fails_costs_steps_not_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the order says what is truly in the store."""
    from wanflow.errors import StoreError

    def full(*_: object) -> None:
        raise StoreError("quota exceeded")

    monkeypatch.setattr("wanflow.pool.keeping.put_steps", full)
    world, engine = World(tmp_path, save_every_s=0.0), SlowEngine()
    engine.before = lambda stage, step: setattr(world, "saves", step == 4)
    made = world.render(engine)
    assert isinstance(made, Kept)
    assert made.step == 0
    assert world.kept == []
    world.saves = False
    engine.before = lambda stage, step: None
    assert isinstance(world.render(engine, 2), Rendered)


@pytest.mark.parametrize("data", [b"", b"garbage", None])
def test_steps_that_cannot_be_read_are_ignored(data: bytes | None, tmp_path: Path) -> None:
    """A truncated file, a file of something else: the clip starts anew and is made."""
    world, engine = World(tmp_path), SlowEngine()
    world.store.write(f"steps/{BASE}/5-1.1.safetensors", data if data is not None else b"\x00" * 100)
    assert isinstance(world.render(engine), Rendered)
    assert len(engine.steps) == 6
    assert world.steps() == []


@pytest.mark.parametrize(("maker", "num_steps"), [("fake of last year", None), ("fake", 99)])
def test_steps_of_another_release_cost_their_time_and_not_the_clip(
    maker: str, num_steps: int | None, tmp_path: Path
) -> None:
    """The deadline saved them, and diffusers was upgraded in the morning: whatever is ours is gone on from, in the base
    and in a cascade."""
    refine = CascadeStep("refine", (("scale", 1.0), ("steps", 4), ("strength", 0.3)))
    cascaded, number = "cc" * 32, 0
    stages = (Stage("base", BASE), Stage("cascade-1", cascaded), Stage("master", MASTER))
    task = RenderClip(replace(CLIP, cascade=(refine,)), stages)
    world, engine = World(tmp_path), SlowEngine()
    for key, step, of, own in ((BASE, 5, 6, 2), (cascaded, 3, 4, 1)):
        for kept in (
            Unfinished(step, num_steps or of, maker, {"latents": _fake_latents((9, 9, 9), 5, 4, 4)}),
            Unfinished(own, of, "fake", {"latents": _fake_latents((9, 9, 9), 5, 4, 4)}),
        ):
            number += 1
            world.store.write(f"steps/{key}/{kept.step}-1.{number}.safetensors", dump_unfinished(kept))
    assert isinstance(world.render(engine, 9, task=task), Rendered)
    assert engine.steps == [
        *[("denoise", step) for step in range(3, 7)],
        *[("cascade-1", step) for step in range(2, 5)],
    ]
    assert list(world.store.list("steps")) == []


def test_steps_that_lead_to_a_failure_are_not_gone_on_from_again(tmp_path: Path) -> None:
    """Else every retry would end at the same NaN, and the clip would fail for good."""
    world, engine = World(tmp_path), SlowEngine()
    engine.before = lambda stage, step: setattr(world, "saves", step == 2)
    world.render(engine)
    world.saves = False

    def fail(stage: str, step: int) -> None:
        raise RenderError("NaN", Cause.BAD_OUTPUT)

    engine.before = fail
    with pytest.raises(RenderError):
        world.render(engine, 2)
    assert world.steps() == []


def test_out_of_memory_keeps_the_steps_for_the_next_rung(tmp_path: Path) -> None:
    """The clip goes on where it was, slower."""
    world, engine = World(tmp_path), SlowEngine()
    engine.before = lambda stage, step: setattr(world, "saves", step == 2)
    world.render(engine)
    world.saves = False

    def fail(stage: str, step: int) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    engine.before = fail
    with pytest.raises(RenderError) as raised:
        world.render(engine, 2)
    assert raised.value.cause is Cause.OUT_OF_MEMORY
    assert world.steps() == [2]
    replica = world.replica(engine)
    engine.before, engine.steps = lambda stage, step: None, []
    replica.render(TASK, Attempt(1, 3), world.watch(), 2)
    assert engine.thrift == 2
    assert engine.steps == [("denoise", step) for step in (3, 4, 5, 6)]
    replica.render(
        replace(TASK, stages=(Stage("base", "bb" * 32), Stage("master", "dd" * 32))),
        Attempt(1, 4),
        world.watch(),
    )
    assert engine.thrift == 0, "the next clip starts at the top of the ladder"


def test_a_cancelled_copy_leaves_no_steps_beside_the_winners_record(tmp_path: Path) -> None:
    """Two replicas at one straggler: the slower one is told to stop when the record is there."""
    world, engine = World(tmp_path, save_every_s=0.0), SlowEngine()

    def other_wins(stage: str, step: int) -> None:
        if step == 4:
            put_clip(world.store, BASE, Attempt(1, 9), {"latents.safetensors": b"x"}, {})
            world.cancels = True

    engine.before = other_wins
    with pytest.raises(Cancelled):
        world.render(engine)
    assert engine.steps[-1] == ("denoise", 4)
    assert world.steps() == []


def test_progress_flows_through_every_stage(tmp_path: Path) -> None:
    """Whoever decides that a clip hangs must hear of decoding and storing, too."""
    world = World(tmp_path)
    made = world.render(SlowEngine())
    assert isinstance(made, Rendered)
    assert world.seen == [
        *[("denoise", step, 6) for step in range(7)],
        ("store", 0, 1),
        ("store", 1, 1),
        *[("decode", frame, 5) for frame in range(6)],
        ("store", 0, 1),
        ("store", 1, 1),
    ]
    assert made.memory_bytes is None or made.memory_bytes > 10_000_000
    assert made.memory_bytes or not Path("/proc/self/statm").exists()


def test_a_clip_can_be_cancelled_while_it_is_decoded(tmp_path: Path) -> None:
    """A 1080p decode takes as long as some steps."""

    class Decoding(SlowEngine):
        def frames(self, pixels: Any) -> Iterator[Any]:
            for number, frames in enumerate(super().frames(pixels)):
                world.cancels = number == 1
                yield frames

    world = World(tmp_path)
    with pytest.raises(Cancelled):
        world.render(Decoding())
    assert world.seen[-1] == ("decode", 2, 5)


def test_a_failed_clip_holds_nothing_of_its_decoders(tmp_path: Path) -> None:
    """Of two that take turns, the one that was not to blame waits half way: its caches would be in the way of the next
    try for as long as somebody holds the error."""
    freed: list[bool] = []

    def waits() -> Iterator[Any]:
        try:
            while True:
                yield np.zeros((1, 8, 8, 3), np.uint8)
        finally:
            freed.append(True)

    class Full(SlowEngine):
        def frames(self, pixels: Any) -> Iterator[Any]:
            other = waits()
            yield next(other)
            raise RenderError("out of memory", Cause.OUT_OF_MEMORY)

    gc.disable()
    try:
        with pytest.raises(RenderError) as raised:
            World(tmp_path).render(Full())
        assert freed == [True]
    finally:
        gc.enable()
    assert raised.value.cause is Cause.OUT_OF_MEMORY


def test_a_full_disk_is_the_stores_trouble_not_the_clips(tmp_path: Path) -> None:
    """The node's /tmp is full of somebody's core dumps: the clip waits or goes elsewhere, and a person is told."""

    class Full(SlowEngine):
        def frames(self, pixels: Any) -> Iterator[Any]:
            yield next(super().frames(pixels))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RenderError, match=r"disk of this node is full .* TMPDIR") as raised:
        World(tmp_path).render(Full())
    assert raised.value.cause is Cause.STORAGE


def test_a_state_survives_the_store() -> None:
    """What a fake engine keeps is a file as real engines write it."""
    latents = _fake_latents((1, 2, 3), 2, 2, 2)
    state = Unfinished(3, 6, "fake", {"latents": latents}, {"this_order": 2})
    found = load_unfinished(dump_unfinished(state))
    assert (found.step, found.num_steps, found.maker, dict(found.numbers)) == (
        3,
        6,
        "fake",
        {"this_order": 2},
    )
    assert bool((found.latents == latents).all())


class BlackAtFirst(FakeEngine):
    """Its first clip is black, or frozen: a GPU with a bad memory cell."""

    def __init__(self, frozen: bool) -> None:
        super().__init__(SPEC)
        self.frozen = frozen

    def generate(self, clip: Clip, images: Any, on_step: Any, keep: Any = None) -> Any:
        latents = super().generate(clip, images, on_step, keep)
        if len(self.rendered) == 1:
            latents[:] = latents[:, :, :1] if self.frozen else -1
        return latents


@pytest.mark.parametrize(("frozen", "words"), [(False, "every frame is black"), (True, "frozen")])
def test_black_or_frozen_clip_is_bad_output_and_rendered_anew(
    tmp_path: Path, frozen: bool, words: str
) -> None:
    """Kept as a master, it would fail the same variants in assembly every night, and never be rendered again."""
    world, engine = World(tmp_path), BlackAtFirst(frozen)
    with pytest.raises(RenderError, match=words) as raised:
        world.render(engine)
    assert raised.value.cause is Cause.BAD_OUTPUT
    assert clip_record(world.store, MASTER) is None
    assert clip_record(world.store, BASE) is None, "the next try would decode the same latents"
    assert isinstance(world.render(engine, 2), Rendered)
    assert len(engine.rendered) == 2
    assert clip_record(world.store, MASTER)
