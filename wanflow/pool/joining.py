"""Starts Ray on this machine, or joins a cluster."""

from __future__ import annotations

import logging
import signal
import threading

import ray

from wanflow.errors import UsageError, WanflowError

#: what Ray says when it gave up after its own 30 seconds, which a busy machine may not have: here, and on a head node
#: whose client server was not up yet
_TOO_SLOW = ("timed out during startup", "Starting Ray client server failed")
#: what Ray says of another release of it or of Python, and of an address of no kind that it knows
_WRONG = ("Version mismatch", "parsed from Address", "does not have ClientBuilder")


def init_ray(address: str | None) -> None:
    """Start Ray here, without its dashboard, or join the cluster at ``address``.

    WanflowError when there is none now; UsageError when the address is none, or Ray there is of another version.
    """
    # It says at each start that local tokens are used, which asks nothing of anybody.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            _init(address)
        except Exception as error:
            if not any(words in str(error) for words in _TOO_SLOW):
                raise
            _init(address)
    except (
        Exception
    ) as error:  # ConnectionError, RuntimeError, ValueError, or an Exception without a class of its own
        where = "on this machine" if address is None else f"at {address}"
        kind = UsageError if _is_wrong(address, error) else WanflowError
        raise kind(f"Ray cannot be reached {where}: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(number, handler)


def _is_wrong(address: str | None, error: Exception) -> bool:
    """Whether a later try cannot go better. Only of an address: here, Ray raises ValueError for too little memory."""
    if address is None:
        return False
    return isinstance(error, ValueError) or any(words in str(error) for words in _WRONG)


def _init(address: str | None) -> None:
    """A Ray of our own: without ``local`` it would join any cluster that somebody else runs on this machine."""
    if address is None:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
