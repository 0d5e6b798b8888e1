"""A small job on a tiny random checkpoint: the whole pipeline in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from wanflow import Job

ROWS: list[dict[str, Any]] = [
    {"variant_id": "ann", "prompt": "waves", "headline": "Hello Ann", "image": "", "segment": "gold"},
    {"variant_id": "bob", "prompt": "waves", "headline": "Hello Bob", "image": "", "segment": "basic"},
    {"variant_id": "cem", "prompt": "bokeh", "headline": "Hello Cem", "image": "", "segment": "gold"},
]


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_logo(folder: Path) -> Path:
    path = folder / "logo.png"
    Image.new("RGBA", (64, 32), (255, 0, 0, 200)).save(path)
    return path


def job_dict(checkpoint: str, **changes: Any) -> dict[str, Any]:
    """Two clips, three variants, one small output; ``changes`` replace whole sections."""
    return {
        "wanflow": 1,
        "name": "small",
        "manifest": {"url": "manifest.parquet"},
        "engine": {"checkpoint": checkpoint},
        "clip": {"aspect": "1x1", "seconds": 0.5},
        "layers": [
            {"image": {"url": "logo.png", "at": "top-left", "height": "15%"}},
            {"text": {"value": "{{ headline }}", "at": "lower-third", "style": "headline"}},
        ],
        "outputs": [{"name": "square", "preset": "instagram-square", "width": 256}],
        "publish": {"url": "out", "path": "{{ variant_id }}/{{ output }}.mp4", "carry": ["segment"]},
        "resources": {"replicas": 2, "gpu_hour": 2.5},
    } | changes


def make_job(folder: Path, checkpoint: str, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder, ROWS if rows is None else rows)
    write_logo(folder)
    return Job.from_dict(job_dict(checkpoint, **changes), folder)
