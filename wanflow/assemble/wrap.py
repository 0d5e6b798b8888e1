"""Line breaking and shrink-to-fit, on widths alone: no fonts, no pixels of its own.

Spaces, hyphens and East Asian characters are where a line may end; punctuation that must not begin or end a line stays
with its neighbour. A word is only cut (between whole characters with their marks) once shrinking alone did not help.
Limits: no hyphenation dictionary; Thai, Lao and Khmer words are cut as if they were one long word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: width in em of a piece of text
Measure = Callable[[str], float]

_NOT_FIRST = (
    "、。，．：；？！）」』】〉》〕］｝ー・…‥ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ々%％°!),.:;?]}’”"
)
_NOT_LAST = "（「『【〈《〔［｛([{‘“$¥€£"
#: how small words may get before words are cut, and at all, as shares of the wanted size
_CUT_BELOW = 0.6
_STEP = 0.95


@dataclass(frozen=True, slots=True)
class Fitted:
    """The size (pixels an em) at which all texts fit, and the lines of each."""

    size: float
    lines: tuple[tuple[str, ...], ...]


def fit(
    texts: Sequence[str],
    measure: Measure,
    width: float,
    height: float,
    size: float,
    line: float,
    max_lines: int,
    smallest: float,
) -> Fitted | None:
    """The largest size up to ``size`` at which each of ``texts`` fits into ``width`` x ``height`` pixels, in balanced
    lines.

    ``line`` is the distance of baselines in em. More than ``max_lines`` only when the words had to shrink a lot.
    None: one of them does not fit at ``smallest`` either.
    """
    paragraphs = [[_units(part) for part in text.splitlines() if part.strip()] for text in texts]
    if not any(paragraphs):
        return Fitted(size, ((),) * len(texts))
    widths: dict[str, float] = {}

    def cached(piece: str) -> float:
        if piece not in widths:
            widths[piece] = measure(piece)
        return widths[piece]

    wanted = size
    while size >= smallest:
        cut = size < _CUT_BELOW * wanted
        allowed = max_lines if not cut else 1000
        wrapped: list[list[str]] = []
        for each in paragraphs:
            lines = _wrap(each, cached, width / size, cut)
            if lines is None or len(lines) > allowed or len(lines) * line * size > height:
                break
            wrapped.append(lines)
        else:
            balanced = (
                tuple(_balance(each, cached, width / size, cut, lines))
                for each, lines in zip(paragraphs, wrapped, strict=True)
            )
            return Fitted(size, tuple(balanced))
        size *= _STEP
    return None


def clusters(text: str) -> list[str]:
    """Characters with the marks and joiners that belong to them."""
    found: list[str] = []
    for char in text:
        joins = found and (
            unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf")
            or found[-1].endswith("\u200d")
            or "\ufe00" <= char <= "\ufe0f"
        )
        if joins:
            found[-1] += char
        else:
            found.append(char)
    return found


def _units(paragraph: str) -> list[tuple[str, bool]]:
    """Pieces that stay on one line, each with whether a space stands before it."""
    units: list[tuple[str, bool]] = []
    for word in paragraph.split():
        pieces: list[str] = []
        for cluster in clusters(word):
            if pieces and not _may_break(pieces[-1], cluster):
                pieces[-1] += cluster
            else:
                pieces.append(cluster)
        units += [(piece, i == 0) for i, piece in enumerate(pieces)]
    return units


def _may_break(before: str, after: str) -> bool:
    last, first = before[-1], after[0]
    if first in _NOT_FIRST or last in _NOT_LAST:
        return False
    if last in "-‐–—/" and len(before) > 1:
        return True
    return _wide(last) or _wide(first)


def _wide(char: str) -> bool:
    """East Asian writing without spaces; Hangul has spaces and is left whole."""
    return unicodedata.east_asian_width(char) in ("W", "F") and not "\uac00" <= char <= "\ud7a3"


def _wrap(
    paragraphs: list[list[tuple[str, bool]]], measure: Measure, width: float, cut: bool
) -> list[str] | None:
    lines: list[str] = []
    for units in paragraphs:
        line = ""
        for piece, spaced in units:
            joined = f"{line} {piece}" if line and spaced else line + piece
            if measure(joined) <= width:
                line = joined
                continue
            if line:
                lines.append(line)
            line = piece
            if measure(piece) > width:
                if not cut:
                    return None
                whole, line = _cut(piece, measure, width)
                lines += whole
        lines.append(line)
    return lines


def _cut(word: str, measure: Measure, width: float) -> tuple[list[str], str]:
    lines, line = [], ""
    for cluster in clusters(word):
        if line and measure(line + cluster) > width:
            lines.append(line)
            line = cluster
        else:
            line += cluster
    return lines, line


def _balance(
    paragraphs: list[list[tuple[str, bool]]], measure: Measure, width: float, cut: bool, lines: list[str]
) -> list[str]:
    """The same number of lines at the least width, so that no line is left with one short word."""
    if cut or len(lines) == len(paragraphs):
        return lines
    low, high, best = 0.0, width, lines
    for _ in range(10):
        middle = (low + high) / 2
        tried = _wrap(paragraphs, measure, middle, cut)
        if tried is not None and len(tried) == len(lines):
            high, best = middle, tried
        else:
            low = middle
    return best
