"""Reading inputs by URL: any kind that fsspec knows, plain paths included.

An absent file is FileNotFoundError, any other trouble StoreError. What a row names is read with a gate
(``wanflow.allowed``), which is asked before anything is opened or connected to.
"""

from __future__ import annotations

import glob as globs
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from wanflow.errors import InputError, StoreError
from wanflow.storage.outage import outlast
from wanflow.storage.paths import is_local, local_path, redact, scheme_of
from wanflow.storage.retry import call
from wanflow.storage.web import Gate, get

T = TypeVar("T")

_BLOCK_BYTES = 4 * 2**20


def read_url(url: str, max_bytes: int, gate: Gate | None = None) -> bytes:
    """The bytes behind ``url``; InputError when there are more than ``max_bytes`` of them or ``gate`` refuses."""
    if gate is not None:
        gate.check(url)

    def load() -> bytes:
        if gate is not None and is_web(url):
            return get(url, max_bytes, gate)
        with _open_gated(url, gate) if gate is not None and is_local(url) else open_input(url) as file:
            data = file.read(max_bytes + 1)
        return bytes(data)

    data = _do("read", url, load)
    if len(data) > max_bytes:
        raise InputError(f"{redact(url)} is larger than the {max_bytes} bytes allowed; give a smaller file")
    return data


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes ``start`` to ``end`` of a file of an object store, in one request. Within ``wait_out`` a store that is away
    is waited for.
    """
    fs, path = filesystem(url)

    def load() -> bytes:
        data: bytes = fs.cat_file(path, start=start, end=end) if end > start else b""
        if len(data) != end - start:
            raise ConnectionResetError(f"got {len(data)} of {end - start} bytes")
        return data

    return outlast(lambda: _do(f"read bytes {start} to {end} of", url, load))


def open_url(url: str) -> BinaryIO:
    """A seekable file for readers that take parts of it (Parquet footers and columns). Close it."""
    return _do("open", url, lambda: cast(BinaryIO, open_input(url)))


def list_url(url: str) -> list[str]:
    """The files that ``url`` names, sorted: itself, those below a directory, or those that a glob matches.

    Names that begin with ``.`` or ``_`` below a directory are left out, as table readers do (``_SUCCESS``). Empty
    when nothing matches.
    """
    return sorted(_do("list", url, lambda: _list_local(url) if is_local(url) else _list_remote(url)))


def is_web(url: str) -> bool:
    """True for URLs of web servers, whose names and answers nobody vouches for."""
    return scheme_of(url) in {"http", "https"}


def _open_gated(url: str, gate: Gate) -> BinaryIO:
    """A plain file, wherever links lead when it is opened; pipes and devices are refused, and not waited for."""
    path = os.path.expanduser(local_path(url))
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InputError(f"{path}: is a pipe or a device, not a file")
        link = f"/proc/self/fd/{file.fileno()}"
        gate.check_file(os.readlink(link) if os.path.islink(link) else os.path.realpath(path), path)
    except BaseException:
        file.close()
        raise
    return file


def _list_local(url: str) -> list[str]:
    path = os.path.expanduser(local_path(url))
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        return [
            str(file)
            for file in Path(path).rglob("*")
            if file.is_file() and _shown(str(file.relative_to(path)))
        ]
    return [file for file in globs.glob(path, recursive=True) if os.path.isfile(file)]


def _list_remote(url: str) -> list[str]:
    fs, path = filesystem(url)
    if globs.has_magic(path) and not is_web(url):
        return [fs.unstrip_protocol(name) for name in fs.glob(path) if fs.isfile(name)]
    try:
        info = fs.info(path)
    except FileNotFoundError:
        return []
    if info["type"] == "file":
        return [url]
    top = path.rstrip("/") + "/"
    return [fs.unstrip_protocol(name) for name in fs.find(path) if _shown(name.removeprefix(top))]


def _shown(path: str) -> bool:
    return not any(name.startswith((".", "_")) for name in path.split("/"))


def open_input(url: str) -> Any:
    """:func:`open_url` with the client's own errors, for callers that repeat more than the opening."""
    if is_local(url):
        return open(os.path.expanduser(local_path(url)), "rb")
    fs, path = filesystem(url)
    return fs.open(path, "rb", block_size=_BLOCK_BYTES)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of ``url`` and the path in it, for readers that take one (pyarrow.dataset)."""
    if "::" in url:
        raise StoreError(f"{redact(url)}: chained URLs (::) are not read; copy the file to a plain URL")
    if scheme_of(url) in {"s3", "s3a"}:
        from wanflow.storage.s3_client import client

        fs = client()
        return fs, fs._strip_protocol(url)
    from fsspec.core import url_to_fs

    if is_local(url):
        return cast(tuple[Any, str], url_to_fs(os.path.abspath(os.path.expanduser(local_path(url)))))
    found: tuple[Any, str] = url_to_fs(url, use_listings_cache=False)
    return found


def _do(verb: str, url: str, action: Callable[[], T]) -> T:
    return call(action, f"{verb} {redact(url)}", absent=True)
