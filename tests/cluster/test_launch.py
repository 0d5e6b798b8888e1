"""The launcher against a small Kubernetes API: a real HTTP server with RayJobs that move along when looked at."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
SELECTOR = "app.kubernetes.io/name=wanflow,app.kubernetes.io/instance=nightly"
BASE = "/apis/ray.io/v1/namespaces/wanflow/rayjobs"


def status(deployment: str, job: str = "", message: str = "", reason: str = "") -> dict[str, str]:
    return {"jobDeploymentStatus": deployment, "jobStatus": job, "message": message, "reason": reason}


def failed(code: int) -> dict[str, str]:
    """As KubeRay copies it from Ray's job server (ray 2.60, job_supervisor.py)."""
    words = f"Job entrypoint command failed with exit code {code}, last available logs (truncated to 20,000 chars):\n7"
    return status("Failed", "FAILED", words, "AppFailed")


class Kubernetes(ThreadingHTTPServer):
    """RayJobs by name; one that is looked at takes the next status of ``script``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rayjobs: dict[str, dict[str, Any]] = {}
        self.script: list[dict[str, str] | int] = []
        self.seen: list[tuple[str, str]] = []
        self.refuse_posts: int = 0

    def add(self, name: str, status: dict[str, str], created: str = "2026-11-20T01:00:00Z") -> None:
        labels = dict(pair.split("=") for pair in SELECTOR.split(","))
        metadata = {"name": name, "labels": labels, "creationTimestamp": created}
        self.rayjobs[name] = {"metadata": metadata, "status": status}


class Handler(BaseHTTPRequestHandler):
    server: Kubernetes

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, code: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        url = urllib.parse.urlparse(self.path)
        self.server.seen.append(("GET", url.path))
        assert self.headers["Authorization"] == "Bearer sesame"
        if url.path == BASE:
            wanted = dict(
                pair.split("=") for pair in urllib.parse.parse_qs(url.query)["labelSelector"][0].split(",")
            )
            items = [
                item
                for item in self.server.rayjobs.values()
                if wanted.items() <= item["metadata"]["labels"].items()
            ]
            return self.answer(200, {"items": items})
        name = url.path.removeprefix(f"{BASE}/")
        if self.server.script and name in self.server.rayjobs:
            step = self.server.script.pop(0)
            if isinstance(step, int):
                if step == 404:
                    self.server.rayjobs.pop(name)
                return self.answer(step, {"reason": "scripted"})
            self.server.rayjobs[name]["status"] = step
        found = self.server.rayjobs.get(name)
        return self.answer(200, found) if found else self.answer(404, {"reason": "NotFound"})

    def do_POST(self) -> None:
        self.server.seen.append(("POST", self.path))
        body = yaml.safe_load(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refuse_posts:
            return self.answer(self.server.refuse_posts, {"message": "rayjobs.ray.io is forbidden"})
        assert self.headers["Content-Type"] == "application/yaml"
        name = body["metadata"]["generateName"] + "x7k2p"
        self.server.add(name, {})
        self.server.rayjobs[name]["spec"] = body["spec"]
        return self.answer(201, self.server.rayjobs[name])

    def do_DELETE(self) -> None:
        name = self.path.removeprefix(f"{BASE}/")
        self.server.seen.append(("DELETE", self.path))
        return self.answer(200, self.server.rayjobs.pop(name))


@pytest.fixture
def kubernetes() -> Iterator[Kubernetes]:
    server = Kubernetes()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("sesame\n")
    (tmp_path / "namespace").write_text("wanflow")
    return tmp_path


def launch(server: Kubernetes | str, account: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    """(exit code, the JSON lines that it wrote)"""
    url = server if isinstance(server, str) else f"http://127.0.0.1:{server.server_address[1]}"
    command = [
        sys.executable,
        "-I",
        str(CLUSTER / "launch.py"),
        str(CLUSTER / "rayjob.yaml"),
        f"--selector={SELECTOR}",
    ]
    done = subprocess.run(
        [*command, f"--server={url}", f"--account={account}", "--poll=0.01", "--patience=0.2", *more],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


RUNNING = status("Running", "RUNNING")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (status("Complete", "SUCCEEDED", "Job finished successfully."), 0),
        (failed(1), 1),
        (failed(2), 2),
        (failed(3), 3),
        (failed(4), 4),
        (failed(5), 5),
        # killed by the kernel (-9 is no exit code of ours) or anything else unheard of: broken, a retry helps
        (failed(137), 1),
        (
            status(
                "Failed", "", "Job submission has failed. Reason: BackoffLimitExceeded.", "SubmissionFailed"
            ),
            1,
        ),
        (
            status(
                "Failed", "RUNNING", "The RayJob has passed the activeDeadlineSeconds.", "DeadlineExceeded"
            ),
            5,
        ),
        (status("Failed", "", "no GPU node came", "PreRunningDeadlineExceeded"), 1),
        (status("Complete", "STOPPED"), 5),
        (status("ValidationFailed", "", "The RayJob spec is invalid"), 2),
    ],
)
def test_cron_sees_the_exit_code_of_the_run(
    kubernetes: Kubernetes, account: Path, end: dict[str, str], code: int
) -> None:
    """The alert at six says 3 or 4, not only "failed": who is paged knows whether to look at rows or at the cluster."""
    kubernetes.script = [{}, status("Initializing"), RUNNING, RUNNING, end]
    found, lines = launch(kubernetes, account)
    assert found == code
    assert [line["event"] for line in lines] == ["created", "waiting", "waiting", "waiting", "ended"]
    assert lines[-1]["exit_code"] == code
    assert lines[-1]["rayjob"] == "wanflow-nightly-x7k2p"


def test_the_rayjob_is_created_as_the_file_says(kubernetes: Kubernetes, account: Path) -> None:
    kubernetes.script = [status("Complete", "SUCCEEDED")]
    assert launch(kubernetes, account)[0] == 0
    created = kubernetes.rayjobs["wanflow-nightly-x7k2p"]
    assert created["spec"] == yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())["spec"]


def test_replacement_of_an_evicted_launcher_follows_the_running_rayjob(
    kubernetes: Kubernetes, account: Path
) -> None:
    """The node of the launcher was drained at three; its second pod must not start a second cluster of GPUs."""
    kubernetes.add("wanflow-nightly-aaaaa", RUNNING)
    kubernetes.add("wanflow-nightly-older", failed(3))
    kubernetes.script = [RUNNING, failed(4)]
    code, lines = launch(kubernetes, account)
    assert code == 4
    assert lines[0] == {"launcher": "wanflow", "event": "found", "rayjob": "wanflow-nightly-aaaaa"}
    assert ("POST", BASE) not in kubernetes.seen


def test_silence_of_the_api_server_is_waited_out(kubernetes: Kubernetes, account: Path) -> None:
    """The control plane is upgraded while the run goes on: two minutes of 503 and 429 are no failed night."""
    kubernetes.script = [RUNNING, 503, 429, 500, RUNNING, status("Complete", "SUCCEEDED")]
    code, lines = launch(kubernetes, account, "--patience=30")
    assert code == 0
    assert [line["reason"] for line in lines if "waiting_for" in line] == ["HTTP 503", "HTTP 429", "HTTP 500"]


def test_api_server_that_stays_away_is_a_broken_run(account: Path) -> None:
    """Exit 1: the Job starts another launcher, which finds the RayJob again."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as unused:
        port = unused.server_address[1]
    code, lines = launch(f"http://127.0.0.1:{port}", account)
    assert code == 1
    assert lines[-1]["event"] == "lost"
    assert "did not answer" in lines[-1]["reason"]


