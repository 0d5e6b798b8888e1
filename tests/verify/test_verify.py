"""A store is corrupted in every way that we could think of, and each is found by the name of what is broken."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.run.jobs import ROWS, make_job, write_rows
from wanflow.cli import main
from wanflow.errors import UsageError
from wanflow.storage import Store, Unfinished
from wanflow.storage.s3_client import client
from wanflow.verify import repair, verify
from wanflow.verify.checks import check_half_made
from wanflow.verify.evidence import gather

from .conftest import Place, broken, render, warned

Corrupt = Callable[[Place], object]


def test_a_finished_run_is_clean(place: Place) -> None:
    """Nothing to find, not even a warning, and every promise had something to be looked at."""
    report = place.verify(deep=True)
    assert broken(report) == {}
    assert warned(report) == {}
    looked_at = {check.name: check.num_checked for check in report.checks}
    assert looked_at["records"] == 4  # two clips: base latents and master
    assert looked_at["visible"] == 6  # three videos, three posters
    for name in ("payloads", "publish-records", "foreign", "catalog", "results", "plan", "ledger", "inputs"):
        assert looked_at[name] > 0, name


def test_runs_on_top_of_each_other_stay_clean(place: Place) -> None:
    """A changed headline, a changed prompt, a quiet night."""
    write_rows(place.folder, [ROWS[0] | {"headline": "Bye Ann"}, ROWS[1], ROWS[2] | {"prompt": "stars"}])
    render(place.job)
    render(place.job)
    report = place.verify(deep=True)
    assert broken(report) == {}
    assert warned(report) == {}


def test_the_workspace_alone_is_enough(place: Place) -> None:
    """Whoever looks after the bucket may not have the job: where it publishes to is read off the results."""
    (place.out / "ann/square.mp4").unlink()
    report = verify(place.workspace)
    assert broken(report)["visible"] == [f"{place.out}/ann/square.mp4"]


def test_a_place_without_a_workspace_is_not_a_clean_one(tmp_path: Path) -> None:
    """A typing mistake in the URL must not end in "clean"."""
    with pytest.raises(UsageError, match="nothing is there"):
        verify(Store(str(tmp_path / "typo")))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    """One bit turns over on the disk: size and times stay."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


#: as a writer that was killed leaves it
HALF = ".tmp-77-0123456789abcdef"


def _half(path: Path, age_s: float = 7200.0) -> None:
    """A file that somebody has begun to write."""
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age_s,) * 2)


def _publish_record(place: Place, path: str = "ann/square.mp4") -> Path:
    name = hashlib.sha256(path.encode()).hexdigest()
    return place.work / f"published/own/{name[:2]}/{name}.json"


def _master_record(place: Place) -> Path:
    return place.master().parent.parent.with_suffix(".json")


