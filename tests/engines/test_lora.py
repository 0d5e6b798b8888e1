"""LoRAs: every accepted format means the same, a swap leaves nothing behind, and what does not fit is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints import make
from tests.engines.conftest import given, make_clip, silent
from wanflow.engines import Engine, load_engine, read_spec
from wanflow.engines.lora import load_additions
from wanflow.engines.lora_names import check_fit, read_layers
from wanflow.engines.profiles import dimensions_of
from wanflow.engines.wan import WanEngine
from wanflow.errors import InputError, RenderError
from wanflow.model import Cause, Clip, Lora, Mode, Source

RANK = 4
#: (diffusers' name, Wan's own name, rows, columns) in the tiny checkpoints
LAYERS = [
    *((f"blocks.{i}.attn1.to_{n}", f"blocks.{i}.self_attn.{n}", 24, 24) for i in (0, 1) for n in "qkv"),
    *((f"blocks.{i}.attn2.to_{n}", f"blocks.{i}.cross_attn.{n}", 24, 24) for i in (0, 1) for n in "qkv"),
    ("blocks.0.attn1.to_out.0", "blocks.0.self_attn.o", 24, 24),
    ("blocks.1.attn2.to_out.0", "blocks.1.cross_attn.o", 24, 24),
    ("blocks.0.ffn.net.0.proj", "blocks.0.ffn.0", 48, 24),
    ("blocks.1.ffn.net.2", "blocks.1.ffn.2", 24, 48),
]
OUTSIDE = [
    ("condition_embedder.time_proj", "time_projection.1", 144, 24),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0", 24, 32),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2", 24, 24),
]
#: in those that look at image features
IMAGE = [
    ("blocks.0.attn2.add_k_proj", "blocks.0.cross_attn.k_img", 24, 24),
    ("blocks.1.attn2.add_v_proj", "blocks.1.cross_attn.v_img", 24, 24),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1", 16, 16),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3", 24, 16),
]
Weights = dict[str, tuple[torch.Tensor, torch.Tensor]]


def weights(seed: int = 0, layers: list[tuple[str, str, int, int]] | None = None) -> Weights:
    """diffusers' name -> (down, up)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(RANK, columns, generator=generator) * 0.3,
            torch.randn(rows, RANK, generator=generator) * 0.3,
        )
        for name, _, rows, columns in (LAYERS if layers is None else layers)
    }


def _own(name: str) -> str:
    return {ours: theirs for ours, theirs, _, _ in (*LAYERS, *OUTSIDE, *IMAGE)}[name]


def _diffusers(given: Weights, prefix: str = "transformer.", default: str = "") -> dict[str, torch.Tensor]:
    found = {}
    for name, (down, up) in given.items():
        found[f"{prefix}{name}.lora_A{default}.weight"] = down
        found[f"{prefix}{name}.lora_B{default}.weight"] = up
    return found


def _comfy(given: Weights, prefix: str = "diffusion_model.") -> dict[str, torch.Tensor]:
    """With an alpha that undoes what the up weights were multiplied with."""
    found = {}
    for name, (down, up) in given.items():
        found[f"{prefix}{_own(name)}.lora_down.weight"] = down
        found[f"{prefix}{_own(name)}.lora_up.weight"] = up * 2
        found[f"{prefix}{_own(name)}.alpha"] = torch.tensor(RANK / 2)
    return found


def _kohya(given: Weights) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in _comfy(given, "").items():
        layer, _, part = name.partition(".lora_") if ".lora_" in name else name.partition(".alpha")
        tail = f"lora_{part}" if ".lora_" in name else "alpha"
        found[f"lora_unet_{layer.replace('.', '_')}.{tail}"] = value
    return found


FORMATS: dict[str, Callable[[Weights], dict[str, torch.Tensor]]] = {
    "diffusers": _diffusers,
    "PEFT": lambda given: _diffusers(given, "base_model.model.", ".default"),
    "no prefix": lambda given: _diffusers(given, ""),
    "ComfyUI": _comfy,
    "Wan's own": lambda given: _comfy(given, ""),
    "Wan's own names with A and B": lambda given: {
        f"diffusion_model.{_own(name)}.lora_{part}.weight": value
        for name, pair in given.items()
        for part, value in zip("AB", pair, strict=True)
    },
    "kohya": _kohya,
}


