"""Stores for tests: a real S3 server (moto) in a process of its own, started once a session, and fresh prefixes in it.

``s3`` is the server with the environment that leads clients to it; ``s3_url`` is a fresh prefix, with that environment
set; ``store_url`` is parametrised over a directory, ``memory://`` and S3.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # the parent's end closes when it ends, however it ends
server.stop()
"""
_BUCKET = "wanflow-tests"

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: a process a core, so a thread a process
    os.environ["OMP_NUM_THREADS"] = "1"


#: files whose tests start Ray or whole runs: one at a time, or they wait for each other's processors
_CLUSTERS = frozenset(
    {"test_cluster.py", "test_ray.py", "test_soak.py", "test_demo_job.py", "test_nodes.py", "test_overlap.py"}
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay in one process, for its fixtures are dear; so do all tests with clusters."""
    for item in items:
        item.add_marker(
            pytest.mark.xdist_group("clusters" if item.path.name in _CLUSTERS else item.nodeid.split("::")[0])
        )


@dataclass(frozen=True)
class S3:
    """A running S3 server: where it is, a bucket in it, and the variables that a client process needs."""

    endpoint: str
    bucket: str
    env: dict[str, str]


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """One moto server for the whole session, on a port that the system picks, with credentials of its own."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FSSPEC_"))}
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        endpoint = f"http://127.0.0.1:{port}"
        env = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret-never-shown",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        import botocore.session

        client = botocore.session.get_session().create_client(
            "s3", endpoint_url=endpoint, region_name="us-east-1",
            aws_access_key_id="test-key", aws_secret_access_key="test-secret-never-shown",
        )  # fmt: skip
        client.create_bucket(Bucket=_BUCKET)
        client.close()
        try:
            yield S3(endpoint, _BUCKET, env)
        finally:
            server.terminate()


@pytest.fixture
def s3_url(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix on the S3 server; the environment leads there for the length of the test."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.bucket}/{secrets.token_hex(6)}"


@pytest.fixture(params=["local", "memory", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh store of each kind."""
    if request.param == "local":
        return str(tmp_path / "store")
    if request.param == "memory":
        return f"memory://{secrets.token_hex(6)}"
    url: str = request.getfixturevalue("s3_url")
    return url
