"""What a person or a log sees of a run: the live view and the JSON lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.run.jobs import make_job
from wanflow import run
from wanflow.model import Attempt, Loading
from wanflow.schedule.actions import KillReplica, Reason, StartReplica
from wanflow.schedule.events import ReplicaLost, ReplicaPlaced, ReplicaReady, StepDone, Tick
from wanflow.testing import load_fake_engine
from wanflow.view import JsonView, TerminalView


def test_json_view_writes_one_line_an_event(tmp_path: Path) -> None:
    """A log collector reads a run line by line; every line stands alone and says what happened when."""
    stream = io.StringIO()
    job = make_job(tmp_path / "job", str(make("pocket", tmp_path / "pocket")))
    run(job, inline=True, load_engine=load_fake_engine, view=JsonView(stream))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    names = [line["event"] for line in lines]
    assert names[0] == "Planned"
    assert names.index("StartReplica") < names.index("ReplicaPlaced") < names.index("ReplicaReady")
    assert names.count("ClipRendered") == 2
    assert names.count("VariantPublished") == 3
    assert names[-1] == "Finish"
    assert all("time_s" in line for line in lines)
    published = next(line for line in lines if line["event"] == "VariantPublished")
    assert published["files"] == ["ann/square.mp4", "ann/square.jpg"]


def test_the_bandwidth_of_a_start_is_in_the_log_and_on_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight GPUs that wait ten minutes for their weights cost more than a clip."""
    ready = ReplicaReady(7.0, "replica-1", Loading(126 * 10**9, 105.0, 0.5, 126 * 10**9, 50.0, 2))
    stream = io.StringIO()
    JsonView(stream).event(ready)
    assert json.loads(stream.getvalue()) == {
        "event": "ReplicaReady", "time_s": 7.0, "replica": "replica-1", "fetched_bytes": 126 * 10**9, "fetch_s": 105.0,
        "import_s": 0.5, "loaded_bytes": 126 * 10**9, "load_s": 50.0, "rung": 2,
    }  # fmt: skip
    monkeypatch.setenv("COLUMNS", "120")
    view = TerminalView()
    with view.live():
        view.action(StartReplica("replica-1", "w", Reason.BACKLOG))
        view.event(ready)
    shown = capsys.readouterr().out
    assert (
        "replica-1: fetched 126 GB at 1.2 GB/s, loaded 126 GB at 2.5 GB/s, rung 2 of the memory ladder"
        in shown
    )


def test_a_wait_for_a_machine_reads_differently_from_a_load(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is the cluster's matter; the other one's minutes are counted, and after an hour it is said to hang."""
    monkeypatch.setenv("COLUMNS", "120")
    view = TerminalView()
    with view.live():
        view.action(StartReplica("replica-1", "w", Reason.BACKLOG))
        view.action(StartReplica("replica-2", "w", Reason.BACKLOG))
        view.event(ReplicaPlaced(7.0, "replica-2", "gpu-7"))
        view.action(StartReplica("replica-3", "w", Reason.BACKLOG))
        view.action(KillReplica("replica-3", Reason.HUNG, "replica-3 hung while it loaded"))
    shown = capsys.readouterr().out
    assert "replica-1: waits for a machine" in shown
    assert "replica-2: loads on gpu-7" in shown
    assert "ended replica-3 hung while it loaded" in shown


def test_json_view_thins_out_steps() -> None:
    """Forty steps a clip on eight GPUs would drown everything else in the log."""
    stream = io.StringIO()
    view = JsonView(stream)
    for second in range(20):
        view.event(StepDone(float(second), "replica-1", "k", Attempt(1, 1), "denoise", second, 40))
        view.event(Tick(float(second)))
    assert 4 <= len(stream.getvalue().splitlines()) <= 6


def test_terminal_view_names_run_clips_and_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person at a terminal sees what is being made, and hears of a replica that died."""
    job = make_job(tmp_path / "job", str(make("pocket", tmp_path / "pocket")))
    monkeypatch.setenv("COLUMNS", "120")
    view = TerminalView()
    run(job, inline=True, load_engine=load_fake_engine, view=view)
    view.message("done")
    with view.live():
        view.event(ReplicaLost(0.0, "replica-1", "replica-1: process died"))
    shown = capsys.readouterr().out
    assert "3 variants of 2 clips" in shown
    assert "5/5" in shown
    assert "replica-1: process died" in shown
