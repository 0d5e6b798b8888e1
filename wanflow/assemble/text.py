"""Words on a picture: styles, which font draws which piece, wrapping, shrinking to fit, stacking.

Everything is measured with the very fonts that draw it, and what comes out (:class:`Block`) has its place in pixels.
Text layers of one scene with the same ``at`` are stacked in their order instead of covering each other. Captions are
text layers of one size that take turns at one place, which is as high as the highest of them.

Knows nothing of ffmpeg or of the ASS format (``ass.py``). Limits: no vertical writing, one colour a layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from unicodedata import category

from wanflow.assemble import fonts, layout, wrap
from wanflow.assemble.fonts import FontFile
from wanflow.captions import one_at_a_time, short
from wanflow.errors import AssembleError
from wanflow.model import BoxLayer, CaptionsLayer, Layer, Placement, TextLayer


@dataclass(frozen=True, slots=True)
class Style:
    """A look. Sizes are shares of the output's shorter side, so that a style looks alike on every aspect."""

    size: float
    weight: int
    #: distance of baselines in em
    line: float
    max_lines: int
    #: most of the output's height that it takes without an explicit ``height``
    max_height: float
    color: str | None = "#ffffff"
    background: str | None = None
    #: a pill is rounded as far as it goes and has a shadow of its own
    pill: bool = False


STYLES: dict[str, Style] = {
    "headline": Style(size=0.088, weight=700, line=1.14, max_lines=3, max_height=0.32),
    "subhead": Style(size=0.048, weight=500, line=1.28, max_lines=3, max_height=0.22),
    "caption": Style(size=0.036, weight=500, line=1.32, max_lines=4, max_height=0.22),
    "cta": Style(
        size=0.042,
        weight=600,
        line=1.2,
        max_lines=2,
        max_height=0.16,
        color=None,
        background="#ffffff",
        pill=True,
    ),
}
#: Nothing is drawn smaller than this share of the output's height: nobody could read it.
SMALLEST = 0.012
#: Measured widths are unshaped; this much room is left for what shaping adds.
_SLACK = 0.985


@dataclass(frozen=True, slots=True)
class Block:
    """One text layer (as a cue is) or box layer, measured and placed: pixels of the output, seconds of the scene."""

    layer: TextLayer | BoxLayer
    style: Style | None
    x: float
    y: float
    width: float
    height: float
    size: float = 0.0
    lines: tuple[tuple[tuple[FontFile, str], ...], ...] = ()

    def fonts(self) -> frozenset[FontFile]:
        return frozenset(font for line in self.lines for font, _ in line)


def undrawable(text: str, own: Path | None = None) -> list[str]:
    """The characters of ``text`` that no font here can draw, in order, once each."""
    family = fonts.chain(700, own)
    seen = dict.fromkeys(char for char in clean(text) if not char.isspace() and not fonts.ignorable(char))
    return [char for char in seen if fonts.font_for(char, family, 700) is None]


def lay_out(
    layers: Sequence[Layer], sources: Mapping[str, Path], width: int, height: int, seconds: float
) -> dict[int, list[Block]]:
    """Measures and places the words and boxes of one scene: position in ``layers`` -> its block; of captions one a cue.

    ``sources`` maps the digest of a layer's own font to its file. Raises :class:`AssembleError` for an unknown style,
    place or colour, a character that no font has, and words that do not fit even at the smallest size.
    """
    blocks: dict[int, list[Block]] = {}
    stacks: list[list[int]] = []
    for i, layer in enumerate(layers):
        if isinstance(layer, BoxLayer):
            blocks[i] = [_box(layer, width, height)]
        elif isinstance(layer, TextLayer | CaptionsLayer):
            for stack in stacks:
                first = layers[stack[0]]
                if first.place.at == layer.place.at and any(
                    _overlap(layers[j].place, layer.place, seconds) for j in stack
                ):
                    stack.append(i)
                    break
            else:
                stacks.append([i])
    for stack in stacks:
        texts = [layer for j in stack if isinstance(layer := layers[j], TextLayer | CaptionsLayer)]
        blocks |= zip(stack, _stack(texts, sources, width, height), strict=True)
    return blocks


