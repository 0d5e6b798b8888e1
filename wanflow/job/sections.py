"""The sections of a job file: what may be written where, and what each field means.

Every field carries its description, because ``wanflow schema job`` and the error messages show it. Values are checked
one by one here; what concerns several sections is checked by :class:`wanflow.job.Job`; what needs the manifest or a
checkpoint is checked by ``wanflow.manifest``.

Strings marked as templates are Jinja2 over the manifest's row. A number may be given as a template too; then it is
checked for every row instead of once.
"""

from __future__ import annotations

import dataclasses
import re
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic import WithJsonSchema, model_validator

from wanflow.inputs import locate
from wanflow.model import CascadeStep, Mode, Sampling
from wanflow.templates import check_template, is_template
from wanflow.where import parse_where

_RATIO = re.compile(r"[1-9]\d{0,3}x[1-9]\d{0,3}")
_SIZE = re.compile(r"[1-9]\d{1,4}x[1-9]\d{1,4}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHARE = re.compile(r"\d{1,3}(\.\d+)?%")


class Section(BaseModel):
    """A mapping of the job file. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_ratio(text: str) -> str:
    """``text`` when it is a ratio such as ``16x9``; ValueError with the right spelling otherwise."""
    if _RATIO.fullmatch(text):
        return text
    parts = re.fullmatch(r"\s*(\d+)\s*[:/xX*]\s*(\d+)\s*", text)
    hint = f"write {parts[1]}x{parts[2]}" if parts else "write it as 16x9, 9x16 or 1x1"
    raise ValueError(f"`{text}` is not a ratio of width to height; {hint}")


def check_size_text(text: str) -> tuple[int, int]:
    """``832x480`` as (832, 480); ValueError otherwise."""
    if not _SIZE.fullmatch(text):
        raise ValueError(f"`{text}` is not a size in pixels; write width x height as 832x480")
    width, height = text.split("x")
    return int(width), int(height)


def parse_seed(value: object) -> int:
    """A seed from a number or its text; ValueError unless it is a whole number from 0 to 2**63-1."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"`{value}` is not a whole number")
    try:
        number = int(value) if not isinstance(value, float) else _whole(value)
    except ValueError:
        raise ValueError(f"`{value}` is not a whole number") from None
    if number < 0:
        raise ValueError(f"{number} is negative; a seed is 0 or more")
    if number >= 2**63:
        raise ValueError(f"{number} is too large; a seed is below 2**63")
    return number


def parse_seconds(value: object) -> float:
    """A length in seconds from a number or its text; ValueError unless above 0 and at most 3600."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None:
        raise ValueError(f"`{value}` is not a number of seconds")
    if not 0 < number <= 3600:
        raise ValueError(f"{number:g} seconds is out of range; it is above 0 and at most 3600")
    return number


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ValueError
    return int(value)


def _or_template(parse: Any) -> BeforeValidator:
    """Check with ``parse`` now, or leave a template to be checked for every row."""

    def check(value: object) -> object:
        if value is None:
            return None
        if isinstance(value, str) and is_template(value):
            return check_template(value)
        return parse(value)

    return BeforeValidator(check, json_schema_input_type=float | str | None)


def _located(value: str, info: ValidationInfo) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return locate(value, _directory(info))


def _located_checkpoint(value: str, info: ValidationInfo) -> str:
    """A packaged name (``pocket``) and a hub id (``org/name``) stay; everything else is a path or a URL."""
    if not value.strip():
        raise ValueError("is empty")
    if value == "pocket" or "://" in value:
        return value
    path = locate(value, _directory(info))
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?", value) and not Path(path).exists():
        return value
    return path


def _directory(info: ValidationInfo) -> Path:
    return (info.context or {}).get("directory") or Path.cwd()


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"`{str(value).lower()}` is not a number")
    return value


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _scalar(value: object) -> object:
    if value is not None and not isinstance(value, str | int | float | bool):
        raise ValueError("must be one value (text, number, true or false), not a list or mapping")
    return value


def _aspect(value: str) -> str:
    return check_template(value) if is_template(value) else check_ratio(value)


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"`{value}` is not a name; use letters, digits, `-`, `_` and `.`, at most 100")
    return value


def _deadline(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", value):
        hour, minute = value.split(":")
        return time(int(hour), int(minute))
    if isinstance(value, time):
        return value
    raise ValueError(f'`{value}` is not a time of day; write it as "06:00"')


def _tolerance(value: object) -> object:
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and _SHARE.fullmatch(value) and float(value[:-1]) <= 100:
        return value
    raise ValueError(f"`{value}` is neither a number of variants nor a share; write 3 or 0.5%")


def _where(value: str) -> str:
    parse_where(value)
    return value


def _replicas(value: object) -> object:
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    return {"min": value, "max": value} if isinstance(value, int) else value


def _checkpoints(value: object) -> object:
    return {"t2v": value, "i2v": value} if isinstance(value, str) else value


def _manifest(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_name)]
Url = Annotated[str, AfterValidator(_located)]
Checkpoint = Annotated[str, AfterValidator(_located_checkpoint)]
Template = Annotated[str, AfterValidator(check_template)]
Count = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Value = Annotated[
    Any, BeforeValidator(_scalar), WithJsonSchema({"type": ["string", "number", "boolean", "null"]})
]
Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many, json_schema_input_type=str | list[str])]


class ManifestSection(Section):
    """The table of what to make."""

    url: Url = Field(
        validation_alias=AliasChoices("url", "path"),
        description="A Parquet, CSV or JSONL file, a glob, or a directory (partitioned too); a path or any fsspec URL.",
    )
    rename: dict[str, str] = Field({}, description="Columns with other names: `ours: theirs`.")
    where: Annotated[str, AfterValidator(_where)] | None = Field(
        None, description="Which rows: `OPTED_IN = true and country in ('DE', 'AT')`."
    )
    mode: Literal["snapshot", "delta"] = Field(
        "snapshot", description="snapshot: the rows are all there is. delta: rows to add to what was published."
    )


class Checkpoints(Section):
    """One checkpoint a mode; a mode without one cannot be used by any row."""

    t2v: Checkpoint | None = Field(None, description="Checkpoint for text-to-video clips.")
    i2v: Checkpoint | None = Field(None, description="Checkpoint for clips that start from an image.")

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if not (self.t2v or self.i2v):
            raise ValueError("names no checkpoint; give t2v, i2v or both")
        return self


class EngineSection(Section):
    """The model, and how it samples. What is not given here is the checkpoint's own."""

    checkpoint: Annotated[Checkpoints, BeforeValidator(_checkpoints, json_schema_input_type=str | Checkpoints)] = Field(
        description="`pocket`, a directory, a URL or a hub id in diffusers' layout; or {t2v: ..., i2v: ...}."
    )
    profile: Literal["exact", "fast", "turbo"] = Field(
        "exact", description="exact: the reference; fast and turbo trade quality for speed."
    )
    steps: Annotated[Count, Field(ge=1, le=1000)] | None = Field(None, description="Denoising steps.")
    guidance: Annotated[Number, Field(ge=0, le=100)] | None = Field(
        None, description="Classifier-free guidance of the high-noise expert; 1 is off."
    )
    guidance_low: Annotated[Number, Field(ge=0, le=100)] | None = Field(
        None, description="Guidance of the low-noise expert, where there is one."
    )
    flow_shift: Annotated[Number, Field(gt=0, le=100)] | None = Field(None, description="Shift of the noise schedule.")
    scheduler: Literal["unipc", "euler"] | None = Field(None, description="The sampler.")
    boundary: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None, description="Share of the schedule at which the low-noise expert takes over."
    )

    def checkpoints(self) -> dict[Mode, str]:
        """Mode to checkpoint. One checkpoint for both modes appears twice: whether it can do both is in its own files."""
        urls = {Mode.T2V: self.checkpoint.t2v, Mode.I2V: self.checkpoint.i2v}
        return {mode: url for mode, url in urls.items() if url}

    def sampling(self, default: Sampling) -> Sampling:
        """``default`` (the checkpoint's) with what the job overrides."""
        names = (field.name for field in dataclasses.fields(Sampling))
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return dataclasses.replace(default, **given)


