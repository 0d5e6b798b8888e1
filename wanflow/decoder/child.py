"""The process that opens strangers' files. Run by path, with nothing of wanflow in it but ``pictures.py``,
``faces.py`` and ``audio.py``: what will show a file checks it. Reads its orders from stdin.

An order is a byte (``i`` image, ``f`` font, ``p`` the footer of a Parquet file, ``s`` sound, ``v`` video), the most
pixels, the length, the bytes; an answer a length and JSON: null, or a word and its details. Before the bytes of a video
come the size, number and rate of the frames that a clip takes of it; before the answer, where the size is not 0, each
of them in RGB with the byte 1 in front, and then the byte 0. It limits itself before the first order, because what it
opens may take it over.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

_HEAD = struct.Struct("!cQQ")
_FIT = struct.Struct("!IIId")
#: what a video may be made of
_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "libvpx", "libvpx-vp9", "mpeg4", "prores")
#: transfer characteristics of PQ and HLG, matrices, and full range, as ITU-T H.273 and ffmpeg number them
_HDR = (16, 18)
_MATRICES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020", 10: "BT2020"}
_FULL = 2
#: of the clip's frame: when it is looked at. Not at its very beginning, nor where the frames of twice, three, ... nine
#: times the rate begin, because which of two frames is taken must not hang on how a container rounds their times
_LATER = 0.1
#: containers round times to a millisecond, and rates of 29.97 are called 30
_ROUNDING_S = 0.01
#: what a font is made to draw: joined, accented and wide letters
_SAMPLE = "Hamburgefonstiv 0123 ÄÖß &%"
_MAX_GLYPHS = 200_000
#: peak of a sound that nobody hears, -50 dB of full scale
_SILENT = 0.00316


def main() -> None:
    cpu_s, video_cpu_s, memory_bytes = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    sys.path.insert(0, sys.argv[4])  # this wanflow and no other
    import wanflow.audio
    import wanflow.faces
    import wanflow.pictures  # noqa: F401

    del sys.path[0]
    from PIL import Image, ImageCms, ImageOps  # noqa: F401 - before there are limits

    warnings.simplefilter("error", Image.DecompressionBombWarning)
    Image.preinit()
    Image.init()
    _limit(memory_bytes)
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    while len(head := orders.read(_HEAD.size)) == _HEAD.size:
        kind, max_pixels, length = _HEAD.unpack(head)
        fit = _FIT.unpack(orders.read(_FIT.size)) if kind == b"v" else (0, 0, 0, 0.0)
        data = orders.read(length)
        # the default action of the signal ends the process, in the middle of C code too
        signal.setitimer(signal.ITIMER_PROF, video_cpu_s if kind == b"v" else cpu_s)
        try:
            if kind == b"v":
                found = _video(data, max_pixels, fit, lambda frame: answers.write(b"\1" + frame))
            else:
                found = _image(data, max_pixels) if kind == b"i" else _OTHERS[kind](data)
        except MemoryError:
            found = ("memory", "")
        signal.setitimer(signal.ITIMER_PROF, 0)
        del data
        if fit[0]:
            answers.write(b"\0")
        said = json.dumps(found).encode()
        answers.write(struct.pack("!I", len(said)) + said)
        answers.flush()


def _limit(memory_bytes: int) -> None:
    limits = {
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 32,
        "RLIMIT_NPROC": 0,
    }
    for name, value in limits.items():
        with suppress(AttributeError, ValueError, OSError):  # not every system has them all
            resource.setrlimit(getattr(resource, name), (value, value))
    with suppress(OSError):
        os.nice(1)


def _image(data: bytes, max_pixels: int) -> tuple[str, str] | None:
    from PIL import Image, UnidentifiedImageError

    from wanflow.pictures import FORMATS, Unusable, upright_srgb

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:  # before a single pixel is decoded
                return "pixels", f"{width}x{height}"
            upright_srgb(image)
    except Unusable as exc:
        return "unusable", str(exc)
    except UnidentifiedImageError:
        return "unknown", ""
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return "pixels", ""
    except MemoryError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever a broken file makes a plug-in raise
        return "broken", str(exc) or type(exc).__name__
    return None


class _Refused(Exception):
    """A word and its details."""


def _video(
    data: bytes,
    max_pixels: int,
    fit: tuple[int, int, int, float],
    send: Callable[[bytes], object],
) -> tuple[str, str] | None:
    """Decodes as far as the clip reaches, and sends its frames; where its width is 0, none."""
    width, height, num_frames, fps = fit
    shown, picture = None, b""
    try:
        for frame, shape in _taken(data, max_pixels, num_frames, fps):
            if width and frame is not shown:
                shown, picture = frame, _covering(frame, shape, width, height)
            if width:
                send(picture)
    except _Refused as exc:
        return exc.args[0], exc.args[1]
    except MemoryError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever a broken file makes a decoder raise
        # without the number and the name, which is none, that come with an error of ffmpeg's
        return "broken", getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
    return None


def _taken(data: bytes, max_pixels: int, num_frames: int, fps: float) -> Iterator[tuple[Any, float]]:
    """For each of the clip's frames the video's that is on the screen then, and the shape of its pixels."""
    import av

    demuxer = "mov" if data[4:8] == b"ftyp" else "matroska" if data[:4] == b"\x1aE\xdf\xa3" else ""
    if not demuxer:
        raise _Refused("unknown", "")
    options = {"codec_whitelist": ",".join(_CODECS), "max_pixels": str(max_pixels), "threads": "1"}
    with av.open(BytesIO(data), "r", format=demuxer, options=options) as container:
        stream: Any = container.streams.best("video")
        if stream is None or stream.codec_context.name not in _CODECS:
            raise _Refused("unknown", "")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > max_pixels:
            raise _Refused("pixels", f"{width}x{height}")
        stream.codec_context.options = {"max_pixels": str(max_pixels)}
        stream.codec_context.thread_count = 1
        shape = float(stream.sample_aspect_ratio or 1)
        usual_s = 1 / float(stream.average_rate or fps)
        first_s = shown = None
        begin_s = end_s = 0.0
        taken = 0
        frames: Iterator[Any] = container.decode(stream)
        for frame in frames:
            if frame.color_trc in _HDR:
                raise _Refused("hdr", "")
            time_s = (first_s or 0.0) + end_s if frame.time is None else float(frame.time)
            first_s = time_s if first_s is None else first_s
            begin_s = max(begin_s, time_s - first_s)
            if frame.is_corrupt:  # what is missing of it was guessed, and what follows looks back on it
                raise _Refused("broken", f"a frame at {begin_s:.2f} s")
            while shown is not None and taken < num_frames and (taken + _LATER) / fps < begin_s:
                yield shown, shape
                taken += 1
            if taken == num_frames:
                return
            shown = frame
            end_s = begin_s + (float(frame.duration * frame.time_base) if frame.duration else usual_s)
    if shown is None:
        raise _Refused("broken", "no frame")
    if end_s + _ROUNDING_S < (num_frames - 1) / fps:
        raise _Refused("short", f"{end_s:.2f}")
    for _ in range(taken, num_frames):
        yield shown, shape


def _covering(frame: Any, shape: float, width: int, height: int) -> bytes:
    """The frame upright and with square pixels, scaled to cover and cropped about its centre, as images are."""
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
    from PIL import Image, ImageOps

    matrix = _MATRICES.get(frame.colorspace) or ("ITU709" if frame.height >= 720 else "ITU601")
    is_full = frame.color_range == _FULL or frame.format.name.startswith("yuvj") or frame.format.is_rgb
    picture: Any = VideoReformatter().reformat(
        frame,
        format="rgb24",
        src_colorspace=Colorspace[matrix],
        src_color_range=ColorRange.JPEG if is_full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        threads=1,  # a child may have no more
    )
    image = picture.to_image()
    if shape != 1:
        image = image.resize((max(1, round(image.width * shape)), image.height), Image.Resampling.LANCZOS)
    turn = frame.rotation
    if _is_mirrored(frame):
        # the angle is that of the matrix's first column, which mirroring has turned round
        image, turn = ImageOps.mirror(image), turn + 180
    if turn:
        image = image.rotate(turn, expand=True)
    data: bytes = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS).tobytes()
    return data


def _is_mirrored(frame: Any) -> bool:
    """Whether its display matrix does more than turn it, as some cameras' that face their owner."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    return bool(a * d < b * c)


