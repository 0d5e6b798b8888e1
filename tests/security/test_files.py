"""Files that are made to harm whoever opens them: pictures and fonts. Through plan, with the real decoders."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.security.attacks import Target, png, png_header
from tests.sounds import tone, write_sound
from tests.videos import write_video
from wanflow import decoder as decoder_module
from wanflow.assemble.fonts import packaged
from wanflow.decoder import Decoder, Fit, Undecodable, decoder
from wanflow.errors import JobError


def test_a_header_of_gigapixels_is_refused_undecoded(target: Target) -> None:
    (target.folder / "bomb.png").write_bytes(png_header(60_000, 60_000))
    assert "pixels; make it smaller" in target.refused_image("bomb.png")


def test_a_small_file_that_unpacks_to_gigabytes_is_one_bad_row(target: Target) -> None:
    """4 MB of zeros, compressed twice over: within the pixels, far beyond the data that they need."""
    data = zlib.compress(b"\0" * 400_000_000, 9)
    (target.folder / "bomb.png").write_bytes(png_header(100, 100, data) + data)
    target.rows[1]["image"] = "bomb.png"
    target.plan(skip_bad_rows=True)  # pixels beyond the picture's are left unread, or refused: both are fine
    peak_bytes = []
    for file in (png(), (target.folder / "bomb.png").read_bytes()):
        fresh = Decoder()
        fresh.problem("image", file, 10**6)
        (child,) = fresh._idle.queue
        status = Path(f"/proc/{child._process.pid}/status").read_text()
        peak_bytes.append(1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]))
        fresh.close()
    assert peak_bytes[1] - peak_bytes[0] < 50_000_000


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused(target: Target) -> None:
    import struct

    body = b"Comment\0\0" + zlib.compress(b"a" * 100_000_000, 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    good = png()
    (target.folder / "bomb.png").write_bytes(good[:33] + chunk + good[33:])
    assert "broken or cut off" in target.refused_image("bomb.png")


def test_a_file_larger_than_the_limit_is_not_read(target: Target) -> None:
    with open(target.folder / "large.png", "wb") as file:
        file.truncate(2**40)  # sparse
    assert "larger than" in target.refused_image("large.png")


@pytest.mark.parametrize("name", ["a.svg", "a.gif", "a.eps", "a.mp4", "a.m3u8", "a.txt"])
def test_formats_that_run_code_or_fetch_are_not_opened(target: Target, name: str) -> None:
    """EPS starts Ghostscript, SVG and playlists fetch: only five formats of plain pixels are opened."""
    content = {
        "a.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "a.gif": b"GIF89a",
        "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file",
        "a.mp4": b"\0\0\0\x20ftypisom",
        "a.m3u8": b"#EXTM3U\nfile:///etc/passwd",
        "a.txt": b"push graphic-context image over 0,0 0,0 'https://169.254.169.254'",
    }[name]
    (target.folder / name).write_bytes(content)
    assert target.refused_image(name)


@pytest.fixture
def spoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A child whose decoder does what the file says: stands for a hole in a real one."""
    source = Path(decoder_module.__file__).with_name("child.py").read_text()
    hole = """
def _image(data, max_pixels):
    import ctypes
    if b"segfault" in data:
        ctypes.string_at(0)
    if b"abort" in data:
        os.abort()
    if b"exit" in data:
        os._exit(0)
    while b"spin" in data:
        pass
    if b"memory" in data:
        bytearray(8 * 2**30)
    if b"write" in data:
        with open(data.split(b"write ")[1].decode(), "wb") as file:
            file.write(b"x" * 100)
    if b"secret" in data:
        return "broken", str(sorted(os.environ))
    return None

def _video(data, max_pixels, fit, send):
    if fit[0]:
        send(b"x" * (fit[0] * fit[1] * 3))
    return _image(data, max_pixels)
"""
    (tmp_path / "child").mkdir()
    (tmp_path / "child" / "child.py").write_text(source.replace("if __name__ ==", hole + "\nif __name__ =="))
    (tmp_path / "child" / "__init__.py").touch()
    monkeypatch.setattr(decoder_module, "__file__", str(tmp_path / "child" / "__init__.py"))
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits are Linux's")
def test_a_decoder_that_crashes_hangs_or_grows_costs_its_file(
    spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hole in a decoder is one bad row, and the next file meets a decoder that works."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-here")
    asked = Decoder(num_children=1, cpu_s=1.0)
    try:
        assert asked.problem("image", b"segfault") == ("crash", "SIGSEGV")
        assert asked.problem("image", b"good") is None
        assert asked.problem("image", b"abort") == ("crash", "SIGABRT")
        assert asked.problem("image", b"exit") == ("crash", "exit code 0")
        assert asked.problem("image", b"spin") == ("time", "1 s")
        assert asked.problem("image", b"memory") == ("memory", "")
        assert asked.problem("image", f"write {spoilt / 'loot'}".encode()) is not None
        assert not (spoilt / "loot").exists() or (spoilt / "loot").stat().st_size == 0
        words = asked.problem("image", b"secret")
        assert words is not None
        assert "AWS" not in words[1]
        assert asked.problem("image", b"good") is None
    finally:
        asked.close()


