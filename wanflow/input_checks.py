"""What is wrong with an input file, in words: each kind is looked at by what will show or play it, in a process that
may die (``wanflow.decoder``). What a check returns is what is wanted of a file beside its bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wanflow.audio import FORMATS as SOUND_FORMATS
from wanflow.audio import Heard
from wanflow.captions import read_captions
from wanflow.errors import InputError
from wanflow.model import Cue
from wanflow.pictures import FORMATS

if TYPE_CHECKING:
    from wanflow.engines.lora_names import Dimensions

FONT_MAGIC = (b"\x00\x01\x00\x00", b"OTTO", b"true", b"ttcf")
IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: what a file says
Said = Heard | tuple[Cue, ...]
#: looks at the bytes of a place; InputError says what is wrong
Check = Callable[[str, bytes], Said | None]

#: what ended a decoder, in words
_BAD = {
    "broken": "is broken or cut off ({})",
    "memory": "takes too much memory to open",
    "time": "takes longer than {} to open",
    "crash": "crashes what opens it ({}); it is broken or made to do harm",
}


def check_image(max_pixels: int, place: str, data: bytes) -> None:
    """Raise InputError unless ``data`` is a whole picture of a known format and a sane size."""
    from wanflow.decoder import decoder

    if not data.startswith(IMAGE_MAGIC):
        raise InputError(f"{place}: {_what_is_it(data)}")
    match decoder.problem("image", data, max_pixels):
        case None:
            return
        case "unknown", _:
            raise InputError(f"{place}: {_what_is_it(data)}")
        case "pixels", size:
            is_large = f"{size} is" if size else "has far"
            raise InputError(f"{place}: {is_large} more than {max_pixels:,} pixels; make it smaller")
        case "unusable", words:
            raise InputError(f"{place}: {words}")
        case word, details:
            raise InputError(f"{place}: {_BAD.get(word, _BAD['broken']).format(details)}; save it again")


def check_lora(dimensions: Dimensions | None, place: str, data: bytes) -> None:
    from wanflow.engines.lora_names import HEAD_BYTES, check_fit, read_layers

    try:
        layers, _ = read_layers(data[:HEAD_BYTES], len(data))
        if dimensions is not None:
            check_fit(layers, dimensions)
    except InputError as exc:
        raise InputError(f"{_name(place)}: {exc}") from None


def check_video(num_frames: int, fps: float, place: str, data: bytes) -> None:
    from wanflow.decoder import Fit, decoder

    if problem := decoder.problem("video", data, fit=Fit(0, 0, num_frames, fps)):
        raise InputError(f"{_name(place)}: {describe_video_problem(*problem, num_frames, fps)}")


def describe_video_problem(word: str, details: str, num_frames: int, fps: float) -> str:
    """What the decoder found in a video that a clip of ``num_frames`` is to be made from, and what to do about it."""
    match word:
        case "unknown":
            return (
                "is no video that can be read; use MP4, MOV, MKV or WebM of H.264, HEVC, VP8, VP9, AV1, MPEG-4 or "
                "ProRes"
            )
        case "short":
            return (
                f"lasts {details} s, and a clip of {num_frames} frames at {fps:g} a second needs "
                f"{(num_frames - 1) / fps:.2f}; give a longer one, or make the clip shorter (seconds)"
            )
        case "pixels":
            return f"has frames of {details}, which is more than can be opened; make it smaller"
        case "hdr":
            return "is HDR, which no model was trained on; convert it to SDR (BT.709)"
    return f"{_BAD.get(word, _BAD['broken']).format(details)}; save it again"


def check_captions(place: str, data: bytes) -> tuple[Cue, ...]:
    try:
        return read_captions(data)
    except InputError as exc:
        raise InputError(f"{_name(place)}: {exc}") from None


def check_sound(place: str, data: bytes) -> Heard:
    """What is heard. InputError when it cannot be decoded to its end, or nobody would hear anything."""
    from wanflow.decoder import Undecodable, decoder

    try:
        return decoder.heard(data)
    except Undecodable as exc:
        word, details = exc.args
    problem = {
        "unknown": f"is no sound file that can be read; use {SOUND_FORMATS}",
        "codec": f"has its sound in {details}, which is not read; save it as MP3, WAV or FLAC",
        "silent": "is silent from beginning to end; is it the right file?",
    }.get(word) or f"{_BAD.get(word, _BAD['broken']).format(details)}; save it again"
    raise InputError(f"{_name(place)}: {problem}")


def check_font(place: str, data: bytes) -> None:
    if data[:4] not in FONT_MAGIC:
        kind = "a web font (WOFF); convert it" if data[:3] == b"wOF" else "not a font"
        raise InputError(f"{place}: is {kind}; use a .ttf, .otf or .ttc file")
    from wanflow.decoder import decoder

    if problem := decoder.problem("font", data):
        words = _BAD.get(problem[0], _BAD["broken"]).format(problem[1])
        raise InputError(f"{place}: is no font that can be used: {words}; take another file")


def _name(place: str) -> str:
    from wanflow.storage import redact

    return redact(place)


def _what_is_it(data: bytes) -> str:
    """A guess at what a file is that Pillow does not open as one of FORMATS."""
    head = data[:2048].lstrip().lower()
    if b"<svg" in head:
        return "is SVG, which has no pixels; export it as PNG in the size that it is shown"
    if head.startswith((b"<!doctype", b"<html")):
        return "is a web page, not an image; is the URL right, and does it need a login?"
    if head.startswith((b"<?xml", b"<error")):
        return "is XML, not an image; is the URL right?"
    if head.startswith(b"gif8"):
        return "is a GIF; save it as PNG"
    if head[4:8] == b"ftyp":
        return "is HEIC, AVIF or a video; save it as PNG or JPEG"
    if head.startswith(b"%pdf"):
        return "is a PDF; export it as PNG"
    return f"is not an image that can be read; use {', '.join(FORMATS)}"
