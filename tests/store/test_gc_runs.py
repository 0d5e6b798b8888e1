"""Directories of old runs: what gc takes of them, and what somebody would still look into."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job, write_rows
from wanflow import Job, Outcome, plan, run
from wanflow.gc import Collected, collect
from wanflow.lease import Lease
from wanflow.ledger import latest_run, new_run_id, run_ids
from wanflow.planning.why import explain
from wanflow.schedule.events import Event
from wanflow.storage import Store, validators
from wanflow.testing import load_fake_engine
from wanflow.verify import verify
from wanflow.view import View

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


def render(job: Job, **options: Any) -> Outcome:
    return run(job, inline=True, load_engine=load_fake_engine, **options)


def store_of(job: Job) -> Store:
    return Store(str(job.workspace))


def collect_after(job: Job, days: float, **options: Any) -> Collected:
    """gc as it would be called so many days from now; it keeps a week."""
    now_s = time.time() + days * DAY_S
    return collect(store_of(job), **({"delete": True, "grace_h": 0} | options), now_s=lambda: now_s)


def names(job: Job, run_id: str) -> set[str]:
    """The files of a run's directory."""
    return {stat.path.split("/", 2)[2] for stat in store_of(job).list(f"runs/{run_id}")}


def change_headlines(folder: Path, text: str) -> None:
    write_rows(folder, [row | {"headline": text} for row in ROWS])


def test_old_runs_go_and_the_newest_complete_one_stays_however_old(tmp_path: Path, checkpoint: str) -> None:
    """A year of nights is a year of directories; the last whole one is what gc itself and the next night lean on."""
    job = make_job(tmp_path, checkpoint)
    for text in ("One", "Two", "Three"):
        change_headlines(tmp_path, text)
        render(job)
    first, second, third = run_ids(store_of(job))
    before = names(job, third)
    assert collect_after(job, 5).deleted == {}, "a week is kept"
    assert collect_after(job, 30).deleted["runs"][0] > 10
    assert run_ids(store_of(job)) == [third]
    assert names(job, first) == names(job, second) == set()
    assert names(job, third) == before
    assert plan(job).is_empty
    assert [each for check in verify(store_of(job), deep=True).checks for each in check.findings] == []
    assert collect_after(job, 60).deleted == {}


def test_runs_since_the_newest_complete_one_stay(tmp_path: Path, checkpoint: str) -> None:
    """Only a part of the manifest has run since, or nothing that ended: the history since then is open."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    whole = latest_run(store_of(job))
    change_headlines(tmp_path, "Part")
    render(job, only="variant_id = 'ann'")
    crashed = new_run_id(time.time(), job.name)
    store_of(job).write(f"runs/{crashed}/job.yaml", job.text.encode())
    assert collect_after(job, 30).deleted == {}
    assert len(run_ids(store_of(job))) == 3
    assert "outcome.json" in names(job, str(whole))


def test_the_plan_of_a_run_whose_videos_are_live_stays_for_why(tmp_path: Path, checkpoint: str) -> None:
    """A course was rendered a year ago. Tomorrow its prompt changes: why must still say from what."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    first = str(latest_run(store_of(job)))
    write_rows(tmp_path, [ROWS[0] | {"headline": "New"}, *ROWS[1:]])
    render(job)
    assert collect_after(job, 30).deleted["runs"][0] > 2
    assert names(job, first) == {"plan.parquet", "outcome.json"}
    assert [each for check in verify(store_of(job), deep=True).checks for each in check.findings] == []
    rows = [ROWS[0] | {"headline": "New"}, ROWS[1], ROWS[2] | {"prompt": "stars"}]
    write_rows(tmp_path, rows)
    [why] = [why for why in explain(plan(job), store_of(job)) if why.kind == "variant"]
    assert [(change.old, change.new) for change in why.changes] == [(f"'{ROWS[2]['prompt']}'", "'stars'")]


class Messages(View):
    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, text: str) -> None:
        self.told.append(text)


