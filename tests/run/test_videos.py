"""Whole runs of clips from footage: real engine, tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job
from tests.videos import write_video
from wanflow import Job, plan, run
from wanflow.planning.why import explain
from wanflow.storage import Store
from wanflow.testing import load_fake_engine

STEPS = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


@pytest.fixture
def footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two videos of a second."""
    monkeypatch.setenv("WANFLOW_CACHE", str(tmp_path / "cache"))
    for i, name in enumerate(("a.mp4", "b.mp4")):
        write_video(tmp_path / name, [i * 100 + 20 * frame for frame in range(8)], rate=8)
    return tmp_path


def _job(folder: Path, checkpoint: str, videos: tuple[str, str, str], strength: float) -> Job:
    return make_job(
        folder,
        checkpoint,
        [row | {"prompt": "waves", "video": name} for row, name in zip(ROWS, videos, strict=True)],
        engine={"checkpoint": checkpoint, "steps": STEPS},
        clip={"aspect": "1x1", "seconds": 0.5, "strength": strength},
        cascade=[{"refine": {"steps": 1}}],
    )


def _reasons(job: Job) -> dict[str, str]:
    found = explain(plan(job), Store(str(job.workspace)))
    return {why.id: str(why) for why in found if why.kind == "variant"}


def test_a_night_of_footage(footage: Path, checkpoint: str) -> None:
    """From the column to the video, two experts, refined; the next night nothing is done, and then what changed is."""
    videos = ("a.mp4", "b.mp4", "")
    job = _job(footage, checkpoint, videos, 0.5)
    outcome = run(job, inline=True)
    assert outcome.exit_code == 0
    assert outcome.num_clips_rendered == 3, "one prompt and seed, two videos and none"
    masters = {path.read_bytes() for path in (footage / "out/.wanflow/clips").rglob("master.mp4")}
    assert len(masters) == 3
    assert plan(job).is_empty
    assert _reasons(_job(footage, checkpoint, videos, 0.75)) == {
        "ann": "video steps: 2 -> 3",
        "bob": "video steps: 2 -> 3",
    }
    (footage / "a.mp4").write_bytes((footage / "b.mp4").read_bytes())
    moved = _job(footage, checkpoint, ("a.mp4", "", ""), 0.5)
    assert plan(moved).to_render == (), "b's clip, under another name, and that from noise"
    reasons = _reasons(moved)
    assert reasons["ann"].startswith("video: a.mp4 (")
    assert " -> a.mp4 (" in reasons["ann"]
    assert reasons["bob"].endswith(" -> none")


def test_bad_footage_is_one_bad_row(footage: Path, checkpoint: str) -> None:
    rows = [
        ROWS[0] | {"video": "a.mp4", "seconds": 0.5},
        ROWS[1] | {"video": "gone.mp4", "seconds": 0.5},
        ROWS[2] | {"video": "a.mp4", "seconds": 9.0},
    ]
    job = make_job(footage, checkpoint, rows)
    outcome = run(job, inline=True, load_engine=load_fake_engine, skip_bad_rows=True)
    assert (outcome.counts["published"], outcome.counts["failed"]) == (1, 2)
