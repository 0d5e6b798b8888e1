"""Keeps the steps of the stage that a replica is at: from time to time beside the rendering, and when told to.

A save is written by a thread of its own, so that no step waits for the store, and only one is under way at a time: on
a slow store saves become rarer, not the clip later. One that fails costs the steps since the one before, never the
clip. Knows the store and a stage; neither Ray nor torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from wanflow.engines import Unfinished, dump_unfinished
from wanflow.errors import Cancelled
from wanflow.model import Attempt
from wanflow.steps import clear_steps, newest_steps, put_steps
from wanflow.storage import Store


class Saved(Cancelled):
    """The attempt was told to save and has ended; what it could keep is in the store."""


class Keeper:
    """A :class:`wanflow.engines.Keep` for one stage of one attempt.

    ``start`` is the furthest steps in the store that ``load`` takes; EngineError from it passes a file over.
    """

    def __init__(
        self,
        store: Store,
        stage: str,
        key: str,
        attempt: Attempt,
        load: Callable[[bytes], Unfinished],
        *,
        every_s: float,
        must_save: Callable[[], bool] = lambda: False,
        on_kept: Callable[[str, int], None] = lambda stage, step: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        found = newest_steps(store, key, load)
        self.start: Unfinished | None = found[1] if found else None
        #: steps that are in the store
        self.kept = self.start.step if self.start else 0
        self.stage, self.key = stage, key
        self._store, self._attempt = store, attempt
        self._every_s, self._must_save, self._on_kept, self._clock = every_s, must_save, on_kept, clock
        self._since_s = clock()
        self._writing: threading.Thread | None = None

    def begin_at(self, state: Unfinished) -> None:
        """Where to begin when the store has no steps of the stage: at a state that it holds elsewhere."""
        if self.start is None:
            self.start, self.kept = state, state.step

    def offer(self, step: int, num_steps: int, take: Callable[[], Unfinished]) -> None:
        if self._must_save():
            self.wait()
            self._write(take())  # told by the attempt's end
            raise Saved(f"saved after step {step} of {num_steps}")
        due = self._clock() - self._since_s >= self._every_s
        if due and step < num_steps and (self._writing is None or not self._writing.is_alive()):
            self._since_s = self._clock()
            self._writing = threading.Thread(
                target=self._write_and_tell, args=(take(),), name="wanflow-steps", daemon=True
            )
            self._writing.start()

    def keep(self, state: Unfinished) -> bool:
        """Go on from ``state``, and put it into the store now; False: the store did not take it."""
        self.wait()
        self.start = state
        if kept := self._write(state):
            self._on_kept(self.stage, state.step)
        return kept

    def wait(self) -> None:
        """Wait for the save that is under way."""
        if self._writing is not None:
            self._writing.join()

    def clear(self) -> None:
        """Delete the stage's steps: it has its record, or nothing good would come of them."""
        self.wait()
        clear_steps(self._store, self.key)
        self.kept = 0

    def _write(self, state: Unfinished) -> bool:
        try:
            put_steps(self._store, self.key, state.step, self._attempt, dump_unfinished(state))
        except Exception:  # noqa: BLE001 - whatever a save can run into: the clip goes on without it
            return False
        self.kept = state.step
        return True

    def _write_and_tell(self, state: Unfinished) -> None:
        if self._write(state):
            self._on_kept(self.stage, state.step)
