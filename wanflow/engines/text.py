"""Prompts to embeddings: cleaned as the Wan pipelines clean them, encoded once each, kept without their
padding.

The pipelines pad every prompt to 512 rows of zeros after the encoder. Only the real rows are encoded and kept
here (the encoder masks padding, so it cannot matter to them); ``context`` in ``attention`` puts the zeros
back at use. They are kept in the host's memory: a run's prompts would be some GPU memory, and one is half a megabyte.
"""

from __future__ import annotations

import html
import re
from collections import OrderedDict
from typing import Any

import ftfy
import torch

from wanflow.engines.prompts import MAX_PROMPTS

#: tokens of a prompt, the rest is cut: what the models were trained with
MAX_TOKENS = 512


def clean(prompt: str) -> str:
    """The cleaning of diffusers' Wan pipelines: ftfy, entities, white space."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    return re.sub(r"\s+", " ", text).strip()


class TextEncoder:
    """A tokenizer and UMT5, which computes on ``device``, with the last prompts' embeddings at hand."""

    def __init__(self, tokenizer: Any, model: Any, dtype: torch.dtype, device: str) -> None:
        self.model = model
        self._tokenizer, self._dtype, self._device = tokenizer, dtype, device
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def knows(self, prompt: str) -> bool:
        """Whether the prompt's embedding is at hand, so that the model is not needed for it."""
        return clean(prompt) in self._kept

    def encode(self, prompt: str) -> torch.Tensor:
        """Embedding of the prompt's real tokens, (1, tokens, width), in the transformer's precision."""
        prompt = clean(prompt)
        if prompt not in self._kept:
            ids = self._tokenizer(
                prompt, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            ).input_ids
            rows = self.model(ids.to(self.model.device)).last_hidden_state
            self._kept[prompt] = rows.to(self._dtype).cpu()
            if len(self._kept) > MAX_PROMPTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(prompt)
        return self._kept[prompt].to(self._device)
