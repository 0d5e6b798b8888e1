"""What decides a result, hashed: one function a stage.

A key is the SHA-256 of a canonical, length-safe encoding of everything that decides the pixels, plus the version of the
stage's code. Each stage's key contains the key of the stage before: a change re-renders from there on, no further.
Execution choices (GPU, batch, tiling, ffmpeg build), URLs, names and paths stay out. Raise a version in ``VERSIONS``
only when the stage's code makes different pixels: everybody's results of that stage are then made again.

A trunk's key has all that decides the steps which clips share; the base's, behind one, follows from it and the clip's
own prompt. Encoded texts and images have no key: they are not stored (a replica keeps those of its latest clips in
memory), and all that decides them, prompt, image bytes and weights, is in the key of the latents. The keys of many jobs
are in ``tests/golden_keys.json``, so that none of them changes unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

from wanflow.model import Branch, Clip, ImageLayer, Output, Placement, Source, Stage, Variant

#: of every stage, a cascade step's under the name of its method; of how a source ``video`` is fitted to a clip; of how
#: a ``picture`` is read, for clips that are made from one and outputs that show one; and of how ``sound`` is mixed
VERSIONS: Mapping[str, int] = {
    "trunk": 1, "base": 1, "refine": 2, "master": 2, "output": 1, "video": 2, "picture": 1, "sound": 1
}  # fmt: skip


def canonical(value: object) -> bytes:
    """Encode a value so that different values never give equal bytes.

    Numbers that are equal encode equally (4 and 4.0); fields of a dataclass that do not take part in comparison are
    left out, and so are those that came later (``model.LATER``) while they have their default; mappings are sorted.
    Raises TypeError for types whose identity is not their value.
    """
    encode = _ENCODERS.get(type(value))
    return encode(value) if encode is not None else _encode_rare(value)


def _encode_str(value: str) -> bytes:
    raw = value.encode()
    return b"s%d:%b" % (len(raw), raw)


def _encode_float(value: float) -> bytes:
    return b"i%d;" % int(value) if value.is_integer() else b"d%b;" % value.hex().encode()


def _encode_list(value: tuple[object, ...] | list[object]) -> bytes:
    parts = [_ENCODERS.get(type(each), _encode_rare)(each) for each in value]
    return b"l%d:%b" % (len(parts), b"".join(parts))


def _encode_rare(value: Any) -> bytes:
    """Subclasses and containers; a dataclass gets an encoder of its own."""
    match value:
        case str():
            return _encode_str(value)
        case int():
            return b"i%d;" % value
        case frozenset():
            return b"u%d:" % len(value) + b"".join(sorted(map(canonical, value)))
        case Mapping():
            return b"m%d:" % len(value) + b"".join(canonical(k) + canonical(value[k]) for k in sorted(value))
    if is_dataclass(value) and not isinstance(value, type):
        encode = _ENCODERS[type(value)] = _dataclass_encoder(type(value))
        return encode(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")


def _dataclass_encoder(kind: type) -> Callable[[Any], bytes]:
    later = {f.name: f.default for f in fields(kind) if f.metadata.get("later")}
    names = tuple(name for name in _compared_fields(kind) if name not in later)
    title = b"o%d:%b" % (len(kind.__name__.encode()), kind.__name__.encode())
    head = title + b"%d:" % len(names)
    values = attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),)

    def encode(value: Any) -> bytes:
        return head + b"".join([_ENCODERS.get(type(each), _encode_rare)(each) for each in values(value)])

    def encode_all(value: Any) -> bytes:
        # by name, so that no two of them are taken for each other
        given = [(name, each) for name, default in later.items() if (each := getattr(value, name)) != default]
        if not given:
            return encode(value)
        added = b"".join(canonical(name) + canonical(each) for name, each in given)
        return title + b"%d:" % (len(names) + len(given)) + encode(value)[len(head) :] + added

    if later:
        return encode_all
    # shared by many scenes, and found by their hash sooner than they are encoded
    return lru_cache(maxsize=4096)(encode) if kind in (ImageLayer, Placement, Source) else encode


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"n;",
    bool: lambda value: b"t;" if value else b"f;",
    int: lambda value: b"i%d;" % value,
    float: _encode_float,
    str: _encode_str,
    tuple: _encode_list,
    list: _encode_list,
}


@lru_cache
def _compared_fields(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.compare)


def digest(*parts: object) -> str:
    """SHA-256 of the canonical encoding, 64 hex digits."""
    return hashlib.sha256(canonical(parts)).hexdigest()


def base_key(clip: Clip) -> str:
    """Key of the base latents: all of the clip but its cascade, and its frame rate unless a source video is sampled
    with it. Behind a trunk, its key and the clip's own prompt: the trunk's has the rest.
    """
    if clip.branch is not None:
        return digest("base", VERSIONS["base"], trunk_key(clip, clip.branch), clip.prompt)
    return digest("base", VERSIONS["base"], *_denoised(clip, clip.prompt))


def trunk_key(clip: Clip, branch: Branch) -> str:
    """Key of the first steps, which clips that differ only in their prompt, cascade and frame rate share."""
    return digest("trunk", VERSIONS["trunk"], *_denoised(clip, branch.prompt), branch.steps)


def _denoised(clip: Clip, prompt: str) -> tuple[object, ...]:
    """What decides latents that are denoised from noise with ``prompt``."""
    return (
        clip.mode,
        clip.weights,
        prompt,
        clip.negative_prompt,
        clip.image,
        clip.seed,
        clip.width,
        clip.height,
        clip.num_frames,
        clip.sampling,
        *([("loras", clip.loras)] if clip.loras else ()),
        *([("last_image", clip.last_image)] if clip.last_image else ()),
        # the frame rate says which of its frames are taken
        *([("picture", VERSIONS["picture"])] if clip.images else ()),
        *([("video", VERSIONS["video"], clip.video, clip.fps)] if clip.video else ()),
    )


@lru_cache(maxsize=100_000)
def stages(clip: Clip) -> tuple[Stage, ...]:
    """Every stage of a clip with its key: ``trunk`` where it has one, ``base``, ``cascade-1`` ..., ``master``."""
    key = base_key(clip)
    trunk = [] if clip.branch is None else [Stage("trunk", trunk_key(clip, clip.branch))]
    chain = [*trunk, Stage("base", key)]
    for number, step in enumerate(clip.cascade, 1):
        key = digest("cascade", VERSIONS[step.method], key, step)
        chain.append(Stage(f"cascade-{number}", key))
    chain.append(Stage("master", digest("master", VERSIONS["master"], key, clip.fps)))
    return tuple(chain)


def master_key(clip: Clip) -> str:
    return stages(clip)[-1].key


def output_key(variant: Variant, output: Output) -> str:
    """Key of a finished file: its masters, what is laid over them, its sound and its format. Names and paths stay
    out."""
    return assembled_key(variant, [master_key(scene.clip(output.aspect)) for scene in variant.scenes], output)


def assembled_key(variant: Variant, masters: Sequence[str], output: Output) -> str:
    """:func:`output_key` from the key of each scene's master."""
    scenes = [(master, scene.layers) for master, scene in zip(masters, variant.scenes, strict=True)]
    version: object = VERSIONS["output"]
    if any(isinstance(layer, ImageLayer) for _, layers in scenes for layer in layers):
        version = (version, VERSIONS["picture"])
    encoded = b"%b%b%b%b" % (_OUTPUT, canonical(version), canonical(scenes), _form(output))
    if not variant.has_sound:
        return hashlib.sha256(b"l4:" + encoded).hexdigest()
    voices = [scene.voice for scene in variant.scenes]
    music = variant.music
    if music is not None and not any(voices):  # nothing that it would give way to
        music = replace(music, duck_db=0.0)
    sound = ("sound", VERSIONS["sound"], voices, music, variant.loudness)
    return hashlib.sha256(b"l5:" + encoded + canonical(sound)).hexdigest()


_OUTPUT = canonical("output")


@lru_cache(maxsize=1024)
def _form(output: Output) -> bytes:
    names = (name for name in _compared_fields(Output) if name != "name")
    return canonical([(name, getattr(output, name)) for name in names])
