"""What is heard in a row's scene: the job's voice and music with the row's values in their URLs, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wanflow.audio import Heard
from wanflow.errors import InputError, JobError
from wanflow.inputs import Inputs
from wanflow.job import Job
from wanflow.model import DEFAULT_LOUDNESS, Music, Source, Voice
from wanflow.templates import Template, compile_template

#: by so much a voice may be longer than its scene: files of some formats end with a little that was never recorded
TOLERANCE_S = 0.05


class SoundMaker:
    """Makes the voice and the music of each row of a job; both are None where it has no ``sound``."""

    def __init__(self, job: Job, inputs: Inputs) -> None:
        self._inputs = inputs
        self._voice = job.sound.voice if job.sound else None
        self._music = job.sound.music if job.sound else None
        #: LUFS
        self.loudness = job.sound.loudness if job.sound else DEFAULT_LOUDNESS
        self._voice_url = compile_template(self._voice.url) if self._voice else None
        self._music_url = compile_template(self._music.url) if self._music else None

    @property
    def urls(self) -> tuple[Template | None, ...]:
        """For reading ahead."""
        return self._voice_url, self._music_url

    def longest_s(self, clip_s: float) -> float:
        """How long a scene can be whose clip lasts at most ``clip_s`` seconds."""
        return math.inf if self._voice and self._voice.extend else clip_s

    def check_constants(self, clip_s: float) -> None:
        """JobError when a file that no row decides is missing, broken, or too long for the longest clip, of ``clip_s``
        seconds."""
        try:
            if self._voice_url is not None and self._voice_url.constant is not None:
                self.voice({}, clip_s)
            if self._music_url is not None and self._music_url.constant is not None:
                self.music({})
        except ValueError as exc:
            raise JobError(f"sound.{exc}") from None

    def voice(self, values: Mapping[str, Any], clip_s: float) -> Voice | None:
        """Who speaks over clips of which the shortest lasts ``clip_s`` seconds. ValueError says why it cannot be."""
        if self._voice is None or self._voice_url is None:
            return None
        found = self._find("voice", self._voice_url, values)
        if found is None:
            return None
        source, heard = found
        given = self._voice
        voice = Voice(source, heard.seconds, given.start, given.volume)
        if voice.end_s <= clip_s + TOLERANCE_S:
            return voice
        if given.extend is None:
            starts = f" from {given.start:g} s on" if given.start else ""
            raise ValueError(
                f"voice: lasts {heard.seconds:.2f} s{starts}, and its scene {clip_s:.2f} s; make the clip longer "
                "(seconds), or let it wait for the voice (sound.voice.extend: hold or boomerang)"
            )
        return replace(voice, extend=given.extend)

    def music(self, values: Mapping[str, Any], scene_s: float = math.inf) -> Music | None:
        """What plays under the row's scene of ``scene_s`` seconds. ValueError says why it cannot be used."""
        if self._music is None or self._music_url is None:
            return None
        found = self._find("music", self._music_url, values)
        if found is None:
            return None
        source, heard = found
        given = self._music
        if given.skip >= heard.seconds:
            raise ValueError(
                f"music: lasts {heard.seconds:.2f} s, and {given.skip:g} s of it are to be left out (skip)"
            )
        if heard.silence_s >= given.skip + scene_s:
            raise ValueError(
                f"music: begins with {heard.silence_s:.2f} s of silence, and its scene lasts {scene_s:.2f} s; leave "
                "them out (sound.music.skip)"
            )
        return Music(
            source, heard.seconds, given.volume, given.duck, given.skip, given.fade_in, given.fade_out
        )

    def _find(self, place: str, template: Template, values: Mapping[str, Any]) -> tuple[Source, Heard] | None:
        """The file and what is heard; None when there is none."""
        try:
            url = template.render(values)
            return self._inputs.sound(url) if url.strip() else None
        except (ValueError, InputError) as exc:
            raise ValueError(f"{place}: {exc}") from None
