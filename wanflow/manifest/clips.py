"""A row's clips: what is generated, in every number. Equal rows get the same Clip back, made once.

Sizes and lengths come from the engine's own rules (``wanflow.engines.spec``); each is worked out once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial

from wanflow.cascade import check as check_cascade
from wanflow.engines import branch_steps, last_steps
from wanflow.engines.spec import check_frames, check_last_image, check_size, frames_for, size_for
from wanflow.errors import EngineError, InputError, JobError
from wanflow.inputs import Inputs
from wanflow.job import CLIP_TEXTS, Job
from wanflow.job.fields import check_size_text, parse_seconds, parse_seed, parse_strength
from wanflow.manifest.loras import LoraMaker
from wanflow.manifest.prompts import clean_prompt
from wanflow.manifest.values import is_null
from wanflow.model import Branch, Clip, EngineSpec, Lora, Mode, Source, SourceVideo
from wanflow.templates import Template, compile_template

#: distinct clips that are remembered; a job with more is slower, not wrong
MAX_REMEMBERED = 100_000


def _engine_error(attempt: Callable[[Mode], object], mode: Mode) -> str:
    try:
        attempt(mode)
    except EngineError as exc:
        return str(exc)
    return ""


def default_templates(columns: frozenset[str]) -> dict[str, str]:
    """What the job's clip says where it says nothing: the row's own column, or nothing."""
    return {f"clip.{name}": f"{{{{ {name} }}}}" if name in columns else "" for name in CLIP_TEXTS}


class ClipMaker:
    """Makes the clips of one job; raises EngineError at once when an engine cannot do the job's cascade or branch."""

    def __init__(
        self, job: Job, engines: Mapping[Mode, EngineSpec], inputs: Inputs, columns: frozenset[str]
    ) -> None:
        self._job = job
        self._inputs = inputs
        self._engines = {mode: spec for mode, spec in engines.items() if mode in spec.modes}
        self._samplings = {
            spec.weights: job.engine.sampling(spec.sampling) for spec in self._engines.values()
        }
        #: of each checkpoint, the steps of the trunk; nothing where the job has no branch
        self._branch_steps: dict[str, int] = {}
        if job.clip.branch is not None:
            at = job.clip.branch.at
            self._branch_steps = {
                spec.weights: branch_steps(spec, self._samplings[spec.weights], at)
                for spec in self._engines.values()
            }
        self._cascades = {
            spec.weights: tuple(check_cascade(step, self._sampled(spec)) for step in job.cascade_steps())
            for spec in self._engines.values()
        }
        self._loras = LoraMaker(job, self._engines, inputs)
        given = {**default_templates(columns), **job.clip_templates()}
        texts = (*CLIP_TEXTS, "branch.on") if job.clip.branch else CLIP_TEXTS
        self._templates = {name: compile_template(given[f"clip.{name}"]) for name in texts}
        self._seed, self._seconds, self._strength = (
            compile_template(value) if isinstance(value, str) else value
            for value in (job.clip.seed, job.clip.seconds, job.clip.strength)
        )
        self._aspects = [compile_template(text) for text in job.clip.aspect]
        self._constant_aspects = (
            job.clip.aspect if all(t.constant is not None for t in self._aspects) else None
        )
        #: a template that gives nothing is told as such
        self._default_seed = job.clip.seed if isinstance(job.clip.seed, int) else ""
        self._sizes = job.clip.size or {}
        self._size = cache(self._find_size)
        self._frames = cache(self._find_frames)
        self._known: dict[tuple[object, ...], Clip | list[str]] = {}
        #: templates of the frames' places, for reading ahead
        self.images: tuple[Template, ...] = (self._templates["image"], self._templates["last_image"])
        #: columns that say which video is read ahead, and how much of it
        self.video_names = self._templates["video"].names | {"seconds"}
        if isinstance(self._seconds, Template):
            self.video_names |= self._seconds.names

    @property
    def constant_aspects(self) -> tuple[str, ...] | None:
        """The job's aspects where no row decides them."""
        return self._constant_aspects

    def aspects(self, values: Mapping[str, object]) -> tuple[str, ...]:
        """The job's aspects for a row that has none of its own. ValueError from a template."""
        if self._constant_aspects is not None:
            return self._constant_aspects
        return tuple(
            part.strip()
            for t in self._aspects
            for part in t.render({**values, "aspect": ""}).split(",")
            if part.strip()
        )

    def check_constants(self, aspects: Iterable[str], columns: Collection[str]) -> None:
        """What the job fixes for every row, tried once: images, LoRAs, sizes of ``aspects``, length. JobError,
        EngineError.
        """
        for name in ("image", "last_image"):
            image = self._templates[name].constant
            if image is not None and image.strip():
                try:
                    self._inputs.image(image)
                except InputError as exc:
                    raise JobError(f"clip.{name}: {exc}") from None
        broken: list[JobError] = []
        for mode in self._engines:
            try:
                self._loras.fixed(mode)
            except JobError as exc:
                broken.append(exc)
        if broken and len(broken) == len(self._engines):
            raise broken[0]
        tries: list[tuple[str, Callable[[Mode], object]]] = [
            (f"clip: aspect {aspect}", partial(self._size, aspect=aspect)) for aspect in aspects
        ]
        last_image = self._templates["last_image"].constant
        if last_image is not None:
            is_given = bool(last_image.strip())
            tries.append(("clip.last_image", partial(self._check_last_image, is_given=is_given)))
        length = self._job.clip.seconds
        if "seconds" not in columns and not isinstance(length, str):
            tries.append(("clip: length", partial(self._frames, seconds=length)))
        for place, attempt in tries:
            problems = [problem for mode in self._engines if (problem := _engine_error(attempt, mode))]
            if problems and len(problems) == len(self._engines):
                raise EngineError(f"{place}: {problems[0]}")
        if Mode.T2V in self._engines:
            self._check_constant_video("" if "seconds" in columns else length)

    def longest_s(self, columns: Collection[str]) -> float:
        """Seconds of the longest clip that a row can have; infinite where rows decide the length."""
        length = self._job.clip.seconds
        if "seconds" in columns or isinstance(length, str):
            return math.inf
        found = []
        for mode, spec in self._engines.items():
            with suppress(EngineError):  # told with the rows of that mode
                found.append(self._frames(mode, length) / spec.fps)
        return max(found, default=math.inf)

    def videos(self, rows: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, int, float]]:
        """What :meth:`wanflow.inputs.Inputs.video` will be asked for ``rows``, as far as it can be told before them."""
        spec, template = self._engines.get(Mode.T2V), self._templates["video"]
        if spec is None or template.constant is not None:
            return
        for values in rows:
            with suppress(ValueError, EngineError):  # told with the row
                seconds = values.get("seconds")
                if is_null(seconds):
                    seconds = (
                        self._seconds.render(values) if isinstance(self._seconds, Template) else self._seconds
                    )
                length = None if is_null(seconds) else parse_seconds(seconds)
                if (url := template.render(values)).strip():
                    yield url, self._frames(Mode.T2V, length), spec.fps

    def make(self, aspect: str, values: Mapping[str, object]) -> Clip | list[str]:
        """The row's clip of one aspect, or every reason why there is none. ``values["aspect"]`` is that aspect."""
        seed, seconds = values.get("seed"), values.get("seconds")
        try:
            texts = tuple([template.render(values) for template in self._templates.values()])
            loras = self._loras.texts(values)
            if isinstance(self._seed, Template) and is_null(seed):
                seed = self._seed.render(values)
            if isinstance(self._seconds, Template) and is_null(seconds):
                seconds = self._seconds.render(values)
            strength = self._strength
            given = strength.render(values) if isinstance(strength, Template) else strength
        except ValueError as exc:
            return [f"clip: {exc}"]
        own = (seed, seconds, given)
        key = (aspect, *texts, *loras, *own)
        found = self._known.get(key)
        if found is None:
            found = self._build(aspect, texts, loras, *own)
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = found
        return found

    def _build(
        self,
        aspect: str,
        texts: tuple[str, ...],
        loras: tuple[str, ...],
        seed: object,
        seconds: object,
        strength: object,
    ) -> Clip | list[str]:
        prompt, negative, image, last_image, video, *on = texts
        reasons: list[str] = []
        mode = Mode.I2V if image.strip() else Mode.T2V
        sources: dict[str, Source | None] = {"image": None, "last_image": None}
        for name, url in (("image", image), ("last_image", last_image)):
            try:
                sources[name] = self._inputs.image(url) if url.strip() else None
            except InputError as exc:
                reasons.append(f"{name}: {exc}")
        if last_image.strip() and mode is Mode.T2V and not video.strip():
            reasons.append("last_image: there is no image of the first frame; give one, or leave it empty")
        number, length = 0, self._job.clip.seconds
        try:
            number = parse_seed(self._default_seed if is_null(seed) else seed)
        except ValueError as exc:
            reasons.append(f"seed: {exc}")
        try:
            length = None if is_null(seconds) else parse_seconds(seconds)
        except ValueError as exc:
            reasons.append(f"seconds: {exc}")
        cleaned = clean_prompt(prompt)
        if not cleaned and mode is Mode.T2V:
            reasons.append("prompt: is empty, and there is no image either")
        if video.strip() and (image.strip() or last_image.strip() or on):
            other = "an image" if image.strip() else "a last image" if last_image.strip() else "clip.branch"
            reasons.append(f"video: a clip is made from it or has {other}, not both; leave one of them empty")
        base_prompt = clean_prompt(on[0]) if on else ""
        if on and not base_prompt and mode is Mode.T2V:
            reasons.append("branch.on: is empty, and there is no image either")
        spec = self._engines.get(mode)
        if spec is None:
            reasons.append(self._no_engine(mode, bool(video.strip())))
            return reasons
        added: tuple[Lora, ...] = ()
        try:
            added = self._loras.make(mode, loras)
        except ValueError as exc:
            reasons.append(str(exc))
        width = height = num_frames = 0
        try:
            width, height = self._size(mode, aspect)
        except EngineError as exc:
            reasons.append(f"aspect {aspect}: {exc}")
        try:
            explicit = length if length is not None else self._job.clip.seconds
            num_frames = self._frames(mode, explicit if isinstance(explicit, float) else None)
        except EngineError as exc:
            reasons.append(f"length: {exc}")
        if mode is Mode.I2V:
            try:
                self._check_last_image(mode, bool(last_image.strip()), num_frames)
            except EngineError as exc:
                reasons.append(f"last_image: {exc}")
        source_video = None
        if video.strip():
            steps = 0
            try:
                steps = last_steps(self._samplings[spec.weights], parse_strength(strength))
            except (EngineError, ValueError) as exc:
                reasons.append(f"strength: {exc}")
            if num_frames:
                try:
                    source_video = SourceVideo(self._inputs.video(video, num_frames, spec.fps), steps)
                except InputError as exc:
                    reasons.append(f"video: {exc}")
        if reasons:
            return reasons
        return Clip(
            mode=mode,
            weights=spec.weights,
            prompt=cleaned,
            negative_prompt=clean_prompt(negative),
            image=sources["image"],
            seed=number,
            width=width,
            height=height,
            num_frames=num_frames,
            fps=spec.fps,
            sampling=self._samplings[spec.weights],
            cascade=self._cascades[spec.weights],
            branch=Branch(base_prompt, self._branch_steps[spec.weights]) if on else None,
            loras=added,
            last_image=sources["last_image"],
            video=source_video,
        )

    def _sampled(self, spec: EngineSpec) -> EngineSpec:
        """What a cascade step's defaults follow from: distilled weights know their own few steps only."""
        sampling = self._samplings[spec.weights]
        return replace(spec, sampling=sampling) if sampling.profile == "turbo" else spec

    def _no_engine(self, mode: Mode, has_video: bool) -> str:
        given = ", ".join(f"{m}: {spec.name}" for m, spec in self._engines.items()) or "none"
        if mode is Mode.I2V:
            what, instead = "has an image", "leave the image empty"
        elif has_video:
            what, instead = "has a video", "give an image in its place"
        else:
            what, instead = "has no image", "give an image"
        need = f"the row {what}, so it needs a checkpoint for {mode} (there is {given})"
        return f"{need}; set engine.checkpoint.{mode}, or {instead}"

    def _check_last_image(self, mode: Mode, is_given: bool, num_frames: int = 0) -> None:
        check_last_image(self._engines[mode], is_given, num_frames)

    def _check_constant_video(self, length: float | str | None) -> None:
        """The job's own video and strength, where no row decides them. JobError, EngineError."""
        spec, video = self._engines[Mode.T2V], self._templates["video"].constant
        if video is not None and not video.strip():
            return
        if not isinstance(self._strength, Template):
            try:
                last_steps(self._samplings[spec.weights], parse_strength(self._strength))
            except EngineError as exc:
                raise EngineError(f"clip.strength: {exc}") from None
        if video is not None and not isinstance(length, str):
            try:
                self._inputs.video(video, self._frames(Mode.T2V, length), spec.fps)
            except InputError as exc:
                raise JobError(f"clip.video: {exc}") from None

    def _find_size(self, mode: Mode, aspect: str) -> tuple[int, int]:
        spec = self._engines[mode]
        explicit = self._sizes.get(aspect) or self._sizes.get("")
        if explicit is None:
            return size_for(spec, aspect)
        width, height = check_size_text(explicit)
        check_size(spec, width, height)
        return width, height

    def _find_frames(self, mode: Mode, seconds: float | None) -> int:
        spec = self._engines[mode]
        if seconds is not None:
            return frames_for(spec, seconds)
        num_frames = self._job.clip.num_frames or spec.num_frames
        check_frames(spec, num_frames)
        return num_frames
