"""What a checkpoint says about itself, read without loading weights, and the sizes and lengths that follow
from it.

``read_spec`` turns a checkpoint's configuration files into an :class:`~wanflow.model.EngineSpec`. Defaults
come from ``families``; a ``wanflow.json`` beside ``model_index.json`` overrides them::

    {"name": "pocket", "fps": 8, "num_frames": 17, "sizes": [[96, 160], [160, 96], [128, 128]], "steps": 12,
     "guidance": {"high": 4.0, "low": 3.0}, "flow_shift": 3.0, "scheduler": "unipc",
     "refine": {"scale": 2, "strength": 0.3, "steps": 4}, "version": 1, "license": "Apache-2.0"}

Every field is optional; an unknown one is an error. ``"distilled": true`` says that the weights are made for four steps
without guidance (the profile turbo). Aspects are written ``9x16``. The rest are pure functions
of the spec. Knows nothing of torch, jobs or rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from wanflow.engines import checkpoint, families
from wanflow.errors import EngineError
from wanflow.model import EngineSpec, LastImage, Mode, Sampling, Scalar

SCHEDULERS = ("unipc", "euler")

_ASPECT = re.compile(r"(\d{1,4})x(\d{1,4})")
_FIELDS = (
    "name",
    "fps",
    "num_frames",
    "sizes",
    "steps",
    "guidance",
    "flow_shift",
    "scheduler",
    "refine",
    "distilled",
    "version",
)
#: a listed size serves an aspect when their ratios differ by no more than this (832x480 is 1.73, 16x9 is 1.78)
_SAME_ASPECT = 0.05
#: a clip beyond this many pixels in all frames is a mistake, not a wish
_MAX_SIDE = 8192


def read_spec(url: str) -> EngineSpec:
    """What the checkpoint at ``url`` can do: a directory, a URL, a hub id (``org/name``) or ``pocket``.

    Reads configuration files, tensor headers and samples of the weights, not the weights. Raises EngineError
    that names the missing or broken file; StoreError when the store or the hub is away.
    """
    files = checkpoint.open_files(url)
    index = checkpoint.read_json(files, "model_index.json")
    needed = checkpoint.needed_files(files, index)
    transformer = checkpoint.read_json(files, "transformer/config.json")
    vae = checkpoint.read_json(files, "vae/config.json")
    path = "scheduler/scheduler_config.json"
    scheduler = checkpoint.read_json(files, path) if path in needed else {}
    try:
        defaults, modes, known = families.recognise(index, transformer, scheduler)
    except EngineError as error:
        raise EngineError(f"checkpoint {files.url}: {error}") from None
    own = checkpoint.read_json(files, "wanflow.json") if "wanflow.json" in files.sizes() else {}
    facts = _facts(own, defaults, f"checkpoint {files.url}: wanflow.json")
    patch = transformer.get("patch_size") or [1, 2, 2]
    return EngineSpec(
        url=url,
        family="wan",
        name=str(own.get("name") or (defaults.name if known else Path(files.url).name)),
        weights=checkpoint.identity(files, needed, own.get("version")),
        modes=modes,
        fps=facts.fps,
        grid=int(vae.get("scale_factor_spatial", 8)) * int(patch[1]),
        frame_stride=int(vae.get("scale_factor_temporal", 4)),
        sizes=facts.sizes,
        num_frames=facts.num_frames,
        sampling=Sampling(
            steps=facts.steps,
            guidance=facts.guidance,
            guidance_low=facts.guidance_low,
            flow_shift=facts.flow_shift,
            scheduler=facts.scheduler,
            boundary=index.get("boundary_ratio"),
        ),
        hints=(
            ("max_positions", int(transformer.get("rope_max_seq_len", 1024))),
            ("refine_scale", facts.refine_scale),
            ("refine_strength", facts.refine_strength),
            ("refine_steps", facts.refine_steps),
            ("refine_color_radius", facts.refine_color_radius),
            ("num_blocks", int(transformer.get("num_layers", 40))),
            ("width", _width(transformer)),
            ("ffn_width", int(transformer.get("ffn_dim", 13824))),
            ("image_dim", int(transformer.get("image_dim") or 0)),
            ("distilled", facts.distilled),
        ),
        last_image=facts.last_image,
    )


def _width(transformer: Mapping[str, Any]) -> int:
    return int(transformer.get("num_attention_heads", 40)) * int(transformer.get("attention_head_dim", 128))


def hint(spec: EngineSpec, name: str, default: float) -> float:
    """A number among ``spec.hints``."""
    value: Scalar = dict(spec.hints).get(name, default)
    return float(value) if isinstance(value, int | float) else default


def parse_aspect(aspect: str) -> tuple[int, int]:
    """``9x16`` as (9, 16); EngineError otherwise."""
    found = _ASPECT.fullmatch(aspect)
    if not found or not int(found[1]) or not int(found[2]):
        raise EngineError(f"aspect {aspect!r} is not written as width x height, such as 9x16 or 1x1")
    return int(found[1]), int(found[2])


def size_for(spec: EngineSpec, aspect: str) -> tuple[int, int]:
    """Width and height for an aspect: the model's own size when it has one, else its area on its grid."""
    across, down = parse_aspect(aspect)
    wanted = math.log(across / down)
    if abs(wanted) > math.log(4):
        raise EngineError(
            f"aspect {aspect} is more than four times as long as wide; no model was made for that"
        )
    for width, height in spec.sizes:
        if abs(math.log(width / height) - wanted) <= _SAME_ASPECT:
            return width, height
    area = spec.sizes[0][0] * spec.sizes[0][1]
    ideal = math.sqrt(area * across / down), math.sqrt(area * down / across)
    sides = [_neighbours(side, spec.grid) for side in ideal]
    # the ratio first, then the area: a wrong ratio is cropped away from every output
    return min(
        ((w, h) for w in sides[0] for h in sides[1]),
        key=lambda s: (2 * abs(math.log(s[0] / s[1]) - wanted) + abs(math.log(s[0] * s[1] / area)), s),
    )


