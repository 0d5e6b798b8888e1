"""The process that opens strangers' files. Run by path, with nothing of wanflow in it; reads its orders from stdin.

An order is a byte (``i`` image, ``f`` font, ``p`` the footer of a Parquet file), the most pixels, the length, the
bytes; an answer a length and JSON: null, or a word and its details. It limits itself before the first order, because
what it opens may take it over.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
import warnings
from contextlib import suppress
from io import BytesIO
from typing import Any

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_HEAD = struct.Struct("!cQQ")
#: what a font is made to draw: joined, accented and wide letters
_SAMPLE = "Hamburgefonstiv 0123 ÄÖß &%"
_MAX_GLYPHS = 200_000


def main() -> None:
    cpu_s, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    from PIL import Image

    warnings.simplefilter("error", Image.DecompressionBombWarning)
    Image.preinit()
    Image.init()
    _limit(memory_bytes)
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    while len(head := orders.read(_HEAD.size)) == _HEAD.size:
        kind, max_pixels, length = _HEAD.unpack(head)
        data = orders.read(length)
        # the default action of the signal ends the process, in the middle of C code too
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            found = _image(data, max_pixels) if kind == b"i" else _OTHERS[kind](data)
        except MemoryError:
            found = ("memory", "")
        signal.setitimer(signal.ITIMER_PROF, 0)
        del data
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

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:  # before a single pixel is decoded
                return "pixels", f"{width}x{height}"
            image.load()
    except UnidentifiedImageError:
        return "unknown", ""
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return "pixels", ""
    except MemoryError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever a broken file makes a plug-in raise
        return "broken", str(exc) or type(exc).__name__
    return None


def _font(data: bytes) -> tuple[str, str] | None:
    """Opens the tables that a layout reads, and lets FreeType draw."""
    try:
        from fontTools.ttLib import TTFont
        from PIL import Image, ImageDraw, ImageFont

        with TTFont(BytesIO(data), fontNumber=0, lazy=True) as font:
            if font["maxp"].numGlyphs > _MAX_GLYPHS or not 16 <= font["head"].unitsPerEm <= 16384:
                return "broken", "its numbers are out of range"
            for table in ("name", "OS/2", "hhea", "hmtx"):
                font[table]  # reading is the test
            cmap: dict[int, Any] = font.getBestCmap() or {}
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


_OTHERS = {b"f": _font, b"p": _parquet}

if __name__ == "__main__":
    main()
