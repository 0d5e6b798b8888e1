"""What a checkpoint takes of a GPU, and the rung of the memory ladder that follows from it."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models import attention_dispatch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import UMT5Config, UMT5EncoderModel

from tests.checkpoints import LAYOUTS
from wanflow.engines import read_spec, wan
from wanflow.engines.checkpoint import open_files
from wanflow.engines.footprint import (
    LAST_RUNG,
    SLACK,
    Part,
    choose_rung,
    needed_bytes,
    needed_bytes_beside_expert,
    needed_bytes_of_two,
    read_parts,
)
from wanflow.model import EngineSpec, Mode, Sampling
from wanflow.schedule import Policy

GB = 10**9
A14B: dict[str, Any] = {
    "patch_size": (1, 2, 2), "num_attention_heads": 40, "attention_head_dim": 128, "in_channels": 16,
    "out_channels": 16, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 13824, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024,
}  # fmt: skip
#: the autoencoders of 2.1, which A14B has too, and of TI2V-5B
VAE_21: dict[str, Any] = {}
VAE_5B: dict[str, Any] = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
    "temperal_downsample": [False, True, True], "is_residual": True, "patch_size": 2, "in_channels": 12,
    "out_channels": 12, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}  # fmt: skip
UMT5_XXL = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
SPEC = EngineSpec(
    "a14b", "wan", "a14b", "w", frozenset({Mode.T2V}), 16.0, 16, 4, ((832, 480), (1280, 720)), 81,
    Sampling(40, 4.0, 3.0, 12.0, "unipc", 0.875),
)  # fmt: skip


class Headers:
    """The files of a checkpoint as far as they are read without its weights: of models without memory."""

    url = "headers"

    def __init__(self, models: Mapping[str, Any]) -> None:
        self._files: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        index: dict[str, Any] = {"boundary_ratio": 0.875, "tokenizer": ["transformers", "T5TokenizerFast"]}
        for name, model in models.items():
            index[name] = ["library", type(model).__name__]
            tensors, end = {}, 0
            for key, tensor in model.named_parameters():  # what is tied is in a file once
                start, end = end, end + 4 * tensor.numel()  # float32, as such files often are
                tensors[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
            header = json.dumps(tensors).encode()
            config = model.config.to_dict() if name == "text_encoder" else dict(model.config)
            self._put(f"{name}/config.json", json.dumps(config, default=str).encode())
            file = "model" if name == "text_encoder" else "diffusion_pytorch_model"
            self._put(f"{name}/{file}.safetensors", len(header).to_bytes(8, "little") + header, end)
        self._put("model_index.json", json.dumps(index).encode())

    def _put(self, path: str, data: bytes, more_bytes: int = 0) -> None:
        self._files[path], self._sizes[path] = data, len(data) + more_bytes

    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        return self._files[path][start : None if length is None else start + length]


@pytest.fixture(scope="module")
def a14b_files() -> Headers:
    with torch.device("meta"):
        expert = WanTransformer3DModel(**A14B, num_layers=40)
        text = UMT5EncoderModel(UMT5Config(**UMT5_XXL))
        vae = AutoencoderKLWan(**VAE_21)
    return Headers({"transformer": expert, "transformer_2": expert, "text_encoder": text, "vae": vae})


@pytest.fixture(scope="module")
def a14b(a14b_files: Headers) -> tuple[Part, ...]:
    return read_parts(a14b_files, SPEC)


def test_a14b_is_seventy_gigabytes_and_begins_on_the_rung_that_fits(a14b: tuple[Part, ...]) -> None:
    """On an L40S or an A100 of 40 GB loading it whole ended the night before it began."""
    gigabytes = {part.name: round(part.num_bytes / GB, 1) for part in a14b}
    assert gigabytes == {"transformer": 28.6, "transformer_2": 28.6, "vae": 0.5, "text_encoder": 11.4}
    assert sum(part.num_bytes for part in a14b) / GB == pytest.approx(69, abs=0.5)
    assert {size: choose_rung(a14b, size * GB) for size in (24, 40, 48, 80, 96, 141)} == {
        24: 3, 40: 2, 48: 2, 80: 1, 96: 0, 141: 0,
    }  # fmt: skip


def test_the_largest_clip_of_a_run_decides(a14b: tuple[Part, ...], a14b_files: Headers) -> None:
    """At 480p there is room for all of it on 80 GB; a run of small clips does not pay for sizes that it has none of."""
    small = read_parts(a14b_files, replace(SPEC, largest=(832, 480, 81)))
    assert choose_rung(small, 80 * GB) == 0
    assert choose_rung(a14b, 80 * GB) == 1


def test_an_expert_may_stay_beside_the_decoder_where_there_is_room(
    a14b: tuple[Part, ...], a14b_files: Headers
) -> None:
    """A pair of clips copies both experts once then. At 720p 48 GB are just not enough, at 480p they are."""
    small = read_parts(a14b_files, replace(SPEC, largest=(832, 480, 81)))
    assert 40 * GB < needed_bytes_beside_expert(small) < 41 * GB
    assert 49 * GB < needed_bytes_beside_expert(a14b) < 50 * GB
    for parts in (small, a14b):
        assert needed_bytes(parts, 2) < needed_bytes_beside_expert(parts) < needed_bytes(parts, 1)


def test_the_last_rung_counts_one_block_of_an_expert(a14b: tuple[Part, ...]) -> None:
    """Forty blocks of 0.7 GB, and what lies around them."""
    expert = next(part for part in a14b if part.is_expert)
    assert 0.5 * GB < expert.least_bytes < 1.2 * GB
    assert all(part.least_bytes == part.num_bytes for part in a14b if not part.is_expert)


def test_a_rung_further_down_never_needs_more(a14b: tuple[Part, ...]) -> None:
    needs = [needed_bytes(a14b, rung) for rung in range(LAST_RUNG + 1)]
    assert needs == sorted(needs, reverse=True)
    assert [choose_rung(a14b, need) for need in needs] == [0, 1, 2, 3]
    assert [choose_rung(a14b, need - 1) for need in needs] == [1, 2, 3, 3]


def test_where_nothing_fits_no_rung_is_taken_for_nothing() -> None:
    """TI2V-5B on 16 GB: its decoder wants more at every rung, so experts are not fed block by block on top of it."""
    parts = (
        Part("text_encoder", 11 * GB, 11 * GB, 0, 0),
        Part("vae", 3 * GB, 3 * GB, 22 * GB, 0),
        Part("transformer", 10 * GB, 1 * GB, 7 * GB, 7 * GB),
    )
    assert [needed_bytes(parts, rung) // GB for rung in range(LAST_RUNG + 1)] == [46, 35, 25, 25]
    assert choose_rung(parts, 16 * GB) == 2


def test_a_decoder_beside_the_next_clips_steps_counts_with_them(a14b_files: Headers) -> None:
    """Both peaks meet on rung 0. An image is encoded beside a decoder as well, and takes more than a step."""

    def of_two(*modes: Mode) -> tuple[int, dict[str, int]]:
        parts = read_parts(a14b_files, replace(SPEC, modes=frozenset(modes)))
        work = {part.name: part.work_bytes for part in parts}
        return needed_bytes_of_two(parts) - sum(part.num_bytes for part in parts) - work["vae"], work

    beside, work = of_two(Mode.T2V)
    assert beside == work["transformer"]
    beside, work = of_two(Mode.I2V)
    assert work["transformer"] < beside < work["vae"]


def test_no_rung_is_left_for_want_of_room_for_two(a14b: tuple[Part, ...], a14b_files: Headers) -> None:
    """One rung down nothing is decoded beside steps either, and weights come and go: one after the other is better."""
    small = read_parts(a14b_files, replace(SPEC, largest=(832, 480, 81)))
    for parts, one, two in ((small, 80, 84), (a14b, 96, 141)):
        assert choose_rung(parts, one * GB) == 0
        assert one * GB < needed_bytes_of_two(parts) <= two * GB


def test_an_engine_decodes_beside_steps_where_there_is_memory_for_both(
    checkpoint: Callable[[str], Path],
) -> None:
    """Else the first clips of every replica run out of memory, to learn what could be counted. (torch's device without
    memory is the GPU.)"""
    path = checkpoint("wan21_i2v")
    spec = read_spec(str(path))
    needed = needed_bytes_of_two(read_parts(open_files(str(path)), spec))
    engines = [wan.load(spec, path, "meta", 1, room_bytes=room) for room in (needed, needed - 1)]
    assert [(engine.rung, engine.decodes_beside) for engine in engines] == [(0, True), (0, False)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_components_are_counted_as_they_are_loaded(layout: str, checkpoint: Callable[[str], Path]) -> None:
    """bfloat16 on a GPU, whatever the file has; the autoencoder and CLIP in float32."""
    path = checkpoint(layout)
    parts = {part.name: part for part in read_parts(open_files(str(path)), read_spec(str(path)))}
    engine = wan.load(read_spec(str(path)), path, "meta", 1)
    loaded = {"text_encoder": engine._text.model, "vae": engine._vae}
    loaded |= dict(zip(("transformer", "transformer_2"), engine._experts, strict=False))
    if engine._images is not None:
        loaded["image_encoder"] = engine._images.model
    assert parts.keys() == loaded.keys()
    for name, model in loaded.items():
        width = 4 if name in ("vae", "image_encoder") else 2
        assert parts[name].num_bytes == width * sum(weight.numel() for weight in model.parameters()), name


def test_the_ladders_of_engine_and_scheduler_are_as_long() -> None:
    assert Policy(max_replicas=1, max_assemblies=1).last_rung == LAST_RUNG


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive at once, beside ``known``."""

    def __init__(self, known: torch.nn.Module) -> None:
        super().__init__()
        self._ignored = {t.untyped_storage()._cdata for t in (*known.parameters(), *known.buffers())}
        self._alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._ignored and storage._cdata not in self._alive:
                    self._alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._alive.pop, storage._cdata, None)
                    self.peak = max(self.peak, sum(self._alive.values()))
        return result


