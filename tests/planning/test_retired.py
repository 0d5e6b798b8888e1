"""Rows that left the manifest: listed, taken away only by option, and never by a delta or a part of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.planning.published import pretend_run, stores
from tests.run.jobs import ROWS, job_dict, make_job, write_rows
from wanflow import Job, plan, run
from wanflow.driver import drive as real_drive
from wanflow.errors import AssembleError, JobError, Refused, StoreError
from wanflow.lease import Lease
from wanflow.model import Cause, OutputFile, Record
from wanflow.planning.limits import check_limits
from wanflow.publish import publish, unpublish
from wanflow.records import forget_failures, remember_failure
from wanflow.report.catalog import read_catalog
from wanflow.schedule.actions import Finish
from wanflow.storage import Store
from wanflow.testing import load_fake_engine

PUBLISH = {"url": "out", "path": "{{ variant_id }}/{{ output }}.mp4", "carry": ["segment"]}


@pytest.fixture
def job(tmp_path: Path, checkpoint: str) -> Job:
    """Three variants are published; then cem leaves the manifest."""
    made = make_job(tmp_path, checkpoint)
    pretend_run(made)
    write_rows(tmp_path, ROWS[:2])
    return made


def like(job: Job, **changes: Any) -> Job:
    checkpoint = job.engine.checkpoint.t2v
    assert checkpoint
    return Job.from_dict(job_dict(checkpoint, **changes), job.directory)


def retired(job: Job, **options: Any) -> list[str]:
    return [each.variant_id for each in plan(job, **options).retired]


def test_snapshot_lists_what_left_and_leaves_it(job: Job) -> None:
    assert retired(job) == ["cem"]
    outcome = run(job, inline=True, load_engine=load_fake_engine)
    assert (outcome.num_retired, outcome.num_unpublished) == (1, 0)
    assert (job.directory / "out/cem/square.mp4").exists()
    catalog = read_catalog(stores(job)[1])
    assert catalog is not None
    assert {row["variant_id"]: row["retired"] for row in catalog.to_pylist()} == {
        "ann": False,
        "bob": False,
        "cem": True,
    }


def test_unpublish_takes_away_file_record_and_row_of_the_catalog(job: Job) -> None:
    """A customer opted out: nobody must see the video tomorrow."""
    outcome = run(like(job, publish=PUBLISH | {"unpublish": True}), inline=True, load_engine=load_fake_engine)
    assert outcome.exit_code == 0
    assert (outcome.num_retired, outcome.num_unpublished) == (1, 1)
    assert not (job.directory / "out/cem/square.mp4").exists()
    assert (job.directory / "out/ann/square.mp4").exists()
    catalog = read_catalog(stores(job)[1])
    assert catalog is not None
    assert set(catalog["variant_id"].to_pylist()) == {"ann", "bob"}
    assert retired(job) == []


def test_delta_retires_nothing(job: Job) -> None:
    assert retired(like(job, manifest={"url": "manifest.parquet", "mode": "delta"})) == []
    with pytest.raises(JobError, match="delta takes nothing away"):
        like(job, manifest={"url": "m.parquet", "mode": "delta"}, publish=PUBLISH | {"unpublish": True})


def test_run_of_some_rows_retires_nothing(job: Job) -> None:
    """`--limit 10` before twenty thousand must not take the other 19,990 away."""
    assert retired(job, limit=1) == []
    assert retired(job, only="variant_id = 'ann'") == []


def test_bad_rows_keep_everything(job: Job) -> None:
    """A row that cannot be read is no row that left."""
    write_rows(job.directory, [ROWS[0], ROWS[1] | {"variant_id": " bob"}])
    assert retired(job, skip_bad_rows=True) == []


def test_condition_of_the_job_retires(job: Job) -> None:
    assert retired(like(job, manifest={"url": "manifest.parquet", "where": "segment = 'gold'"})) == [
        "bob",
        "cem",
    ]


def test_other_jobs_of_the_same_place_are_left_alone(job: Job) -> None:
    assert retired(like(job, name="another")) == []
    assert retired(like(job, name="small-2")) == []


def test_unpublishing_too_many_is_refused(job: Job) -> None:
    """The export of the data warehouse broke off after the first rows."""
    careful = like(job, publish=PUBLISH | {"unpublish": True}, limits={"max_changed": "20%"})
    with pytest.raises(Refused, match="1 of 3 published variants"):
        check_limits(careful, plan(careful), stores(careful)[0])


@pytest.mark.parametrize(("where", "num_left"), [("variant_id = 'ann'", 1), ("variant_id = 'zoe'", 0)])
def test_more_than_half_is_not_taken_away_unasked(job: Job, where: str, num_left: int) -> None:
    """Nobody thinks of a limit before the night in which an export breaks off, or a condition matches nothing."""
    write_rows(job.directory, ROWS[:1])
    manifest = {"url": "manifest.parquet", "where": where}
    trusting = like(job, publish=PUBLISH | {"unpublish": True}, manifest=manifest)
    with pytest.raises(
        Refused, match=f"{3 - num_left} of 3 published variants would be taken away"
    ) as caught:
        run(trusting, inline=True, load_engine=load_fake_engine)
    assert (job.directory / "out/cem/square.mp4").exists()
    accept = str(caught.value).split("--accept ")[1].split("`")[0]
    outcome = run(trusting, inline=True, load_engine=load_fake_engine, accept=accept)
    assert outcome.num_unpublished == 3 - num_left
    assert not (job.directory / "out/cem/square.mp4").exists()


MOVED = {"url": "out", "path": "{{ segment }}/{{ variant_id }}/{{ output }}.mp4", "carry": ["segment"]}


def test_a_video_that_moves_is_there_until_the_new_one_is_up(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A customer changes the segment, and the segment is in the path: hours without a video would be an outage."""
    job = make_job(tmp_path, checkpoint)
    assert run(job, inline=True, load_engine=load_fake_engine).exit_code == 0
    write_rows(tmp_path, ROWS[:2])
    moving = like(job, publish=MOVED | {"unpublish": True}, limits={"max_changed": "100%"})

    def no_pool(*_: object, **__: object) -> Any:
        raise RuntimeError("no Ray today")

    with monkeypatch.context() as patch:
        patch.setattr("wanflow.driver._open_pool", no_pool)
        with pytest.raises(RuntimeError, match="no Ray today"):
            run(moving, inline=True)
    assert (job.directory / "out/ann/square.mp4").exists()
    assert not (job.directory / "out/cem/square.mp4").exists(), "that one has left"
    outcome = run(moving, inline=True, load_engine=load_fake_engine)
    assert (outcome.exit_code, outcome.num_unpublished) == (0, 2)
    assert (job.directory / "out/gold/ann/square.mp4").exists()
    assert not (job.directory / "out/ann/square.mp4").exists()


