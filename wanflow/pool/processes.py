"""Processes of this node by their number: which one this is, its memory, and seeing to it that one is gone.

A number alone may have gone to another process since, so the time at which it began belongs to it. Limits: Linux
(``/proc``); elsewhere a process counts as gone, and Ray's own kill is all there is.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: how long a killed process may take to go before it is killed the hard way
PATIENCE_S = 1.0
#: how long the kernel may take to clear one away (a GPU's memory is freed meanwhile)
MAX_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    #: clock ticks since the node came up
    began: int


def this_process() -> Process:
    return Process(os.getpid(), _began(os.getpid()) or 0)


def is_running(process: Process) -> bool:
    return _began(process.pid) == process.began


def end(process: Process, patience_s: float = PATIENCE_S) -> bool:
    """Wait until ``process`` is gone, killing it when it takes longer than ``patience_s``; whether it is."""
    started_s = time.monotonic()
    killed = False
    while is_running(process):
        waited_s = time.monotonic() - started_s
        if waited_s >= patience_s and not killed:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)  # reaches a process that is stopped, too
            killed = True
        if waited_s >= patience_s + MAX_WAIT_S:
            return False
        time.sleep(0.02)
    return True


def memory_bytes() -> int | None:
    """Resident memory of this process; None where the system does not say (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _began(pid: int) -> int | None:
    """When the process began; None for one that is gone, or only waits to be counted by its parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
