"""The memory ladder and what an out-of-memory failure leaves behind."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engines.conftest import given, make_clip, silent
from wanflow.engines import Engine, load_engine, read_spec, wan
from wanflow.engines.checkpoint import open_files
from wanflow.engines.footprint import LAST_RUNG, Part, needed_bytes, read_parts
from wanflow.engines.memory_errors import MemoryErrors
from wanflow.engines.residence import Residence
from wanflow.engines.wan import WanEngine
from wanflow.errors import EngineError, RenderError
from wanflow.model import Branch, Cause, Mode, Shortcuts
from wanflow.pool.ahead import prompts_by_weights


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

    def __init__(self, first: int = 0) -> None:
        self.text, self.vae = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.high, self.low = Expert(), Expert()
        helpers, experts = [self.text, self.vae], [self.high, self.low]
        self.here: set[torch.nn.Module] = {*([*helpers, *experts], experts, [], [])[first]}
        self.most_blocks = 0
        self.residence = Residence(helpers, experts, "cuda:0", move=self.move, first=first)

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
    world.residence.set_thrift(LAST_RUNG + 5)
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


@pytest.mark.parametrize("first", range(LAST_RUNG + 1))
def test_thrift_counts_from_the_rung_on_which_an_engine_begins(first: int) -> None:
    """A card that begins at rung 2 has one more to try: a second try of the same would be minutes for nothing."""
    for thrift in range(LAST_RUNG + 2):
        world, other = Movers(first), Movers()
        world.residence.set_thrift(thrift)
        other.residence.set_thrift(first + thrift)
        assert world.residence.rung == other.residence.rung == min(first + thrift, LAST_RUNG)
        for part in ("text", "high", "low", "vae"):
            assert world.used(getattr(world, part)) == other.used(getattr(other, part))
        assert len(world.low.blocks[0]._forward_hooks) == (world.residence.rung == LAST_RUNG)


@pytest.mark.parametrize("rung", range(LAST_RUNG))
def test_the_footprint_of_a_rung_is_what_lies_on_the_device(rung: int) -> None:
    """The one computes what fits, the other moves: they must mean the same rungs."""
    names = {"text": "text_encoder", "vae": "vae", "high": "transformer", "low": "transformer_2"}
    sizes = {"text": 1, "vae": 2, "high": 4, "low": 8}
    parts = [Part(names[name], size, size, 0, 0) for name, size in sizes.items()]
    world = Movers()
    world.residence.set_thrift(rung)
    most = max(sum(sizes[name] for name in world.used(getattr(world, part))) for part in sizes)
    assert needed_bytes(parts, rung) == most


def test_weights_that_leave_the_device_are_not_copied_back() -> None:
    """28 GB an expert and clip, for what the host has already: half of the traffic."""
    moved: list[tuple[str, int]] = []

    def move(module: torch.nn.Module, device: torch.device) -> None:
        for parameter in module.parameters():
            if device.index is not None:  # to the device: its own memory
                parameter.data = parameter.data.clone()
            moved.append((str(device), parameter.data_ptr()))

    expert, vae = Expert(), torch.nn.Linear(2, 2)
    residence = Residence([vae], [expert], "cpu:0", move=move, first=2)
    host = [parameter.data_ptr() for parameter in expert.parameters()]
    for _ in range(2):
        residence.use(expert)
        assert not {parameter.data_ptr() for parameter in expert.parameters()} & set(host)
        moved.clear()
        residence.use(vae)
        assert [parameter.data_ptr() for parameter in expert.parameters()] == host
        assert [where for device, where in moved if device == "cpu"] == host, (
            "they lay there before they were moved"
        )


def test_where_one_expert_stays_the_other_does_not() -> None:
    """A clip that ran out of memory comes to a replica with both experts on the device: one may stay only where it
    alone was brought, and after a failure none.
    """
    high, low, vae = Expert(), Expert(), torch.nn.Linear(2, 2)
    residence = Residence([vae], [high, low], "cpu:0", move=lambda *_: None, first=1, expert_stays=True)
    residence.use(low)
    residence.set_thrift(1)
    residence.use(vae)
    assert residence._here == {id(vae)}
    residence.use(low)
    residence.use(vae)
    assert residence._here == {id(low), id(vae)}
    residence.recover()
    residence.use(low)
    residence.use(vae)
    assert residence._here == {id(vae)}


@pytest.mark.parametrize("rung", range(LAST_RUNG + 1))
def test_a_move_that_fails_half_way_leaves_nothing_on_the_device(rung: int) -> None:
    """The card fills up in the middle of 28 GB: what had come would lie there beside whoever works next, and nobody
    would send it away."""
    expert, vae = Expert(), torch.nn.Linear(2, 2)
    expert.last = torch.nn.Linear(2, 2)
    host = {weight: weight.data_ptr() for weight in expert.parameters()}
    num_moves = 0

    def move(module: torch.nn.Module, device: torch.device) -> None:
        nonlocal num_moves
        for parameter in module.parameters():
            if device.index is not None:  # to the device: its own memory
                num_moves += 1
                if num_moves == 4:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                parameter.data = parameter.data.clone()

    def there() -> int:
        return sum(weight.data_ptr() != at for weight, at in host.items())

    residence = Residence([vae], [expert], "cpu:0", move=move)
    residence.set_thrift(2)
    residence.use(vae)
    residence.set_thrift(rung)
    assert (there(), num_moves) == (0, 0)
    with pytest.raises(torch.OutOfMemoryError):
        residence.use(expert)
    assert num_moves == 4
    assert there() == 0
    residence.use(expert)
    assert there() == (4 if rung == LAST_RUNG else 8), "the next try begins from the start"


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


@pytest.mark.gpu
@pytest.mark.parametrize("rung", range(1, LAST_RUNG + 1))
@pytest.mark.parametrize(("layout", "mode"), LAYOUTS)
def test_an_engine_that_begins_further_down_gives_the_same_numbers_on_a_gpu(
    layout: str, mode: Mode, rung: int, checkpoint: Callable[[str], Path], image: bytes
) -> None:
    """Loaded into the host's memory, and brought while it works."""
    path = checkpoint(layout)
    whole, low = (wan._load_on(first, read_spec(str(path)), path, "cuda") for first in (0, rung))
    clip = make_clip(whole, mode, replace(whole.spec.sampling, steps=3))
    images = given(image if mode is Mode.I2V else None)
    latents = whole.generate(clip, images, silent)
    assert torch.equal(low.generate(clip, images, silent), latents)
    ours, theirs = (torch.cat(list(each.decode_pixels(latents)), dim=2) for each in (low, whole))
    assert torch.equal(ours, theirs)
    there = {
        name for name, part in parts_of(low).items() if any(weight.is_cuda for weight in part.parameters())
    }
    assert there == {"vae"} | ({name for name in parts_of(low) if "former" in name} if rung == 1 else set())


