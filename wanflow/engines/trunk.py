"""A denoise loop that ends at the branch (or the boundary between two experts), and one that begins there.

Both are a :class:`~wanflow.engines.Keep`: what a loop does with its steps is all that a branch changes. Knows no clips,
prompts or files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wanflow.engines.unfinished import Keep, Unfinished


class BranchReached(Exception):
    """The trunk is made; ends the loop that made it."""


class ToBranch:
    """Ends the loop after ``num_steps`` steps with :class:`BranchReached`; ``reached`` is its state then.

    ``keep`` gets the steps on the way, counted to the branch.
    """

    def __init__(self, num_steps: int, keep: Keep | None) -> None:
        self.start = keep.start if keep is not None else None
        self.reached = self.start if self.start is not None and self.start.step >= num_steps else None
        self._num_steps, self._keep = num_steps, keep

    def offer(self, step: int, num_steps: int, take: Callable[[], Unfinished]) -> None:
        if self._keep is not None:
            self._keep.offer(step, self._num_steps, take)
        if step >= self._num_steps:
            self.reached = take()
            raise BranchReached


class FromBranch:
    """Goes on from ``trunk``, unless ``keep`` has steps beyond it."""

    def __init__(self, trunk: Unfinished, keep: Keep | None) -> None:
        kept = keep.start if keep is not None else None
        self.start: Unfinished | None = trunk if kept is None else kept
        self._keep = keep

    def offer(self, step: int, num_steps: int, take: Callable[[], Unfinished]) -> None:
        if self._keep is not None:
            self._keep.offer(step, num_steps, take)
