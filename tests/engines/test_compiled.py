"""Compiled blocks: one graph whatever comes, the numbers that come uncompiled, and what happens where it fails.

torch's ``eager`` backend runs the captured graph as it is: what dynamo makes of the blocks is tested in seconds, and to
the last bit. One test has inductor compile for real.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from torch._dynamo.utils import counters

from tests.engines.conftest import given, make_clip, silent
from tests.engines.test_fast import ALWAYS, STEPS
from tests.engines.test_lora import _diffusers as in_diffusers_names
from tests.engines.test_lora import weights, with_loras, write
from wanflow.engines import load_engine, read_spec
from wanflow.engines.compiled import CompiledBlocks, missing_tool
from wanflow.engines.profiles import is_compiled
from wanflow.engines.wan import WanEngine
from wanflow.errors import RenderError
from wanflow.model import Cause, Clip, Mode, Shortcuts


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """torch has compiled nothing before, and forgets afterwards what it has."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def load(checkpoint: Callable[[str], Path], fresh: None) -> Callable[[str], WanEngine]:
    """A fresh engine that compiles with ``eager``."""

    def load(layout: str) -> WanEngine:
        wan = load_engine(read_spec(str(checkpoint(layout))), device="cpu", num_threads=1)
        assert isinstance(wan, WanEngine)
        wan.set_compile(True)
        wan._blocks.backend = "eager"
        return wan

    return load


def _clip(wan: WanEngine, shortcuts: Shortcuts, mode: Mode = Mode.T2V, **change: object) -> Clip:
    sampling = replace(
        wan.spec.sampling,
        steps=STEPS,
        flow_shift=5.0,
        guidance=4.0,
        guidance_low=3.0,
        profile="fast",
        shortcuts=shortcuts,
    )
    return replace(make_clip(wan, mode, sampling, (64, 32)), **change)  # type: ignore[arg-type]


def _graphs() -> int:
    return counters["stats"].get("unique_graphs", 0)


def test_a_mixed_manifest_compiles_nothing_after_its_first_clip(
    load: Callable[[str], WanEngine], tmp_path: Path
) -> None:
    """Sizes, lengths, prompts, guidance that ends, cached steps, both experts: one graph, not broken anywhere."""
    wan = load("a14b_t2v")
    shortcuts = Shortcuts(0.5, ALWAYS, ALWAYS)
    clips = [
        _clip(wan, shortcuts, width=width, height=height, num_frames=frames, prompt=prompt)
        for (width, height), frames, prompt in (
            ((64, 32), 5, "a red ball"),
            ((48, 48), 9, "a blue cube on a much longer way through the woods"),
            ((32, 64), 13, "b"),
            ((64, 32), 5, "a red ball"),
            ((48, 48), 9, "c d"),
        )
    ]
    exact = load("a14b_t2v")
    exact.set_compile(False)
    for clip in clips:
        assert torch.equal(wan.generate(clip, (), silent), exact.generate(clip, (), silent))
    assert _graphs() == 1
    others = [(Shortcuts(0.5, ALWAYS, taylor_low=2), 1), (replace(shortcuts, batch_guidance=True), 2)]
    for other, graphs in others:
        for clip in clips[:3]:
            fast = replace(clip, sampling=replace(clip.sampling, shortcuts=other))
            assert torch.equal(wan.generate(fast, (), silent), exact.generate(fast, (), silent))
        assert _graphs() == graphs, "two branches at a time are another graph than one"
    styles = [write(tmp_path / f"{seed}.safetensors", in_diffusers_names(weights(seed))) for seed in (0, 1)]
    for repeat in range(2):
        for (source, path), clip in zip([*styles, *styles], clips, strict=False):
            styled = with_loras(wan, clip, (source, path, 0.5, "both"))
            with_loras(exact, clip, (source, path, 0.5, "both"))
            assert torch.equal(wan.generate(styled, (), silent), exact.generate(styled, (), silent))
        wan.set_loras([])
        wan.generate(clips[0], (), silent)
        if repeat == 0:
            seen = _graphs()
    assert _graphs() == seen, "another style of the same layers is no new graph, nor is its going"
    assert not counters["graph_break"]


def test_a_time_a_token_is_a_graph_of_its_own_and_no_more(
    load: Callable[[str], WanEngine], image: bytes
) -> None:
    """TI2V-5B in both modes, one after the other."""
    wan = load("ti2v_5b")
    for _ in range(2):
        for size in ({}, {"width": 32, "height": 64}, {"width": 96, "height": 64}):
            wan.generate(_clip(wan, Shortcuts(0.5, ALWAYS), Mode.I2V, **size), given(image), silent)
            wan.generate(_clip(wan, Shortcuts(0.5, ALWAYS), **size), (), silent)
    assert _graphs() == 2
    assert not counters["graph_break"]


