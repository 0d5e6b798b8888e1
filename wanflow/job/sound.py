"""The sound of a job's videos: a voice in each scene, music under all of it, and how loud it is."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from wanflow.job.fields import Number, Section, Template
from wanflow.model import DEFAULT_LOUDNESS

Volume = Annotated[Number, Field(ge=-60, le=20)]
Moment = Annotated[Number, Field(ge=0, le=3600)]


class VoiceSection(Section):
    """Someone who speaks."""

    url: Template = Field(description="Template of the sound file's path or URL. Empty: nobody speaks.")
    start: Moment = Field(default=0, description="Seconds into the scene.")
    volume: Volume = Field(
        default=0, description="dB above what brings the voice to the video's loudness; below: negative."
    )
    extend: Literal["hold", "boomerang"] | None = Field(
        default=None,
        description="What is seen where the voice is longer than the clip: hold, its last frame; boomerang, the clip"
        " backwards and forwards. Default: such a row is refused.",
    )


class MusicSection(Section):
    """Music under the whole video; a shorter file begins again."""

    url: Template = Field(description="Template of the sound file's path or URL. Empty: no music.")
    volume: Volume = Field(
        default=0, description="dB above what brings the music to the video's loudness; below: negative."
    )
    duck: Annotated[Number, Field(ge=0, le=60)] = Field(
        default=15, description="dB by which it is softer while someone speaks. WCAG asks for 20."
    )
    skip: Moment = Field(default=0, description="Seconds of the file that are left out at its beginning.")
    fade_in: Moment = Field(default=0, description="Seconds.")
    fade_out: Moment = Field(default=1, description="Seconds; half of the video at most.")


def _track(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class SoundSection(Section):
    """What is heard. A video for which both are empty has no sound."""

    voice: Annotated[
        VoiceSection | None, BeforeValidator(_track, json_schema_input_type=str | VoiceSection | None)
    ] = Field(default=None, description="Who speaks in a scene; a template alone is enough.")
    music: Annotated[
        MusicSection | None, BeforeValidator(_track, json_schema_input_type=str | MusicSection | None)
    ] = Field(default=None, description="Music under the video; a template alone is enough.")
    loudness: Annotated[Number, Field(ge=-36, le=-9)] = Field(
        default=DEFAULT_LOUDNESS,
        description="Integrated loudness of the video, LUFS. Streaming: -14, broadcast: -23.",
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.voice is None and self.music is None:
            raise ValueError("has neither voice nor music; give one of them, or leave sound out")
        return self
