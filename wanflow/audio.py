"""Sound files: which are read, told apart by their bytes and never by their names. Standard library only: the process
that checks them while planning and the assembly that plays them read the same."""

from __future__ import annotations

from typing import IO, NamedTuple

#: what a job may name, in words
FORMATS = "MP3, WAV, FLAC, M4A, AAC, Ogg, WebM or AIFF"
#: what ffmpeg may decode of them
CODECS = (
    "aac", "alac", "flac", "libopus", "libvorbis", "mp3", "mp3float", "opus", "pcm_alaw", "pcm_f32le", "pcm_f64le",
    "pcm_mulaw", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le", "pcm_u8", "vorbis",
)  # fmt: skip
_MAGIC = ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1aE\xdf\xa3", "matroska"))


class Heard(NamedTuple):
    """What is known of a sound from its bytes."""

    seconds: float
    #: at its beginning, until something can be heard
    silence_s: float = 0.0


def demuxer(file: IO[bytes]) -> str:
    """ffmpeg's name of the format of ``file``; empty when it is none that is read."""
    file.seek(0)
    head = file.read(12)
    is_tagged = head[:3] == b"ID3" and len(head) >= 10
    if is_tagged:  # MP3 most often, but others are tagged so, too
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        file.seek(10 + size)
        head = file.read(12)
    file.seek(0)
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] == b"ftyp":
        return "mov"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # the mark in front of each frame
        return "aac" if head[1] & 0xF6 == 0xF0 else "mp3"
    return "mp3" if is_tagged else ""
