"""Publishing: what is visible matches its record, or counts as unpublished and is repaired."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wanflow.errors import Conflict
from wanflow.model import Attempt, Output, OutputFile, Record
from wanflow.publish import Published, poster_path, publish
from wanflow.storage import Store

OUTPUT = Output("story", "9x16", 90, 160, 8.0)


class Desk:
    """A target with its workspace, and files to publish."""

    def __init__(self, target: Store, workspace: Store, folder: Path) -> None:
        self.target, self.workspace, self.folder = target, workspace, folder

    def put(
        self,
        path: str,
        key: str,
        epoch: int = 1,
        number: int = 1,
        content: bytes | None = None,
        posters: bool = True,
    ) -> Record:
        video, poster = self.folder / "v.mp4", self.folder / "p.jpg"
        video.write_bytes(content or f"video {key} {epoch}.{number}".encode())
        poster.write_bytes(f"poster {key}".encode())
        file = OutputFile(OUTPUT, path, key, ("m",))
        local = {"video": video, "poster": poster} if posters else {"video": video}
        info = {"gpu_seconds": 2.5, "cost": 0.01}
        return publish(
            self.target, self.workspace, file, "anna", local, Attempt(epoch, number), f"run-{epoch}", info
        )

    def load(self) -> Published:
        return Published.load(self.target, self.workspace)


@pytest.fixture
def desk(store_url: str, tmp_path: Path) -> Desk:
    target = Store(store_url)
    return Desk(target, target.child(".wanflow"), tmp_path)


def test_a_published_path_has_its_key_until_the_file_changes(desk: Desk) -> None:
    """The nightly comparison: same key, same files: nothing to do."""
    record = desk.put("anna/story.mp4", "k1")
    assert desk.load().key_of("anna/story.mp4") == "k1"
    assert dict(record.info)["variant_id"] == "anna"
    assert [file.path for file in record.files] == ["anna/story.mp4", "anna/story.jpg"]
    assert desk.load().reason("anna/link.mp4") == "never published"
    desk.target.write("anna/story.mp4", b"somebody's own cut")
    assert desk.load().key_of("anna/story.mp4") is None
    assert desk.load().reason("anna/story.mp4") == "file was changed by someone else"
    desk.put("anna/story.mp4", "k1")
    assert desk.load().key_of("anna/story.mp4") == "k1"


def test_a_missing_poster_makes_the_video_unpublished(desk: Desk) -> None:
    """Half of a publication is none."""
    desk.put("anna/story.mp4", "k1")
    desk.target.delete("anna/story.jpg")
    found = desk.load()
    assert found.key_of("anna/story.mp4") is None
    assert found.reason("anna/story.mp4") == "poster is missing"


def test_a_poster_that_is_no_longer_asked_for_goes_away(desk: Desk) -> None:
    """Yesterday's picture beside today's video would belong to nobody."""
    desk.put("anna/story.mp4", "k1")
    desk.put("anna/story.mp4", "k2", epoch=2, posters=False)
    assert "anna/story.mp4" in desk.load().visible
    assert "anna/story.jpg" not in desk.load().visible
    assert desk.load().key_of("anna/story.mp4") == "k2"


def test_a_crash_between_file_and_record_is_repaired_by_the_next_run(desk: Desk) -> None:
    """The file is new, its record is old: nobody may believe the record."""
    desk.put("anna/story.mp4", "k1")
    desk.target.write("anna/story.mp4", b"video k2 of a run that died here")
    assert desk.load().key_of("anna/story.mp4") is None
    desk.put("anna/story.mp4", "k2", epoch=2)
    assert desk.load().key_of("anna/story.mp4") == "k2"


def test_a_file_without_a_record_is_published_over(desk: Desk) -> None:
    """First run over a folder that somebody filled by hand, or a crash before the very first record."""
    desk.target.write("anna/story.mp4", b"by hand")
    assert desk.load().reason("anna/story.mp4") == "file without a record"
    desk.put("anna/story.mp4", "k1")
    assert desk.target.read("anna/story.mp4") == b"video k1 1.1"


def test_publishing_the_same_key_again_touches_nothing(desk: Desk) -> None:
    """A retried task whose first try had succeeded must not replace a file that people are watching."""
    first = desk.put("anna/story.mp4", "k1")
    assert desk.put("anna/story.mp4", "k1", number=2, content=b"other bytes") == first
    assert desk.target.read("anna/story.mp4") == b"video k1 1.1"


def test_a_stale_run_cannot_overwrite_what_a_newer_one_published(desk: Desk) -> None:
    """A driver that was suspended for an hour wakes up with yesterday's headline."""
    desk.put("anna/story.mp4", "today", epoch=5)
    with pytest.raises(Conflict, match="newer run"):
        desk.put("anna/story.mp4", "yesterday", epoch=4)
    assert desk.load().key_of("anna/story.mp4") == "today"
    desk.put("anna/story.mp4", "tomorrow", epoch=6)
    assert desk.load().key_of("anna/story.mp4") == "tomorrow"


