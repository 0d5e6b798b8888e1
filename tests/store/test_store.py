"""What every kind of store promises, on a directory, in memory and on a real S3 server."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wanflow.errors import Conflict, StoreError
from wanflow.storage import Store
from wanflow.storage.stat import ABSENT


def test_a_created_file_cannot_be_created_again(store_url: str) -> None:
    """Two replicas finish one clip: the second must learn that it was second."""
    store = Store(store_url)
    first = store.create("clips/ab/abc.json", b"first")
    with pytest.raises(Conflict, match=r"abc\.json"):
        store.create("clips/ab/abc.json", b"second")
    assert store.get("clips/ab/abc.json") == (b"first", first)


def test_a_replace_refuses_to_overwrite_what_its_caller_has_not_seen(store_url: str) -> None:
    """A run that lost its lease wakes up and writes: it must not win over newer work."""
    store = Store(store_url)
    seen = store.create("a.json", b"one")
    newer = store.replace("a.json", b"two", if_match=seen.etag)
    with pytest.raises(Conflict):
        store.replace("a.json", b"late", if_match=seen.etag)
    with pytest.raises(Conflict):
        store.replace("a.json", b"late", if_match=None)
    with pytest.raises(Conflict):
        store.replace("gone.json", b"late", if_match=seen.etag)
    assert store.get("a.json") == (b"two", newer)
    assert store.conditional_writes()


def test_every_write_changes_the_etag_of_a_file(store_url: str) -> None:
    """An unpublished overwrite is found by its ETag, also when the size is the same."""
    store = Store(store_url)
    etags = [store.write("video.mp4", b"frame %d" % number).etag for number in range(9)]
    assert len(set(etags)) == 9
    stat = store.stat("video.mp4")
    assert stat is not None
    assert (stat.etag, stat.size_bytes) == (etags[-1], 7)
    assert [(each.path, each.etag) for each in store.list()] == [("video.mp4", etags[-1])]


def test_absent_files_are_told_apart_from_trouble(store_url: str, tmp_path: Path) -> None:
    """Planning asks for records that are not there yet, thousands of times; that is no error."""
    store = Store(store_url)
    assert store.stat("no.json") is None
    assert list(store.list("nowhere")) == []
    assert store.folders("nowhere") == []
    store.delete("no.json")
    with pytest.raises(FileNotFoundError, match=r"no\.json"):
        store.read("no.json")
    with pytest.raises(FileNotFoundError):
        store.fetch("no.json", tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_listing_finds_every_file_below_a_folder_and_only_those(store_url: str) -> None:
    """A workspace inside publish.url is skipped, however many files it holds."""
    store = Store(store_url)
    paths = [
        "a/x.mp4",
        "a/y/z.mp4",
        "ab/x.mp4",
        "b.mp4",
        ".wanflow/clips/1.json",
        ".wanflow/2.json",
        "c/ü/名.mp4",
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: store.write(path, path.encode()), paths))
    assert sorted(stat.path for stat in store.list()) == sorted(paths)
    assert sorted(stat.path for stat in store.list("a")) == ["a/x.mp4", "a/y/z.mp4"]
    assert sorted(stat.path for stat in store.list(skip=".wanflow")) == sorted(
        p for p in paths if p[0] != "."
    )
    assert store.folders() == [".wanflow", "a", "ab", "c"]
    assert store.folders("a") == ["y"]
    store.delete("a/y/z.mp4")
    assert store.folders("a") == [], "a folder is what its files make of it"
    store.write("a/y/z.mp4", b"again")
    assert sorted(stat.path for stat in store.child("a").list()) == ["x.mp4", "y/z.mp4"]
    assert store.read("c/ü/名.mp4").decode() == "c/ü/名.mp4"


def test_files_go_up_and_down_unchanged(store_url: str, tmp_path: Path) -> None:
    """A master larger than one part of a multipart upload; create-only and replace hold for it too."""
    store = Store(store_url)
    master, copy = tmp_path / "master.mp4", tmp_path / "copy.mp4"
    master.write_bytes(bytes(range(251)) * (36 * 2**20 // 251))
    first = store.create("clips/ab/abc/1.1/master.mp4", master)
    with pytest.raises(Conflict):
        store.create("clips/ab/abc/1.1/master.mp4", master)
    with pytest.raises(Conflict):
        store.replace("clips/ab/abc/1.1/master.mp4", master, if_match="0" * 32)
    second = store.replace("clips/ab/abc/1.1/master.mp4", master, if_match=first.etag)
    assert store.stat("clips/ab/abc/1.1/master.mp4") == second
    assert second.size_bytes == master.stat().st_size
    store.fetch("clips/ab/abc/1.1/master.mp4", copy)
    assert copy.read_bytes() == master.read_bytes()
    with pytest.raises(StoreError, match="more than the 1000 allowed"):
        store.read("clips/ab/abc/1.1/master.mp4", max_bytes=1000)


def test_a_store_travels_between_processes_as_its_url(store_url: str) -> None:
    """Ray pickles the store into tasks."""
    store = Store(store_url)
    store.write("a.json", b"1")
    twin = pickle.loads(pickle.dumps(store))
    assert twin == store
    assert twin.read("a.json") == b"1"


def test_many_threads_create_one_file_and_one_wins(store_url: str) -> None:
    """The only contended thing is a record; its winner must be one."""
    store = Store(store_url)

    def contend(number: int) -> int:
        try:
            store.create("record.json", b"attempt %d" % number)
        except Conflict:
            return 0
        return 1

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(contend, range(24))) == 1


def test_many_threads_count_with_compare_and_replace_and_lose_nothing(store_url: str) -> None:
    """Leases and published records are replaced from several processes; no update may vanish."""
    store = Store(store_url)
    store.create("count", b"0")

    def add(_: int) -> None:
        while True:
            data, stat = store.get("count")
            try:
                store.replace("count", b"%d" % (int(data) + 1), if_match=stat.etag)
                return
            except Conflict:
                continue

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(30)))
    assert store.read("count") == b"30"


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "", "a/../b", "a//b", "a/", "x" * 300, "a\nb", "s3://b/x", ".tmp-1"]
)
def test_unsafe_paths_are_refused_at_the_door(path: str) -> None:
    """A customer id of "../../etc" must not become a path."""
    store = Store("memory://door")
    with pytest.raises(ValueError, match="unsafe path"):
        store.write(path, b"x")


def test_an_empty_file_is_never_created_exclusively(store_url: str) -> None:
    """A zero-byte exclusive create is not exclusive on every server."""
    with pytest.raises(ValueError, match="empty"):
        Store(store_url).create("record.json", b"")


def test_other_cloud_stores_behave_alike_through_their_file_systems(tmp_path: Path) -> None:
    """gs:// and abfs:// cannot be run here; the path through fsspec that they take can."""
    from wanflow.storage.cloud import CloudFiles

    store = CloudFiles(f"memory://cloud-{tmp_path.name}")
    local = tmp_path / "v.mp4"
    local.write_bytes(b"video")
    assert store.stat("a/v.mp4") is None
    first = store.put("a/v.mp4", local, ABSENT, "video/mp4", None)
    with pytest.raises(FileExistsError):
        store.put("a/v.mp4", b"again", ABSENT, None, None)
    second = store.put("a/v.mp4", b"second", first.etag, None, None)
    with pytest.raises(Conflict):
        store.put("a/v.mp4", b"late", first.etag, None, None)
    store.put("b/c/x.json", b"{}", None, None, None)
    assert store.get("a/v.mp4", None) == (b"second", second)
    assert {stat.path for stat in store.list("", "")} == {"a/v.mp4", "b/c/x.json"}
    assert [stat.path for stat in store.list("b/", "")] == ["b/c/x.json"]
    assert [stat.path for stat in store.list("", "b/")] == ["a/v.mp4"]
    assert (sorted(store.folders("")), store.folders("b/"), store.folders("no/")) == (["a", "b"], ["c"], [])
    store.fetch("a/v.mp4", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"second"
    store.delete("a/v.mp4")
    store.delete("a/v.mp4")
    with pytest.raises(FileNotFoundError):
        store.get("a/v.mp4", None)