def test_the_run_that_quiet_nights_repeat_stays(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing changes for months: every night repeats the results of the last one that did something."""
    monkeypatch.setattr(validators, "SETTLED_NS", 0)
    job = make_job(tmp_path, checkpoint)
    render(job)
    noted = str(latest_run(store_of(job)))
    render(job)
    render(job)
    before = names(job, noted)
    collect_after(job, 30)
    assert names(job, noted) == before

    view = Messages()
    assert render(job, view=view).counts["unchanged"] == 3
    assert view.told == [f"nothing has changed since {noted}"]


def test_a_run_that_is_written_to_stays(tmp_path: Path, checkpoint: str) -> None:
    """It crashed, says its directory; then a file more appears: its process was only cut off."""
    job = make_job(tmp_path, checkpoint)
    workspace = store_of(job)
    hanging = new_run_id(time.time() - 10, job.name)
    workspace.write(f"runs/{hanging}/job.yaml", job.text.encode())
    render(job)
    collect_after(job, 30, grace_h=24)
    workspace.write(f"runs/{hanging}/events/000000.parquet", b"alive")
    assert collect_after(job, 31, grace_h=24).deleted == {}
    assert names(job, hanging) == {"job.yaml", "events/000000.parquet"}
    assert collect_after(job, 32.1, grace_h=24).deleted["runs"][0] == 2
    assert hanging not in run_ids(workspace)


def test_a_run_that_holds_a_lease_is_no_waste(tmp_path: Path, checkpoint: str) -> None:
    """A look beside a run that has been at work since before the last complete one."""
    job = make_job(tmp_path, checkpoint)
    workspace = store_of(job)
    working = new_run_id(time.time() - 10, job.name)
    workspace.write(f"runs/{working}/job.yaml", job.text.encode())
    render(job)
    assert collect_after(job, 30, delete=False).waste["runs"][0] == 1
    with Lease(workspace, run_id=working):
        assert "runs" not in collect_after(job, 30, delete=False).waste


def test_gc_during_a_run_waits_and_takes_nothing_of_it(tmp_path: Path, checkpoint: str) -> None:
    """gc at its greediest is called in the middle of a run: it waits for the lease, and both do their work."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    change_headlines(tmp_path, "New")
    waited: list[str] = []
    found: list[Collected] = []

    class Beside(View):
        thread: threading.Thread | None = None

        def event(self, event: Event) -> None:
            if self.thread is None:
                asked = threading.Event()

                def on_wait(words: str) -> None:
                    waited.append(words)
                    asked.set()

                def work() -> None:
                    found.append(collect_after(job, 30, keep_days=0, on_wait=on_wait))

                self.thread = threading.Thread(target=work)
                self.thread.start()
                assert asked.wait(30)

    view = Beside()
    outcome = render(job, view=view)
    assert view.thread is not None
    view.thread.join()
    assert outcome.counts["published"] == 3
    assert waited
    assert found[0].deleted.keys() == {"runs"}
    assert run_ids(store_of(job)) == [outcome.run_id]
    assert plan(job).is_empty
    assert verify(store_of(job), deep=True).is_clean


def test_a_run_that_begins_between_mark_and_deletion_keeps_what_it_needs(
    tmp_path: Path, checkpoint: str
) -> None:
    """Marked tonight, run tomorrow with the old prompt, collected the day after."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    first = str(latest_run(store_of(job)))
    write_rows(tmp_path, [*ROWS[:2], ROWS[2] | {"prompt": "stars"}])
    render(job)
    second = str(latest_run(store_of(job)))
    assert collect_after(job, 30, grace_h=24).waste["clips"][0] == 4
    write_rows(tmp_path, ROWS)
    assert render(job).num_clips_rendered == 0, "marked is not deleted"
    third = str(latest_run(store_of(job)))
    whole = names(job, third)
    found = collect_after(job, 31.1, grace_h=24)
    assert found.deleted.keys() == {"runs"}
    assert names(job, first) == {"plan.parquet", "outcome.json"}, "two of its videos are live"
    assert names(job, second) == {
        "job.yaml",
        "pins.parquet",
        "plan.parquet",
        "results.parquet",
        "outcome.json",
    } | {name for name in names(job, second) if name.startswith("events/") or name == "nonce"}, (
        "it was the newest complete run when things were marked, and waits its own grace"
    )
    assert names(job, third) == whole
    assert plan(job).is_empty
    assert render(job).num_clips_rendered == 0