def frames_for(spec: EngineSpec, seconds: float) -> int:
    """The nearest number of frames that the model can make, at least one stride more than a still."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise EngineError(f"{seconds} seconds is no length for a clip")
    strides = max(1, math.floor((seconds * spec.fps - 1) / spec.frame_stride + 0.5))
    frames = strides * spec.frame_stride + 1
    check_frames(spec, frames)
    return frames


def check_size(spec: EngineSpec, width: int, height: int) -> None:
    """EngineError with the nearest sizes when the model cannot make this one."""
    if min(width, height) < spec.grid or width % spec.grid or height % spec.grid:
        w, h = (max(spec.grid, round(side / spec.grid) * spec.grid) for side in (width, height))
        listed = ", ".join(f"{a}x{b}" for a, b in spec.sizes)
        raise EngineError(
            f"size {width}x{height} is off the grid of {spec.name}: sides are multiples of {spec.grid}. "
            f"Nearest: {w}x{h}; made for: {listed}"
        )
    limit = min(_MAX_SIDE, int(hint(spec, "max_positions", 1024)) * spec.grid)
    if max(width, height) > limit:
        raise EngineError(f"size {width}x{height} is too large for {spec.name}: no side above {limit}")


def check_frames(spec: EngineSpec, num_frames: int) -> None:
    """EngineError with the nearest numbers when the model cannot make this many frames."""
    stride = spec.frame_stride
    if num_frames < 1 or (num_frames - 1) % stride:
        low = max(1, (num_frames - 1) // stride * stride + 1)
        raise EngineError(
            f"{spec.name} makes {stride}k+1 frames, not {num_frames}. Nearest: {low} or {low + stride} "
            f"({low / spec.fps:.2f} or {(low + stride) / spec.fps:.2f} s)"
        )
    limit = (int(hint(spec, "max_positions", 1024)) - 1) * stride + 1
    if num_frames > limit:
        raise EngineError(
            f"{num_frames} frames are too many for {spec.name}: at most {limit} ({limit / spec.fps:.1f} s)"
        )


def check_last_image(spec: EngineSpec, is_given: bool, num_frames: int) -> None:
    """EngineError when a clip that starts from an image can not, or must, have an image of its last frame."""
    if is_given and spec.last_image is LastImage.NEVER:
        raise EngineError(
            f"{spec.name} cannot be given its last frame; take Wan 2.2 I2V-A14B or Wan 2.1 FLF2V, or leave it empty"
        )
    if not is_given and spec.last_image is LastImage.MUST:
        raise EngineError(f"is empty, and {spec.name} goes from a first frame to a last one: give both")
    if is_given and num_frames == 1:
        raise EngineError("a clip of one frame has no last one; make it longer, or leave it empty")


def _neighbours(side: float, grid: int) -> tuple[int, int]:
    low = max(grid, int(side // grid) * grid)
    return low, low + grid


def _facts(own: Mapping[str, Any], base: families.Defaults, where: str) -> families.Defaults:
    """``base`` with what ``wanflow.json`` says; EngineError names the field that is wrong."""
    for key in own:
        if key not in _FIELDS:
            near = get_close_matches(key, _FIELDS, 1)
            raise EngineError(
                f"{where}: unknown field {key!r}" + (f"; did you mean {near[0]}?" if near else "")
            )
    guidance, refine = own.get("guidance", {}), own.get("refine", {})
    try:
        high = float(guidance.get("high", base.guidance))
        low = guidance.get("low", base.guidance_low)
        facts = families.Defaults(
            name=base.name,
            fps=float(own.get("fps", base.fps)),
            num_frames=int(own.get("num_frames", base.num_frames)),
            sizes=tuple((int(w), int(h)) for w, h in own.get("sizes", base.sizes)),
            steps=int(own.get("steps", base.steps)),
            flow_shift=float(own.get("flow_shift", base.flow_shift)),
            guidance=high,
            guidance_low=None if low is None else float(low),
            scheduler=str(own.get("scheduler", base.scheduler)),
            refine_scale=float(refine.get("scale", base.refine_scale)),
            refine_strength=float(refine.get("strength", base.refine_strength)),
            refine_steps=int(refine.get("steps", base.refine_steps)),
            refine_color_radius=float(refine.get("color_radius", base.refine_color_radius)),
            distilled=own.get("distilled", False) is True,
            last_image=base.last_image,
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise EngineError(f"{where}: a field has the wrong type ({error})") from None
    if not facts.sizes or facts.scheduler not in SCHEDULERS or facts.steps < 1 or not facts.fps > 0:
        raise EngineError(
            f"{where}: sizes, steps and fps must be above zero, scheduler one of {', '.join(SCHEDULERS)}"
        )
    return facts


def modes_text(modes: frozenset[Mode]) -> str:
    """``t2v and i2v``, for messages."""
    return " and ".join(sorted(modes, reverse=True))