class ClipSection(Section):
    """What is generated: only these lines, the engine and the cascade cost GPU time."""

    prompt: Template | None = Field(None, description="Template. Default: the row's `prompt`.")
    negative_prompt: Template | None = Field(None, description="Template. Default: the row's `negative_prompt`, or none.")
    image: Template | None = Field(
        None, description="Template of the first frame's path or URL; empty: text-to-video. Default: the row's `image`."
    )
    aspect: Annotated[
        tuple[Annotated[str, AfterValidator(_aspect)], ...],
        BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]),
        Field(min_length=1),
    ] = Field(("16x9",), description="Ratios such as 16x9, one or a list. A row's `aspect` comes first.")
    seconds: Annotated[float | str | None, _or_template(parse_seconds)] = Field(
        None, description="Length; rounded to what the model can do. A row's `seconds` comes first."
    )
    num_frames: Annotated[Count, Field(ge=1, le=10_000)] | None = Field(
        None, description="Length in frames, instead of seconds; must be one that the model can do."
    )
    size: str | dict[str, str] | None = Field(
        None, description="Pixels such as 832x480 instead of the model's own for the aspect; or {16x9: 832x480, ...}."
    )
    seed: Annotated[int | str, _or_template(parse_seed)] = Field(
        0, description="Seed of the noise, 0 or more. A row's `seed` comes first. Never random."
    )

    @model_validator(mode="after")
    def _one_length_and_size(self) -> Self:
        if self.seconds is not None and self.num_frames is not None:
            raise ValueError("has both seconds and num_frames; give one of them")
        if isinstance(self.size, str) and len(self.aspect) > 1:
            raise ValueError("one size for several aspects; write size: {16x9: 832x480, 9x16: 480x832}")
        for aspect, size in self.sizes().items():
            if aspect:
                check_ratio(aspect)
            check_size_text(size)
        return self

    def sizes(self) -> dict[str, str]:
        """Explicit sizes by aspect; under ``""`` the one for whatever aspect."""
        if self.size is None:
            return {}
        return {"": self.size} if isinstance(self.size, str) else dict(self.size)