def test_exact_is_never_compiled(load: Callable[[str], WanEngine]) -> None:
    """Its clips are the same to the last bit wherever they go on; compiled code rounds otherwise."""
    wan = load("a14b_t2v")
    exact = _clip(wan, Shortcuts())
    wan.generate(
        replace(exact, sampling=replace(exact.sampling, profile="exact", shortcuts=None)), (), silent
    )
    assert _graphs() == 0
    wan.generate(exact, (), silent)
    assert _graphs() == 1


@pytest.mark.parametrize(
    ("profile", "device", "wanted", "compiled"),
    [
        ("exact", "cuda:0", None, False),
        ("exact", "cuda:0", True, False),
        ("fast", "cuda:0", None, True),
        ("turbo", "cuda", None, True),
        ("turbo", "cuda:0", False, False),
        ("fast", "cpu", None, False),
        ("fast", "cpu", True, True),
    ],
)
def test_gpus_compile_what_is_not_exact(
    profile: str, device: str, wanted: bool | None, compiled: bool
) -> None:
    """On a CPU a minute of compiling is longer than a clip: only where the job says so."""
    assert is_compiled(profile, device, wanted) == compiled


def test_what_cannot_be_compiled_is_rendered_without_and_told_once(
    load: Callable[[str], WanEngine], caplog: pytest.LogCaptureFixture
) -> None:
    """An image without a C compiler, a driver too old for Triton: a slower night, not a lost one."""

    def broken(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease set CC")

    wan = load("a14b_t2v")
    wan._blocks.backend = broken  # type: ignore[assignment]
    clip = _clip(wan, Shortcuts())
    with caplog.at_level(logging.WARNING, "wanflow"):
        found = [wan.generate(clip, (), silent) for _ in range(2)]
    wan.set_compile(False)
    plain = wan.generate(clip, (), silent)
    assert torch.equal(found[0], plain)
    assert torch.equal(found[1], plain)
    [told] = [record.getMessage() for record in caplog.records if record.name.startswith("wanflow")]
    assert "blocks cannot be compiled here" in told
    assert "Failed to find C compiler" in told


def test_out_of_memory_in_a_compiled_block_is_out_of_memory(load: Callable[[str], WanEngine]) -> None:
    """It has a rung of the ladder to go to; and another clip may well fit."""

    def hungry(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            if full:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return graph.forward(*arguments)

        return run

    full = True
    wan = load("a14b_t2v")
    wan._blocks.backend = hungry  # type: ignore[assignment]
    with pytest.raises(RenderError) as raised:
        wan.generate(_clip(wan, Shortcuts()), (), silent)
    assert raised.value.cause is Cause.OUT_OF_MEMORY
    full = False
    wan.generate(_clip(wan, Shortcuts()), (), silent)
    assert _graphs() == 1


class Expert:
    """One block of one layer, 3 wide."""

    def __init__(self) -> None:
        self.blocks = torch.nn.Sequential(torch.nn.Linear(3, 3))


def test_a_fault_of_the_block_itself_is_not_blamed_on_the_compiler(
    fresh: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is the clip's, and the next clip is compiled as ever."""
    expert = Expert()
    blocks = CompiledBlocks([expert])
    blocks.is_on, blocks.backend = True, "eager"
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            expert.blocks(torch.zeros(2, 2))
        expert.blocks(torch.zeros(2, 3))
    assert _graphs() == 1
    assert not [record for record in caplog.records if record.name.startswith("wanflow")]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_compiled_code_is_found_on_disk_by_the_next_process(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A replica that starts later, tonight or tomorrow, compiles nothing; the cache lies where the others do."""
    monkeypatch.setenv("WANFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    x = torch.randn(5, 3)
    with torch._inductor.config.patch(compile_threads=1):
        for hits in (0, 1):
            torch._dynamo.reset()
            expert = Expert()
            expected = expert.blocks(x)
            blocks = CompiledBlocks([expert])
            blocks.is_on = True
            with torch.inference_mode():
                assert torch.allclose(expert.blocks(x), expected, atol=1e-6)
            found = counters["inductor"]
            assert (
                found.get("fxgraph_cache_hit", 0) + counters["aot_autograd"].get("autograd_cache_hit", 0)
                >= hits
            )
            assert found.get("fxgraph_cache_miss", 0) == 1
    assert any((tmp_path / "cache" / "compiled").iterdir())
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By doctor, before a run; whoever names one in the environment is asked for that one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    assert missing_tool("cuda:0") == "no C compiler (cc, gcc, clang)"
    assert missing_tool("cpu") == "no C compiler (g++)"
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "gcc").chmod(0o755)
    assert missing_tool("cuda:0") == ""
    monkeypatch.setenv("CC", "icx")
    assert missing_tool("cuda:0") == "no C compiler (icx)"
