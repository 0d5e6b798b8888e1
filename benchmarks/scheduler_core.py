"""What a decision of the scheduler costs.

    python benchmarks/scheduler_core.py --replicas 1000 --clips 100000 [--json]

Plays fault-free runs of 1,000, 10,000 ... up to ``--clips`` clips on a hundredth, a tenth and all of ``--replicas``
replicas in virtual time, and prints for each size the events, Python calls and microseconds an event, microseconds
relative to the first row's, and the scheduler's peak memory a clip. Flat columns are the claim: neither replicas nor
clips may make a decision dearer. A run is played once; its events are then handled again by a fresh scheduler, once
timed and once with the calls of every 50th event counted, so that neither the pretended world nor the clock is in the
figures. Calls and bytes do not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import gc
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
#: where nothing is to be looked at before
LONGEST_WAIT_S = 3600.0


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


def play(num_clips: int, num_replicas: int) -> list[Event]:
    """One run to its end: everything that the scheduler heard, in order."""
    scheduler, pool = make(num_clips, num_replicas)
    events: list[Event] = [RunStarted(0.0)]
    while True:
        for action in scheduler.handle(events[-1]):
            pool.perform(action)
        if scheduler.finished:
            break
        wake_s = scheduler.next_wake_s
        wait_s = LONGEST_WAIT_S if wake_s is None else max(0.0, wake_s - pool.now_s)
        events.append(pool.next_event(wait_s) or Tick(pool.now_s))
    assert len(pool.published) == num_clips
    return events


def seconds(num_clips: int, num_replicas: int, events: list[Event]) -> float:
    """Processor time for handling all ``events``."""
    scheduler, _ = make(num_clips, num_replicas)
    gc.collect()
    began_s = time.process_time()
    for event in events:
        scheduler.handle(event)
    took_s = time.process_time() - began_s
    assert scheduler.finished
    return took_s


def calls(num_clips: int, num_replicas: int, events: list[Event]) -> float:
    """Python calls in handling one of ``events``, the mean of every SAMPLE-th; the first, which starts all replicas, is
    none of them."""
    scheduler, _ = make(num_clips, num_replicas)
    num_calls = num_counted = 0

    def count(frame: object, what: str, argument: object) -> None:
        nonlocal num_calls
        num_calls += what in ("call", "c_call")

    for number, event in enumerate(events, 1):
        if number % SAMPLE:
            scheduler.handle(event)
            continue
        num_counted += 1
        sys.setprofile(count)
        scheduler.handle(event)
        sys.setprofile(None)
    return num_calls / max(num_counted, 1)


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
    parser.add_argument("--json", action="store_true", help="end with one line of figures")
    options = parser.parse_args()
    clips = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size < options.clips] + [options.clips]
    replicas = sorted({max(1, options.replicas // part) for part in (100, 10, 1)})
    sizes = [(1_000, some) for some in replicas] + [(num, replicas[-1]) for num in clips if num != 1_000]
    print("| clips | replicas | events | calls an event | us an event | relative | bytes a clip |")
    print("|---|---|---|---|---|---|---|", flush=True)
    measured: list[dict[str, float]] = []
    for num_clips, num_replicas in sizes:
        events = play(num_clips, num_replicas)
        row: dict[str, float] = {
            "clips": num_clips,
            "replicas": num_replicas,
            "events": len(events),
            "calls_per_event": round(calls(num_clips, num_replicas, events), 1),
            "us_per_event": round(1e6 * seconds(num_clips, num_replicas, events) / len(events), 1),
        }
        events.clear()
        row["bytes_per_clip"] = round(memory_bytes(num_clips, num_replicas) / num_clips)
        measured.append(row)
        print(
            f"| {num_clips:,} | {num_replicas:,} | {row['events']:,} | {row['calls_per_event']} | "
            f"{row['us_per_event']} | {row['us_per_event'] / measured[0]['us_per_event']:.2f} | "
            f"{row['bytes_per_clip']:,} |",
            flush=True,
        )
    if options.json:
        print(json.dumps({"measured": measured}))


if __name__ == "__main__":
    main()
