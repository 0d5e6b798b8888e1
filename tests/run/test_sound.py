"""Whole runs of videos that are heard: voices by row, music for all, and what happens when one of them is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job
from tests.sounds import level_db, read_sound, tone, write_sound
from wanflow import Job, Outcome, driver, plan, run
from wanflow.model import Status
from wanflow.report import results
from wanflow.storage import Store
from wanflow.testing import load_fake_engine

SOUND = {"voice": {"url": "{{ voice }}", "extend": "hold"}, "music": {"url": "bed.wav", "duck": 20}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


@pytest.fixture
def job(tmp_path: Path, checkpoint: str) -> Job:
    """Two customers are spoken to, the third hears music alone."""
    write_sound(tmp_path / "bed.wav", tone(4.0, 200))
    write_sound(tmp_path / "ann.mp3", tone(1.5, 1000))
    write_sound(tmp_path / "bob.mp3", tone(0.4, 1000))
    rows = [row | {"voice": voice} for row, voice in zip(ROWS, ("ann.mp3", "bob.mp3", None), strict=True)]
    return make_job(tmp_path, checkpoint, rows, sound=SOUND)


def render(job: Job, **options: Any) -> Outcome:
    return run(job, inline=True, load_engine=load_fake_engine, **options)


def seconds_of(path: Path) -> tuple[float, float]:
    """Of the pictures and of the sound."""
    with av.open(str(path)) as video:
        pictures, sound = video.streams.video[0], video.streams.audio[0]
        assert pictures.duration is not None
        assert sound.duration is not None
        return float(pictures.duration * pictures.time_base), float(sound.duration * sound.time_base)


def test_a_night_of_voices(job: Job, tmp_path: Path) -> None:
    """Published, heard, as long as the voice asks for; the next night nothing, and one file when one voice changes."""
    outcome = render(job)
    assert (outcome.exit_code, outcome.num_clips_rendered) == (0, 2)
    lengths = {name: seconds_of(tmp_path / f"out/{name}/square.mp4") for name in ("ann", "bob", "cem")}
    assert lengths["ann"][0] == pytest.approx(1.5, abs=0.15), "the scene waits for the voice"
    assert lengths["bob"][0] == lengths["cem"][0] < 1.3
    assert all(sound == pytest.approx(pictures, abs=0.06) for pictures, sound in lengths.values())
    assert level_db(read_sound(tmp_path / "out/cem/square.mp4"), 0.1, 0.3) > -20
    assert plan(job).is_empty
    write_sound(tmp_path / "bob.mp3", tone(0.3, 1000))
    outcome = render(job)
    assert (outcome.counts["published"], outcome.num_clips_rendered) == (1, 0)


def test_a_voice_that_vanishes_after_planning_costs_its_row(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone tidies up the folder at midnight: one variant says so, the others are published."""
    real: Callable[..., Any] = driver.stage_inputs

    def tidied(*given: Any, **named: Any) -> Any:
        (tmp_path / "ann.mp3").unlink(missing_ok=True)
        return real(*given, **named)

    monkeypatch.setattr(driver, "stage_inputs", tidied)
    outcome = render(job)
    assert outcome.exit_code == 3
    rows = {row["variant_id"]: row for row in results(Store(str(job.workspace))).to_pylist()}
    assert rows["ann"]["status"] == Status.FAILED
    assert "ann.mp3" in rows["ann"]["reason"]
    assert [rows[name]["status"] for name in ("bob", "cem")] == [Status.PUBLISHED] * 2


def test_sounds_are_in_the_workspace_for_other_nodes(job: Job, tmp_path: Path) -> None:
    """A node that assembles has not the folder of the job."""
    render(job)
    staged = {path.read_bytes() for path in (tmp_path / "out/.wanflow/inputs").iterdir()}
    assert {(tmp_path / name).read_bytes() for name in ("ann.mp3", "bob.mp3", "bed.wav")} <= staged
