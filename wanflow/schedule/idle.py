"""Replicas without work: doubted ones last, else those with the largest GPUs first, and of these the fastest.

A heap an engine; entries that are no longer true are dropped when they come up.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from itertools import count

from wanflow.schedule.estimates import Estimates
from wanflow.schedule.state import ReplicaState, ReplicaStatus


class Idle:
    """``replicas`` and ``doubted`` are the scheduler's own. Resting replicas count as idle, and cannot be popped."""

    def __init__(
        self,
        replicas: Mapping[str, ReplicaState],
        doubted: Mapping[str, Mapping[str, None]],
        estimates: Estimates,
    ) -> None:
        #: by weights
        self.num: Counter[str] = Counter()
        self._replicas, self._doubted = replicas, doubted
        self._estimates = estimates
        #: by weights: (doubted, rung, slowness, idle since, which, name)
        self._heaps: dict[str, list[tuple[bool, int, float, float, int, str]]] = {}
        self._new: list[str] = []
        self._count = count()

    def add(self, replica: ReplicaState, since_s: float) -> None:
        """``replica`` has nothing to do from now on."""
        replica.idle_s = since_s
        self._new.append(replica.replica)
        self.push(replica)

    def push(self, replica: ReplicaState) -> None:
        """Back among the idle ones, since when it was."""
        name, weights = replica.replica, replica.weights
        place = (name in self._doubted.get(weights, ()), replica.rung, self._estimates.slowness(name))
        entry = (*place, replica.idle_s, next(self._count), name)
        heapq.heappush(self._heaps.setdefault(weights, []), entry)

    def pop(self, weights: str) -> ReplicaState | None:
        """The first; give it something to do, or back with ``push``."""
        heap = self._heaps.get(weights, [])
        while heap:
            *_, since_s, _, name = heapq.heappop(heap)
            replica = self._replicas.get(name)
            if replica and replica.status is ReplicaStatus.IDLE and replica.idle_s == since_s:
                return replica
        return None

    def take_new(self) -> list[ReplicaState]:
        """Replicas that got nothing to do since this was asked last, and have nothing still."""
        names, self._new = self._new, []
        found = (self._replicas.get(name) for name in names)
        return [replica for replica in found if replica and replica.status is ReplicaStatus.IDLE]
