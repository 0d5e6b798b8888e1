"""What a node keeps: made once, whole, in bounds; used entries stay."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wanflow import node_cache
from wanflow.errors import StoreAway, StoreError
from wanflow.node_cache import Entry, keep


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints"


def make(path: Path, num_bytes: int = 100) -> None:
    path.mkdir(exist_ok=True)
    (path / "weights").write_bytes(bytes(num_bytes))


def never(path: Path) -> None:
    raise AssertionError("it is there")


def kept(name: str, num_bytes: int = 100) -> Entry:
    return keep("checkpoints", name, lambda: num_bytes, lambda path: make(path, num_bytes))


def limit(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setenv("WANFLOW_CACHE_GIB", repr(num_bytes / 2**30))


def test_what_is_there_is_not_made_again(cache: Path) -> None:
    first = kept("a")
    second = keep("checkpoints", "a", lambda: 1 // 0, never)
    assert (first.path, first.fetched_bytes) == (cache / "a", 100)
    assert (second.path, second.fetched_bytes) == (cache / "a", 0)
    assert sorted(path.name for path in cache.iterdir()) == ["a", "a.lock", "a.turn.lock"]


def test_what_was_used_longest_ago_and_is_not_in_use_goes(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three checkpoints, room for two: the oldest is a running replica's, so the second has to go."""
    limit(monkeypatch, 250)
    oldest, old = kept("oldest"), kept("old")
    old.release()
    for second, name in enumerate(("oldest", "old"), 1):
        os.utime(cache / f"{name}.lock", (second, second))
    new = kept("new")
    assert oldest.path.is_dir()
    assert not old.path.exists()
    assert new.path.is_dir()
    oldest.release()
    new.release()
    large = kept("large", 1000)
    assert large.path.is_dir(), "what is needed is kept, whatever the limit"
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["large"]


def test_a_tenth_of_the_disk_stays_free_as_long_as_something_can_go(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray takes a disk that is 95 % full for a broken one."""
    kept("a").release()
    disk = shutil.disk_usage(cache)
    monkeypatch.setattr(node_cache, "FREE_SHARE", (disk.free - 2**20) / disk.total)
    kept("b", 0).release()
    assert (cache / "a").is_dir()
    monkeypatch.setattr(node_cache, "FREE_SHARE", (disk.free + 2**30) / disk.total)
    kept("c").release()
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["c"]


def test_no_room_is_one_error_before_anything_is_fetched(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of one megabyte: what is unused goes, and a checkpoint larger than the disk is refused in words."""
    monkeypatch.setenv("WANFLOW_CACHE", str(small_disk))
    kept("a", 700_000).release()
    used = kept("b", 600_000)
    assert not (small_disk / "checkpoints" / "a").exists()
    with pytest.raises(StoreError, match=r"no room in .*/disk.*WANFLOW_CACHE") as raised:
        keep("checkpoints", "c", lambda: 600_000, never)
    assert not isinstance(raised.value, StoreAway)
    assert used.path.is_dir()
    used.release()
    assert not list((small_disk / "checkpoints").glob(".tmp-*"))


def test_a_maker_that_was_killed_blocks_nobody_and_its_half_is_no_whole(cache: Path, tmp_path: Path) -> None:
    """The node's memory ran out in mid-fetch. What it had whole serves the next one."""
    script = (
        "import sys, time\n"
        "from wanflow.node_cache import keep\n"
        "def make(path):\n"
        "    path.mkdir()\n"
        "    (path / 'whole').write_bytes(b'w' * 60)\n"
        "    (path / '.tmp-part').write_bytes(b'p' * 20)\n"
        "    print('half way', flush=True)\n"
        "    time.sleep(600)\n"
        "keep('checkpoints', 'a', lambda: 100, make)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        lock = os.open(cache / "a.turn.lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):  # the others wait for it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (cache / "a").exists()

    def go_on(path: Path) -> None:
        assert [file.name for file in path.iterdir()] == ["whole"]
        (path / "rest").write_bytes(bytes(40))

    found = keep("checkpoints", "a", lambda: 100, go_on)
    assert found.fetched_bytes == 40
    assert sorted(file.name for file in found.path.iterdir()) == ["rest", "whole"]
    assert sorted(path.name for path in cache.iterdir()) == ["a", "a.lock", "a.turn.lock"]


def test_leftovers_of_the_dead_make_room_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a checkpoint that nobody asks for any more counts, and goes."""
    limit(monkeypatch, 250)
    kept("a").release()
    make(cache / ".tmp-dead", 200)
    kept("b").release()
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["a", "b"]


def test_a_copy_that_is_not_whole_is_made_again(cache: Path) -> None:
    """Somebody cleaned up in the wrong folder."""
    kept("a").release()
    (cache / "a" / "weights").unlink()
    found = keep("checkpoints", "a", lambda: 100, make, lambda path: (path / "weights").exists())
    assert found.fetched_bytes == 100
    assert (cache / "a" / "weights").stat().st_size == 100


def test_nobody_waits_for_one_that_uses_what_has_to_be_made_again(cache: Path) -> None:
    """It may use it all night."""
    used = kept("a")
    (cache / "a" / "weights").unlink()
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(keep, "checkpoints", "a", lambda: 100, make, lambda path: (path / "weights").exists())
            for _ in range(2)
        ]
        found = [each.result(timeout=20) for each in asked]
    assert sorted(each.fetched_bytes for each in found) == [0, 100]
    for each in (used, *found):
        each.release()


def test_after_an_outage_what_was_whole_is_kept_and_after_an_error_nothing(cache: Path) -> None:
    def half(path: Path, error: Exception) -> None:
        make(path)
        raise error

    for error, left in ((StoreAway("away"), [".tmp-a"]), (StoreError("refused"), [])):
        with pytest.raises(type(error)):
            keep("checkpoints", "a", lambda: 200, lambda path: half(path, error))  # noqa: B023
        assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == left


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_named(text: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANFLOW_CACHE_GIB", text)
    with pytest.raises(StoreError, match="WANFLOW_CACHE_GIB"):
        kept("a")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only home is common in containers."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WANFLOW_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"file/checkpoints.*WANFLOW_CACHE"):
        kept("a")
