"""Cross-attention over a prompt and, where a model looks at image features, over those: exactly as if the prompt were
padded with zero rows to 512, all keys and values computed once a clip.

Every padding row is the same vector after the text projection, so all of them have one key and one value.
Attention over ``n`` equal rows is attention over one row whose score is raised by ``log n`` (or over ``m`` rows, each
raised by ``log n/m``: prompts of one forward are of one length). A ten-word
prompt then costs 11 rows a layer instead of 512, which on a CPU is a quarter of a small model's step. In bf16
the logarithm would be rounded (0.4 % of the padding's weight), and a large model does not feel the cost:
there the zeros are simply put back.

Keys and values depend on the prompt, the image and the weights alone, so those of the first step serve all: the same
numbers, to the last bit. Only one expert's are kept at a time (A14B: 0.4 GB a prompt), and none while memory is short.
An image's rows come before the prompt's, have projections of their own, and serve both guidance branches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch.nn import functional

from wanflow.engines.text import MAX_TOKENS

#: key and value of one layer, (prompts, rows, heads, width of a head)
KeyValue = tuple[torch.Tensor, torch.Tensor]


class CrossAttention(WanAttnProcessor):  # type: ignore[misc]
    """The processor of one cross-attention layer; what it holds is set before each forward."""

    def __init__(self) -> None:
        super().__init__()
        #: of the prompt; None: computed, like the image's, from what comes with the forward
        self.kept: KeyValue | None = None
        #: of the image, beside those of the prompt; None: there is no image
        self.kept_image: KeyValue | None = None
        #: how many rows of what comes with the forward are the image's
        self.num_image_rows = 0
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
        text, image = self.kept, self.kept_image
        if text is None:
            assert encoder_hidden_states is not None
            rows, num_image = encoder_hidden_states, self.num_image_rows
            text = _of_text(attn, rows[:, num_image:])
            image = _of_image(attn, rows[:, :num_image]) if num_image else None
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        found = self._attend(query, text, self.bias)
        if image is not None:
            found = found + self._attend(query, image, None)
        result: torch.Tensor = attn.to_out[1](attn.to_out[0](found))
        return result

    def _attend(self, query: torch.Tensor, to: KeyValue, bias: torch.Tensor | None) -> torch.Tensor:
        found: torch.Tensor = dispatch_attention_fn(
            query, *to, attn_mask=bias, backend=self._attention_backend, parallel_config=None
        )
        return found.flatten(2, 3).type_as(query)


class Context:
    """Gives the experts that it was installed in their prompts."""

    def __init__(self, experts: list[Any], dtype: torch.dtype) -> None:
        #: whether keys and values are kept from step to step; the same numbers either way
        self.keeps = True
        self._compact = dtype == torch.float32
        self._owner: Any = None
        #: by name of the guidance branch, a layer each
        self._kept: dict[str, list[KeyValue]] = {}
        #: of the image, a layer each; none where there is no image
        self._kept_image: list[KeyValue] = []
        for expert in experts:
            for block in expert.blocks:
                block.attn2.set_processor(CrossAttention())

    def forget(self) -> None:
        """Before another clip, or another expert: other prompts, other weights."""
        for block in self._owner.blocks if self._owner is not None else ():
            block.attn2.processor.kept = block.attn2.processor.kept_image = None
        self._owner, self._kept, self._kept_image = None, {}, []

    def use(
        self, expert: Any, prompts: Sequence[torch.Tensor], features: torch.Tensor | None, branch: str
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the next forward of ``expert`` takes as ``encoder_hidden_states`` and ``encoder_hidden_states_image``,
        for the rows (1, n, width) of each prompt, one for each of the batch, and the features of their images
        (images, m, width) or none.

        ``branch`` names the prompts until :meth:`forget`: a name has the same ones, and all have the same images.
        """
        padded, bias = self._padded(prompts)
        layers = [block.attn2 for block in expert.blocks]
        if self._owner is not expert:
            self.forget()
            self._owner = expert
        if not self.keeps:
            self._kept, self._kept_image = {}, []
        elif branch not in self._kept:
            text = expert.condition_embedder.text_embedder(padded)
            self._kept[branch] = [_of_text(layer, text) for layer in layers]
            if features is not None and not self._kept_image:
                image = expert.condition_embedder.image_embedder(features)
                self._kept_image = [_of_image(layer, image) for layer in layers]
        kept = self._kept.get(branch)
        for i, layer in enumerate(layers):
            layer.processor.bias = bias
            layer.processor.kept = kept[i] if kept else None
            layer.processor.kept_image = _for_each(self._kept_image[i], prompts) if self._kept_image else None
            # the rows of all images are joined to one sequence
            layer.processor.num_image_rows = 0 if features is None else features.shape[0] * features.shape[1]
        # the blocks have all they need: one row is there for its type
        if kept:
            return padded[:, :1], None
        return padded, None if features is None else features.repeat(len(prompts), 1, 1)

    def _padded(self, prompts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        lengths = [rows.shape[1] for rows in prompts]
        length = min(max(lengths) + 1, MAX_TOKENS) if self._compact else MAX_TOKENS
        padded = torch.cat([functional.pad(rows, (0, 0, 0, length - rows.shape[1])) for rows in prompts])
        if not self._compact or min(lengths) == MAX_TOKENS:
            return padded, None
        bias = padded.new_zeros(len(prompts), 1, 1, length)
        for i, own in enumerate(lengths):
            if own < length:
                bias[i, ..., own:] = math.log((MAX_TOKENS - own) / (length - own))
        return padded, bias


def _for_each(image: KeyValue, prompts: Sequence[torch.Tensor]) -> KeyValue:
    key, value = image
    return key.expand(len(prompts), -1, -1, -1), value.expand(len(prompts), -1, -1, -1)


def _of_text(layer: Any, rows: torch.Tensor) -> KeyValue:
    """As diffusers' own processor computes them, operation by operation; and so below."""
    key, value = layer.norm_k(layer.to_k(rows)), layer.to_v(rows)
    return key.unflatten(2, (layer.heads, -1)), value.unflatten(2, (layer.heads, -1))


def _of_image(layer: Any, rows: torch.Tensor) -> KeyValue:
    key, value = layer.norm_added_k(layer.add_k_proj(rows)), layer.add_v_proj(rows)
    return key.unflatten(2, (layer.heads, -1)), value.unflatten(2, (layer.heads, -1))
