"""The engine and the driver of the soak tests: real runs on Ray whose clips take seconds and leave tracks.

``python -m tests.soak.stepping JOB --address A --tracks FOLDER --step-s S`` is ``wanflow run`` with an engine that
sleeps through its steps instead of computing them. Every step of every replica is a line in ``FOLDER``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from wanflow import Job, driver, run
from wanflow.model import Clip, EngineSpec
from wanflow.schedule import Policy
from wanflow.testing import FakeEngine
from wanflow.view import JsonView

#: a step that takes longer hangs: nights are too short for the two minutes that a run gives it
HANG_S = 20.0


class SteppingEngine(FakeEngine):
    """A fake engine that takes ``step_s`` a step.

    It loads torch and codecs when it starts, as an engine does: read from a busy disk in the middle of a clip they
    look like a hang.
    """

    def __init__(self, spec: EngineSpec, tracks: str, step_s: float) -> None:
        super().__init__(spec)
        import av  # noqa: F401
        import safetensors.torch  # noqa: F401

        self._step_s = step_s
        self._tracks = Path(tracks, str(os.getpid()))
        self._tracks.touch()

    def take_step(self, clip: Clip, stage: str, step: int) -> None:
        time.sleep(self._step_s)
        with open(self._tracks, "a") as file:
            file.write(f"{time.time()} {step - 1} {clip.prompt}\n")


def load_stepping_engine(
    tracks: str, step_s: float, spec: EngineSpec, device: str | None, num_threads: int | None
) -> SteppingEngine:
    return SteppingEngine(spec, tracks, step_s)


@dataclass(frozen=True)
class Step:
    """One step of a clip that a replica has done."""

    time_s: float
    pid: int
    prompt: str
    step: int


def read_steps(tracks: Path) -> list[Step]:
    """All steps so far, in the order of time."""
    found = []
    for path in tracks.iterdir():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                time_s, step, prompt = line.rstrip("\n").split(" ", 2)
                found.append(Step(float(time_s), int(path.name), prompt, int(step)))
    return sorted(found, key=lambda step: step.time_s)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    parser.add_argument("--address", required=True)
    parser.add_argument("--tracks", required=True)
    parser.add_argument("--step-s", type=float, required=True)
    asked = parser.parse_args()
    driver.Policy = functools.partial(Policy, hang_floor_s=HANG_S)  # type: ignore[assignment, misc]
    load = functools.partial(load_stepping_engine, asked.tracks, asked.step_s)
    outcome = run(Job.load(asked.job), address=asked.address, load_engine=load, view=JsonView())
    print(json.dumps({"event": "Outcome", "time_s": time.time(), **outcome.to_json()}), flush=True)
    return outcome.exit_code


if __name__ == "__main__":
    # its classes must have a name that replicas can import
    from tests.soak import stepping

    raise SystemExit(stepping.main())
