"""The upscale steps after a clip's base latents: one method a file, chained in the job's order.

``check`` (torch-free) turns what a user wrote into a step with every number resolved, so that keys see what
decides the pixels; ``size_after`` says how large a clip is after so many steps; ``apply`` runs one. A method
is a module with ``PARAMS`` (name to what it means), ``check(params, spec)``, ``size(params, width, height)``
and ``apply(...)``; it knows the engine's protocol only. Latents in, latents out: decoding is not a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import TYPE_CHECKING

from wanflow.cascade import refine
from wanflow.errors import EngineError
from wanflow.model import CascadeStep, Clip, EngineSpec

if TYPE_CHECKING:
    from wanflow.engines import Engine, Keep, Latents, OnStep

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


def apply(
    step: CascadeStep,
    engine: Engine,
    clip: Clip,
    latents: Latents,
    images: Sequence[bytes],
    on_step: OnStep,
    stage_name: str,
    keep: Keep | None = None,
) -> Latents:
    """Latents after ``step``, which ``check`` has returned. ``on_step`` reports under ``stage_name`` and may
    stop it; ``keep`` takes the steps, and may have some to go on from.
    """
    result: Latents = _method(step.method).apply(
        dict(step.params), engine, clip, latents, images, on_step, stage_name, keep
    )
    return result


def _method(name: str) -> ModuleType:
    if name not in METHODS:
        raise EngineError(f"cascade: no method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
