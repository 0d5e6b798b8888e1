"""The upscale steps after a clip's base latents: one method a file, chained in the job's order.

``check`` (torch-free) turns what a user wrote into a step with every number resolved, so that keys see what
decides the pixels; ``size_after`` says how large a clip is after so many steps; ``apply`` runs one; ``pixels`` is
the picture after them. A method is a module with ``PARAMS`` (name to what it means), ``check(params, spec)``,
``size(params, width, height)``, ``num_steps(params)``, ``apply(...)`` and ``finish(params, before, drawn)``; it knows
the engine's protocol only.

What a clip is made of are the latents of every stage, the base's first: a step adds its own, and may leave a part of
the picture to those before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import TYPE_CHECKING

from wanflow.cascade import refine
from wanflow.errors import EngineError
from wanflow.model import CascadeStep, Clip, EngineSpec

if TYPE_CHECKING:
    from wanflow.engines import Engine, Keep, Latents, OnStep, Pixels

METHODS: dict[str, ModuleType] = {"refine": refine}


def check(step: CascadeStep, spec: EngineSpec) -> CascadeStep:
    """The step with defaults filled in, sorted by name; checking it again changes nothing.

    Raises EngineError for an unknown method or parameter, or a value that the method or the model cannot take.
    """
    method = _method(step.method)
    given = dict(step.params)
    for name in given:
        if name not in method.PARAMS:
            near = get_close_matches(name, method.PARAMS, 1)
            known = f"did you mean {near[0]}?" if near else f"known: {', '.join(method.PARAMS)}"
            raise EngineError(f"cascade: {step.method} has no parameter {name!r}; {known}")
    return CascadeStep(step.method, tuple(sorted(method.check(given, spec).items())))


def size_after(clip: Clip, num_steps: int | None = None) -> tuple[int, int]:
    """Width and height after the first ``num_steps`` steps of the clip's checked cascade (None: after all)."""
    size = clip.width, clip.height
    for step in clip.cascade[:num_steps]:
        size = _method(step.method).size(dict(step.params), *size)
    return size


def steps_of(clip: Clip, stage_name: str) -> int:
    """Denoising steps of the schedule of ``clip``'s stage ``base``, ``cascade-1`` ..., or ``trunk``, which takes the
    first of the base's.
    """
    if stage_name in ("trunk", "base"):
        return clip.num_steps
    step = clip.cascade[int(stage_name.removeprefix("cascade-")) - 1]
    steps: int = _method(step.method).num_steps(dict(step.params))
    return steps


def apply(
    engine: Engine,
    clip: Clip,
    latents: Sequence[Latents],
    images: Sequence[bytes],
    on_step: OnStep,
    stage_name: str,
    keep: Keep | None = None,
) -> list[Latents]:
    """``latents`` of the stages so far, with those of ``clip``'s next step. ``on_step`` reports under ``stage_name``
    and may stop it; ``keep`` takes the steps, and may have some to go on from.
    """
    step = clip.cascade[len(latents) - 1]
    result: Latents = _method(step.method).apply(
        dict(step.params), engine, clip, pixels(engine, clip, latents), images, on_step, stage_name, keep
    )
    return [*latents, result]


def pixels(engine: Engine, clip: Clip, latents: Sequence[Latents]) -> Iterator[Pixels]:
    """The picture after as many of ``clip``'s steps as there are ``latents`` beyond the base's, as
    ``engine.decode_pixels`` gives it.
    """
    base, *refined = latents
    picture = engine.decode_pixels(base)
    for step, own in zip(clip.cascade, refined, strict=False):
        picture = _method(step.method).finish(dict(step.params), picture, engine.decode_pixels(own))
    return picture


def _method(name: str) -> ModuleType:
    if name not in METHODS:
        raise EngineError(f"cascade: no method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
