"""Real Ray, real processes, real kills: the command line on a tiny random checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.checkpoints import make
from tests.run.jobs import ROWS, job_dict, write_logo, write_rows
from tests.videos import write_video
from wanflow.report import results
from wanflow.storage import Store

#: enough steps for a kill to come in the middle of a clip
SLOW = {"steps": 600}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


def write_job(folder: Path, checkpoint: str, rows: list[dict[str, Any]] = ROWS, **changes: Any) -> Path:
    write_rows(folder, rows)
    write_logo(folder)
    path = folder / "job.yaml"
    YAML(typ="safe").dump(job_dict(checkpoint, **changes), path)
    return path


class Run:
    """``wanflow run`` as a process, its JSON lines read as they come."""

    def __init__(self, job: Path, *flags: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wanflow.cli", "run", str(job), "--json", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (env or {}),
        )
        self.lines: list[dict[str, Any]] = []

    def until(self, event: str) -> dict[str, Any]:
        for line in self._read():
            if line["event"] == event:
                return line
        raise AssertionError(f"no {event} came; exit {self.process.wait()}: {self._errors()}")

    def end(self) -> int:
        for _ in self._read():
            pass
        code = self.process.wait(timeout=60)
        if self.lines[-1]["event"] != "Outcome":
            raise AssertionError(f"exit {code}: {self._errors()}")
        return code

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    def replicas(self) -> list[int]:
        """Process ids of the run's replicas."""
        return [pid for pid in _descendants(self.process.pid) if _title(pid).startswith("ray::ReplicaActor")]

    def _read(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout
        for text in self.process.stdout:
            line = json.loads(text)
            self.lines.append(line)
            yield line

    def _errors(self) -> str:
        assert self.process.stderr
        return self.process.stderr.read()[-3000:]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _descendants(root: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, waiting = [], [root]
    while waiting:
        children = [pid for pid, parent in parents.items() if parent == waiting[0]]
        found += children
        waiting = waiting[1:] + children
    return found


def test_killed_replica_is_replaced_and_everything_is_published(tmp_path: Path, checkpoint: str) -> None:
    """The kernel's out-of-memory killer takes a replica in mid-clip, at three in the morning."""
    run = Run(write_job(tmp_path, checkpoint, engine={"checkpoint": checkpoint, **SLOW}))
    run.until("StepDone")
    os.kill(run.replicas()[0], signal.SIGKILL)
    assert run.end() == 0
    assert len(run.events("ReplicaLost")) == 1
    assert run.lines[-1]["counts"]["published"] == 3
    starts = [line["reason"] for line in run.events("StartReplica")]
    assert "replaces_lost" in starts


def test_killed_driver_leaves_the_rest_to_the_next_run(tmp_path: Path, checkpoint: str) -> None:
    """The driver's node is gone; cron starts the job again: nothing that has a record is rendered twice."""
    rows = [{**ROWS[0], "variant_id": f"v{i}", "prompt": f"waves {i}"} for i in range(6)]
    engine = {"checkpoint": checkpoint, "steps": 60}
    job = write_job(tmp_path, checkpoint, rows, engine=engine, resources={"replicas": 1})
    first = Run(job)
    first.until("VariantPublished")
    replicas = first.replicas()
    assert replicas
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    clips = tmp_path / "out/.wanflow/clips"
    done = {path.stem for path in clips.glob("*/*.json")}
    assert 0 < len(done) < 12, "the kill came too late or too early to show anything"
    second = Run(job)
    assert second.end() == 0
    assert not [pid for pid in replicas if _title(pid).startswith("ray::ReplicaActor")], "GPUs not given back"
    rendered = {line["task"] for line in second.events("Render")}
    assert rendered
    assert not rendered & done
    assert {path.name for path in (tmp_path / "out").glob("*/*.mp4")} == {"square.mp4"}
    assert len(list((tmp_path / "out").glob("*/*.mp4"))) == 6
    table = results(Store(str(tmp_path / "out/.wanflow"))).to_pylist()
    assert {row["status"] for row in table} <= {"published", "unchanged"}


def test_ctrl_c_ends_with_exit_5_and_the_next_run_goes_on(tmp_path: Path, checkpoint: str) -> None:
    """A person stops the batch; what is done stays done, and the results say what is left."""
    job = write_job(
        tmp_path, checkpoint, engine={"checkpoint": checkpoint, **SLOW}, resources={"replicas": 1}
    )
    run = Run(job)
    run.until("StepDone")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 5
    assert run.lines[-1]["counts"]["left"] == 3
    assert "SIGINT" in run.lines[-1]["message"]


def test_clips_that_share_a_trunk_are_rendered_by_any_replica(tmp_path: Path, checkpoint: str) -> None:
    """Two compositions for two customers each, on two GPUs: one trunk a group is on record, and all come of it."""
    rows = [
        {**ROWS[0], "variant_id": f"v{i}", "prompt": f"waves {i}", "base": f"sea {i % 2}"} for i in range(4)
    ]
    clip = {"aspect": "1x1", "seconds": 0.5, "branch": {"at": 0.5, "on": "{{ base }}"}}
    job = write_job(tmp_path, checkpoint, rows, clip=clip, engine={"checkpoint": checkpoint, "steps": 6})
    run = Run(job)
    assert run.end() == 0
    assert run.lines[-1]["counts"]["published"] == 4
    made = [line for line in run.events("ClipRendered") if "trunk" in line["seconds"]]
    assert len(made) >= 2
    assert len(list((tmp_path / "out/.wanflow/clips").glob("*/*/*/trunk.safetensors"))) == len(made)
    records = [path.read_text() for path in (tmp_path / "out/.wanflow/clips").glob("*/*.json")]
    assert sum('"stage":"trunk"' in record for record in records) == 2
    again = Run(job)
    assert again.end() == 0
    assert again.lines[-1]["counts"]["unchanged"] == 4


def test_footage_is_staged_for_replicas_that_see_no_planners_disk(tmp_path: Path, checkpoint: str) -> None:
    """Two clips of one video: fetched once a node, from the workspace, and decoded there."""
    write_video(tmp_path / "a.mp4", [20 * i for i in range(8)], rate=8)
    rows = [ROWS[0] | {"video": "a.mp4"}, ROWS[1] | {"video": "a.mp4", "prompt": "stars"}]
    job = write_job(
        tmp_path,
        checkpoint,
        rows,
        clip={"aspect": "1x1", "seconds": 0.5, "strength": 0.5},
        engine={"checkpoint": checkpoint, "steps": 4},
    )
    run = Run(job, env={"WANFLOW_CACHE": str(tmp_path / "cache")})
    assert run.end() == 0
    assert run.lines[-1]["counts"]["published"] == 2
    digest = hashlib.sha256((tmp_path / "a.mp4").read_bytes()).hexdigest()
    assert (tmp_path / "out/.wanflow/inputs" / digest).exists()
    assert (tmp_path / "cache/videos" / digest).exists()


def test_unchanged_job_starts_no_ray(tmp_path: Path, checkpoint: str) -> None:
    """A quiet night costs a listing, not a cluster."""
    job = write_job(tmp_path, checkpoint)
    assert Run(job, "--pool", "inline").end() == 0
    code = (
        "import sys; from wanflow.cli import main; code = main(['run', sys.argv[1], '--json']); "
        "print([name for name in ('ray', 'torch', 'diffusers') if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(job)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_replica_that_sees_another_store_ends_the_run_with_words(tmp_path: Path, checkpoint: str) -> None:
    """A path that only the driver can see fails at once, not after forty gigabytes of weights."""
    from wanflow.errors import EngineError
    from wanflow.pool import RunContext
    from wanflow.pool.replica import Replica

    workspace = tmp_path / "workspace"
    workspace.mkdir()
    context = RunContext(
        "r", 1, str(workspace), str(tmp_path), {}, {}, {}, nonce=("runs/r/nonce", "what the driver wrote")
    )
    with pytest.raises(EngineError, match="cannot be seen from this node"):
        Replica(context, "w", None, None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster() -> Iterator[tuple[str, str]]:
    """A Ray head that somebody else started: its GCS address, and the address of its client server."""
    gcs, client = _free_port(), _free_port()
    ray = str(Path(sys.executable).parent / "ray")
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: sockets have short paths
        command = [
            ray, "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false", f"--port={gcs}",
            f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}",
        ]  # fmt: skip
        head = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | NO_TOKENS
        )
        try:
            assert head.stdout
            said = []
            for line in head.stdout:
                said.append(line)
                if "Ray runtime started" in line:
                    break
            else:
                raise AssertionError("".join(said))
            yield f"127.0.0.1:{gcs}", f"ray://127.0.0.1:{client}"
        finally:
            head.terminate()
            head.wait(timeout=60)


#: a local head asks for tokens that its clients in other processes would have to share
NO_TOKENS = {"RAY_AUTH_MODE": "disabled"}


@pytest.mark.slow
def test_job_runs_on_a_cluster_that_was_there_before(
    tmp_path: Path, checkpoint: str, cluster: tuple[str, str]
) -> None:
    """Inside a Ray job by the cluster's own address, and from outside through its client server."""
    job = write_job(tmp_path, checkpoint)
    for number, address in enumerate(cluster):
        run = Run(job, "--address", address, "--set", f"publish.url={tmp_path / str(number)}", env=NO_TOKENS)
        assert run.end() == 0
        assert run.lines[-1]["counts"]["published"] == 3
        assert run.events("StepDone"), "progress must come while a clip renders"


def test_control_methods_stand_on_the_class() -> None:
    """A Ray client's server imports the class anew: groups that were added later would be lost on the way."""
    from wanflow.pool.actor import ReplicaActor

    names = ("poll", "where", "cancel", "save", "stage", "render", "finish")
    groups = {name: getattr(getattr(ReplicaActor, name), "__ray_concurrency_group__", None) for name in names}
    control = dict.fromkeys(("where", "cancel", "save", "stage"), "control")
    assert groups == {"poll": "progress", "render": None, "finish": "finish", **control}


def test_gpus_that_are_not_there_are_an_error(tmp_path: Path, checkpoint: str) -> None:
    """The README's job on a laptop must not wait for ever for a GPU that cannot come."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    job = write_job(tmp_path, checkpoint, resources={"replicas": 1, "gpus_per_replica": 1})
    command = [sys.executable, "-m", "wanflow.cli", "run", str(job), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "gpus_per_replica" in done.stderr
    assert "Traceback" not in done.stderr
