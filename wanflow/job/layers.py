"""The layers of a job file: pictures, words, captions and boxes that ffmpeg lays over a clip.

Each field may be a template. So a field is kept as text; :data:`PARSERS` says what the text must be, and is used
twice: by the job for what is written out, by the manifest for what a row has filled in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from wanflow.job.fields import Section
from wanflow.suggest import did_you_mean
from wanflow.templates import check_template, is_template

PLACES = (
    "top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right",
    "lower-third", "upper-third",
)  # fmt: skip
STYLES = ("headline", "subhead", "caption", "cta")
_STYLE = f"One of {', '.join(STYLES)}."


def _choice(options: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in options:
            raise ValueError(f"`{text}` is not one of {', '.join(options)}; {did_you_mean(text, options)}")
        return text

    return parse


def parse_share(text: str) -> float:
    """``8%`` as 0.08; ValueError unless above 0 and at most 100 percent."""
    share = parse_share_or_zero(text)
    if share == 0:
        raise ValueError("0% would show nothing")
    return share


def parse_share_or_zero(text: str) -> float:
    """``8%`` as 0.08, ``0%`` and ``0`` as 0.0."""
    if re.fullmatch(r"0(\.0*)?", text):
        return 0.0
    if not re.fullmatch(r"\d{1,3}(\.\d+)?\s*%", text):
        hint = f"; write {text}%" if re.fullmatch(r"[1-9]\d?(\.\d+)?", text) else "; write it as 8%"
        raise ValueError(f"`{text}` is not a share of the picture{hint}")
    share = float(text.rstrip("% ")) / 100
    if share > 1:
        raise ValueError(f"{text} is more than the whole picture")
    return share


def parse_opacity(text: str) -> float:
    """``0.8`` and ``80%`` as 0.8."""
    try:
        number = float(text.rstrip("% ")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"`{text}` is not an opacity; write 0.8 or 80%")
    return number


def parse_moment(text: str) -> float:
    """Seconds from the scene's start."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 3600:
        raise ValueError(f"`{text}` is not a number of seconds; write 0.5")
    return number


def parse_color(text: str) -> str:
    """``#FA0`` and ``#FFAA00`` as ``#ffaa00``."""
    if re.fullmatch(r"#[0-9A-Fa-f]{6}", text):
        return text.lower()
    if re.fullmatch(r"#[0-9A-Fa-f]{3}", text):
        return "#" + "".join(c + c for c in text[1:].lower())
    hint = f'write "#{text}"' if re.fullmatch(r"[0-9A-Fa-f]{6}", text) else 'write it as "#ffaa00"'
    raise ValueError(f"`{text}` is not a colour; {hint}")


#: field name to the function that reads its text; what is not here is free text
PARSERS: dict[str, Callable[[str], Any]] = {
    "at": _choice(PLACES),
    "style": _choice(STYLES),
    "width": parse_share,
    "height": parse_share,
    "size": parse_share,
    "margin": parse_share_or_zero,
    "opacity": parse_opacity,
    "start": parse_moment,
    "end": parse_moment,
    "fade": parse_moment,
    "color": parse_color,
    "background": parse_color,
}


def _as_text(value: object) -> object:
    """Numbers are kept as the text they stand for."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | float)]


class LayerSection(Section):
    """What all kinds have in common."""

    width: Text | None = Field(default=None, description="Share of the picture's width: 30%.")
    margin: Text = Field(default="5%", description="Distance from the edges, share of the shorter side.")
    opacity: Text = Field(default="1", description="0 to 1, or a percentage.")

    @field_validator("*", mode="after")
    @classmethod
    def _checked(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or is_template(check_template(value)):
            return value
        if info.field_name in PARSERS:
            PARSERS[info.field_name](value)
        return value


class TimedLayerSection(LayerSection):
    """When it is seen."""

    start: Text = Field(
        default="0", description="Seconds from the start at which it appears; less than the clip lasts."
    )
    end: Text | None = Field(
        default=None, description="Seconds from the start at which it goes. Default: it stays."
    )
    fade: Text = Field(default="0", description="Seconds of fading in, and out when `end` is given.")


class WordsLayerSection(LayerSection):
    """What words look like."""

    at: Text = Field(default="lower-third", description=f"Where: {', '.join(PLACES)}.")
    color: Text | None = Field(default=None, description='"#rrggbb". Default: the style\'s.')
    background: Text | None = Field(
        default=None, description='"#rrggbb" of a box behind the words. Default: the style\'s.'
    )
    font: str | None = Field(
        default=None, description="Path or URL of a font file. Default: the packaged font."
    )
    size: Text | None = Field(
        default=None, description="Share of the picture's height: 6%. Default: the style's."
    )


class ImageLayerSection(TimedLayerSection):
    """A picture: a logo, a product cut-out. Its transparency is respected."""

    url: str = Field(description="Template of its path or URL. Empty: the layer is left out of that variant.")
    at: Text = Field(default="center", description=f"Where: {', '.join(PLACES)}.")
    height: Text | None = Field(default=None, description="Share of the picture's height: 8%.")


class TextLayerSection(WordsLayerSection, TimedLayerSection):
    """Words, in any script."""

    value: str = Field(description="Template of the words. Empty: the layer is left out of that variant.")
    style: Text = Field(default="headline", description=_STYLE)


class CaptionsLayerSection(WordsLayerSection):
    """What is said, as words: the cues of a subtitle file, each at its own time."""

    url: str = Field(
        description="Template of the path or URL of an SRT or WebVTT file. Empty: left out of that variant."
    )
    style: Text = Field(default="caption", description=_STYLE)
    start: Text = Field(
        default="0",
        description="Seconds from the start at which the file's times begin, like its voice's `start`.",
    )


class BoxLayerSection(TimedLayerSection):
    """A filled rectangle."""

    color: Text = Field(description='"#rrggbb". Empty: the layer is left out of that variant.')
    at: Text = Field(default="bottom", description=f"Where: {', '.join(PLACES)}.")
    height: Text | None = Field(default=None, description="Share of the picture's height: 20%.")


class LayerEntry(Section):
    """One layer: exactly one of the kinds. The first of the list lies lowest."""

    image: ImageLayerSection | None = Field(default=None, description="A picture over the clip.")
    text: TextLayerSection | None = Field(default=None, description="Words over the clip.")
    captions: CaptionsLayerSection | None = Field(default=None, description="Subtitles over the clip.")
    box: BoxLayerSection | None = Field(default=None, description="A filled rectangle over the clip.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self._given()) != 1:
            raise ValueError("must be exactly one of image, text, captions and box")
        return self

    @property
    def kind(self) -> str:
        """``image``, ``text``, ``captions`` or ``box``."""
        return next(iter(self._given()))

    @property
    def body(self) -> LayerSection:
        """The one that is given."""
        return next(iter(self._given().values()))

    def _given(self) -> dict[str, LayerSection]:
        return {name: value for name, value in self if value is not None}