def parts_of(wan: WanEngine) -> dict[str, torch.nn.Module]:
    parts = {"text_encoder": wan._text.model, "vae": wan._vae}
    parts |= dict(zip(("transformer", "transformer_2"), wan._experts, strict=False))
    return parts | ({"image_encoder": wan._images.model} if wan._images else {})


class Pretended:
    """An engine on the CPU whose ladder takes it for a GPU, and the names of what it used, visit by visit.

    Weights that are not on the "GPU" do not compute.
    """

    def __init__(self, path: Path, rung: int) -> None:
        self.wan = load_engine(read_spec(str(path)), device="cpu", num_threads=1)
        assert isinstance(self.wan, WanEngine)
        wan, self.parts = self.wan, parts_of(self.wan)
        wan._residence = Residence(
            [part for name, part in self.parts.items() if not name.startswith("transformer")],
            wan._experts,
            "cpu:0",
            move=self.move,
            first=rung,
        )
        wan._memory_errors = MemoryErrors(wan._residence.recover)
        wan.set_thrift(0)
        staying = ([*self.parts.values()], wan._experts, [], [])[rung]
        self.here = {id(module) for part in staying for module in part.modules()}
        self.visits: list[str] = []
        for name, part in self.parts.items():
            for module in part.modules():
                if not any(True for _ in module.children()):  # a block is brought when it is called
                    module.register_forward_pre_hook(partial(self.compute, name))

    def move(self, module: torch.nn.Module, device: torch.device) -> None:
        change = self.here.difference_update if device.index is None else self.here.update
        change({id(each) for each in module.modules()})

    def compute(self, name: str, module: torch.nn.Module, _: object) -> None:
        assert id(module) in self.here, f"{name} is not on the device"
        if self.visits[-1:] != [name]:
            self.visits.append(name)


