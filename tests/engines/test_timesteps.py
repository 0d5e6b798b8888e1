"""Timesteps and branch points are known without torch, and are those that the scheduler will take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wanflow.engines import branch_steps
from wanflow.engines.denoise import make_schedule
from wanflow.engines.timesteps import high_noise_steps, timesteps
from wanflow.errors import EngineError
from wanflow.model import EngineSpec, Mode, Sampling

A14B = Sampling(40, 4.0, 3.0, 12.0, "unipc", 0.875)
SPEC = EngineSpec("u", "wan", "tall", "w", frozenset(Mode), 16, 16, 4, ((832, 480),), 81, A14B)


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0, 12.0])
def test_timesteps_are_those_of_diffusers(scheduler: str, shift: float) -> None:
    """A plan that counts another number of steps than the replica takes would share the wrong ones."""
    for steps in (1, 2, 4, 6, 12, 20, 25, 30, 40, 50, 100):
        sampling = Sampling(steps, 4.0, None, shift, scheduler, None)
        scheduled = make_schedule(sampling, {}, torch.device("cpu")).timesteps.tolist()
        assert timesteps(sampling) == scheduled, f"{steps} steps"


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
def test_boundary_lies_where_the_loop_changes_experts(scheduler: str) -> None:
    for shift in (3.0, 5.0, 12.0):
        for boundary in (0.5, 0.875, 0.9):
            sampling = replace(A14B, scheduler=scheduler, flow_shift=shift, boundary=boundary)
            times = make_schedule(sampling, {}, torch.device("cpu")).timesteps
            assert high_noise_steps(sampling) == int((times >= boundary * 1000).sum())


def test_the_models_own_boundaries_are_as_published() -> None:
    """26 of 40 steps are the high-noise expert's in T2V-A14B, so a group of N costs 26 + 14 N steps."""
    assert branch_steps(SPEC, A14B, "boundary") == 26
    assert branch_steps(SPEC, replace(A14B, flow_shift=5.0, boundary=0.9), "boundary") == 15


def test_a_share_of_the_steps_is_the_nearest_step() -> None:
    assert branch_steps(SPEC, A14B, 0.6) == 24
    assert branch_steps(SPEC, replace(A14B, steps=4), 0.6) == 2
    assert branch_steps(SPEC, replace(A14B, steps=5), 0.5) == 3


def test_one_expert_has_no_boundary_and_the_error_says_what_to_write() -> None:
    with pytest.raises(EngineError, match=r"tall has one expert.*give a share of the steps, such as 0\.6"):
        branch_steps(SPEC, replace(A14B, boundary=None), "boundary")


@pytest.mark.parametrize(
    ("sampling", "at", "words"),
    [
        (A14B, 0.01, r"0\.01 of 40 steps is before the first step.*from 0\.025 to 0\.975"),
        (A14B, 0.99, r"0\.99 of 40 steps is after the last of 40 steps.*from 0\.025 to 0\.975"),
        (replace(A14B, boundary=1.0), "boundary", r"the boundary \(1\) is before the first step"),
        (replace(A14B, boundary=0.0), "boundary", r"the boundary \(0\) is after the last of 40 steps"),
        (replace(A14B, steps=1), 0.4, r"take more than one step"),
    ],
)
def test_a_branch_without_steps_on_both_sides_is_refused(sampling: Sampling, at: float, words: str) -> None:
    """Nothing shared is no branch, and nothing of one's own is no variant."""
    with pytest.raises(EngineError, match=words):
        branch_steps(SPEC, sampling, at)  # type: ignore[arg-type]
