"""Which of a checkpoint's components are on the device at a time: the rungs of the memory ladder.

Moving weights changes when they are where, never what is computed, so every rung gives the same numbers; a clip that
ran out of memory is tried again one rung further down, slower. On a CPU there is nowhere to move to, and all rungs are
one.

====  =======================================================================================
rung  on the device
====  =======================================================================================
0     everything, always
1     the experts; the encoders of text and image, and the VAE, while they work
2     what works: one expert at a time, nothing else beside it
3     as 2, and of an expert one block at a time (each step copies all of its weights)
====  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

#: the furthest rung
MAX_THRIFT = 3

Move = Callable[[torch.nn.Module, torch.device], object]


def _move(module: torch.nn.Module, device: torch.device) -> None:
    # Weights that were made in inference mode could not be moved again outside of it.
    with torch.inference_mode(False), torch.no_grad():
        module.to(device)


class Residence:
    """Moves ``helpers`` (encoders, VAE) and ``experts`` out of each other's way; all begin on ``device``."""

    def __init__(
        self,
        helpers: Sequence[torch.nn.Module],
        experts: Sequence[torch.nn.Module],
        device: str,
        away: str = "cpu",
        move: Move = _move,
    ) -> None:
        self._helpers, self._experts = list(helpers), list(experts)
        self._device, self._away = torch.device(device), torch.device(away)
        self._move = move
        self._here = {id(part) for part in (*helpers, *experts)}
        self._hooks: list[Any] = []
        self.thrift = 0

    def set_thrift(self, thrift: int) -> None:
        """Go to a rung; it takes effect with the next :meth:`use`. A rung that does not exist is the last one."""
        thrift = min(max(thrift, 0), MAX_THRIFT)
        if thrift == self.thrift:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for expert in self._experts:  # from block by block to whole and back: begin from a known place
            if MAX_THRIFT in (thrift, self.thrift):
                self._send_away(expert)
        self.thrift = thrift
        if thrift == MAX_THRIFT and self._device != self._away:
            for expert in self._experts:
                for block in _blocks(expert):
                    self._hooks.append(block.register_forward_pre_hook(self._fetch))
                    self._hooks.append(block.register_forward_hook(self._return))

    def use(self, part: torch.nn.Module) -> None:
        """See to it that ``part`` can compute, and that what this rung has no room for is away."""
        if self._device == self._away:
            return
        wanted = self._wanted(part)
        for other in (*self._helpers, *self._experts):  # room first
            if id(other) in self._here and id(other) not in wanted:
                self._send_away(other)
        for other in (*self._helpers, *self._experts):
            if id(other) in wanted and id(other) not in self._here:
                self._bring(other)

    def recover(self) -> None:
        """After a failure in the middle of anything: nothing is taken to be where it was meant to be."""
        if self._device == self._away or self.thrift == 0:
            return
        for part in (*self._helpers, *self._experts):
            self._send_away(part)

    def _wanted(self, part: torch.nn.Module) -> set[int]:
        everything = (*self._helpers, *self._experts)
        resident = (everything, self._experts, (), ())[self.thrift]
        return {id(part), *(id(other) for other in resident)}

    def _bring(self, part: torch.nn.Module) -> None:
        if self.thrift < MAX_THRIFT or not _blocks(part):
            self._move(part, self._device)
        else:  # all but the blocks, which come one by one
            for child in part.children():
                if child is not getattr(part, "blocks", None):
                    self._move(child, self._device)
            with torch.inference_mode(False), torch.no_grad():
                for parameter in part.parameters(recurse=False):
                    parameter.data = parameter.data.to(self._device)
        self._here.add(id(part))

    def _send_away(self, part: torch.nn.Module) -> None:
        if self._device != self._away:
            self._move(part, self._away)
        self._here.discard(id(part))

    def _fetch(self, block: torch.nn.Module, _: object) -> None:
        self._move(block, self._device)

    def _return(self, block: torch.nn.Module, *_: object) -> None:
        self._move(block, self._away)


def _blocks(part: torch.nn.Module) -> list[torch.nn.Module]:
    """The transformer blocks of an expert; none for other components."""
    blocks = getattr(part, "blocks", None)
    return list(blocks) if isinstance(blocks, torch.nn.ModuleList) else []