def test_a_row_whose_picture_crashes_the_decoder_is_told_and_the_others_are_planned(
    target: Target, spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Decoder(num_children=1)
    monkeypatch.setattr(decoder_module, "decoder", fresh)
    (target.folder / "a.png").write_bytes(png() + b"segfault")
    try:
        assert "crashes what opens it (SIGSEGV)" in target.refused_image("a.png")
    finally:
        fresh.close()


def test_a_decoder_that_was_killed_from_outside_does_not_blame_the_file() -> None:
    """The kernel's out-of-memory killer takes the child; the picture is tried again."""
    asked = Decoder(num_children=1)
    try:
        assert asked.problem("image", png(), 100) is None
        child = asked._idle.get()
        os.kill(child._process.pid, signal.SIGKILL)
        asked._idle.put(child)
        assert asked.problem("image", png(), 100) is None
    finally:
        asked.close()


def test_one_child_opens_thousands_of_pictures() -> None:
    """Speed: a process a picture would cost a minute a thousand."""
    asked = Decoder(num_children=1)
    data = png()
    try:
        assert [asked.problem("image", data, 100) for _ in range(2000)] == [None] * 2000
        child = asked._idle.get()
        assert child.alive
        child.close()
    finally:
        asked.close()


def test_a_broken_font_is_refused_while_planning(target: Target) -> None:
    """FreeType and libass meet only fonts that were drawn with once, in a process that may die of them."""
    good = packaged("poppins/Poppins-Medium.ttf").read_bytes()
    for name, data in {
        "cut.ttf": good[: len(good) // 2],
        "noise.ttf": b"\0\1\0\0" + os.urandom(5000),
        "large.ttf": good.replace(b"head", b"HEAD", 1),
        "page.ttf": b"<html>",
    }.items():
        (target.folder / name).write_bytes(data)
        target.sections["layers"][1]["text"]["font"] = name
        with pytest.raises(JobError, match=re.escape(name)):
            target.plan()
    target.sections["layers"][1]["text"]["font"] = "{{ font }}"
    target.rows = [{**row, "font": ""} for row in target.rows]
    target.rows[1]["font"] = "cut.ttf"
    assert "no font that can be used" in target.refused()
    assert decoder.problem("font", good) is None


def test_a_picture_that_is_a_font_too_is_checked_as_what_it_is_used_for(target: Target) -> None:
    """A digest that passed as one kind is not trusted as the other."""
    import hashlib

    from wanflow.errors import InputError
    from wanflow.inputs import Inputs
    from wanflow.memo import InputMemo

    data = b"\0\1\0\0 a font, it says"
    (target.folder / "a.png").write_bytes(data)
    memo = InputMemo()
    memo.note("font", str(target.folder / "a.ttf"), hashlib.sha256(data).hexdigest())
    with pytest.raises(InputError, match="not an image"):
        Inputs(target.folder, memo=memo).image("a.png")


def test_damaged_pictures_of_every_format_are_refused_in_words(target: Target) -> None:
    from wanflow.errors import InputError
    from wanflow.inputs import Inputs

    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        file = io.BytesIO()
        noise.save(file, kind)
        (target.folder / f"a.{kind}").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
        with pytest.raises(InputError, match=r"broken or cut off|cannot be read"):
            Inputs(target.folder).image(f"a.{kind}")


# -- videos ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.mp4",
        "https://169.254.169.254/a.mp4",
        "http://example.com/a.mp4",
        "~/a.mp4",
        "out.mp4",
    ],
)
def test_videos_pass_the_same_door(target: Target, name: str) -> None:
    """The newest kind of input must not be the one that was forgotten."""
    os.symlink("/etc/passwd", target.folder / "out.mp4")
    assert "video: " in target.refused_video(name)


@pytest.mark.parametrize("name", ["a.m3u8", "a.ffconcat", "a.sdp", "a.avi", "a.gif", "a.mpd", "a.mp4"])
def test_playlists_and_rare_formats_are_not_opened_as_video(target: Target, name: str) -> None:
    """ffmpeg knows hundreds of formats, and some of them read other files: two are opened, known by their bytes."""
    content = {
        "a.m3u8": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST",
        "a.ffconcat": b"ffconcat version 1.0\nfile /etc/passwd",
        "a.sdp": b"v=0\no=- 0 0 IN IP4 169.254.169.254\nm=video 80 RTP/AVP 96",
        "a.avi": b"RIFF\0\0\0\0AVI LIST",
        "a.gif": b"GIF89a",
        "a.mpd": b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>",
        "a.mp4": b"#EXTftyp\nfile:///etc/passwd",
    }[name]
    (target.folder / name).write_bytes(content)
    assert re.search("is no video that can be read|is broken or cut off", target.refused_video(name))


