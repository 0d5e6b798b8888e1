"""Low-rank weights beside an expert's own: added when a layer computes, never to its weights.

So the weights stay as they were loaded, whatever came and went: a clip after a swap is, to the last bit, what a fresh
replica makes. A swap replaces modules, not code; ranks are rounded up with zeros, so that what was compiled for one
file serves the next. The price is the two small products, a few per cent of a step at rank 64.

Knows no stores: files are on this node's disk. ``lora_names`` says what they may hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from wanflow.engines.lora_names import HEAD_BYTES, read_layers
from wanflow.errors import InputError, RenderError
from wanflow.model import Cause, Lora

#: ranks are multiples of this
_RANK_STEP = 32


@dataclass
class Addition:
    """What one layer gets: ``up @ down`` to its weights, ``bias`` to its bias; float32."""

    down: torch.Tensor | None
    up: torch.Tensor | None
    bias: torch.Tensor | None


class LowRankLinear(torch.nn.Module):
    """A linear layer and what is added to it."""

    down: torch.Tensor | None
    up: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, base: torch.nn.Linear, additions: Sequence[Addition]) -> None:
        super().__init__()
        self.base = base
        downs = [a.down for a in additions if a.down is not None]
        ups = [a.up for a in additions if a.up is not None]
        biases = [a.bias for a in additions if a.bias is not None]
        device, dtype = base.weight.device, base.weight.dtype
        rank = sum(len(down) for down in downs)
        missing = -rank % _RANK_STEP
        down = torch.cat([*downs, torch.zeros(missing, base.in_features)])
        up = torch.cat([*ups, torch.zeros(base.out_features, missing)], dim=1)
        self.register_buffer("down", down.to(device, dtype) if rank else None)
        self.register_buffer("up", up.to(device, dtype) if rank else None)
        self.register_buffer("bias", sum(biases[1:], biases[0]).to(device, dtype) if biases else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        if self.down is not None and self.up is not None:
            y = y + functional.linear(functional.linear(x, self.down), self.up)
        return y if self.bias is None else y + self.bias


class LoraSlots:
    """What is added to the experts at the moment."""

    def __init__(self, experts: Sequence[Any]) -> None:
        self._experts = list(experts)
        self.current: tuple[Lora, ...] = ()
        #: (module that has the layer, its name there, the layer as it was loaded)
        self._replaced: list[tuple[torch.nn.Module, str, torch.nn.Linear]] = []

    def set(self, wanted: Sequence[tuple[Lora, Path]]) -> None:
        """From now on these, and no others. RenderError (bad input) for a file that does not fit: then none."""
        loras = tuple(lora for lora, _ in wanted)
        if loras == self.current:
            return
        self._remove()
        try:
            for i, expert in enumerate(self._experts):
                here = ("both", ("high", "low")[i])
                self._install(expert, [(lora, path) for lora, path in wanted if lora.expert in here])
        except InputError as error:
            self._remove()
            raise RenderError(str(error), Cause.BAD_INPUT) from error
        except BaseException:
            self._remove()
            raise
        self.current = loras

    def _install(self, expert: Any, wanted: Sequence[tuple[Lora, Path]]) -> None:
        by_layer: dict[str, list[Addition]] = defaultdict(list)
        for lora, path in wanted:
            for name, addition in load_additions(path, lora.scale).items():
                by_layer[name].append(addition)
        for name, additions in by_layer.items():
            parent, child, base = _linear(expert, name)
            for addition in additions:
                _check_shapes(name, base, addition)
            # weights that were made in inference mode could not be moved outside of it
            with torch.inference_mode(False), torch.no_grad():
                setattr(parent, child, LowRankLinear(base, additions))
            self._replaced.append((parent, child, base))

    def _remove(self) -> None:
        for parent, child, base in self._replaced:
            setattr(parent, child, base)
        self._replaced.clear()
        self.current = ()


def load_additions(path: Path, scale: float) -> dict[str, Addition]:
    """Name of each layer (diffusers') -> what the file adds to it at ``scale``. InputError for a file that is none."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        layers, own_scale = read_layers(file.read(HEAD_BYTES), path.stat().st_size)
    try:
        with safe_open(path, "pt") as tensors, torch.inference_mode(False):
            found = {}
            for name, layer in layers.items():
                strength = scale * own_scale
                if layer.alpha and layer.down:
                    strength *= float(tensors.get_tensor(layer.alpha.name)) / layer.down.shape[0]
                down = tensors.get_tensor(layer.down.name).float() if layer.down else None
                up = tensors.get_tensor(layer.up.name).float() * strength if layer.up else None
                bias = tensors.get_tensor(layer.bias.name).float() * scale if layer.bias else None
                found[name] = Addition(down, up, bias)
            return found
    except SafetensorError as error:
        raise InputError(f"the LoRA {path.name} cannot be read: {error}") from error


def _linear(expert: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str, torch.nn.Linear]:
    path, _, child = name.rpartition(".")
    try:
        parent = expert.get_submodule(path)
        base = getattr(parent, child)
    except AttributeError:
        base = None
    if not isinstance(base, torch.nn.Linear):
        raise InputError(
            f"the LoRA has weights for {name}, which this checkpoint has not: it is another model's"
        )
    return parent, child, base


def _check_shapes(name: str, base: torch.nn.Linear, addition: Addition) -> None:
    rows = None if addition.up is None else addition.up.shape[0]
    columns = None if addition.down is None else addition.down.shape[1]
    bias = None if addition.bias is None else addition.bias.shape[0]
    if rows not in (None, base.out_features) or bias not in (None, base.out_features):
        raise InputError(f"the LoRA's {name} has {rows or bias} rows, the checkpoint's {base.out_features}")
    if columns not in (None, base.in_features):
        raise InputError(f"the LoRA's {name} has {columns} columns, the checkpoint's {base.in_features}")
