"""How close to the ideal finish a scheduler comes: wanflow, Ray Data and a plain actor pool on the same sleeping rows.

    python benchmarks/scheduling.py [--rows 500] [--replicas 8] [--cell NAME|all] [--contender wanflow,ray_data,...]
                                    [--scale 0.5] [--json]
    python benchmarks/scheduling.py --cpu-only --rows 5000 --replicas 32

Needs a quiet machine: eight replicas start on it, and what else runs is counted against whoever is measured. README.md
beside it says what the cells are, how the bound is computed, and what was measured. Each measurement has a Ray cluster
of its own on this machine, with GPUs that do not exist, and a driver process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # also of the processes that this one starts
os.environ |= {
    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    # a cluster that this process starts and another one joins
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}

from benchmarks.cells import CELLS, LOAD_S, Cell, Gpu, bound_s, make_rows  # noqa: E402
from benchmarks.contenders import CONTENDERS  # noqa: E402
from benchmarks.faults import World  # noqa: E402
from benchmarks.sleeper import Setup, Track, read_tracks  # noqa: E402

#: a contender that takes this many times the bound, and half a minute, is given up
PATIENCE = 6.0


@dataclass(frozen=True)
class Measurement:
    cell: str
    contender: str
    rows: int
    replicas: int
    scale: float
    bound_s: float
    makespan_s: float
    #: mean seconds from a GPU's being there to a replica's being ready on it
    startup_s: float
    #: makespan over the bound
    ratio: float
    #: the same without the start-up
    ratio_up: float
    driver_cpu_ms_per_row: float


def measure(cell: Cell, contender: str, num_rows: int, num_replicas: int, scale: float) -> Measurement:
    """Run one contender through one cell. Raises RuntimeError when it does not get through."""
    rows = make_rows(cell, num_rows, scale)
    true_s = [row.true_s for row in rows]
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = tempfile.mkdtemp(prefix="wanflow-benchmark-", dir=shared)
    for name in ("tracks", "results"):
        Path(folder, name).mkdir()
    try:
        with World(cell, num_replicas, sum(true_s) / num_replicas, scale, folder) as world:
            setup = Setup(folder, LOAD_S * scale, world.head_id, cell.slow_factor)
            asked = {
                "contender": contender, "cell": cell.name, "num_rows": num_rows, "scale": scale,
                "num_replicas": num_replicas, "address": world.address, "setup": asdict(setup),
            }  # fmt: skip
            said = _run_driver(world, asked, 30 + PATIENCE * (30 + sum(true_s) / num_replicas))
            gpus = world.gpus(said["began_s"], LOAD_S * scale)
        if contender != "wanflow":  # which looks itself
            num_done = sum(not path.name.startswith(".") for path in Path(folder, "results").iterdir())
            if num_done != num_rows:
                raise RuntimeError(f"{contender} left {num_rows - num_done} rows undone")
        startup_s = _startup_s(read_tracks(folder), gpus, said["began_s"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    makespan_s = said["ended_s"] - said["began_s"]
    bound = bound_s(true_s, [span for spans in gpus.values() for span in spans])
    return Measurement(
        cell=cell.name,
        contender=contender,
        rows=num_rows,
        replicas=num_replicas,
        scale=scale,
        bound_s=round(bound, 3),
        makespan_s=round(makespan_s, 3),
        startup_s=round(startup_s, 3),
        ratio=round(makespan_s / bound, 4) if bound else 0.0,
        ratio_up=round((makespan_s - startup_s) / bound, 4) if bound else 0.0,
        driver_cpu_ms_per_row=round(1000 * said["cpu_s"] / num_rows, 3),
    )


def _run_driver(world: World, asked: dict[str, Any], limit_s: float) -> dict[str, float]:
    """One contender's driver process, with the cell's faults happening around it."""
    command = [sys.executable, "-m", "benchmarks.contenders", json.dumps(asked)]
    with tempfile.TemporaryFile("w+") as errors:
        driver = subprocess.Popen(command, stdout=errors, stderr=errors, cwd=ROOT)
        try:
            until_s = time.monotonic() + limit_s
            while driver.poll() is None and time.monotonic() < until_s:
                world.let_happen()
                time.sleep(0.02)
        finally:
            late = driver.poll() is None
            driver.kill()
        driver.wait()
        if driver.returncode or late:
            errors.seek(0)
            why = f"had not finished after {limit_s:.0f} s" if late else f"ended with {driver.returncode}"
            raise RuntimeError(f"{asked['contender']} in {asked['cell']} {why}: {errors.read()[-3000:]}")
    return dict(json.loads(Path(asked["setup"]["folder"], "ended").read_text()))


def _startup_s(tracks: list[Track], gpus: dict[tuple[str, str], list[Gpu]], began_s: float) -> float:
    first: dict[tuple[str, str], float] = {}
    for track in tracks:
        if track.ready_s is not None:
            first.setdefault((track.node, track.gpu), track.ready_s)
    took = [ready_s - began_s - gpus[where][0].from_s for where, ready_s in first.items()]
    return sum(took) / len(took)


def markdown(measured: list[Measurement], cpu_only: bool) -> Iterator[str]:
    """The table, a line each."""
    if cpu_only:
        yield "| contender | rows | replicas | driver CPU a row | wall |"
        yield "|---|---|---|---|---|"
        for m in measured:
            cells = [m.contender, f"{m.rows:,}", str(m.replicas), f"{m.driver_cpu_ms_per_row:.2f} ms"]
            yield f"| {' | '.join([*cells, f'{m.makespan_s:.1f} s'])} |"
        return
    yield "| cell | bound | contender | makespan | with start-up | once up | start-up | driver CPU a row |"
    yield "|---|---|---|---|---|---|---|---|"
    for m in measured:
        yield (
            f"| {m.cell} | {m.bound_s:.1f} s | {m.contender} | {m.makespan_s:.1f} s | {m.ratio:.3f} | "
            f"{m.ratio_up:.3f} | {m.startup_s:.1f} s | {m.driver_cpu_ms_per_row:.2f} ms |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--cell", default="all", help=f"all, or some of {', '.join(CELLS)}")
    parser.add_argument(
        "--contender",
        default="wanflow,ray_data,actor_pool",
        help=f"some of {', '.join(CONTENDERS)} (ray_data has two rows in flight at an actor, ray_data_1 one)",
    )
    parser.add_argument("--scale", type=float, default=0.5, help="of all durations (0.05: a smoke test)")
    parser.add_argument(
        "--cpu-only", action="store_true", help="rows of no duration: only the driver's CPU counts"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of figures")
    asked = parser.parse_args()
    cells = list(CELLS) if asked.cell == "all" else asked.cell.split(",")
    contenders = asked.contender.split(",")
    for name, known in [(n, CELLS) for n in cells] + [(n, CONTENDERS) for n in contenders]:
        if name not in known:
            parser.error(f"{name} is none of {', '.join(known)}")
    if asked.cpu_only:
        cells, asked.scale = ["mixed"], 0.0
    measured, failed = [], []
    for cell in cells:
        for contender in contenders:
            try:
                measured.append(measure(CELLS[cell], contender, asked.rows, asked.replicas, asked.scale))
                print(measured[-1], file=sys.stderr)
            except RuntimeError as error:
                failed.append(f"{contender} in {cell}: {error}")
                print(failed[-1], file=sys.stderr)
    print("\n".join(markdown(measured, asked.cpu_only)))
    if asked.json:
        print(json.dumps({"measured": [asdict(m) for m in measured], "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
