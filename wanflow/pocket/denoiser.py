"""Pocket's transformers: their configuration, and the pass that training uses.

``denoise`` is WanTransformer3DModel.forward with ``expand_timesteps``, rearranged: a clip has only two times (0 for the
given first frame, t for the rest), so time is embedded twice a clip instead of once a token, and the zero rows of
the text context are one key with a bias. A test holds it to the model's own forward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from torch import Tensor

TRANSFORMER_CONFIG: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 3,
    "attention_head_dim": 64,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 640,
    "num_layers": 7,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 64,
}
#: The high-noise expert serves t >= BOUNDARY * 1000.
BOUNDARY = 0.875
#: Blocks before the tokens from which a clip's layout is to be read.
FEATURES_AFTER = 4


def build_transformer(config: dict[str, Any] | None = None) -> WanTransformer3DModel:
    """A fresh transformer; ``config`` overrides single entries. The output starts at zero, the text is heard."""
    model = WanTransformer3DModel(**{**TRANSFORMER_CONFIG, **(config or {})})
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    hear_the_text(model)
    return model


@torch.no_grad()
def hear_the_text(model: WanTransformer3DModel) -> None:
    """Start with queries that turn away from the padding.

    Some five hundred zero rows share each softmax with a dozen words. A model that starts without preference gives
    the words 3 % of its attention, finds them noise, and turns them down to a tenth of that before it has learned
    what they mean: subjects then ignore their colour for thousands of steps. Without biases in the text projection a
    zero row's key is the direction of the key's own bias, so a bias of the queries against it silences the padding.
    """
    text = model.condition_embedder.text_embedder
    torch.nn.init.zeros_(text.linear_1.bias)
    torch.nn.init.zeros_(text.linear_2.bias)
    for block in model.blocks:
        away = torch.sign(torch.randn_like(block.attn2.to_k.bias))
        block.attn2.to_k.bias.copy_(0.02 * away)
        block.attn2.to_q.bias.copy_(-0.6 * away)


def denoise(
    model: WanTransformer3DModel,
    latents: Tensor,
    times: Tensor,
    context: Tensor,
    context_bias: Tensor,
    *,
    fused: bool = False,
) -> tuple[Tensor, Tensor]:
    """The predicted velocity, shaped like ``latents`` (batch, channels, frames, height, width); and the tokens after
    ``FEATURES_AFTER`` blocks, (batch, tokens, dim).

    ``times`` is (batch, 2) in 0..1000: the first latent frame's and the others'; ``context`` and ``context_bias`` are
    those of ``text.encode_captions``. ``fused`` compiles the block, once a size: a minute's wait for a faster step.
    """
    batch, _, frames, height, width = latents.shape
    first = (height // 2) * (width // 2)
    rest = (frames - 1) * first
    cos, sin = model.rope(latents)
    rotation = (cos[..., 0::2], sin[..., 1::2])
    x = model.patch_embedding(latents).flatten(2).transpose(1, 2)
    embedder = model.condition_embedder
    time = embedder.time_embedder(embedder.timesteps_proj(times.flatten()).to(x.dtype))
    spread = embedder.time_proj(embedder.act_fn(time)).view(batch, 2, 6, -1)
    text = embedder.text_embedder(context)
    run_block = _compiled_block() if fused else _block
    features = x
    for number, block in enumerate(model.blocks, 1):
        x = run_block(block, x, spread, text, context_bias, rotation, first, rest)
        if number == FEATURES_AFTER:
            features = x
    shift, scale = _per_token(model.scale_shift_table.unsqueeze(1) + time.view(batch, 2, 1, -1), first, rest)
    x = model.proj_out(_modulate(x, scale, shift))
    x = x.view(batch, frames, height // 2, width // 2, 2, 2, -1)
    flow: Tensor = x.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, -1, frames, height, width)
    return flow, features


@functools.cache
def _compiled_block() -> Callable[..., Tensor]:
    torch._dynamo.config.cache_size_limit = 64
    return torch.compile(_block, dynamic=False)


def _per_token(values: Tensor, first: int, rest: int) -> tuple[Tensor, ...]:
    """(batch, 2, parts, dim) to one (batch, tokens, dim) a part."""
    whole = torch.cat(
        [v.expand(-1, n, -1, -1) for v, n in ((values[:, :1], first), (values[:, 1:], rest))], dim=1
    )
    return whole.unbind(2)


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def _block(
    block: WanTransformerBlock,
    x: Tensor,
    spread: Tensor,
    text: Tensor,
    text_bias: Tensor,
    rotation: tuple[Tensor, Tensor],
    first: int,
    rest: int,
) -> Tensor:
    shift, scale, gate, shift2, scale2, gate2 = _per_token(
        (block.scale_shift_table + spread).to(x.dtype), first, rest
    )
    y = _modulate(x, scale, shift)
    x = torch.addcmul(x, _attention(block.attn1, y, y, None, rotation), gate)
    y = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, 1e-6)
    x = x + _attention(block.attn2, y, text, text_bias, None)
    y = _modulate(x, scale2, shift2)
    hidden = F.gelu(block.ffn.net[0].proj(y), approximate="tanh")
    return torch.addcmul(x, block.ffn.net[2](hidden), gate2)


def _attention(
    layer: WanAttention,
    x: Tensor,
    context: Tensor,
    bias: Tensor | None,
    rotation: tuple[Tensor, Tensor] | None,
) -> Tensor:
    q = layer.norm_q(layer.to_q(x)).unflatten(2, (layer.heads, -1))
    k = layer.norm_k(layer.to_k(context)).unflatten(2, (layer.heads, -1))
    v = layer.to_v(context).unflatten(2, (layer.heads, -1)).transpose(1, 2)
    if rotation is not None:
        q, k = _rotate(q, *rotation), _rotate(k, *rotation)
    mask = None if bias is None else bias.to(q.dtype).view(1, 1, 1, -1)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v, attn_mask=mask)
    result: Tensor = layer.to_out[0](out.transpose(1, 2).flatten(2))
    return result


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)
