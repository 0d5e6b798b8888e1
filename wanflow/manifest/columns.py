"""The columns that wanflow knows: what they mean and which types they may have. All others are for templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Known:
    """One known column."""

    description: str
    #: JSON Schema of one value
    schema: dict[str, Any]
    #: ``text``, ``number``, ``whole`` (a number without fraction) or ``id``
    kind: str


COLUMNS: dict[str, Known] = {
    "variant_id": Known(
        "Names the variant; unique, unless `manifest.group` joins rows. Whole numbers are taken as text.",
        {"type": ["string", "integer"], "minLength": 1, "maxLength": 200},
        "id",
    ),
    "prompt": Known(
        "What the clip shows; used where the job has no clip.prompt.", {"type": ["string", "null"]}, "text"
    ),
    "image": Known(
        "Path or URL of the first frame, relative to the job file; empty: text-to-video.",
        {"type": ["string", "null"]},
        "text",
    ),
    "last_image": Known(
        "Path or URL of the last frame, beside that of the first; for checkpoints that take one.",
        {"type": ["string", "null"]},
        "text",
    ),
    "video": Known(
        "Path or URL of a video that the clip is made from; its clip.strength says how much of it is drawn anew.",
        {"type": ["string", "null"]},
        "text",
    ),
    "negative_prompt": Known("What the clip should not show.", {"type": ["string", "null"]}, "text"),
    "seed": Known(
        "Seed of the noise; empty: the job's clip.seed.",
        {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 2**32},
        "whole",
    ),
    "aspect": Known(
        "Ratio such as 9x16, several with commas or as a list; empty: the job's clip.aspect.",
        {"type": ["string", "array", "null"], "items": {"type": "string"}},
        "texts",
    ),
    "seconds": Known(
        "Length; empty: the job's clip.seconds.",
        {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 3600},
        "number",
    ),
    "priority": Known("Higher is rendered first; empty: 0.", {"type": ["integer", "null"]}, "whole"),
}

#: columns that are numbers even where everything is text (CSV)
NUMBERS = frozenset(name for name, known in COLUMNS.items() if known.kind in ("number", "whole"))


def manifest_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one row of a manifest, for other programs."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wanflow manifest row",
        "description": "One row of the table that manifest.url names, its columns called as `manifest.rename` and "
        "`manifest.group` (whose `by` is variant_id) say. Any other column can be used in templates.",
        "type": "object",
        "properties": {name: {"description": c.description, **c.schema} for name, c in COLUMNS.items()},
        "required": ["variant_id"],
        "additionalProperties": True,
    }


def wrong_type(name: str, kind: pa.DataType) -> str:
    """What is wrong with the type of a known column, as it is read, or nothing."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind):
        return "has no value in any row" if name == "variant_id" else ""
    text = types.is_string(kind) or types.is_large_string(kind)
    whole, number = (
        types.is_integer(kind),
        types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind),
    )
    match COLUMNS[name].kind:
        case "id":
            hint = " (pandas writes whole numbers with gaps so)" if types.is_floating(kind) else ""
            whole = whole or (types.is_decimal(kind) and kind.scale == 0)
            return "" if text or whole else f"is {kind}{hint}; it must be text or whole numbers"
        case "text":
            return "" if text else f"is {kind}; it must be text"
        case "texts":
            listed = types.is_list(kind) or types.is_large_list(kind)
            inner_text = listed and not wrong_type("prompt", kind.value_type)
            return "" if text or inner_text else f"is {kind}; it must be text or a list of texts"
        case _:
            wanted = "whole numbers" if COLUMNS[name].kind == "whole" else "numbers"
            # whole numbers with gaps come as floats from pandas; a fraction is found in its row
            return "" if number else f"is {kind}; it must be {wanted}"
