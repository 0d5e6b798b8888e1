"""The experts' blocks, compiled by torch: one graph serves all of them, at every size and length.

A block's own forward is compiled, beneath whatever hangs on it: what the step cache and the memory ladder decide stays
outside of the graph. Sizes, frames and prompts are symbols in it, so a mixed manifest compiles nothing after the first
clip of its kind. Kinds are few: times a frame or a token (image-to-video), both guidance branches at once, and which
layers have a LoRA of which rank (in steps of 32); each is compiled once a process, in a minute or less.

Compiled code rounds otherwise than torch's own kernels, as another attention kernel does; ``exact`` is never compiled.
Where compiling fails, blocks are computed as they are, with one warning. Compiled code is kept on the node's disk, for
processes that start later, tonight or in the next run: ``<WANFLOW_CACHE>/compiled``, or ``TORCHINDUCTOR_CACHE_DIR``
where that is set.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from wanflow import node_cache

#: kinds of graphs a process keeps (torch's own limit of 8 is soon reached by styles of many shapes); beyond it, a new
#: kind is not compiled
_MAX_KINDS = 64

log = logging.getLogger(__name__)

Forward = Callable[..., Any]


class CompiledBlocks:
    """The forwards of the experts' blocks: compiled while ``is_on``, else as they are."""

    def __init__(self, experts: Sequence[Any]) -> None:
        self.is_on = False
        #: of torch.compile; read when a block is first compiled
        self.backend = "inductor"
        self._has_failed = False
        for expert in experts:
            for block in expert.blocks:
                block.forward = self._either(block.forward)

    def _either(self, plain: Forward) -> Forward:
        compiled: Forward | None = None

        @functools.wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal compiled
            if not self.is_on or self._has_failed:
                return plain(*args, **kwargs)
            if compiled is None:
                compiled = self._compile(plain)
            try:
                return compiled(*args, **kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001  compilers fail in any way
                found = plain(*args, **kwargs)  # fails as well where the fault is not the compiler's
                self._give_up(error)
                return found

        return forward

    def _compile(self, plain: Forward) -> Forward:
        import torch._dynamo.config as dynamo
        import torch.fx.experimental._config as shapes

        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder()))
        dynamo.recompile_limit = max(dynamo.recompile_limit, _MAX_KINDS)
        # a clip of as many tokens as a layer is wide would bind one to the other, and the next size be compiled again
        shapes.use_duck_shape = False
        compiled: Forward = torch.compile(plain, dynamic=True, backend=self.backend)
        return compiled

    def _give_up(self, error: Exception) -> None:
        self._has_failed = True
        cause = getattr(error, "inner_exception", None) or error  # dynamo wraps what its backends raise
        words = next(iter(str(cause).splitlines()), "")
        log.warning(
            "blocks cannot be compiled here and are computed as they are, slower: %s: %s",
            type(cause).__name__,
            words,
        )


def cache_folder() -> Path:
    """Where compiled code is kept on this node."""
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or node_cache.root() / "compiled")


def missing_tool(device: str) -> str:
    """The program that compiling for ``device`` needs and this machine lacks; empty: nothing."""
    variable, names = ("CC", ("cc", "gcc", "clang")) if device.startswith("cuda") else ("CXX", ("g++",))
    given = os.environ.get(variable)
    if any(shutil.which(name) for name in ((given,) if given else names)):
        return ""
    return f"no C compiler ({given or ', '.join(names)})"
