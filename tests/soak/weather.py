"""An S3 server (moto) and a proxy before it that can be told to refuse or to stall, for whole runs."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "soak"

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # the parent's end closes when it ends, however it ends
"""


@dataclass
class Weather:
    """``direct`` is the server, ``proxied`` the way to it that the run takes."""

    direct: str
    proxied: str = ""
    #: every request is answered with 503
    refuses: bool = False
    #: requests go through while it is set, and wait while it is not
    flows: threading.Event = field(default_factory=threading.Event)
    num_refused: int = 0


@contextmanager
def s3_weather() -> Iterator[Weather]:
    """Fair weather, until somebody changes it. Sets the environment that leads this process to the server itself."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "soak",
        "AWS_SECRET_ACCESS_KEY": "soak",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        host = f"127.0.0.1:{server.stdout.readline().strip()}"
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request("PUT", f"/{BUCKET}")
        connection.getresponse().read()
        connection.close()
        weather = Weather(f"http://{host}")
        weather.flows.set()
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(weather, host))
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        weather.proxied = f"http://127.0.0.1:{proxy.server_address[1]}"
        os.environ["AWS_ENDPOINT_URL"] = weather.direct
        try:
            yield weather
        finally:
            weather.flows.set()
            proxy.shutdown()
            proxy.server_close()
            server.terminate()


def _handler(weather: Weather, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            weather.flows.wait()
            if weather.refuses:
                weather.num_refused += 1
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            connection = http.client.HTTPConnection(host, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler
