"""Faults on one node, injected beneath a whole run without Ray: ffmpeg killed, its disk full."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run.jobs import make_job
from wanflow import run
from wanflow.assemble import ffmpeg
from wanflow.model import Cause
from wanflow.schedule.events import AssembleFailed, Event
from wanflow.testing import load_fake_engine
from wanflow.view import View

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the faults are Linux's own")

#: stands where ffmpeg is looked for first, and does FAULT with the first film that it is to make
_WRAPPER = """#!/bin/bash
case "$*" in
  *-filter_complex*)
    if mkdir "$(dirname "$0")/done" 2>/dev/null; then
      FAULT
    fi;;
esac
exec FFMPEG "$@"
"""
_KILLED = "kill -9 $$"
_FULL = """args=()
      for arg in "$@"; do
        case "$arg" in */video.mp4) args+=(-f mp4 /dev/full);; *) args+=("$arg");; esac
      done
      exec FFMPEG "${args[@]}"
"""


class Watcher(View):
    """Notes what failed."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: list[AssembleFailed] = []

    def event(self, event: Event) -> None:
        if isinstance(event, AssembleFailed):
            self.failed.append(event)


@pytest.fixture
def fault(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = ffmpeg.find().path
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "ffmpeg"
    script.write_text(_WRAPPER.replace("FAULT", request.param).replace("FFMPEG", shlex.quote(real)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    ffmpeg.find.cache_clear()
    assert ffmpeg.find().path == str(script)
    yield
    assert (folder / "done").is_dir(), "the fault never came"
    monkeypatch.undo()
    ffmpeg.find.cache_clear()


@pytest.mark.parametrize("fault", [_KILLED], indirect=True)
@pytest.mark.usefixtures("fault")
def test_an_ffmpeg_that_is_killed_is_tried_again(tmp_path: Path) -> None:
    """The kernel's out-of-memory killer prefers ffmpeg: one more try, and nobody notices."""
    view = Watcher()
    outcome = run(make_job(tmp_path / "job", "pocket"), inline=True, view=view, load_engine=load_fake_engine)
    assert (outcome.exit_code, outcome.counts["published"]) == (0, 3)
    (failed,) = view.failed
    assert failed.cause is Cause.ITEM_ERROR
    assert "killed by SIGKILL" in failed.message


@pytest.mark.parametrize("fault", [_FULL], indirect=True)
@pytest.mark.usefixtures("fault")
def test_a_full_disk_under_ffmpeg_is_storage_trouble_with_words(tmp_path: Path) -> None:
    """Somebody's core dumps fill /tmp for a minute: no variant pays for it, and the log says what to clear."""
    view = Watcher()
    outcome = run(make_job(tmp_path / "job", "pocket"), inline=True, view=view, load_engine=load_fake_engine)
    assert (outcome.exit_code, outcome.counts["published"]) == (0, 3)
    (failed,) = view.failed
    assert failed.cause is Cause.STORAGE
    assert "disk of this node is full" in failed.message
    assert "TMPDIR" in failed.message
