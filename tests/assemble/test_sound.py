"""Voices and music with the real ffmpeg: what is asked for is what can be measured in the finished file."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.assemble.conftest import FPS, NUM_FRAMES, Frames, Studio, moving, read_frames
from tests.sounds import Samples, level_db, read_sound, speech, tone, write_sound
from wanflow.assemble import assemble, ffmpeg, graph, sound
from wanflow.audio import demuxer
from wanflow.decoder import decoder
from wanflow.errors import AssembleError
from wanflow.model import Music, Output, OutputFile, Scene, TextLayer, Variant, Voice
from wanflow.model import Placement as At
from wanflow.quality import check_file

CLIP_S = NUM_FRAMES / FPS


@dataclass
class Desk:
    """A studio with sound: ``mix`` makes a video of scenes, each with a voice or none."""

    studio: Studio
    output: Output

    def voice(
        self, name: str, samples: Samples, start_s: float = 0.0, rate: int = 48_000, **more: object
    ) -> Voice:
        path = write_sound(self.studio.folder / name, samples, rate)
        return Voice(self.studio.file(path), len(samples) / rate, start_s, **more)  # type: ignore[arg-type]

    def music(self, name: str, samples: Samples, channels: int = 2, **more: object) -> Music:
        path = write_sound(self.studio.folder / name, samples, channels=channels)
        return Music(self.studio.file(path), len(samples) / 48_000, **more)  # type: ignore[arg-type]

    def variant(
        self, voices: Sequence[Voice | None], music: Music | None = None, loudness: float = -14.0
    ) -> Variant:
        clip = self.studio.clip("m")
        scenes = tuple(Scene(((self.output.aspect, clip),), voice=voice) for voice in voices)
        return Variant("anna", 1, scenes, ((self.output, "v.mp4"),), music=music, loudness=loudness)

    def mix(
        self, voices: Sequence[Voice | None], music: Music | None = None, loudness: float = -14.0
    ) -> Path:
        return self.make(self.variant(voices, music, loudness))

    def make(self, variant: Variant, name: str = "out") -> Path:
        file = OutputFile(self.output, "v.mp4", "key", ("m",) * len(variant.scenes))
        made = assemble(variant, file, self.studio.masters, self.studio.sources, self.studio.folder / name)
        seconds = [scene.seconds(self.output.aspect) for scene in variant.scenes]
        masters = [self.studio.masters["m"]] * len(variant.scenes)
        check_file(made.files["video"], self.output, seconds, masters, has_sound=variant.has_sound)
        return made.files["video"]


@pytest.fixture
def desk(studio: Studio, story: Output) -> Desk:
    return Desk(studio, story)


def loudness(path: Path) -> tuple[float, float]:
    """Integrated loudness (LUFS) and true peak (dB), measured apart from what was built."""
    said = ffmpeg.run(
        [*graph.QUIET, "-i", str(path), "-af", "ebur128=peak=true:framelog=verbose", "-f", "null", "-"],
        timeout_s=60,
    )
    return float(re.findall(r"I: +(\S+) LUFS", said)[-1]), float(re.findall(r"Peak: +(\S+) dBFS", said)[-1])


def bar(frames: Frames) -> list[int]:
    """Where the bright bar of each frame is."""
    return [int((frame[200, :, 0] > 150).nonzero()[0].mean()) for frame in frames]


@pytest.mark.parametrize("peak", [0.1, 0.9])
@pytest.mark.parametrize("target", [-14.0, -23.0])
def test_soft_and_loud_voices_end_equally_loud(desk: Desk, peak: float, target: float) -> None:
    """Twenty thousand voices from three studios: nobody reaches for the volume between two of them."""
    voice = desk.voice("anna.wav", speech(8.0, peak), extend="hold")
    measured, true_peak = loudness(desk.mix([voice], loudness=target))
    assert measured == pytest.approx(target, abs=1.0)
    assert true_peak < -0.9, "services clip what is above -1 dB"


def test_music_alone_is_as_loud_as_a_voice_would_be(desk: Desk) -> None:
    measured, _ = loudness(desk.mix([None] * 4, desk.music("bed.wav", tone(9.0, peak=0.02), fade_out_s=0.0)))
    assert measured == pytest.approx(-14.0, abs=0.5)


def test_music_is_measured_where_it_is_heard(desk: Desk) -> None:
    """A track with a quiet first minute, of which an ad takes four seconds."""
    quiet_then_loud = np.concatenate([tone(6.0, peak=0.01), tone(20.0, peak=0.7)])
    measured, _ = loudness(desk.mix([None] * 4, desk.music("bed.wav", quiet_then_loud, fade_out_s=0.0)))
    assert measured == pytest.approx(-14.0, abs=0.5)


def test_a_voice_is_heard_in_its_scene_from_its_moment_on(desk: Desk) -> None:
    samples = read_sound(desk.mix([None, desk.voice("anna.wav", tone(0.5), start_s=0.25), None]))
    begin_s = CLIP_S + 0.25
    assert level_db(samples, 0.1, begin_s - 0.1) < -60
    assert level_db(samples, begin_s + 0.05, begin_s + 0.45) > -20
    assert level_db(samples, begin_s + 0.6, 3 * CLIP_S - 0.05) < -60


def test_two_scenes_may_have_the_same_voice(desk: Desk) -> None:
    """ffmpeg-python takes equal inputs for one."""
    voice = desk.voice("anna.wav", tone(0.5))
    samples = read_sound(desk.mix([voice, voice]))
    assert level_db(samples, 0.05, 0.45) > -20
    assert level_db(samples, CLIP_S + 0.05, CLIP_S + 0.45) > -20
    assert level_db(samples, 0.6, CLIP_S - 0.1) < -60


def test_music_gives_way_to_a_voice_by_as_many_decibels_as_asked(desk: Desk) -> None:
    """Words that cannot be understood over the music are why an ad is skipped."""
    voice = desk.voice("anna.wav", tone(2.0, 2000, peak=0.01), start_s=2.0, volume_db=-60.0, extend="hold")
    bed = desk.music("bed.wav", tone(8.0, 200), duck_db=20.0, fade_out_s=0.0)
    samples = read_sound(desk.mix([voice, None, None], bed))
    before, under = level_db(samples, 0.2, 1.5), level_db(samples, 2.2, 3.8)
    after = level_db(samples, 4.5, 6.0)
    assert before - under == pytest.approx(20, abs=0.5)
    assert after == pytest.approx(before, abs=0.5)


def test_music_gives_way_in_as_many_scenes_as_a_video_may_have(desk: Desk) -> None:
    """ffmpeg's parser goes 90 deep, and a video may have a hundred scenes."""
    voice = sound.Speech(Path("v"), "wav", 1.0, 2.0, 0.0)
    bed = sound.Bed(Path("b"), "wav", 0.0, 15.0, 0.0, False, 0.0, 0.0)
    many = [replace(voice, path=Path(f"v{i}"), start_s=2.0 * i, end_s=2.0 * i + 1) for i in range(100)]
    expression = sound._ducked(many, bed.duck_db)
    depth = deepest = 0
    for char in expression:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    assert deepest < 20
    ffmpeg.run(
        [*graph.QUIET, "-f", "lavfi", "-i", "anullsrc=d=0.1", "-af", f"volume=volume='{expression}':eval=frame",
         "-f", "null", "-"], timeout_s=60,
    )  # fmt: skip


