"""The sections of a job file: what may be written where, and what each field means.

Every field carries its description, because ``wanflow schema job`` and the error messages show it. Values are checked
one by one here; what concerns several sections is checked by :class:`wanflow.job.Job`; what needs the manifest or a
checkpoint is checked by ``wanflow.manifest``.

Strings marked as templates are Jinja2 over the manifest's row. A number may be given as a template too; then it is
checked for every row instead of once.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from wanflow.errors import JobError
from wanflow.job.fields import (
    Aspects,
    BranchPoint,
    Checkpoint,
    Count,
    Name,
    Names,
    Networks,
    Number,
    Places,
    Ratio,
    Seconds,
    Section,
    Seed,
    Sizes,
    Strength,
    Template,
    TimeOfDay,
    Tolerance,
    Url,
    Value,
    Where,
)
from wanflow.job.loras import MAX_LORAS, LoraSection
from wanflow.job.profiles import FastSection, Profile, Turbo, profiled
from wanflow.model import CascadeStep, Mode, Output, Sampling
from wanflow.suggest import did_you_mean


def _replicas(value: object) -> object:
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    return {"min": value, "max": value} if isinstance(value, int) else value


def _checkpoints(value: object) -> object:
    return {"t2v": value, "i2v": value} if isinstance(value, str) else value


def _manifest(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


def _group(value: object) -> object:
    return {"by": value} if isinstance(value, str) else value


class GroupSection(Section):
    """Several rows, one video."""

    by: str = Field(
        description="Column whose value the rows of one video share; it is the video's `variant_id`."
    )
    order: str | None = Field(
        default=None,
        description="Column by which the scenes of a video are ordered, as numbers where all of them are; default: the"
        " table's order.",
    )


class ManifestSection(Section):
    """The table of what to make."""

    url: Url = Field(
        validation_alias=AliasChoices("url", "path"),
        description="A Parquet, CSV or JSONL file, a glob, or a directory (partitioned too); a path or any fsspec URL.",
    )
    rename: dict[str, str] = Field(default={}, description="Columns with other names: `ours: theirs`.")
    where: Where | None = Field(
        default=None, description="Which rows: `OPTED_IN = true and country in ('DE', 'AT')`."
    )
    group: Annotated[
        GroupSection | None, BeforeValidator(_group, json_schema_input_type=str | GroupSection | None)
    ] = Field(
        default=None,
        description="Rows are the scenes of one video: {by: LESSON, order: SLIDE}; a column's name alone is enough."
        " Null: a row is a video.",
    )
    mode: Literal["snapshot", "delta"] = Field(
        default="snapshot",
        description="snapshot: the rows are all there is. delta: rows to add to what was published.",
    )


class Checkpoints(Section):
    """One checkpoint a mode; a mode without one cannot be used by any row."""

    t2v: Checkpoint | None = Field(default=None, description="Checkpoint for text-to-video clips.")
    i2v: Checkpoint | None = Field(default=None, description="Checkpoint for clips that start from an image.")

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if not (self.t2v or self.i2v):
            raise ValueError("names no checkpoint; give t2v, i2v or both")
        return self


class EngineSection(Section):
    """The model, and how it samples. What is not given here is the checkpoint's own."""

    checkpoint: Annotated[
        Checkpoints, BeforeValidator(_checkpoints, json_schema_input_type=str | Checkpoints)
    ] = Field(
        description="`pocket`, a directory, a URL or a hub id in diffusers' layout; or {t2v: ..., i2v: ...}."
    )
    profile: Profile = Field(
        default="exact",
        description="exact: the model's own arithmetic. fast: guidance ends early, steps that change little are cut"
        " short. turbo: four steps without guidance, with distilled weights.",
    )
    fast: FastSection | None = Field(default=None, description="What the profile fast leaves out.")
    turbo: Turbo | None = Field(
        default=None,
        description="Weights of the profile turbo: {high: URL, low: URL}, a distilled LoRA an expert, or"
        " {distilled: true}; or {t2v: ..., i2v: ...}.",
    )
    compile: bool | None = Field(
        default=None,
        description="Compile the model's blocks: the same numbers but for rounding, sooner after a first minute."
        " Default: on GPUs, with the profiles fast and turbo; exact is never compiled.",
    )
    steps: Annotated[Count, Field(ge=1, le=1000)] | None = Field(default=None, description="Denoising steps.")
    guidance: Annotated[Number, Field(ge=0, le=100)] | None = Field(
        default=None, description="Classifier-free guidance of the high-noise expert; 1 is off."
    )
    guidance_low: Annotated[Number, Field(ge=0, le=100)] | None = Field(
        default=None, description="Guidance of the low-noise expert, where there is one."
    )
    flow_shift: Annotated[Number, Field(gt=0, le=100)] | None = Field(
        default=None, description="Shift of the noise schedule."
    )
    scheduler: Literal["unipc", "euler"] | None = Field(default=None, description="The sampler.")
    boundary: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None, description="Share of the schedule at which the low-noise expert takes over."
    )

    def checkpoints(self) -> dict[Mode, str]:
        """Mode to checkpoint. One for both modes appears twice; whether it can do both is in its own files."""
        urls = {Mode.T2V: self.checkpoint.t2v, Mode.I2V: self.checkpoint.i2v}
        return {mode: url for mode, url in urls.items() if url}

    def sampling(self, default: Sampling) -> Sampling:
        """``default`` (the checkpoint's) with what the job overrides."""
        names = ("steps", "guidance", "guidance_low", "flow_shift", "scheduler", "boundary")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return dataclasses.replace(profiled(default, self.profile, self.fast or FastSection()), **given)

    @model_validator(mode="after")
    def _settings_of_the_profile(self) -> Self:
        for name in ("fast", "turbo"):
            if getattr(self, name) is not None and self.profile != name:
                raise ValueError(
                    f"has settings of {name}, but the profile is {self.profile}; set profile: {name}"
                )
        if self.compile and self.profile == "exact":
            raise ValueError(
                "has compile: true, but the profile exact is never compiled (compiled code rounds otherwise);"
                " leave it out, or set profile: fast or turbo"
            )
        return self