def test_only_records_that_the_index_does_not_know_are_read(desk: Desk) -> None:
    """20,000 unchanged rows cost two listings and one index, not 20,000 requests."""
    for name in ("anna", "ben", "cleo"):
        desk.put(f"{name}/story.mp4", f"k-{name}")
    loaded = desk.load()
    assert loaded.num_read == 3
    loaded.save(desk.target, desk.workspace)
    assert desk.load().num_read == 0
    record = desk.put("ben/story.mp4", "k-ben-2", epoch=2)
    again = desk.load()
    assert again.num_read == 1
    assert again.key_of("ben/story.mp4") == "k-ben-2"
    index = next(stat for stat in desk.workspace.list() if stat.path.startswith("published-"))
    loaded.save(desk.target, desk.workspace)
    assert desk.workspace.stat(index.path) == index, "nothing new, nothing written"
    loaded.add(record)
    loaded.save(desk.target, desk.workspace)
    assert desk.load().num_read == 0
    live = desk.load().live()
    assert dict(zip(live["path"].to_pylist(), live["key"].to_pylist(), strict=True)) == {
        "anna/story.mp4": "k-anna",
        "ben/story.mp4": "k-ben-2",
        "cleo/story.mp4": "k-cleo",
    }


def test_a_damaged_index_costs_time_only(desk: Desk) -> None:
    """The index is a cache; whatever happens to it, the answer is the records'."""
    desk.put("anna/story.mp4", "k1")
    desk.load().save(desk.target, desk.workspace)
    index = next(stat.path for stat in desk.workspace.list() if stat.path.startswith("published-"))
    desk.workspace.write(index, b"PAR1 not really")
    assert desk.load().key_of("anna/story.mp4") == "k1"


def test_a_damaged_record_makes_its_path_unpublished_and_is_replaced(desk: Desk) -> None:
    """After a power cut a record may be empty."""
    desk.put("anna/story.mp4", "k1")
    path = next(stat.path for stat in desk.workspace.list("published"))
    desk.workspace.write(path, b"")
    assert desk.load().key_of("anna/story.mp4") is None
    desk.put("anna/story.mp4", "k1")
    assert desk.load().key_of("anna/story.mp4") == "k1"


def test_jobs_that_share_a_workspace_do_not_see_each_others_paths(store_url: str, tmp_path: Path) -> None:
    """Two jobs, two buckets, one workspace, the same path in both."""
    root = Store(store_url)
    workspace = root.child("work")
    one, two = (Desk(root.child(name), workspace, tmp_path) for name in ("one", "two"))
    one.put("anna/story.mp4", "k1")
    assert two.load().key_of("anna/story.mp4") is None
    two.put("anna/story.mp4", "k2")
    assert (one.load().key_of("anna/story.mp4"), two.load().key_of("anna/story.mp4")) == ("k1", "k2")


def test_a_moved_folder_with_its_workspace_inside_stays_published(tmp_path: Path) -> None:
    """out/ was copied to another disk, times kept: nothing needs to be made again."""
    here = Store(str(tmp_path / "here"))
    Desk(here, here.child(".wanflow"), tmp_path).put("anna/story.mp4", "k1")
    (tmp_path / "here").rename(tmp_path / "there")
    there = Store(str(tmp_path / "there"))
    assert Published.load(there, there.child(".wanflow")).key_of("anna/story.mp4") == "k1"


def test_wanflows_own_folders_cannot_be_published_into(desk: Desk) -> None:
    """A customer called "catalog" must not replace the catalog."""
    for path in ("catalog/files.parquet", ".wanflow/lease", "../x.mp4"):
        with pytest.raises(ValueError, match="unsafe path"):
            desk.put(path, "k1")


def test_the_poster_lies_beside_its_video() -> None:
    assert poster_path("a.b/c.d.mp4") == "a.b/c.d.jpg"
    assert replace(Attempt(1, 2)) == Attempt(1, 2)
