"""Which run `wanflow stop` and `wanflow status` mean: the one at work, whatever else came, went or waits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, job_dict, make_job, write_rows
from wanflow import Job, Outcome, run
from wanflow.cli import main
from wanflow.engines import Keep, OnStep
from wanflow.errors import ManifestError, Stopped
from wanflow.lease import Lease, lease_path
from wanflow.ledger import Ledger, latest_run, new_run_id, run_ids
from wanflow.model import Clip, EngineSpec
from wanflow.report import RunState, summary
from wanflow.schedule.events import Event, StepDone
from wanflow.storage import Store
from wanflow.testing import FakeEngine, load_fake_engine
from wanflow.view import View


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


@pytest.fixture
def job(tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> Job:
    """The small job, as a file too (``job.yaml``); waits are short."""
    monkeypatch.setattr("wanflow.lease.LOOK_S", 0.01)
    monkeypatch.setattr("wanflow.stopping.STOP_LOOK_S", 0.0)
    (tmp_path / "job.yaml").write_text(json.dumps(job_dict(checkpoint)))
    return make_job(tmp_path, checkpoint)


def render(job: Job, **options: object) -> Outcome:
    return run(job, inline=True, load_engine=load_fake_engine, **options)  # type: ignore[arg-type]


def places(job: Job) -> tuple[Store, Store]:
    return Store(str(job.workspace)), Store(job.publish.url)


class _LongEngine(FakeEngine):
    def generate(self, clip: Clip, images: Sequence[bytes], on_step: OnStep, keep: Keep | None = None) -> Any:
        for step in range(1, 1001):
            on_step("denoise", step, 1000)
        raise AssertionError("nobody has stopped it")


def _long(spec: EngineSpec, device: str | None, num_threads: int | None) -> FakeEngine:
    return _LongEngine(spec)


def test_stop_and_status_mean_the_run_at_work_not_a_younger_one(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A long run is at work; somebody runs rows that are published, which ends at once; then the GPUs are to stop."""
    render(job, limit=1)
    told: list[str] = []

    class Beside(View):
        def event(self, event: Event) -> None:
            if isinstance(event, StepDone) and event.step == 1:
                assert render(job, limit=1).counts["unchanged"] == 1
                assert main(["status", str(tmp_path / "job.yaml"), "--json"]) == 0
                assert main(["stop", str(tmp_path / "job.yaml")]) == 0
                told.append(capsys.readouterr().out)

    outcome = run(job, inline=True, view=Beside(), load_engine=_long)
    assert outcome.exit_code == 5
    assert f"asked {outcome.run_id} to stop" in told[0]
    assert json.loads(told[0].splitlines()[0])["run_id"] == outcome.run_id
    assert latest_run(places(job)[0]) != outcome.run_id


def test_where_no_run_is_at_work_stop_says_so(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not that it stopped something: whoever wants GPUs back should look elsewhere."""
    outcome = render(job)
    assert main(["stop", str(tmp_path / "job.yaml")]) == 0
    said = capsys.readouterr().out
    assert "no run of small is at work" in said
    assert f"{outcome.run_id} has ended already" in said


def test_another_jobs_run_is_not_stopped(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two jobs publish to one place from one workspace, so they share the lease."""
    workspace, target = places(job)
    render(job)
    with Lease(workspace, target, run_id=new_run_id(0.0, "small-2")):
        assert main(["stop", str(tmp_path / "job.yaml")]) == 0
    assert "no run of small is at work" in capsys.readouterr().out


def test_run_that_holds_the_lease_and_has_written_nothing_yet_can_be_stopped(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It plans anew, for minutes, since the store has changed: its directory is not there yet."""
    workspace, target = places(job)
    render(job)
    planning = new_run_id(0.0, job.name)
    with Lease(workspace, target, run_id=planning):
        assert main(["stop", str(tmp_path / "job.yaml")]) == 0
    assert f"asked {planning} to stop" in capsys.readouterr().out
    assert Ledger(workspace, planning).stop_asked()


def test_status_of_a_job_whose_crashed_run_was_followed_by_a_quiet_one_is_the_quiet_one(job: Job) -> None:
    """What needs no lease leaves that of the dead run as it is; it must not be shown for ever."""
    workspace, target = places(job)
    render(job)
    Lease(workspace, target, run_id=new_run_id(0.0, job.name)).acquire()
    body = json.loads(workspace.read(lease_path(target)))
    workspace.write(lease_path(target), json.dumps(body | {"beat_at_s": 1.0}).encode())
    outcome = render(job)
    assert outcome.counts["unchanged"] == 3
    found = summary(workspace, None, job.name, target)
    assert found
    assert (found.run_id, found.state) == (outcome.run_id, RunState.ENDED)


def test_run_that_waits_for_another_one_is_seen_and_hears_a_stop(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cron started the job twice: `status` names the one at work, and the other one can be told to give up."""
    workspace, target = places(job)
    first = new_run_id(0.0, job.name)
    path = str(tmp_path / "job.yaml")

    class Told(View):
        def message(self, words: str) -> None:
            waiting = latest_run(workspace)
            assert waiting
            assert waiting != first
            assert main(["status", path, "--json"]) == 0
            assert main(["status", path, waiting, "--json"]) == 0
            assert main(["stop", path, waiting]) == 0

    with Lease(workspace, target, run_id=first), pytest.raises(Stopped, match="wanflow stop"):
        render(job, view=Told())
    shown, waiting, _ = capsys.readouterr().out.splitlines()
    assert (json.loads(shown)["run_id"], json.loads(shown)["state"]) == (first, "running")
    assert json.loads(waiting)["state"] == "waiting"
    assert run_ids(workspace) == [], "it never began"
    assert render(job).counts["published"] == 3


def test_run_that_is_refused_after_it_has_waited_leaves_no_trace(job: Job, tmp_path: Path) -> None:
    """`status` would call it crashed, and ask for what was refused once more."""
    workspace, target = places(job)
    lease = Lease(workspace, target, run_id="the-first")
    lease.acquire()

    class Told(View):
        def message(self, words: str) -> None:
            assert len(run_ids(workspace)) == 1
            write_rows(tmp_path, [ROWS[0], ROWS[0]])
            lease.release()

    with pytest.raises(ManifestError):
        render(job, view=Told())
    assert run_ids(workspace) == []


def test_a_waiting_run_writes_its_pins_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million clips they are tens of megabytes, and it may wait for a night."""
    written: list[str] = []

    class Waiting(Lease):
        def __enter__(self) -> Lease:
            assert self._on_wait is not None
            for _ in range(5):
                self._on_wait("another run is at work")
            written.append("it has the lease")
            return super().__enter__()

    monkeypatch.setattr("wanflow.driver.write_pins", lambda *_: written.append("pins"))
    monkeypatch.setattr("wanflow.driver.Lease", Waiting)
    render(job)
    assert written == ["pins", "it has the lease", "pins"]
