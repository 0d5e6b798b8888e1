"""Planning at size: N rows against a workspace of N records, then the same again with nothing changed.

::

    python -m benchmarks.planning [--rows N[,N...]] [--changed SHARE] [--json]

The manifest has six columns that templates use; a hundred rows share a clip; there are N/50 packshots (at most 2,000),
and every row has a headline of its own. In seconds of processor time, start of the interpreter left out:

``rows_per_s``   rows through ``make_plan`` with SHARE of them changed (default 1 %)
``rerun_s``      a whole ``run`` that finds nothing to do, the night after one that found the same
``first_quiet_s``  that one
``peak_mb``      memory of the process at its highest

The stores are pretended (``pretended_store``): what the listings of a real one take comes on top, and what it takes to
make up these is taken off.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import pretended_store
from wanflow import Job, run
from wanflow.inputs import Inputs
from wanflow.keys import output_key
from wanflow.listing import weigh
from wanflow.manifest import read_variants
from wanflow.model import Record, StoredFile, Variant
from wanflow.parquet import dump_table
from wanflow.planning import make_plan, read_engines
from wanflow.publish import poster_path, record_path
from wanflow.record_table import table_of
from wanflow.storage import Store
from wanflow.storage.stat import Stat

WORKSPACE, TARGET = "pretended://work", "pretended://ads"
ROWS_A_CLIP = 100
T = TypeVar("T")


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--changed", type=float, default=0.01)
    parser.add_argument("--json", action="store_true", help="one line a size, nothing else")
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [int(text) for text in arguments.rows.split(",")]
    if arguments.stage:
        stage, folder = arguments.stage
        prepare(Path(folder), sizes[0]) if stage == "prepare" else measure(
            Path(folder), sizes[0], arguments.changed
        )
        return
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="wanflow-planning-") as folder:
            command = [sys.executable, "-m", "benchmarks.planning", "--rows", str(size)]
            command += ["--changed", str(arguments.changed), "--stage"]
            subprocess.run([*command, "prepare", folder], check=True, stdout=sys.stderr)
            done = subprocess.run(
                [*command, "measure", folder], check=True, stdout=subprocess.PIPE, text=True
            )
        line = done.stdout.splitlines()[-1]
        facts = json.loads(line)
        words = (
            f"{size:>10,} rows: {facts['rows_per_s']:>7,} rows/s; unchanged {facts['first_quiet_s']:.1f} s, then "
            f"{facts['rerun_s']:.1f} s; peak {facts['peak_mb']:,} MB"
        )
        print(line if arguments.json else words, flush=True)


def prepare(folder: Path, num_rows: int) -> None:
    """Manifest, pictures, and the index of a workspace in which everything is published."""
    (folder / "shots").mkdir()
    old = time.time() - 60
    for number in range(max(1, min(2_000, num_rows // 50))):
        Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(folder / f"shots/{number}.png")
        os.utime(folder / f"shots/{number}.png", (old, old))
    write_rows(folder, num_rows, 0.0)
    job = job_of(folder)
    pretended_store.pretend()
    workspace, target = Store(WORKSPACE), Store(TARGET)

    def records() -> Iterator[tuple[Record, bytes]]:
        for number, variant in enumerate(read_variants(job, read_engines(job), Inputs(folder))):
            assert isinstance(variant, Variant), variant
            [(output, path)] = variant.outputs
            record = _record(number, variant.variant_id, path, output_key(variant, output))
            yield record, weigh(record_path(target, workspace, path), 0, record.etag)

    (folder / "index.parquet").write_bytes(dump_table(table_of(records())))


def _record(number: int, variant_id: str, path: str, key: str) -> Record:
    files = (
        StoredFile(path, hashlib.sha256(path.encode()).hexdigest(), 1_000_000 + number, f"v{number}"),
        StoredFile(poster_path(path), hashlib.sha256(b"p" + path.encode()).hexdigest(), 50_000, f"p{number}"),
    )
    info = {
        "gpu_seconds": 1.5, "cost": 0.01, "job": "planning", "reason": "new", "path": path, "variant_id": variant_id,
        "output": "story", "run_id": "20261101T020000.000Z-planning-abcdef", "made_at": 1_790_000_000.0 + number,
    }  # fmt: skip
    return Record(key, files, "1.1", tuple(info.items()), f"r{number}")


def measure(folder: Path, num_rows: int, changed: float) -> None:
    """Print the figures of one size as a line of JSON."""
    pretended_store.pretend()
    workspace, target = Store(WORKSPACE), Store(TARGET)
    (name,) = {record_path(target, workspace, "x").split("/")[1]}
    workspace.write(f"published-{name}.parquet", (folder / "index.parquet").read_bytes())

    def records() -> Iterator[Stat]:
        for number in range(num_rows):
            yield Stat(record_path(target, workspace, path_of(number)), 700, f"r{number}")

    def files() -> Iterator[Stat]:
        for number in range(num_rows):
            yield Stat(path_of(number), 1_000_000 + number, f"v{number}")
            yield Stat(poster_path(path_of(number)), 50_000, f"p{number}")

    pretended_store.formulas[WORKSPACE] = {f"published/{name}/": records}
    pretended_store.formulas[TARGET] = {"": files}
    job = job_of(folder)
    time.sleep(3)  # files younger than that are not trusted
    first, first_s = timed(lambda: run(job, inline=True))
    assert first.counts["unchanged"] == num_rows, first
    second, rerun_s = timed(lambda: run(job, inline=True))
    assert second.counts == first.counts, second
    write_rows(folder, num_rows, changed)
    plan, plan_s = timed(lambda: make_plan(job, workspace, target))
    assert len(plan.to_assemble) == round(num_rows * changed), len(plan.to_assemble)
    facts = {
        "rows": num_rows,
        "rows_per_s": round(num_rows / plan_s),
        "plan_s": round(plan_s, 2),
        "first_quiet_s": round(first_s, 2),
        "rerun_s": round(rerun_s, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(facts))


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """What ``action`` returns, and the seconds of processor time that it took, all threads together."""
    before_s, pretence_s = time.process_time(), pretended_store.spent_s()
    result = action()
    return result, time.process_time() - before_s - (pretended_store.spent_s() - pretence_s)


def path_of(number: int) -> str:
    return f"c{number:07d}/story.mp4"


def job_of(folder: Path) -> Job:
    return Job.from_dict(
        {
            "wanflow": 1,
            "name": "planning",
            "manifest": {"url": "manifest.parquet", "where": "opted_in = true"},
            "engine": {"checkpoint": "pocket"},
            "clip": {
                "prompt": "{{ product }} on {{ surface|lower }}, slow push-in",
                "image": "{{ shot }}",
                "aspect": "9x16",
                "seconds": 2,
            },
            "layers": [
                {"image": {"url": "{{ logo }}", "at": "top-left", "height": "8%"}},
                {"text": {"value": "{{ headline|trim }}", "at": "lower-third", "style": "headline"}},
            ],
            "outputs": [{"name": "story", "preset": "instagram-story"}],
            "publish": {"url": TARGET, "path": "{{ variant_id }}/{{ output }}.mp4", "carry": ["segment"]},
            "workspace": WORKSPACE,
        },
        folder,
    )


def write_rows(folder: Path, num_rows: int, changed: float) -> None:
    """The manifest; the headline of the first ``changed`` of its rows is another one."""
    num_shots = max(1, min(2_000, num_rows // 50))
    num_changed = round(num_rows * changed)
    with pq.ParquetWriter(folder / "manifest.parquet", _SCHEMA, compression="zstd") as writer:
        for start in range(0, num_rows, 100_000):
            numbers = range(start, min(start + 100_000, num_rows))
            clips = [number // ROWS_A_CLIP for number in numbers]
            columns = {
                "variant_id": [f"c{number:07d}" for number in numbers],
                "product": [f"chair {clip}" for clip in clips],
                "surface": [("Oak", "Slate", "Linen")[clip % 3] for clip in clips],
                "shot": [f"shots/{clip % num_shots}.png" for clip in clips],
                "logo": [f"shots/{clip % 10 % num_shots}.png" for clip in clips],
                "headline": [f"{'Bye' if n < num_changed else 'Hello'} customer {n}" for n in numbers],
                "segment": [f"s{number % 7}" for number in numbers],
                "opted_in": [True] * len(numbers),
            }
            writer.write_table(pa.table(columns, schema=_SCHEMA))


_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("variant_id", "product", "surface", "shot", "logo", "headline", "segment")),
     ("opted_in", pa.bool_())]
)  # fmt: skip

if __name__ == "__main__":
    main()
