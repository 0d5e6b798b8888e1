"""Starts Ray on this machine, or joins a cluster."""

from __future__ import annotations

import logging
import signal
import threading

import ray

from wanflow.errors import UsageError


def init_ray(address: str | None) -> None:
    """Start Ray here, without its dashboard, or join the cluster at ``address``. UsageError when there is none."""
    # It says at each start that local tokens are used, which asks nothing of anybody.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address is not None:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        else:
            _start()
    except (
        Exception
    ) as error:  # ConnectionError, RuntimeError, ValueError, or an Exception without a class of its own
        where = "on this machine" if address is None else f"at {address}"
        raise UsageError(f"Ray cannot be reached {where}: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(number, handler)


def _start() -> None:
    """Ray gives itself 30 seconds to come up, which a busy machine may not have: then once more."""
    for is_last in (False, True):
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
            return
        except Exception as error:
            if is_last or "timed out during startup" not in str(error):
                raise
