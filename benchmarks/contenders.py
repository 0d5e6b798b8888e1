"""The contenders: each renders the same sleeping rows on Ray with one replica a GPU. Run as one process a measurement.

``wanflow``     its own driver loop, scheduler and Ray pool; every row becomes records in a workspace
``ray_data``    Ray Data's ``map_batches`` on a fixed pool of actors, one row a block
``actor_pool``  a plain pool on Ray Core: an actor gets its next row when it has done the last one; what a lost actor
                had comes first again, and another actor takes its place

The process leaves a JSON file ``ended``: when it began and ended, and the CPU seconds (user and system) that the driver
itself took in between. Imports and joining the cluster count for nobody.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cells import CELLS, Row, make_rows
from benchmarks.sleeper import Setup, Sleeper, put_result

Run = Callable[[list[Row], Setup, int], None]


def prepare_wanflow() -> Run:
    from benchmarks.wanflow_contender import run_wanflow

    return run_wanflow


def prepare_ray_data(num_in_flight: int) -> Run:
    import ray
    import ray.data  # its import takes seconds

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False

    class Rows:
        def __init__(self, setup: Setup) -> None:
            self._sleeper, self._folder = Sleeper(setup), setup.folder

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            self._sleeper.work(float(batch["true_s"][0]), int(batch["num_steps"][0]), lambda step: None)
            put_result(self._folder, str(batch["name"][0]))
            return {"name": batch["name"]}

    def run(rows: list[Row], setup: Setup, num_replicas: int) -> None:
        items = [{"name": row.name, "true_s": row.true_s, "num_steps": row.num_steps} for row in rows]
        made = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Rows,
            fn_constructor_args=(setup,),
            batch_size=1,
            num_gpus=1,
            num_cpus=0,
            compute=ray.data.ActorPoolStrategy(
                size=num_replicas, max_tasks_in_flight_per_actor=num_in_flight
            ),
        )
        for _ in made.iter_batches(batch_size=None, prefetch_batches=0):
            pass

    return run


def prepare_actor_pool() -> Run:
    import ray
    from ray.exceptions import RayActorError

    class Actor:
        def __init__(self, setup: Setup) -> None:
            self._sleeper, self._folder = Sleeper(setup), setup.folder

        def ready(self) -> None:
            pass

        def work(self, row: Row) -> None:
            self._sleeper.work(row.true_s, row.num_steps, lambda step: None)
            put_result(self._folder, row.name)

    def run(rows: list[Row], setup: Setup, num_replicas: int) -> None:
        remote = ray.remote(num_gpus=1, num_cpus=0, max_restarts=0)(Actor)
        todo, num_left = rows[::-1], len(rows)
        idle: list[Any] = []
        at_work: dict[Any, tuple[Any, Row | None]] = {}

        def start() -> None:
            actor = remote.remote(setup)
            at_work[actor.ready.remote()] = (actor, None)

        for _ in range(num_replicas):
            start()
        while num_left:
            while todo and idle:
                actor, row = idle.pop(), todo.pop()
                at_work[actor.work.remote(row)] = (actor, row)
            done, _ = ray.wait(list(at_work))
            for reference in done:
                actor, row = at_work.pop(reference)
                try:
                    ray.get(reference)
                except RayActorError:
                    if row is not None:
                        todo.append(row)
                    start()
                else:
                    num_left -= row is not None
                    idle.append(actor)

    return run


#: contender, or its setting -> what makes it
CONTENDERS: dict[str, Callable[[], Run]] = {
    "wanflow": prepare_wanflow,
    "ray_data": lambda: prepare_ray_data(2),
    "ray_data_1": lambda: prepare_ray_data(1),
    "actor_pool": prepare_actor_pool,
}


def main(argument: str) -> None:
    import ray

    asked = json.loads(argument)
    setup = Setup(**asked["setup"])
    rows = make_rows(CELLS[asked["cell"]], asked["num_rows"], asked["scale"])
    ray.init(address=asked["address"], log_to_driver=False, logging_level="warning")
    run = CONTENDERS[asked["contender"]]()
    before = resource.getrusage(resource.RUSAGE_SELF)
    began_s = time.time()
    Path(setup.folder, "began").write_text(str(began_s))
    run(rows, setup, asked["num_replicas"])
    ended_s = time.time()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {"began_s": began_s, "ended_s": ended_s, "cpu_s": cpu_s}
    Path(setup.folder, "ended").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
