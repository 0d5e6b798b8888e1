"""One night of the soak tests: a cluster of three nodes, a job, its drivers, and an eye on what is visible.

A night lives in a process of its own (``python -m tests.soak``): a cluster, an environment and mounts are not shared.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from ray.cluster_utils import Cluster
from ruamel.yaml import YAML

from tests.soak.matrix import ROOT
from tests.soak.stepping import Step, read_steps
from wanflow.storage import Store
from wanflow.verify import verify

#: nobody waits longer than this for anything
PATIENCE_S = 300.0
#: how often the eye looks at what is visible
LOOK_S = 0.2


class Driver:
    """A run of the job as a process; its JSON lines are read as they come."""

    def __init__(self, command: list[str], env: dict[str, str], errors: Path) -> None:
        self._errors = errors
        with open(errors, "w") as file:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=file, text=True, cwd=ROOT, env=os.environ | env
            )
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.lines.append(json.loads(line))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line["event"] == name]

    def until(self, event: str) -> dict[str, Any]:
        """The first event of this name."""
        wait_until(lambda: bool(self.events(event)) or not self._reader.is_alive(), event)
        assert self.events(event), f"the run ended without {event}: {self._errors.read_text()[-2000:]}"
        return self.events(event)[0]

    def end_well(self) -> None:
        """Wait for the end; AssertionError unless it is exit 0."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        said = self.events("Outcome")
        assert code == 0, f"exit {code}: {said and said[0]['message']}: {self._errors.read_text()[-2000:]}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass
class Eye:
    """Looks at the published files all the time: what was seen when, and whether each sight was of a whole file."""

    target: Store
    #: (path, etag) -> time of the first sight
    seen: dict[tuple[str, str], float] = field(default_factory=dict)
    half_made: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    _closing: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        there: set[str] = set()
        while not self._closing.wait(LOOK_S):
            now = {}
            for stat in self.target.list(skip=".wanflow"):
                if stat.path.endswith((".mp4", ".jpg")):
                    now[stat.path] = stat.etag
            self.vanished += sorted(there - set(now))
            there = set(now)
            for path, etag in now.items():
                if (path, etag) not in self.seen:
                    self.seen[path, etag] = time.time()
                    if not is_whole(path, self.target.read(path)):
                        self.half_made.append(path)

    def num_videos(self, at_s: float) -> int:
        """Videos that had been seen by ``at_s``."""
        return len(
            {path for (path, _), since_s in self.seen.items() if since_s <= at_s and path.endswith(".mp4")}
        )

    def close(self) -> None:
        self._closing.set()


def is_whole(path: str, data: bytes) -> bool:
    """Whether a visible file can be shown from its first to its last picture."""
    try:
        if path.endswith(".jpg"):
            Image.open(io.BytesIO(data)).load()
            return True
        with av.open(io.BytesIO(data)) as video:
            return sum(1 for _ in video.decode(video=0)) == video.streams.video[0].frames > 0
    except (OSError, av.error.FFmpegError):
        return False


