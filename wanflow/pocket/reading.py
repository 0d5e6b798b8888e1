"""Stage text: the encoder learns to read, on captions alone, and is then frozen, as the large models' encoders are.

What a scene is must follow from the mean of its caption's rows by a fixed linear map with orthonormal codes, so that
only rows that lie far apart will do. Left to the denoiser, words that change few pixels keep rows that are almost the
same: after 5,700 steps *yellow*, *purple* and *orange* as a subject's colour lay 2.5 apart where backgrounds lay 40
apart, and subjects came in any colour.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from wanflow.pocket.grammar import caption, plain_caption
from wanflow.pocket.scenes import BACKGROUND_COLOURS, KINDS, MOTIONS, SCALES, SUBJECT_COLOURS, sample_scene
from wanflow.pocket.stages import Stage, rank, run_stage
from wanflow.pocket.text import TEXT_CONFIG, encode_captions

#: What a caption says, and the values it may say.
PARTS: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "colour": tuple(SUBJECT_COLOURS),
    "background": tuple(BACKGROUND_COLOURS),
    "motion": MOTIONS,
    "scale": SCALES,
}


def train_text(
    tokenizer: PreTrainedTokenizerFast,
    encoder: UMT5EncoderModel,
    stage: Stage,
    out: Path,
    *,
    seed: int,
    minutes: float | None = None,
) -> bool:
    """Train in place; whether the stage's last step was reached."""

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(f"{stage.name} {seed} {step} {rank()}")
        return reading_loss(tokenizer, encoder, rng), {}

    return run_stage(stage, nn.ModuleDict({"text": encoder}), loss, out, minutes=minutes)


def reading_loss(
    tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, rng: random.Random, num_captions: int = 64
) -> Tensor:
    """Cross-entropy of reading fresh captions of training scenes back, the mean over ``PARTS``."""
    scenes = [sample_scene(rng) for _ in range(num_captions)]
    captions = [plain_caption(s) if rng.random() < 0.5 else caption(s, rng, noise=0.25) for s in scenes]
    rows, _ = encode_captions(tokenizer, encoder, captions)
    num_words = (rows.abs().sum(-1) > 0).sum(1, keepdim=True)
    meaning = rows.float().sum(1) / num_words
    logits = (meaning @ codes().to(meaning.device).T).split([len(v) for v in PARTS.values()], dim=1)
    losses = []
    for (part, values), scores in zip(PARTS.items(), logits, strict=True):
        said = torch.tensor([values.index(getattr(s, part)) for s in scenes], device=scores.device)
        losses.append(F.cross_entropy(scores, said))
    return torch.stack(losses).mean()


@functools.cache
def codes() -> Tensor:
    """(values of all parts, d_model), orthonormal rows, always the same."""
    num_values = sum(len(values) for values in PARTS.values())
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(TEXT_CONFIG["d_model"], num_values, generator=generator))
    rows: Tensor = basis.T.contiguous()
    return rows
