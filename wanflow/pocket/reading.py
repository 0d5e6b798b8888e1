"""Stage text: the encoder learns to read, on captions alone, and is then frozen, as the large models' encoders are.

Every word's row must be one of a set of orthonormal codes, by what the word says where it stands: the subject's
colour, the background, a kind, a motion, a size, or nothing. So rows of different meaning lie far apart, and what a
word says does not depend on what else is said. Both were learned the hard way. Left to the denoiser, *yellow*,
*purple* and *orange* as a subject's colour lay 2.5 apart where backgrounds lay 40 apart, and subjects came in any
colour. And an encoder whose mean row had to tell the whole scene learned which parts go together, and read a third of
the subjects' colours in pairs that training never has as other colours.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from wanflow.pocket.grammar import say_tagged, words_of
from wanflow.pocket.scenes import (
    BACKGROUND_COLOURS,
    KINDS,
    MOTIONS,
    SCALES,
    SUBJECT_COLOURS,
    Scene,
    sample_scene,
)
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
#: all of them in a row; last comes a word that says nothing
MEANINGS = [(part, value) for part, values in PARTS.items() for value in values]
NOTHING = len(MEANINGS)


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
    """Cross-entropy of what each word of fresh captions says."""
    scores, said = read_words(
        tokenizer, encoder, [tagged_caption(sample_scene(rng), rng) for _ in range(num_captions)]
    )
    return F.cross_entropy(scores, said)


def tagged_caption(scene: Scene, rng: random.Random) -> list[tuple[str, int]]:
    """A caption's words, each with the code that it should have. Half of all captions leave parts out."""
    parts = list(PARTS)
    if rng.random() < 0.5:
        parts = rng.sample(parts, rng.randint(1, len(parts) - 1))
    pieces = say_tagged(scene, parts, rng, noise=0.25)
    return [
        (word, MEANINGS.index((part, getattr(scene, part))) if part else NOTHING)
        for text, part in pieces
        for word in words_of(text)
    ]


def read_words(
    tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, captions: list[list[tuple[str, int]]]
) -> tuple[Tensor, Tensor]:
    """Scores (words, meanings) of every word of every caption, and the meaning that each has in truth."""
    rows, _ = encode_captions(
        tokenizer, encoder, [" ".join(word for word, _ in caption) for caption in captions]
    )
    scores = rows.float() @ codes().to(rows.device).T
    # the word after the last is </s>, which says nothing
    truth = [[*(meaning for _, meaning in caption), NOTHING] for caption in captions]
    words = torch.cat([row[: len(said)] for row, said in zip(scores, truth, strict=True)])
    return words, torch.tensor([meaning for said in truth for meaning in said], device=words.device)


@functools.cache
def codes() -> Tensor:
    """(meanings, d_model), orthonormal rows, always the same."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(TEXT_CONFIG["d_model"], NOTHING + 1, generator=generator))
    rows: Tensor = basis.T.contiguous()
    return rows
