"""Step caching: an expert whose first block changes little since the last step is not computed to its end.

diffusers' FirstBlockCache does it, with one memory an expert and guidance branch (or both, where they are one forward:
then both are skipped or none). What it remembers is of one clip at one size; so it is forgotten before and after each,
whatever ended it. A clip that goes on from saved steps begins with an empty memory: its first step is computed in full,
and so is the one after guidance ended, where the branches were one forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from diffusers.hooks import FirstBlockCacheConfig

from wanflow.model import Shortcuts


class StepCache:
    """The caches of one or two experts; off until a clip asks for them."""

    def __init__(self, experts: Sequence[Any]) -> None:
        self._experts = list(experts)
        self._thresholds = [0.0] * len(self._experts)

    @contextmanager
    def clip(self, shortcuts: Shortcuts | None) -> Iterator[None]:
        """For one denoise loop: the caches are as ``shortcuts`` says, and empty at both ends."""
        wanted = (shortcuts.cache, shortcuts.cache_low) if shortcuts else (0.0, 0.0)
        for i, expert in enumerate(self._experts):
            self._set(i, expert, wanted[i])
        self._forget()
        try:
            yield
        finally:
            self._forget()

    def branch(self, expert: Any, name: str) -> AbstractContextManager[Any]:
        """For one forward: which guidance branch it is."""
        if not self._thresholds[self._experts.index(expert)]:
            return nullcontext()
        context: AbstractContextManager[Any] = expert.cache_context(name)
        return context

    def _set(self, i: int, expert: Any, threshold: float) -> None:
        if len(expert.blocks) < 2:  # the first block is all there is
            threshold = 0.0
        if threshold == self._thresholds[i]:
            return
        if self._thresholds[i]:
            expert.disable_cache()
        self._thresholds[i] = 0.0
        if threshold:
            expert.enable_cache(FirstBlockCacheConfig(threshold=threshold))
            self._thresholds[i] = threshold

    def _forget(self) -> None:
        for expert, threshold in zip(self._experts, self._thresholds, strict=True):
            if threshold:
                expert._reset_stateful_cache()
