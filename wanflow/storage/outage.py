"""A store that is away is waited for: a run pauses, it does not fail its rows one after the other.

Away is also a store whose disk is full: what is read is there, and what is written waits for room.

Within :func:`wait_out` a request of a :class:`~wanflow.storage.Store`, or for a checkpoint, that has used up its tries
is tried again until the store answers or the patience is over. One request of a process asks at a time (the others wait
for its answer), so that a service that comes back is not run over. Commands without the context, and inputs of rows,
fail within seconds as ever.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from wanflow.errors import StoreAway

#: how long a run waits; less than what the scheduler grants a silent replica
OUTAGE_S = 600.0
#: between two questions; the first waits are shorter, and all are random in (half, whole)
ASK_EVERY_S = 30.0
FIRST_ASK_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Patience:
    seconds: float
    unless: Callable[[], object]
    say: Callable[[str], object]


_patience: ContextVar[_Patience | None] = ContextVar("patience", default=None)
_asking = threading.Lock()


@contextlib.contextmanager
def wait_out(
    seconds: float = OUTAGE_S,
    unless: Callable[[], object] = lambda: None,
    say: Callable[[str], object] = lambda words: None,
) -> Iterator[None]:
    """Wait that long for a store that is away, in this thread; not once ``unless()`` is true.

    ``say`` is told when the waiting begins. Within another ``wait_out`` the outer one counts.
    """
    token = _patience.set(_patience.get() or _Patience(seconds, unless, say))
    try:
        yield
    finally:
        _patience.reset(token)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Not worth waiting for: fail as without :func:`wait_out`."""
    token = _patience.set(None)
    try:
        yield
    finally:
        _patience.reset(token)


def outlast(action: Callable[[], T]) -> T:
    """``action()``; again and again while it raises StoreAway and there is patience left."""
    try:
        return action()
    except StoreAway as error:
        patience = _patience.get()
        if patience is None:
            raise
        return _ask_until_back(action, patience, error)


def _ask_until_back(action: Callable[[], T], patience: _Patience, error: StoreAway) -> T:
    end_s = time.monotonic() + patience.seconds
    wait_s = FIRST_ASK_S
    is_mine = _asking.acquire(blocking=False)
    if not is_mine and not _asking.acquire(timeout=patience.seconds):
        raise error
    try:
        if is_mine:
            patience.say(f"the store is away, waiting up to {patience.seconds:.0f} s for it: {error}")
            time.sleep(wait_s * (1 + random.random()) / 2)
        # whoever waited for another's question asks at once: the store may be back
        while True:
            try:
                return action()
            except StoreAway:
                if time.monotonic() >= end_s or patience.unless():
                    raise
            wait_s = min(ASK_EVERY_S, wait_s * 2)
            time.sleep(min(wait_s * (1 + random.random()) / 2, max(0.0, end_s - time.monotonic())))
    finally:
        _asking.release()
