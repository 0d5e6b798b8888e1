"""What attackers bring: crafted files, a web server that lies, and a job whose rows they write."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.run.jobs import ROWS, job_dict, write_logo, write_rows
from wanflow import Job, Outcome, Plan, plan, run
from wanflow.errors import ManifestError
from wanflow.testing import load_fake_engine


class Target:
    """A job that strangers may write rows for: ``plan`` and ``run`` are the product's own."""

    def __init__(self, folder: Path, checkpoint: str) -> None:
        self.folder = folder / "job"
        self.folder.mkdir()
        self.rows: list[dict[str, Any]] = [dict(row) for row in ROWS]
        self.sections: dict[str, Any] = job_dict(checkpoint)
        write_logo(self.folder)

    def job(self) -> Job:
        if self.sections["manifest"]["url"] == "manifest.parquet":
            write_rows(self.folder, self.rows)
        return Job.from_dict(self.sections, self.folder)

    def plan(self, **options: Any) -> Plan:
        return plan(self.job(), **options)

    def run(self, **options: Any) -> Outcome:
        return run(self.job(), inline=True, load_engine=load_fake_engine, **options)

    def refused(self) -> str:
        """Why the bad row (there must be just one) is refused; the others must be as good as ever."""
        with pytest.raises(ManifestError) as caught:
            self.plan()
        assert {bad.row for bad in caught.value.bad_rows} == {2}, str(caught.value)
        assert len(self.plan(skip_bad_rows=True).variants) == len(self.rows) - 1
        return "\n".join(bad.reason for bad in caught.value.bad_rows)

    def refused_image(self, name: str) -> str:
        self.rows[1]["image"] = name
        return self.refused()

    def refused_voice(self, name: str) -> str:
        self.sections["sound"] = {"voice": {"url": "{{ voice }}", "extend": "hold"}}
        for row in self.rows:
            row["voice"] = ""
        self.rows[1]["voice"] = name
        return self.refused()

    def refused_video(self, name: str) -> str:
        for row in self.rows:
            row["video"] = ""
        self.rows[1]["video"] = name
        return self.refused()


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(file, "PNG")
    return file.getvalue()


def png_header(width: int, height: int, data: bytes = zlib.compress(b"\0" * 100)) -> bytes:
    """A PNG that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def web(answers: dict[str, Answer]) -> Iterator[tuple[str, list[str]]]:
    """A web server on 127.0.0.1: its URL, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answers[self.path](self)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def sends(body: bytes, claimed: int | None = None) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    return answer


def redirects(target: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", target)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer
