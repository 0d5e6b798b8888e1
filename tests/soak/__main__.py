"""Run the fault matrix and write its table: ``python -m tests.soak [FAULT ...] [--write]``.

Each fault has a night, and so a process, of its own. ``--write`` puts the table into ``MATRIX.md`` beside this file;
exit 1 when a promise was broken or a run did not get through.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.soak.matrix import FAULTS, Row, in_own_process, markdown

MATRIX = Path(__file__).with_name("MATRIX.md")


def spend_night(name: str) -> Row:
    """Bring about one fault, in this process."""
    from tests.soak.faults import HAPPENINGS, CannotHappenHere
    from tests.soak.night import Night

    happen, around = HAPPENINGS[name]
    began_s = time.monotonic()
    # a short path: Ray's sockets and the job's paths lie in it
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        try:
            with around(Path(folder)) as (arguments, means), Night(Path(folder), **arguments) as night:
                hit = happen(night, means)
                time.sleep(1)  # so that the eye has seen the end
                return Row(
                    name,
                    night.steps_lost,
                    night.num_clips * night.num_steps,
                    None if hit.recovered_s is None else round(hit.recovered_s - hit.over_s, 2),
                    night.eye.num_videos(hit.at_s),
                    night.eye.num_videos(hit.recovered_s or hit.over_s),
                    night.eye.num_videos(time.time()),
                    tuple(night.broken_promises()),
                    seconds=round(time.monotonic() - began_s, 1),
                )
        except CannotHappenHere as error:
            return Row(name, skipped=str(error))
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return Row(name, broken=(f"{type(error).__name__}: {error}",))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("faults", nargs="*", default=list(FAULTS), help=", ".join(FAULTS))
    parser.add_argument("--write", action="store_true", help="write MATRIX.md")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    rows = []
    for name in asked.faults:
        if name not in FAULTS:
            parser.error(f"{name} is none of {', '.join(FAULTS)}")
        rows.append(spend_night(name) if asked.here else in_own_process(FAULTS[name]))
        print(json.dumps(asdict(rows[-1])), flush=True)
    if not asked.here:
        print(markdown(rows))
    if asked.write:
        MATRIX.write_text(markdown(rows))
    return 1 if any(row.broken for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
