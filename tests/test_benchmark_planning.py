"""The planning benchmark runs, and measures what it says: a plan with changes, and a night without any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_planning_benchmark_ends_with_its_figures() -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "benchmarks.planning", "--rows", "300", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["rows"] == 300
    assert facts["rows_per_s"] > 0
    assert facts["rerun_s"] < facts["first_quiet_s"], "the second quiet night reads no row"