def write(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> tuple[Source, Path]:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return Source(str(path), path.name), path


def with_loras(wan: Engine, clip: Clip, *loras: tuple[Source, Path, float, str]) -> Clip:
    """``clip`` with these, which the engine has."""
    found = [(Lora(source, scale, expert), path) for source, path, scale, expert in loras]
    wan.set_loras(found)
    return replace(clip, loras=tuple(lora for lora, _ in found))


def _clip(wan: Engine) -> Clip:
    sampling = replace(wan.spec.sampling, steps=4, flow_shift=5.0, guidance=4.0, guidance_low=3.0)
    return make_clip(wan, Mode.T2V if Mode.T2V in wan.spec.modes else Mode.I2V, sampling)


def _merged(directory: Path, given: Weights, scale: float, experts: str) -> WanEngine:
    """A fresh engine with the low-rank weights added to its own by hand."""
    wan = load_engine(read_spec(str(directory)), device="cpu", num_threads=1)
    assert isinstance(wan, WanEngine)
    for i, expert in enumerate(wan._experts):
        if experts in ("both", ("high", "low")[i]):
            with torch.no_grad():
                for name, (down, up) in given.items():
                    expert.get_submodule(name).weight += scale * up @ down
    return wan


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    """A style bought for ComfyUI and its copy for diffusers are one style."""
    given = weights()
    _, path = write(tmp_path / "lora.safetensors", FORMATS[name](given))
    found = load_additions(path, 0.5)
    assert set(found) == set(given)
    for layer, (down, up) in given.items():
        addition = found[layer]
        assert addition.up is not None
        assert addition.down is not None
        assert torch.allclose(addition.up @ addition.down, 0.5 * up @ down, atol=1e-6)


@pytest.mark.parametrize("expert", ["both", "high", "low"])
@pytest.mark.parametrize(
    ("layout", "layers"),
    [("a14b_t2v", LAYERS), ("a14b_t2v", OUTSIDE), ("wan21_i2v", IMAGE)],
    ids=["blocks", "embedders", "image"],
)
def test_it_equals_weights_merged_by_hand(
    expert: str,
    layout: str,
    layers: list[tuple[str, str, int, int]],
    engine: Callable[[str], Engine],
    checkpoint: Callable[[str], Path],
    image: bytes,
    tmp_path: Path,
) -> None:
    """What a studio sees after merging is what wanflow renders without."""
    wan, lora = engine(layout), weights(1, layers)
    if expert == "low" and len(wan._experts) == 1:
        pytest.skip("there is one expert only")
    source, path = write(tmp_path / "lora.safetensors", _comfy(lora))
    first_frame = image if _clip(wan).mode is Mode.I2V else None
    plain = wan.generate(_clip(wan), given(first_frame), silent)
    try:
        beside = wan.generate(
            with_loras(wan, _clip(wan), (source, path, 0.8, expert)), given(first_frame), silent
        )
    finally:
        wan.set_loras([])
    merged = _merged(checkpoint(layout), lora, 0.8, expert)
    expected = merged.generate(_clip(merged), given(first_frame), silent)
    assert (beside - plain).abs().max() > 1e-2
    assert (beside - expected).abs().max() < 1e-4


def test_after_any_swap_a_clip_is_what_a_fresh_engine_makes(
    engine: Callable[[str], Engine], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """A hundred styles a night: nothing of one may stay in the next, not in the last bit."""
    wan = engine("a14b_t2v")
    files = {}
    for seed, name in enumerate("ab"):
        files[name] = (*write(tmp_path / f"{name}.safetensors", _diffusers(weights(seed))), 1.0, "both")

    def fresh(*names: str) -> torch.Tensor:
        other = load_engine(read_spec(str(checkpoint("a14b_t2v"))), device="cpu", num_threads=1)
        return other.generate(with_loras(other, _clip(other), *(files[n] for n in names)), (), silent)

    alone = {names: fresh(*names) for names in ("", "a", "b", "ab")}
    assert len({tuple(value.flatten().tolist()[:8]) for value in alone.values()}) == 4
    try:
        for names in ("a", "b", "", "ab", "b", "a", "", "b"):
            clip = with_loras(wan, _clip(wan), *(files[n] for n in names))
            assert torch.equal(wan.generate(clip, (), silent), alone[names]), names
    finally:
        wan.set_loras([])


def test_biases_and_scales_of_the_whole_file_count(tmp_path: Path) -> None:
    """lightx2v's files add to biases; diffusers writes alpha once for all layers."""
    bias = torch.arange(24.0)
    tensors = {"diffusion_model.blocks.0.self_attn.q.diff_b": bias}
    norms = {
        f"diffusion_model.{norm}.{part}": bias.clone()
        for norm in ("blocks.0.norm3", "blocks.0.cross_attn.norm_k_img", "img_emb.proj.0", "img_emb.proj.4")
        for part in ("diff", "diff_b")
    }
    _, path = write(tmp_path / "bias.safetensors", tensors | norms)
    [(name, addition)] = load_additions(path, 0.5).items()
    assert name == "blocks.0.attn1.to_q"
    assert torch.equal(addition.bias, 0.5 * bias)
    given = weights()
    settings = {"transformer.r": RANK, "transformer.lora_alpha": 2 * RANK}
    _, path = write(
        tmp_path / "scaled.safetensors", _diffusers(given), {"lora_adapter_metadata": json.dumps(settings)}
    )
    name, (down, up) = next(iter(given.items()))
    addition = load_additions(path, 1.0)[name]
    assert torch.allclose(addition.up @ addition.down, 2 * up @ down)


def test_clips_of_other_loras_than_those_loaded_are_refused(
    engine: Callable[[str], Engine], tmp_path: Path
) -> None:
    """A mix-up must not write one style's pixels under another's key."""
    wan = engine("a14b_t2v")
    source, path = write(tmp_path / "lora.safetensors", _diffusers(weights()))
    clip = with_loras(wan, _clip(wan), (source, path, 1.0, "both"))
    try:
        with pytest.raises(RenderError, match="other LoRAs"):
            wan.generate(_clip(wan), (), silent)
        with pytest.raises(RenderError, match="other LoRAs"):
            wan.generate(replace(clip, loras=(replace(clip.loras[0], scale=0.5),)), (), silent)
    finally:
        wan.set_loras([])


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "blocks.7.attn1.to_q",
            (24, 24),
            "has weights for blocks.7.attn1.to_q, which this checkpoint has not",
        ),
        ("blocks.0.attn2.add_k_proj", (24, 24), "add_k_proj, which this checkpoint has not"),
        ("blocks.0.attn1.to_q", (24, 48), "has 48 columns, the checkpoint's 24"),
        ("blocks.0.attn1.to_q", (48, 24), "has 48 rows, the checkpoint's 24"),
    ],
)
def test_another_models_lora_is_bad_input_and_leaves_nothing(
    name: str, shape: tuple[int, int], message: str, engine: Callable[[str], Engine], tmp_path: Path
) -> None:
    """The layers before it have been replaced by then: the next clip must not see them."""
    wan = engine("a14b_t2v")
    plain = wan.generate(_clip(wan), (), silent)
    rows, columns = shape
    tensors = _diffusers(weights()) | {
        f"transformer.{name}.lora_A.weight": torch.ones(RANK, columns),
        f"transformer.{name}.lora_B.weight": torch.ones(rows, RANK),
    }
    source, path = write(tmp_path / "lora.safetensors", tensors)
    with pytest.raises(RenderError, match=message) as raised:
        wan.set_loras([(Lora(source), path)])
    assert raised.value.cause is Cause.BAD_INPUT
    assert torch.equal(wan.generate(_clip(wan), (), silent), plain)


