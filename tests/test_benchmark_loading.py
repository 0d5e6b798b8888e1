"""The benchmark of a replica's start runs, and its figures are there."""

from __future__ import annotations

from pathlib import Path

from benchmarks.loading import make_expert, measure_disk, measure_store, serve


def test_it_measures_disk_and_store_beside_plain_readers(s3_url: str, tmp_path: Path) -> None:
    """On a node before it is bought, with the store that it would use."""
    folder = make_expert(tmp_path / "expert", 8)
    assert len(list(folder.glob("*.safetensors"))) > 1
    with serve(folder, s3_url) as url:
        figures = measure_disk(folder, 1) | measure_store(folder, url, tmp_path / "fetched", 1)
    assert sorted(figures) == ["disk", "fetch", "get", "load", "mapped"]
    assert all(pace > 0 for pace in figures.values())
