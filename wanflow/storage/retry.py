"""The one retry rule for stores: which errors pass by themselves, how often to try, and what to say in the end.

A try that failed half-way may still have taken effect (its acknowledgement was lost). So a conditional write that is
repeated here can meet its own first try and end in :class:`Conflict`; whoever calls reads what is there and decides.
"""

from __future__ import annotations

import errno
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from wanflow.errors import Conflict, StoreAway, StoreError, WanflowError

#: tries of one request; with the waits below a dead store is reported after some seconds, not minutes
TRIES = 5
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0

_TRANSIENT_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 507, 509})
_TRANSIENT_ERRNO = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET}
)
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling"}
)
#: by name, so that no client library need be imported to recognise its errors
_TRANSIENT_NAMES = frozenset(
    {
        "HTTPClientError", "ConnectionError", "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError",
        "ConnectionClosedError", "ProxyConnectionError", "ResponseStreamingError", "IncompleteReadError",
        "IncompleteRead", "ResponseParserError", "FSTimeoutError", "ClientConnectionError", "ClientPayloadError",
        "ServerDisconnectedError", "ServiceRequestError", "ServiceResponseError", "TimeoutError",
    }
)  # fmt: skip
#: no room on the disk; somebody may clear some
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_QUERY = re.compile(r"\?[^\s\"']+")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What an exception from a client library means."""

    #: HTTP status; 0 where there is none
    status: int
    #: the store's own word (``AccessDenied``), or the exception's name
    code: str
    transient: bool


def diagnose(exc: BaseException, handled: BaseException | None = None) -> Trouble:
    """Read status and code off an exception of any client library, or off what caused it.

    ``handled`` is what the caller was handling already when the action began. Python chains it to whatever the action
    raises, but it is another request's trouble: a lost connection while a 412 is handled is no 412.
    """
    status, code, transient = 0, "", False
    seen: BaseException | None = exc
    for _ in range(6):
        if seen is None or seen is handled:
            break
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            status = status or int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
            code = code or str(response.get("Error", {}).get("Code") or "")
        for name in ("status", "status_code", "code"):
            value = None if status else getattr(seen, name, None)
            if isinstance(value, (int, str)) and str(value).isdigit() and 300 <= int(value) < 600:
                status = int(value)
        transient = transient or bool(_TRANSIENT_NAMES & {kind.__name__ for kind in type(seen).__mro__})
        if isinstance(seen, OSError) and seen.errno in _TRANSIENT_ERRNO and not status:
            transient = True
        seen = seen.__cause__ or seen.__context__
    if code.isdigit():
        status = status or int(code)
    if status:
        transient = status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES
    return Trouble(status, code or type(exc).__name__, transient)


def call(
    action: Callable[[], T],
    doing: str,
    *,
    absent: bool = False,
    room: bool = False,
    tries: int = TRIES,
    sleep: Callable[[float], None] = time.sleep,
    chance: Callable[[], float] = random.random,
) -> T:
    """``action()``, repeated while its error is one that passes; else StoreError, Conflict or FileNotFoundError.

    StoreAway when the last error was one that passes, too, and at once when ``room`` (the disk is the store's own) and
    it is full: nothing passes within seconds, but somebody may free space.

    ``doing`` names the action and the URL for the message ("read s3://b/x"). ``absent``: FileNotFoundError is an
    answer, not trouble. The wait before try n+1 is random in (0, min(5 s, 0.2 s * 2^n)).
    """
    handled = sys.exception()
    for tried in range(1, tries + 1):
        try:
            return action()
        except (
            WanflowError,
            LookupError,
            TypeError,
            AttributeError,
            AssertionError,
        ):  # said already, or our own bug
            raise
        except Exception as exc:  # every client library has its own tree of errors; told apart by diagnose()
            trouble = diagnose(exc, handled)
            if absent and _is_absent(exc, trouble):
                raise FileNotFoundError(f"cannot {doing}: there is no such file") from None
            if trouble.status == 412 or isinstance(exc, FileExistsError):
                raise Conflict(f"cannot {doing}: somebody else wrote it first") from exc
            if not trouble.transient or tried == tries:
                if trouble.status == 409:
                    raise Conflict(f"cannot {doing}: others keep writing it") from exc
                away = trouble.transient or (room and isinstance(exc, OSError) and exc.errno in _FULL)
                error = StoreAway if away else StoreError
                raise error(_message(doing, exc, trouble, tried)) from exc
            sleep(chance() * min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**tried))
    raise AssertionError("unreachable")


def _is_absent(exc: BaseException, trouble: Trouble) -> bool:
    """No such file, as opposed to no such bucket and to servers in trouble, which some clients call so too."""
    if trouble.code in {"NoSuchKey", "BlobNotFound"}:
        return True
    said = isinstance(exc, FileNotFoundError) and trouble.code != "NoSuchBucket"
    return said and trouble.status in {0, 404, 410} and not trouble.transient


def _message(doing: str, exc: BaseException, trouble: Trouble, tried: int) -> str:
    number = exc.errno if isinstance(exc, OSError) else None
    status = f"HTTP {trouble.status} " if trouble.status else ""
    if number in _FULL or number == errno.EFBIG:
        return f"cannot {doing}: disk full ({trouble.code}); free space there; nothing half-made was left"
    if trouble.code == "NoSuchBucket":
        return f"cannot {doing}: {status}the bucket does not exist; create it or correct the URL"
    if trouble.code == "NoCredentialsError":
        return f"cannot {doing}: no credentials found; set them in the environment or the machine's role"
    if trouble.status in {401, 403} or isinstance(exc, PermissionError):
        return f"cannot {doing}: {status}{trouble.code}: access denied; check the credentials and the right to do this"
    if isinstance(exc, (ImportError, ModuleNotFoundError)):
        return (
            f"cannot {doing}: {exc}; install the extra for this kind of store (wanflow[s3], [gcs] or [azure])"
        )
    detail = _QUERY.sub("", str(exc))[:300]
    if isinstance(exc, OSError) and number is not None and exc.strerror and not trouble.status:
        detail = exc.strerror
    if trouble.transient:
        return (
            f"cannot {doing}: {status}{trouble.code} after {tried} tries: {detail}; a later run may succeed"
        )
    return f"cannot {doing}: {status}{trouble.code}: {detail}"
