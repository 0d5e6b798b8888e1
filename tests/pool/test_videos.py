"""A clip's source video: staged, pinned, fetched ahead, and needed no more once there are steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pool.test_replica import BASE, CLIP, TASK, SlowEngine, World
from tests.videos import write_video
from wanflow.decoder import MAX_CHILDREN, decoder
from wanflow.engines import Unfinished
from wanflow.errors import Cancelled, RenderError
from wanflow.model import Attempt, Cause, Clip, RenderClip, Source, SourceVideo, Stage
from wanflow.pins import pins_of
from wanflow.pool import replica as replicas
from wanflow.pool.loras import local_video
from wanflow.pool.replica import Kept, Rendered
from wanflow.staging import stage_inputs
from wanflow.storage import Store
from wanflow.timings import expected_s, load_timings, save_timings, work_of

STEPS = 4


class Begun(SlowEngine):
    """Notes the shape of what each clip begins from."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[int, ...]] = []

    def begin(self, clip: Clip, video: Iterator[Any]) -> Unfinished:
        state = super().begin(clip, video)
        self.begun.append(tuple(state.latents.shape))
        return state


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "videos"


@pytest.fixture
def clip(tmp_path: Path, cache: Path) -> Clip:
    path = write_video(tmp_path / "a.mp4", [20 * i for i in range(8)], rate=8)
    source = Source(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    return replace(CLIP, video=SourceVideo(source, STEPS))


def test_a_clip_begins_at_its_video_which_is_fetched_ahead(
    tmp_path: Path, clip: Clip, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU does not wait for a store, and no reader takes the file into memory whole."""
    monkeypatch.setattr(replicas, "read_source", None)
    world, engine = World(tmp_path / "store"), Begun()
    replica, task = world.replica(engine), replace(TASK, clip=clip)
    assert clip.video is not None
    replica.stage(task)
    assert [path.name for path in cache.glob("[!.]*[!k]")] == [clip.video.source.digest]
    Path(clip.video.source.url).unlink()
    assert isinstance(replica.render(task, Attempt(1, 1), world.watch()), Rendered)
    assert engine.begun == [(1, 3, 5, 4, 4)]
    assert [step for stage, step in engine.steps if stage == "denoise"] == [1, 2, 3, 4]
    assert ("encode", 0, 1) in world.seen
    plain = replace(TASK, stages=(Stage("base", "ab" * 32), Stage("master", "cd" * 32)))
    replica.render(plain, Attempt(1, 2), world.watch())
    assert len(engine.begun) == 1
    assert engine.steps[-1] == ("denoise", 6)


def test_a_clip_that_was_saved_goes_on_without_its_video(tmp_path: Path, clip: Clip, cache: Path) -> None:
    """On another node, which need not fetch it."""
    world, first = World(tmp_path / "store"), Begun()
    task = replace(TASK, clip=clip)
    first.before = lambda stage, step: setattr(world, "saves", step == 2)
    assert isinstance(world.render(first, 1, task), Kept)
    assert world.steps() == [2]
    world.saves = False
    assert clip.video is not None
    Path(clip.video.source.url).unlink()
    (cache / clip.video.source.digest).unlink()
    second = Begun()
    assert isinstance(world.render(second, 2, task), Rendered)
    assert (second.begun, second.steps) == ([], [("denoise", 3), ("denoise", 4)])
    assert world.steps(BASE) == []


def test_a_clip_is_cancelled_while_its_video_is_encoded(tmp_path: Path, clip: Clip) -> None:
    world, engine = World(tmp_path / "store"), Begun()
    world.cancels = True
    with pytest.raises(Cancelled):
        world.render(engine, 1, replace(TASK, clip=clip))
    assert engine.begun == []


def test_a_video_that_has_changed_or_does_not_decode_is_bad_input(tmp_path: Path, clip: Clip) -> None:
    """Not tried again until the row changes."""
    assert clip.video is not None
    long = replace(clip, num_frames=13)
    with pytest.raises(RenderError, match=r"source video lasts 1\.00 s, and a clip of 13 frames") as raised:
        World(tmp_path / "store").render(Begun(), 1, replace(TASK, clip=long))
    assert raised.value.cause is Cause.BAD_INPUT
    changed = replace(clip, video=replace(clip.video, source=Source(clip.video.source.url, "0" * 64)))
    with pytest.raises(RenderError, match="has changed since it was planned with") as raised:
        World(tmp_path / "store").render(Begun(), 1, replace(TASK, clip=changed))
    assert raised.value.cause is Cause.BAD_INPUT


def test_an_attempt_that_fails_half_way_leaves_no_decoder_behind(tmp_path: Path, clip: Clip) -> None:
    """Its error is held for as long as it is told; after a few of them, the next clip would wait for ever."""

    class Failing(SlowEngine):
        def begin(self, clip: Clip, video: Iterator[Any]) -> Unfinished:
            next(video)
            raise RenderError("the device fell over")

    world = World(tmp_path / "store")
    with pytest.raises(RenderError, match="fell over") as raised:
        world.render(Failing(), 1, replace(TASK, clip=clip))
    assert decoder._room._value == MAX_CHILDREN
    assert raised.value.__traceback__ is not None, "and it is held still"


def test_a_video_stays_on_the_node_while_a_clip_begins_from_it(
    tmp_path: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a replica that makes room for its own, on a disk that is full of weights in use."""
    monkeypatch.setenv("WANFLOW_CACHE_GIB", "1e-9")
    other = write_video(tmp_path / "b.mp4", [50] * 8, rate=8)
    source = Source(str(other), hashlib.sha256(other.read_bytes()).hexdigest())

    class Slow(Begun):
        def begin(self, clip: Clip, video: Iterator[Any]) -> Unfinished:
            with local_video(source):
                return super().begin(clip, video)

    engine = Slow()
    assert isinstance(World(tmp_path / "store").render(engine, 1, replace(TASK, clip=clip)), Rendered)
    assert len(engine.begun) == 1


def test_a_video_goes_to_the_workspace_and_is_pinned_there(tmp_path: Path, clip: Clip) -> None:
    """Other nodes do not see the planner's disk; and gc must not take what clips are made from."""
    workspace = Store(str(tmp_path / "store"))
    renders = stage_inputs(workspace, [RenderClip(clip, (Stage("master", "k"),))], []).renders
    staged = renders["k"].clip
    assert staged == clip, "where it lies is no part of it"
    assert staged.video is not None
    assert clip.video is not None
    digest = clip.video.source.digest
    assert staged.video.source.url.endswith(f"inputs/{digest}")
    assert workspace.read(f"inputs/{digest}") == Path(clip.video.source.url).read_bytes()
    assert digest in pins_of([clip], [], True).inputs


def test_fewer_steps_are_expected_to_cost_less(tmp_path: Path, clip: Clip) -> None:
    """`plan --cost` and the order of the work know that a strength of two thirds is two thirds of the steps."""
    whole = replace(clip, video=None)
    assert work_of(clip) == pytest.approx(work_of(whole) * STEPS / 6)
    workspace = Store(str(tmp_path / "store"))
    save_timings(workspace, [(whole, 60.0)])
    timings = load_timings(workspace)
    assert expected_s(whole, timings) == pytest.approx(60.0)
    assert expected_s(clip, timings) == pytest.approx(40.0)
