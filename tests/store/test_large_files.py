"""Large files go up in parts, some at once, whatever their size: a master is not held in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from wanflow.storage import Store, s3
from wanflow.storage.s3_client import client

PART_BYTES = 5 * 2**20
NUM_PARTS = 24


def test_memory_of_an_upload_is_that_of_the_parts_under_way(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 parts of 5 MB, four at once. The client may hold a copy of each that is under way; never the file."""
    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES)
    file = tmp_path / "master.mp4"
    file.write_bytes(bytes(NUM_PARTS * PART_BYTES))
    store = Store(s3_url)
    store.write("warm.bin", b"the client is made once")
    tracemalloc.start()
    try:
        store.write("master.mp4", file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert PART_BYTES <= peak <= 2.5 * s3.PARTS_AT_ONCE * PART_BYTES
    held = store.stat("master.mp4")
    assert held is not None
    assert held.size_bytes == NUM_PARTS * PART_BYTES


def test_browsers_and_caches_are_told_what_a_file_is_and_for_how_long(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A video that comes as application/octet-stream is downloaded, not played; parts say it as a single put does."""
    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES)
    store, video = Store(s3_url), tmp_path / "a.mp4"
    for name, size, kind in (
        ("a.mp4", 10, "video/mp4"),
        ("large.mp4", PART_BYTES + 1, "video/mp4"),
        ("a.jpg", 10, "image/jpeg"),
        ("index.html", 10, "text/html; charset=utf-8"),
        ("files.parquet", 10, "application/vnd.apache.parquet"),
    ):
        video.write_bytes(bytes(size))
        seen = store.stat(name)
        store.replace(name, video, if_match=seen.etag if seen else None, cache_control="max-age=60")
        head = client().call_s3(
            "head_object", Bucket=s3_url.split("/")[2], Key=f"{s3_url.split('/')[3]}/{name}"
        )
        assert (head["ContentType"], head["CacheControl"]) == (kind, "max-age=60"), name
