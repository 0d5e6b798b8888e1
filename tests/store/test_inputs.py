"""Reading inputs by URL, wherever they lie."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanflow.errors import InputError, StoreError
from wanflow.storage import (
    Store,
    check_path,
    check_publish_path,
    fetch_url,
    filesystem,
    is_local,
    join,
    list_url,
    open_url,
    read_url,
    redact,
)
from wanflow.storage.paths import _PLAIN, MAX_PATH_CHARS, _looked_into


class _Quiet(SimpleHTTPRequestHandler):
    def send_head(self) -> Any:
        if self.path.startswith("/answer/"):
            return self.send_error(int(self.path.removeprefix("/answer/")))
        return super().send_head()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server over ``tmp_path/web``."""
    (tmp_path / "web").mkdir()
    handler = partial(_Quiet, directory=str(tmp_path / "web"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_input_is_read_fetched_and_opened_from_any_store(store_url: str, tmp_path: Path) -> None:
    """A packshot in a bucket, a font on disk."""
    url = Store(store_url).url + "/in/a.png"
    Store(store_url).write("in/a.png", b"pixels")
    assert read_url(url, 6) == b"pixels"
    with pytest.raises(InputError, match="larger than the 5 bytes"):
        read_url(url, 5)
    fetch_url(url, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"pixels"
    with open_url(url) as file:
        file.seek(2)
        assert file.read(2) == b"xe"
    fs, path = filesystem(url)
    assert fs.cat_file(path) == b"pixels"


def test_an_absent_input_is_told_from_trouble(store_url: str, tmp_path: Path) -> None:
    """A missing image is one bad row, an unreachable bucket is the end of the run."""
    url = Store(store_url).url + "/no.png"
    for read in (
        lambda: read_url(url, 10),
        lambda: open_url(url),
        lambda: fetch_url(url, tmp_path / "no.png"),
    ):
        with pytest.raises(FileNotFoundError, match=r"no\.png"):
            read()
    assert list_url(url) == []
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_directories_and_globs_are_listed_in_order(store_url: str) -> None:
    """A partitioned dataset, and "*.parquet"."""
    store = Store(store_url)
    for path in ("d/b.parquet", "d/a.parquet", "d/x=1/c.parquet", "d/_SUCCESS", "d/.crc/a", "d/note.txt"):
        store.write(path, b"x")
    top = store.url

    def names(url: str) -> list[str]:
        return [name.rpartition("/d/")[2] for name in list_url(url)]

    assert names(f"{top}/d") == ["a.parquet", "b.parquet", "note.txt", "x=1/c.parquet"]
    assert names(f"{top}/d/*.parquet") == ["a.parquet", "b.parquet"]
    assert names(f"{top}/d/**/*.parquet") == ["a.parquet", "b.parquet", "x=1/c.parquet"]
    assert names(f"{top}/d/a.parquet") == ["a.parquet"]
    assert all(read_url(url, 9) == b"x" for url in list_url(f"{top}/d"))


def test_inputs_come_over_http(web: str, tmp_path: Path) -> None:
    """Packshots lie on the shop's own server."""
    (tmp_path / "web" / "a.png").write_bytes(b"pixels")
    assert read_url(f"{web}/a.png", 100) == b"pixels"
    with pytest.raises(FileNotFoundError):
        read_url(f"{web}/no.png", 100)
    assert list_url(f"{web}/a.png") == [f"{web}/a.png"]


@pytest.mark.parametrize(("status", "words"), [(500, "after 5 tries"), (403, "access denied")])
def test_a_web_server_in_trouble_is_no_missing_file(
    web: str, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shop's server is down for a minute: not every row is bad because of it."""
    monkeypatch.setattr("wanflow.storage.retry.FIRST_WAIT_S", 0.0001)
    with pytest.raises(StoreError, match=words):
        read_url(f"{web}/answer/{status}", 100)


def test_urls_that_are_no_inputs_are_refused_with_words() -> None:
    """Chained URLs and unknown schemes."""
    with pytest.raises(StoreError, match="chained"):
        read_url("zip://a::s3://b/c.zip", 10)
    with pytest.raises(StoreError, match="nosuch"):
        read_url("nosuch://a", 10)
    with pytest.raises(StoreError, match="no store for https"):
        Store("https://example.com/x")
    with pytest.raises(StoreError, match="without credentials"):
        Store("s3://key:secret@bucket/x")


def test_credentials_in_a_url_are_not_shown() -> None:
    """A presigned URL is a password."""
    url = "https://anna:pw@shop.example/a.png?X-Amz-Signature=abc"
    assert redact(url) == "https://shop.example/a.png"
    assert redact("s3://bucket/a b") == "s3://bucket/a b"


def test_urls_and_paths_are_joined_and_told_apart() -> None:
    assert join("s3://b/x/", "y/z") == "s3://b/x/y/z"
    assert join("/a", "/b/c") == "/b/c"
    assert join("/a", "s3://b/c") == "s3://b/c"
    assert is_local("/a")
    assert is_local("file:///a")
    assert not is_local("memory://a")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("/etc/x", "absolute"),
        ("../x", r"'\.\.'"),
        ("a/../../x", r"'\.\.'"),
        ("./x", r"'\.'"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("a\x00b", "U\\+0000"),
        ("a\nb", "U\\+000A"),
        ("gpj\u202emp4", "U\\+202E"),
        ("a\\..\\b", "backslash"),
        ("file://x", "URL"),
        ("x" * 300, "300 characters"),
        ("ü" * 150, "300 bytes"),
        ("a /b", "space"),
        (".tmp-1/b", "own"),
    ],
)
def test_unsafe_paths_are_refused_with_the_reason(path: str, reason: str) -> None:
    """Paths are made from customers' data."""
    with pytest.raises(ValueError, match=reason):
        check_path(path)


@pytest.mark.parametrize(
    "path", ["a", "anna/story.mp4", "名/ü é.mp4", "a..b/c", "x" * 251 + ".mp4", "50%/#1 & 2?.mp4"]
)
def test_ordinary_paths_pass(path: str) -> None:
    check_path(path)
    check_publish_path(path)


def test_wanflows_folders_are_no_publish_paths() -> None:
    for path in ("catalog/a.mp4", "Catalog/a.mp4", ".wanflow/a.mp4"):
        with pytest.raises(ValueError, match="wanflow's own folder"):
            check_publish_path(path)


@given(
    st.lists(
        st.sampled_from([*"aZ0_-./ ~é", "con", "nul.", "COM1", "/", "..", ".tmp-", "x" * 120]), max_size=6
    )
)
def test_a_path_that_is_let_through_at_once_would_have_passed_every_check(parts: list[str]) -> None:
    """Most paths of a million rows are told by one expression; it must not know less than the rules."""
    path = "".join(parts)
    if _PLAIN.fullmatch(path):
        assert _looked_into(path) == ""
        assert len(path) < MAX_PATH_CHARS


def test_ordinary_paths_are_let_through_at_once() -> None:
    for path in ("c0000001/story.mp4", "2026-11/DE/anna_b.story.jpg", "console/a", "a/nulls.mp4"):
        assert _PLAIN.fullmatch(path)
    for path in ("con.mp4", "a/NUL", "a/com1.mp4", "a.", "a/.b", "a//b", "a/", "/a", ""):
        assert not _PLAIN.fullmatch(path)
