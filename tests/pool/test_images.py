"""A clip's images, of its first frame and its last: staged, pinned, fetched ahead, and given to every stage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pool.test_replica import CLIP, SPEC, World
from wanflow.model import Attempt, Branch, CascadeStep, Clip, Mode, RenderClip, Source, Stage
from wanflow.pins import pins_of
from wanflow.pool import replica as replicas
from wanflow.staging import stage_inputs
from wanflow.storage import Store
from wanflow.testing import FakeEngine

FIRST, LAST = b"first", b"last one"
STAGES = tuple(Stage(name, f"{i}a" * 32) for i, name in enumerate(("trunk", "base", "cascade-1", "master")))


class Noting(FakeEngine):
    """Notes what each stage was given."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.given: list[tuple[str, bytes | None, bytes | None]] = []

    def _note(self, stage: str, images: Sequence[bytes]) -> None:
        first, last, *more = (*images, None, None)
        assert more in ([], [None], [None, None]), "more than two images"
        self.given.append((stage, first, last))

    def generate(self, clip: Clip, images: Any, on_step: Any, keep: Any = None) -> Any:
        self._note("generate", images)
        return super().generate(clip, images, on_step, keep)

    def trunk(self, clip: Clip, images: Any, on_step: Any, keep: Any = None) -> Any:
        self._note("trunk", images)
        return super().trunk(clip, images, on_step, keep)

    def refine(self, clip: Clip, latents: Any, images: Any, **named: Any) -> Any:
        self._note("refine", images)
        return super().refine(clip, latents, images, **named)


def _source(folder: Path, name: str, data: bytes) -> Source:
    (folder / name).write_bytes(data)
    return Source(str(folder / name), hashlib.sha256(data).hexdigest())


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    return replace(
        CLIP,
        mode=Mode.I2V,
        image=_source(tmp_path, "first.png", FIRST),
        last_image=_source(tmp_path, "last.png", LAST),
        branch=Branch("sea", 2),
        cascade=(CascadeStep("refine", (("grid", 8), ("scale", 1.0), ("steps", 2), ("strength", 0.3))),),
    )


def test_every_stage_gets_both_images_and_they_are_fetched_once(
    tmp_path: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the clip before it renders: the GPU does not wait for a store."""
    read: list[str] = []
    monkeypatch.setattr(
        replicas, "read_source", lambda source: (read.append(source.url), Path(source.url).read_bytes())[1]
    )
    world, engine = World(tmp_path / "store"), Noting()
    replica, task = world.replica(engine), RenderClip(clip, STAGES)
    replica.stage(task)
    assert [Path(url).name for url in read] == ["first.png", "last.png"]
    replica.render(task, Attempt(1, 1), world.watch())
    assert engine.given == [(stage, FIRST, LAST) for stage in ("trunk", "generate", "refine")]
    assert len(read) == 2
    other = replace(clip, last_image=None, branch=None, cascade=())
    stages = (Stage("base", "ba" * 32), Stage("master", "bb" * 32))
    replica.render(RenderClip(other, stages), Attempt(1, 2), world.watch())
    assert engine.given[3:] == [("generate", FIRST, None)], "nothing of the clip before it"


def test_both_images_go_to_the_workspace_and_are_pinned_there(tmp_path: Path, clip: Clip) -> None:
    """Other nodes do not see the planner's disk; and gc must not take what clips start from, or end at."""
    workspace = Store(str(tmp_path / "store"))
    renders = stage_inputs(workspace, [RenderClip(clip, (Stage("master", "k"),))], []).renders
    staged = renders["k"].clip
    assert staged == clip, "where they lie is no part of it"
    for image, data in zip(staged.images, (FIRST, LAST), strict=True):
        assert image.url.endswith(f"inputs/{image.digest}")
        assert workspace.read(f"inputs/{image.digest}") == data
    assert {image.digest for image in clip.images} <= pins_of([clip], [], True).inputs
