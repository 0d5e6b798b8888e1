"""Images and fonts: what is refused, with which words, and that each is read once."""

from __future__ import annotations

import shutil
import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.inputs.conftest import Case
from wanflow.allowed import locate
from wanflow.assemble.fonts import packaged
from wanflow.errors import InputError, StoreError
from wanflow.inputs import Inputs, read_source
from wanflow.model import Source


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels worth the name."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def gif() -> bytes:
    file = BytesIO()
    Image.new("P", (4, 4)).save(file, "GIF")
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff"])
def test_an_image_is_known_by_its_bytes(case: Case, name: str) -> None:
    """Two names of one file are one input; its URL is where to read it, not what it is."""
    case.picture(name)
    (case.folder / "copy").write_bytes((case.folder / name).read_bytes())
    inputs = Inputs(case.folder)
    assert inputs.image(name) == inputs.image("copy")
    assert inputs.image(name).url == str(case.folder / name)
    assert len(inputs.image(name).digest) == 64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is an empty file"),
        (b"hello", "is not an image that can be read; use PNG"),
        (
            b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
            "is SVG, which has no pixels; export it as PNG",
        ),
        (b"<!DOCTYPE html><html>login</html>", "is a web page, not an image"),
        (b"<Error><Code>AccessDenied</Code></Error>", "is XML, not an image"),
        (b"%PDF-1.7", "is a PDF"),
        (b"\0\0\0\x20ftypheic", "is HEIC, AVIF or a video"),
        (gif(), "is a GIF; save it as PNG"),
        (png_header(60_000, 60_000), "pixels; make it smaller"),
        (png_header(9000, 9000), "9000x9000 is more than 64,000,000 pixels; make it smaller"),
        (png_header(100, 100), "is broken or cut off"),
    ],
)
def test_a_file_that_is_no_usable_image_is_named_with_what_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    """The row's owner has to fix it, so the message says what the file is, not what Pillow thinks."""
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=words):
        Inputs(tmp_path).image("a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_truncated_image_is_found_while_planning(case: Case, name: str) -> None:
    """An upload that was cut off has a perfect header; the GPU must not be where that is found."""
    Image.effect_noise((200, 200), 80).convert("RGB").save(case.folder / name)
    data = (case.folder / name).read_bytes()
    (case.folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="is broken or cut off"):
        Inputs(case.folder).image(name)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A few kilobytes that unpack to gigabytes: the header decides, so nothing is unpacked."""
    width = height = 12_000
    raw = zlib.compress(b"\0" * (width * 3 + 1) * 200, 9)
    data = png_header(width, height).replace(zlib.compress(b"\0" * 100), raw)
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(InputError, match="pixels; make it smaller"):
        Inputs(tmp_path).image("bomb.png")


def test_what_is_missing_a_directory_or_too_large_is_named(case: Case) -> None:
    """Paths in a manifest are wrong more often than images are."""
    case.picture("a.png")
    inputs = Inputs(case.folder, max_bytes=20)
    with pytest.raises(InputError, match=r"nowhere\.png: does not exist"):
        inputs.image("nowhere.png")
    with pytest.raises(InputError, match=r"larger than the 20 bytes"):
        inputs.image("a.png")
    with pytest.raises(InputError, match=str(case.folder)):
        inputs.image(".")
    with pytest.raises(InputError, match="the path is empty"):
        inputs.image(" ")


def test_every_url_is_read_once_and_its_failure_is_remembered(case: Case) -> None:
    """Twenty thousand rows with one logo cost one read; with one broken logo, one read too."""
    path = case.picture("a.png")
    inputs = Inputs(case.folder)
    before = inputs.image("a.png")
    with pytest.raises(InputError):
        inputs.image("b.png")
    path.unlink()
    case.picture("b.png")
    assert inputs.image("a.png") == before
    with pytest.raises(InputError, match="does not exist"):
        inputs.image("b.png")


def test_reading_ahead_gives_what_reading_gives(case: Case) -> None:
    """Images of a chunk of rows are read at once; a broken one among them stays that row's own."""
    for i in range(6):
        case.picture(f"{i}.png", (i + 1, 1))
    inputs = Inputs(case.folder)
    inputs.prefetch_images([f"{i}.png" for i in range(6)] + ["nowhere.png", ""])
    for i in range(6):
        (case.folder / f"{i}.png").unlink()
    assert len({inputs.image(f"{i}.png").digest for i in range(6)}) == 6
    with pytest.raises(InputError, match="does not exist"):
        inputs.image("nowhere.png")


def test_a_source_that_changed_since_planning_is_noticed(case: Case) -> None:
    """A logo replaced in mid-run would otherwise be published under the old logo's key."""
    case.picture("a.png")
    source = Inputs(case.folder).image("a.png")
    assert read_source(source) == (case.folder / "a.png").read_bytes()
    case.picture("a.png", (9, 9))
    with pytest.raises(InputError, match="has changed since it was planned with"):
        read_source(source)
    with pytest.raises(StoreError, match="cannot be read any more"):
        read_source(Source(str(case.folder / "gone.png"), "0" * 64))


def test_an_image_is_read_from_an_object_store(case: Case, s3_url: str) -> None:
    """Packshots live in a bucket."""
    from wanflow.storage import Store

    Store(s3_url).write("a.png", case.picture("a.png"))
    source = Inputs(case.folder).image(f"{s3_url}/a.png")
    assert source.url == f"{s3_url}/a.png"
    assert source == Inputs(case.folder).image("a.png")


def test_a_font_is_a_font(tmp_path: Path) -> None:
    """ffmpeg would fall back to another font without a word."""
    shutil.copyfile(packaged("poppins/Poppins-Medium.ttf"), tmp_path / "a.ttf")
    (tmp_path / "c.ttf").write_bytes(b"\0\1\0\0" + b"x" * 100)
    (tmp_path / "a.woff2").write_bytes(b"wOF2" + b"x" * 100)
    (tmp_path / "b.ttf").write_bytes(b"<html>")
    inputs = Inputs(tmp_path)
    assert inputs.font("a.ttf").url == str(tmp_path / "a.ttf")
    with pytest.raises(InputError, match="is a web font"):
        inputs.font("a.woff2")
    with pytest.raises(InputError, match="is not a font"):
        inputs.font("b.ttf")
    with pytest.raises(InputError, match="is no font that can be used"):
        inputs.font("c.ttf")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a/b.png", "/jobs/a/b.png"),
        ("../b.png", "/b.png"),
        ("/x/b.png", "/x/b.png"),
        ("s3://b/k.png", "s3://b/k.png"),
        ("d/*.parquet", "/jobs/d/*.parquet"),
    ],
)
def test_a_relative_name_begins_at_the_job(name: str, place: str) -> None:
    """Names in a manifest mean the same wherever the command is run."""
    assert locate(name, Path("/jobs")) == place
