"""Files over HTTP for readers that let a gate decide: each hop of a redirect and each address, before it is used.

A name is resolved once, its addresses are checked, and one of these very addresses is connected to: a name that leads
elsewhere a moment later leads nowhere. No cookies, no credentials, no proxy, no keep-alive. A server that drips is
cut off after :data:`LIMIT_S`. Limits: HTTP/1.1; a validator costs a HEAD.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol
from urllib.parse import quote, urljoin, urlsplit

from wanflow.errors import InputError
from wanflow.storage.paths import redact

MAX_HOPS = 5
#: of one answer, its body included
LIMIT_S = 120.0
#: of one step of the network
TIMEOUT_S = 15.0
_CHUNK_BYTES = 256 * 1024
_MOVED = frozenset({301, 302, 303, 307, 308})
_KEPT = "%/:=&?~#+!$,;'@()*[]"


class Gate(Protocol):
    """Raises InputError for what must not be read."""

    def check(self, place: str) -> None:
        """A URL or path, by its name."""

    def check_file(self, real: str, path: str = "") -> None:
        """A file that was opened as ``path`` and is really at ``real``."""

    def check_address(self, url: str, address: str) -> None:
        """An address that the host of ``url`` resolves to."""


class Answer(OSError):
    """An HTTP status that is no success."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"HTTP {status} {reason}")
        self.status = status


def get(url: str, max_bytes: int, gate: Gate) -> bytes:
    """The bytes behind ``url``; InputError when there are more than ``max_bytes`` or the gate refuses."""
    with _answer("GET", url, gate) as response:
        if (response.length or 0) > max_bytes:
            raise InputError(
                f"{redact(url)} is larger than the {max_bytes} bytes allowed; give a smaller file"
            )
        data = bytearray()
        while len(data) <= max_bytes and (piece := response.read1(_CHUNK_BYTES)):
            data += piece
        if len(data) <= max_bytes and response.length:
            raise http.client.IncompleteRead(bytes(data), response.length)
        return bytes(data[: max_bytes + 1])


def facts(url: str, gate: Gate) -> dict[str, Any]:
    """Size, ETag and time of change of ``url``, as far as the server says them."""
    with _answer("HEAD", url, gate) as response:
        names = ("ETag", "Last-Modified")
        return {"size": response.headers.get("Content-Length"), **{n: response.headers.get(n) for n in names}}


@contextmanager
def _answer(method: str, url: str, gate: Gate) -> Iterator[http.client.HTTPResponse]:
    """The answer at the end of all redirects. FileNotFoundError: 404 and 410."""
    for _ in range(MAX_HOPS + 1):
        gate.check(url)
        if urlsplit(url).scheme.lower() not in {"http", "https"}:
            raise InputError(f"{redact(url)}: a web server redirects to it; give the URL of the file itself")
        connection = _connection(url, gate)
        is_late = threading.Event()
        late = threading.Timer(LIMIT_S, _cut, [connection, is_late])
        late.daemon = True
        late.start()
        try:
            parts = urlsplit(url)
            path = quote(parts.path or "/", safe=_KEPT) + (
                f"?{quote(parts.query, safe=_KEPT)}" if parts.query else ""
            )
            connection.request(method, path, headers={"User-Agent": "wanflow", "Accept": "*/*"})
            response = connection.getresponse()
            if response.status not in _MOVED:
                if response.status in {404, 410}:
                    raise FileNotFoundError(f"{redact(url)}: HTTP {response.status}")
                if response.status != 200:
                    raise Answer(response.status, response.reason)
                yield response
                return
            target = response.headers.get("Location")
            if not target:
                raise Answer(response.status, "without a Location")
            url = urljoin(url, target)
        except http.client.InvalidURL:
            raise InputError(f"{redact(url)!r}: is no URL") from None
        except (OSError, http.client.HTTPException):
            if is_late.is_set():
                raise InputError(
                    f"{redact(url)}: cannot be read: it took longer than {LIMIT_S:g} s"
                ) from None
            raise
        finally:
            late.cancel()
            connection.close()
    raise InputError(
        f"{redact(url)}: was redirected more than {MAX_HOPS} times; give the URL that it ends at"
    )


class _Plain(http.client.HTTPConnection):
    open: socket.socket | None = None

    def __init__(self, host: str, port: int, check: Callable[[str], None]) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S)
        self._check = check

    def connect(self) -> None:
        self.sock = self.open = _socket(self.host, self.port, self._check)


class _Secure(http.client.HTTPSConnection):
    open: socket.socket | None = None

    def __init__(self, host: str, port: int, check: Callable[[str], None]) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(host, port, timeout=TIMEOUT_S, context=self._tls)
        self._check = check

    def connect(self) -> None:
        self.sock = _socket(self.host, self.port, self._check)
        self.sock = self.open = self._tls.wrap_socket(self.sock, server_hostname=self.host)


def _connection(url: str, gate: Gate) -> _Plain | _Secure:
    parts = urlsplit(url)
    kind, port = (_Secure, 443) if parts.scheme.lower() == "https" else (_Plain, 80)
    return kind(parts.hostname or "", parts.port or port, lambda address: gate.check_address(url, address))


def _socket(host: str, port: int, check: Callable[[str], None]) -> socket.socket:
    """A connection to an address of ``host``, all of whose addresses pass ``check``."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
            raise ConnectionError(f"the name {host} cannot be looked up now") from error
        raise InputError(f"there is no host {host!r}; is the URL right?") from None
    for *_, address in found:
        check(str(address[0]))
    trouble: OSError = ConnectionError(f"{host} has no address")
    for family, kind, protocol, _, address in found:
        connected = socket.socket(family, kind, protocol)
        try:
            connected.settimeout(TIMEOUT_S)
            connected.connect(address)
        except OSError as error:
            connected.close()
            trouble = error
            continue
        return connected
    raise trouble


def _cut(connection: _Plain | _Secure, is_late: threading.Event) -> None:
    """End a connection in mid-read; http.client itself forgets the socket once an answer has begun."""
    is_late.set()
    with suppress(OSError):
        if connection.open is not None:
            connection.open.shutdown(socket.SHUT_RDWR)