def _box(layer: BoxLayer, width: int, height: int) -> Block:
    place = layer.place
    box_width = width * (1.0 if place.width is None else min(place.width, 1.0))
    box_height = height * (0.3 if place.height is None else min(place.height, 1.0))
    if box_width >= width:
        place = replace(place, margin=0.0)
    x, y = layout.position(place, box_width, box_height, width, height)
    parse_color(layer.color)
    return Block(layer, None, round(x), round(y), round(box_width), round(box_height))


def _stack(
    texts: Sequence[TextLayer | CaptionsLayer], sources: Mapping[str, Path], width: int, height: int
) -> list[list[Block]]:
    area = layout.free_area(width, height, texts[0].place.margin)
    share = 1.0
    while True:
        slots = [_measure(layer, sources, width, height, share) for layer in texts]
        sizes = [slot[0].size for slot in slots]
        heights = [max(block.height for block in slot) for slot in slots]
        gaps = [0.55 * min(a, b) + 0.12 * max(a, b) for a, b in pairwise(sizes)]
        total = sum(heights) + sum(gaps)
        if total <= area.height or share < 0.2:
            break
        share *= 0.85
    at = texts[0].place.at
    _, y = layout.position(texts[0].place, width, total, width, height)
    placed: list[list[Block]] = []
    for slot, tall, gap in zip(slots, heights, [*gaps, 0.0], strict=True):
        placed.append([])
        for block in slot:
            x, _ = layout.position(block.layer.place, block.width, block.height, width, height)
            placed[-1].append(replace(block, x=x, y=y + layout.share_above(at) * (tall - block.height)))
        y += tall + gap
    return placed


def _texts(layer: TextLayer | CaptionsLayer) -> list[TextLayer]:
    if isinstance(layer, TextLayer):
        return [layer]
    return [
        TextLayer(
            cue.text, replace(layer.place, start_s=cue.start_s, end_s=cue.end_s),
            layer.style, layer.color, layer.background, layer.font, layer.size,
        )
        for cue in one_at_a_time(layer.cues)
    ]  # fmt: skip


def _measure(
    layer: TextLayer | CaptionsLayer, sources: Mapping[str, Path], width: int, height: int, share: float
) -> list[Block]:
    """The block of each of its texts at the largest size at which all fit, not yet placed. ``share`` is how much of its
    height it may take.
    """
    style = STYLES.get(layer.style)
    if style is None:
        raise AssembleError(f"layers: there is no text style {layer.style!r}; styles are {', '.join(STYLES)}")
    layout.check_anchor(layer.place.at)
    background = layer.background or style.background
    for color in filter(None, (layer.color, background)):
        parse_color(color)
    own = None if layer.font is None else sources.get(layer.font.digest)
    if layer.font is not None and own is None:
        raise AssembleError(
            f"layers: the font {Path(layer.font.url).name} has not been fetched; check its URL and rights"
        )
    family = fonts.chain(style.weight, own)
    layers = _texts(layer)
    texts = [clean(each.text) for each in layers]
    for text in texts:
        if missing := undrawable(text, own):
            listed = ", ".join(f"{char} (U+{ord(char):04X})" for char in missing[:8])
            raise AssembleError(
                f"layers: no font here can draw {listed} of the {layer.style} {short(text)}; install a font that has "
                "it (fonts-noto-core, fonts-noto-cjk; colour fonts of emoji do not count) or name one with the layer's "
                "`font`"
            )
    itemise = lru_cache(maxsize=None)(lambda piece: _runs(piece, family, style.weight))
    pad_x, pad_y = padding(style, background)
    area = layout.free_area(width, height, layer.place.margin)
    wide = (
        _default_width(layer.place, width, height) if layer.place.width is None else layer.place.width * width
    )
    tall = (style.max_height if layer.place.height is None else layer.place.height) * height * share
    size = layer.size * height if layer.size is not None else style.size * min(width, height)

    def fit(some: Sequence[str]) -> wrap.Fitted | None:
        return wrap.fit(
            some, lambda piece: _width(itemise(piece), 1.0), (min(wide, area.width) - 2 * pad_x * size) * _SLACK,
            max(1.0, tall - 2 * pad_y * size), size, style.line, style.max_lines, SMALLEST * height,
        )  # fmt: skip

    fitted = fit(texts)
    if fitted is None:
        text = next(text for text in texts if fit([text]) is None)
        raise AssembleError(
            f"layers: the {layer.style} {short(text)} ({len(text)} characters) does not fit into {wide:.0f}x{tall:.0f}"
            " pixels at a size that can be read; shorten it or give the layer more width or height"
        )
    look = replace(style, background=background)
    blocks = []
    for each, wrapped in zip(layers, fitted.lines, strict=True):
        lines = tuple(itemise(line) for line in wrapped)
        cap = max((font.cap_em for line in lines for font, _ in line), default=0.7)
        below = 0.24 if background is None else 0.0
        blocks.append(Block(
            each, look, 0.0, 0.0,
            width=max((_width(line, fitted.size) for line in lines), default=0.0) + 2 * pad_x * fitted.size,
            height=(cap + (max(len(lines), 1) - 1) * style.line + below + 2 * pad_y) * fitted.size,
            size=fitted.size, lines=lines,
        ))  # fmt: skip
    return blocks