def _font(data: bytes) -> tuple[str, str] | None:
    """Makes the face that a layout uses, and lets FreeType draw it."""
    try:
        from PIL import Image, ImageDraw, ImageFont

        from wanflow.faces import first_face, named

        with first_face(BytesIO(data)) as font:
            if font["maxp"].numGlyphs > _MAX_GLYPHS or not 16 <= font["head"].unitsPerEm <= 16384:
                return "broken", "its numbers are out of range"
            cmap: dict[int, Any] = font.getBestCmap()
            data = named(font, "checked")
        letters = _SAMPLE + "".join(map(chr, sorted(c for c in cmap if not 0xD800 <= c < 0xE000)[:64]))
        for size in (12, 200):
            drawn = ImageFont.truetype(BytesIO(data), size, layout_engine=ImageFont.Layout.BASIC)
            for letter in dict.fromkeys(letters):
                left, top, right, bottom = drawn.getbbox(letter)
                if max(abs(left), abs(top), abs(right), abs(bottom)) > 50 * size:
                    return (
                        "broken",
                        f"U+{ord(letter):04X} is {right - left:.0f}x{bottom - top:.0f} pixels large",
                    )
                ImageDraw.Draw(Image.new("L", (size, size))).text((0, 0), letter, 255, drawn)
    except MemoryError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever a broken file makes a library raise
        return "broken", str(exc) or type(exc).__name__
    return None


