"""Whole runs with LoRAs by row: real engine, tiny checkpoint, one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.engines.test_lora import FORMATS, weights, write
from tests.run.jobs import ROWS, make_job
from wanflow import plan, run
from wanflow.planning.why import explain
from wanflow.storage import Store


def test_a_night_of_three_styles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each customer's style in the profile fast; the next night nothing is done, and a retrained style only its own."""
    monkeypatch.setenv("WANFLOW_CACHE", str(tmp_path / "cache"))
    checkpoint = str(make("pocket", tmp_path / "checkpoint"))
    folder = tmp_path / "job"
    folder.mkdir()
    for seed, (name, style) in enumerate((("ink", "ComfyUI"), ("oil", "diffusers"))):
        write(folder / f"{name}.safetensors", FORMATS[style](weights(seed)))
    rows = [
        row | {"prompt": "waves", "style": style}
        for row, style in zip(ROWS, ("ink.safetensors", "", "oil.safetensors"), strict=True)
    ]
    job = make_job(
        folder, checkpoint, rows,
        engine={"checkpoint": checkpoint, "profile": "fast", "fast": {"guidance_until": 0.5}},
        clip={"aspect": "1x1", "seconds": 0.5, "lora": [{"url": "{{ style }}", "scale": 0.8}]},
    )  # fmt: skip
    outcome = run(job, inline=True)
    assert outcome.exit_code == 0
    assert outcome.num_clips_rendered == 3, "one prompt and seed, three styles"
    masters = {path.read_bytes() for path in (folder / "out/.wanflow/clips").rglob("master.mp4")}
    assert len(masters) == 3
    assert plan(job).is_empty
    assert len(list((folder / "out/.wanflow/inputs").iterdir())) >= 2
    write(folder / "ink.safetensors", FORMATS["kohya"](weights(7)))
    changed = plan(job)
    assert [clip.num_variants for clip in changed.clips] == [1]
    reasons = {str(change) for why in explain(changed, Store(str(job.workspace))) for change in why.changes}
    assert [reason[:20] for reason in reasons] == ["lora: ink.safetensor"]
