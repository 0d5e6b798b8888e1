"""References to what Ray will answer, and what each answer means: they become events as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from wanflow.schedule.events import Event

#: makes the event (or none) of a value
OnValue = Callable[[Any], Event | None]
OnError = Callable[[Exception], Event | None]


def nothing(_: object) -> None:
    """An answer that is no news."""


class Answers:
    """Everything that is waited for."""

    def __init__(self) -> None:
        self._waiting: dict[Any, tuple[OnValue, OnError, str]] = {}

    def expect(
        self, reference: Any, on_value: OnValue, on_error: OnError = nothing, *, kind: str = ""
    ) -> None:
        """``kind`` is a name to find it by."""
        self._waiting[reference] = (on_value, on_error, kind)

    def open(self, kind: str) -> list[Any]:
        """References of ``kind`` without an answer."""
        return [reference for reference, expected in self._waiting.items() if expected[2] == kind]

    def __len__(self) -> int:
        return len(self._waiting)

    def collect(self, timeout_s: float) -> list[Event]:
        """Wait for the next answer, up to ``timeout_s``; the events that it, and others that are there, make."""
        waiting = list(self._waiting)
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        if not ready:
            ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout_s)
        events = []
        for reference in ready:
            on_value, on_error, _ = self._waiting.pop(reference)
            try:
                event = on_value(ray.get(reference))
            except RayError as error:
                event = on_error(error)
            if event is not None:
                events.append(event)
        return events

    def forget(self) -> None:
        self._waiting.clear()
