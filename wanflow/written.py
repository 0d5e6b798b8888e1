"""How a value is written in a text: what a template works with in place of a table's value, and how that is shown.

Texts, numbers, true and false are themselves, but that a float which is a whole number is an int: pandas writes whole
numbers with gaps so, and nobody wants "20.0% off". A null (and a NaN) is the empty text, and so is what is in it. A
date is the text ``2026-01-31``, a moment ``2026-01-31 18:30:00`` on its own zone's clock, at midnight the date alone. A
decimal stays a number and is shown with the two places of a price, with more only where they are not zero. Lists and
structs have no text of their own.
"""

from __future__ import annotations

import math
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any


class Null(str):
    """The empty text in place of a null: what a template takes out of it is null as well."""

    __slots__ = ()


NULL = Null()


def plain(value: Any) -> Any:
    """What a template works with in place of ``value``."""
    if isinstance(value, str | int | Decimal):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return NULL
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if value is None:
        return NULL
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, datetime):
        local = value.replace(tzinfo=None)
        return local.isoformat(" ", "seconds") if local.time() != time() else local.date().isoformat()
    if isinstance(value, bytes):  # in a list or struct: columns of them are read as text
        return value.decode()
    return value.isoformat() if isinstance(value, date) else str(value)


def written(value: Any) -> str:
    """``value`` as it stands in a text."""
    value = plain(value)
    if value is NULL:
        return ""
    if isinstance(value, Decimal):
        whole, point, places = f"{value:f}".partition(".")
        return f"{whole}{point}{places[:2]}{places[2:].rstrip('0')}"
    if isinstance(value, list):
        raise ValueError(
            "a list has no text of its own; join it, as in `{{ names|join(', ') }}`, or take `{{ names[0] }}`"
        )
    if isinstance(value, dict):
        raise ValueError(
            "a struct has no text of its own; take one of its fields, as in `{{ address.city }}`"
        )
    return value if isinstance(value, str) else str(value)
