"""What a decision of the scheduler costs.

    python benchmarks/scheduler_core.py --replicas 1000 --clips 100000 [--json]

Plays fault-free runs of 1,000, 10,000 ... up to ``--clips`` clips on ``--replicas`` replicas in virtual time, and
prints for each size the events, microseconds and Python calls an event, and the scheduler's peak memory a clip. Flat
columns are the claim: neither replicas nor clips may make a decision dearer. Calls are counted over every 50th event,
so that the figure does not depend on how busy the machine is; time and memory are measured in runs of their own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.schedule.tasks import assembly, render
from wanflow.schedule import PlannedRender, Policy, Scheduler
from wanflow.schedule.events import Event, RunStarted, Tick
from wanflow.testing import FakePool

#: every how many events calls are counted
SAMPLE = 50


def make(num_clips: int, num_replicas: int) -> tuple[Scheduler, FakePool]:
    pool = FakePool(
        lambda key: 60.0 + 7.0 * (int(key) % 23),
        {f"{i}.mp4": frozenset({str(i)}) for i in range(num_clips)},
        max_replicas=num_replicas,
        num_steps=4,
        tell_story=False,
    )
    shapes = ("480p", "720p", "square")
    scheduler = Scheduler(
        [
            PlannedRender(render(str(i)), i % 2, 1.0, 60.0 + 7.0 * (i % 23), shapes[i % 3], shapes[i % 3])
            for i in range(num_clips)
        ],
        [(assembly(str(i), str(i)), 0) for i in range(num_clips)],
        Policy(max_replicas=num_replicas, max_assemblies=num_replicas),
        epoch=1,
    )
    return scheduler, pool


def play(num_clips: int, num_replicas: int, *, count_calls: bool = False) -> dict[str, float]:
    """One run to its end: events, seconds within the scheduler, calls a counted event, virtual seconds."""
    scheduler, pool = make(num_clips, num_replicas)
    spent_s, num_events, num_calls, num_counted, slowest_s = 0.0, 0, 0, 0, 0.0

    def count(frame: object, what: str, argument: object) -> None:
        nonlocal num_calls
        num_calls += what in ("call", "c_call")

    def handle(event: Event) -> list[object]:
        nonlocal spent_s, num_events, num_counted, slowest_s
        num_events += 1
        # starting up to a thousand replicas belongs to the first event alone
        counts = count_calls and num_events % SAMPLE == 0
        if counts:
            num_counted += 1
            sys.setprofile(count)
        began_s = time.process_time()
        actions = scheduler.handle(event)
        took_s = time.process_time() - began_s
        if counts:
            sys.setprofile(None)
        spent_s += took_s
        slowest_s = max(slowest_s, took_s if num_events > 1 else 0.0)
        return list(actions)

    actions = handle(RunStarted(0.0))
    while not scheduler.finished:
        for action in actions:
            pool.perform(action)  # type: ignore[arg-type]
        actions = handle(pool.next_event(1.0) or Tick(pool.now_s))
    assert len(pool.published) == num_clips
    return {
        "clips": num_clips,
        "replicas": num_replicas,
        "events": num_events,
        "us_per_event": 1e6 * spent_s / num_events,
        "slowest_ms": 1e3 * slowest_s,
        "calls_per_event": num_calls / max(num_counted, 1),
        "makespan_s": pool.now_s,
    }


def memory_bytes(num_clips: int, num_replicas: int) -> int:
    """What the scheduler holds before the first event, replicas included: the largest it gets but for what runs."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [(render(str(i)), assembly(str(i), str(i))) for i in range(num_clips)]
    given = tracemalloc.get_traced_memory()[0]
    scheduler = Scheduler(
        [PlannedRender(clip, 0, 1.0, 60.0 + i % 23) for i, (clip, _) in enumerate(tasks)],
        [(variant, 0) for _, variant in tasks],
        Policy(max_replicas=num_replicas, max_assemblies=num_replicas),
        epoch=1,
    )
    scheduler.handle(RunStarted(0.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert before <= given
    return peak - given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="one line of JSON a size")
    options = parser.parse_args()
    sizes = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size < options.clips] + [options.clips]
    rows = [(size, options.replicas) for size in sizes]
    if options.replicas > 10:
        rows.insert(0, (min(10_000, options.clips), options.replicas // 10))
    if not options.json:
        print("clips      replicas  events      us/event  calls/event  slowest ms  bytes/clip  makespan s")
    for num_clips, num_replicas in rows:
        row = play(num_clips, num_replicas)
        row["calls_per_event"] = play(num_clips, num_replicas, count_calls=True)["calls_per_event"]
        row["bytes_per_clip"] = memory_bytes(num_clips, num_replicas) / num_clips
        if options.json:
            print(json.dumps({name: round(value, 3) for name, value in row.items()}), flush=True)
        else:
            print(
                f"{num_clips:<10} {num_replicas:<9} {row['events']:<11} {row['us_per_event']:<9.1f} "
                f"{row['calls_per_event']:<12.1f} {row['slowest_ms']:<11.1f} {row['bytes_per_clip']:<11.0f} "
                f"{row['makespan_s']:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