def test_short_music_begins_again_and_fades_out_at_the_end(desk: Desk) -> None:
    bed = desk.music("bed.wav", tone(1.5), fade_in_s=0.5, fade_out_s=1.0)
    samples = read_sound(desk.mix([None] * 4, bed))
    assert level_db(samples, 0.0, 0.1) < level_db(samples, 0.6, 1.0) - 6
    assert level_db(samples, 3.0, 3.3) == pytest.approx(level_db(samples, 0.8, 1.1), abs=0.5)
    assert level_db(samples, 4.35, 4.45) < level_db(samples, 3.0, 3.3) - 10


def test_the_beginning_of_music_is_left_out(desk: Desk) -> None:
    low_then_high = np.concatenate([tone(1.0, 200), tone(4.0, 4000)])
    samples = read_sound(desk.mix([None, None], desk.music("bed.wav", low_then_high, skip_s=1.0)))
    spectrum = np.abs(np.fft.rfft(samples[4800:43200]))
    assert np.fft.rfftfreq(38400, 1 / 48_000)[spectrum.argmax()] == pytest.approx(4000, abs=10)


def test_a_constant_offset_is_taken_out(desk: Desk) -> None:
    """Of a bad sound card: no meter hears it, the limiter does, and the soft voice on it would be pressed flat."""
    voice = desk.voice("anna.wav", speech(8.0, 0.06) + 0.03, extend="hold")
    path = desk.mix([voice])
    assert loudness(path)[0] == pytest.approx(-14.0, abs=1.0)
    assert abs(read_sound(path).mean()) < 0.003