@pytest.mark.parametrize(("http", "code"), [(403, 2), (404, 2), (422, 2), (409, 1), (500, 1)])
def test_refusal_to_create_is_told_in_the_servers_words(
    kubernetes: Kubernetes, account: Path, http: int, code: int
) -> None:
    """A missing Role (403), a missing CRD (404), a bad file (422): asking again does not help, a person must."""
    kubernetes.refuse_posts = http
    found, lines = launch(kubernetes, account)
    assert found == code
    assert lines[-1]["event"] == "refused"
    assert "forbidden" in lines[-1]["reason"]


def test_rayjob_that_somebody_deletes_leaves_work(kubernetes: Kubernetes, account: Path) -> None:
    kubernetes.script = [RUNNING, 404]
    code, lines = launch(kubernetes, account)
    assert code == 5
    assert "deleted" in lines[-1]["reason"]


def test_old_finished_rayjobs_are_cleared_away(kubernetes: Kubernetes, account: Path) -> None:
    """A year of nights would be 365 dead objects in etcd; the last ones stay for whoever looks into a failure."""
    for night in range(1, 6):
        kubernetes.add(f"wanflow-nightly-n{night}", failed(1), created=f"2026-11-0{night}T01:00:00Z")
    kubernetes.script = [status("Complete", "SUCCEEDED")]
    code, lines = launch(kubernetes, account, "--keep=3")
    assert code == 0
    assert [line["rayjob"] for line in lines if line.get("event") == "deleted"] == [
        "wanflow-nightly-n3",
        "wanflow-nightly-n2",
        "wanflow-nightly-n1",
    ]
    assert sorted(kubernetes.rayjobs) == ["wanflow-nightly-n4", "wanflow-nightly-n5", "wanflow-nightly-x7k2p"]


def test_outside_a_cluster_it_says_so(account: Path) -> None:
    command = [sys.executable, "-I", str(CLUSTER / "launch.py"), "x.yaml", "--selector=a=b"]
    done = subprocess.run(command, capture_output=True, text=True, env={}, check=False)
    assert done.returncode == 2
    assert "KUBERNETES_SERVICE_HOST" in done.stderr
