"""Which of a checkpoint's components are on the device at a time: the rungs of the memory ladder.

Moving weights changes when they are where, never what is computed, so every rung gives the same numbers. An engine
begins on the first rung that fits (``footprint``); a clip that ran out of memory is tried again one rung further down,
slower. On a CPU there is nowhere to move to, and all rungs are one. What would change numbers is no rung: weights in
fewer bits, a decoder that works in tiles and blends them.

====  =======================================================================================
rung  on the device
====  =======================================================================================
0     everything, always
1     the experts; the encoders of text and image, and the VAE, while they work
2     what works: one expert at a time, nothing else beside it, unless there is room for that
3     as 2, and of an expert one block at a time (each step copies all of its weights)
====  =======================================================================================

Weights are read, never written, so what went to the device keeps its copy in the host's memory, and coming back is
forgetting the other one. At rung 2 a clip of a checkpoint with two experts copies both to the device: 57 GB for A14B,
from memory that is not pinned, so some ten seconds where a clip takes minutes, or, distilled, less than one (not
measured on a GPU). So clips of text alone pass the experts in pairs (``pool/pairs.py``), high, high, low, low: three
copies for two clips where the decoder pushes the low-noise expert out between them, and two, half of four, where the
expert stays beside it (A14B: with 41 GB for 480p, 50 GB for 720p, estimated). The last rung copies an expert at each
step, and has nothing to gain by that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from wanflow.engines.footprint import LAST_RUNG, ONE_AT_A_TIME

Move = Callable[[torch.nn.Module, torch.device], object]


def _move(module: torch.nn.Module, device: torch.device) -> None:
    # Weights that were made in inference mode could not be moved again outside of it.
    with torch.inference_mode(False), torch.no_grad():
        module.to(device)


class Residence:
    """Moves ``helpers`` (encoders, VAE) and ``experts`` out of each other's way.

    Begins on the rung ``first``: what stays there is on ``device`` already, everything else on ``away``.
    ``expert_stays``: where one expert is there at a time, there is room for a helper beside it.
    """

    def __init__(
        self,
        helpers: Sequence[torch.nn.Module],
        experts: Sequence[torch.nn.Module],
        device: str,
        away: str = "cpu",
        move: Move = _move,
        first: int = 0,
        expert_stays: bool = False,
    ) -> None:
        self._expert_stays = expert_stays
        self._helpers, self._experts = list(helpers), list(experts)
        self._device, self._away = torch.device(device), torch.device(away)
        self._move = move
        self._hooks: list[Any] = []
        #: of weights on the device that came from the host: their copy there
        self._copies = WeakTensorKeyDictionary()
        self.first = self.rung = first
        self._here = {id(part) for part in self._staying()}
        self._hook_blocks()

    @property
    def swaps_experts(self) -> bool:
        """Whether one of two experts must leave for the other to come, and stays while it works."""
        return self.rung == ONE_AT_A_TIME and self._device != self._away and len(self._experts) > 1

    def set_thrift(self, thrift: int) -> None:
        """Go so many rungs down from the first one; it takes effect with the next :meth:`use`. A rung that does not
        exist is the last one.
        """
        rung = min(self.first + max(thrift, 0), LAST_RUNG)
        if rung == self.rung:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for expert in self._experts:  # both may be here, or one block by block: begin from a known place
            if {ONE_AT_A_TIME, LAST_RUNG} & {rung, self.rung}:
                self._send_away(expert)
        self.rung = rung
        self._hook_blocks()

    def _hook_blocks(self) -> None:
        if self.rung == LAST_RUNG and self._device != self._away:
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

    @contextmanager
    def holding(self, block: torch.nn.Module) -> Iterator[None]:
        """Around work on a block of an expert in use that is no forward: at the last rung it is brought for it."""
        if self._hooks:
            self._fetch(block, None)
        yield
        if self._hooks:
            self._return(block)

    def recover(self) -> None:
        """After a failure in the middle of anything: nothing is taken to be where it was meant to be, and there is no
        room beside an expert any more.
        """
        self._expert_stays = False
        if self._device == self._away or self.rung == 0:
            return
        for part in (*self._helpers, *self._experts):
            self._send_away(part)

    def _staying(self) -> Sequence[torch.nn.Module]:
        """What this rung keeps on the device, whatever works."""
        return ((*self._helpers, *self._experts), self._experts, (), ())[self.rung]

    def _wanted(self, part: torch.nn.Module) -> set[int]:
        wanted = {id(part), *(id(other) for other in self._staying())}
        if self.swaps_experts and self._expert_stays and all(part is not expert for expert in self._experts):
            wanted |= self._here & {id(expert) for expert in self._experts}
        return wanted

    def _bring(self, part: torch.nn.Module) -> None:
        try:
            self._move_here(part)
        except BaseException:  # half of it would be in the way of whoever comes next
            self._send_away(part)
            raise
        self._here.add(id(part))

    def _move_here(self, part: torch.nn.Module) -> None:
        blocks = _blocks(part) if self.rung == LAST_RUNG else []
        if not blocks:
            self._to_device(part)
        else:  # all but the blocks, which come one by one
            for child in part.children():
                if child is not getattr(part, "blocks", None):
                    self._to_device(child)
            with torch.inference_mode(False), torch.no_grad():
                for parameter in part.parameters(recurse=False):
                    self._remember(parameter)
                    parameter.data = parameter.data.to(self._device)

    def _send_away(self, part: torch.nn.Module) -> None:
        if self._device != self._away:
            self._to_host(part)
        self._here.discard(id(part))

    def _fetch(self, block: torch.nn.Module, _: object) -> None:
        self._to_device(block)

    def _return(self, block: torch.nn.Module, *_: object) -> None:
        self._to_host(block)

    def _to_device(self, module: torch.nn.Module) -> None:
        for tensor in _tensors(module):
            self._remember(tensor)
        self._move(module, self._device)

    def _to_host(self, module: torch.nn.Module) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for tensor in _tensors(module):
                copy = self._copies.pop(tensor, None)
                if copy is not None:
                    tensor.data = copy
        self._move(module, self._away)  # what was loaded, or made, on the device has no copy

    def _remember(self, tensor: torch.Tensor) -> None:
        if tensor.device == self._away:
            self._copies[tensor] = tensor.data


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Weights whose data can be put in the place of others': not those of torchao, which come and go as they are."""
    for tensor in (*module.parameters(), *module.buffers()):
        if type(tensor) in (torch.Tensor, torch.nn.Parameter):
            yield tensor


def _blocks(part: torch.nn.Module) -> list[torch.nn.Module]:
    """The transformer blocks of an expert; none for other components."""
    blocks = getattr(part, "blocks", None)
    return list(blocks) if isinstance(blocks, torch.nn.ModuleList) else []