class BranchSection(Section):
    """Clips that share their first steps: one composition, and many variants of it."""

    at: BranchPoint = Field(
        description="Where the clips part: `boundary` (where the low-noise expert takes over) or a share of the steps, "
        "0.6 or 60%."
    )
    on: Template = Field(
        description="Template of the prompt that the shared steps follow; rows for which it is the same share them."
    )


class ClipSection(Section):
    """What is generated: only these lines, the engine and the cascade cost GPU time."""

    prompt: Template | None = Field(default=None, description="Template. Default: the row's `prompt`.")
    negative_prompt: Template | None = Field(
        default=None, description="Template. Default: the row's `negative_prompt`, or none."
    )
    image: Template | None = Field(
        default=None,
        description="Template of the first frame's path or URL; empty: text-to-video. Default: the row's `image`.",
    )
    last_image: Template | None = Field(
        default=None,
        description="Template of the last frame's path or URL, beside the first's; for checkpoints that take one. "
        "Default: the row's `last_image`, or none.",
    )
    video: Template | None = Field(
        default=None,
        description="Template of the path or URL of a video that the clip is made from, in place of an image; empty: "
        "none. Default: the row's `video`, or none.",
    )
    strength: Strength = Field(
        default=0.8,
        description="How much of the video is drawn anew: the share of the engine's steps that are taken. 1: all.",
    )
    aspect: Aspects = Field(
        default=("16x9",), description="Ratios such as 16x9, one or a list. A row's `aspect` comes first."
    )
    seconds: Seconds = Field(
        default=None, description="Length; rounded to what the model can do. A row's `seconds` comes first."
    )
    num_frames: Annotated[Count, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="Length in frames, instead of seconds; must be one that the model can do."
    )
    size: Sizes = Field(
        default=None,
        description="Pixels such as 832x480 instead of the model's own for the aspect; or {16x9: 832x480, ...}.",
    )
    seed: Seed = Field(
        default=0, description="Seed of the noise, 0 or more. A row's `seed` comes first. Never random."
    )
    lora: Annotated[tuple[LoraSection, ...], Field(max_length=MAX_LORAS)] = Field(
        default=(), description="Low-rank weights that are added to the model's own, for all rows or by row."
    )

    branch: BranchSection | None = Field(
        default=None,
        description="Share the first steps between clips: {at: boundary, on: '{{ base_prompt }}'}.",
    )

    @model_validator(mode="after")
    def _one_length_and_size(self) -> Self:
        if self.seconds is not None and self.num_frames is not None:
            raise ValueError("has both seconds and num_frames; give one of them")
        if "" in (self.size or {}) and len(self.aspect) > 1:
            raise ValueError("one size for several aspects; write size: {16x9: 832x480, 9x16: 480x832}")
        return self