def test_a_video_that_moves_stays_where_its_successor_fails(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = like(job, publish=MOVED | {"unpublish": True}, limits={"max_changed": "100%"})
    monkeypatch.setattr("wanflow.pool.assembler.publish", _refuse)
    outcome = run(moving, inline=True, load_engine=load_fake_engine)
    assert outcome.counts["failed"] == 2
    assert (job.directory / "out/ann/square.mp4").exists()


def _refuse(*_: object, **__: object) -> Any:
    raise AssembleError("the picture stands still")


@pytest.fixture
def moving(tmp_path: Path, checkpoint: str) -> Job:
    """Three variants are published, and are to move to paths of their segments."""
    job = make_job(tmp_path, checkpoint)
    assert run(job, inline=True, load_engine=load_fake_engine).exit_code == 0
    return like(job, publish=MOVED | {"unpublish": True}, limits={"max_changed": "100%"})


def test_a_delete_that_fails_at_the_end_costs_the_run_nothing_else(
    moving: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's role may write and not delete: everything is published, and the report says what is left."""

    def refuse(target: Store, workspace: Store, record: Record) -> None:
        if "ann" not in record.files[0].path:
            raise StoreError("cannot delete: access denied")
        unpublish(target, workspace, record)

    monkeypatch.setattr("wanflow.planning.retired.unpublish", refuse)
    outcome = run(moving, inline=True, load_engine=load_fake_engine)
    assert (outcome.exit_code, outcome.counts["published"]) == (1, 3)
    assert "access denied" in outcome.message
    catalog = read_catalog(stores(moving)[1])
    assert catalog is not None
    assert {path for path in catalog["path"].to_pylist() if path.endswith("mp4")} == {
        "bob/square.mp4", "cem/square.mp4",
        "gold/ann/square.mp4", "basic/bob/square.mp4", "gold/cem/square.mp4",
    }  # fmt: skip
    monkeypatch.undo()
    outcome = run(moving, inline=True, load_engine=load_fake_engine)
    assert (outcome.exit_code, outcome.num_unpublished, outcome.counts["unchanged"]) == (0, 2, 3)


def test_a_run_that_has_lost_its_lease_takes_nothing_away(
    moving: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that took over may be another job's, which asks for just these videos."""

    class Lost(Lease):
        is_lost = False
        lost = property(lambda self: "the lease was taken over" if Lost.is_lost else "")

    def drive(*arguments: Any) -> Finish:
        finish = real_drive(*arguments)
        Lost.is_lost = True
        return finish

    monkeypatch.setattr("wanflow.driver.Lease", Lost)
    monkeypatch.setattr("wanflow.driver.drive", drive)
    outcome = run(moving, inline=True, load_engine=load_fake_engine)
    assert (outcome.counts["published"], outcome.num_unpublished) == (3, 0)
    assert (moving.directory / "out/ann/square.mp4").exists()


LOCALES: dict[str, Any] = {
    "url": "out",
    "path": "{{ variant_id }}/{{ locale }}/{{ output }}.mp4",
    "unpublish": True,
}
TWO = [
    {"name": "square", "preset": "instagram-square", "width": 256},
    {"name": "small", "preset": "instagram-square", "width": 128},
]


@pytest.mark.parametrize("max_changed", [None, "40%"])
def test_videos_of_a_matrix_are_counted_and_not_their_ids(
    tmp_path: Path, checkpoint: str, max_changed: str | None
) -> None:
    """Somebody leaves three of four locales out of the job: that is most of what is published, of every customer."""
    options: dict[str, Any] = {"publish": LOCALES, "outputs": TWO, "limits": {"max_changed": max_changed}}
    pretend_run(
        make_job(tmp_path, checkpoint, ROWS[:2], matrix={"locale": ["de", "en", "ja", "no"]}, **options)
    )
    fewer = Job.from_dict(job_dict(checkpoint, matrix={"locale": ["de"]}, **options), tmp_path)
    with pytest.raises(Refused, match="6 of 8 published variants would"):
        check_limits(fewer, plan(fewer), stores(fewer)[0])
    most = Job.from_dict(job_dict(checkpoint, matrix={"locale": ["de", "en", "ja"]}, **options), tmp_path)
    check_limits(most, plan(most), stores(most)[0])


@pytest.mark.parametrize("failed_before", [False, True])
def test_a_video_of_a_matrix_stays_until_its_own_successor_is_up(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch, failed_before: bool
) -> None:
    """The locale comes first in the path from today on, and `ja` fails: it keeps its video although `de` has moved."""

    def job_of(prompt: str, path: str) -> Job:
        return make_job(
            tmp_path,
            checkpoint,
            ROWS[:1],
            matrix={"locale": ["de", "ja"]},
            clip={"aspect": "1x1", "seconds": 0.5, "prompt": f"{prompt} in {{{{ locale }}}}"},
            limits={"max_changed": "100%", "max_attempts": 1},
            publish=LOCALES | {"path": path},
        )

    pretend_run(job_of("waves", LOCALES["path"]))
    moving = job_of("dunes", "{{ locale }}/{{ variant_id }}/{{ output }}.mp4")
    with monkeypatch.context() as patch:
        if failed_before:
            (key,) = (clip.task.key for clip in plan(moving).clips if clip.task.clip.prompt == "dunes in ja")
            remember_failure(stores(moving)[0], key, Cause.BAD_INPUT, "no picture")
        else:
            patch.setattr("wanflow.pool.assembler.publish", _refuse_ja)
        outcome = run(moving, inline=True, load_engine=load_fake_engine)
    assert (outcome.counts["published"], outcome.counts["failed"], outcome.num_unpublished) == (1, 1, 0)
    assert (tmp_path / "out/ann/ja/square.mp4").exists()
    forget_failures(stores(moving)[0])
    outcome = run(moving, inline=True, load_engine=load_fake_engine)
    assert (outcome.exit_code, outcome.num_unpublished) == (0, 2)
    assert not (tmp_path / "out/ann/ja/square.mp4").exists()


def _refuse_ja(target: Store, workspace: Store, file: OutputFile, *arguments: Any, **options: Any) -> Any:
    if file.path.startswith("ja/"):
        raise AssembleError("no font draws it")
    return publish(target, workspace, file, *arguments, **options)
