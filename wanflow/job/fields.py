"""The types of a job's fields: what each kind of value must look like, and what it becomes.

Checks raise ValueError in the user's words; ``problems`` adds the place. Numbers may come as text, because
``${VAR}`` gives text.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
)

from wanflow.allowed import check_entry, check_network, locate
from wanflow.templates import check_template, is_template
from wanflow.where import parse_where


class Section(BaseModel):
    """A mapping of the job file. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


#: names that templates have besides columns and matrix names
BUILT_INS = ("variant_id", "row", "output", "aspect")

_RATIO = re.compile(r"[1-9]\d{0,3}x[1-9]\d{0,3}")
_SIZE = re.compile(r"[1-9]\d{1,4}x[1-9]\d{1,4}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHARE = re.compile(r"\d{1,3}(\.\d+)?%")
#: the ``1,5`` of a country of decimal commas, to be replaced with :data:`DECIMAL_POINT`; ``1,500`` may be either number
DECIMAL_COMMA = r"^([+-]?[0-9]+),([0-9]{1,2}|[0-9]{4,})$"
DECIMAL_POINT = r"\1.\2"


def check_ratio(text: str) -> str:
    """``text`` when it is a ratio such as ``16x9``; ValueError with the right spelling otherwise."""
    if _RATIO.fullmatch(text):
        return text
    parts = re.fullmatch(r"\s*(\d+)\s*[:/xX*]\s*(\d+)\s*", text)
    hint = f"write {parts[1]}x{parts[2]}" if parts else "write it as 16x9, 9x16 or 1x1"
    raise ValueError(f"`{text}` is not a ratio of width to height; {hint}")


def check_size_text(text: str) -> tuple[int, int]:
    """``832x480`` as (832, 480); ValueError otherwise."""
    if not _SIZE.fullmatch(text):
        raise ValueError(f"`{text}` is not a size in pixels; write width x height as 832x480")
    width, height = text.split("x")
    return int(width), int(height)


def parse_seed(value: object) -> int:
    """A seed from a number or its text; ValueError unless it is a whole number from 0 to 2**32-1.

    The noise is drawn by torch's CPU generator, which reads 32 bits: larger seeds would only be other names of these.
    """
    if value == "":
        raise ValueError("is empty; give a whole number, 0 or more")
    number = to_whole(value)
    if number is None:
        raise ValueError(f"`{value}` is not a whole number")
    if number < 0:
        raise ValueError(f"{number} is negative; a seed is 0 or more")
    if number >= 2**32:
        raise ValueError(f"{number} is too large; a seed is below 2**32")
    return number


def to_number(value: object) -> float | None:
    """A number or its text as a number; None for anything else."""
    if isinstance(value, str):
        value = re.sub(DECIMAL_COMMA, DECIMAL_POINT, value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    with suppress(ValueError, OverflowError):
        return float(value)
    return None


def to_whole(value: object) -> int | None:
    """A whole number or its text (``5``, and the ``5.0`` of other programs) as an int; None for anything else."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        with suppress(ValueError):
            return int(value)
    number = value if isinstance(value, Decimal) else to_number(value)
    if number is None or not math.isfinite(number) or number != int(number):
        return None
    return int(number)


def parse_seconds(value: object) -> float:
    """A length in seconds from a number or its text; ValueError unless above 0 and at most 3600."""
    number = to_number(value)
    if number is None:
        raise ValueError(f"`{value}` is not a number of seconds")
    if not 0 < number <= 3600:
        raise ValueError(f"{number:g} seconds is out of range; it is above 0 and at most 3600")
    return number


def parse_strength(value: object) -> float:
    """How much of a source video is drawn anew; ValueError unless above 0 and at most 1."""
    number = to_number(value)
    if number is None:
        raise ValueError(f"`{value}` is not a number")
    if not 0 < number <= 1:
        raise ValueError(f"{number:g} is out of range; a strength is above 0 and at most 1")
    return number


def parse_branch_point(value: object) -> float | Literal["boundary"]:
    """``boundary``, or a share of the steps as 0.6 or 60%; ValueError unless above 0 and below 1."""
    if value == "boundary":
        return "boundary"
    text = value.strip() if isinstance(value, str) else ""
    share = to_number(text[:-1] if text.endswith("%") else value)
    if share is None:
        raise ValueError(
            f"`{value}` is neither boundary nor a share of the steps; write boundary, 0.6 or 60%"
        )
    share /= 100 if text.endswith("%") else 1
    if not 0 < share < 1:
        raise ValueError(f"`{value}` of the steps is out of range; a share is above 0 and below 1")
    return share


def or_template(parse: Any) -> BeforeValidator:
    """Check with ``parse`` now, or leave a template to be checked for every row."""

    def check(value: object) -> object:
        if value is None:
            return None
        if isinstance(value, str) and is_template(value):
            return check_template(value)
        return parse(value)

    return BeforeValidator(check, json_schema_input_type=float | str | None)


def _located(value: str, info: ValidationInfo) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return locate(value, _directory(info))


def _located_checkpoint(value: str, info: ValidationInfo) -> str:
    """A packaged name (``pocket``) and a hub id (``org/name``) stay; everything else is a path or a URL."""
    if not value.strip():
        raise ValueError("is empty")
    if value == "pocket" or "://" in value:
        return value
    path = locate(value, _directory(info))
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?", value) and not Path(path).exists():
        return value
    return path


def _directory(info: ValidationInfo) -> Path:
    return (info.context or {}).get("directory") or Path.cwd()


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"`{str(value).lower()}` is not a number")
    return value


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _scalar(value: object) -> object:
    if value is not None and not isinstance(value, str | int | float | bool):
        raise ValueError("must be one value (text, number, true or false), not a list or mapping")
    return value


def _aspects(value: object) -> object:
    """One ratio or a list of them, each written out or a template."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not found or not all(isinstance(text, str) for text in found):
        raise ValueError("write a ratio such as 16x9, or a list of them")
    return tuple(
        check_template(text) if is_template(text) else check_ratio(text) for text in dict.fromkeys(found)
    )


def _sizes(value: object) -> object:
    """One size under ``""``, or sizes by aspect."""
    found = {"": value} if isinstance(value, str) else value
    if found is not None and not isinstance(found, dict):
        raise ValueError("write a size such as 832x480, or {16x9: 832x480, 9x16: 480x832}")
    for aspect, size in (found or {}).items():
        if aspect:
            check_ratio(str(aspect))
        check_size_text(str(size))
    return found


def _matrix(value: object) -> object:
    for name in value if isinstance(value, dict) else ():
        if not str(name).isidentifier() or name in BUILT_INS:
            reason = "is taken by wanflow" if name in BUILT_INS else "is not a name"
            raise ValueError(f"`{name}` {reason}; choose another name")
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"`{value}` is not a name; use letters, digits, `-`, `_` and `.`, at most 100")
    return value


def _deadline(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", value):
        hour, minute = value.split(":")
        return time(int(hour), int(minute))
    if isinstance(value, time):
        return value
    raise ValueError(f'`{value}` is not a time of day; write it as "06:00"')


def _tolerance(value: object) -> object:
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and _SHARE.fullmatch(value) and float(value[:-1]) <= 100:
        return value
    raise ValueError(f"`{value}` is neither a number of variants nor a share; write 3 or 0.5%")


def _deadline_or_none(value: object) -> object:
    return None if value is None else _deadline(value)


def _where(value: str) -> str:
    parse_where(value)
    return value


Name = Annotated[str, AfterValidator(_name)]
Url = Annotated[str, AfterValidator(_located)]
Checkpoint = Annotated[str, AfterValidator(_located_checkpoint)]
Template = Annotated[str, AfterValidator(check_template)]
Count = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Value = Annotated[
    Any, BeforeValidator(_scalar), WithJsonSchema({"type": ["string", "number", "boolean", "null"]})
]
Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many, json_schema_input_type=str | list[str])]

