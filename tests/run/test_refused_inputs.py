"""Inputs that were there while planning and are not when they are needed: their rows fail, and the night goes on."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job
from wanflow import Job, plan, run
from wanflow.errors import InputError
from wanflow.inputs import Reader
from wanflow.model import Status
from wanflow.planning.failing import without_sources
from wanflow.report import results
from wanflow.storage import Store
from wanflow.testing import load_fake_engine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


def _png(*color: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(buffer, "PNG")
    return buffer.getvalue()


class Web(ThreadingHTTPServer):
    """Serves a picture at any path; at ``bad.png`` only the first time."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.then: tuple[int, bytes] = (404, b"")
        self.asked: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        is_bad = self.path.startswith("/bad.png")
        is_spoilt = is_bad and self.server.asked[self.path] > 1
        right = _png(30, 200, len(self.path)) if is_bad else _png(200, 30, 30)
        status, body = self.server.then if is_spoilt else (200, right)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _rows(web: Web, **columns: str) -> list[dict[str, Any]]:
    """Of bob's row, the columns of ``columns`` name other pictures."""
    rows = [dict(row, logo=f"{web.url}/good.png") for row in ROWS]
    rows[1] |= {column: f"{web.url}/{name}" for column, name in columns.items()}
    return rows


def _job(folder: Path, checkpoint: str, web: Web, rows: list[dict[str, Any]]) -> Job:
    return make_job(
        folder,
        checkpoint,
        rows,
        layers=[{"image": {"url": "{{ logo }}", "at": "top-left", "height": "15%"}}],
        inputs={"allow": ["http://", "./"], "networks": ["127.0.0.1/32"]},
        publish={"url": "out", "path": "{{ variant_id }}/{{ output }}.mp4", "unpublish": True},
    )


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ((404, b""), "does not exist"),
        ((200, _png(30, 30, 200)), "has changed since it was planned with"),
        ((503, b""), "cannot be read"),
    ],
    ids=["gone", "other", "away"],
)
@pytest.mark.parametrize("column", ["logo", "image"])
def test_its_row_fails_and_the_others_are_made(
    tmp_path: Path, checkpoint: str, web: Web, column: str, then: tuple[int, bytes], words: str
) -> None:
    """One customer's picture that the content network has encoded anew is that customer's trouble."""
    web.then = then
    job = _job(tmp_path, checkpoint, web, _rows(web, **{column: "bad.png"}))
    outcome = run(job, inline=True, load_engine=load_fake_engine)
    assert outcome.exit_code == 3
    rows = {row["variant_id"]: row for row in results(Store(str(job.workspace))).to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "ann": "published",
        "bob": "failed",
        "cem": "published",
    }
    assert words in rows["bob"]["reason"]
    assert "bad.png" in rows["bob"]["reason"]
    assert outcome.num_clips_rendered == 2, "a clip that nobody is left to show is not rendered"


def test_what_was_published_before_stays(tmp_path: Path, checkpoint: str, web: Web) -> None:
    """Its new picture is gone when it is needed, and nobody else has anything to do: no engine is loaded for it."""
    assert (
        run(_job(tmp_path, checkpoint, web, _rows(web)), inline=True, load_engine=load_fake_engine).exit_code
        == 0
    )
    before = (tmp_path / "out/bob/square.mp4").read_bytes()

    def load(*_: object, **__: object) -> Any:
        raise AssertionError("an engine was loaded for nothing")

    outcome = run(_job(tmp_path, checkpoint, web, _rows(web, image="bad.png")), inline=True, load_engine=load)
    assert outcome.exit_code == 3
    assert outcome.counts["unchanged"] == 2
    assert outcome.counts["failed"] == 1
    assert (tmp_path / "out/bob/square.mp4").read_bytes() == before


def test_a_forced_run_is_finished_later(tmp_path: Path, checkpoint: str, web: Web) -> None:
    """Clips of a broken driver are to be made again; that the server of one logo is away just then changes nothing."""
    rows = [ROWS[0] | {"logo": f"{web.url}/good.png"}, ROWS[2] | {"logo": f"{web.url}/bad.png"}]
    web.asked["/bad.png"] = -1
    assert (
        run(_job(tmp_path, checkpoint, web, rows), inline=True, load_engine=load_fake_engine).exit_code == 0
    )
    rows[1]["logo"] = f"{web.url}/bad.png?v=2"
    web.then = (404, b"")
    forced = run(
        _job(tmp_path, checkpoint, web, rows), inline=True, load_engine=load_fake_engine, force="base"
    )
    assert (forced.exit_code, forced.counts["failed"], forced.num_clips_rendered) == (3, 1, 1)
    rows[1]["logo"] = f"{web.url}/good.png"
    later = run(_job(tmp_path, checkpoint, web, rows), inline=True, load_engine=load_fake_engine)
    assert (later.exit_code, later.num_clips_rendered) == (0, 1)


def test_the_next_clip_makes_the_trunk(tmp_path: Path, checkpoint: str) -> None:
    """Of a group the clip that was to make the trunk is gone with its logo: else all others would make it at once."""
    for name in ("good", "bad"):
        (tmp_path / f"{name}.png").write_bytes(_png(len(name), 0, 0))
    rows = [
        dict(ROWS[0], variant_id=f"v{i}", prompt=f"star {i}", logo="good.png" if i else "bad.png")
        for i in range(3)
    ]
    clip = {"aspect": "1x1", "seconds": 0.5, "branch": {"at": 0.6, "on": "a star"}}
    layers = [{"image": {"url": "{{ logo }}", "at": "top-left", "height": "15%"}}]
    made = plan(make_job(tmp_path, checkpoint, rows, clip=clip, layers=layers))
    [bad] = [s for v in made.variants for scene in v.variant.scenes for s in scene.sources if "bad" in s.url]
    left = without_sources(made, {bad: "it is gone"})
    assert [v.status for v in left.variants] == [Status.FAILED, Status.LEFT, Status.LEFT]
    fresh = plan(make_job(tmp_path, checkpoint, rows[1:], clip=clip, layers=layers))
    assert left.clips == fresh.clips
    assert left.num_trunks == 1


def test_a_server_that_does_not_answer_is_asked_once() -> None:
    """Twenty thousand logos of a host that is away would else take the night in retries."""
    with Web() as gone:
        url = gone.url
    reader = Reader(None)
    with pytest.raises(InputError, match="cannot be read") as first:
        reader.read(f"{url}/a.png")
    started_s = time.monotonic()
    with pytest.raises(InputError, match="cannot be read"):
        reader.read(f"{url}/b.png")
    assert time.monotonic() - started_s < 0.1
    assert f"{url}/a.png" in str(first.value)


def test_a_bad_answer_is_one_pictures_trouble(web: Web) -> None:
    """A content network that fails for one of twenty thousand packshots answers for all others."""
    web.then, web.asked["/bad.png"] = (500, b""), 1
    reader = Reader(None)
    with pytest.raises(InputError, match="500"):
        reader.read(f"{web.url}/bad.png")
    assert reader.read(f"{web.url}/good.png")
