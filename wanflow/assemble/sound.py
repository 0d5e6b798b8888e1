"""The sound of a finished video, as a pure part of its ffmpeg graph: voices at their moments, music under all of it.

Every file is brought to 48 kHz stereo and, by a fixed gain, to the video's loudness. Music is softer while someone
speaks: from a little before a voice file begins until a little after it ends, pauses in it included, so that nothing
pumps. A limiter keeps what comes of it below full scale, between samples too.

Knows neither how loud a file is (``loudness.py``) nor what it is of. Limits: stereo, AAC, one voice a scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg

from wanflow.audio import CODECS

RATE = 48_000
#: how it is written; one thread and no mark of a version, so that it has the same bytes every time
ENCODED = {"acodec": "aac", "b:a": "192k", "ar": RATE, "ac": 2, "flags:a": "+bitexact", "threads:a": 1}
#: nothing but what is on this disk, and no more than the format that the file's bytes say
_INPUT = {"protocol_whitelist": "file,pipe", "codec_whitelist": ",".join(CODECS), "threads": 1}
#: seconds over which music gives way to a voice and comes back
_RAMP_S = 0.3
#: samples at a time for which that is worked out, 5 ms
_RAMP_SAMPLES = 240
#: of full scale: AAC adds a decibel or so, and -1 dB true peak is what services ask for
CEILING_DB = -2.5
#: below it is rumble, and the constant offset of a bad recording, which no meter hears and every limiter does
_LOWEST_HZ = 20
#: peaks between samples are seen at four times the rate (BS.1770)
_OVERSAMPLED = 4 * RATE


@dataclass(frozen=True, slots=True)
class Speech:
    """A voice file that is heard from ``start_s`` on, and not beyond ``end_s``; seconds of the video."""

    path: Path
    #: ffmpeg's name of its format
    demuxer: str
    start_s: float
    end_s: float
    gain_db: float


@dataclass(frozen=True, slots=True)
class Bed:
    """Music from the video's beginning to its end."""

    path: Path
    demuxer: str
    gain_db: float
    #: dB by which it is softer while someone speaks
    duck_db: float
    skip_s: float
    #: whether it is shorter than the video and begins again
    repeats: bool
    fade_in_s: float
    fade_out_s: float


@dataclass(frozen=True, slots=True)
class Mix:
    """All that is heard in ``seconds`` of video."""

    seconds: float
    speeches: tuple[Speech, ...] = ()
    bed: Bed | None = None


def build(mix: Mix) -> Any:
    """The mixed stream, exactly as long as the video."""
    parts = [_speech(speech, mix) for speech in mix.speeches]
    if mix.bed is not None:
        parts.append(_bed(mix.bed, mix))
    assert parts, "a mix without anything in it is no sound"
    stream = parts[0]
    if len(parts) > 1:
        stream = ffmpeg.filter(parts, "amix", inputs=len(parts), normalize=0, duration="longest")
    return _cut(limited(stream), mix.seconds)


def limited(stream: Any) -> Any:
    """``stream`` with its peaks below the ceiling."""
    stream = stream.filter("aresample", _OVERSAMPLED)
    return same(
        stream.filter("alimiter", limit=f"{10 ** (CEILING_DB / 20):.5f}", attack=5, release=50, level=0)
    )


def read(path: Path, demuxer: str) -> Any:
    """The file's sound, as all of the mix has it, one sample after the other whatever its timestamps say."""
    stream = same(ffmpeg.input(str(path), f=demuxer, **_INPUT).audio).filter("asetpts", "N/SR/TB")
    return stream.filter("highpass", f=_LOWEST_HZ)


def same(stream: Any) -> Any:
    """``stream`` at the mix's rate, in stereo."""
    return stream.filter("aresample", RATE).filter(
        "aformat", sample_fmts="fltp", sample_rates=RATE, channel_layouts="stereo"
    )


def _speech(speech: Speech, mix: Mix) -> Any:
    stream = read(speech.path, speech.demuxer).filter("atrim", end=f"{speech.end_s - speech.start_s:.6f}")
    stream = stream.filter("asetpts", "PTS-STARTPTS").filter("volume", f"{speech.gain_db:.2f}dB")
    stream = stream.filter("adelay", delays=f"{round(speech.start_s * RATE)}S", all=1)
    return _cut(stream.filter("apad"), mix.seconds)


def _bed(bed: Bed, mix: Mix) -> Any:
    stream = read(bed.path, bed.demuxer).filter("atrim", start=f"{bed.skip_s:.6f}")
    stream = stream.filter("asetpts", "PTS-STARTPTS")
    if bed.repeats:
        stream = stream.filter("aloop", loop=-1, size=2**31 - 1)
    stream = _cut(stream, mix.seconds).filter("volume", f"{bed.gain_db:.2f}dB")
    if bed.duck_db and mix.speeches:
        stream = stream.filter("asetnsamples", n=_RAMP_SAMPLES, p=0)
        stream = stream.filter("volume", volume=_ducked(mix.speeches, bed.duck_db), eval="frame")
    for kind, seconds in (("in", bed.fade_in_s), ("out", bed.fade_out_s)):
        if length := min(seconds, mix.seconds / 2):
            start = mix.seconds - length if kind == "out" else 0.0
            stream = stream.filter(
                "afade", type=kind, start_time=f"{start:.6f}", duration=f"{length:.6f}", curve="qsin"
            )
    return stream


def _ducked(speeches: Sequence[Speech], duck_db: float) -> str:
    """ffmpeg's expression of the music's factor at ``t``."""
    ramp = f"clip((t-{{:.3f}})/{_RAMP_S},0,1)*clip(({{:.3f}}-t)/{_RAMP_S},0,1)"
    spoken = _sum([ramp.format(speech.start_s - _RAMP_S, speech.end_s + _RAMP_S) for speech in speeches])
    return f"pow(10,-{duck_db / 20:.5f}*min(1,{spoken}))"


def _sum(terms: Sequence[str]) -> str:
    """In brackets by halves: ffmpeg's parser goes as deep as a sum is long, and ends at 90 terms."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({_sum(terms[:half])}+{_sum(terms[half:])})"


def _cut(stream: Any, seconds: float) -> Any:
    return stream.filter("atrim", end_sample=round(seconds * RATE)).filter("asetpts", "PTS-STARTPTS")
