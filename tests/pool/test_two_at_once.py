"""A replica that ends one clip while it denoises the next: two at once, and neither harms the other."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pool.test_replica import CLIP, SAMPLING, SlowEngine, World
from wanflow.errors import Cancelled, RenderError
from wanflow.model import Attempt, CascadeStep, Cause, RenderClip, Stage
from wanflow.pool.rendering import Kept, Watch
from wanflow.pool.replica import Denoised, Rendered, Replica
from wanflow.records import clip_record, put_clip

#: a thread that waits for longer waits for what will not come
PATIENCE_S = 60.0
FIRST, SECOND, THIRD = Attempt(1, 1), Attempt(1, 2), Attempt(1, 3)


def task(name: str) -> RenderClip:
    """One of its own prompt and keys; ``name`` is a hex digit."""
    clip = replace(CLIP, prompt=f"waves {name}")
    return RenderClip(clip, (Stage("base", name * 64), Stage("master", f"{name}0" * 32)))


def base(task: RenderClip) -> str:
    return task.stages[0].key


A, B, C = task("a"), task("b"), task("c")


class Gates(SlowEngine):
    """Decodes when the test lets it: ``decoding`` tells that it has begun, ``go_on`` lets it end."""

    def __init__(self) -> None:
        super().__init__()
        self.decoding, self.go_on = threading.Event(), threading.Event()
        self.fails: Callable[[], None] = lambda: None
        self.num_decoding = self.most_decoding = 0
        self.is_denoising = False

    def generate(self, *arguments: Any) -> Any:
        self.is_denoising = True
        try:
            return super().generate(*arguments)
        finally:
            self.is_denoising = False

    def frames(self, pixels: Any) -> Iterator[Any]:
        self.num_decoding += 1
        self.most_decoding = max(self.most_decoding, self.num_decoding)
        self.decoding.set()
        try:
            assert self.go_on.wait(PATIENCE_S), "nobody let it go on"
            self.fails()
            yield from super().frames(pixels)
        finally:
            self.num_decoding -= 1


def begin(replica: Replica, task: RenderClip, attempt: Attempt, **watch: Any) -> object:
    return replica.begin(task, attempt, Watch(watch.pop("on_step", lambda *_: None), **watch))


def test_the_next_clip_is_denoised_while_the_former_one_is_decoded(tmp_path: Path) -> None:
    """A GPU waits for no ffmpeg and no bucket."""
    world, engine = World(tmp_path), Gates()
    replica = world.replica(engine)
    assert begin(replica, A, FIRST) == Denoised()
    assert engine.decoding.wait(PATIENCE_S)
    engine.before = lambda stage, step: engine.go_on.set() if step == SAMPLING.steps else None
    assert begin(replica, B, SECOND) == Denoised()
    for attempt, each in ((FIRST, A), (SECOND, B)):
        assert isinstance(replica.finish(attempt), Rendered)
        assert clip_record(world.store, each.key)
    assert engine.rendered == ["waves a", "waves b"]


def test_a_clips_latents_are_stored_beside_the_next_clips_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload takes a share of a second for each of twenty thousand clips, and minutes on a bad night."""
    moving = threading.Event()

    def stalled(store: Any, key: str, *arguments: Any) -> Any:
        if key == base(A):
            assert moving.wait(PATIENCE_S), "the store waits for the next clip's steps"
        return put_clip(store, key, *arguments)

    monkeypatch.setattr("wanflow.pool.rendering.put_clip", stalled)
    engine = SlowEngine()
    replica = World(tmp_path).replica(engine)
    assert begin(replica, A, FIRST) == Denoised()
    engine.before = lambda stage, step: moving.set()
    assert begin(replica, B, SECOND) == Denoised()
    assert isinstance(replica.finish(FIRST), Rendered)
    assert isinstance(replica.finish(SECOND), Rendered)


def test_a_third_clip_waits_for_the_first_ones_end(tmp_path: Path) -> None:
    """Where ends take longer than steps, they queue on the replica, one by one, and memory stays what it was."""
    engine = Gates()
    replica = World(tmp_path).replica(engine)
    begin(replica, A, FIRST)
    engine.go_on.set()
    for each, attempt in ((B, SECOND), (C, THIRD)):
        begin(replica, each, attempt)
    for attempt in (FIRST, SECOND, THIRD):
        replica.finish(attempt)
    assert engine.most_decoding == 1
    engine.go_on.clear()
    engine.decoding.clear()
    begin(replica, task("d"), Attempt(1, 4))
    assert engine.decoding.wait(PATIENCE_S)
    ended = threading.Event()
    other = threading.Thread(target=lambda: (begin(replica, task("e"), Attempt(1, 5)), ended.set()))
    other.start()
    assert not ended.wait(0.05), "its steps are done, and it waits"
    engine.go_on.set()
    other.join(PATIENCE_S)
    assert ended.is_set()
    assert dict(replica.seconds(Attempt(1, 5)))["wait"] > 0


@pytest.mark.parametrize("cause", [Cause.BAD_OUTPUT, Cause.STORAGE, Cause.ITEM_ERROR])
def test_an_end_that_fails_while_the_next_clip_is_denoised_harms_only_its_own(
    tmp_path: Path, cause: Cause
) -> None:
    """Frozen frames of one clip, the steps of another."""
    world, engine = World(tmp_path), Gates()
    replica = world.replica(engine)

    def fail() -> None:
        engine.fails = lambda: None
        raise RenderError("on purpose", cause)

    begin(replica, A, FIRST)
    assert engine.decoding.wait(PATIENCE_S)

    def in_mid_clip(stage: str, step: int) -> None:
        if step == 3:
            engine.fails = fail
            engine.go_on.set()
            with pytest.raises(RenderError) as raised:
                replica.finish(FIRST)
            assert raised.value.cause is cause

    engine.before = in_mid_clip
    assert begin(replica, B, SECOND) == Denoised()
    assert isinstance(replica.finish(SECOND), Rendered)
    assert clip_record(world.store, A.key) is None
    assert (clip_record(world.store, base(A)) is None) == (cause is Cause.BAD_OUTPUT), (
        "what gave it is not kept"
    )
    assert clip_record(world.store, B.key)
    assert dict(replica.seconds(FIRST))["denoise"] > 0
    engine.before = lambda stage, step: None
    assert isinstance(replica.render(A, THIRD, Watch(lambda *_: None)), Rendered)


def test_a_clip_that_fails_while_the_former_one_ends_harms_only_its_own(tmp_path: Path) -> None:
    world, engine = World(tmp_path), Gates()
    replica = world.replica(engine)
    begin(replica, A, FIRST)

    def fail(stage: str, step: int) -> None:
        raise RenderError("on purpose", Cause.ITEM_ERROR)

    engine.before = fail
    with pytest.raises(RenderError):
        begin(replica, B, SECOND)
    engine.go_on.set()
    assert isinstance(replica.finish(FIRST), Rendered)
    assert clip_record(world.store, A.key)


def test_an_end_is_answered_for_however_many_clips_began_beside_it(tmp_path: Path) -> None:
    """Clips that fail at once come and go while a long one is decoded: why that failed, and its seconds, stay known."""
    world, engine = World(tmp_path), Gates()
    replica = world.replica(engine)
    begin(replica, A, FIRST)

    def refuse(stage: str, step: int) -> None:
        raise RenderError("on purpose", Cause.BAD_INPUT)

    engine.before = refuse
    for number in range(2, 6):
        with pytest.raises(RenderError):
            begin(replica, B, Attempt(1, number))

    def fail() -> None:
        raise RenderError("on purpose", Cause.STORAGE)

    engine.fails = fail
    engine.go_on.set()
    with pytest.raises(RenderError) as raised:
        replica.finish(FIRST)
    assert raised.value.cause is Cause.STORAGE
    assert dict(replica.seconds(FIRST))["denoise"] > 0


def test_an_end_that_failed_holds_nothing_of_the_device(tmp_path: Path) -> None:
    """Its error is kept until it is asked for, and the frames of an error hold what they computed with."""
    world, engine = World(tmp_path), Gates()
    replica = world.replica(engine)
    begin(replica, A, FIRST)
    held: list[weakref.ref[threading.Event]] = []

    def fail() -> None:
        tensor = threading.Event()  # any object that can be referred to weakly
        held.append(weakref.ref(tensor))
        raise RenderError("on purpose", Cause.ITEM_ERROR)

    engine.fails = fail
    engine.go_on.set()
    replica._wait_for_end()
    gc.collect()
    assert held[0]() is None
    with pytest.raises(RenderError):
        replica.finish(FIRST)


