"""Why a run should end before its work is done: a signal, `wanflow stop`, or a lease that is another's.

Only says so: what is finished, saved or left then is the scheduler's business (``schedule/ending.py``).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from wanflow.errors import Stopped, StoreError
from wanflow.lease import Lease
from wanflow.ledger import Ledger
from wanflow.storage import at_once

#: how often the store is asked whether somebody wants the run to stop
STOP_LOOK_S = 5.0


def sleep_unless(why_stop: Callable[[], str | None]) -> Callable[[float], None]:
    """How a run waits for another one's lease: a sleep that ends in Stopped once there is a reason."""

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if message := why_stop():
            raise Stopped(f"{message} while another run was at work here; nothing was rendered")

    return sleep


def stop_reasons(
    signalled: Callable[[], str | None], ledger: Ledger, lease: Lease | None = None
) -> Callable[[], str | None]:
    """Why the run should end early: a signal, `wanflow stop` (looked up every STOP_LOOK_S), or a lost lease."""
    found: str | None = None
    looked_s = 0.0

    def why() -> str | None:
        nonlocal found, looked_s
        found = found or signalled() or (lease.lost if lease else "") or None
        if found is None and time.monotonic() - looked_s >= STOP_LOOK_S:
            looked_s = time.monotonic()
            with suppress(StoreError), at_once():  # the next look may get through
                found = ledger.stop_asked()
        return found

    return why


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], str | None]]:
    """SIGTERM and the first Ctrl-C ask for a stop; the second Ctrl-C interrupts at once."""
    asked: list[str] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(f"stopped by {signal.Signals(number).name}")

    try:
        former = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread (a notebook, a server): signals are somebody else's
        former = {}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