def _cascade_step(value: object) -> object:
    value = {value: {}} if isinstance(value, str) else value
    return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value


class CascadeSection(Section):
    """One step of the cascade; each has a result and a record of its own."""

    refine: dict[str, Value] | None = Field(
        default=None,
        description="Upscale, add noise to `strength`, denoise at the higher size: {scale: 2, strength: 0.3}. "
        "What is coarser than `color_radius` pixels keeps its colours.",
    )

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        if self.refine is None:
            raise ValueError("names no method; write `- refine: {scale: 2, strength: 0.3}`")
        return self

    def step(self) -> CascadeStep:
        return CascadeStep("refine", tuple(sorted((self.refine or {}).items())))


Cascade = Annotated[
    CascadeSection, BeforeValidator(_cascade_step, json_schema_input_type=Literal["refine"] | CascadeSection)
]


class OutputSection(Section):
    """One file of every variant with clips of its aspect. What is given beside the preset overrides it."""

    name: Name = Field(description="What `{{ output }}` says in publish.path.")
    preset: str = Field(default="preview", description="A preset's name, such as instagram-story.")
    from_: Ratio | None = Field(
        default=None,
        alias="from",
        description="Aspect of the clip that it is made from. Default: the preset's own.",
    )
    width: Annotated[Count, Field(ge=16, le=8192)] | None = Field(default=None, description="Pixels; even.")
    height: Annotated[Count, Field(ge=16, le=8192)] | None = Field(default=None, description="Pixels; even.")
    fps: Annotated[Number, Field(gt=0, le=240)] | None = Field(default=None, description="Frames a second.")
    crf: Annotated[Count, Field(ge=0, le=51)] | None = Field(
        default=None, description="Quality of H.264: less is better and larger."
    )
    fit: Literal["cover", "contain"] | None = Field(
        default=None, description="cover crops, contain adds bars."
    )
    interpolate: bool | None = Field(
        default=None, description="Interpolate motion up to `fps` instead of repeating frames."
    )
    poster: bool | None = Field(default=None, description="Also write a .jpg beside the video.")

    def source_aspect(self) -> str | None:
        """The aspect of the clips that it is made from; None: whatever aspect a row has."""
        from wanflow.assemble.presets import PRESETS

        return self.from_ or PRESETS[self.preset].aspect

    def resolve(self, aspect: str) -> Output:
        """The output made from clips of ``aspect``, every number filled in. JobError when it cannot be."""
        from wanflow.assemble.presets import resolve

        names = ("width", "height", "fps", "crf", "fit", "interpolate", "poster")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return resolve(self.preset, self.name, aspect, **given)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        from wanflow.assemble.presets import PRESETS

        if self.preset not in PRESETS:
            raise ValueError(f"there is no preset `{self.preset}`; {did_you_mean(self.preset, PRESETS)}")
        try:
            self.resolve(self.source_aspect() or "1x1")
        except JobError as exc:
            raise ValueError(str(exc).partition(": ")[2]) from None
        return self


