"""Real Ray: one replica whose clips take a while to denoise and a while to end, and how both go on side by side."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job
from wanflow import run
from wanflow.model import Clip, EngineSpec
from wanflow.report import summary
from wanflow.schedule.actions import Action, Render
from wanflow.schedule.events import ClipDenoised, ClipRendered, Event, ReplicaLost
from wanflow.storage import Store
from wanflow.testing import FakeEngine
from wanflow.verify import verify
from wanflow.view import View

NUM_CLIPS, NUM_STEPS = 6, 4
DENOISE_S, TAIL_S = 1.2, 0.8


class Tailed(FakeEngine):
    """Sleeps through its steps, and again while it decodes. Leaves its process id for the test."""

    def take_step(self, clip: Clip, stage: str, step: int) -> None:
        time.sleep(DENOISE_S / NUM_STEPS)

    def frames(self, pixels: Any) -> Iterator[Any]:
        time.sleep(TAIL_S)
        yield from super().frames(pixels)


def load_tailed_engine(spec: EngineSpec, device: str | None, num_threads: int | None) -> Tailed:
    import av  # noqa: F401 - as an engine does when it loads: its first use takes a while
    import safetensors.torch  # noqa: F401

    Path(os.environ["WANFLOW_TEST_PIDS"], str(os.getpid())).touch()
    return Tailed(spec)


class Eye(View):
    """Sees everything. With ``pids`` it kills the replica once, when half of its first clip's end is behind it."""

    def __init__(self, pids: Path | None = None) -> None:
        self.facts: list[tuple[float, Action | Event]] = []
        self._pids = pids

    def action(self, action: Action) -> None:
        self.facts.append((time.monotonic(), action))

    def event(self, event: Event) -> None:
        self.facts.append((time.monotonic(), event))
        if isinstance(event, ClipDenoised) and self._pids is not None:
            threading.Timer(TAIL_S / 2, self._kill, [self._pids]).start()
            self._pids = None

    def _kill(self, pids: Path) -> None:
        for path in pids.iterdir():
            os.kill(int(path.name), signal.SIGKILL)

    def of(self, kind: type) -> list[Any]:
        return [fact for _, fact in self.facts if isinstance(fact, kind)]

    def when(self, kind: type) -> list[float]:
        return [at_s for at_s, fact in self.facts if isinstance(fact, kind)]


def render_all(folder: Path, monkeypatch: pytest.MonkeyPatch, eye: Eye) -> Store:
    """Run one variant a clip on one replica; everything must be published and kept as promised. The workspace."""
    monkeypatch.setenv("WANFLOW_TEST_PIDS", str(folder / "pids"))
    rows = [{**ROWS[0], "variant_id": f"v{i}", "prompt": f"waves {i}"} for i in range(NUM_CLIPS)]
    checkpoint = str(make("pocket", folder / "pocket"))
    engine = {"checkpoint": checkpoint, "steps": NUM_STEPS}
    job = make_job(
        folder / "job", checkpoint, rows, engine=engine, resources={"replicas": 1, "gpu_hour": 3600.0}
    )
    outcome = run(job, view=eye, load_engine=load_tailed_engine)
    assert outcome.exit_code == 0
    assert outcome.counts["published"] == NUM_CLIPS
    workspace = Store(str(job.workspace))
    report = verify(workspace, [job.publish.url], deep=True)
    assert report.is_clean, report
    held_s = max(eye.when(ClipRendered)) - min(eye.when(Render))
    assert outcome.cost is not None
    assert outcome.cost <= held_s + 0.5, "at one a second: the bill is at most the time that the GPU was held"
    return workspace


def test_clips_end_beside_the_next_ones_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty thousand clips of a few seconds each: what comes behind the steps must not make the night longer."""
    (tmp_path / "pids").mkdir()
    eye = Eye()
    workspace = render_all(tmp_path, monkeypatch, eye)
    took_s = max(eye.when(ClipRendered)) - min(eye.when(Render))
    assert took_s >= NUM_CLIPS * DENOISE_S + TAIL_S - 0.1
    # all that the clips took, however busy this machine is: every end but the last is hidden, but for what orders take
    one_by_one_s = sum(
        value for event in eye.of(ClipRendered) for stage, value in event.seconds if stage != "wait"
    )
    assert took_s < one_by_one_s - (NUM_CLIPS - 1) * TAIL_S / 2
    found = summary(workspace)
    assert found is not None
    (replica,) = found.replicas
    assert (replica.replica, replica.num_attempts) == ("replica-1", NUM_CLIPS)
    assert replica.steps_share is not None
    assert replica.steps_share > 1.1 * DENOISE_S / (DENOISE_S + TAIL_S)
    assert replica.seconds["decode_beside"] > (NUM_CLIPS - 1) * TAIL_S / 2


def test_a_replica_that_is_killed_with_two_clips_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ends, one is denoised, and the kernel takes the process: both come back, and nothing twice."""
    (tmp_path / "pids").mkdir()
    eye = Eye(tmp_path / "pids")
    render_all(tmp_path, monkeypatch, eye)
    assert len(eye.of(ReplicaLost)) == 1
    orders = [action.key for action in eye.of(Render)]
    first, second = orders[:2]
    assert {key for key in orders if orders.count(key) > 1} == {first, second}
    assert [event.key for event in eye.of(ClipRendered)].count(first) == 1
    assert len(eye.of(ClipRendered)) == NUM_CLIPS