def _parquet(data: bytes) -> tuple[str, str] | None:
    """Looks at every column of every row group, which ends the process where the footer is damaged in some ways."""
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve more than may be had
    import pyarrow.parquet as pq

    try:
        found = pq.read_metadata(BytesIO(data))
        for group in map(found.row_group, range(found.num_row_groups)):
            for column in map(group.column, range(found.num_columns)):
                _ = column.path_in_schema, column.total_uncompressed_size
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - who reads the file says what is wrong with it
        return None
    return None


def _sound(data: bytes) -> tuple[str, str]:
    """Decodes all of it: ``heard``, how many seconds it lasts and how many of them are silent at its beginning; or what
    is wrong."""
    try:
        import av

        from wanflow.audio import CODECS, demuxer

        name = demuxer(BytesIO(data))
        if not name:
            return "unknown", ""
        options = {"codec_whitelist": ",".join(CODECS), "threads": "1"}
        with av.open(BytesIO(data), "r", format=name, options=options) as container:
            if not container.streams.audio:
                return "unknown", ""
            stream: Any = container.streams.audio[0]  # the one that is played
            if stream.codec_context.name not in CODECS:
                return "codec", stream.codec_context.name
            return _listened(container, stream)
    except MemoryError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever a broken file makes a decoder raise
        return "broken", getattr(exc, "strerror", None) or str(exc) or type(exc).__name__


def _listened(container: Any, stream: Any) -> tuple[str, str]:
    """The verdict on a stream that can be decoded. A few packets that cannot are passed over, as players do: tags and
    zeros behind the end, a last frame that was cut off."""
    import av

    seconds, silence_s = 0.0, None
    num_packets = num_broken = 0
    kind = None
    for packet in container.demux(stream):
        num_packets += 1
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            num_broken += 1
            continue
        for frame in frames:
            kind = kind or (frame.sample_rate, frame.layout.name)
            if kind != (frame.sample_rate, frame.layout.name):
                return "broken", f"its rate or its channels change at {seconds:.2f} s"
            if silence_s is None and (first := _first_loud(frame)) is not None:
                silence_s = seconds + first / frame.sample_rate
            seconds += frame.samples / frame.sample_rate
    if not seconds or num_broken > max(2, num_packets // 50):
        return "broken", f"{num_broken} of {num_packets} packets cannot be decoded"
    return ("silent", "") if silence_s is None else ("heard", f"{seconds:.3f} {silence_s:.3f}")


def _first_loud(frame: Any) -> int | None:
    """Which sample of ``frame`` is the first that can be heard."""
    import numpy as np

    samples = frame.to_ndarray()  # (channels, samples), or (1, samples x channels)
    if frame.format.is_packed:
        samples = samples.reshape(frame.samples, -1).T
    full = 1.0
    if samples.dtype == np.uint8:
        samples, full = samples.astype(np.int16) - 128, 128.0
    elif samples.dtype.kind == "i":
        full = 2.0 ** (8 * samples.itemsize - 1)
    loud = np.abs(samples.astype(np.float32)).max(axis=0) >= _SILENT * full
    return int(loud.argmax()) if loud.any() else None


_OTHERS = {b"f": _font, b"p": _parquet, b"s": _sound}

if __name__ == "__main__":
    main()
