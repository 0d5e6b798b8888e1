"""Step caching: steps that an expert does not compute to their end, since they would be much like those before.

Two ways, both diffusers' own, chosen for each expert. FirstBlockCache: where the first block changed little since the
last computed step, what the other blocks did then is taken again. TaylorSeer: after its first steps an expert is
computed at each so manieth only; between them its output goes on in a line through the last two computed. It looks at
no step, so it is for an expert that goes evenly: on pocket the low-noise one does, and the other does not.

One memory an expert and guidance branch (or both, where they are one forward: then both are skipped or none). It is of
one clip at one size; so the hooks come with a clip and go with it, whatever ended it. They also come after its LoRAs,
which may replace the layer that they hang on. A clip that goes on from saved steps begins with an empty memory, and so
do the steps after guidance has ended, where the branches were one forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from diffusers.hooks import FirstBlockCacheConfig, TaylorSeerCacheConfig

from wanflow.model import Shortcuts

#: an expert's first steps, which are all computed: a line needs two, and the flow turns at first
_FIRST_STEPS = 3


class StepCache:
    """The caches of one or two experts; off until a clip asks for them."""

    def __init__(self, experts: Sequence[Any]) -> None:
        self._experts = list(experts)
        #: identities of the experts that have one now
        self._on: set[int] = set()

    @contextmanager
    def clip(self, shortcuts: Shortcuts | None) -> Iterator[None]:
        """For one denoise loop: the caches are as ``shortcuts`` says, and empty at its beginning."""
        wanted = shortcuts or Shortcuts()
        configs = (_config(wanted.cache, wanted.taylor), _config(wanted.cache_low, wanted.taylor_low))
        with ExitStack() as ends:
            for expert, config in zip(self._experts, configs, strict=False):
                if config is not None and len(expert.blocks) > 1:  # else the first block is all there is
                    expert.enable_cache(config)
                    self._on.add(id(expert))
                    ends.callback(self._end, expert)
            yield

    def branch(self, expert: Any, name: str) -> AbstractContextManager[Any]:
        """For one forward: which guidance branch it is."""
        if id(expert) not in self._on:
            return nullcontext()
        context: AbstractContextManager[Any] = expert.cache_context(name)
        return context

    def _end(self, expert: Any) -> None:
        self._on.discard(id(expert))
        expert.disable_cache()


def _config(threshold: float, interval: int) -> FirstBlockCacheConfig | TaylorSeerCacheConfig | None:
    if interval:
        return TaylorSeerCacheConfig(
            cache_interval=interval,
            disable_cache_before_step=_FIRST_STEPS,
            max_order=1,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,  # the output alone is drawn on; every layer's would be 50 GB on A14B
        )
    return FirstBlockCacheConfig(threshold=threshold) if threshold else None
