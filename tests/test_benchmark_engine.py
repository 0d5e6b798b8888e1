"""The engine benchmark: its GPU harness runs on a toy, its operations are the published ones, its job is sound."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import engine
from benchmarks.engine_forwards import SHAPES, forward_flop
from benchmarks.engine_programs import prompts, time_program, write_branching_job, write_job
from wanflow import Job, plan


def test_the_gpu_harness_runs_on_a_toy_and_ends_with_its_figures() -> None:
    """A rented GPU is no place to find out that the harness does not start."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.engine",
        "--device",
        "cpu",
        "--shape",
        "tiny",
    ]
    done = subprocess.run([*command, "--steps", "4", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (size,) = json.loads(done.stdout.splitlines()[-1])["sizes"]
    assert size["steps"] == 4
    assert size["step_s"] > 0
    assert size["diffusers_step_s"] > 0


def test_where_there_is_no_gpu_the_harness_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["engine", "--device", "cuda"])
    with pytest.raises(SystemExit) as ended:
        engine.main()
    assert ended.value.code == 2
    assert "torch finds no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize(("width", "height", "flop"), [(832, 480, 1.68e15), (1280, 720, 6.5e15)])
def test_a_forward_of_a14b_has_the_operations_that_its_shape_says(
    width: int, height: int, flop: float
) -> None:
    """The share of the ceiling is worth as much as this number."""
    assert forward_flop(SHAPES["a14b"], width, height, 81) == pytest.approx(flop, rel=0.02)


def test_the_compared_job_shares_its_clips_and_the_peers_get_the_same_rows(tmp_path: Path) -> None:
    """Were a clip rendered twice by one side, the ratio would say nothing."""
    made = plan(Job.load(str(write_job(tmp_path, 3, 12))))
    assert (len(made.to_render), len(made.to_assemble)) == (3, 12)


def test_the_compared_groups_differ_by_their_trunks_alone(tmp_path: Path) -> None:
    """Both make a clip for each variant; one makes a third of its steps once a group."""
    clips = {}
    for is_branched in (False, True):
        folder = tmp_path / str(is_branched)
        folder.mkdir()
        made = plan(Job.load(str(write_branching_job(folder, 2, 3, is_branched))))
        assert len(made.to_assemble) == 6
        clips[is_branched] = [planned.task.clip for planned in made.to_render]
    assert {clip.prompt for clip in clips[True]} == {clip.prompt for clip in clips[False]}
    assert not any(clip.branch for clip in clips[False])
    assert {clip.branch.prompt for clip in clips[True] if clip.branch} == set(prompts(2))


@pytest.mark.slow
def test_the_plain_diffusers_script_leaves_a_video_a_row() -> None:
    """A peer that fails half way would look fast."""
    assert time_program("diffusers", functools.partial(write_job, num_clips=1, num_variants=1), 1) > 0