def _cascade_step(value: object) -> object:
    value = {value: {}} if isinstance(value, str) else value
    return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value


class CascadeSection(Section):
    """One step of the cascade; each has a result and a record of its own."""

    refine: dict[str, Value] | None = Field(
        None, description="Upscale, add noise to `strength`, denoise at the higher size: {scale: 2, strength: 0.3}."
    )

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        if self.refine is None:
            raise ValueError("names no method; write `- refine: {scale: 2, strength: 0.3}`")
        return self

    def step(self) -> CascadeStep:
        return CascadeStep("refine", tuple(sorted((self.refine or {}).items())))


Cascade = Annotated[CascadeSection, BeforeValidator(_cascade_step, json_schema_input_type=Literal["refine"] | CascadeSection)]


class OutputSection(Section):
    """One file that every variant gets. What is given beside the preset overrides it."""

    name: Name = Field(description="What `{{ output }}` says in publish.path.")
    preset: str = Field("preview", description="A preset's name, such as instagram-story.")
    from_: Annotated[str, AfterValidator(check_ratio)] | None = Field(
        None, alias="from", description="Aspect of the clip that it is made from. Default: the preset's own."
    )
    width: Annotated[Count, Field(ge=16, le=8192)] | None = Field(None, description="Pixels; even.")
    height: Annotated[Count, Field(ge=16, le=8192)] | None = Field(None, description="Pixels; even.")
    fps: Annotated[Number, Field(gt=0, le=240)] | None = Field(None, description="Frames a second.")
    crf: Annotated[Count, Field(ge=0, le=51)] | None = Field(None, description="Quality of H.264: less is better and larger.")
    fit: Literal["cover", "contain"] | None = Field(None, description="cover crops, contain adds bars.")
    interpolate: bool | None = Field(None, description="Interpolate motion up to `fps` instead of repeating frames.")
    poster: bool | None = Field(None, description="Also write a .jpg beside the video.")

    def overrides(self) -> dict[str, Any]:
        """What the job says beside name, preset and source aspect."""
        names = ("width", "height", "fps", "crf", "fit", "interpolate", "poster")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class LimitsSection(Section):
    """When to give up."""

    max_failed: Annotated[int | str, BeforeValidator(_tolerance, json_schema_input_type=int | str)] = Field(
        0, description="Failed variants that still count as success: a number (3) or a share (0.5%)."
    )
    deadline: Annotated[
        time | None,
        BeforeValidator(
            lambda v: v if v is None else _deadline(v),
            json_schema_input_type=Annotated[str, Field(pattern=r"^([01]?\d|2[0-3]):[0-5]\d$")] | None,
        ),
    ] = Field(None, description='Local time of day at which a run starts nothing more: "06:00".')
    max_attempts: Annotated[Count, Field(ge=1, le=20)] = Field(3, description="Tries at one clip before it has failed.")

    def failures_allowed(self, num_variants: int) -> int:
        """How many of ``num_variants`` may fail."""
        if isinstance(self.max_failed, int):
            return self.max_failed
        return int(num_variants * float(self.max_failed[:-1]) / 100 + 1e-9)


class PublishSection(Section):
    """Where the finished videos go."""

    url: Url = Field(description="The prefix of everything published: a path or any fsspec URL.")
    path: Template = Field(
        "{{ variant_id }}/{{ output }}.mp4", description="Template of a file's path below url; must end with .mp4."
    )
    carry: Names = Field((), description="Columns that results and catalog repeat.")
    cache_control: str | None = Field(None, description="Cache-Control header of the published files.")


class Replicas(Section):
    """How many replicas may run."""

    min: Annotated[Count, Field(ge=0, le=10_000)] = Field(0, description="Kept even when there is little to do.")
    max: Annotated[Count, Field(ge=1, le=10_000)] | None = Field(None, description="Null: as many as there is room for.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class ResourcesSection(Section):
    """What a run may take."""

    replicas: Annotated[Replicas, BeforeValidator(_replicas, json_schema_input_type=int | Replicas)] = Field(
        Replicas(), description="A number, or {min: 0, max: 8}."
    )
    gpus_per_replica: Annotated[Number, Field(ge=0, le=64)] | None = Field(
        None, description="Null: one where the cluster has GPUs, else none."
    )
    gpu_hour: Annotated[Number, Field(ge=0)] | None = Field(None, description="Price of a GPU hour, for the plan and the results.")


Manifest = Annotated[ManifestSection, BeforeValidator(_manifest, json_schema_input_type=str | ManifestSection)]