def test_image_projections_fit_checkpoints_that_have_them(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Most styles for Wan 2.1 I2V have them; on Wan 2.2 that is found while planning, not in a replica."""
    given = weights(1, [IMAGE[0], LAYERS[0]])
    _, path = write(tmp_path / "lora.safetensors", _comfy(given))
    layers, _ = read_layers(path.read_bytes(), path.stat().st_size)
    looking, other = (dimensions_of(read_spec(str(checkpoint(name)))) for name in ("wan21_i2v", "a14b_i2v"))
    assert looking is not None
    assert other is not None
    check_fit(layers, looking)
    with pytest.raises(InputError, match="add_k_proj, which this checkpoint has not"):
        check_fit(layers, other)


@pytest.mark.parametrize("layout", ["pocket", "ti2v_5b", "wan21_t2v"])
def test_every_layout_takes_one(layout: str, engine: Callable[[str], Engine], tmp_path: Path) -> None:
    """One expert or two, times a token or a clip."""
    wan = engine(layout)
    source, path = write(tmp_path / "lora.safetensors", _diffusers(weights()))
    size = (64, 32)
    plain = wan.generate(make_clip(wan, Mode.T2V, size=size), (), silent)
    try:
        clip = with_loras(wan, make_clip(wan, Mode.T2V, size=size), (source, path, 1.0, "both"))
        assert not torch.equal(wan.generate(clip, (), silent), plain)
    finally:
        wan.set_loras([])


@pytest.mark.parametrize("thrift", [1, 2, 3])
def test_a_lora_moves_with_its_layer(thrift: int, engine: Callable[[str], Engine], tmp_path: Path) -> None:
    """Further down the memory ladder weights come and go: the same numbers still."""
    wan = engine("a14b_t2v")
    source, path = write(tmp_path / "lora.safetensors", _diffusers(weights()))
    try:
        clip = with_loras(wan, _clip(wan), (source, path, 1.0, "both"))
        whole = wan.generate(clip, (), silent)
        wan.set_thrift(thrift)
        assert torch.equal(wan.generate(clip, (), silent), whole)
    finally:
        wan.set_thrift(0)
        wan.set_loras([])


@pytest.mark.gpu
@pytest.mark.parametrize("thrift", [0, 1, 2, 3])
def test_a_lora_moves_with_its_layer_on_a_gpu(thrift: int, tmp_path: Path) -> None:
    """Swapped in while its expert is away, too."""
    wan = load_engine(read_spec(str(make("a14b_t2v", tmp_path / "checkpoint"))), device="cuda")
    source, path = write(tmp_path / "lora.safetensors", _diffusers(weights()))
    whole = wan.generate(with_loras(wan, _clip(wan), (source, path, 1.0, "both")), (), silent)
    wan.set_loras([])
    wan.set_thrift(thrift)
    wan.generate(_clip(wan), (), silent)
    clip = with_loras(wan, _clip(wan), (source, path, 1.0, "both"))
    assert torch.equal(wan.generate(clip, (), silent), whole)
