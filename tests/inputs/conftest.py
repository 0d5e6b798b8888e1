"""A small job in a fresh folder: a manifest of any rows, pictures, and an engine of pocket's shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wanflow.errors import BadRow
from wanflow.inputs import Inputs
from wanflow.job import Job
from wanflow.manifest import read_variants
from wanflow.model import EngineSpec, Mode, Sampling, Variant

SPEC = EngineSpec(
    url="pocket",
    family="wan",
    name="pocket",
    weights="w" * 8,
    modes=frozenset(Mode),
    fps=8.0,
    grid=16,
    frame_stride=4,
    sizes=((160, 96), (96, 160), (128, 128)),
    num_frames=17,
    sampling=Sampling(
        steps=12, guidance=4.0, guidance_low=None, flow_shift=3.0, scheduler="euler", boundary=None
    ),
)
ENGINES = {Mode.T2V: SPEC, Mode.I2V: SPEC}


def job_dict(**sections: Any) -> dict[str, Any]:
    """The smallest useful job, with whole sections replaced."""
    return {
        "wanflow": 1,
        "name": "test",
        "manifest": "rows.parquet",
        "engine": {"checkpoint": "pocket"},
        "outputs": [{"name": "wide", "preset": "linkedin"}],
        "publish": {"url": "out"},
    } | sections


class Case:
    """A folder with a manifest and a job; ``read`` gives what the rows become."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, rows: list[dict[str, Any]] | pa.Table, name: str = "rows.parquet") -> Path:
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return path

    def picture(self, name: str, size: tuple[int, int] = (8, 8), **options: Any) -> Path:
        path = self.folder / name
        Image.new("RGB", size, (200, 30, 60)).save(path, **options)
        return path

    def job(self, **sections: Any) -> Job:
        return Job.from_dict(job_dict(**sections), self.folder)

    def read(self, engines: Any = None, **sections: Any) -> list[Variant | BadRow]:
        only, limit = sections.pop("only", None), sections.pop("limit", None)
        return list(
            read_variants(
                self.job(**sections), engines or ENGINES, Inputs(self.folder), only=only, limit=limit
            )
        )

    def variants(self, **sections: Any) -> list[Variant]:
        found = self.read(**sections)
        assert [str(item) for item in found if isinstance(item, BadRow)] == []
        return [item for item in found if isinstance(item, Variant)]

    def bad(self, **sections: Any) -> list[BadRow]:
        return [item for item in self.read(**sections) if isinstance(item, BadRow)]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[[str], Path]:
    """A job file from a YAML text."""

    def write(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
