"""Real Ray: a replica whose load never ends is killed for good, and another one renders."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make
from tests.run.jobs import make_job
from wanflow import run
from wanflow.model import EngineSpec
from wanflow.pool.processes import Process, is_running, this_process
from wanflow.schedule.actions import Action, KillReplica, Reason, StartReplica
from wanflow.schedule.events import ClipRendered, Event, ReplicaPlaced, ReplicaReady
from wanflow.testing import FakeEngine
from wanflow.view import View

#: what a replica may load for; enough for one that loads nothing, on a machine that is busy
LOAD_S = 12.0


def load_hanging_engine(spec: EngineSpec, device: str | None, num_threads: int | None) -> FakeEngine:
    """The first replica reads from a pipe that nobody writes to, or stops altogether; the others are well."""
    folder = Path(os.environ["WANFLOW_TEST_HANG"])
    try:
        with open(folder / "process", "x") as file:
            mine = this_process()
            file.write(f"{mine.pid} {mine.began}")
    except FileExistsError:
        return FakeEngine(spec)
    if (folder / "checkpoint").exists():
        (folder / "checkpoint").read_bytes()
    else:
        os.kill(os.getpid(), signal.SIGSTOP)
    raise AssertionError("it was to hang")


class Eye(View):
    """Sees everything; when the first clip is rendered it looks whether the process that hung is gone."""

    def __init__(self, folder: Path) -> None:
        self.facts: list[Action | Event] = []
        self.is_gone = False
        self._folder = folder

    def action(self, action: Action) -> None:
        self.facts.append(action)

    def event(self, event: Event) -> None:
        self.facts.append(event)
        if isinstance(event, ClipRendered) and not self.is_gone:
            hung = Process(*map(int, (self._folder / "process").read_text().split()))
            until_s = time.monotonic() + 30.0
            while is_running(hung) and time.monotonic() < until_s:
                time.sleep(0.05)
            self.is_gone = not is_running(hung)

    def of(self, kind: type) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


@pytest.mark.parametrize("fault", ["pipe", pytest.param("stop", marks=pytest.mark.slow)])
def test_a_replica_that_hangs_while_it_loads_costs_its_load_and_no_more(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is dead, a driver that is stuck: with one replica the whole night would be lost."""
    folder = tmp_path / "hang"
    folder.mkdir()
    if fault == "pipe":
        os.mkfifo(folder / "checkpoint")
    monkeypatch.setenv("WANFLOW_TEST_HANG", str(folder))
    checkpoint = str(make("pocket", tmp_path / "pocket"))
    limits = {"max_load_minutes": LOAD_S / 60}
    job = make_job(tmp_path / "job", checkpoint, limits=limits, resources={"replicas": 1})
    eye = Eye(folder)
    outcome = run(job, view=eye, load_engine=load_hanging_engine)
    assert (outcome.exit_code, outcome.counts["published"]) == (0, 3)
    (killed,) = eye.of(KillReplica)
    assert (killed.replica, killed.reason) == ("replica-1", Reason.HUNG)
    assert f"process began on {socket.gethostname()}" in killed.message
    assert eye.is_gone, "it must give its GPU back although others render"
    assert [start.reason for start in eye.of(StartReplica)] == [Reason.BACKLOG, Reason.HUNG]
    placed = {event.replica: event.time_s for event in eye.of(ReplicaPlaced)}
    ready = {event.replica: event.time_s for event in eye.of(ReplicaReady)}
    assert list(placed) == ["replica-1", "replica-2"]
    assert list(ready) == ["replica-2"]
    assert placed["replica-2"] - placed["replica-1"] >= LOAD_S - 0.1