class Night:
    """``num_clips`` clips of ``num_steps`` steps that take ``step_s`` each; a video each; three nodes of one GPU."""

    def __init__(
        self,
        folder: Path,
        *,
        url: str | None = None,
        env: dict[str, str] | None = None,
        num_clips: int = 9,
        num_steps: int = 20,
        step_s: float = 0.15,
        job: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.num_clips, self.num_steps, self._step_s = folder, num_clips, num_steps, step_s
        self._env = env or {}
        self.tracks = folder / "tracks"
        self.tracks.mkdir()
        url = url or str(folder / "out")
        self.target, self.workspace = Store(url), Store(f"{url}/.wanflow")
        rows = [
            {"variant_id": f"v{i}", "prompt": f"clip {i}", "headline": f"Hello {i}"} for i in range(num_clips)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
        body = {
            "wanflow": 1,
            "name": "soak",
            "manifest": {"url": "manifest.parquet"},
            "engine": {"checkpoint": "pocket", "steps": num_steps},
            "clip": {"aspect": "1x1", "seconds": 1},
            "layers": [{"text": {"value": "{{ headline }}", "at": "lower-third", "style": "headline"}}],
            "outputs": [{"name": "square", "preset": "instagram-square", "width": 256}],
            "publish": {"url": url, "path": "{{ variant_id }}/{{ output }}.mp4"},
            "resources": {"replicas": 3, "gpus_per_replica": 1},
        } | (job or {})
        YAML(typ="safe").dump(body, folder / "job.yaml")
        self.eye = Eye(self.target)

    def __enter__(self) -> Night:
        before = dict(os.environ)
        os.environ.update(self._env)  # for the nodes, and so for the replicas
        self.cluster = Cluster()
        self.nodes = [
            self.cluster.add_node(
                num_gpus=1, num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20
            )
            for _ in range(3)
        ]
        os.environ.clear()
        os.environ.update(before)
        self._watching = threading.Thread(target=self.eye.watch, daemon=True)
        self._watching.start()
        self._drivers: list[Driver] = []
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.eye.close()
        self._watching.join(PATIENCE_S)
        for driver in self._drivers:
            driver.kill()
        self.cluster.shutdown()

    def start(self) -> Driver:
        command = [
            sys.executable, "-m", "tests.soak.stepping", str(self.folder / "job.yaml"), "--address",
            self.cluster.address, "--tracks", str(self.tracks), "--step-s", str(self._step_s),
        ]  # fmt: skip
        errors = self.folder / f"errors-{len(self._drivers)}"
        self._drivers.append(Driver(command, self._env, errors))
        return self._drivers[-1]

    # -- what is going on ---------------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        return read_steps(self.tracks)

    def until_step(self, number: int, on: Callable[[int], bool] = lambda pid: True) -> Step:
        """Wait until a replica has done step ``number`` of a clip; ``on`` chooses among the processes."""
        found: list[Step] = []

        def look() -> bool:
            found.extend(s for s in self.steps() if s.step == number and on(s.pid) and is_alive(s.pid))
            return bool(found)

        wait_until(look, f"step {number}")
        return found[-1]

    def node_of(self, pid: int) -> Any:
        """The node on which a replica runs."""
        for node in self.nodes:
            if node.all_processes["raylet"][0].process.pid in ancestors(pid):
                return node
        raise AssertionError(f"{pid} runs on no node")

    def went_on_s(self, prompt: str, after_s: float, but_pid: int = 0) -> float:
        """When somebody did a step of this clip again."""
        times = [
            s.time_s for s in self.steps() if s.prompt == prompt and s.pid != but_pid and s.time_s > after_s
        ]
        assert times, f"{prompt} was not rendered again"
        return min(times)

    @property
    def steps_lost(self) -> int:
        """Steps that were done more than once."""
        steps = self.steps()
        return len(steps) - len({(step.prompt, step.step) for step in steps})

    # -- what is promised ---------------------------------------------------------------------------------------

    def broken_promises(self) -> list[str]:
        """What is wrong with the store as it stands, from the store alone, and what the eye has seen."""
        report = verify(self.workspace, [self.target.url], deep=True)
        found = [
            f"{check.name}: {finding.path}: {finding.reason}"
            for check in report.checks
            for finding in check.findings
            if not finding.is_warning
        ]
        found += [f"half-made and visible: {path}" for path in self.eye.half_made]
        found += [f"visible, then gone: {path}" for path in self.eye.vanished]
        videos = {stat.path for stat in self.target.list(skip=".wanflow") if stat.path.endswith(".mp4")}
        if len(videos) != self.num_clips:
            found.append(f"{len(videos)} videos of {self.num_clips} are visible at the end")
        return found


def wait_until(happened: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < until_s, f"{what} did not come within {PATIENCE_S:.0f} s"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        found.append(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found
