"""The ffmpeg command of one output file, built with ffmpeg-python as a pure value: no process, no file is touched.

A :class:`Shot` a scene: master -> interpolate (at the master's size, where it is cheap) -> fps -> scale -> layers in
order; shots are joined with hard cuts and encoded as H.264 yuv420p BT.709, with AAC where something is heard
(``sound.py``) and the index in front, and one frame becomes the poster. Layers are laid over in RGB, which costs a
tenth: ffmpeg 5 draws words on YUV in BT.601's colours, and a build must not decide how orange a brand is. All strings
in the command are ours (numbers, paths of a work directory); words and pictures are in files.

Knows nothing of fonts or pictures beyond their paths. Limits: hard cuts only.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg

from wanflow.assemble import sound
from wanflow.model import Output

#: Which frame becomes the poster, as a share of the video: what comes in has come in, what goes out is still there.
POSTER_AT = 0.6
#: x264 with one thread gives the same bytes on every machine, and a batch fills the cores with files, not threads.
THREADS = 1
_X264 = "veryfast"
_TAGS = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709", "color_range": "tv"}
_BT709 = {"out_color_matrix": "bt709", "out_range": "tv"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG of its final size that lies at ``x``, ``y``; seconds of the scene."""

    path: Path
    x: int
    y: int
    start_s: float = 0.0
    end_s: float | None = None
    fade_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Words:
    """An .ass script and the folder with exactly its fonts."""

    script: Path
    fonts: Path


@dataclass(frozen=True, slots=True)
class Shot:
    """One scene: a master and what lies over it, lowest first."""

    master: Path
    #: how long it is seen
    seconds: float
    #: of the master
    fps: float
    layers: tuple[Picture | Words, ...] = ()
    #: how often the master begins again; behind its end its last frame is held
    repeats: int = 0


def num_frames(shots: tuple[Shot, ...], output: Output) -> int:
    """Frames of the finished video: each scene is cut to a whole number of frames of its own."""
    return sum(output.frames(shot.seconds) for shot in shots)


def build(
    shots: tuple[Shot, ...], output: Output, video: Path, poster: Path | None, mix: sound.Mix | None = None
) -> list[str]:
    """The arguments after ``ffmpeg`` that make ``video`` and, with a path, ``poster`` (JPEG)."""
    assert shots, "a variant has at least one scene"
    # ffmpeg-python takes equal nodes for one node, and refuses to read it twice
    assert len({shot.master for shot in shots}) == len(shots), "each shot has a path of its own to its master"
    parts = [_scene(shot, output) for shot in shots]
    stream = parts[0] if len(parts) == 1 else ffmpeg.concat(*parts, v=1, a=0)
    stream = stream.filter("setsar", "1")
    outputs: list[Any] = []
    if poster is not None:
        split = stream.filter_multi_output("split", 2)
        stream = split[0]
        frame = min(int(num_frames(shots, output) * POSTER_AT), num_frames(shots, output) - 1)
        still = split[1].filter("select", f"eq(n,{frame})")
        still = still.filter("scale", out_color_matrix="bt601", out_range="pc").filter("format", "yuvj420p")
        outputs.append(
            still.output(str(poster), f="image2", vcodec="mjpeg", update=1, map_metadata=-1, fflags="+bitexact",
                         **{"q:v": 2, "frames:v": 1, "flags:v": "+bitexact", "fps_mode": "passthrough"})
        )  # fmt: skip
    gop = round(output.fps * 2)
    streams = [stream] if mix is None else [stream, sound.build(mix)]
    outputs.insert(0, ffmpeg.output(
        *streams, str(video), f="mp4", vcodec="libx264", preset=_X264, crf=output.crf, pix_fmt="yuv420p",
        r=_rate(output.fps), g=gop, keyint_min=gop, sc_threshold=0, bf=2, movflags="+faststart", fflags="+bitexact",
        map_metadata=-1, **{"profile:v": "high", "flags:v": "+bitexact+cgop", "threads:v": THREADS},
        # ffmpeg 5 ends all streams of a file with the one that has its frames; each scene is cut to its own anyway
        **({"frames:v": num_frames(shots, output)} if mix is None else sound.ENCODED),
        **_TAGS,
    ))  # fmt: skip
    arguments: list[str] = ffmpeg.merge_outputs(*outputs).get_args()
    return [*_GLOBAL, *arguments]


