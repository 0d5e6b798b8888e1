"""A proxy before the S3 server that loses, delays and refuses, as networks and busy services do; and a small disk."""

from __future__ import annotations

import http.client
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

#: how long a stalled request keeps its caller waiting; the client's own patience is shorter
STALL_S = 5.0
#: between two bytes of an answer that trickles: never silent for long, and never done
DRIP_S = 0.05

Rule = Callable[[str, str], str]


@dataclass
class Network:
    """What happens to each request: ``rule(method, path)`` says ``pass``, ``lose`` (done, never answered), ``drop``
    (never arrives), ``stall`` (never arrives, and nobody says so for a while), ``drip`` (answered, a byte a moment) or
    a status to answer with."""

    rule: Rule = lambda method, path: "pass"
    log: list[tuple[str, str]] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.Lock)

    def judge(self, method: str, path: str) -> str:
        with self._lock:
            self.log.append((method, path))
            return self.rule(method, path)

    def once(self, verdict: str, method: str, ending: str) -> None:
        """The next ``method`` on a path with this ending meets ``verdict``; all else passes."""
        left = [verdict]

        def rule(asked: str, path: str) -> str:
            met = asked == method and path.partition("?")[0].endswith(ending)
            return left.pop() if met and left else "pass"

        self.rule = rule


@dataclass
class Proxy:
    """The proxy's address, and the network that it is for the test at hand."""

    url: str
    network: Network
    #: set when the session ends: nobody is kept waiting then
    closing: threading.Event = field(default_factory=threading.Event)


@pytest.fixture(scope="session")
def proxy(s3: Any) -> Iterator[Proxy]:
    """One proxy for the session: a client for each would cost more than the tests."""
    with proxy_before(s3.endpoint) as proxy:
        yield proxy


@contextmanager
def proxy_before(endpoint: str) -> Iterator[Proxy]:
    """A proxy before the server at ``endpoint``."""
    proxy = Proxy("", Network())
    host = endpoint.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            verdict = proxy.network.judge(self.command, self.path)
            if verdict in {"drop", "stall"}:
                if verdict == "stall":
                    proxy.closing.wait(STALL_S)
                self.close_connection = True
                return
            if verdict.isdigit():
                self.send_response(int(verdict))
                self.send_header("Content-Length", "0")
                self.send_header("ETag", '"of-what-was-ignored"')
                self.end_headers()
                return
            connection = http.client.HTTPConnection(host, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if verdict == "lose":
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if verdict == "drip":
                self.close_connection = True
                with suppress(OSError):  # whoever asked has given up
                    for byte in content:
                        self.wfile.write(bytes([byte]))
                        proxy.closing.wait(DRIP_S)
                return
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that did not wait for its answer is what these tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield proxy
    proxy.closing.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def network(proxy: Proxy, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Network:
    """The way to the S3 server for this test; ``s3_url`` is reached through it."""
    proxy.network = Network()
    monkeypatch.setattr("wanflow.storage.retry.FIRST_WAIT_S", 0.0001)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    return proxy.network


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of one megabyte, or of the parameter's size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', '1m')}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Let ``path`` take what room there is on its disk, to the last page."""
    with suppress(OSError), open(path, "ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
