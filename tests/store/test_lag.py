"""Stores whose listings lag behind: what a run, a re-run, gc and verify make of it. Reads of single files are exact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job, write_rows
from tests.store.lagging import Lag, lagging
from wanflow import Job, Outcome, plan, run
from wanflow.gc import collect
from wanflow.lease import Lease
from wanflow.ledger import new_run_id, run_ids
from wanflow.pins import read_pins, write_pins
from wanflow.storage import Store
from wanflow.testing import load_fake_engine
from wanflow.verify import repair, verify

PUBLISH_PATH = "{{ variant_id }}/{{ output }}.mp4"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A directory, or a prefix of the S3 server."""
    return str(tmp_path / "store") if request.param == "local" else request.getfixturevalue("s3_url")


@pytest.fixture
def lag(place: str, monkeypatch: pytest.MonkeyPatch) -> Lag:
    return lagging(monkeypatch)


@pytest.fixture
def job(place: str, tmp_path: Path, checkpoint: str) -> Job:
    return make_job(
        tmp_path,
        checkpoint,
        publish={"url": f"{place}/ads", "path": PUBLISH_PATH},
        workspace=f"{place}/work",
    )


def render(job: Job, **options: Any) -> Outcome:
    return run(job, inline=True, load_engine=load_fake_engine, **options)


def findings(job: Job) -> list[Any]:
    report = verify(Store(str(job.workspace)), [job.publish.url], deep=True)
    return [each for check in report.checks for each in check.findings]


def clip_files(job: Job) -> set[str]:
    return {stat.path for stat in Store(str(job.workspace)).list("clips")}


def test_a_run_again_before_listings_have_caught_up_renders_nothing(lag: Lag, job: Job) -> None:
    """The night's run has ended, the listings are of yesterday: videos may be made again, clips are not."""
    lag.begin()
    assert render(job).counts["published"] == 3
    again = render(job)
    assert again.exit_code == 0
    assert again.num_clips_rendered == 0
    lag.catch_up()
    assert plan(job).is_empty
    assert findings(job) == []


def test_clips_that_no_listing_shows_are_not_rendered_again_in_a_large_plan(
    lag: Lag, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above some clips a plan trusts one listing; each replica still asks for the record before it begins."""
    monkeypatch.setattr("wanflow.records.PROBE_KEYS", 0)
    lag.begin()
    render(job)
    assert len(plan(job).to_render) == 2, "the plan does not know"
    render(job)
    lag.catch_up()
    assert {path.split("/")[3] for path in clip_files(job) if path.count("/") > 2} == {"1.1", "1.2"}
    assert findings(job) == [], "no second of an engine was spent after a record"


def test_a_change_and_a_deletion_behind_the_listings_end_well(lag: Lag, job: Job, tmp_path: Path) -> None:
    """Listings show the former videos, and one that is gone: tonight's mistakes are over when they have caught up."""
    render(job)
    lag.begin()
    write_rows(tmp_path, [ROWS[0] | {"headline": "Bye Ann"}, ROWS[1], ROWS[2] | {"prompt": "stars"}])
    changed = render(job)
    assert (changed.counts["published"], changed.num_clips_rendered) == (2, 1)
    Store(job.publish.url).delete("bob/square.mp4")
    assert render(job).num_clips_rendered == 0
    lag.catch_up()
    outcome = render(job)
    assert (outcome.exit_code, outcome.num_clips_rendered) == (0, 0)
    assert plan(job).is_empty
    assert findings(job) == []


def test_verify_asks_for_a_file_before_it_accuses(lag: Lag, job: Job, tmp_path: Path) -> None:
    """What the listings lack, and what they still show: nothing of it is a broken promise, and repair takes nothing."""
    render(job)
    lag.begin()
    write_rows(tmp_path, [ROWS[0] | {"headline": "Bye Ann"}, ROWS[1], ROWS[2] | {"prompt": "stars"}])
    render(job)
    assert [each for each in findings(job) if not each.is_warning] == []
    repair(Store(str(job.workspace)), [job.publish.url])
    lag.catch_up()
    assert findings(job) == []
    assert plan(job).is_empty


def test_verify_still_finds_what_is_gone_whatever_the_listings_show(lag: Lag, job: Job) -> None:
    """A video and a master were deleted and are listed still: with --deep they are read, and missed."""
    render(job)
    lag.begin()
    workspace, target = Store(str(job.workspace)), Store(job.publish.url)
    master = next(stat.path for stat in workspace.list("clips") if stat.path.endswith(".mp4"))
    workspace.delete(master)
    target.delete("ann/square.mp4")
    accused = {each.path for each in findings(job) if not each.is_warning}
    assert {master, f"{target.url}/ann/square.mp4"} <= accused


def test_gc_behind_the_listings_deletes_nothing_that_is_needed(lag: Lag, job: Job, tmp_path: Path) -> None:
    """Marked long ago; then a run counts on it that no listing shows yet. Its lease has named it."""
    render(job)
    workspace = Store(str(job.workspace))
    first = run_ids(workspace)[0]
    pins = read_pins(workspace, first)
    assert pins is not None
    write_rows(tmp_path, [*ROWS[:2], ROWS[2] | {"prompt": "stars"}])
    render(job)
    before = clip_files(job)
    lag.begin()
    begun = new_run_id(time.time(), "other")
    with Lease(workspace, run_id=begun):
        write_pins(workspace, begun, pins)
    assert begun not in run_ids(workspace)
    found = collect(workspace, delete=True, keep_days=0, grace_h=0)
    lag.catch_up()
    assert "clips" not in found.deleted
    assert clip_files(job) == before


def test_gc_takes_what_is_listed_and_already_gone(lag: Lag, job: Job, tmp_path: Path) -> None:
    """Twice in a row, the second time with listings from before the first: there is nothing left to do wrong."""
    render(job)
    write_rows(tmp_path, [*ROWS[:2], ROWS[2] | {"prompt": "stars"}])
    render(job)
    workspace = Store(str(job.workspace))
    lag.begin()
    assert collect(workspace, delete=True, keep_days=0, grace_h=0).deleted["clips"][0] == 4
    assert collect(workspace, delete=True, keep_days=0, grace_h=0).deleted["clips"][0] == 4
    lag.catch_up()
    assert collect(workspace, delete=True, keep_days=0, grace_h=0).waste == {}
    assert plan(job).is_empty
    assert findings(job) == []
