"""The work that every contender's actor does: load for a second, then sleep each clip's duration in steps.

Actors leave tracks in a folder, which the benchmark reads: who runs on which GPU, and since when. A slow GPU is slow
whichever process is on it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray


@dataclass(frozen=True)
class Setup:
    folder: str
    load_s: float
    #: node id of the slow GPU (its first) and how many times longer it takes
    slow_node: str = ""
    slow_factor: float = 1.0


class Sleeper:
    """One replica's engine. Made inside the actor: it takes ``load_s``."""

    def __init__(self, setup: Setup) -> None:
        context = ray.get_runtime_context()
        node, gpu = context.get_node_id(), context.get_accelerator_ids()["GPU"][0]
        self._factor = setup.slow_factor if node == setup.slow_node and gpu == "0" else 1.0
        self._tracks = Path(setup.folder, "tracks", f"{node}-{gpu}-{os.getpid()}")
        self._note(event="born", node=node, gpu=gpu, pid=os.getpid())
        time.sleep(setup.load_s)
        self._note(event="ready")

    def work(self, true_s: float, num_steps: int, on_step: Callable[[int], None], first: int = 0) -> None:
        """Sleep what is left of a row after ``first`` steps; ``on_step`` is told the number of steps after each."""
        started_s, step_s = time.monotonic(), true_s * self._factor / num_steps
        for step in range(first + 1, num_steps + 1):
            time.sleep(max(0.0, started_s + (step - first) * step_s - time.monotonic()))
            on_step(step)

    def _note(self, **fact: object) -> None:
        with open(self._tracks, "a") as file:
            file.write(json.dumps({"time_s": time.time(), **fact}) + "\n")


def put_result(folder: str, name: str) -> None:
    """The small result file that a peer's actor leaves for each row, whole or not at all."""
    scratch = Path(folder, "results", f".{name}")
    scratch.write_bytes(b"x" * 1000)
    scratch.rename(scratch.with_name(name))


@dataclass(frozen=True)
class Track:
    """When a replica was born and ready, and on which GPU."""

    node: str
    gpu: str
    pid: int
    born_s: float
    #: None: it never was
    ready_s: float | None


def read_tracks(folder: str) -> list[Track]:
    """Every replica that came up, in the order of birth."""
    found = []
    for path in Path(folder, "tracks").iterdir():
        facts = [json.loads(line) for line in path.read_text().splitlines()]
        born = facts[0]
        ready = next((fact["time_s"] for fact in facts if fact["event"] == "ready"), None)
        found.append(Track(born["node"], born["gpu"], born["pid"], born["time_s"], ready))
    return sorted(found, key=lambda track: track.born_s)
