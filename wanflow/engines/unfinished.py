"""A denoise loop that stopped half way: its latents and everything that its schedule remembers, as values and as bytes.

A multistep schedule (UniPC) looks back on earlier steps; one that starts afresh in the middle takes other steps than
one that never stopped. So all of its memory is kept, and a clip that goes on elsewhere on the same kind of device
equals one that was never interrupted, bit for bit. The memory is private to diffusers: what another release of it, or
another schedule, has written is refused (``load_fitting``).

Knows no clips, stores or files. Limits: schedules with a solver of their own inside (``solver_p``) are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from wanflow.errors import EngineError

if TYPE_CHECKING:
    import torch

_FORMAT = "wanflow-steps-1"
#: what the schedules remember between steps: lists of tensors, tensors, numbers
_LISTS = ("model_outputs", "timestep_list")
_TENSORS = ("last_sample",)
_NUMBERS = ("lower_order_nums", "this_order", "_step_index")


@dataclass(frozen=True)
class Unfinished:
    """Where a denoise loop stands after ``step`` of ``num_steps`` steps."""

    step: int
    num_steps: int
    #: who can go on from here: the schedule's class and the release of diffusers
    maker: str
    #: ``latents``, and by name what the schedule remembers; on the device that computes
    tensors: Mapping[str, torch.Tensor]
    numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def latents(self) -> torch.Tensor:
        return self.tensors["latents"]


class Keep(Protocol):
    """What a denoise loop is given so that its steps are not lost."""

    #: where to go on from; None: from the start
    start: Unfinished | None

    def offer(self, step: int, num_steps: int, take: Callable[[], Unfinished]) -> None:
        """Called after each step, before it is reported. ``take()`` is cheap, and gives the state as of now.

        May raise Cancelled to end the loop.
        """


def take(schedule: Any, latents: torch.Tensor, step: int) -> Unfinished:
    """The state between two steps. Nothing is copied: no step changes a tensor of an earlier one."""
    tensors = {"latents": latents}
    for name in _LISTS:
        for i, value in enumerate(getattr(schedule, name, ())):
            if value is not None:
                tensors[f"{name}.{i}"] = value
    for name in _TENSORS:
        if (value := getattr(schedule, name, None)) is not None:
            tensors[name] = value
    numbers = {name: int(value) for name in _NUMBERS if (value := getattr(schedule, name, None)) is not None}
    return Unfinished(step, len(schedule.timesteps), maker_of(schedule), tensors, numbers)


def restore(schedule: Any, state: Unfinished, device: torch.device) -> torch.Tensor:
    """Give ``schedule``, its timesteps set, the memory of ``state``; return the latents.

    EngineError when the state is not of this schedule.
    """
    _check(state, maker_of(schedule), len(schedule.timesteps))
    for name in _LISTS:
        if hasattr(schedule, name):
            kept: list[Any] = [None] * len(getattr(schedule, name))
            for i in range(len(kept)):
                if (value := state.tensors.get(f"{name}.{i}")) is not None:
                    kept[i] = value.to(device)
            setattr(schedule, name, kept)
    for name in _TENSORS:
        if (value := state.tensors.get(name)) is not None:
            setattr(schedule, name, value.to(device))
    for name, number in state.numbers.items():
        setattr(schedule, name, number)
    return state.latents.to(device)


def dump_unfinished(state: Unfinished) -> bytes:
    """The state as safetensors bytes, every number as it is. EngineError for latents that are not finite."""
    import torch
    from safetensors.torch import save

    with torch.inference_mode():
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.tensors.items()}
        if not bool(torch.isfinite(tensors["latents"]).all()):
            raise EngineError("the latents hold NaN or infinite numbers: nothing to go on from")
    facts = {"step": state.step, "num_steps": state.num_steps, "numbers": dict(state.numbers)}
    return save(tensors, {"format": _FORMAT, "maker": state.maker, "facts": json.dumps(facts)})


def load_unfinished(data: bytes) -> Unfinished:
    """What ``dump_unfinished`` wrote, on the CPU; EngineError when the bytes are anything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if header["format"] != _FORMAT or "latents" not in tensors:
            raise KeyError("format")
        facts = json.loads(header["facts"])
        numbers = {str(name): int(value) for name, value in facts["numbers"].items() if name in _NUMBERS}
        return Unfinished(int(facts["step"]), int(facts["num_steps"]), header["maker"], tensors, numbers)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"these bytes hold no steps of a clip ({error})") from error


def load_fitting(data: bytes, maker: str, num_steps: int) -> Unfinished:
    """:func:`load_unfinished` for whoever goes on: EngineError for steps of another maker or number, too."""
    state = load_unfinished(data)
    _check(state, maker, num_steps)
    return state


def maker_of(schedule: Any) -> str:
    """:attr:`Unfinished.maker` of the states that ``restore`` takes for ``schedule``."""
    import diffusers

    return f"{type(schedule).__name__} of diffusers {diffusers.__version__}"


def _check(state: Unfinished, maker: str, num_steps: int) -> None:
    if (state.maker, state.num_steps) != (maker, num_steps):
        raise EngineError(
            f"steps of {state.maker} (step {state.step} of {state.num_steps}) cannot be gone on from with {maker} of "
            f"{num_steps} steps"
        )
