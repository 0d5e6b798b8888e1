"""A whole run in which clips pass the experts in pairs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job
from wanflow import run
from wanflow.engines import high_noise_steps
from wanflow.ledger import Ledger, latest_run
from wanflow.model import Clip, EngineSpec
from wanflow.report import results
from wanflow.report.replicas import replica_times
from wanflow.storage import Store
from wanflow.testing import FakeEngine
from wanflow.verify import verify

NUM_CLIPS = 4


class Swapping(FakeEngine):
    """One expert at a time; writes down which one comes."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self.swaps_experts, self.decodes_beside = True, False
        self.expert = ""

    def take_step(self, clip: Clip, stage: str, step: int) -> None:
        time.sleep(float(os.environ["WANFLOW_TEST_STEP_S"]))
        expert = "high" if step <= high_noise_steps(clip.sampling) else "low"
        if self.expert != expert:
            self.expert = expert
            with open(os.environ["WANFLOW_TEST_EXPERTS"], "a") as file:
                file.write(f"{expert}\n")


def load_swapping(spec: EngineSpec, device: str | None, num_threads: int | None) -> Swapping:
    return Swapping(spec)


# under Ray an order is on its way for some milliseconds: steps take longer than that
@pytest.mark.parametrize(("inline", "step_s"), [(True, 0.0), (False, 0.1)])
def test_a_run_swaps_experts_once_for_two_clips(
    inline: bool, step_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the ledger, the bill and the estimates say of it is what they say of any run."""
    monkeypatch.setenv("WANFLOW_TEST_EXPERTS", str(tmp_path / "experts"))
    monkeypatch.setenv("WANFLOW_TEST_STEP_S", str(step_s))
    checkpoint = str(make("a14b_t2v", tmp_path / "a14b"))
    rows: list[dict[str, Any]] = [
        {**ROWS[0], "variant_id": f"v{i}", "prompt": f"scene {i}"} for i in range(NUM_CLIPS)
    ]
    engine = {"checkpoint": checkpoint, "steps": 8}
    job = make_job(tmp_path / "job", checkpoint, rows, engine=engine, resources={"replicas": 1})
    outcome = run(job, inline=inline, load_engine=load_swapping)
    assert (outcome.exit_code, outcome.num_clips_rendered) == (0, NUM_CLIPS)
    experts = (tmp_path / "experts").read_text().split()
    assert experts == ["high", "low"] * (NUM_CLIPS // 2)
    store = Store(str(job.workspace))
    events = Ledger(store, latest_run(store) or "").read_events()
    resumed = [event["event"] for event in events.to_pylist() if event["reason"] == "resumed"]
    assert resumed == ["Render"] * (NUM_CLIPS // 2)
    (told,) = replica_times(events)
    assert told.num_attempts == NUM_CLIPS
    assert told.seconds["ahead"] > 0
    billed_s = sum(row["gpu_seconds"] for row in results(store).to_pylist())
    assert 0 < billed_s <= sum(told.seconds.values()) + 0.01
    assert billed_s >= told.seconds["denoise"] + told.seconds["ahead"] - 0.01, "by whose clip they are"
    report = verify(store, [job.publish.url], deep=True)
    assert report.is_clean, report
    assert run(job, inline=inline, load_engine=load_swapping).counts["unchanged"] == NUM_CLIPS
