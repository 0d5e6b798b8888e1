"""The job: the YAML file a user writes, read, checked and frozen.

:meth:`Job.load` reads a file, :meth:`Job.from_dict` takes the same as a mapping. Both find every problem at once and
raise one JobError that lists them. Paths are relative to the job file; those of the job itself (manifest, checkpoint,
publish.url, workspace) are absolute afterwards, those in templates are resolved for each row by ``wanflow.inputs``.

Knows neither the manifest's columns nor what a checkpoint can do: see ``wanflow.manifest``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from wanflow.allowed import Allowed, locate
from wanflow.errors import JobError
from wanflow.job.fields import BUILT_INS, Matrix, Name, OptionalText, Section
from wanflow.job.layers import LayerEntry
from wanflow.job.problems import describe
from wanflow.job.sections import (
    Cascade,
    ClipSection,
    EngineSection,
    InputsSection,
    LimitsSection,
    Manifest,
    OutputSection,
    PublishSection,
    ResourcesSection,
)
from wanflow.job.sound import SoundSection
from wanflow.job.text import MAX_BYTES, apply_sets, parse_yaml, substitute
from wanflow.model import CascadeStep
from wanflow.templates import compile_template, is_template

#: fields of ``clip`` that are a text, and whose place a column of the same name takes where the job says nothing
CLIP_TEXTS = ("prompt", "negative_prompt", "image", "last_image", "video")


class Job(Section):
    """What to make, of what, with which model, and where it goes."""

    wanflow: Literal[1] = Field(description="Version of the job file's format: 1.")
    name: Name = Field(description="Name of the job, in results and reports.")
    manifest: Manifest = Field(description="The table of what to make; a path alone is enough.")
    matrix: Matrix = Field(
        default={},
        description="Multiplies every row: {locale: [de, no]} makes two variants of a row; templates know `locale`.",
    )
    engine: EngineSection = Field(description="The model and how it samples.")
    clip: ClipSection = Field(default=ClipSection(), description="What is generated.")
    cascade: tuple[Cascade, ...] = Field(
        default=(), description="Upscale steps after the base clip, in order."
    )
    layers: tuple[LayerEntry, ...] = Field(default=(), description="What lies over the clip, lowest first.")
    sound: SoundSection | None = Field(default=None, description="What is heard. Default: nothing.")
    outputs: Annotated[tuple[OutputSection, ...], Field(min_length=1)] = Field(
        default=(OutputSection(name="video"),),
        description="The files of a variant: those that are made from its aspects.",
    )
    inputs: InputsSection = Field(
        default=InputsSection(),
        description="Where images, videos, sounds, fonts, LoRAs and subtitles may come from.",
    )
    limits: LimitsSection = Field(default=LimitsSection(), description="When to give up.")
    publish: PublishSection = Field(description="Where the finished videos go.")
    workspace: OptionalText = Field(
        default="",
        description="Prefix of clips, steps and runs; several jobs may share one. Default: <publish.url>/.wanflow.",
    )
    resources: ResourcesSection = Field(default=ResourcesSection(), description="What a run may take.")

    _directory: Path = PrivateAttr(default_factory=Path.cwd)
    _text: str = PrivateAttr(default="")

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], directory: str | Path = ".", *, source: str = "the job"
    ) -> Self:
        """The job that ``data`` says; relative paths are below ``directory``. JobError lists every problem."""
        return cls._build(data, Path(directory), json.dumps(data, indent=2, default=str), source)

    @classmethod
    def load(cls, path: str | Path, sets: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Self:
        """The job in the file ``path``, after each ``--set`` of ``sets`` (``a.b=c``) and with ``${VAR}`` from ``env``.

        ``env`` is the process's environment by default. Raises JobError that lists every problem with its dotted path.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:  # parse_yaml refuses what is longer
                text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise JobError(f"{path}: is not UTF-8 text; is it a job file?") from None
        except OSError as exc:
            raise JobError(
                f"{path}: cannot be read: {exc.strerror}; `wanflow init DIR` writes a job to start from"
            ) from None
        data = parse_yaml(text, str(path))
        if data is None:
            raise JobError(f"{path}: is empty; a job begins with `wanflow: 1`")
        data = substitute(apply_sets(data, sets), os.environ if env is None else env)
        return cls._build(data, path.absolute().parent, text, str(path))

    @classmethod
    def _build(cls, data: object, directory: Path, text: str, source: str) -> Self:
        if not isinstance(data, Mapping):
            raise JobError(f"{source}: is not a mapping; a job begins with `wanflow: 1`")
        directory = directory.absolute()
        try:
            job = cls.model_validate(dict(data), context={"directory": directory})
        except ValidationError as exc:
            lines = describe(exc, _schema())
            count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
            raise JobError("\n  ".join([f"{source} is not a valid job: {count}", *lines])) from None
        except (
            UnicodeEncodeError
        ) as exc:  # half of a character: JSON and YAML can write it, nobody can keep it
            half = f"U+{ord(exc.object[exc.start]):04X}"
            raise JobError(
                f"{source} is not a valid job: a text has {half} in it, which is half a character"
            ) from None
        job._directory = directory
        job._text = text
        return job

    @property
    def directory(self) -> Path:
        """Where relative paths begin."""
        return self._directory

    @property
    def text(self) -> str:
        """The job file as it was written, ``${VAR}`` unfilled (or the mapping as JSON, which is YAML too)."""
        return self._text

    def allowed(self) -> Allowed:
        """Which inputs may be read: ``inputs.allow``, or the default."""
        if self.inputs.allow is None:
            return Allowed.by_default(self.directory, self.manifest.url, self.inputs.networks)
        return Allowed(self.inputs.allow, self.directory, self.inputs.networks)

    def cascade_steps(self) -> tuple[CascadeStep, ...]:
        """The cascade as written; ``wanflow.cascade.check`` fills in a method's defaults."""
        return tuple(entry.step() for entry in self.cascade)

    def clip_templates(self) -> dict[str, str]:
        """Place (``clip.prompt``) to template, of everything that decides a clip."""
        return (
            {
                f"clip.{name}": value
                for name in (*CLIP_TEXTS, "strength", "seconds", "seed")
                if isinstance(value := getattr(self.clip, name), str)
            }
            | {f"clip.aspect.{i}": aspect for i, aspect in enumerate(self.clip.aspect)}
            | ({"clip.branch.on": self.clip.branch.on} if self.clip.branch else {})
            | {
                f"clip.lora.{i}.{name}": value
                for i, lora in enumerate(self.clip.lora)
                for name, value in (("url", lora.url), ("scale", lora.scale))
                if isinstance(value, str)
            }
        )

    def layer_templates(self) -> dict[str, str]:
        """Place (``layers.0.text.value``) to template, of everything that is laid over a clip."""
        return {
            f"layers.{i}.{layer.kind}.{name}": value
            for i, layer in enumerate(self.layers)
            for name, value in layer.body.model_dump(exclude_none=True).items()
        }

    def sound_templates(self) -> dict[str, str]:
        """Place (``sound.voice.url``) to template, of everything that is heard."""
        tracks = {"voice": self.sound.voice, "music": self.sound.music} if self.sound else {}
        return {f"sound.{name}.url": track.url for name, track in tracks.items() if track}

    def model_post_init(self, context: Any, /) -> None:
        object.__setattr__(self, "workspace", _workspace(self, context))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = list(_inconsistencies(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self


def load_job(path: str | Path, sets: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Job:
    """:meth:`Job.load`."""
    return Job.load(path, sets, env)


def job_schema() -> dict[str, Any]:
    """JSON Schema of the job file (draft 2020-12), for editors and other programs."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_schema(),
        "title": "wanflow job",
    }


@cache
def _schema() -> dict[str, Any]:
    return Job.model_json_schema(by_alias=True, mode="validation")


def _workspace(job: Job, context: Any) -> str:
    if not job.workspace:
        return f"{job.publish.url.rstrip('/')}/.wanflow"
    return locate(job.workspace, (context or {}).get("directory") or Path.cwd())


def _inconsistencies(job: Job) -> Iterator[str]:
    """What no section can see alone."""
    names = [output.name for output in job.outputs]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"outputs: two outputs are called `{name}`; give each a name of its own"
    path = job.publish.path
    needs = compile_template(path).names
    if len(names) > 1 and not needs & {"output", "aspect"}:
        yield f"publish.path: `{path}` is one path for {len(names)} outputs; put {{{{ output }}}} into it"
    if not is_template(path):
        yield f"publish.path: `{path}` is one path for all variants; put {{{{ variant_id }}}} into it"
    if job.limits.max_cost is not None and job.resources.gpu_hour is None:
        yield "limits.max_cost: needs a price; set resources.gpu_hour"
    if job.publish.unpublish and job.manifest.mode == "delta":
        yield "publish.unpublish: a delta takes nothing away; leave it out, or set manifest.mode: snapshot"
    if job.manifest.group and job.manifest.mode == "delta":
        yield (
            "manifest.group: a delta may have some scenes of a video and not the others, which would be lost; give "
            "whole tables (manifest.mode: snapshot), or leave group out"
        )
    workspace, url = job.workspace.rstrip("/"), job.publish.url.rstrip("/")
    if workspace == url:
        yield f"workspace: is the same as publish.url ({url}); leave it out, or give it a place of its own"


__all__ = ["BUILT_INS", "CLIP_TEXTS", "Job", "job_schema", "load_job"]
