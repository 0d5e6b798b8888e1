"""What a branch point costs and what it holds together: pocket's clips that share more or fewer of their steps.

::

    python -m benchmarks.branching [--groups N] [--at SHARE,...] [--checkpoint URL] [--json]

A group is a base prompt (the first: an orange star drifting left over navy) and four variants, each of which says one
thing otherwise: colour, background, kind or motion. All clips of a group have one seed. For each branch point (0: every
clip by itself, from the same noise) it is measured from pixels, by pocket's own detectors:

``own``        of the variants, the share that shows its own word: what the branch point takes away (also a field each)
``rest``       of what the variants have in common with the base, the share that is shown
``pixels``     mean absolute difference of two variants of a group, of 255: the smaller the more alike
``overlap``    of the subjects of two variants, intersection over union: 1 is one composition
``steps``      denoise steps of a group, and as ``steps_share`` of those without a branch
``cpu_s``      processor seconds of its denoising, text and all, decoding left out

Sampling is the checkpoint's own; a clip takes about a second.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

import numpy as np

from wanflow.engines import Engine, branch_steps, load_engine, read_spec
from wanflow.engines.trunk import FromBranch
from wanflow.model import Branch, Clip, EngineSpec, Mode
from wanflow.pocket.detect import detect, detect_colours, subject_masks
from wanflow.pocket.scenes import BACKGROUND_COLOURS, INVISIBLE, MOTIONS, SHAPES, SUBJECT_COLOURS, Scene

FIELDS = ("colour", "background", "kind", "motion")
POINTS = "0,0.25,boundary,0.5,0.75"
#: what a field may say
WORDS = {
    "colour": tuple(SUBJECT_COLOURS),
    "background": tuple(BACKGROUND_COLOURS),
    "kind": SHAPES,
    "motion": MOTIONS,
}


@dataclass(frozen=True)
class Group:
    """A base scene, and by the field that it says otherwise each variant's."""

    base: Scene
    variants: dict[str, Scene]


@dataclass(frozen=True)
class Made:
    """A variant's clip, as the detectors see it."""

    changed: str
    scene: Scene
    frames: np.ndarray
    seen: dict[str, str]
    #: where the subject is, (frames, height, width)
    subject: np.ndarray


def prompt_of(scene: Scene) -> str:
    article = "an" if scene.colour[0] in "aeiou" else "a"
    motion = scene.motion if scene.motion in ("growing", "shrinking") else f"drifting {scene.motion}"
    return f"{article} {scene.colour} {scene.kind} {motion} over {scene.background}"


def draw_groups(num: int) -> list[Group]:
    """The same for the same number, and for a larger one the same first ones."""
    draw = random.Random(6)
    bases = [Scene("star", "orange", "navy", "left", "large", 0)]
    while len(bases) < num:
        words = {name: draw.choice(options) for name, options in WORDS.items()}
        scene = Scene(
            words["kind"], words["colour"], words["background"], words["motion"], "large", len(bases)
        )
        if (scene.colour, scene.background) not in INVISIBLE:
            bases.append(scene)
    return [Group(base, _variants(base)) for base in bases]


def _variants(base: Scene) -> dict[str, Scene]:
    draw = random.Random(base.seed)
    found = {}
    for name in FIELDS:
        while name not in found:
            scene = _with(base, name, draw.choice(WORDS[name]))
            if scene != base and (scene.colour, scene.background) not in INVISIBLE:
                found[name] = scene
    return found


def _with(scene: Scene, name: str, word: str) -> Scene:
    return Scene(**{each: getattr(scene, each) for each in (*FIELDS, "scale", "seed")} | {name: word})


def steps_of(spec: EngineSpec, at: str) -> int:
    """Steps of the trunk at a point as it is written on the command line."""
    if at == "boundary":
        return branch_steps(spec, spec.sampling, "boundary")
    return branch_steps(spec, spec.sampling, float(at)) if float(at) else 0


