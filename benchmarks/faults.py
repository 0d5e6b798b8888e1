"""The cluster of one measurement: nodes that come and go, a process that is killed. What happened, and when.

Ray's own test cluster: every node is a raylet on this machine with GPUs that do not exist. Runs in the process that
measures, not in the driver that is measured.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from benchmarks.cells import Cell, Gpu, node_gpus
from benchmarks.sleeper import read_tracks

#: the GPU of the first node whose replica is killed
KILLED_GPU = "1"


class World:
    """``ideal_s``: the makespan at full capacity from the start, which the times of the faults are shares of."""

    def __init__(self, cell: Cell, num_replicas: int, ideal_s: float, scale: float, folder: str) -> None:
        self._cell, self._folder = cell, folder
        self._counts = node_gpus(cell, num_replicas)
        self._nodes: list[Any] = []
        #: when each node came and went (seconds since 1970)
        self._came_s: list[float] = []
        self._gone_s: dict[int, float] = {}
        self._killed_s: float | None = None
        self._began_s: float | None = None
        self._due: list[tuple[float, Callable[[], None]]] = []
        for number, (at, _) in enumerate(cell.nodes[1:], 1):
            self._due.append((at * ideal_s, lambda number=number: self._add(number)))  # type: ignore[misc]
        if (gone := cell.preempted) is not None:
            self._due.append((gone.at * ideal_s, lambda: self._notice(gone.node, gone.notice_s * scale)))
            self._due.append((gone.at * ideal_s + gone.notice_s * scale, lambda: self._remove(gone.node)))
        if cell.killed_at is not None:
            self._due.append((cell.killed_at * ideal_s, self._kill))
        self._due.sort(key=lambda each: each[0])

    def __enter__(self) -> World:
        self._cluster = Cluster()
        self._add(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @property
    def head_id(self) -> str:
        return str(self._nodes[0].node_id)

    def let_happen(self) -> None:
        """Whatever is due by now, counted from the moment that the driver began."""
        if self._began_s is None:
            began = Path(self._folder, "began")
            if not began.exists() or not (text := began.read_text()):
                return
            self._began_s = float(text)
        while self._due and time.time() - self._began_s >= self._due[0][0]:
            self._due.pop(0)[1]()

    def gpus(self, began_s: float, load_s: float) -> dict[tuple[str, str], list[Gpu]]:
        """Every GPU by (node, index), with the times in which it could work: not while a killed replica is replaced."""
        found = {}
        for number, node in enumerate(self._nodes):
            from_s = max(0.0, self._came_s[number] - began_s)
            until_s = self._gone_s[number] - began_s if number in self._gone_s else math.inf
            for index in range(self._counts[number]):
                is_slow = number == 0 and index == 0
                speed = 1 / self._cell.slow_factor if is_slow else 1.0
                found[str(node.node_id), str(index)] = [Gpu(from_s, until_s, speed)]
        if self._killed_s is not None:
            at_s = self._killed_s - began_s
            found[self.head_id, KILLED_GPU] = [Gpu(until_s=at_s), Gpu(from_s=at_s + load_s)]
        return found

    def _add(self, number: int) -> None:
        num_gpus = self._counts[number]
        node = self._cluster.add_node(
            num_gpus=num_gpus, num_cpus=2 * num_gpus, include_dashboard=False, object_store_memory=150 * 2**20
        )
        self._nodes.append(node)
        self._came_s.append(time.time())

    def _notice(self, number: int, notice_s: float) -> None:
        deadline_ms = int((time.time() + notice_s) * 1000)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client = GcsClient(address=self.address)
        accepted, why = client.drain_node(self._nodes[number].node_id, reason, "spot", deadline_ms)
        if not accepted:
            raise RuntimeError(f"Ray did not accept the notice: {why}")

    def _remove(self, number: int) -> None:
        self._gone_s[number] = time.time()
        self._cluster.remove_node(self._nodes[number], allow_graceful=False)

    def _kill(self) -> None:
        here = [t for t in read_tracks(self._folder) if (t.node, t.gpu) == (self.head_id, KILLED_GPU)]
        if not here or here[-1].ready_s is None:  # it came up late
            self._due.insert(0, (time.time() - (self._began_s or 0.0) + 0.1, self._kill))
            return
        self._killed_s = time.time()
        os.kill(here[-1].pid, signal.SIGKILL)
