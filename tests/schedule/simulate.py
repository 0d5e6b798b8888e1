"""Thousands of random schedules: ``python -m tests.schedule.simulate --schedules 20000 [--first SEED]``.

Ends with a line that says how many were played, in which time, and what was met in them; with 1 and the story of the
first seed that broke a promise.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.schedule.worlds import Broken, draw_world, kind, play


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument(
        "--keep-going", action="store_true", help="count what breaks instead of stopping at it"
    )
    options = parser.parse_args()
    began_s = time.process_time()
    met: Counter[str] = Counter()
    num_events = num_broken = 0
    for seed in range(options.first, options.first + options.schedules):
        world = draw_world(seed)
        try:
            _, pool = play(kind(world) if seed % 20 == 0 else world)
        except Broken as broken:
            num_broken += 1
            lines = str(broken).splitlines()
            print("\n".join(lines[:1] if options.keep_going else lines), flush=True)
            if not options.keep_going:
                return 1
            continue
        num_events += len(pool.story)
        met.update(type(fact).__name__ for _, fact in pool.story)
        met.update(str(getattr(fact, "reason", "")) for _, fact in pool.story if hasattr(fact, "reason"))
    seconds = time.process_time() - began_s
    print(
        f"{options.schedules} schedules, {num_events} events and actions, {seconds:.0f} s, {num_broken} broken"
    )
    print(", ".join(f"{name} {num}" for name, num in met.most_common()))
    return 1 if num_broken else 0


if __name__ == "__main__":
    sys.exit(main())
