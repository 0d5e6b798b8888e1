"""A clip's frames as a near-lossless file, and back: what every variant of the clip is assembled from.

H.264, 4:4:4, 8 bits, limited range, BT.709 throughout and tagged so: any ffmpeg reads it, and nothing is
guessed. Full chroma because brand colours and thin edges are subsampled once already in the output; quality
so high that the second encoding decides what is seen. Frames stream in and out. 4:4:4 takes any size; it is
the outputs' 4:2:0 that needs even sides (every model's grid gives those).

Owns the codec's settings; raise ``keys.VERSIONS["master"]`` when they change. Knows no clips or stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanflow.errors import RenderError
from wanflow.model import Cause

if TYPE_CHECKING:
    import numpy as np


#: Measured on a noisy 832x480 clip: 49.7 dB, no value off by more than 5, 7.2 bits a pixel (lossless in 8-bit
#: YCbCr: 52.0 dB, 8.6 bits). x264 quantises 4:4:4 chroma harder by 6 and bends the bits towards what pleases the
#: eye; a source wants neither. Its macroblock tree saves a quarter of the bytes for up to 1.7 dB, but reads memory
#: that nobody wrote, and two files of the same frames differ.
_OPTIONS = {"crf": "4", "preset": "veryfast", "x264-params": "chroma-qp-offset=-6:psy=0:aq-mode=0:mbtree=0"}


def encode(frames: Iterator[np.ndarray[Any, Any]], fps: float, path: Path) -> int:
    """Write chunks of uint8 frames (n, height, width, 3) to ``path`` (mp4) and return how many frames there
    were.

    The file appears at ``path`` only when it is whole. Raises RenderError (bad output) for no frames, or
    frames of another type or of changing sizes.
    """
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

    rate = Fraction(fps).limit_denominator(1001)
    scratch = path.with_name(f".tmp-{path.name}")
    count = 0
    # One for all frames, and without threads of its own: a frame by itself starts some for itself, which takes longer
    # than the conversion.
    reformatter = VideoReformatter()
    try:
        with av.open(str(scratch), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.pix_fmt = "yuv444p"
            stream.options = dict(_OPTIONS)
            context = stream.codec_context
            context.thread_count = 2
            context.time_base = 1 / rate
            context.color_range = ColorRange.MPEG
            context.colorspace = Colorspace.ITU709
            context.color_primaries = ColorPrimaries.BT709
            context.color_trc = ColorTrc.BT709
            for chunk in frames:
                if chunk.ndim != 4 or chunk.shape[3] != 3 or chunk.dtype != "uint8":
                    raise RenderError(
                        f"frames must be uint8 (n, h, w, 3), not {chunk.dtype} {chunk.shape}",
                        Cause.BAD_OUTPUT,
                    )
                for array in chunk:
                    if count == 0:
                        stream.height, stream.width = array.shape[:2]
                    elif (stream.height, stream.width) != array.shape[:2]:
                        raise RenderError(
                            f"frame {count} is of another size than the first", Cause.BAD_OUTPUT
                        )
                    picture = reformatter.reformat(
                        av.VideoFrame.from_ndarray(array, format="rgb24"),
                        format="yuv444p",
                        src_color_range=ColorRange.JPEG,
                        dst_colorspace=Colorspace.ITU709,
                        dst_color_range=ColorRange.MPEG,
                        threads=1,
                    )
                    picture.pts, picture.time_base = count, 1 / rate
                    container.mux(stream.encode(picture))
                    count += 1
            if count == 0:
                raise RenderError("a clip without frames", Cause.BAD_OUTPUT)
            container.mux(stream.encode())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return count


def decode(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    """The frames of a master, each uint8 (height, width, 3)."""
    import av
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

    reformatter = VideoReformatter()
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            picture = reformatter.reformat(
                frame,
                format="rgb24",
                src_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG,
                threads=1,
            )
            yield picture.to_ndarray()
