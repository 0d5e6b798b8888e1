"""The fault matrix as values: which faults there are, what a night says of one, and the table that comes of them.

Loads nothing heavy: the tests are collected from here. How a fault is brought about is ``faults.py``'s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: a night that takes longer is given up
NIGHT_S = 400.0
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Fault:
    name: str
    family: str
    #: what is done, in words for the table
    says: str
    #: the one of its family that CI runs
    in_ci: bool = False


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("replica_killed", "process", "`kill -9` of a replica at half of a clip", in_ci=True),
        Fault("replica_stopped", "process", "SIGSTOP of a replica at half of a clip"),
        Fault("ffmpeg_killed", "process", "`kill -9` of ffmpeg in an assembly"),
        Fault("node_removed", "node", "a node is gone without grace", in_ci=True),
        Fault("drained", "node", "notice of preemption, the node is gone 3 s later"),
        Fault("driver_killed", "driver", "`kill -9` of the driver; the job is run again", in_ci=True),
        Fault("two_runs", "driver", "two runs of one job at once"),
        Fault("store_refuses", "store", "the store answers 503 for 8 s", in_ci=True),
        Fault("store_stalls", "store", "the store answers nothing for 8 s"),
        Fault("disk_full", "store", "the store's disk is full for 6 s"),
    )
}


@dataclass(frozen=True)
class Row:
    """A line of the matrix."""

    fault: str
    steps_lost: int = 0
    steps_needed: int = 0
    recovery_s: float | None = None
    visible_at_fault: int = 0
    visible_at_recovery: int = 0
    visible_at_end: int = 0
    #: broken promises, or why the run did not get through; empty: all is well
    broken: tuple[str, ...] = ()
    #: why it could not be tried on this machine
    skipped: str = ""
    seconds: float = 0.0


def in_own_process(fault: Fault) -> Row:
    """What a night of its own says of ``fault``."""
    command = [sys.executable, "-m", "tests.soak", fault.name, "--here"]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | ENVIRONMENT,
            timeout=NIGHT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Row(fault.name, broken=(f"had not ended after {NIGHT_S:.0f} s",))
    rows = [line for line in done.stdout.splitlines() if line.startswith('{"fault"')]
    if not rows:
        return Row(fault.name, broken=(f"the night ended with {done.returncode} and without a word",))
    body = json.loads(rows[-1])
    return Row(**body | {"broken": tuple(body["broken"])})


def markdown(rows: list[Row]) -> str:
    """The matrix as it stands in MATRIX.md."""
    lines = [
        "# Fault matrix",
        "",
        "Made by `make soak`: whole runs on a Ray cluster of three nodes with a fake GPU each, an engine that sleeps",
        "through its steps, and everything else real. Steps lost are those done more than once, of all that the job",
        "needs. Recovery is the time from the fault, or from its end where it lasts, until what it hit went on:",
        "another replica with the same clip, or the next video published. Visible are the videos that could be seen",
        "when the fault came, when the run had recovered, and at the end. The promises are checked from the store",
        "alone by `wanflow verify`, with every hash; that nothing half-made is visible is also watched all the time.",
        "",
        "| fault | steps lost | time to recover | visible | promises |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        says = FAULTS[row.fault].says
        if row.skipped:
            lines.append(f"| {says} | - | - | - | not tried: {row.skipped} |")
            continue
        kept = "kept" if not row.broken else "BROKEN: " + "; ".join(row.broken[:3])
        visible = f"{row.visible_at_fault}, {row.visible_at_recovery}, {row.visible_at_end}"
        recovery = "-" if row.recovery_s is None else f"{row.recovery_s:.1f} s"
        lines.append(f"| {says} | {row.steps_lost} of {row.steps_needed} | {recovery} | {visible} | {kept} |")
    return "\n".join(lines) + "\n"
