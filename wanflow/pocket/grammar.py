"""The captions pocket understands: how a scene is said, in many ways, and how a caption is read back.

The grammar is English in short phrases. Words it does not know reach the model as one "unknown" token;
training scatters such tokens through the captions, so they are ignored rather than fatal.
"""

from __future__ import annotations

import random
import re
from collections.abc import Container

from wanflow.pocket.scenes import BACKGROUND_COLOURS, SUBJECT_COLOURS, Scene

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "crimson", "scarlet"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "azure", "cobalt"),
    "yellow": ("yellow", "yellow", "golden", "gold"),
    "purple": ("purple", "purple", "violet"),
    "orange": ("orange", "orange", "amber"),
    "white": ("white", "white", "ivory", "snowy"),
    "cyan": ("cyan", "cyan", "turquoise", "aqua"),
    "pink": ("pink", "pink", "rose"),
    "black": ("black", "black", "ebony", "jet"),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black",),
    "navy": ("navy", "navy", "navy blue", "midnight"),
    "gray": ("gray", "grey"),
    "beige": ("beige", "beige", "cream", "sand"),
    "maroon": ("maroon", "maroon", "burgundy"),
    "teal": ("teal",),
    "white": ("white",),
    "olive": ("olive",),
}
KIND_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "ball", "disc", "sphere", "dot"),
    "square": ("square", "square", "box", "cube", "tile"),
    "triangle": ("triangle", "triangle", "pyramid"),
    "star": ("star",),
    "ring": ("ring", "ring", "hoop", "donut"),
    "waves": ("waves", "waves", "silk waves", "ripples", "ribbons"),
    "bokeh": ("bokeh", "bokeh", "bokeh lights", "blurred lights", "bubbles"),
    "gradient": ("gradient", "gradient", "glow", "soft glow", "haze"),
}
MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "left": (
        "moves left", "moving left", "moving to the left", "drifts to the left", "drifting left", "slides left",
        "sliding to the left", "gliding left", "flows left", "flowing to the left", "floating leftward", "leftward",
        "going from right to left", "pan left",
    ),
    "right": (
        "moves right", "moving right", "moving to the right", "drifts to the right", "drifting right", "slides right",
        "sliding to the right", "gliding right", "flows right", "flowing to the right", "floating rightward",
        "rightward",
        "going from left to right", "pan right",
    ),
    "up": (
        "moves up", "moving up", "rises", "rising", "rising slowly", "floats up", "floating upward", "drifting up",
        "drifts upward", "going up", "climbing", "upward", "flowing up",
    ),
    "down": (
        "moves down", "moving down", "falls", "falling", "sinks", "sinking slowly", "descending", "drifting down",
        "drifts downward", "going down", "slides down", "downward", "flowing down",
    ),
    "growing": (
        "grows", "growing", "growing slowly", "expanding", "expands", "getting bigger", "becoming larger", "swelling",
        "slow push in", "zoom in", "zooming in", "coming closer",
    ),
    "shrinking": (
        "shrinks", "shrinking", "shrinking slowly", "contracting", "getting smaller", "becoming smaller", "dwindling",
        "slow pull back", "zoom out", "zooming out", "going away",
    ),
}  # fmt: skip
SCALE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "little", "tiny", "distant", "far"),
    "large": ("large", "large", "big", "huge", "close", "near"),
}
#: a scene's parts and how each is said
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": COLOUR_WORDS,
    "kind": KIND_WORDS,
    "motion": MOTION_WORDS,
    "background": BACKGROUND_WORDS,
    "scale": SCALE_WORDS,
}
BEHIND = ("over", "on", "on a", "against", "against a", "in front of a", "across", "upon", "above a")
PLACES = ("background", "background", "backdrop", "wall", "surface", "canvas")
MANNERS = (
    "calm",
    "premium",
    "elegant",
    "minimal",
    "cinematic",
    "soft light",
    "studio",
    "smooth",
    "clean",
    "gentle",
    "slow motion",
)
ADJECTIVES = ("soft", "shiny", "glossy", "beautiful", "single", "bright", "simple", "elegant", "calm")
FILLERS = (
    "video",
    "of",
    "with",
    "the",
    "and",
    "scene",
    "shot",
    "view",
    "is",
    "an",
    "ad",
    "for",
    "our",
    "product",
    "in",
    "style",
    "a",
)

_SPLIT = re.compile(r"[^a-z0-9]+")


def words_of(caption: str) -> list[str]:
    """Lower-case words, the unit of the vocabulary."""
    return [w for w in _SPLIT.split(caption.lower()) if w]


def vocabulary() -> list[str]:
    """Every word of the grammar, in a fixed order."""
    phrases: list[str] = []
    for table in (COLOUR_WORDS, BACKGROUND_WORDS, KIND_WORDS, MOTION_WORDS, SCALE_WORDS):
        phrases += [p for options in table.values() for p in options]
    phrases += [*BEHIND, *PLACES, *MANNERS, *ADJECTIVES, *FILLERS]
    return sorted({w for p in phrases for w in words_of(p)})


