"""Cross-attention over a prompt's real rows, exactly as if it were padded with zero rows to 512.

Every padding row is the same vector after the text projection, so all of them have one key and one value.
Attention over ``n`` equal rows is attention over one row whose score is raised by ``log n``. A ten-word
prompt then costs 11 rows a layer instead of 512, which on a CPU is a quarter of a small model's step. In bf16
the logarithm would be rounded (0.4 % of the padding's weight), and a large model does not feel the cost:
there the zeros are simply put back.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from wanflow.engines.text import MAX_TOKENS


class PaddedTextAttention:
    """The processor of one cross-attention layer; ``bias`` is set before each forward and shared by all
    layers.
    """

    def __init__(self, shared: Context) -> None:
        self._inner = WanAttnProcessor()
        self._shared = shared

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: Any = None,
    ) -> torch.Tensor:
        result: torch.Tensor = self._inner(
            attn, hidden_states, encoder_hidden_states, self._shared.bias, rotary_emb
        )
        return result


class Context:
    """Pads prompts for the experts that it was installed in."""

    def __init__(self, experts: list[Any], dtype: torch.dtype) -> None:
        self.bias: torch.Tensor | None = None
        self._compact = dtype == torch.float32
        if self._compact:
            for expert in experts:
                for block in expert.blocks:
                    block.attn2.set_processor(PaddedTextAttention(self))

    def use(self, rows: torch.Tensor) -> torch.Tensor:
        """What the expert's next forward takes as ``encoder_hidden_states`` for a prompt's real rows (1, n,
        width).
        """
        missing = MAX_TOKENS - rows.shape[1]
        self.bias = None
        if missing == 0:
            return rows
        if not self._compact:
            return torch.cat([rows, rows.new_zeros(1, missing, rows.shape[2])], dim=1)
        self.bias = rows.new_zeros(1, 1, 1, rows.shape[1] + 1)
        self.bias[..., -1] = math.log(missing)
        return torch.cat([rows, rows.new_zeros(1, 1, rows.shape[2])], dim=1)
