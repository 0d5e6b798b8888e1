"""The profiles of a job: what each makes of a checkpoint's own sampling, and what a user may change of it.

Decided here, before anything is loaded, and in the key of every clip through ``Sampling`` and ``loras``. Whether a
checkpoint can do a profile is asked by ``wanflow.manifest``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from wanflow.job.fields import Count, Number, Section, Url
from wanflow.model import Mode, Sampling, Shortcuts

Profile = Literal["exact", "fast", "turbo"]

#: what distilled weights were trained for
TURBO_STEPS = 4
TURBO_SHIFT = 5.0
#: a step is a straight line there, as in the programs that the weights were published with
TURBO_SCHEDULER = "euler"

Share = Annotated[Number, Field(ge=0, le=1)]
#: beyond it hardly any step is left
Interval = Annotated[Count, Field(ge=2, le=10)]


class FastSection(Section):
    """What `fast` leaves out."""

    guidance_until: Share = Field(
        default=0.6, description="Guidance is off after this share of the steps; 1: never, 0: from the start."
    )
    cache: Share = Field(
        default=0.08,
        description="Relative change of the first block up to which a step is not computed to its end; 0: always."
        " Of the high-noise expert, or the only one. `python -m wanflow.engines.calibrate CHECKPOINT` measures it.",
    )
    cache_low: Share | None = Field(
        default=None, description="The same for the low-noise expert. Default: as `cache`."
    )
    taylor: Interval | None = Field(
        default=None,
        description="In place of `cache`: each so manieth step is computed, the others are extrapolated (TaylorSeer).",
    )
    taylor_low: Interval | None = Field(default=None, description="The same in place of `cache_low`.")
    fp8: bool = Field(
        default=False,
        description="Weights and activations in 8 bits; needs a GPU of compute capability 8.9 and wanflow[fp8].",
    )
    batch_guidance: bool = Field(
        default=False,
        description="Both guidance branches in one forward, which takes more memory: sooner where one does not fill the"
        " GPU, at small sizes. The step cache then skips both or none.",
    )

    def shortcuts(self, has_two_experts: bool) -> Shortcuts:
        """As numbers, of both experts or the only one."""
        low = self.cache if self.cache_low is None else self.cache_low
        taylor, taylor_low = self.taylor or 0, (self.taylor_low or 0) if has_two_experts else 0
        return Shortcuts(
            guidance_until=self.guidance_until,
            cache=0.0 if taylor else self.cache,
            cache_low=low if has_two_experts and not taylor_low else 0.0,
            fp8=self.fp8,
            batch_guidance=self.batch_guidance,
            taylor=taylor,
            taylor_low=taylor_low,
        )

    @model_validator(mode="after")
    def _one_cache_an_expert(self) -> Self:
        for cache, taylor in (("cache", "taylor"), ("cache_low", "taylor_low")):
            if {cache, taylor} <= self.model_fields_set and getattr(self, taylor) and getattr(self, cache):
                raise ValueError(f"has both {cache} and {taylor}; give one of them, an expert has one cache")
        return self


class TurboWeights(Section):
    """What makes a checkpoint do with four steps."""

    high: Url | None = Field(
        default=None, description="Distilled LoRA of the high-noise expert, or of the only one."
    )
    low: Url | None = Field(default=None, description="Distilled LoRA of the low-noise expert.")
    scale: Annotated[Number, Field(gt=0, le=4)] = Field(default=1.0, description="Strength of the LoRAs.")
    distilled: bool = Field(default=False, description="The checkpoint's own weights are distilled.")


class TurboSection(Section):
    """Distilled weights by mode."""

    t2v: TurboWeights | None = Field(default=None, description="For text-to-video clips.")
    i2v: TurboWeights | None = Field(default=None, description="For clips that start from an image.")

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if not (self.t2v or self.i2v):
            raise ValueError("names no weights; give {high: URL, low: URL} or {distilled: true}")
        return self

    def of(self, mode: Mode) -> TurboWeights:
        return (self.t2v if mode is Mode.T2V else self.i2v) or TurboWeights()


def _by_mode(value: object) -> object:
    """One pair for both modes may be written without naming them."""
    is_one = isinstance(value, dict) and value and not set(value) & {"t2v", "i2v"}
    return {"t2v": value, "i2v": value} if is_one else value


Turbo = Annotated[TurboSection, BeforeValidator(_by_mode, json_schema_input_type=TurboWeights | TurboSection)]


def profiled(default: Sampling, profile: Profile, fast: FastSection) -> Sampling:
    """A checkpoint's own sampling as ``profile`` changes it."""
    if profile == "fast":
        return replace(default, profile=profile, shortcuts=fast.shortcuts(default.boundary is not None))
    if profile == "turbo":
        low = None if default.guidance_low is None else 1.0
        return replace(
            default,
            profile=profile,
            steps=TURBO_STEPS,
            guidance=1.0,
            guidance_low=low,
            flow_shift=TURBO_SHIFT,
            scheduler=TURBO_SCHEDULER,
        )
    return default
