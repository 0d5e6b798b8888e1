"""The command that measures ``fast`` on a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wanflow.engines import calibrate


def test_calibrate_tells_distance_and_skipped_forwards_a_threshold(
    checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The table that a threshold is chosen from: more is skipped, and the clip is further away."""
    arguments = [
        "--thresholds",
        "0",
        "0.9",
        "--taylor",
        "2",
        "--prompt",
        "a red ball",
        "--steps",
        "9",
        "--json",
    ]
    assert calibrate.main([str(checkpoint("a14b_t2v")), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny-a14b_t2v, 1 clips of 32x32x5, 9 steps"
    off, much, high, low = json.loads(lines[-1])
    assert [row["setting"] for row in (off, much, high, low)] == [
        "cache: 0",
        "cache: 0.9",
        "taylor: 2",
        "taylor_low: 2",
    ]
    assert (off["distance"], off["skipped_high"], off["skipped_low"]) == (0.0, 0.0, 0.0)
    assert much["distance"] > 0.001
    assert 0 < max(much["skipped_high"], much["skipped_low"]) < 1
    assert (high["skipped_low"], low["skipped_high"]) == (0.0, 0.0)
    assert max(high["skipped_high"], low["skipped_low"]) > 0


def test_calibrate_tells_what_both_branches_in_one_forward_give(
    checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same clip but for rounding; whether it is sooner, the seconds say."""
    arguments = ["--thresholds", "0", "--prompt", "a red ball", "--steps", "3", "--batch-guidance", "--json"]
    assert calibrate.main([str(checkpoint("a14b_t2v")), *arguments]) == 0
    [row] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < row["distance"] < 1e-4
    assert row["seconds_ratio"] > 0


def test_calibrate_says_what_is_wrong_with_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line, not a traceback."""
    assert calibrate.main([str(tmp_path / "none" / "at" / "all")]) == 1
    assert "no such directory" in capsys.readouterr().out
