"""Seconds of a clip by stage, true for the clip and fit for a bill.

Two clips of a replica may be under way at once, and a second of its GPU is paid for once: what a clip decodes beside
another one's steps is told as ``decode_beside``, which its clip took and the other one pays. Steps of the next clip are
told as ``ahead``, and paid by that one (``Watch.on_ahead``).
"""

from __future__ import annotations

import threading
import time

#: (stage, seconds)
Seconds = tuple[tuple[str, float], ...]

#: stages that keep no GPU busy that another stage, or another clip, is not billed for
UNBILLED = frozenset({"store", "wait", "decode_beside", "ahead"})


class StageTimer:
    """Each second belongs to the stage entered last. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._stage = "encode"
        self._is_beside = False
        self._since_s = time.perf_counter()

    @property
    def stage(self) -> str:
        return self._stage

    def enter(self, stage: str) -> None:
        with self._lock:
            self._count()
            self._stage = stage

    def set_beside(self, is_beside: bool) -> None:
        """Whether another clip has the engine's forwards from now on."""
        with self._lock:
            self._count()
            self._is_beside = is_beside

    def seconds(self) -> Seconds:
        with self._lock:
            self._count()
            return tuple(self._seconds.items())

    def _count(self) -> None:
        now_s = time.perf_counter()
        name = "decode_beside" if self._is_beside and self._stage == "decode" else self._stage
        self._seconds[name] = self._seconds.get(name, 0.0) + now_s - self._since_s
        self._since_s = now_s
