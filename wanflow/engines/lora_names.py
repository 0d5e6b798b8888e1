"""What a file of low-rank weights says about itself: which layers of which size, in whose names. Torch-free.

Accepted are safetensors files whose tensors are named as

- diffusers and PEFT name them: ``[transformer.]blocks.0.attn1.to_q.lora_A.weight`` and ``lora_B``
- Wan's own code and ComfyUI: ``[diffusion_model.]blocks.0.self_attn.q.lora_down.weight`` and ``lora_up`` (or
  ``lora_A`` and ``lora_B``), with ``.alpha`` and ``.diff_b`` (an addition to the layer's bias)
- kohya's and musubi's trainers: ``lora_unet_blocks_0_self_attn_q.lora_down.weight``

``.diff`` and ``.diff_b`` of norms are passed over, as diffusers passes them over; anything else that is not understood
is an error: half of a style is not that style. Only linear layers have low-rank weights. Knows no files and no stores.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wanflow.errors import InputError

#: of a safetensors header; forty blocks of ten layers take 0.3 MB
_MAX_HEADER_BYTES = 8 << 20
#: what must be read of a file to know its tensors
HEAD_BYTES = 8 + _MAX_HEADER_BYTES
MAX_RANK = 1024
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
#: Wan's own names below a block -> diffusers'
_BLOCK = {
    **{
        f"self_attn.{ours}": f"attn1.{theirs}"
        for ours, theirs in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"))
    },
    **{
        f"cross_attn.{ours}": f"attn2.{theirs}"
        for ours, theirs in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"))
    },
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
#: and elsewhere
_OUTSIDE = {
    "head.head": "proj_out",
    "time_projection.1": "condition_embedder.time_proj",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
}
_UNDERSCORED = {name.replace(".", "_"): name for name in (*_BLOCK, *_OUTSIDE)}
_PREFIX = re.compile(r"(?:base_model\.model\.|diffusion_model\.|transformer\.)*")
_PART = re.compile(
    r"(?P<layer>.+?)\.(?:(?P<down>lora_A|lora_down|lora\.down)(?:\.default)?\.weight"
    r"|(?P<up>lora_B|lora_up|lora\.up)(?:\.default)?\.weight|(?P<alpha>alpha)|(?P<bias>diff_b|lora_B\.bias)|(?P<diff>diff))"
)
#: the first and the last layer of the image projection are norms too
_NORM = re.compile(r".*norm.*|img_emb\.proj\.[04]")
_KOHYA = re.compile(r"lora_unet_(?:blocks_(?P<block>\d+)_)?(?P<rest>\w+)")
_BLOCK_NAME = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's name in its file, and its shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(slots=True)
class Layer:
    """The low-rank weights of one linear layer: ``up @ down``, times ``alpha / rank``."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Of a checkpoint's experts: what low-rank weights must fit."""

    num_blocks: int
    width: int
    ffn_width: int
    #: whether the blocks look at image features too
    has_image: bool = False

    def of(self, layer: str) -> tuple[int, int] | None:
        """Rows and columns of a block's linear layer; None for layers elsewhere, or none at all."""
        found = _BLOCK_NAME.fullmatch(layer)
        if found is None or int(found[1]) >= self.num_blocks:
            return None
        if found[2] == "ffn.net.0.proj":
            return self.ffn_width, self.width
        if found[2] == "ffn.net.2":
            return self.width, self.ffn_width
        is_here = found[2] in _BLOCK.values() and (self.has_image or "add_" not in found[2])
        return (self.width, self.width) if is_here else None


def read_layers(head: bytes, num_bytes: int) -> tuple[dict[str, Layer], float]:
    """Name of each linear layer (diffusers') -> its tensors, and the scale that the file gives all of them.

    ``head`` is the file's beginning, HEAD_BYTES of it or all; ``num_bytes`` the file's size. InputError says what is
    wrong with it.
    """
    header = _header(head, num_bytes)
    scale = _scale(header.pop("__metadata__", None))
    layers: dict[str, Layer] = {}
    for name, entry in header.items():
        tensor = Tensor(name, tuple(entry["shape"]))
        plain = name[len(_PREFIX.match(name)[0]) :]  # type: ignore[index]
        part = _PART.fullmatch(plain)
        layer = _diffusers_name(part["layer"]) if part else None
        if part is not None and (part["diff"] or part["bias"]) and _NORM.fullmatch(part["layer"]):
            continue
        if part is None or layer is None or part["diff"]:
            raise InputError(f"its tensor `{name[:120]}` is no low-rank weight of a Wan transformer")
        kind = next(kind for kind in ("down", "up", "alpha", "bias") if part[kind])
        found = layers.setdefault(layer, Layer())
        if getattr(found, kind) is not None:
            raise InputError(f"has two tensors for `{kind}` of {layer}")
        setattr(found, kind, tensor)
    for layer, found in layers.items():
        _check(layer, found)
    if not layers:
        raise InputError("holds no low-rank weights")
    return layers, scale


