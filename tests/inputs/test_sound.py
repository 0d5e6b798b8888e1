"""`sound`: who speaks in a scene and what plays under the video; what is wrong with it is said while planning."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.inputs.conftest import Case, job_dict
from tests.sounds import speech, tone, write_sound
from wanflow import decoder as decoder_module
from wanflow import inputs as inputs_module
from wanflow.errors import BadRow, InputError, JobError, ManifestError
from wanflow.inputs import RULES, Inputs
from wanflow.job import Job
from wanflow.memo import PATH, InputMemo
from wanflow.model import Music, Variant, Voice
from wanflow.parquet import dump_table, load_table
from wanflow.storage import Store, validators

#: clips of 17 frames at 8 a second: 2.125 s
ROW: dict[str, Any] = {"variant_id": "a", "prompt": "x", "voice": "one.mp3"}


@pytest.fixture
def sounds(case: Case) -> Case:
    write_sound(case.folder / "one.mp3", speech(1.0))
    write_sound(case.folder / "three.wav", speech(3.0))
    write_sound(case.folder / "bed.ogg", tone(4.0))
    write_sound(case.folder / "silent.wav", tone(1.0, peak=0.0))
    (case.folder / "text.mp3").write_text("hello")
    (case.folder / "cut.m4a").write_bytes(write_sound(case.folder / "a.m4a", speech(2.0)).read_bytes()[:900])
    return case


def _voice(item: Variant | BadRow) -> Voice | None:
    assert isinstance(item, Variant), item
    return item.scenes[0].voice


def test_a_row_names_its_voice_and_the_job_the_music(sounds: Case) -> None:
    sounds.rows([ROW, ROW | {"variant_id": "b", "voice": None}])
    first, second = sounds.variants(
        sound={
            "voice": {"url": "{{ voice }}", "start": 0.5, "volume": -3},
            "music": {"url": "bed.ogg", "duck": 20, "fade_out": 0},
            "loudness": -16,
        }
    )
    voice, music = _voice(first), first.music
    assert voice is not None
    assert music is not None
    assert (voice.source.url, voice.start_s, voice.volume_db, voice.extend) == (
        str(sounds.folder / "one.mp3"), 0.5, -3.0, "",
    )  # fmt: skip
    assert voice.seconds == pytest.approx(1.0, abs=0.06)
    assert music == Music(music.source, 4.0, duck_db=20.0, fade_out_s=0.0)
    assert (first.loudness, first.has_sound) == (-16.0, True)
    assert sorted(Path(source.url).name for source in first.sources) == ["bed.ogg", "one.mp3"]
    assert (_voice(second), second.music, second.has_sound) == (None, music, True)


def test_a_template_alone_is_enough_and_no_sound_is_the_default(sounds: Case) -> None:
    sounds.rows([ROW])
    [heard] = sounds.variants(sound={"voice": "{{ voice }}"})
    assert _voice(heard) is not None
    assert heard.loudness == -14.0
    [silent] = sounds.variants()
    assert (silent.has_sound, _voice(silent), silent.music) == (False, None, None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone.mp3", "gone.mp3: does not exist"),
        ("text.mp3", "text.mp3: is no sound file that can be read; use MP3, WAV, FLAC"),
        ("cut.m4a", "cut.m4a: is broken or cut off"),
        ("silent.wav", "silent.wav: is silent from beginning to end; is it the right file?"),
        (
            "three.wav",
            "voice: lasts 3.00 s, and its scene 2.12 s; make the clip longer (seconds), or let it wait for the voice "
            "(sound.voice.extend: hold or boomerang)",
        ),
    ],
)
def test_a_voice_that_cannot_be_used_is_a_bad_row(sounds: Case, name: str, reason: str) -> None:
    """The others are planned, and no GPU has been touched."""
    sounds.rows([ROW, ROW | {"variant_id": "b", "voice": name}])
    good, bad = sounds.read(sound={"voice": "{{ voice }}"})
    assert isinstance(good, Variant)
    assert isinstance(bad, BadRow)
    assert (bad.row, bad.variant_id) == (2, "b")
    assert bad.reason.startswith("voice: ")
    assert reason in bad.reason


def test_a_voice_that_starts_late_must_end_within_its_scene(sounds: Case) -> None:
    sounds.rows([ROW])
    [bad] = sounds.bad(sound={"voice": {"url": "{{ voice }}", "start": 1.5}})
    assert "lasts 1." in bad.reason
    assert "from 1.5 s on, and its scene 2.12 s" in bad.reason


def test_a_scene_may_wait_for_its_voice_and_so_do_its_layers(sounds: Case) -> None:
    """A layer that comes in behind the end of the clip is seen while the scene is held."""
    late = [{"text": {"value": "Now", "start": "{{ late }}"}}]
    sounds.rows([ROW | {"voice": "three.wav", "late": 2.5}, ROW | {"variant_id": "b", "late": 2.5}])
    long, bad = sounds.read(sound={"voice": {"url": "{{ voice }}", "extend": "hold"}}, layers=late)
    assert isinstance(long, Variant)
    assert long.scenes[0].seconds("16x9") == pytest.approx(3.0)
    assert isinstance(bad, BadRow)
    assert "2.5 s is not before the end of the clip (2.125 s)" in bad.reason
    sounds.rows([ROW | {"voice": "three.wav"}])
    constant = [{"text": {"value": "Now", "start": 2.5}}]
    sounds.variants(sound={"voice": {"url": "{{ voice }}", "extend": "hold"}}, layers=constant)


def test_a_voice_shorter_than_its_clip_does_not_shorten_it(sounds: Case) -> None:
    sounds.rows([ROW])
    [variant] = sounds.variants(sound={"voice": {"url": "{{ voice }}", "extend": "boomerang"}})
    assert variant.scenes[0].seconds("16x9") == 2.125


@pytest.mark.parametrize(
    ("sound", "words"),
    [
        ({"music": "gone.ogg"}, r"sound\.music: .*gone\.ogg: does not exist"),
        ({"voice": "three.wav"}, r"sound\.voice: lasts 3\.00 s, and its scene 2\.12 s"),
        (
            {"music": {"url": "bed.ogg", "skip": 5}},
            r"sound\.music: lasts 4\.00 s, and 5 s of it are to be left out",
        ),
    ],
)
def test_what_would_be_wrong_with_every_row_is_told_once(
    sounds: Case, sound: dict[str, Any], words: str
) -> None:
    sounds.rows([ROW, ROW | {"variant_id": "b"}])
    with pytest.raises(JobError, match=words):
        sounds.read(sound=sound)


@pytest.mark.parametrize(
    ("sound", "words"),
    [
        ({}, "has neither voice nor music"),
        ({"loudness": -14}, "has neither voice nor music"),
        ({"music": "a.mp3", "loudness": -3}, "sound.loudness"),
        ({"music": {"url": "a.mp3", "volum": 1}}, "did you mean"),
        ({"voice": {"url": "a.mp3", "extend": "loop"}}, "sound.voice.extend"),
        ({"voice": {"url": "{{ a.mp3"}}, "sound.voice.url"),
    ],
)
def test_what_is_wrong_with_the_job_is_told_with_its_key(
    case: Case, sound: dict[str, Any], words: str
) -> None:
    with pytest.raises(JobError, match="sound") as caught:
        Job.from_dict(job_dict(sound=sound), case.folder)
    assert words in str(caught.value)


def test_a_template_that_names_no_column_is_told_before_the_first_row(sounds: Case) -> None:
    sounds.rows([ROW])
    with pytest.raises(ManifestError, match=r"sound\.voice\.url.*voicee.*voice"):
        sounds.read(sound={"voice": "{{ voicee }}"})


def test_music_that_is_silent_where_it_would_be_heard_is_told(sounds: Case) -> None:
    """Most songs begin with a moment of silence, and an ad has two seconds of them."""
    write_sound(sounds.folder / "late.wav", np.concatenate([tone(3.0, peak=0.0), tone(3.0)]))
    sounds.rows([ROW | {"bed": "late.wav"}])
    [bad] = sounds.bad(sound={"music": "{{ bed }}"})
    assert bad.reason == (
        "music: begins with 3.00 s of silence, and its scene lasts 2.12 s; leave them out (sound.music.skip)"
    )
    sounds.variants(sound={"music": {"url": "{{ bed }}", "skip": 3}})


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("a.mp3", lambda data: data + bytes(5000)),
        ("a.mp3", lambda data: data + b"TAG" + b"x" * 125),
        ("a.mp3", lambda data: data + b"<html>" * 40),
        ("a.mp3", lambda data: data[:-100]),
        ("a.flac", lambda data: b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + data),
        ("a.wav", lambda data: data + b"junk"),
    ],
)
def test_what_every_player_plays_is_taken(sounds: Case, name: str, spoil: Callable[[bytes], bytes]) -> None:
    data = write_sound(sounds.folder / name, speech(2.0)).read_bytes()
    (sounds.folder / name).write_bytes(spoil(data))
    _, heard = Inputs(sounds.folder).sound(name)
    assert heard.seconds == pytest.approx(2.0, abs=0.15)


def test_two_recordings_joined_into_one_file_are_told(sounds: Case) -> None:
    """Half of it would be played at the other's speed."""
    first = write_sound(sounds.folder / "a.mp3", speech(1.0)).read_bytes()
    second = write_sound(sounds.folder / "b.mp3", speech(1.0, rate=32_000), rate=32_000).read_bytes()
    (sounds.folder / "both.mp3").write_bytes(first + second)
    with pytest.raises(InputError, match="its rate or its channels change"):
        Inputs(sounds.folder).sound("both.mp3")


def test_a_codec_that_is_not_read_is_named(sounds: Case) -> None:
    with av.open(str(sounds.folder / "a.mkv"), "w") as container:
        stream = container.add_stream("ac3", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(
        InputError, match="has its sound in ac3, which is not read; save it as MP3, WAV or FLAC"
    ):
        Inputs(sounds.folder).sound("a.mkv")


def test_extend_is_nothing_to_voices_that_fit(sounds: Case) -> None:
    """It is asked for because of one row in twenty thousand: the others must not be made again."""
    sounds.rows([ROW])
    [plain] = sounds.variants(sound={"voice": "{{ voice }}"})
    [extended] = sounds.variants(sound={"voice": {"url": "{{ voice }}", "extend": "hold"}})
    assert plain == extended


def test_the_decoder_needs_no_thread(sounds: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may start none, and numpy's libraries would: an ordinary user's files would all be called harmful."""
    started: list[dict[str, str]] = []
    real = subprocess.Popen

    def watched(*given: Any, **named: Any) -> Any:
        started.append(named["env"])
        return real(*given, **named)

    monkeypatch.setattr(decoder_module.subprocess, "Popen", watched)
    fresh = decoder_module.Decoder(num_children=1)
    assert fresh.heard((sounds.folder / "three.wav").read_bytes()).seconds == 3.0
    fresh.close()
    assert [env["OPENBLAS_NUM_THREADS"] for env in started] == ["1"]


def test_a_sound_that_an_older_wanflow_noted_is_heard_again(
    sounds: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the memo without the column that it does not know; a voice of no length would vanish from its video."""
    monkeypatch.setattr(validators, "SETTLED_NS", 0)
    workspace = Store(str(sounds.folder / "workspace"))

    def night() -> float:
        memo = InputMemo.load(workspace, RULES)
        _, heard = Inputs(sounds.folder, memo=memo).sound("three.wav")
        memo.save(workspace)
        return heard.seconds

    assert night() == 3.0
    table = load_table(workspace.read(PATH))
    workspace.write(PATH, dump_table(table.drop_columns(["seconds", "silence_s"])))
    assert night() == 3.0
    assert load_table(workspace.read(PATH))["seconds"].to_pylist() == [3.0]


def test_an_unchanged_voice_is_not_read_again_and_its_length_is_known(
    sounds: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty thousand voices: the second night lists them."""
    monkeypatch.setattr(validators, "SETTLED_NS", 0)
    workspace = Store(str(sounds.folder / "workspace"))
    read: list[str] = []
    real = inputs_module._read
    monkeypatch.setattr(
        inputs_module, "_read", lambda place, *more: (read.append(place), real(place, *more))[1]
    )

    def night() -> tuple[str, float]:
        memo = InputMemo.load(workspace, RULES)
        source, heard = Inputs(sounds.folder, memo=memo).sound("three.wav")
        memo.save(workspace)
        return source.digest, heard.seconds

    assert night() == night()
    assert night()[1] == 3.0
    assert len(read) == 1


def test_voices_of_many_rows_are_read_at_once(sounds: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    real = Inputs.prefetch_sounds
    monkeypatch.setattr(
        Inputs, "prefetch_sounds", lambda self, urls: (asked.append(sorted(urls)), real(self, asked[-1]))[1]
    )
    sounds.rows([ROW, ROW | {"variant_id": "b", "voice": "a.m4a"}, ROW | {"variant_id": "c", "voice": ""}])
    sounds.variants(sound={"voice": {"url": "{{ voice }}"}, "music": "bed.ogg"})
    assert asked == [["", "a.m4a", "one.mp3"]]