def _events(place: Place, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Rewrite all events of the run as one file."""
    files = sorted(place.work.glob("runs/*/events/*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    for file in files[1:]:
        file.unlink()
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), files[0])


def _results(place: Place, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    file = place.one("runs/*/results.parquet")
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), file)


def _catalog(place: Place, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    file = place.out / "catalog/files.parquet"
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), file)


def _set_first(place: Place, name: str, value: object) -> None:
    _results(place, lambda rows: [rows[0] | {name: value}, *rows[1:]])


def _hash_in_record(place: Place) -> None:
    place.edit(_master_record(place), lambda body: body["files"][0].update(sha256="0" * 64))  # type: ignore[index]


def _again_after_its_record(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ledger of a run that rendered a clip twice."""
    order = next(row for row in rows if row["event"] == "Render")
    end = next(row for row in rows if row["event"] == "ClipRendered" and row["task"] == order["task"])
    late = {"attempt": "1.99", "time_s": end["time_s"] + 1}
    return [*rows, order | late, end | late | {"data": '{"seconds": {"denoise": 2.5}}'}]


#: what is done to the store -> the check that names it, and (a part of) the path or reason that it names
CORRUPTIONS: dict[str, tuple[Corrupt, str, str]] = {
    "record emptied": (lambda p: _master_record(p).write_bytes(b""), "records", "empty"),
    "record cut off": (lambda p: _truncate(_master_record(p)), "records", "not JSON"),
    "record of another key": (
        lambda p: p.edit(_master_record(p), lambda body: body.update(key="f" * 64)),
        "records",
        "another key",
    ),
    "record without files": (
        lambda p: p.edit(_master_record(p), lambda body: body.update(files=[])),
        "records",
        "names no file",
    ),
    "record in a wrong folder": (lambda p: _move_record(p), "records", "belongs into"),
    "master cut off": (lambda p: _truncate(p.master()), "payloads", "master.mp4"),
    "master deleted": (lambda p: p.master().unlink(), "payloads", "missing"),
    "master with a flipped bit": (lambda p: _flip(p.master()), "payloads", "SHA-256"),
    "record with a wrong hash": (_hash_in_record, "payloads", "SHA-256"),
    "record that names a stranger's file": (
        lambda p: p.edit(
            _master_record(p),
            lambda body: body["files"][0].update(path="clips/aa/other.mp4"),  # type: ignore[index]
        ),
        "payloads",
        "does not lie in",
    ),
    "publish record emptied": (lambda p: _publish_record(p).write_bytes(b""), "publish-records", "empty"),
    "publish record in another's place": (
        lambda p: shutil.copy2(_publish_record(p), _publish_record(p, "bob/square.mp4")),
        "publish-records",
        "lies elsewhere",
    ),
    "publish record deleted": (lambda p: _publish_record(p).unlink(), "foreign", "ann/square.mp4"),
    "video deleted": (lambda p: (p.out / "ann/square.mp4").unlink(), "visible", "ann/square.mp4"),
    "poster deleted": (lambda p: (p.out / "ann/square.jpg").unlink(), "visible", "ann/square.jpg"),
    "video cut off": (lambda p: _truncate(p.out / "ann/square.mp4"), "visible", "bytes"),
    "video replaced": (lambda p: (p.out / "bob/square.mp4").write_bytes(b"mine"), "visible", "was changed"),
    "video with a flipped bit": (lambda p: _flip(p.out / "ann/square.mp4"), "visible", "SHA-256"),
    "a stranger's file": (lambda p: (p.out / "ann/notes.txt").write_bytes(b"x"), "foreign", "ann/notes.txt"),
    "half an upload": (
        lambda p: _half(p.out / "ann" / HALF),
        "half-made",
        HALF,
    ),
    "catalog damaged": (lambda p: _truncate(p.out / "catalog/files.parquet"), "catalog", "not a Parquet"),
    "catalog that lacks a file": (lambda p: _catalog(p, lambda rows: rows[1:]), "catalog", "lacks"),
    "catalog of yesterday": (
        lambda p: _catalog(p, lambda rows: [row | {"etag": "old"} for row in rows]),
        "catalog",
        "another file now",
    ),
    "catalog with another hash": (
        lambda p: _catalog(p, lambda rows: [row | {"sha256": "0" * 64} for row in rows]),
        "catalog",
        "not what the record says",
    ),
    "results without a variant": (lambda p: _results(p, lambda rows: rows[1:]), "plan", "ann"),
    "results deleted": (lambda p: p.one("runs/*/results.parquet").unlink(), "results", "missing"),
    "published without a file": (lambda p: _set_first(p, "files", []), "results", "without a file"),
    "failed without a reason": (lambda p: _set_first(p, "status", "failed"), "results", "without a reason"),
    "a status that is none": (lambda p: _set_first(p, "status", "fine"), "results", "'fine'"),
    "plan damaged": (lambda p: _truncate(p.one("runs/*/plan.parquet")), "ledger", "plan.parquet"),
    "events damaged": (lambda p: _truncate(p.one("runs/*/events/*.parquet")), "ledger", "not a Parquet"),
    "a part of the events deleted": (
        lambda p: min(p.work.glob("runs/*/events/*.parquet")).unlink(),
        "ledger",
        "missing",
    ),
    "all events deleted": (lambda p: shutil.rmtree(p.one("runs/*/events")), "ledger", "its outcome counts"),
    "a render that was never ordered": (
        lambda p: _events(p, lambda rows: [row for row in rows if row["event"] != "Render"]),
        "ledger",
        "ordered",
    ),
    "a clip rendered after its record": (
        lambda p: _events(p, _again_after_its_record),
        "rendered-once",
        "after its record",
    ),
    "epoch deleted": (lambda p: shutil.rmtree(p.work / "epochs"), "epochs", "nobody claimed"),
    "input damaged": (lambda p: _flip(p.one("inputs/*")), "inputs", "not that of its name"),
    "remembered failure damaged": (lambda p: _damaged_failure(p), "failures", "not JSON"),
}


def _move_record(place: Place) -> None:
    record = _master_record(place)
    wrong = place.work / "clips" / ("00" if record.parent.name != "00" else "01")
    wrong.mkdir(exist_ok=True)
    shutil.move(record, wrong / record.name)


def _damaged_failure(place: Place) -> None:
    (place.work / "failures").mkdir()
    (place.work / f"failures/{'a' * 64}.json").write_bytes(b"{")


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_what_is_broken_is_found_by_name(place: Place, what: str) -> None:
    """Each way to break the store is told by the check of the promise that it breaks, with its path and reason."""
    corrupt, check, words = CORRUPTIONS[what]
    corrupt(place)
    report = place.verify(deep=True)
    assert not report.is_clean
    found = {done.name: done.findings for done in report.checks}
    told = [f"{finding.path}: {finding.reason}" for finding in found[check] if not finding.is_warning]
    assert any(words in line for line in told), told


def test_without_deep_no_file_is_read_and_a_flipped_bit_is_not_seen(place: Place) -> None:
    """--deep reads every byte; without it a listing and the records are all that is read."""
    _flip(place.master())
    assert place.verify().is_clean
    assert not place.verify(deep=True).is_clean


def test_leftovers_are_warnings(place: Place) -> None:
    """They cost room and harm nobody: exit 0."""
    key = place.master().parent.parent.name
    (place.work / f"steps/{key}").mkdir(parents=True)
    (place.work / f"steps/{key}/denoise-4-1.1.safetensors").write_bytes(b"steps")
    (place.work / f"steps/{'b' * 64}").mkdir()
    (place.work / f"steps/{'b' * 64}/denoise-4-1.1.safetensors").write_bytes(
        b"of a clip that is not finished"
    )
    loser = place.master().parent.with_name("1.9")
    loser.mkdir()
    (loser / "master.mp4").write_bytes(b"lost")
    (place.work / "notes.txt").write_bytes(b"x")
    report = place.verify()
    assert report.is_clean
    found = {name: [finding.path for finding in findings] for name, findings in warned(report).items()}
    assert found == {
        "leftovers": [f"steps/{key}", str(loser.relative_to(place.work))],
        "layout": ["notes.txt"],
    }


def test_a_run_at_work_is_said(place: Place) -> None:
    """What is found meanwhile may be its unfinished work."""
    lease = place.one("leases/*")
    place.edit(lease, lambda body: body.update(released=False, beat_at_s=time.time(), run_id="tonight"))
    assert "tonight is at work" in warned(place.verify())["lease"][0].reason
    place.edit(lease, lambda body: body.update(beat_at_s=1.0))
    assert "no life" in warned(place.verify())["lease"][0].reason
    lease.write_bytes(b"{")
    assert "not JSON" in warned(place.verify())["lease"][0].reason


def test_repair_removes_what_is_broken_and_the_next_run_makes_it_again(place: Place) -> None:
    """A broken master and publications, leftovers: removed, said, made again; no visible file is touched."""
    _truncate(place.master())
    _flip(place.out / "ann/square.mp4")
    _publish_record(place, "bob/square.mp4").write_bytes(b"")
    _half(place.out / "ann" / HALF)
    visible = {path: path.stat().st_mtime_ns for path in place.out.glob("*/*.mp4")}
    broken_key = place.master().parent.parent.name

    report = repair(place.workspace, [place.job.publish.url], deep=True)
    assert {path: path.stat().st_mtime_ns for path in place.out.glob("*/*.mp4")} == visible
    assert any(broken_key in words and words.startswith("removed") for words in report.repaired)
    assert any(HALF in words for words in report.repaired)
    assert set(broken(report)) <= {"foreign", "catalog", "results"}, "what is left waits for the next run"

    write_rows(place.folder, [row | {"headline": f"Again {row['variant_id']}"} for row in ROWS])
    outcome = render(place.job)
    assert outcome.counts["published"] == 3
    assert outcome.num_clips_rendered == 1
    after = place.verify(deep=True)
    assert broken(after) == {}
    assert warned(after) == {}


def test_repair_leaves_what_may_be_under_way_or_is_not_ours(place: Place) -> None:
    """Other jobs and other tools write below the same URLs, and their leases are not this workspace's."""
    kept = [
        place.out / "ann/.tmp-78-0123456789abcdef",
        place.work / "inputs/.tmp-78-0123456789abcdef",
        place.out / "ann/.tmp-of-another-tool",
        place.work / ".tmp-of-another-tool",
    ]
    for path, age_s in zip(kept, (60.0, 60.0, 1e6, 1e6), strict=True):
        _half(path, age_s)
    ours = [place.out / "ann" / HALF, place.work / "inputs" / HALF]
    for path in ours:
        _half(path)
    report = repair(place.workspace)
    assert [path for path in ours if path.exists()] == []
    assert [path for path in kept if path.exists()] == kept
    assert report.is_clean
    assert {finding.path for finding in warned(report)["half-made"]} == {str(path) for path in kept}


def test_repair_leaves_the_uploads_of_others(s3_url: str, tmp_path: Path, checkpoint: str) -> None:
    """Their parts are in no listing, and their owner is about to complete them; a killed writer of ours is not."""
    job = make_job(tmp_path, checkpoint, publish={"url": s3_url, "path": "{{ variant_id }}/{{ output }}.mp4"})
    assert render(job).exit_code == 0
    workspace, target = Store(str(job.workspace)), Store(s3_url)
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    ours = ["ann/square.mp4", "ann/square.jpg", "catalog/files.parquet"]
    ours.append(f".wanflow/clips/aa/{'a' * 64}/1.1/master.mp4")
    theirs = ["film/scene.mov", ".wanflow/notes.mov"]
    for path in (*ours, *theirs):
        client().call_s3("create_multipart_upload", Bucket=bucket, Key=f"{prefix}/{path}")
    report = repair(workspace)
    assert sorted(write.path for write in target.unfinished()) == sorted(theirs)
    assert len(report.repaired) == len(ours)

    evidence = gather(workspace)
    evidence.targets[0].unfinished = [
        Unfinished(ours[0], 0, time.time() - 60, "an upload that has just begun")
    ]
    assert not any(finding.discard for finding in check_half_made(evidence)[1])


def test_a_flipped_bit_in_a_video_is_repaired_by_a_night_in_which_nothing_changed(place: Place) -> None:
    """Size and ETag are as ever, so only --deep sees it; then the next run makes the file again, without a GPU."""
    _flip(place.out / "ann/square.mp4")
    repair(place.workspace, deep=True)
    outcome = render(place.job)
    assert (outcome.counts["published"], outcome.num_clips_rendered) == (1, 0)
    assert broken(place.verify(deep=True)) == {}


@pytest.mark.parametrize(
    "what", [name for name, (_, check, _) in CORRUPTIONS.items() if check in {"records", "payloads"}]
)
def test_a_repaired_store_is_clean_after_one_more_run(place: Place, what: str) -> None:
    """Whatever happened to a clip: repair, run, clean."""
    CORRUPTIONS[what][0](place)
    assert broken(repair(place.workspace, deep=True)) == {}
    write_rows(place.folder, [row | {"headline": f"Again {row['variant_id']}"} for row in ROWS])
    assert render(place.job).exit_code == 0
    assert broken(place.verify(deep=True)) == {}


def test_the_command_says_clean_or_names_what_is_not(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cron reads the exit code, people the lines, programs the JSON."""
    assert main(["verify", str(place.work)]) == 0
    assert "clean" in capsys.readouterr().out
    (place.out / "ann/square.mp4").unlink()
    assert main(["verify", str(place.work), "--json"]) == 3
    body = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not body["clean"]
    assert [check["name"] for check in body["checks"] if check["state"] == "fail"] == [
        "visible",
        "catalog",
        "results",
    ]
    assert main(["verify", str(place.work), "--repair"]) == 3
    assert "ann/square.mp4: it is missing" in capsys.readouterr().out
