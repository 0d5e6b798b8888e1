"""The S3 client: one a process, credentials and endpoint; made when it is first needed.

Credentials come from the environment's usual chain and are never looked at. The client's own retries are off (the
house's rule counts, ``retry.py``), listing caches too.
"""

from __future__ import annotations

import os
import threading
from datetime import datetime
from typing import Any, cast

CONNECT_TIMEOUT_S = 10
#: a try ends when the server has been silent for so long
READ_TIMEOUT_S = 60

_clients: dict[tuple[object, ...], Any] = {}
_lock = threading.Lock()


def surroundings() -> tuple[object, ...]:
    """What decides the client: the process, and what its environment says of service and credentials."""
    aws = tuple(
        sorted(
            (name, hash(value)) for name, value in os.environ.items() if name.startswith(("AWS_", "FSSPEC_"))
        )
    )
    return os.getpid(), aws


def client() -> Any:
    where = surroundings()
    client = _clients.get(where)
    if client is not None:
        return client
    with _lock:
        if where not in _clients:
            import aiobotocore.session
            import s3fs

            session = aiobotocore.session.AioSession()
            session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
            client = s3fs.S3FileSystem(
                session=session,
                skip_instance_cache=True,
                use_listings_cache=False,
                config_kwargs={
                    "connect_timeout": CONNECT_TIMEOUT_S,
                    "read_timeout": READ_TIMEOUT_S,
                    "retries": {"total_max_attempts": 1},
                    "max_pool_connections": 64,
                    # servers older than these headers store them as part of the body
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                },
            )
            client.retries = 1
            _clients[where] = client
        return _clients[where]


def _time(value: str) -> datetime:
    """Listings are full of dates; the client's own way to read them takes four fifths of a listing's time."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        from botocore.utils import parse_timestamp

        return cast(datetime, parse_timestamp(value))