@pytest.mark.parametrize("fps", [10.0, 24.0, 29.97])
def test_sound_lasts_as_long_as_the_pictures(desk: Desk, fps: float) -> None:
    """ffmpeg 5 ended the sound with the last picture that it was asked for, up to two tenths of a second early."""
    desk.output = replace(desk.output, fps=fps)
    samples = read_sound(desk.mix([None] * 3, desk.music("bed.wav", tone(9.0), fade_out_s=0.0)))
    frames = 3 * round(CLIP_S * fps)
    assert len(samples) / 48_000 == pytest.approx(frames / fps, abs=0.03)
    assert level_db(samples, frames / fps - 0.05, frames / fps) > -20


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a.flac", "a.ogg", "a.webm"])
def test_every_format_is_heard(desk: Desk, name: str) -> None:
    samples = read_sound(desk.mix([desk.voice(name, tone(1.0))]))
    assert level_db(samples, 0.2, 0.8) == pytest.approx(-17, abs=3)


def test_a_telephone_s_mono_becomes_stereo_at_48_khz(desk: Desk) -> None:
    import av

    path = desk.mix([desk.voice("a.wav", tone(1.0, rate=8000), rate=8000)])
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == ("aac", 48_000, 2)


def test_a_voice_longer_than_its_clip_holds_the_last_frame(desk: Desk) -> None:
    """Twelve seconds of narration over a slide whose clip has five."""
    voice = desk.voice("anna.wav", tone(3.0), extend="hold")
    frames = read_frames(desk.mix([voice, None]))
    places = bar(frames)
    assert len(frames) == 24 + NUM_FRAMES
    assert places[:NUM_FRAMES] == places[24:], "the clip itself, in both scenes"
    assert max(places[NUM_FRAMES:24]) - min(places[NUM_FRAMES:24]) <= 1
    assert places[NUM_FRAMES] == pytest.approx(places[NUM_FRAMES - 1], abs=1)


def test_a_voice_longer_than_its_clip_may_run_it_back_and_forth(desk: Desk) -> None:
    """A calm backdrop: no frame twice in a row, no jump."""
    voice = desk.voice("anna.wav", tone(3.5), extend="boomerang")
    places = bar(read_frames(desk.mix([voice])))
    there = places[:NUM_FRAMES]
    expected = [*there, *there[-2:0:-1], *there, *there[-2:0:-1]][: len(places)]
    assert len(places) == 28
    assert places == pytest.approx(expected, abs=1)


def test_words_over_an_extended_scene_stay_to_its_end(desk: Desk) -> None:
    voice = desk.voice("anna.wav", tone(3.0), extend="hold")
    plain = desk.variant([voice])
    [scene] = plain.scenes
    titled = replace(plain, scenes=(replace(scene, layers=(TextLayer("Run", At("center")),)),))
    with_words, without = (read_frames(desk.make(each, name)) for each, name in ((titled, "a"), (plain, "b")))
    assert np.abs(with_words[-1].astype(int) - without[-1].astype(int)).max() > 100


