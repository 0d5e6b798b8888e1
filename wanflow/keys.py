"""What decides a result, hashed: one function a stage.

A key is the SHA-256 of a canonical, length-safe encoding of everything that decides the pixels, plus the version of the
stage's code. Each stage's key contains the key of the stage before: a change re-renders from there on, no further.
Execution choices (GPU, batch, tiling, ffmpeg build), URLs, names and paths stay out. Raise a version in ``VERSIONS``
only when the stage's code makes different pixels: everybody's results of that stage are then made again.

Encoded texts and images have no key: they are not stored (a replica keeps those of its latest clips in memory), and all
that decides them, prompt, image bytes and weights, is in the key of the base latents. ``tests/golden_keys.json`` holds
keys of many jobs, so that none of them changes unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache

from wanflow.model import Clip, Output, Stage, Variant

#: of every stage; a cascade step's is under the name of its method
VERSIONS: Mapping[str, int] = {"base": 1, "refine": 1, "master": 1, "output": 1}


def canonical(value: object) -> bytes:
    """Encode a value so that different values never give equal bytes.

    Numbers that are equal encode equally (4 and 4.0); fields of a dataclass that do not take part in comparison are
    left out; mappings are sorted. Raises TypeError for types whose identity is not their value.
    """
    match value:
        case None:
            return b"n;"
        case bool():
            return b"t;" if value else b"f;"
        case int():
            return b"i%d;" % value
        case float():
            return canonical(int(value)) if value.is_integer() else b"d" + value.hex().encode() + b";"
        case str():
            raw = value.encode()
            return b"s%d:" % len(raw) + raw
        case tuple() | list():
            return b"l%d:" % len(value) + b"".join(map(canonical, value))
        case frozenset():
            return b"u%d:" % len(value) + b"".join(sorted(map(canonical, value)))
        case Mapping():
            return b"m%d:" % len(value) + b"".join(canonical(k) + canonical(value[k]) for k in sorted(value))
    if is_dataclass(value) and not isinstance(value, type):
        parts = [canonical(getattr(value, name)) for name in _compared_fields(type(value))]
        name = type(value).__name__.encode()
        return b"o%d:" % len(name) + name + b"%d:" % len(parts) + b"".join(parts)
    raise TypeError(f"{type(value).__name__} has no canonical form")


@lru_cache
def _compared_fields(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.compare)


def digest(*parts: object) -> str:
    """SHA-256 of the canonical encoding, 64 hex digits."""
    return hashlib.sha256(canonical(parts)).hexdigest()


def base_key(clip: Clip) -> str:
    """Key of the base latents: all of the clip but its cascade and its frame rate."""
    return digest(
        "base",
        VERSIONS["base"],
        clip.mode,
        clip.weights,
        clip.prompt,
        clip.negative_prompt,
        clip.image,
        clip.seed,
        clip.width,
        clip.height,
        clip.num_frames,
        clip.sampling,
    )


@lru_cache(maxsize=100_000)
def stages(clip: Clip) -> tuple[Stage, ...]:
    """Every stage of a clip with its key: ``base``, ``cascade-1`` ..., ``master``."""
    key = base_key(clip)
    chain = [Stage("base", key)]
    for number, step in enumerate(clip.cascade, 1):
        key = digest("cascade", VERSIONS[step.method], key, step)
        chain.append(Stage(f"cascade-{number}", key))
    chain.append(Stage("master", digest("master", VERSIONS["master"], key, clip.fps)))
    return tuple(chain)


def master_key(clip: Clip) -> str:
    return stages(clip)[-1].key


def output_key(variant: Variant, output: Output) -> str:
    """Key of a finished file: its masters, what is laid over them, and its format. Names and paths stay out."""
    scenes = tuple((master_key(scene.clip(output.aspect)), scene.layers) for scene in variant.scenes)
    form = tuple((name, getattr(output, name)) for name in _compared_fields(Output) if name != "name")
    return digest("output", VERSIONS["output"], scenes, form)
