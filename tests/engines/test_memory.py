"""The memory ladder and what an out-of-memory failure leaves behind."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engines.conftest import given, make_clip, silent
from wanflow.engines import Engine, load_engine, read_spec
from wanflow.engines.residence import MAX_THRIFT, Residence
from wanflow.engines.wan import WanEngine
from wanflow.errors import RenderError
from wanflow.model import Cause, Mode


class Expert(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 2)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


class Movers:
    """Notes which module lies where instead of moving it."""

    def __init__(self) -> None:
        self.text, self.vae = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.high, self.low = Expert(), Expert()
        self.here: set[torch.nn.Module] = {self.text, self.vae, self.high, self.low}
        self.most_blocks = 0
        self.residence = Residence([self.text, self.vae], [self.high, self.low], "cuda:0", move=self.move)

    def move(self, module: torch.nn.Module, device: torch.device) -> None:
        (self.here.add if device.type == "cuda" else self.here.discard)(module)
        self.most_blocks = max(self.most_blocks, sum(b in self.here for b in self.low.blocks))

    def used(self, part: torch.nn.Module) -> set[str]:
        self.residence.use(part)
        names = {"text": self.text, "vae": self.vae, "high": self.high, "low": self.low}
        return {name for name, module in names.items() if module in self.here}


def test_each_rung_keeps_less_on_the_device() -> None:
    """An A14B checkpoint is 70 GB: at rung 2 a clip has 28 GB of weights beside it."""
    world = Movers()
    assert world.used(world.low) == {"text", "vae", "high", "low"}
    world.residence.set_thrift(1)
    assert world.used(world.text) == {"text", "high", "low"}
    assert world.used(world.high) == {"high", "low"}
    assert world.used(world.vae) == {"vae", "high", "low"}
    world.residence.set_thrift(2)
    assert world.used(world.vae) == {"vae"}
    assert world.used(world.high) == {"high"}
    assert world.used(world.low) == {"low"}
    world.residence.set_thrift(0)
    assert world.used(world.text) == {"text", "vae", "high", "low"}


def test_the_last_rung_has_one_block_at_a_time() -> None:
    """One block of forty is 0.7 GB: what remains is the clip's own."""
    world = Movers()
    world.residence.set_thrift(MAX_THRIFT + 5)
    world.used(world.low)
    assert world.low.first in world.here
    assert world.low not in world.here
    world.most_blocks = 0
    world.low(torch.zeros(1, 2))
    assert world.most_blocks == 1
    assert not world.here & set(world.low.blocks)
    world.residence.set_thrift(0)
    assert world.used(world.high) == {"text", "vae", "high", "low"}
    world.here.clear()
    world.low(torch.zeros(1, 2))
    assert not world.here, "whole again: no block moves any more"


def test_after_a_failure_everything_is_brought_anew() -> None:
    """Out of memory in the middle of a move: nothing is taken to be where it was meant to be."""
    world = Movers()
    world.residence.set_thrift(2)
    world.used(world.low)
    world.residence.recover()
    assert not world.here & {world.text, world.vae, world.high, world.low}
    assert world.used(world.low) == {"low"}


LAYOUTS = [("a14b_t2v", Mode.T2V), ("pocket", Mode.T2V), ("wan21_i2v", Mode.I2V)]


@pytest.mark.parametrize("thrift", [1, 2, 3])
@pytest.mark.parametrize(("layout", "mode"), LAYOUTS)
def test_a_rung_changes_no_number(
    layout: str, mode: Mode, thrift: int, engine: Callable[[str], Engine], image: bytes
) -> None:
    """The ladder is an execution choice: it is in no key, so it must not be in any pixel."""
    wan = engine(layout)
    clip = make_clip(wan, mode, replace(wan.spec.sampling, steps=3))
    source = image if mode is Mode.I2V else None
    whole = wan.generate(clip, given(source), silent)
    wan.set_thrift(thrift)
    try:
        assert torch.equal(wan.generate(clip, given(source), silent), whole)
    finally:
        wan.set_thrift(0)


@pytest.mark.gpu
@pytest.mark.parametrize(("layout", "mode"), LAYOUTS)
def test_a_rung_changes_no_number_on_a_gpu(
    layout: str, mode: Mode, checkpoint: Callable[[str], Path], image: bytes
) -> None:
    """Here weights truly move, through every rung and back up."""
    wan = load_engine(read_spec(str(checkpoint(layout))), device="cuda")
    clip = make_clip(wan, mode, replace(wan.spec.sampling, steps=3))
    source = image if mode is Mode.I2V else None
    whole = wan.generate(clip, given(source), silent)
    pixels = torch.cat(list(wan.decode_pixels(whole)), dim=2)
    for thrift in (1, 2, 3, 0):
        wan.set_thrift(thrift)
        assert torch.equal(wan.generate(clip, given(source), silent), whole)
        assert torch.equal(torch.cat(list(wan.decode_pixels(whole)), dim=2), pixels)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_out_of_memory_leaves_the_engine_clean(error: BaseException, engine: Callable[[str], Engine]) -> None:
    """The scheduler tries the clip again on the same replica: what the failed try held must be free by then."""
    wan = engine("a14b_t2v")
    assert isinstance(wan, WanEngine)
    clip = make_clip(wan, Mode.T2V, replace(wan.spec.sampling, steps=4))
    whole = wan.generate(clip, (), silent)
    held: list[weakref.ref[torch.Tensor]] = []

    def fail(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        held.append(weakref.ref(output))
        if len(held) == 5:
            raise error

    handle = wan._experts[0].blocks[1].register_forward_hook(fail)
    try:
        with pytest.raises(RenderError, match="out of memory") as raised:
            wan.generate(clip, (), silent)
    finally:
        handle.remove()
    assert raised.value.cause is Cause.OUT_OF_MEMORY
    assert len(held) == 5
    assert [ref() for ref in held] == [None] * 5, "the error is still held, its tensors are not"
    assert torch.equal(wan.generate(clip, (), silent), whole)
