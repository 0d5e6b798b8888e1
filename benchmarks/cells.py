"""The cells of the scheduling benchmark: rows, faults, and the earliest end that physics allows. Pure values.

A row is a clip that takes ``true_s`` seconds on a GPU of speed 1; contenders see only ``expected_s``. All of a cell's
chance comes from its seed, so every contender meets the same rows in the same order. Times of faults are shares of
the ideal makespan, so that they fall at the same point of a cell at any scale.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

#: seconds that a replica takes to load its weights, at scale 1
LOAD_S = 1.0
#: estimates are off by up to this share, either way
NOISE = 0.2
SEED = 20261120

#: kinds of clips in the mixed cells: (share, seconds at scale 1, denoising steps)
KINDS = {"short": (0.6, 1.0, 8), "long": (0.3, 3.5, 28), "cascade": (0.1, 5.0, 40)}
#: steps of a heavy-tail row, whatever it takes: nothing about it says how long it will be
TAIL_STEPS = 20


@dataclass(frozen=True)
class Row:
    name: str
    true_s: float
    #: None: nobody has an estimate
    expected_s: float | None
    num_steps: int


@dataclass(frozen=True)
class Preemption:
    """At share ``at`` of the ideal makespan, notice is given; ``notice_s`` (at scale 1) later the node is gone."""

    node: int
    at: float
    notice_s: float


@dataclass(frozen=True)
class Cell:
    name: str
    says: str
    kinds: str = "heavy_tail"
    has_estimates: bool = True
    #: (share of the ideal makespan at which a node comes, its share of all GPUs); the first is there from the start
    nodes: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    preempted: Preemption | None = None
    #: the first GPU takes this many times longer
    slow_factor: float = 1.0
    #: share of the ideal makespan at which a replica's process is killed; None: never
    killed_at: float | None = None


CELLS = {
    cell.name: cell
    for cell in (
        Cell("mixed", "60 % of 1 s, 30 % of 3.5 s, 10 % with a cascade, 5 s", kinds="mixed"),
        Cell("heavy_tail", "lognormal, median 1 s, sigma 0.8, clipped to 0.2-12 s"),
        Cell(
            "spot",
            "heavy tail; half of the GPUs at the start, a quarter at 10 %, a quarter at 20 %; at 50 % the second "
            "quarter gets notice and is gone 2 s later",
            nodes=((0.0, 0.5), (0.1, 0.25), (0.2, 0.25)),
            preempted=Preemption(node=1, at=0.5, notice_s=2.0),
        ),
        Cell("slow_replica", "heavy tail; one GPU takes three times longer", slow_factor=3.0),
        Cell("killed", "heavy tail; one replica's process is killed at 40 %", killed_at=0.4),
        Cell("no_estimates", "the mixed rows in the manifest's order, without estimates", "mixed", False),
    )
}


def make_rows(cell: Cell, num_rows: int, scale: float) -> list[Row]:
    """The rows in the order that every contender gets: longest expected first; the manifest's without estimates."""
    chance = random.Random(SEED)
    rows = []
    for number in range(num_rows):
        if cell.kinds == "mixed":
            kind = chance.choices(list(KINDS), [share for share, _, _ in KINDS.values()])[0]
            _, true_s, num_steps = KINDS[kind]
        else:
            true_s, num_steps = min(12.0, max(0.2, chance.lognormvariate(0, 0.8))), TAIL_STEPS
        noise = 1 + chance.uniform(-NOISE, NOISE)
        expected_s = true_s * scale * noise if cell.has_estimates else None
        rows.append(Row(f"row-{number:05d}", true_s * scale, expected_s, num_steps))
    if cell.has_estimates:
        rows.sort(key=lambda row: -(row.expected_s or 0.0))
    return rows


def node_gpus(cell: Cell, num_replicas: int) -> list[int]:
    """GPUs of each node of the cell; they add up to ``num_replicas``."""
    counts = [max(1, round(share * num_replicas)) for _, share in cell.nodes]
    counts[0] += num_replicas - sum(counts)
    if counts[0] < 1:
        raise ValueError(f"the cell {cell.name} has {len(cell.nodes)} nodes: it needs more replicas")
    return counts


@dataclass(frozen=True)
class Gpu:
    """When one GPU can work, in seconds from the start, and how fast."""

    from_s: float = 0.0
    until_s: float = math.inf
    speed: float = 1.0


def bound_s(durations_s: Sequence[float], gpus: Sequence[Gpu]) -> float:
    """The earliest end that physics allows: all work over the capacity there is, and no less than the longest row.

    Clips may be cut as if they were water: no schedule is faster, and none of whole clips is quite as fast.
    """
    left = sum(durations_s)
    edges = sorted({t for gpu in gpus for t in (gpu.from_s, gpu.until_s) if t < math.inf} | {0.0})
    end_s = math.inf
    for since_s, until_s in zip(edges, [*edges[1:], math.inf], strict=True):
        speed = sum(gpu.speed for gpu in gpus if gpu.from_s <= since_s < gpu.until_s)
        if speed * (until_s - since_s) >= left:
            end_s = since_s + left / speed
            break
        if speed:
            left -= speed * (until_s - since_s)
    if end_s == math.inf:
        raise ValueError("the GPUs are gone before the work is done")
    return max(end_s, min(gpu.from_s + max(durations_s) / gpu.speed for gpu in gpus))