def test_the_same_sound_gives_the_same_bytes(desk: Desk) -> None:
    variant = desk.variant([desk.voice("a.mp3", speech(1.0)), None], desk.music("bed.ogg", tone(1.5)))
    assert desk.make(variant, "a").read_bytes() == desk.make(variant, "b").read_bytes()


def test_a_video_without_sound_has_no_sound_stream(desk: Desk) -> None:
    import av

    with av.open(str(desk.mix([None]))) as container:
        assert not container.streams.audio


def test_what_is_checked_is_what_is_played(desk: Desk) -> None:
    """The first of two tracks, from its first sample on, although its timestamps begin late."""
    path = desk.studio.folder / "a.mp4"
    for name, hertz, seconds in (("one", 500, 0.8), ("two", 3000, 1.0)):
        write_sound(desk.studio.folder / f"{name}.wav", tone(seconds, hertz))
    parts = [
        part
        for name in ("one", "two")
        for part in ("-itsoffset", "0.4", "-i", str(desk.studio.folder / f"{name}.wav"))
    ]
    maps = [
        "-map",
        "0:a",
        "-map",
        "1:a",
        "-disposition:a:0",
        "0",
        "-disposition:a:1",
        "default",
        "-c:a",
        "aac",
    ]
    ffmpeg.run(["-y", *parts, *maps, str(path)], timeout_s=60)
    heard = decoder.heard(path.read_bytes())
    assert heard.seconds == pytest.approx(0.8, abs=0.06)
    samples = read_sound(desk.mix([Voice(desk.studio.file(path), heard.seconds)]))
    spectrum = np.abs(np.fft.rfft(samples[4800:33600]))
    assert np.fft.rfftfreq(28800, 1 / 48_000)[spectrum.argmax()] == pytest.approx(500, abs=5)
    assert level_db(samples, 0.1, 0.7) > -20


def test_a_missing_sound_is_told_by_its_name(desk: Desk) -> None:
    variant = desk.variant([desk.voice("anna.wav", tone(0.5))])
    desk.studio.sources.clear()
    with pytest.raises(AssembleError, match=r"variant anna, output story: the sound anna\.wav is not here"):
        desk.make(variant)


def test_a_sound_is_read_as_what_its_bytes_say(desk: Desk) -> None:
    """A playlist called .mp3 would make ffmpeg open other files: it is given the format, and guesses nothing."""
    voice = desk.voice("a.wav", tone(0.5))
    path = desk.studio.sources[voice.source.digest]
    path.write_bytes(b"ID3" + b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n" * 9)
    with pytest.raises(AssembleError):
        desk.mix([voice])


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"RIFF\0\0\0\0WAVE", "wav"), (b"RIFF\0\0\0\0WEBP", ""), (b"fLaC", "flac"), (b"OggS", "ogg"),
        (b"RF64\0\0\0\0WAVE", "wav"), (b"ID3\4" + bytes(9), "mp3"), (b"ID3\4" + bytes(6) + b"fLaC", "flac"),
        (b"ID3\4" + bytes(5) + b"\2--\xff\xf1", "aac"),
        (b"\xff\xfb\x90", "mp3"), (b"\xff\xf1\x50", "aac"), (b"\0\0\0\x20ftypM4A ", "mov"),
        (b"\x1aE\xdf\xa3", "matroska"), (b"FORM\0\0\0\0AIFF", "aiff"), (b"#EXTM3U", ""), (b"", ""), (b"\xff", ""),
    ],
)  # fmt: skip
def test_formats_are_known_by_their_bytes(head: bytes, name: str) -> None:
    assert demuxer(io.BytesIO(head)) == name


def test_the_moving_master_is_seen_whatever_is_heard(desk: Desk) -> None:
    assert len(set(bar(moving(72, 400)))) > 5, "the studio's clip moves, or the tests above see nothing"
