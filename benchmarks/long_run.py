"""A night of one replica: ``python -m benchmarks.long_run [--clips 500] [--steps 12] [--json]``.

Pocket's clips, each with a prompt and a seed of its own, text-to-video and image-to-video in turns and in its three
shapes, one after the other on one replica, with records and masters as in any run. Every fiftieth is the very first
clip again, its records taken away: its latents must be the same bytes. A line each time: resident memory, seconds
a clip since the last line, and whether the first clip came out the same.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wanflow.engines import read_spec
from wanflow.keys import stages
from wanflow.model import Attempt, EngineSpec, RenderClip
from wanflow.pocket.render import clip_of, sample_cases
from wanflow.pool import RunContext
from wanflow.pool.processes import memory_bytes
from wanflow.pool.rendering import LATENTS, Watch
from wanflow.pool.replica import Rendered, Replica
from wanflow.records import clip_record, file_of, forget_clip
from wanflow.storage import Store

EVERY = 50


@dataclass(frozen=True)
class Line:
    clips: int
    memory_mb: float
    clip_s: float
    same: bool


def measure(num_clips: int, num_steps: int) -> Iterator[Line]:
    """A line every EVERY clips."""
    spec = read_spec("pocket")
    with tempfile.TemporaryDirectory(prefix="wanflow-night-") as folder:
        store = Store(folder)
        store.write("nonce", b"night")
        context = RunContext("night", 1, store.url, "", {spec.weights: spec}, {}, {}, ("nonce", "night"))
        replica = Replica(context, spec.weights, None, None)
        tasks = list(_tasks(spec, folder, num_clips, num_steps))
        began_s, first = time.perf_counter(), ""
        for number, task in enumerate(tasks, 1):
            _render(replica, task, number)
            if number == 1:
                first = _latents(store, task)
            if number % EVERY and number != num_clips:
                continue
            took_s = time.perf_counter() - began_s
            for stage in tasks[0].stages:
                forget_clip(store, stage.key)
            _render(replica, tasks[0], num_clips + number)
            gc.collect()
            yield Line(
                number,
                round((memory_bytes() or 0) / 1e6, 1),
                round(took_s / (number % EVERY or EVERY), 2),
                _latents(store, tasks[0]) == first,
            )
            began_s = time.perf_counter()


def _tasks(spec: EngineSpec, folder: str, num_clips: int, num_steps: int) -> Iterator[RenderClip]:
    """Clips with their stages; first frames are put where a replica finds them."""
    half = (num_clips + 1) // 2
    cases = zip(sample_cases(half, 1), sample_cases(half, 2, images=True), strict=True)
    for case in [case for pair in cases for case in pair][:num_clips]:
        clip = clip_of(case, spec)
        if case.image is not None and clip.image is not None:
            path = Path(folder, f"{clip.image.digest}.png")
            path.write_bytes(case.image)
            clip = replace(clip, image=replace(clip.image, url=str(path)))
        clip = replace(clip, sampling=replace(clip.sampling, steps=num_steps))
        yield RenderClip(clip, stages(clip))


def _render(replica: Replica, task: RenderClip, number: int) -> None:
    made = replica.render(task, Attempt(1, number), Watch(lambda stage, step, of: None))
    assert isinstance(made, Rendered)


def _latents(store: Store, task: RenderClip) -> str:
    record = clip_record(store, task.stages[0].key)
    assert record is not None
    return hashlib.sha256(store.read(file_of(record, LATENTS).path)).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_run", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="end with one line of figures")
    asked = parser.parse_args()
    print("| clips | resident memory | seconds a clip | first clip the same |\n|---|---|---|---|")
    lines = []
    for line in measure(asked.clips, asked.steps):
        lines.append(line)
        same = "yes" if line.same else "no"
        print(f"| {line.clips} | {line.memory_mb:.0f} MB | {line.clip_s:.2f} | {same} |", flush=True)
    if asked.json:
        print(json.dumps([asdict(line) for line in lines]))
    return 0 if all(line.same for line in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
