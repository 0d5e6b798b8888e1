"""Cross-attention over a prompt: exactly as if it were padded with zero rows to 512, its keys and values computed once
a clip.

Every padding row is the same vector after the text projection, so all of them have one key and one value.
Attention over ``n`` equal rows is attention over one row whose score is raised by ``log n``. A ten-word
prompt then costs 11 rows a layer instead of 512, which on a CPU is a quarter of a small model's step. In bf16
the logarithm would be rounded (0.4 % of the padding's weight), and a large model does not feel the cost:
there the zeros are simply put back.

Keys and values depend on the prompt and the weights alone, so those of the first step serve all: the same numbers, to
the last bit. Only one expert's are kept at a time (A14B: 0.4 GB a prompt), and none while memory is short.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from wanflow.engines.text import MAX_TOKENS

#: key and value of one layer, (1, rows, heads, width of a head)
KeyValue = tuple[torch.Tensor, torch.Tensor]


class TextAttention(WanAttnProcessor):  # type: ignore[misc]
    """The processor of one cross-attention layer; what it holds is set before each forward."""

    def __init__(self) -> None:
        super().__init__()
        #: None: computed from the prompt that comes with the forward
        self.kept: KeyValue | None = None
        #: raises the scores of the prompt's rows; None: by nothing
        self.bias: torch.Tensor | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: Any = None,
    ) -> torch.Tensor:
        if self.kept is None:
            plain: torch.Tensor = super().__call__(
                attn, hidden_states, encoder_hidden_states, self.bias, rotary_emb
            )
            return plain
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key, value = self.kept
        found = dispatch_attention_fn(
            query, key, value, attn_mask=self.bias, backend=self._attention_backend, parallel_config=None
        )
        result: torch.Tensor = attn.to_out[1](attn.to_out[0](found.flatten(2, 3).type_as(query)))
        return result


class Context:
    """Gives the experts that it was installed in their prompts."""

    def __init__(self, experts: list[Any], dtype: torch.dtype) -> None:
        #: whether keys and values are kept from step to step; the same numbers either way
        self.keeps = True
        self._compact = dtype == torch.float32
        self._owner: Any = None
        #: by name of the guidance branch, a layer each
        self._kept: dict[str, list[KeyValue]] = {}
        for expert in experts:
            for block in expert.blocks:
                block.attn2.set_processor(TextAttention())

    def forget(self) -> None:
        """Before another clip, or another expert: other prompts, other weights."""
        for block in self._owner.blocks if self._owner is not None else ():
            block.attn2.processor.kept = None
        self._owner, self._kept = None, {}

    def use(self, expert: Any, rows: torch.Tensor, branch: str) -> torch.Tensor:
        """What the next forward of ``expert`` takes as ``encoder_hidden_states``, for a prompt's rows (1, n, width).

        ``branch`` names the prompt until :meth:`forget`: a name has one prompt.
        """
        padded, bias = self._padded(rows)
        layers = [block.attn2 for block in expert.blocks]
        if self._owner is not expert:
            self.forget()
            self._owner = expert
        # image features (Wan 2.1 I2V) come in the same rows; those are left to diffusers
        if not self.keeps or any(layer.add_k_proj is not None for layer in layers):
            self._kept, kept = {}, None
        else:
            kept = self._kept.get(branch)
            if kept is None:
                kept = self._kept[branch] = _keys_and_values(expert, layers, padded)
        for i, layer in enumerate(layers):
            layer.processor.bias = bias
            layer.processor.kept = kept[i] if kept else None
        # the blocks have all they need: one row is there for its type
        return padded[:, :1] if kept else padded

    def _padded(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        missing = MAX_TOKENS - rows.shape[1]
        if missing == 0:
            return rows, None
        if not self._compact:
            return torch.cat([rows, rows.new_zeros(1, missing, rows.shape[2])], dim=1), None
        bias = rows.new_zeros(1, 1, 1, rows.shape[1] + 1)
        bias[..., -1] = math.log(missing)
        return torch.cat([rows, rows.new_zeros(1, 1, rows.shape[2])], dim=1), bias


def _keys_and_values(expert: Any, layers: list[Any], padded: torch.Tensor) -> list[KeyValue]:
    """As the forward computes them, operation by operation."""
    text = expert.condition_embedder.text_embedder(padded)
    return [
        (
            layer.norm_k(layer.to_k(text)).unflatten(2, (layer.heads, -1)),
            layer.to_v(text).unflatten(2, (layer.heads, -1)),
        )
        for layer in layers
    ]