def test_an_end_without_memory_beside_other_steps_is_tried_again_alone(tmp_path: Path) -> None:
    """The two peaks met: that is no reason to render the whole clip a second time, a rung lower."""
    world, engine = World(tmp_path), Gates()
    replica = world.replica(engine)
    begin(replica, A, FIRST)
    assert engine.decoding.wait(PATIENCE_S)
    beside: list[bool] = []

    def fail_once() -> None:
        beside.append(engine.is_denoising)
        if len(beside) == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    def in_mid_clip(stage: str, step: int) -> None:
        if step == 3:
            engine.go_on.set()
            while not beside:
                threading.Event().wait(0.001)

    engine.fails, engine.before = fail_once, in_mid_clip
    made = begin(replica, B, SECOND)
    assert isinstance(replica.finish(FIRST), Rendered)
    assert beside[:2] == [True, False]
    assert isinstance(made, Rendered), "from now on each clip has the replica for itself"
    assert isinstance(begin(replica, C, THIRD), Rendered)
    assert clip_record(world.store, A.key)
    assert (engine.most_decoding, engine.thrift) == (1, 0)


def test_an_end_without_memory_that_was_alone_is_the_clips_failure(tmp_path: Path) -> None:
    """The scheduler has it rendered again, with less on the device; others go on two at once."""
    engine = Gates()
    replica = World(tmp_path).replica(engine)
    tries: list[None] = []

    def fail() -> None:
        tries.append(None)
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    engine.fails = fail
    engine.go_on.set()
    begin(replica, A, FIRST)
    with pytest.raises(RenderError) as raised:
        replica.finish(FIRST)
    assert raised.value.cause is Cause.OUT_OF_MEMORY
    assert len(tries) == 1
    engine.fails = lambda: None
    assert begin(replica, B, SECOND) == Denoised()
    replica.finish(SECOND)


def test_steps_without_memory_beside_an_end_are_taken_again_alone(tmp_path: Path) -> None:
    """The clip goes on from the steps that it kept, once the one before is out of the way."""
    world, engine = World(tmp_path), Gates()
    replica = world.replica(engine)
    begin(replica, A, FIRST)
    assert engine.decoding.wait(PATIENCE_S)

    def fail(stage: str, step: int) -> None:
        if step == 4 and not engine.go_on.is_set():
            engine.go_on.set()
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    engine.before = fail
    # it decodes still when those steps fail
    engine.fails = lambda: threading.Event().wait(0.2) and None
    assert isinstance(begin(replica, B, SECOND), Rendered)
    assert isinstance(replica.finish(FIRST), Rendered)
    assert clip_record(world.store, B.key)


def test_steps_without_memory_are_taken_again_alone_where_the_end_beside_them_is_over_by_then(
    tmp_path: Path,
) -> None:
    """The decoder let go of its memory while the failure was on its way: it was in the way all the same, and the clip
    pays no rung of the ladder for it."""
    engine = Gates()
    replica = World(tmp_path).replica(engine)
    begin(replica, A, FIRST)
    assert engine.decoding.wait(PATIENCE_S)

    def fail(stage: str, step: int) -> None:
        if not engine.go_on.is_set():
            engine.go_on.set()
            replica._wait_for_end()
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    engine.before = fail
    assert isinstance(begin(replica, B, SECOND), Rendered)
    assert isinstance(replica.finish(FIRST), Rendered)


def test_steps_without_memory_that_were_alone_are_the_clips_failure(tmp_path: Path) -> None:
    """The end of the clip before was over when it began: the very same steps would fail again."""
    engine = Gates()
    replica = World(tmp_path).replica(engine)
    engine.go_on.set()
    begin(replica, A, FIRST)
    replica.finish(FIRST)
    tries: list[None] = []

    def fail(stage: str, step: int) -> None:
        tries.append(None)
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    engine.before = fail
    with pytest.raises(RenderError) as raised:
        begin(replica, B, SECOND)
    assert raised.value.cause is Cause.OUT_OF_MEMORY
    assert len(tries) == 1
    engine.before = lambda stage, step: None
    assert begin(replica, C, THIRD) == Denoised(), "others go on two at once"
    replica.finish(THIRD)


def test_a_clip_that_ends_can_be_cancelled_while_the_next_one_goes_on(tmp_path: Path) -> None:
    """Its second copy elsewhere was first."""
    world, engine = World(tmp_path), Gates()
    replica = world.replica(engine)
    cancelled = threading.Event()

    def on_step(stage: str, step: int, num_steps: int) -> None:
        if cancelled.is_set():
            raise Cancelled

    begin(replica, A, FIRST, on_step=on_step)
    assert engine.decoding.wait(PATIENCE_S)

    def cancel(stage: str, step: int) -> None:
        cancelled.set()
        engine.go_on.set()

    engine.before = cancel
    assert begin(replica, B, SECOND) == Denoised()
    with pytest.raises(Cancelled):
        replica.finish(FIRST)
    assert isinstance(replica.finish(SECOND), Rendered)
    assert clip_record(world.store, A.key) is None


