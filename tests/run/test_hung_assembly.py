"""Real Ray: an assembly whose disk never answers is ended; its variant says so, and the night goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job
from wanflow import assemble, driver, run
from wanflow.model import Status
from wanflow.pool import assemblies
from wanflow.report import results
from wanflow.storage import Store
from wanflow.testing import load_fake_engine


@pytest.mark.slow
def test_an_assembly_that_hangs_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted bucket that went away under one picture: before, the run waited for that worker for ever."""
    checkpoint = str(make("pocket", tmp_path / "checkpoint"))
    rows = [row | {"logo": f"{row['variant_id']}.png"} for row in ROWS]
    for i, row in enumerate(rows):
        Image.new("RGB", (8, 8), (9 * i, 0, 0)).save(tmp_path / row["logo"])
    layers = [{"image": {"url": "{{ logo }}", "height": "10%"}}]
    job = make_job(tmp_path, checkpoint, rows, layers=layers)
    real = driver.stage_inputs

    def stage_and_hang(*given: Any, **named: Any) -> Any:
        staged = real(*given, **named)
        [bob] = [task for task in staged.assemblies.values() if task.variant.variant_id == "bob"]
        [source] = bob.variant.sources
        os.unlink(source.url)
        os.mkfifo(source.url)  # whoever opens it waits for a writer
        return staged

    monkeypatch.setattr(driver, "stage_inputs", stage_and_hang)
    monkeypatch.setattr(assemblies, "OTHERWISE_S", 8.0)
    monkeypatch.setattr(assemble, "timeout_s", lambda seconds: 0.0)
    outcome = run(job, load_engine=load_fake_engine)
    assert outcome.exit_code == 3
    found = {row["variant_id"]: row for row in results(Store(str(job.workspace))).to_pylist()}
    assert found["bob"]["status"] == Status.FAILED
    assert "took longer than 0 minutes, and was ended" in found["bob"]["reason"]
    assert [found[name]["status"] for name in ("ann", "cem")] == [Status.PUBLISHED] * 2
