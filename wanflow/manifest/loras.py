"""Which low-rank weights a clip is rendered with: those of the profile, then those that the job or its row names."""

from __future__ import annotations

from collections.abc import Mapping

from wanflow.engines.profiles import dimensions_of, turbo_weights
from wanflow.errors import InputError, JobError
from wanflow.inputs import Inputs
from wanflow.job import Job
from wanflow.job.loras import parse_scale
from wanflow.model import EngineSpec, Lora, Mode
from wanflow.templates import Template, compile_template


class LoraMaker:
    """The LoRAs of one job. JobError or EngineError at once where the job's profile cannot be had."""

    def __init__(self, job: Job, engines: Mapping[Mode, EngineSpec], inputs: Inputs) -> None:
        self._inputs = inputs
        self._dimensions = {mode: dimensions_of(spec) for mode, spec in engines.items()}
        self._two_experts = {mode: spec.sampling.boundary is not None for mode, spec in engines.items()}
        self._entries = [
            (
                compile_template(lora.url),
                compile_template(lora.scale) if isinstance(lora.scale, str) else lora.scale,
                lora.expert,
            )
            for lora in job.clip.lora
        ]
        self._of_profile = {mode: self._turbo(job, mode, spec) for mode, spec in engines.items()}

    def texts(self, values: Mapping[str, object]) -> tuple[str, ...]:
        """What the row makes of the job's templates: URL and scale of each entry. ValueError from a template."""
        return tuple(
            [
                part.render(values) if isinstance(part, Template) else str(part)
                for url, scale, _ in self._entries
                for part in (url, scale)
            ]
        )

    def make(self, mode: Mode, texts: tuple[str, ...]) -> tuple[Lora, ...]:
        """The clip's LoRAs, of :meth:`texts`. ValueError says what is wrong with one."""
        found = list(self._of_profile[mode])
        for i, (_, _, expert) in enumerate(self._entries):
            url, scale = texts[2 * i : 2 * i + 2]
            if not url.strip():
                continue
            try:
                lora = self._lora(mode, url, parse_scale(scale), expert)
            except (InputError, ValueError) as exc:
                raise ValueError(f"lora {i + 1}: {exc}") from None
            if lora.scale:
                found.append(lora)
        return tuple(found)

    def fixed(self, mode: Mode) -> tuple[Lora, ...]:
        """Those that no row decides. JobError says what is wrong with one."""
        texts: list[str] = []
        for url, scale, _ in self._entries:
            given = [part.constant if isinstance(part, Template) else str(part) for part in (url, scale)]
            texts += ["" if None in given else str(text) for text in given]
        try:
            return self.make(mode, tuple(texts))
        except ValueError as exc:
            raise JobError(f"clip.{exc}") from None

    def _turbo(self, job: Job, mode: Mode, spec: EngineSpec) -> tuple[Lora, ...]:
        if job.engine.profile != "turbo":
            return ()
        given = job.engine.turbo.of(mode) if job.engine.turbo else None
        high, low, distilled = (given.high, given.low, given.distilled) if given else (None, None, False)
        found = []
        for url, expert in turbo_weights(spec, mode, high, low, distilled):
            try:
                found.append(self._lora(mode, url, given.scale if given else 1.0, expert))
            except InputError as exc:
                raise JobError(f"engine.turbo.{expert}: {exc}") from None
        return tuple(found)

    def _lora(self, mode: Mode, url: str, scale: float, expert: str) -> Lora:
        if not self._two_experts[mode]:
            if expert == "low":
                raise ValueError("is for the low-noise expert, but the checkpoint has one expert only")
            expert = "both"
        return Lora(self._inputs.lora(url, self._dimensions[mode]), scale, expert)