def render(engine: Engine, group: Group, trunk_steps: int) -> tuple[list[Made], int, float]:
    """The variants of a group; denoise steps and processor seconds that they took."""
    spec = engine.spec
    width, height = spec.sizes[0]
    plain = Clip(
        Mode.T2V, spec.weights, "", "", None, group.base.seed, width, height, spec.num_frames, spec.fps, spec.sampling
    )  # fmt: skip
    num_steps, begun_s = 0, time.process_time()

    def count(stage: str, step: int, of: int) -> None:
        nonlocal num_steps
        num_steps += stage in ("trunk", "denoise") and step > first[stage]

    first = {"trunk": 0, "denoise": trunk_steps}
    branch = Branch(prompt_of(group.base), trunk_steps) if trunk_steps else None
    trunk = engine.trunk(replace(plain, branch=branch), (), count) if branch else None
    latents = {}
    for name, scene in group.variants.items():
        clip = replace(plain, prompt=prompt_of(scene), branch=branch)
        latents[name] = engine.generate(clip, (), count, FromBranch(trunk, None) if trunk else None)
    spent_s = time.process_time() - begun_s
    made = [
        _look(name, group.variants[name], np.concatenate([*engine.frames(engine.decode_pixels(x))]))
        for name, x in latents.items()
    ]
    return made, num_steps, spent_s


def _look(changed: str, scene: Scene, frames: np.ndarray) -> Made:
    seen = detect(frames)
    floats = frames.astype(np.float32) / np.float32(255)
    subject = subject_masks(floats, *detect_colours(floats)) > 0.5
    return Made(changed, scene, frames, {name: getattr(seen, name) for name in FIELDS}, subject)


def measure(made: list[list[Made]]) -> dict[str, float]:
    """The figures of one branch point, over all groups."""
    right = [
        (each, name, each.seen[name] == getattr(each.scene, name))
        for group in made
        for each in group
        for name in FIELDS
    ]
    pairs = [pair for group in made for pair in combinations(group, 2)]
    own = {name: fmean(ok for each, field, ok in right if field == name == each.changed) for name in FIELDS}
    return {
        "own": fmean(own.values()),
        **{f"own_{name}": value for name, value in own.items()},
        "rest": fmean(ok for each, field, ok in right if field != each.changed),
        "pixels": fmean(float(np.abs(a.frames.astype(np.int16) - b.frames).mean()) for a, b in pairs),
        "overlap": fmean(_overlap(a.subject, b.subject) for a, b in pairs),
    }


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def curve(engine: Engine, groups: list[Group], points: list[str]) -> Iterator[dict[str, float | str]]:
    """A row a branch point, in the order of their steps."""
    spec = engine.spec
    for trunk_steps, at in sorted((steps_of(spec, at), at) for at in points):
        rendered = [render(engine, group, trunk_steps) for group in groups]
        num_steps = rendered[0][1]
        facts = measure([made for made, _, _ in rendered])
        yield {
            "at": at,
            "trunk_steps": trunk_steps,
            "steps": num_steps,
            "steps_share": num_steps / (len(FIELDS) * spec.sampling.steps),
            "cpu_s": fmean(spent_s for _, _, spent_s in rendered),
            **facts,
        }


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=12)
    parser.add_argument("--at", default=POINTS, help="branch points, with commas (default: %(default)s)")
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="end with the figures in one line")
    arguments = parser.parse_args()
    engine = load_engine(read_spec(arguments.checkpoint), num_threads=arguments.threads)
    own = ("own", *(f"own_{name}" for name in FIELDS))
    columns = ("at", "trunk_steps", "steps", "steps_share", *own, "rest", "pixels", "overlap", "cpu_s")
    print("  ".join(f"{name.removeprefix('own_'):>11}" for name in columns), flush=True)
    rows = []
    for row in curve(engine, draw_groups(arguments.groups), arguments.at.split(",")):
        rows.append(
            {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
        )
        print("  ".join(f"{_shown(row[name]):>11}" for name in columns), flush=True)
    if arguments.json:
        facts = {"groups": arguments.groups, "variants": len(FIELDS), "weights": engine.spec.weights[:12]}
        print(json.dumps({**facts, "points": rows}))


def _shown(value: float | str) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