def plain_caption(scene: Scene) -> str:
    """The shortest full caption: "a small red star drifting left over navy"."""
    motion = {"left": "drifting left", "right": "drifting right", "up": "rising", "down": "falling"}.get(
        scene.motion, scene.motion
    )
    article = "" if scene.kind in ("waves", "bokeh") else "a "
    return f"{article}{scene.scale} {scene.colour} {scene.kind} {motion} over {scene.background}"


def caption(scene: Scene, rng: random.Random, *, omit: float = 0.0, noise: float = 0.0) -> str:
    """One of the many ways to say a scene.

    ``omit`` is the chance that a part goes unsaid (the size goes unsaid half the time anyway), ``noise`` that
    unknown words and stock phrases are strewn in.
    """
    parts = {"motion", "background"} - {part for part in ("motion", "background") if rng.random() < omit}
    parts |= {"scale"} if rng.random() < 0.5 else set()
    parts |= {"colour"} if rng.random() >= omit / 2 else set()
    parts |= {"kind"} if "colour" not in parts or rng.random() >= omit / 2 else set()
    return say(scene, parts, rng, noise=noise)


def say(scene: Scene, parts: Container[str], rng: random.Random, *, noise: float = 0.0) -> str:
    """One of the many ways to say these ``parts`` of a scene (kind, colour, background, motion, scale)."""
    said = say_tagged(scene, parts, rng, noise=noise)
    return " ".join(text for text, _ in said).replace(" ,", ",").strip(", ")


def say_tagged(
    scene: Scene, parts: Container[str], rng: random.Random, *, noise: float = 0.0
) -> list[tuple[str, str]]:
    """:func:`say` in pieces: (words, the part that they say or nothing)."""
    said = {
        part: [(rng.choice(table[getattr(scene, part)]), part)] if part in parts else []
        for part, table in WORDS.items()
    }
    adjective = rng.choice(ADJECTIVES) if rng.random() < 0.2 else ""
    if rng.random() < noise / 2:
        adjective = _nonsense(rng)
    subject = [(rng.choice(("a", "a", "the", "")), ""), *said["scale"], (adjective, "")]
    if rng.random() < 0.15 and said["colour"] and said["kind"]:
        subject += [*said["kind"], ("in", ""), *said["colour"]]
    else:
        subject += [*said["colour"], *said["kind"]]
    motion, ground = said["motion"], said["background"]
    place = [(rng.choice(PLACES), "")]
    behind = [(rng.choice(BEHIND), ""), *ground, *(place if rng.random() < 0.5 else [])] if ground else []
    comma = [(",", "")]
    order = rng.randrange(6)
    if order == 0 and ground:
        pieces = [*ground, *place, *comma, *subject, *motion]
    elif order == 1:
        pieces = [*subject, *behind, *comma, *motion]
    elif order == 2 and behind:
        pieces = [*behind, *comma, *subject, *motion]
    else:
        pieces = [*subject, *motion, *behind]
    if rng.random() < 0.3:
        pieces += [*comma, (rng.choice(MANNERS), "")]
    if rng.random() < noise:
        for _ in range(rng.randint(1, 4)):
            stray = (rng.choice(FILLERS) if rng.random() < 0.3 else _nonsense(rng), "")
            pieces.insert(rng.choice((0, len(pieces))), stray)
    return [piece for piece in pieces if piece[0]]


def _nonsense(rng: random.Random) -> str:
    return "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))


def read_caption(text: str) -> dict[str, str]:
    """What a caption says: any of kind, colour, background, motion, scale. Unknown words are skipped."""
    said = f" {' '.join(words_of(text))} "
    found: dict[str, str] = {}
    ground = _ground_of(said)
    if ground is not None:
        found["background"], said = ground
    for field, table in (
        ("motion", MOTION_WORDS),
        ("kind", KIND_WORDS),
        ("scale", SCALE_WORDS),
        ("colour", COLOUR_WORDS),
    ):
        options = sorted(((p, name) for name, ps in table.items() for p in ps), key=lambda o: -len(o[0]))
        hit = next(((p, name) for p, name in options if f" {p} " in said), None)
        if hit is not None:
            found[field] = hit[1]
            said = said.replace(f" {hit[0]} ", " ", 1)
    return found


def _ground_of(said: str) -> tuple[str, str] | None:
    """The background and the caption without it; only black and white need their place in the sentence to be told."""
    options = sorted(
        ((p, name) for name, ps in BACKGROUND_WORDS.items() for p in ps), key=lambda o: -len(o[0])
    )
    places = "|".join(sorted(set(PLACES)))
    behind = "|".join(sorted(BEHIND, key=len, reverse=True))
    for phrase, name in options:
        for pattern in (rf" {phrase} (?:{places}) ", rf" (?:{behind}) (?:the |a )?{phrase} "):
            match = re.search(pattern, said)
            if match:
                return name, said[: match.start()] + " " + said[match.end() :]
    for phrase, name in options:
        if name not in SUBJECT_COLOURS and f" {phrase} " in said:
            return name, said.replace(f" {phrase} ", " ", 1)
    return None


assert set(BACKGROUND_WORDS) == set(BACKGROUND_COLOURS)
assert set(COLOUR_WORDS) == set(SUBJECT_COLOURS)
