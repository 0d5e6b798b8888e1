"""The branching benchmark runs, and measures what it says: steps by the formula, and its prompts are understood."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.branching import FIELDS, Made, draw_groups, measure, prompt_of
from wanflow.pocket.grammar import read_caption


def test_prompts_say_what_the_figures_count() -> None:
    """A variant says one thing otherwise, in words that pocket knows."""
    groups = draw_groups(20)
    assert groups[:5] == draw_groups(5)
    assert prompt_of(groups[0].base) == "an orange star drifting left over navy"
    for group in groups:
        for name, scene in group.variants.items():
            assert read_caption(prompt_of(scene)) == {field: getattr(scene, field) for field in FIELDS}
            assert [f for f in FIELDS if getattr(scene, f) != getattr(group.base, f)] == [name]


def test_figures_are_those_of_the_pixels() -> None:
    """Two variants that show what they say but for one motion, whose subjects overlap by half."""
    [group] = draw_groups(1)
    made = []
    for number, (name, scene) in enumerate(group.variants.items()):
        seen = {field: getattr(scene, field) for field in FIELDS}
        subject = np.zeros((1, 4, 4), bool)
        subject[0, : 1 + number % 2] = True
        made.append(Made(name, scene, np.full((1, 4, 4, 3), number * 10, np.uint8), seen, subject))
    made[-1].seen["motion"] = "none"
    facts = measure([made])
    assert (facts["own"], facts["own_motion"], facts["own_colour"], facts["rest"]) == (0.75, 0.0, 1.0, 1.0)
    assert facts["pixels"] == pytest.approx((3 * 10 + 2 * 20 + 30) / 6)
    assert facts["overlap"] == pytest.approx((2 * 1 + 4 * 0.5) / 6)


@pytest.mark.slow
def test_branching_benchmark_ends_with_its_figures() -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "benchmarks.branching", "--groups", "1", "--at", "0,0.5", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    whole, half = json.loads(done.stdout.splitlines()[-1])["points"]
    assert (whole["steps"], half["trunk_steps"], half["steps"]) == (48, 6, 6 + 4 * 6)
    assert half["pixels"] < whole["pixels"], "what is shared is alike"