@contextmanager
def failing(module: torch.nn.Module, error: BaseException, at: int) -> Iterator[list[Any]]:
    """``error`` in the ``at``-th forward of ``module``; yields weak references to what came of it."""
    held: list[Any] = []

    def fail(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        held.append(weakref.ref(output[0] if isinstance(output, tuple) else output))
        if len(held) == at:
            raise error

    handle = module.register_forward_hook(fail)
    try:
        yield held
    finally:
        handle.remove()


@pytest.mark.parametrize("rung", range(LAST_RUNG + 1))
@pytest.mark.parametrize(("layout", "mode"), LAYOUTS)
def test_what_computes_has_been_brought(
    layout: str,
    mode: Mode,
    rung: int,
    checkpoint: Callable[[str], Path],
    engine: Callable[[str], Engine],
    image: bytes,
) -> None:
    """From the first clip on, at every rung, and with the numbers of an engine that never moved anything."""
    world, whole = Pretended(checkpoint(layout), rung), engine(layout)
    clip = make_clip(whole, mode, replace(whole.spec.sampling, steps=3))
    images = given(image if mode is Mode.I2V else None)
    latents = world.wan.generate(clip, images, silent)
    assert torch.equal(latents, whole.generate(clip, images, silent))
    ours, theirs = (torch.cat(list(wan.decode_pixels(latents)), dim=2) for wan in (world.wan, whole))
    assert torch.equal(ours, theirs)
    assert torch.equal(
        world.wan.encode_pixels(iter([ours[:, :, :1]])), whole.encode_pixels(iter([ours[:, :, :1]]))
    )
    assert set(world.visits) == set(world.parts)


@pytest.mark.parametrize("rung", range(LAST_RUNG + 1))
def test_weights_are_put_into_8_bits_on_the_device(
    rung: int, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does it is written for GPUs: a small card begins at a rung where blocks are not there until they compute."""
    world, done = Pretended(checkpoint("a14b_t2v"), rung), []

    def quantize(block: torch.nn.Module) -> None:
        assert {id(module) for module in block.modules()} <= world.here
        done.append(block)

    monkeypatch.setattr(wan, "problem_of", lambda device: "")
    monkeypatch.setattr(wan, "quantize", quantize)
    sampling = replace(world.wan.spec.sampling, profile="fast", shortcuts=Shortcuts(fp8=True))
    world.wan.generate(make_clip(world.wan, Mode.T2V, sampling), (), silent)
    assert done == [block for expert in world.wan._experts for block in expert.blocks]


def test_a_block_counts_as_being_in_8_bits_once_it_is(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was no memory for the third one: the next clip goes on with it, and puts none into 8 bits twice."""
    world, begun, done = Pretended(checkpoint("a14b_t2v"), 0), [], []

    def quantize(block: torch.nn.Module) -> None:
        begun.append(block)
        if len(begun) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.append(block)

    monkeypatch.setattr(wan, "problem_of", lambda device: "")
    monkeypatch.setattr(wan, "quantize", quantize)
    sampling = replace(world.wan.spec.sampling, profile="fast", shortcuts=Shortcuts(fp8=True))
    clip = make_clip(world.wan, Mode.T2V, sampling)
    with pytest.raises(RenderError, match="out of memory"):
        world.wan.generate(clip, (), silent)
    for _ in range(2):
        world.wan.generate(clip, (), silent)
    assert done == [block for expert in world.wan._experts for block in expert.blocks]


def test_a_runs_few_prompts_are_encoded_in_one_visit(checkpoint: Callable[[str], Path]) -> None:
    """11 GB of text encoder come onto the GPU once a replica, not once a clip."""
    world = Pretended(checkpoint("a14b_t2v"), 1)
    clip = make_clip(world.wan, Mode.T2V, replace(world.wan.spec.sampling, guidance=4.0, steps=2))
    clips = [replace(clip, prompt=f"prompt {number}") for number in range(3)]
    clips.append(replace(clip, branch=Branch("a trunk's own", 1)))
    world.wan.set_prompts(prompts_by_weights(clips)[clip.weights])
    for each in clips:
        world.wan.generate(each, (), silent)
    assert world.visits.count("text_encoder") == 1
    world.wan.generate(replace(clip, negative_prompt="another"), (), silent)
    assert world.visits.count("text_encoder") == 2, "what was not told is encoded all the same"


def test_a_text_encoder_that_stays_encodes_nothing_ahead(checkpoint: Callable[[str], Path]) -> None:
    """At rung 0 it may as well encode a clip's prompts with the clip: the first one starts sooner."""
    world = Pretended(checkpoint("a14b_t2v"), 0)
    world.wan.set_prompts(["others"])
    world.wan.generate(make_clip(world.wan, Mode.T2V), (), silent)
    assert not world.wan._text.knows("others")


def test_each_rung_has_its_place_for_weights_when_they_are_loaded(checkpoint: Callable[[str], Path]) -> None:
    """On a small card nothing comes that would have to leave at once. (torch's device without memory is the GPU.)"""
    path = checkpoint("wan21_i2v")
    spec = read_spec(str(path))
    for rung in range(LAST_RUNG + 1):
        engine = wan._load_on(rung, spec, path, "meta")
        lie = {
            name: {weight.device.type for weight in part.parameters()}
            for name, part in parts_of(engine).items()
        }
        assert engine.rung == rung
        assert lie == {
            name: {"meta" if rung == 0 or (rung == 1 and name == "transformer") else "cpu"} for name in lie
        }
        assert engine._experts[0].blocks[0].attn1.to_q.weight.dtype is torch.bfloat16
        assert engine._vae.post_quant_conv.weight.dtype is torch.float32
        assert engine._video._mean.device.type == "meta"
        convolution = next(module for module in engine._vae.modules() if isinstance(module, torch.nn.Conv3d))
        assert "_conv_forward" not in vars(convolution), "what is made for CPUs stays off weights of a GPU"
    needed = needed_bytes(read_parts(open_files(str(path)), spec), 1)
    assert [
        wan.load(spec, path, "meta", 1, room_bytes=room).rung for room in (10**12, needed, needed - 1)
    ] == [0, 1, 2]


def test_memory_that_goes_while_it_loads_is_a_rung_further_down(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas that share a GPU both saw it empty: the second one is slower, not lost."""
    path, loads, held = checkpoint("a14b_t2v"), [], []
    bad = {("transformer_2", "meta")}
    original = wan.WanTransformer3DModel.from_pretrained

    def from_pretrained(folder: Path, device_map: dict[str, str], **options: Any) -> torch.nn.Module:
        loads.append((folder.name, device_map[""]))
        expert = original(folder, device_map=device_map, **options)
        if loads[-1] in bad:
            held.append(weakref.ref(expert))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return expert

    monkeypatch.setattr(wan.WanTransformer3DModel, "from_pretrained", from_pretrained)
    engine = wan.load(read_spec(str(path)), path, "meta", 1, room_bytes=10**12)
    assert engine.rung == 2
    assert [where for _, where in loads] == ["meta", "meta"] * 2 + ["cpu", "cpu"]
    assert [ref() for ref in held] == [None, None], "what was loaded in vain is gone"
    bad = {("transformer", "cpu")}
    with pytest.raises(EngineError, match="cannot be loaded: CUDA out of memory"):
        wan.load(read_spec(str(path)), path, "meta", 1, room_bytes=1)


PLACES = ("text_encoder", "image_encoder", "encoder", "blocks", "decoder")
ON_THE_DEVICE = torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("error", "place", "rung"),
    [
        *((ON_THE_DEVICE, place, rung) for place in PLACES for rung in (0, 2)),
        (ON_THE_DEVICE, "blocks", 3),
        (MemoryError(), "blocks", 0),
    ],
)
def test_out_of_memory_leaves_the_engine_clean(
    error: BaseException,
    place: str,
    rung: int,
    checkpoint: Callable[[str], Path],
    engine: Callable[[str], Engine],
    image: bytes,
) -> None:
    """The scheduler tries the clip again on the same replica: what the failed try held must be free by then, and the
    next clip is the same to the last bit."""
    whole, world = engine("wan21_i2v"), Pretended(checkpoint("wan21_i2v"), rung)
    wan = world.wan
    clip = make_clip(whole, Mode.I2V, replace(whole.spec.sampling, steps=4))

    def render(on: Engine) -> torch.Tensor:
        return torch.cat(list(on.decode_pixels(on.generate(clip, (image,), silent))), dim=2)

    module = {
        "text_encoder": wan._text.model.encoder.block[1],
        "image_encoder": wan._images and wan._images.model.encoder.layers[1],
        "encoder": wan._vae.encoder.conv_in,
        "blocks": wan._experts[0].blocks[1],
        "decoder": wan._vae.decoder.conv_in,
    }[place]
    at = 1 if place == "image_encoder" else 2
    with failing(module, error, at) as held, pytest.raises(RenderError, match="out of memory") as raised:
        render(wan)
    assert raised.value.cause is Cause.OUT_OF_MEMORY
    assert [ref() for ref in held] == [None] * at, "the error is still held, its tensors are not"
    if rung:
        assert not world.here, "nothing is taken to be where it was meant to be"
    wan.set_thrift(1)
    assert torch.equal(render(wan), render(whole))
