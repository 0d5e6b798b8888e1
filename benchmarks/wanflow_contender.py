"""wanflow as a contender: the real driver loop, scheduler, Ray pool, ledger and records; only the engine sleeps.

A clip is one frame of 16 x 16 pixels: its base latents and its master are put into a workspace on this machine, each
with its record, as in any run. Assembly is left out, as it is for the peers: a variant counts as published as soon as
its clip is rendered.
"""

from __future__ import annotations

import functools
import time
from collections import deque

from benchmarks.cells import Row
from benchmarks.sleeper import Setup
from benchmarks.sleeping_engine import load_sleeping_engine
from wanflow.driver import drive
from wanflow.keys import output_key, stages
from wanflow.ledger import Ledger
from wanflow.model import (
    AssembleVariant,
    Clip,
    EngineSpec,
    Mode,
    Output,
    OutputFile,
    RenderClip,
    Sampling,
    Scene,
    Variant,
)
from wanflow.planning import Plan
from wanflow.pool import RunContext
from wanflow.pool.ray_pool import RayPool
from wanflow.schedule import PlannedRender, Policy, Scheduler
from wanflow.schedule.actions import Action, Assemble
from wanflow.schedule.events import Event, VariantPublished
from wanflow.schedule.state import VariantStatus
from wanflow.storage import Store
from wanflow.timings import shape_key
from wanflow.view import View

WEIGHTS = "sleeping"
_OUTPUT = Output("square", "1x1", 16, 16, 16.0)


class RendersOnly:
    """A pool that renders on ``pool`` and counts variants as published when their assembly is ordered."""

    def __init__(self, pool: RayPool) -> None:
        self._pool = pool
        self._published: deque[Event] = deque()
        self.max_replicas = pool.max_replicas
        self.num_assembly_slots = 10**6

    def perform(self, action: Action) -> None:
        if isinstance(action, Assemble):
            self._published.append(VariantPublished(time.time(), action.key, action.attempt))
        else:
            self._pool.perform(action)

    def next_event(self, timeout_s: float) -> Event | None:
        return self._published.popleft() if self._published else self._pool.next_event(timeout_s)

    def more_events(self) -> list[Event]:
        more = [*self._published, *self._pool.more_events()]
        self._published.clear()
        return more

    def close(self) -> None:
        self._pool.close()


def run_wanflow(rows: list[Row], setup: Setup, num_replicas: int) -> None:
    workspace = Store(f"{setup.folder}/workspace")
    nonce = "runs/benchmark/nonce"
    workspace.write(nonce, b"benchmark")
    renders = {row.name: _render(row) for row in rows}
    assemblies = [_assembly(row, renders[row.name]) for row in rows]
    context = RunContext(
        run_id="benchmark",
        epoch=1,
        workspace=workspace.url,
        target=f"{setup.folder}/published",
        engines={WEIGHTS: _SPEC},
        renders={task.key: task for task in renders.values()},
        assemblies={task.key: task for task in assemblies},
        nonce=(nonce, "benchmark"),
        load_engine=functools.partial(load_sleeping_engine, setup),
    )
    pool = RendersOnly(RayPool(context, address="auto", max_replicas=num_replicas, gpus_per_replica=1))
    scheduler = Scheduler(
        [_planned(row, renders[row.name]) for row in rows],
        [(task, 0) for task in assemblies],
        Policy(max_replicas=num_replicas, max_assemblies=pool.num_assembly_slots),
        epoch=1,
    )
    try:
        drive(scheduler, pool, Ledger(workspace, "benchmark"), _PLAN, View())
    finally:
        pool.close()
    unpublished = [v for v in scheduler.variants.values() if v.status is not VariantStatus.PUBLISHED]
    if unpublished:
        raise RuntimeError(f"{len(unpublished)} rows were not rendered: {unpublished[0].message}")


def _render(row: Row) -> RenderClip:
    sampling = Sampling(row.num_steps, 1.0, None, 1.0, "euler", None)
    clip = Clip(
        Mode.T2V, WEIGHTS, f"{row.name} {row.true_s}", "", None, 0, 16, 16, 1, 16.0, sampling
    )  # fmt: skip
    return RenderClip(clip, stages(clip))


def _planned(row: Row, task: RenderClip) -> PlannedRender:
    """Without an estimate all clips look alike until some of their kind were rendered."""
    work = 1.0 if row.expected_s is None else row.expected_s
    return PlannedRender(task, 0, work, row.expected_s, kind=shape_key(task.clip))


def _assembly(row: Row, render: RenderClip) -> AssembleVariant:
    variant = Variant(row.name, 1, (Scene((("1x1", render.clip),)),), ((_OUTPUT, f"{row.name}.mp4"),))
    file = OutputFile(_OUTPUT, f"{row.name}.mp4", output_key(variant, _OUTPUT), (render.key,))
    return AssembleVariant(variant, (file,))


_SPEC = EngineSpec(
    url="sleeping",
    family="sleeping",
    name="sleeping",
    weights=WEIGHTS,
    modes=frozenset({Mode.T2V}),
    fps=16.0,
    grid=16,
    frame_stride=4,
    sizes=((16, 16),),
    num_frames=1,
    sampling=Sampling(20, 1.0, None, 1.0, "euler", None),
)
_PLAN = Plan({}, (), (), (), (), 0, 0)
