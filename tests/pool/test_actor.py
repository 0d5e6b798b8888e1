"""The remote end of a replica, without Ray around it."""

from __future__ import annotations

import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest

from wanflow.model import Attempt
from wanflow.pool.actor import ReplicaActor
from wanflow.pool.rendering import Watch
from wanflow.pool.replica import Rendered
from wanflow.schedule.events import StepDone


@pytest.mark.parametrize(("max_replicas", "num_reports"), [(8, 60), (64, 15), (1000, 2)])
def test_progress_of_many_replicas_does_not_drown_the_driver(
    monkeypatch: pytest.MonkeyPatch, max_replicas: int, num_reports: int
) -> None:
    """A minute of a step a second: however many replicas there are, they report about so often together, and each
    before it could be taken for hung."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    actor = ReplicaActor("r1", SimpleNamespace(), "weights", None, None, max_replicas=max_replicas)  # type: ignore[arg-type]

    def render(task: Any, attempt: Attempt, watch: Watch, thrift: int) -> Rendered:
        nonlocal now_s
        for step in range(60):
            watch.on_step("denoise", step, 60)
            now_s += 1.0
        return Rendered((), None)

    actor._replica = SimpleNamespace(begin=render)  # type: ignore[assignment]
    actor.render(SimpleNamespace(key="k"), Attempt(1, 1), 0)  # type: ignore[arg-type]
    news = []
    while not actor._news.empty():
        news.append(actor._news.get())
    assert all(isinstance(each, StepDone) for each in news)
    assert len(news) == num_reports