def test_a_codec_that_is_not_listed_is_not_opened(target: Target) -> None:
    write_video(target.folder / "a.mov", [0] * 8, rate=8, codec="rawvideo")
    assert "is no video that can be read" in target.refused_video("a.mov")


def test_a_video_larger_than_the_limit_is_not_read(target: Target) -> None:
    with open(target.folder / "large.mp4", "wb") as file:
        file.truncate(2**40)  # sparse
    assert "larger than" in target.refused_video("large.mp4")


def test_a_video_of_far_too_large_frames_is_refused(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "MAX_VIDEO_PIXELS", 64 * 47)
    write_video(target.folder / "a.mp4", [0] * 8, rate=8)
    assert "has frames of 64x48, which is more than can be opened" in target.refused_video("a.mp4")


def test_a_video_that_takes_for_ever_is_given_up(tmp_path: Path) -> None:
    """A hundred kilobytes of one still frame decode for hours: the first seconds are looked at, for so long."""
    path = write_video(tmp_path / "a.mp4", [0] * 4000, rate=1000)
    hasty = Decoder(num_children=1, video_cpu_s=0.05)
    try:
        assert hasty.problem("video", path.read_bytes(), fit=Fit(0, 0, 5, 1.0)) == ("time", "0.05 s")
        with pytest.raises(Undecodable) as raised:
            list(hasty.frames(path, Fit(512, 512, 5, 1.0)))
        assert raised.value.args == ("time", "0.05 s")
    finally:
        hasty.close()


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits are Linux's")
def test_a_decoder_of_videos_that_crashes_hangs_or_grows_costs_its_clip(spoilt: Path) -> None:
    """While planning a bad row, on a node a clip that fails: neither the planner nor the replica dies of it."""
    asked = Decoder(num_children=1, video_cpu_s=1.0)
    fit = Fit(4, 4, 5, 8.0)
    found = {}
    try:
        for what in (b"segfault", b"abort", b"exit", b"spin", b"memory"):
            planned = asked.problem("video", what, fit=Fit(0, 0, 5, 8.0))
            (spoilt / "a.mp4").write_bytes(what)
            with pytest.raises(Undecodable) as raised:
                list(asked.frames(spoilt / "a.mp4", fit))
            found[what.decode()] = planned, raised.value.args
        (spoilt / "a.mp4").write_bytes(b"good")
        assert len(list(asked.frames(spoilt / "a.mp4", fit))) == 1
    finally:
        asked.close()
    assert found == {
        "segfault": (("crash", "SIGSEGV"), ("crash", "SIGSEGV")),
        "abort": (("crash", "SIGABRT"), ("crash", "SIGABRT")),
        "exit": (("crash", "exit code 0"), ("crash", "exit code 0")),
        "spin": (("time", "1 s"), ("time", "1 s")),
        "memory": (("memory", ""), ("memory", "")),
    }


# -- sounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.mp3",
        "https://169.254.169.254/a.mp3",
        "http://example.com/a.mp3",
        "~/a.mp3",
        "out.mp3",
    ],
)
def test_sounds_pass_the_same_door(target: Target, name: str) -> None:
    os.symlink("/etc/passwd", target.folder / "out.mp3")
    assert "voice: " in target.refused_voice(name)


@pytest.mark.parametrize("name", ["a.m3u8", "a.ffconcat", "a.sdp", "a.mp3", "a.m4a", "a.mid"])
def test_playlists_and_rare_formats_are_not_opened_as_sound(target: Target, name: str) -> None:
    """ffmpeg is told the format that the bytes say, so that it looks for no other in them."""
    content = {
        "a.m3u8": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST",
        "a.ffconcat": b"ffconcat version 1.0\nfile /etc/passwd",
        "a.sdp": b"v=0\no=- 0 0 IN IP4 169.254.169.254\nm=audio 80 RTP/AVP 96",
        "a.mp3": b"ID3#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST",
        "a.m4a": b"#EXTftyp\nfile:///etc/passwd",
        "a.mid": b"MThd\0\0\0\6",
    }[name]
    (target.folder / name).write_bytes(content)
    assert re.search("is no sound file that can be read|is broken or cut off", target.refused_voice(name))


def test_a_sound_larger_than_the_limit_is_not_read(target: Target) -> None:
    with (target.folder / "large.mp3").open("wb") as file:
        file.truncate(2**40)
    assert "larger than" in target.refused_voice("large.mp3")


def test_a_sound_that_takes_for_ever_is_given_up(tmp_path: Path) -> None:
    """64 MiB of Opus are hours."""
    data = write_sound(tmp_path / "a.flac", tone(120.0)).read_bytes()
    hasty = Decoder(num_children=1, cpu_s=0.02)
    try:
        with pytest.raises(Undecodable) as caught:
            hasty.heard(data)
        assert caught.value.args == ("time", "0.02 s")
    finally:
        hasty.close()