def test_a_drain_saves_the_one_and_lets_the_other_end(tmp_path: Path) -> None:
    """Two minutes' notice with two clips in flight: a master and the steps so far, nothing lost."""
    world, engine = World(tmp_path), Gates()
    replica = world.replica(engine)
    begin(replica, A, FIRST)
    saves = threading.Event()
    engine.before = lambda stage, step: saves.set() if step == 3 else None
    made = begin(replica, B, SECOND, must_save=saves.is_set)
    assert isinstance(made, Kept)
    assert (made.stage, made.step) == ("denoise", 3)
    assert world.steps(base(B)) == [3]
    engine.go_on.set()
    assert isinstance(replica.finish(FIRST), Rendered)
    assert clip_record(world.store, A.key)
    engine.before = lambda stage, step: None
    engine.steps.clear()
    assert isinstance(World(tmp_path).replica(engine).render(B, THIRD, Watch(lambda *_: None)), Rendered)
    assert engine.steps == [("denoise", step) for step in (4, 5, 6)]


def test_weights_move_only_when_nothing_is_decoded(tmp_path: Path) -> None:
    """A rung down the memory ladder takes the decoder off the GPU."""
    engine = Gates()
    replica = World(tmp_path).replica(engine)
    begin(replica, A, FIRST)
    assert engine.decoding.wait(PATIENCE_S)
    moved: list[bool] = []
    engine.set_thrift = lambda thrift: moved.append(engine.num_decoding > 0)  # type: ignore[method-assign]
    threading.Timer(0.1, engine.go_on.set).start()
    replica.begin(B, SECOND, Watch(lambda *_: None), thrift=1)
    assert moved == [False]


def test_an_engine_that_cannot_decode_beside_its_steps_ends_each_clip_first(tmp_path: Path) -> None:
    engine = SlowEngine()
    engine.decodes_beside = False
    replica = World(tmp_path).replica(engine)
    assert isinstance(begin(replica, A, FIRST), Rendered)


def test_what_is_only_to_be_decoded_has_the_engine_for_itself(tmp_path: Path) -> None:
    """Its latents are on record. Nothing was denoised, so not all of the engine may be where it works."""
    world, engine = World(tmp_path), SlowEngine()
    assert isinstance(world.replica(engine).render(A, FIRST, Watch(lambda *_: None)), Rendered)
    world.store.delete(f"clips/{A.key[:2]}/{A.key}.json")
    assert isinstance(begin(world.replica(engine), A, SECOND), Rendered)
    assert engine.rendered == ["waves a"]


def test_no_second_of_a_gpu_is_billed_to_two_clips(tmp_path: Path) -> None:
    """What a clip decodes beside another's steps is told, and not billed: a night costs what it held the GPUs for."""
    engine = Gates()
    replica = World(tmp_path).replica(engine)
    begin(replica, A, FIRST)
    assert engine.decoding.wait(PATIENCE_S)
    pause = threading.Event()

    def slowly(stage: str, step: int) -> None:
        pause.wait(0.02)
        if step == SAMPLING.steps:  # the decoder goes on a while after the last of these steps
            threading.Timer(0.2, engine.go_on.set).start()

    engine.before = slowly
    begin(replica, B, SECOND)
    first, second = replica.finish(FIRST), replica.finish(SECOND)
    assert isinstance(first, Rendered)
    assert isinstance(second, Rendered)
    told, steps_s = dict(first.seconds), dict(second.seconds)["denoise"]
    assert steps_s >= 0.12
    assert 0.05 <= told["decode_beside"] <= steps_s + 0.05
    assert told["decode"] > 0, "it was alone from the end of those steps on"


def test_a_cascade_goes_on_from_its_own_latents_while_the_former_clip_ends(tmp_path: Path) -> None:
    """Base and refine of the next clip use the decoder as well."""
    refine = CascadeStep("refine", (("grid", 16), ("scale", 1.0), ("steps", 4), ("strength", 0.3)))
    stages = (Stage("base", "b" * 64), Stage("cascade-1", "cc" * 32), Stage("master", "b0" * 32))
    world, engine = World(tmp_path), Gates()
    replica = world.replica(engine)
    begin(replica, A, FIRST)
    engine.before = lambda stage, step: engine.go_on.set() if stage == "cascade-1" else None
    two = RenderClip(replace(B.clip, cascade=(refine,)), stages)
    assert begin(replica, two, SECOND) == Denoised()
    assert isinstance(replica.finish(SECOND), Rendered)
    assert [stage for stage, _ in engine.steps].count("cascade-1") == 4
    assert all(clip_record(world.store, stage.key) for stage in stages)
