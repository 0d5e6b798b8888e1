"""Pictures are what they look like, as a layer and as a clip's image, or are refused while planning."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from wanflow.assemble import images
from wanflow.engines.picture import open_cover
from wanflow.errors import InputError
from wanflow.inputs import Inputs
from wanflow.model import ImageLayer, Placement, Source
from wanflow.pictures import upright_srgb

GREEN = (60, 180, 75)
#: what Display P3 calls that; a browser shows these numbers
GREEN_OF_P3 = (0, 182, 57)
RAMP = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)


def profile(kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A profile of the colours ``RGB `` or ``GRAY``, of version 2.4."""
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += struct.pack("!4sII", name, place + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    head = struct.pack(
        "!I4sI4s4s4s12x4s", place + len(body), b"", 0x02400000, b"mntr", kind, b"XYZ ", b"acsp"
    )
    head = (head.ljust(68, b"\0") + struct.pack("!III", 0xF6D6, 0x10000, 0xD32D)).ljust(128, b"\0")
    return head + struct.pack("!I", len(tags)) + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack("!3i", *(round(value * 65536) for value in values))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack("!IH", 1, round(value * 256))


#: its colours with a curve of 2.2, which is nearly sRGB's
P3 = profile(
    b"RGB ",
    {
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.51512, 0.24120, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.15710, 0.06657, 0.78407),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2.2)),
    },
)
#: grey that is darker than sRGB's
DARK_GREY = profile(b"GRAY", {b"wtpt": xyz(0.9642, 1.0, 0.8249), b"kTRC": gamma(4.4)})
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(depth: int, colour: int, row: bytes, width: int, transparent: bytes) -> bytes:
    """A PNG of one row, of kinds that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack("!IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    body = chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def shown(data: bytes) -> np.ndarray[Any, Any]:
    """(height, width, 3 or 4)"""
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(upright_srgb(opened))


def as_layer(data: bytes, folder: Path, size: int) -> np.ndarray[Any, Any]:
    """As it lies on a picture of as many pixels: (height, width, 4)."""
    (folder / "a").write_bytes(data)
    layer = ImageLayer(Source("a.png", ""), Placement("center", width=1.0, margin=0.0))
    images.prepare(layer, folder / "a", folder / "b.png", size, size)
    with Image.open(folder / "b.png") as made:
        return np.asarray(made)


def corner(kind: str) -> Image.Image:
    """Green, with a magenta corner that is to be transparent."""
    picture = Image.new("RGB", (16, 16), GREEN)
    picture.paste((255, 0, 255), (0, 0, 8, 8))
    return picture.quantize(4) if kind == "P" else picture


@pytest.mark.parametrize("with_profile", [None, SRGB], ids=["plain", "profile"])
@pytest.mark.parametrize("kind", ["P", "RGB"])
def test_a_transparent_colour_is_transparent_with_a_profile_too(
    tmp_path: Path, kind: str, with_profile: bytes | None
) -> None:
    """The clear corner of a logo was a magenta one, where the designer's tool wrote a profile beside it."""
    picture = corner(kind)
    hidden = picture.getpixel((0, 0))
    data = saved(picture, transparency=hidden, **({"icc_profile": with_profile} if with_profile else {}))
    layer = as_layer(data, tmp_path, 16)
    assert (layer[2, 2, 3], layer[12, 12, 3]) == (0, 255)
    assert np.abs(layer[12, 12, :3].astype(int) - GREEN).max() <= 2
    assert np.asarray(open_cover(data, 16, 16))[2, 2].tolist() == [255, 255, 255], "laid on white"


@pytest.mark.parametrize(
    "data",
    [
        png(2, 0, b"\x1b", 4, struct.pack("!H", 3)),
        png(4, 0, b"\x05\xaf", 4, struct.pack("!H", 15)),
        png(16, 0, struct.pack("!4H", 0, 30_000, 65_534, 65_535), 4, struct.pack("!H", 65_535)),
        png(16, 2, struct.pack("!12H", *[0] * 3, 60_000, 1000, 1000, *[65_000] * 3, 1000, 2000, 3000), 4,
            struct.pack("!3H", 1000, 2000, 3000)),
    ],
    ids=["grey of 2 bits", "grey of 4 bits", "grey of 16 bits", "RGB of 16 bits"],
)  # fmt: skip
def test_a_transparent_colour_is_meant_in_the_files_own_bits(data: bytes) -> None:
    """Optimizers of PNGs write black logos with two bits a pixel."""
    assert shown(data)[0, :, 3].tolist() == [255, 255, 255, 0]


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(RAMP)),
        saved(Image.fromarray(RAMP), "TIFF"),
        saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
        saved(Image.fromarray(RAMP), icc_profile=SRGB),
    ],
    ids=["PNG", "TIFF", "TIFF of 32 bits", "profile of other colours"],
)
def test_sixteen_bits_of_grey_are_from_black_to_white(tmp_path: Path, data: bytes) -> None:
    """A ramp came out all white: Pillow clips where it should scale."""
    wide = np.arange(256)
    assert np.abs(as_layer(data, tmp_path, 256)[1, :, 0].astype(int) - wide).max() <= 1
    assert np.abs(np.asarray(open_cover(data, 256, 4))[1, :, 2].astype(int) - wide).max() <= 1