def work_of(name: str, models: Mapping[str, Any], spec: EngineSpec, is_beside: bool = False) -> float:
    """What the estimate says without its slack."""
    parts = read_parts(Headers(models), replace(spec, hints=(("num_blocks", 2),)))
    part = next(part for part in parts if part.name == name)
    return (part.beside_bytes if is_beside else part.work_bytes) / SLACK


def models(vae: dict[str, Any]) -> dict[str, Any]:
    with torch.device("meta"):
        channels = dict.fromkeys(("in_channels", "out_channels"), vae.get("z_dim", 16))
        expert = WanTransformer3DModel(**A14B | channels, num_layers=2).to(torch.bfloat16)
        text = UMT5EncoderModel(UMT5Config(**UMT5_XXL | {"num_layers": 1}))
        return {
            "transformer": expert,
            "transformer_2": expert,
            "text_encoder": text,
            "vae": AutoencoderKLWan(**vae),
        }


@pytest.mark.parametrize("size", [(832, 480), (1280, 720)])
def test_the_estimate_of_a_step_covers_the_tensors_of_one(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """81 frames of A14B's true width, on torch's device without memory; attention as kernels do it, without scores."""
    made, (width, height) = models(VAE_21), size
    monkeypatch.setattr(
        attention_dispatch.torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, *args, **kwargs: torch.empty_like(query),
    )
    with torch.device("meta"), torch.inference_mode(), Live(made["transformer"]) as live:
        made["transformer"](
            hidden_states=torch.empty(1, 16, 21, height // 8, width // 8, dtype=torch.bfloat16),
            timestep=torch.empty(1),
            encoder_hidden_states=torch.empty(1, 512, 4096, dtype=torch.bfloat16),
            return_dict=False,
        )
    estimate = work_of("transformer", made, replace(SPEC, sizes=(size,)))
    assert live.peak <= estimate <= 1.2 * live.peak


@pytest.mark.parametrize(("config", "size"), [(VAE_21, (832, 480)), (VAE_5B, (1280, 704))])
def test_the_estimate_of_decoding_covers_its_tensors(config: dict[str, Any], size: tuple[int, int]) -> None:
    """The most that a clip takes beside its weights: 18 GB at 720p."""
    made = models(config)
    vae = made["vae"]
    spatial = vae.config.scale_factor_spatial
    cache: list[Any] = [None] * sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())
    with torch.device("meta"), torch.inference_mode(), Live(vae) as live:
        for number in range(4):  # as VideoCoder.decode has it; from the third on they are alike
            latents = torch.empty(1, vae.config.z_dim, 1, size[1] // spatial, size[0] // spatial)
            x = vae.post_quant_conv(latents)
            x = vae.decoder(x, feat_cache=cache, feat_idx=[0], first_chunk=number == 0)
            x = x.float().clamp(-1.0, 1.0)
    assert live.peak <= work_of("vae", made, replace(SPEC, sizes=(size,))) <= 1.2 * live.peak


@pytest.mark.parametrize(("config", "size"), [(VAE_21, (832, 480)), (VAE_5B, (1280, 704))])
def test_the_estimate_of_encoding_covers_its_tensors(config: dict[str, Any], size: tuple[int, int]) -> None:
    """What a clip with an image takes of the autoencoder while the one before is decoded."""
    made = models(config)
    vae = made["vae"]
    patch = vae.config.patch_size or 1
    cache: list[Any] = [None] * sum(isinstance(module, WanCausalConv3d) for module in vae.encoder.modules())
    with torch.device("meta"), torch.inference_mode(), Live(vae) as live:
        for number in range(4):  # as VideoCoder.encode has it, chunk by chunk
            frames = 4 if number else 1
            x = torch.empty(1, 3 * patch**2, frames, size[1] // patch, size[0] // patch)
            vae.quant_conv(vae.encoder(x, feat_cache=cache, feat_idx=[0]))
    spec = replace(SPEC, sizes=(size,), modes=frozenset({Mode.I2V}))
    assert live.peak <= work_of("vae", made, spec, is_beside=True) <= 1.2 * live.peak
