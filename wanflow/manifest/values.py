"""Single values of a row: what each must look like. ValueError says what is wrong, beginning with the column's
name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from wanflow.job.fields import check_ratio, to_whole
from wanflow.model import Scalar
from wanflow.storage.paths import control_character, shown
from wanflow.templates import MAX_CHARS
from wanflow.written import written

MAX_ID_CHARS = 200
MAX_PRIORITY = 2**53
_PLAIN = (str, int, float, bool)


def is_null(value: object) -> bool:
    """None, the NaN that pandas writes for it, and the empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def identity(value: object, column: str = "variant_id") -> str:
    """A variant's id as text; ``column`` is where it comes from."""
    plain = isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value
    if plain and 0 < len(str(value)) <= MAX_ID_CHARS:
        return str(value)
    if is_null(value):
        raise ValueError(f"{column}: is empty; every row needs one")
    text = str(value)
    if len(text) > MAX_ID_CHARS:
        raise ValueError(f"{column}: has {len(text)} characters; at most {MAX_ID_CHARS} are allowed")
    if text != text.strip() or control_character(text):
        raise ValueError(f"{column}: {shown(text)!r} has spaces around it or control characters in it")
    return text


def aspects_of(value: object, default: tuple[str, ...]) -> tuple[str, ...]:
    """``9x16,16x9`` or a list of ratios, in order; ``default`` where the row says nothing."""
    if is_null(value) or value == []:
        return _ratios(default)
    return _ratios(tuple(map(str, value if isinstance(value, list) else str(value).split(","))))


@lru_cache(maxsize=1024)
def _ratios(texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(check_ratio(text.strip()) for text in texts))
    except ValueError as exc:
        raise ValueError(f"aspect: {exc}") from None


def priority_of(value: object) -> int:
    if is_null(value):
        return 0
    number = to_whole(value)
    if number is None:
        raise ValueError(f"priority: `{value}` is not a whole number")
    if abs(number) > MAX_PRIORITY:
        raise ValueError(f"priority: {number} is out of range; it is at most 2**53")
    return number


def carried(names: Sequence[str], values: Mapping[str, object]) -> tuple[tuple[str, Scalar], ...]:
    """The columns that results repeat. A date, a time and a decimal become the text that templates show, a list and a
    struct Python's way to write it.
    """
    kept: list[tuple[str, Scalar]] = []
    for name in names:
        value = values.get(name)
        if value is None or isinstance(value, _PLAIN):
            plain = value
        else:
            plain = str(value) if isinstance(value, list | dict) else written(value)
        if isinstance(plain, str) and len(plain) > MAX_CHARS:
            raise ValueError(f"publish.carry: {name} has more than {MAX_CHARS:,} characters")
        kept.append((name, plain))
    return tuple(kept)