@pytest.mark.parametrize(
    "pixels",
    [RAMP.astype(np.float32), RAMP.astype(np.int32) * 30_000, RAMP.astype(np.int32) - 1],
    ids=["fractions", "32 bits", "signs"],
)
def test_pixels_whose_white_nobody_knows_are_a_bad_row(tmp_path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """They came out black or white without a word; found before there is a GPU, and said in words."""
    (tmp_path / "a.tif").write_bytes(saved(Image.fromarray(pixels), "TIFF"))
    with pytest.raises(InputError, match=r"a\.tif: .*nobody knows what is white; save it with 8 bits$"):
        Inputs(tmp_path).image("a.tif")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_layer_and_the_image_of_a_clip_have_the_same_colours(tmp_path: Path, kind: str) -> None:
    """A phone's photo is Display P3: it must not change its colours where the clip made from it begins."""
    data = saved(
        Image.new("RGB", (16, 16), GREEN), kind, icc_profile=P3, **({"quality": 95} if kind == "JPEG" else {})
    )
    layer, cover = as_layer(data, tmp_path, 16)[8, 8, :3], np.asarray(open_cover(data, 16, 16))[8, 8]
    assert layer.tolist() == cover.tolist()
    assert np.abs(layer.astype(int) - GREEN_OF_P3).max() <= 3


def test_grey_has_profiles_too() -> None:
    middle = Image.new("L", (4, 4), 128)
    with_alpha = Image.merge("LA", (middle, Image.new("L", (4, 4), 77)))
    dark = shown(saved(middle, icc_profile=DARK_GREY))[0, 0]
    assert dark.max() < 80
    assert shown(saved(with_alpha, icc_profile=DARK_GREY))[0, 0].tolist() == [*dark, 77]


@pytest.mark.parametrize("damaged", [b"no profile at all", P3[:200], DARK_GREY], ids=["noise", "cut", "grey"])
def test_a_profile_that_does_not_fit_is_left_out(tmp_path: Path, damaged: bytes) -> None:
    """Browsers do so; the picture is good."""
    data = saved(Image.new("RGB", (4, 4), GREEN), icc_profile=damaged)
    (tmp_path / "a.png").write_bytes(data)
    Inputs(tmp_path).image("a.png")
    assert shown(data)[0, 0].tolist() == list(GREEN)


def test_print_colours_are_those_of_their_profile(tmp_path: Path) -> None:
    """Of a press whose inks are all grey, so that nobody guesses the numbers."""
    inks = itertools.product((0, 1), repeat=4)
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack("!9i", *np.eye(3, dtype=int).ravel() * 65536)
    table += bytes(range(256)) * 4 + b"".join(bytes([255 - 60 * sum(ink), 128, 128]) for ink in inks)
    made = profile(b"CMYK", {b"wtpt": xyz(0.9642, 1.0, 0.8249), b"A2B0": table + bytes(range(256)) * 3})
    press = made[:12] + b"prtrCMYKLab " + made[24:]
    data = saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", icc_profile=press)
    layer, cover = as_layer(data, tmp_path, 16)[8, 8, :3], np.asarray(open_cover(data, 16, 16))[8, 8]
    assert layer.tolist() == cover.tolist()
    assert np.ptp(layer) == 0
    assert 150 < layer[0] < 220


def test_print_colours_and_lab_are_turned() -> None:
    cmyk = saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF")
    assert shown(cmyk)[0, 0].tolist() == [255, 0, 0]
    lab = saved(Image.new("LAB", (4, 4), (128, 200, 128)), "TIFF", icc_profile=P3)
    assert np.abs(shown(lab)[0, 0].astype(int) - (222, 34, 123)).max() <= 1


def test_a_picture_whose_turning_cannot_be_read_is_found_while_planning(tmp_path: Path) -> None:
    """Planning opens a picture the way that it is shown, not only as far as its pixels."""
    (tmp_path / "a.png").write_bytes(saved(Image.new("RGB", (4, 4)), exif=b"Exif\0\0no header of TIFF"))
    with pytest.raises(InputError, match=r"is broken or cut off \(not a TIFF file"):
        Inputs(tmp_path).image("a.png")
