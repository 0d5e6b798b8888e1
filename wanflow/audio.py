"""Sound files: which are read, told apart by their bytes and never by their names. Standard library only: the process
that checks them while planning and the assembly that plays them read the same."""

from __future__ import annotations

#: what a job may name, in words
FORMATS = "MP3, WAV, FLAC, M4A, AAC, Ogg, WebM or AIFF"
#: what ffmpeg may decode of them
CODECS = (
    "aac", "alac", "flac", "libopus", "libvorbis", "mp3", "mp3float", "opus", "pcm_f32le", "pcm_s16be", "pcm_s16le",
    "pcm_s24be", "pcm_s24le", "pcm_s32le", "pcm_u8", "vorbis",
)  # fmt: skip
#: as many bytes say what a file is
HEAD_BYTES = 12


def demuxer(head: bytes) -> str:
    """ffmpeg's name of the format of a file that begins with ``head``; empty when it is none that is read."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] == b"ftyp":
        return "mov"
    for magic, name in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1aE\xdf\xa3", "matroska"), (b"ID3", "mp3")):
        if head.startswith(magic):
            return name
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # the mark in front of each frame
        return "aac" if head[1] & 0xF6 == 0xF0 else "mp3"
    return ""
