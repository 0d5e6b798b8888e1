"""A whole run in which clips pass the experts in pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make
from tests.run.jobs import make_job
from wanflow import run
from wanflow.ledger import Ledger, latest_run
from wanflow.model import Clip, EngineSpec
from wanflow.report import results
from wanflow.report.replicas import replica_times
from wanflow.storage import Store
from wanflow.testing import FakeEngine
from wanflow.verify import verify

NUM_CLIPS = 4


class Swapping(FakeEngine):
    """One expert at a time; counts how often the other one comes."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self.swaps_experts = True
        self.experts: list[str] = []

    def take_step(self, clip: Clip, stage: str, step: int) -> None:
        from wanflow.engines import high_noise_steps

        expert = "high" if step <= high_noise_steps(clip.sampling) else "low"
        if self.experts[-1:] != [expert]:
            self.experts.append(expert)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("a14b_t2v", tmp_path_factory.mktemp("checkpoint") / "a14b"))


def rows(num: int) -> list[dict[str, Any]]:
    return [
        {"variant_id": f"v{i}", "prompt": f"scene {i}", "headline": "Hi", "image": "", "segment": "gold"}
        for i in range(num)
    ]


def test_a_run_swaps_experts_once_for_two_clips(tmp_path: Path, checkpoint: str) -> None:
    """What the ledger, the bill and the estimates say of it is what they say of any run."""
    engines: list[Swapping] = []

    def load(spec: EngineSpec, device: str | None, num_threads: int | None) -> Swapping:
        engines.append(Swapping(spec))
        return engines[-1]

    job = make_job(tmp_path, checkpoint, rows(NUM_CLIPS), engine={"checkpoint": checkpoint, "steps": 8})
    outcome = run(job, inline=True, load_engine=load)
    assert (outcome.exit_code, outcome.num_clips_rendered) == (0, NUM_CLIPS)
    assert engines[0].experts == ["high", "low"] * (NUM_CLIPS // 2)
    store = Store(str(job.workspace))
    events = Ledger(store, latest_run(store) or "").read_events()
    resumed = [event["event"] for event in events.to_pylist() if event["reason"] == "resumed"]
    assert resumed == ["Render"] * (NUM_CLIPS // 2)
    (told,) = replica_times(events)
    assert told.num_attempts == NUM_CLIPS
    assert told.seconds["ahead"] > 0
    billed = sum(row["gpu_seconds"] for row in results(store).to_pylist())
    assert 0 < billed <= sum(told.seconds.values())
    assert not any(check.findings for check in verify(store).checks)
    again = run(job, inline=True, load_engine=load)
    assert again.counts["unchanged"] == NUM_CLIPS