def clean(text: str) -> str:
    """``text`` without control characters; line ends of any kind become one kind, other white space one space."""
    lines = re.sub(r"\r\n|[\r\v\f\x85\u2028\u2029]", "\n", text).split("\n")
    kept = ("".join(c for c in re.sub(r"\s", " ", line) if category(c) not in ("Cc", "Cs")) for line in lines)
    return "\n".join(line.strip() for line in kept).strip()


def parse_color(color: str) -> tuple[int, int, int]:
    """``#rrggbb`` or ``#rgb`` as numbers; AssembleError otherwise."""
    digits = color.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(d * 2 for d in digits)
    if not re.fullmatch(r"[0-9a-fA-F]{6}", digits):
        raise AssembleError(f"layers: {color!r} is not a colour; write it as #rrggbb")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)


def _runs(text: str, family: tuple[FontFile, ...], weight: int) -> tuple[tuple[FontFile, str], ...]:
    """``text`` cut into pieces of one font each; a word stays in one font where one has all of it."""
    runs: list[tuple[FontFile, str]] = []
    for word in re.findall(r"\s+|\S+", text):
        for font, piece in _word_runs(word, family, weight, runs[-1][0] if runs else family[0]):
            if runs and runs[-1][0] is font:
                runs[-1] = (font, runs[-1][1] + piece)
            else:
                runs.append((font, piece))
    return tuple(runs)


def _word_runs(
    word: str, family: tuple[FontFile, ...], weight: int, before: FontFile
) -> list[tuple[FontFile, str]]:
    needed = {char for char in word if not fonts.ignorable(char) and not char.isspace()}
    if not needed:
        return [(before, word)]
    candidates = list(family)
    for char in sorted(needed):
        found = fonts.font_for(char, family, weight)
        if found is not None and found not in candidates:
            candidates.append(found)
    for font in candidates:
        if all(ord(char) in font.codepoints for char in needed):
            return [(font, word)]
    runs: list[tuple[FontFile, str]] = []
    for cluster in wrap.clusters(word):
        able = [font for font in candidates if ord(cluster[0]) in font.codepoints]
        runs.append((able[0] if able else runs[-1][0] if runs else before, cluster))
    return runs


def _width(runs: tuple[tuple[FontFile, str], ...], size: float) -> float:
    return sum(font.width(text, size) for font, text in runs)


def _default_width(place: Placement, width: int, height: int) -> float:
    """Room for words without an explicit width: most of the picture, or the side of a wide one that they hug."""
    if layout.align(place.at) != "center" and width > 1.2 * height:
        return 0.46 * width
    return 0.88 * width


def padding(style: Style, background: str | None) -> tuple[float, float]:
    return (0.0, 0.0) if background is None else (1.0, 0.62) if style.pill else (0.5, 0.42)


def _overlap(a: Placement, b: Placement, seconds: float) -> bool:
    a_end, b_end = (seconds if p.end_s is None else p.end_s for p in (a, b))
    return a.start_s < b_end and b.start_s < a_end
