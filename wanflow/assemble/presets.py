"""The output presets: a pure table of what each place to publish asks for, and how a job's own numbers change it.

Sizes are those that the platforms publish for video ads: Instagram and Facebook (Meta Ads Guide: stories and reels 9:16
at 1080x1920, feed 4:5 at 1080x1350 and 1:1 at 1080x1080), TikTok (Ads specifications: 9:16 at 1080x1920), LinkedIn
(Marketing Solutions, video ads specifications: 16:9 at 1920x1080; 1:1 and 9:16 are accepted, too), YouTube
(recommended upload encoding: 16:9 at 1920x1080). 30 frames a second is what all of them take without conversion.

Knows nothing of files or ffmpeg. Limits: H.264 only; a preset whose aspect is ``None`` takes the one of its clips.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from wanflow.errors import JobError
from wanflow.model import Output


@dataclass(frozen=True, slots=True)
class Preset:
    """What a platform asks for. ``aspect`` is that of the clips it is made from, unless the job says ``from``."""

    #: None: any; the size then follows the aspect of the clips
    aspect: str | None
    width: int
    height: int
    fps: float = 30.0
    crf: int = 20


#: name -> preset. ``preview`` and ``web`` keep the aspect of the clips: 720 and 1280 pixels on the long side.
PRESETS: dict[str, Preset] = {
    "instagram-story": Preset("9x16", 1080, 1920),
    "instagram-reel": Preset("9x16", 1080, 1920),
    "instagram-post": Preset("4x5", 1080, 1350),
    "instagram-square": Preset("1x1", 1080, 1080),
    "tiktok": Preset("9x16", 1080, 1920),
    "facebook-feed": Preset("4x5", 1080, 1350),
    "linkedin": Preset("16x9", 1920, 1080),
    "youtube": Preset("16x9", 1920, 1080, crf=18),
    "youtube-short": Preset("9x16", 1080, 1920),
    "web": Preset(None, 1280, 1280, crf=23),
    "preview": Preset(None, 720, 720, fps=24.0, crf=26),
}

#: Frame rates and sizes outside of these are refused: H.264 level 5.2 and every platform above stay inside.
MAX_SIDE = 4096
MAX_FPS = 120.0


def resolve(
    name: str,
    output_name: str,
    aspect: str | None = None,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    crf: int | None = None,
    fit: Literal["cover", "contain"] | None = None,
    interpolate: bool | None = None,
    poster: bool | None = None,
) -> Output:
    """The output ``output_name`` made of preset ``name`` with the job's own numbers in place of the preset's.

    Only one of ``width`` and ``height``: the other is scaled with it. Sizes come out even, as yuv420p needs. ``aspect``
    is the job's ``from``. Raises :class:`JobError` for an unknown preset or numbers that no player takes.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise JobError(
            f"outputs.{output_name}: there is no preset {name!r}; {hint}Presets are {', '.join(PRESETS)}"
        )
    preset = PRESETS[name]
    source_aspect = aspect or preset.aspect
    if source_aspect is None:
        raise JobError(
            f"outputs.{output_name}: preset {name!r} keeps the aspect of its clips: say which with `from: 9x16`"
        )
    base = (preset.width, preset.height)
    if preset.aspect is None:
        base = _inside(source_aspect, preset.width, output_name)
    size = _size(base, width, height)
    output = Output(
        name=output_name,
        aspect=source_aspect,
        width=size[0],
        height=size[1],
        fps=float(fps if fps is not None else preset.fps),
        crf=crf if crf is not None else preset.crf,
        fit=fit or "cover",
        interpolate=bool(interpolate),
        poster=True if poster is None else poster,
    )
    _check(output)
    return output


def aspect_ratio(aspect: str) -> float:
    """Width over height of ``9x16``. ValueError when it is not two positive whole numbers around an x."""
    parts = aspect.split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"aspect {aspect!r} is not of the form 16x9")
    return int(parts[0]) / int(parts[1])


def _inside(aspect: str, long_side: int, output_name: str) -> tuple[int, int]:
    try:
        ratio = aspect_ratio(aspect)
    except ValueError as error:
        raise JobError(f"outputs.{output_name}.from: {error}") from None
    return (long_side, _even(long_side / ratio)) if ratio >= 1 else (_even(long_side * ratio), long_side)


def _size(base: tuple[int, int], width: int | None, height: int | None) -> tuple[int, int]:
    if width is not None and height is None:
        return _even(width), _even(width * base[1] / base[0])
    if height is not None and width is None:
        return _even(height * base[0] / base[1]), _even(height)
    return _even(width or base[0]), _even(height or base[1])


def _even(pixels: float) -> int:
    return round(pixels / 2) * 2


def _check(output: Output) -> None:
    where = f"outputs.{output.name}"
    if not (16 <= output.width <= MAX_SIDE and 16 <= output.height <= MAX_SIDE):
        raise JobError(
            f"{where}: {output.width}x{output.height} is not a size between 16 and {MAX_SIDE} pixels a side"
        )
    if not 1 <= output.fps <= MAX_FPS:
        raise JobError(f"{where}.fps: {output.fps:g} is not between 1 and {MAX_FPS:g}")
    if not 0 <= output.crf <= 51:
        raise JobError(f"{where}.crf: {output.crf} is not between 0 (lossless) and 51")
    if output.fit not in ("cover", "contain"):
        raise JobError(f"{where}.fit: {output.fit!r} is neither 'cover' (crops) nor 'contain' (adds bars)")