class InputsSection(Section):
    """Where images, videos, sounds, fonts, LoRAs and subtitles may come from, whoever names them."""

    allow: Places | None = Field(
        default=None,
        description="Folders, URL prefixes and schemes: [./, s3://dwh/, https://cdn.example.com/]; nothing else is "
        "read. Default: the folders of job and manifest, s3://, gs://, abfs://, https://.",
    )
    networks: Networks = Field(
        default=(),
        description="Addresses that are not public and may yet be read from over http and https: 10.0.0.0/8.",
    )


class LimitsSection(Section):
    """When to give up, and what not to begin unasked."""

    max_failed: Tolerance = Field(
        default=0, description="Failed variants that still count as success: a number (3) or a share (0.5%)."
    )
    deadline: TimeOfDay = Field(
        default=None, description='Local time of day at which a run starts nothing more: "06:00".'
    )
    max_attempts: Annotated[Count, Field(ge=1, le=20)] = Field(
        default=3, description="Tries at one clip before it has failed."
    )
    max_load_minutes: Annotated[Number, Field(gt=0, le=1440)] = Field(
        default=60,
        description="How long a replica may load, once there is a machine for it, before it counts as hung; three times"
        " as long as the longest load of the run where that is more.",
    )
    max_changed: Tolerance | None = Field(
        default=None,
        description="Published variants that a run may replace or take away unasked: a number (500) or a share (20%).",
    )
    max_cost: Annotated[Number, Field(ge=0)] | None = Field(
        default=None,
        description="What a run may cost unasked, in the currency of resources.gpu_hour, as the plan expects it.",
    )

    def failures_allowed(self, num_variants: int) -> int:
        """How many of ``num_variants`` may fail."""
        return _share(self.max_failed, num_variants)

    def changes_allowed(self, num_published: int) -> int | None:
        """How many of ``num_published`` variants a run may change unasked; None: all."""
        return None if self.max_changed is None else _share(self.max_changed, num_published)


def _share(tolerance: int | str, whole: int) -> int:
    return tolerance if isinstance(tolerance, int) else int(whole * float(tolerance[:-1]) / 100 + 1e-9)


class PublishSection(Section):
    """Where the finished videos go."""

    url: Url = Field(description="The prefix of everything published: a path or any fsspec URL.")
    path: Template = Field(
        default="{{ variant_id }}/{{ output }}.mp4",
        description="Template of a file's path below url; must end with .mp4.",
    )
    carry: Names = Field(default=(), description="Columns that results and catalog repeat.")
    unpublish: bool = Field(
        default=False,
        description="Take away what the manifest (a snapshot) no longer asks for; false: only list it as retired.",
    )
    cache_control: str | None = Field(
        default=None, description="Cache-Control header of the published files."
    )


class Replicas(Section):
    """How many replicas may run."""

    min: Annotated[Count, Field(ge=0, le=10_000)] = Field(
        default=0,
        description="Kept to the end of a run, even when there is little left to do, unless another engine waits.",
    )
    max: Annotated[Count, Field(ge=1, le=10_000)] | None = Field(
        default=None,
        description="No more than these at once; on a cluster that grows, as many are asked for as there are clips."
        " Null: as many as there is room for.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class ResourcesSection(Section):
    """What a run may take."""

    replicas: Annotated[Replicas, BeforeValidator(_replicas, json_schema_input_type=int | Replicas)] = Field(
        default=Replicas(), description="A number, or {min: 0, max: 8}."
    )
    gpus_per_replica: Annotated[Number, Field(ge=0, le=64)] | None = Field(
        default=None, description="Null: one where the cluster has GPUs, else none."
    )
    recycle_after: Annotated[Count, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="Clips after which a replica is replaced by a fresh one. Null: only when its memory grows.",
    )
    gpu_hour: Annotated[Number, Field(ge=0)] | None = Field(
        default=None, description="Price of a GPU hour, for the plan and the results."
    )


Manifest = Annotated[
    ManifestSection, BeforeValidator(_manifest, json_schema_input_type=str | ManifestSection)
]
