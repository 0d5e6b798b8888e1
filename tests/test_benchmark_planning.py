"""The benchmarks of the store run, and measure what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def figures(module: str, rows: str) -> list[dict[str, Any]]:
    """The lines of ``--json``."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", f"benchmarks.{module}", "--rows", rows, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_planning_benchmark_ends_with_its_figures() -> None:
    """A plan with changes, and a night without any."""
    [facts] = figures("planning", "300")
    assert facts["rows"] == 300
    assert facts["rows_per_s"] > 0
    assert facts["rerun_s"] < facts["first_quiet_s"], "the second quiet night reads no row"


@pytest.mark.slow
def test_verify_and_gc_ask_for_no_published_record_by_itself() -> None:
    """A hundred times the videos: what grows is the clips' records and a page of a listing for a thousand of them."""
    few, many = figures("store", "100"), figures("store", "10000")
    for before, after in zip(few, many, strict=True):
        clips = 2 * 10_000 // 100
        more = sum(after["requests"].values()) - sum(before["requests"].values())
        assert more <= (clips if after["verb"] == "verify" else 0) + 4 * 10_000 // 1000, after
