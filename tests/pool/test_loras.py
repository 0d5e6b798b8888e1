"""LoRA files on a node: fetched once, whole, as planned; and a replica that has the right ones set."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pool.test_replica import CLIP, SPEC, World
from wanflow import staging
from wanflow.errors import InputError, RenderError
from wanflow.model import Attempt, Cause, Clip, Lora, RenderClip, Source, Stage
from wanflow.pins import pins_of
from wanflow.pool.loras import local_lora
from wanflow.staging import stage_inputs
from wanflow.storage import Store
from wanflow.testing import FakeEngine


def _source(folder: Path, content: bytes, name: str = "style.safetensors") -> Source:
    (folder / name).write_bytes(content)
    return Source(str(folder / name), hashlib.sha256(content).hexdigest())


def _task(number: int, *loras: Lora) -> RenderClip:
    stages = Stage("base", f"{2 * number:064d}"), Stage("master", f"{2 * number + 1:064d}")
    return RenderClip(replace(CLIP, loras=loras), stages)


class LoraEngine(FakeEngine):
    """Writes down what it was given."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.sets: list[list[tuple[float, bytes]]] = []
        self.broken = False

    def set_loras(self, loras: Sequence[tuple[Lora, Path]]) -> None:
        super().set_loras(loras)
        self.sets.append([(lora.scale, path.read_bytes()) for lora, path in loras])
        if self.broken and loras:
            raise RenderError("does not fit", Cause.BAD_INPUT)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "loras"


def test_a_file_is_fetched_once_a_node_however_many_replicas_ask(tmp_path: Path, cache: Path) -> None:
    """Eight replicas of a node and one file of 0.6 GB."""
    source = _source(tmp_path, b"weights" * 1000)
    with ThreadPoolExecutor(8) as threads:
        paths = set(threads.map(lambda _: local_lora(source), range(16)))
    [path] = paths
    assert path.parent == cache
    assert path.read_bytes() == b"weights" * 1000
    Path(source.url).unlink()
    assert local_lora(source) == path, "the next run finds it"
    assert not list(cache.glob(".tmp*"))


def test_a_file_that_changed_or_went_since_planning_is_bad_input(tmp_path: Path, cache: Path) -> None:
    """The key says other bytes than those that are there now."""
    source = _source(tmp_path, b"one")
    Path(source.url).write_bytes(b"two")
    with pytest.raises(InputError, match="has changed since it was planned with"):
        local_lora(source)
    Path(source.url).unlink()
    with pytest.raises(InputError, match="does not exist any more"):
        local_lora(source)
    assert not list(cache.glob("*.safetensors"))
    assert not list(cache.glob(".tmp*"))


def test_the_cache_keeps_those_that_were_used_last(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand customers' styles do not fit on a node's disk."""
    sources = [_source(tmp_path, bytes([i]) * 100, f"{i}.safetensors") for i in range(3)]
    paths = [local_lora(source) for source in sources[:2]]
    os.utime(paths[0].with_suffix(".lock"), (1, 1))
    os.utime(paths[1].with_suffix(".lock"), (2, 2))
    local_lora(sources[0])
    monkeypatch.setenv("WANFLOW_CACHE_GIB", str(250 / 2**30))
    third = local_lora(sources[2])
    assert paths[0].exists()
    assert not paths[1].exists()
    assert third.exists()
    assert local_lora(_source(tmp_path, b"x" * 400, "large.safetensors")).exists()


def test_a_replica_swaps_only_where_clips_differ(tmp_path: Path, cache: Path) -> None:
    """Sorted by style, a night has as many swaps as styles; a plain clip has none set."""
    world, engine = World(tmp_path / "store"), LoraEngine()
    replica = world.replica(engine)
    style = Lora(_source(tmp_path, b"ink"), 0.5, "low")
    for number, loras in enumerate([(), (style,), (style,), (replace(style, scale=1.0),), ()], 1):
        replica.render(_task(number, *loras), Attempt(1, number), world.watch())
    assert engine.sets == [[(0.5, b"ink")], [(1.0, b"ink")], []]


def test_after_a_lora_that_failed_the_next_clips_are_set_anew(tmp_path: Path, cache: Path) -> None:
    """The engine has none then; a clip that needs it must not be taken for one that has it."""
    world, engine = World(tmp_path / "store"), LoraEngine()
    replica = world.replica(engine)
    style = Lora(_source(tmp_path, b"ink"))
    engine.broken = True
    with pytest.raises(RenderError) as raised:
        replica.render(_task(1, style), Attempt(1, 1), world.watch())
    assert raised.value.cause is Cause.BAD_INPUT
    replica.render(_task(2), Attempt(1, 2), world.watch())
    assert engine.sets[-1] == []
    gone = Lora(replace(style.source, digest="0" * 64))
    with pytest.raises(RenderError) as raised:
        replica.render(_task(3, gone), Attempt(1, 3), world.watch())
    assert raised.value.cause is Cause.BAD_INPUT


def test_a_local_lora_goes_to_the_workspace_and_is_pinned_there(tmp_path: Path) -> None:
    """Other nodes do not see the planner's disk; and gc must not take it while clips are rendered."""
    workspace = Store(str(tmp_path / "store"))
    lora = Lora(_source(tmp_path, b"ink" * 100))
    clip: Clip = replace(CLIP, loras=(lora,))
    renders = stage_inputs(workspace, [RenderClip(clip, (Stage("master", "k"),))], []).renders
    [staged] = renders["k"].clip.loras
    assert staged == lora, "where it lies is no part of it"
    assert staged.source.url.endswith(f"inputs/{lora.source.digest}")
    assert workspace.read(f"inputs/{lora.source.digest}") == b"ink" * 100
    assert lora.source.digest in pins_of([clip], [], True).inputs


def test_one_lora_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of two gigabytes each would end the driver, and with it the night."""
    workspace = Store(str(tmp_path / "store"))
    loras = [Lora(_source(tmp_path, b"ink" * n, f"{n}.safetensors")) for n in range(1, 5)]
    held, most = 0, 0

    def read(self: object, place: str, max_bytes: int) -> bytes:
        nonlocal held, most
        held += 1
        most = max(most, held)
        time.sleep(0.02)
        held -= 1
        return Path(place).read_bytes()

    monkeypatch.setattr(staging.Reader, "read", read)
    stage_inputs(workspace, [_task(n, *loras[:n]) for n in range(1, 5)], [])
    assert most == 1
    for lora in loras:
        assert workspace.stat(f"inputs/{lora.source.digest}")