def check_fit(layers: Mapping[str, Layer], dimensions: Dimensions) -> None:
    """InputError unless every layer is one of a checkpoint of these dimensions."""
    for name, layer in layers.items():
        if not name.startswith("blocks."):
            continue  # few, and found when they are loaded
        wanted = dimensions.of(name)
        if wanted is None:
            raise InputError(f"has weights for {name}, which this checkpoint has not: it is another model's")
        rows = layer.up.shape[0] if layer.up else layer.bias.shape[0] if layer.bias else wanted[0]
        columns = layer.down.shape[1] if layer.down else wanted[1]
        if (rows, columns) != wanted:
            raise InputError(
                f"is made for a model of another size: {name} is {wanted[0]} x {wanted[1]} here, "
                f"{rows} x {columns} there"
            )


def _check(name: str, layer: Layer) -> None:
    if (layer.down is None) != (layer.up is None) or (layer.down is None and layer.bias is None):
        raise InputError(f"has half of the weights of {name} only: is the file complete?")
    if layer.bias is not None and len(layer.bias.shape) != 1:
        raise InputError(f"has a bias of {name} that is none")
    if layer.down is not None and layer.up is not None:
        down, up = layer.down.shape, layer.up.shape
        if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
            raise InputError(f"has weights of {name} that do not go together: {list(down)} and {list(up)}")
        if not 1 <= down[0] <= MAX_RANK:
            raise InputError(f"has weights of rank {down[0]} for {name}; at most {MAX_RANK} are taken")
        if layer.bias is not None and layer.bias.shape != (up[0],):
            raise InputError(f"has a bias of {name} that does not fit its weights")
    if layer.alpha is not None and math.prod(layer.alpha.shape) != 1:
        raise InputError(f"has an alpha of {name} that is no single number")


def _diffusers_name(layer: str) -> str | None:
    kohya = _KOHYA.fullmatch(layer)
    if kohya:
        rest = _UNDERSCORED.get(kohya["rest"])
        if rest is None:
            return None
        layer = f"blocks.{kohya['block']}.{rest}" if kohya["block"] else rest
    if layer in _OUTSIDE:
        return _OUTSIDE[layer]
    if layer in _OUTSIDE.values():
        return layer
    found = _BLOCK_NAME.fullmatch(layer)
    if found is None or len(found[1]) > 4:
        return None
    name = _BLOCK.get(found[2], found[2])
    return f"blocks.{int(found[1])}.{name}" if name in _BLOCK.values() else None


def _header(head: bytes, num_bytes: int) -> dict[str, Any]:
    """A safetensors header whose every number has been looked at."""
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= min(num_bytes - 8, _MAX_HEADER_BYTES):
        raise InputError(
            "is no safetensors file, or cut off; other formats can run code when they are read: convert it"
        )
    try:
        header = json.loads(head[8 : 8 + length])
        end = 0
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, stop = entry["data_offsets"]
            size = _ITEM_BYTES[entry["dtype"]] * math.prod(entry["shape"])
            if not all(isinstance(n, int) and n >= 0 for n in (begin, stop, *entry["shape"])):
                raise ValueError(name)
            if stop - begin != size or len(entry["shape"]) > 2:
                raise ValueError(name)
            end = max(end, stop)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"has a header that is not understood ({str(error)[:80]}): save it again") from None
    if 8 + length + end != num_bytes:
        raise InputError("is cut off, or has bytes that belong to nothing: copy it again")
    return header  # type: ignore[no-any-return]


def _scale(metadata: object) -> float:
    """diffusers writes PEFT's settings beside the weights: alpha over rank scales all of them."""
    text = metadata.get("lora_adapter_metadata") if isinstance(metadata, dict) else None
    if not text:
        return 1.0
    try:
        settings = {str(k).removeprefix("transformer."): v for k, v in json.loads(text).items()}
        if any(settings.get(name) for name in ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora")):
            raise InputError("scales its layers in ways that are not known here (patterns, DoRA, rsLoRA)")
        rank, alpha = settings.get("r"), settings.get("lora_alpha")
        return 1.0 if not rank or alpha is None else float(alpha) / float(rank)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError("has settings that are not understood (lora_adapter_metadata)") from None
