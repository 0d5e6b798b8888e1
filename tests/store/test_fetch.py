"""Large files come down in pieces, some at once, each with tries of its own; a file is there whole or not at all."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from tests.store.conftest import Network
from wanflow.errors import StoreError
from wanflow.storage import Store, fetch, fetch_files, fetch_url, read_range

PIECE_BYTES = 1000


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PIECE_BYTES", PIECE_BYTES)


def test_files_are_put_together_from_their_pieces(store_url: str, tmp_path: Path, pieces: None) -> None:
    """Sizes below, at and above a piece, and an empty file."""
    store, contents = Store(store_url), {}
    for size in (1, 999, 1000, 1001, 5500):
        contents[f"{size}.bin"] = random.Random(size).randbytes(size)
        store.write(f"{size}.bin", contents[f"{size}.bin"])
    store.write("empty.bin", b"")
    contents["empty.bin"] = b""
    fetch_files((f"{store.url}/{name}", tmp_path / name, len(data)) for name, data in contents.items())
    assert {name: (tmp_path / name).read_bytes() for name in contents} == contents
    assert read_range(f"{store.url}/5500.bin", 990, 2010) == contents["5500.bin"][990:2010]
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_piece_that_fails_is_asked_for_again_alone(
    network: Network, s3_url: str, tmp_path: Path, pieces: None
) -> None:
    """A lost connection in the fortieth minute of a download costs 16 MiB, not 10 GB."""
    data = random.Random(0).randbytes(9500)
    Store(s3_url).write("shard.safetensors", data)
    network.log.clear()
    network.once("drop", "GET", "shard.safetensors")
    fetch_url(f"{s3_url}/shard.safetensors", tmp_path / "shard")
    assert (tmp_path / "shard").read_bytes() == data
    assert [method for method, _ in network.log].count("GET") == 10 + 1


def test_a_file_that_cannot_be_had_leaves_nothing(
    network: Network, s3_url: str, tmp_path: Path, pieces: None
) -> None:
    """Half a file under the right name is the worst of all."""
    Store(s3_url).write("a.bin", bytes(5000))
    network.rule = lambda method, path: "403" if method == "GET" else "pass"
    with pytest.raises(StoreError, match="access denied"):
        fetch_url(f"{s3_url}/a.bin", tmp_path / "a.bin")
    network.rule = lambda method, path: "pass"
    with pytest.raises(StoreError, match=r"HTTP 416|got 0 of"):
        fetch_files([(f"{s3_url}/a.bin", tmp_path / "a.bin", 7000)])
    assert not any(path.is_file() for path in tmp_path.iterdir())


def test_a_full_disk_is_one_error_with_words(small_disk: Path, s3_url: str) -> None:
    Store(s3_url).write("large.bin", bytes(3 * 2**20))
    with pytest.raises(StoreError, match=r"large\.bin: disk full"):
        fetch_url(f"{s3_url}/large.bin", small_disk / "large.bin")
    assert list(small_disk.iterdir()) == []


def test_memory_of_a_download_is_that_of_the_pieces_under_way(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of 126 GB goes through 8 pieces of 16 MiB."""
    monkeypatch.setattr(fetch, "PIECE_BYTES", 2**20)
    monkeypatch.setattr(fetch, "PIECES_AT_ONCE", 4)
    Store(s3_url).write("large.bin", bytes(48 * 2**20))
    fetch_url(f"{s3_url}/large.bin", tmp_path / "warm.bin")
    tracemalloc.start()
    try:
        fetch_url(f"{s3_url}/large.bin", tmp_path / "large.bin")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # the client joins what it got of a piece: twice
    assert 2**20 <= peak <= 2.5 * 4 * 2**20
