"""A directory as a store: what others see while a file is written, and what a full disk leaves behind."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wanflow.errors import Conflict, StoreAway, StoreError
from wanflow.storage import Store, wait_out

from .conftest import fill

_LIMITED = """
import resource, sys
from wanflow.errors import StoreError
from wanflow.storage import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = Store(sys.argv[1])
store.write("small.mp4", b"x" * 1000)
try:
    store.write("small.mp4", b"y" * 200_000)
except StoreError as exc:
    print(exc)
"""


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_behind(small_disk: Path, tmp_path: Path) -> None:
    """The disk fills up while a video is published: the former video stays, no half one appears."""
    store = Store(str(small_disk))
    store.write("anna/story.mp4", b"yesterday's")
    video = tmp_path / "v.mp4"
    video.write_bytes(bytes(2_000_000))
    with pytest.raises(StoreError, match=r"anna/story\.mp4: disk full .* free space there; nothing"):
        store.write("anna/story.mp4", video)
    with pytest.raises(StoreError, match="disk full"):
        store.create("ben/story.mp4", video)
    assert store.read("anna/story.mp4") == b"yesterday's"
    assert [str(path.relative_to(small_disk)) for path in small_disk.rglob("*") if path.is_file()] == [
        "anna/story.mp4"
    ]
    store.write("anna/story.mp4", bytes(500_000))


def test_what_is_written_waits_until_the_disk_has_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's core dump fills the disk of a run: it pauses, says why, and goes on when the dump is gone."""
    monkeypatch.setattr("wanflow.storage.outage.FIRST_ASK_S", 0.001)
    store, dump = Store(str(small_disk)), small_disk / "core"
    fill(dump)
    video = tmp_path / "v.mp4"
    video.write_bytes(bytes(500_000))
    with pytest.raises(StoreAway, match="disk full"):
        store.create("anna/story.mp4", video)
    said: list[str] = []

    def clear(words: str) -> None:
        said.append(words)
        dump.unlink()

    with wait_out(say=clear):
        store.create("anna/story.mp4", video)
    (words,) = said
    assert "waiting up to 600 s" in words
    assert "disk full" in words
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["story.mp4"]


def test_full_disk_of_this_node_is_not_waited_for(small_disk: Path, tmp_path: Path) -> None:
    """A master does not fit into a worker's /tmp: another node may have room, the store cannot help."""
    store = Store(str(tmp_path / "store"))
    store.write("master.mp4", bytes(2_000_000))
    with wait_out(), pytest.raises(StoreError, match="disk full") as caught:
        store.fetch("master.mp4", small_disk / "master.mp4")
    assert not isinstance(caught.value, StoreAway)
    assert list(small_disk.iterdir()) == []


def test_a_file_size_limit_reads_like_a_full_disk(tmp_path: Path) -> None:
    """The same without root: ulimit in a container."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert "disk full" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == ["small.mp4"]
    assert (tmp_path / "small.mp4").read_bytes() == b"x" * 1000


def test_a_reader_never_sees_a_half_made_file(tmp_path: Path) -> None:
    """A player opens the video in the very moment in which it is replaced."""
    store = Store(str(tmp_path))
    sizes = (3_000_000, 4_000_000)
    store.write("v.mp4", bytes(sizes[0]))
    seen: set[int] = set()
    end = threading.Event()

    def watch() -> None:
        while not end.is_set():
            seen.add(len((tmp_path / "v.mp4").read_bytes()))
            assert [stat.path for stat in store.list()] == ["v.mp4"]

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(20):
        store.write("v.mp4", bytes(sizes[number % 2]))
    end.set()
    watcher.join()
    assert seen <= set(sizes)


def test_check_and_write_are_one_step_between_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process is between its check and its write: mine waits for it, and then sees what it wrote."""
    store = Store(str(tmp_path))
    seen = store.create("record.json", b"old")
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    waiting = threading.Event()
    lock = fcntl.flock

    def announce(descriptor: int, operation: int) -> None:
        waiting.set()
        lock(descriptor, operation)

    monkeypatch.setattr("wanflow.storage.local.fcntl.flock", announce)
    with ThreadPoolExecutor(1) as pool:
        mine = pool.submit(store.replace, "record.json", b"mine", if_match=seen.etag)
        try:
            assert waiting.wait(10)
            (tmp_path / "theirs").write_bytes(b"theirs")
            os.replace(tmp_path / "theirs", tmp_path / "record.json")
        finally:
            os.close(folder)
        with pytest.raises(Conflict):
            mine.result()
    assert store.read("record.json") == b"theirs"


def test_leftovers_of_a_killed_writer_are_not_listed(tmp_path: Path) -> None:
    """kill -9 in the middle of a copy."""
    store = Store(str(tmp_path))
    store.write("a/v.mp4", b"x")
    (tmp_path / "a" / ".tmp-123-abc").write_bytes(b"half")
    assert [stat.path for stat in store.list()] == ["a/v.mp4"]


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    """anna.mp4 was published, now anna.mp4/story.mp4 is asked for: an object store has both, a disk has not."""
    store = Store(str(tmp_path))
    store.write("anna", b"x")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        store.write("anna/story.mp4", b"x")
    store.write("ben/story.mp4", b"x")
    with pytest.raises(StoreError, match="a folder of this name exists"):
        store.write("ben", b"x")
    assert store.stat("ben") is None
    assert store.stat("anna/story.mp4") is None
    with pytest.raises(FileNotFoundError):
        store.read("ben")


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """The output folder belongs to somebody else."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        Store(str(tmp_path / "file")).write("a.mp4", b"x")
    with pytest.raises(StoreError, match=r"/proc/wanflow|/proc"):
        Store("/proc/wanflow").write("a.mp4", b"x")


def test_paths_and_file_urls_name_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, an absolute one and a file URL: one store, one lease, one set of records."""
    monkeypatch.chdir(tmp_path)
    urls = ["out", "./out/", str(tmp_path / "out"), f"file://{tmp_path}/out"]
    assert {Store(url).url for url in urls} == {str(tmp_path / "out")}


def test_a_file_system_without_links_still_creates_exclusively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exFAT and some network mounts refuse hard links."""

    def refuse(*args: object, **more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    test_store = Store(str(tmp_path))
    test_store.create("a.json", b"one")
    with pytest.raises(StoreError, match="changed by somebody else"):
        test_store.create("a.json", b"two")
    assert test_store.read("a.json") == b"one"
