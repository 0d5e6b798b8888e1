"""The quiet night: recognised without planning, and never when anything at all is different."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.planning.published import stores
from tests.run.jobs import ROWS, job_dict, make_job, write_rows
from wanflow import Job, Outcome, run
from wanflow.report import results
from wanflow.storage import validators
from wanflow.testing import load_fake_engine
from wanflow.view import View


class Said(View):
    def __init__(self) -> None:
        self.words: list[str] = []

    def message(self, words: str) -> None:
        self.words.append(words)


def night(job: Job) -> tuple[Outcome, bool]:
    """A run, and whether it was recognised as one with nothing to do before it planned."""
    said = Said()
    outcome = run(job, inline=True, load_engine=load_fake_engine, view=said)
    return outcome, any("nothing has changed" in words for words in said.words)


@pytest.fixture
def job(tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Three variants, one of them from an image; all of it made by one real run, on a checkpoint of its own."""
    monkeypatch.setattr(validators, "SETTLED_NS", 0)
    shutil.copytree(checkpoint, tmp_path / "model")
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "shot.png")
    made = make_job(tmp_path, str(tmp_path / "model"), [*ROWS[:2], ROWS[2] | {"image": "shot.png"}])
    outcome, quiet = night(made)
    assert (outcome.exit_code, quiet) == (0, False)
    return made


def test_night_after_a_whole_run_is_recognised(job: Job) -> None:
    """A million rows, none changed: cron's run costs two listings."""
    before = results(stores(job)[0]).to_pylist()
    for _ in range(2):
        outcome, quiet = night(job)
        assert quiet
        assert outcome.exit_code == 0
        assert outcome.counts == {"published": 0, "unchanged": 3, "held": 0, "failed": 0, "left": 0}
    rows = results(stores(job)[0], outcome.run_id).to_pylist()
    assert [row["variant_id"] for row in rows] == [row["variant_id"] for row in before]
    assert {(row["status"], row["attempts"], row["seconds_denoise"]) for row in rows} == {
        ("unchanged", 0, 0.0)
    }
    assert [row["files"] for row in rows] == [row["files"] for row in before]
    assert [row["segment"] for row in rows] == [row["segment"] for row in before]


def headline(job: Job) -> Job:
    rows = [ROWS[0] | {"headline": "Bye Ann"}, ROWS[1], ROWS[2] | {"image": "shot.png"}]
    write_rows(job.directory, rows)
    return job


def packshot(job: Job) -> Job:
    """In place, with the old date and size."""
    path = job.directory / "shot.png"
    stamp = path.stat().st_mtime_ns
    Image.new("RGB", (64, 64), (99, 9, 9)).save(path)
    os.utime(path, ns=(stamp, stamp))
    return job


def deleted(job: Job) -> Job:
    (job.directory / "out/ann/square.mp4").unlink()
    return job


def overwritten(job: Job) -> Job:
    (job.directory / "out/ann/square.jpg").write_bytes(b"another picture")
    return job


def record_gone(job: Job) -> Job:
    workspace, _ = stores(job)
    workspace.delete(next(stat.path for stat in workspace.list("published")))
    return job


def checkpoint_swapped(job: Job) -> Job:
    weights = next((job.directory / "model/transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    return job


def other_preset(job: Job) -> Job:
    outputs = [{"name": "square", "preset": "instagram-square", "width": 320}]
    return Job.from_dict(job_dict(str(job.directory / "model"), outputs=outputs), job.directory)


@pytest.mark.parametrize(
    ("change", "published"),
    [(headline, 1), (packshot, 1), (deleted, 1), (overwritten, 1), (record_gone, 1), (checkpoint_swapped, 3),
     (other_preset, 3)],
)  # fmt: skip
def test_whatever_is_different_is_planned_and_made(
    job: Job, change: Callable[[Job], Job], published: int
) -> None:
    """The short cut must never hide work."""
    assert night(job)[1]
    changed = change(job)
    outcome, quiet = night(changed)
    assert not quiet
    assert outcome.counts["published"] == published
    assert night(changed)[1], "and after that it is quiet again"


def test_file_that_is_still_warm_is_planned_as_always(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validators, "SETTLED_NS", 3_600 * 10**9)
    assert not night(job)[1]


def test_results_that_are_gone_are_made_anew(job: Job) -> None:
    """`gc` took the old run's directory."""
    workspace, _ = stores(job)
    for stat in list(workspace.list("runs")):
        workspace.delete(stat.path)
    outcome, quiet = night(job)
    assert not quiet
    assert outcome.counts["unchanged"] == 3
    assert results(workspace).num_rows == 3


def test_part_of_the_rows_is_never_noted(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--limit 1` says nothing about the others."""
    monkeypatch.setattr(validators, "SETTLED_NS", 0)
    job = make_job(tmp_path, checkpoint)
    run(job, inline=True, load_engine=load_fake_engine, limit=1)
    assert list(stores(job)[0].list("quiet")) == []
