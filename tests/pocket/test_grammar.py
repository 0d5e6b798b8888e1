"""Prompts come from marketing, not from our grammar: natural words work, strange ones are ignored."""

from __future__ import annotations

import random

import pytest

from wanflow.pocket.grammar import caption, plain_caption, read_caption, vocabulary, words_of
from wanflow.pocket.scenes import sample_scene
from wanflow.pocket.text import build_tokenizer


def test_a_caption_read_back_says_what_the_scene_is() -> None:
    """Were a paraphrase ambiguous, the model would be taught a contradiction."""
    rng = random.Random(0)
    for i in range(1500):
        scene = sample_scene(rng, held_out=i % 2 == 0)
        for text in (caption(scene, rng, noise=0.4), plain_caption(scene)):
            said = read_caption(text)
            assert {"kind", "colour", "background", "motion"} <= set(said), text
            assert all(getattr(scene, part) == word for part, word in said.items()), (text, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("an orange star drifts to the left over navy", ("star", "orange", "navy", "left")),
        ("Purple waves rising on a black background", ("waves", "purple", "black", "up")),
        ("soft cyan gradient on olive, slow push-in", ("gradient", "cyan", "olive", "growing")),
        ("a black ring on a white wall, zoom out", ("ring", "black", "white", "shrinking")),
        ("white backdrop, golden bokeh lights flowing up", ("bokeh", "yellow", "white", "up")),
    ],
)
def test_natural_prompts_are_understood(text: str, said: tuple[str, ...]) -> None:
    """What a job's prompt column may look like."""
    found = read_caption(text)
    assert tuple(found.get(part) for part in ("kind", "colour", "background", "motion")) == said


def test_every_caption_word_is_in_the_vocabulary() -> None:
    """A word of the grammar that reached the model as unknown would teach nothing."""
    rng, known = random.Random(3), set(vocabulary())
    for _ in range(500):
        assert set(words_of(caption(sample_scene(rng), rng))) <= known


def test_unknown_words_become_one_token_each_and_do_no_harm() -> None:
    """A product name in the prompt must not break the render."""
    tokenizer = build_tokenizer()
    ids = tokenizer("Zyrtex presents: a RED circle, moving left!").input_ids
    assert ids.count(tokenizer.unk_token_id) == 2
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]