def back_and_forth(master: Path, num_frames: int, out: Path) -> list[str]:
    """The arguments that make a video of ``master`` and then itself backwards without its two ends, which can be
    repeated: no frame is seen twice in a row. All frames of a master are in memory for it, so a file of its own."""
    both = (
        ffmpeg.input(str(master), **_INPUT)
        .video.filter("setpts", "PTS-STARTPTS")
        .filter_multi_output("split", 2)
    )
    back = both[1].filter("reverse").filter("trim", start_frame=1, end_frame=num_frames - 1)
    stream = ffmpeg.concat(both[0], back.filter("setpts", "PTS-STARTPTS"), v=1, a=0)
    done = stream.output(
        str(out), f="matroska", vcodec="libx264", preset=_X264, crf=4, fflags="+bitexact",
        **{"flags:v": "+bitexact", "threads:v": THREADS}, **_TAGS,
    )  # fmt: skip
    return [*_GLOBAL, *done.get_args()]


#: says what it did at the end, and nothing on the way
QUIET = ("-hide_banner", "-nostdin", "-y", "-loglevel", "info", "-nostats")
_GLOBAL = (*QUIET, "-filter_complex_threads", str(THREADS))
_INPUT = {"protocol_whitelist": "file,pipe", "threads": THREADS}


def _scene(shot: Shot, output: Output) -> Any:
    frames, rate, resized = output.frames(shot.seconds), _rate(output.fps), False
    again = {"stream_loop": shot.repeats} if shot.repeats else {}
    stream = ffmpeg.input(str(shot.master), **again, **_INPUT).video
    stream = stream.filter("setpts", f"N/({shot.fps:.6f}*TB)" if shot.repeats else "PTS-STARTPTS")
    if output.interpolate and output.fps > shot.fps:
        # two copies of the last frame: the interpolation needs frames after the one that it makes
        stream = stream.filter("tpad", stop=2, stop_mode="clone")
        stream = stream.filter(
            "minterpolate", fps=rate, mi_mode="mci", mc_mode="aobmc", me_mode="bidir", vsbmc=1, scd="none"
        )
    elif output.fps > shot.fps:
        stream, resized = _resize(stream, output), True  # before frames are repeated: fewer of them to scale
    # copies of the last frame, cut off right after: it lasts as long as every other
    stream = stream.filter("fps", rate).filter("tpad", stop=frames + 1, stop_mode="clone")
    stream = stream.filter("trim", end_frame=frames).filter("setpts", "PTS-STARTPTS")
    if not resized:
        stream = _resize(stream, output)
    for layer in shot.layers:
        stream = (
            _words(stream, layer) if isinstance(layer, Words) else _picture(stream, layer, frames, output)
        )
    return stream.filter("scale", flags="accurate_rnd+full_chroma_int", **_BT709).filter("format", "yuv420p")


def _resize(stream: Any, output: Output) -> Any:
    cover = output.fit == "cover"
    stream = stream.filter(
        "scale", output.width, output.height, flags="lanczos+accurate_rnd+full_chroma_int",
        force_original_aspect_ratio="increase" if cover else "decrease", force_divisible_by=2,
    ).filter("format", "gbrp")  # fmt: skip
    if cover:
        return stream.filter("crop", output.width, output.height)
    return stream.filter("pad", output.width, output.height, "(ow-iw)/2", "(oh-ih)/2", "black")


def _words(stream: Any, words: Words) -> Any:
    return stream.filter("subtitles", filename=str(words.script), fontsdir=str(words.fonts))


def _picture(stream: Any, picture: Picture, frames: int, output: Output) -> Any:
    end = picture.end_s
    still = ffmpeg.input(str(picture.path), f="png_pipe", framerate=_rate(output.fps), **_INPUT).video
    still = still.filter("scale", flags="accurate_rnd+full_chroma_int").filter("format", "gbrap")
    if picture.fade_s > 0:
        # only a fading picture becomes a stream of its own; the others are one frame that stays
        still = still.filter("loop", loop=frames - 1, size=1, start=0).filter(
            "setpts", f"N/({output.fps:.6f}*TB)"
        )
        still = still.filter(
            "fade", type="in", start_time=_s(picture.start_s), duration=_s(picture.fade_s), alpha=1
        )
        if end is not None:
            start = max(picture.start_s, end - picture.fade_s)
            still = still.filter(
                "fade", type="out", start_time=_s(start), duration=_s(picture.fade_s), alpha=1
            )
    extra = {}
    if picture.start_s > 0 or end is not None:
        extra["enable"] = f"gte(t,{_s(picture.start_s)})" + (f"*lt(t,{_s(end)})" if end is not None else "")
    return stream.overlay(still, x=picture.x, y=picture.y, format="gbrp", eof_action="repeat", **extra)


def _rate(fps: float) -> str:
    """29.97 is 30000/1001 to a decoder; everything else is taken as written."""
    for whole in (24, 30, 60, 120):
        if abs(fps - whole * 1000 / 1001) < 0.005:
            return f"{whole * 1000}/1001"
    return str(Fraction(fps).limit_denominator(1001))


def _s(seconds: float) -> str:
    return f"{seconds:.3f}"