Places = Annotated[
    tuple[Annotated[str, AfterValidator(check_entry)], ...],
    BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]),
]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(check_network)], ...],
    BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]),
]
OptionalText = Annotated[
    str, BeforeValidator(lambda value: "" if value is None else value, json_schema_input_type=str | None)
]
Aspects = Annotated[
    tuple[str, ...],
    BeforeValidator(_aspects, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]),
]
Sizes = Annotated[
    dict[str, str] | None, BeforeValidator(_sizes, json_schema_input_type=str | dict[str, str] | None)
]
Seconds = Annotated[float | str | None, or_template(parse_seconds)]
BranchPoint = Annotated[
    float | Literal["boundary"],
    BeforeValidator(parse_branch_point, json_schema_input_type=float | str),
]
Strength = Annotated[float | str, or_template(parse_strength)]
Seed = Annotated[int | str, or_template(parse_seed)]
Where = Annotated[str, AfterValidator(_where)]
Ratio = Annotated[str, AfterValidator(check_ratio)]
Tolerance = Annotated[int | str, BeforeValidator(_tolerance, json_schema_input_type=int | str)]
Matrix = Annotated[dict[str, Annotated[tuple[Value, ...], Field(min_length=1)]], BeforeValidator(_matrix)]
TimeOfDay = Annotated[
    time | None,
    BeforeValidator(
        _deadline_or_none,
        json_schema_input_type=Annotated[str, Field(pattern=r"^([01]?\d|2[0-3]):[0-5]\d$")] | None,
    ),
]
