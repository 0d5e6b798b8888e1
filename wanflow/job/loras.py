"""LoRAs in a job: low-rank weights that clips are rendered with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wanflow.job.fields import Section, Template, or_template, to_number

#: of one clip, those of the profile not counted
MAX_LORAS = 8
MAX_SCALE = 4.0


def parse_scale(value: object) -> float:
    """A strength from a number or its text; ValueError unless between -4 and 4."""
    number = to_number(value)
    if number is None:
        raise ValueError(f"`{value}` is not a number")
    if not -MAX_SCALE <= number <= MAX_SCALE:
        raise ValueError(f"{number:g} is out of range; it is from -{MAX_SCALE:g} to {MAX_SCALE:g}")
    return number


Scale = Annotated[float | str, or_template(parse_scale)]


class LoraSection(Section):
    """One file of low-rank weights."""

    url: Template = Field(
        description="Template of a safetensors file's path or URL; a row for which it is empty goes without."
    )
    scale: Scale = Field(default=1.0, description="Its strength; a number or a template. 0: without.")
    expert: Literal["both", "high", "low"] = Field(
        default="both", description="The expert that it was made for, where the checkpoint has two."
    )
