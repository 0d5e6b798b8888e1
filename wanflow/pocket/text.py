"""Pocket's tokenizer and text encoder: a word-level vocabulary in front of a two-layer UMT5."""

from __future__ import annotations

import math
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from wanflow.pocket.grammar import vocabulary

#: WanPipeline pads every prompt to this many rows.
CONTEXT_ROWS = 512

TEXT_CONFIG: dict[str, Any] = {
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, lower case, punctuation dropped, ``</s>`` at the end; words outside the grammar become
    ``<unk>``."""
    words = ["<pad>", "</s>", "<unk>", *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=CONTEXT_ROWS,
    )


def build_text_encoder(vocab_size: int, config: dict[str, Any] | None = None) -> UMT5EncoderModel:
    """A fresh encoder; ``config`` overrides single entries."""
    return UMT5EncoderModel(UMT5Config(**{**TEXT_CONFIG, "vocab_size": vocab_size, **(config or {})}))


def encode_captions(
    tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, captions: list[str]
) -> tuple[Tensor, Tensor]:
    """Context rows (batch, n + 1, d_model) and their bias (n + 1) for the denoiser's cross-attention.

    WanPipeline gives the transformer 512 rows a prompt: the real tokens', then zeros, unmasked. All zero rows have one
    key and one value, so one zero row whose attention logit is raised by ``log(how many there are)`` is the same
    function: the last row here stands for the ``512 - n`` after the batch's longest prompt.
    """
    batch = tokenizer(
        captions, padding=True, pad_to_multiple_of=32, truncation=True, max_length=480, return_tensors="pt"
    )
    device = next(encoder.parameters()).device
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    rows = encoder(ids, mask).last_hidden_state
    rows = rows * mask.unsqueeze(-1)
    rows = torch.cat([rows, rows.new_zeros(rows.shape[0], 1, rows.shape[2])], dim=1)
    bias = torch.zeros(rows.shape[1], device=device)
    bias[-1] = math.log(CONTEXT_ROWS - ids.shape[1])
    return rows, bias
