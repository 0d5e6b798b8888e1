"""Measured GPU seconds by kind of clip, kept in the workspace, so that the next plan can say what it will cost.

One small JSON file, ``timings.json``: shape key -> seconds (a running mean), and for each engine its pace, seconds a
unit of work, from which clips of other shapes are estimated. Losing it loses nothing but estimates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress

from wanflow.errors import StoreError
from wanflow.keys import digest
from wanflow.model import Clip, Scalar
from wanflow.storage import Store

PATH = "timings.json"
#: weight of the newest measurement in the running mean
NEWEST = 0.3


def shape_key(clip: Clip, makes_trunk: bool = True) -> str:
    """Clips with the same key should take the same time on the same hardware.

    ``makes_trunk``: of a clip with a branch, whether its trunk's steps are among what it takes.
    """
    branch = () if clip.branch is None else (clip.branch.steps, makes_trunk)
    return digest(
        "shape",
        clip.weights,
        clip.mode,
        clip.width,
        clip.height,
        clip.num_frames,
        clip.sampling,
        clip.cascade,
        *branch,
        *([("steps", clip.num_steps)] if clip.video else ()),
    )


def expected_s(clip: Clip, timings: Mapping[str, float], makes_trunk: bool = True) -> float | None:
    """Seconds that ``clip`` should take: as measured, else by its engine's pace; None when that was never measured."""
    measured = timings.get(shape_key(clip, makes_trunk))
    pace = timings.get(_pace_key(clip))
    return measured if measured is not None or pace is None else pace * work_of(clip, makes_trunk)


def load_timings(workspace: Store) -> dict[str, float]:
    try:
        return {str(k): float(v) for k, v in json.loads(workspace.read(PATH)).items()}
    except FileNotFoundError:
        return {}
    except ValueError:
        return {}  # an estimate that cannot be read is no estimate


def save_timings(
    workspace: Store, measured: Iterable[tuple[Clip, float]], sharing: Iterable[tuple[Clip, float]] = ()
) -> None:
    """Fold ``measured`` (clip, seconds) into the file. Estimates are not worth failing a run for.

    ``sharing``: the same of clips whose trunk was there already.
    """
    all_measured = [*((True, *each) for each in measured), *((False, *each) for each in sharing)]
    if not all_measured:
        return
    with suppress(StoreError):
        timings = load_timings(workspace)
        for makes_trunk, clip, seconds in all_measured:
            pace = seconds / work_of(clip, makes_trunk)
            for key, value in ((shape_key(clip, makes_trunk), seconds), (_pace_key(clip), pace)):
                timings[key] = timings.get(key, value) * (1 - NEWEST) + value * NEWEST
        workspace.write(PATH, json.dumps(timings, sort_keys=True).encode())


def _pace_key(clip: Clip) -> str:
    return digest("pace", clip.weights)


def work_of(clip: Clip, makes_trunk: bool = True) -> float:
    """Relative cost of rendering a clip: forwards times tokens, attention's square included. Without
    ``makes_trunk``, the steps of the trunk that it shares are somebody else's.

    Tokens are 16 x 16 pixels and four frames, as in the Wan family; a cascade step counts at its own size. Only the
    ratios matter: they order the work until real seconds are known.
    """

    def cost(width: float, height: float, forwards: float) -> float:
        tokens = (width / 16) * (height / 16) * ((clip.num_frames - 1) // 4 + 1)
        return forwards * tokens * (1 + tokens / 30_000)

    until = clip.sampling.shortcuts.guidance_until if clip.sampling.shortcuts else 1.0
    guided = 1 + until if clip.sampling.guidance > 1 else 1
    shared = 0 if clip.branch is None or makes_trunk else clip.branch.steps
    total = cost(clip.width, clip.height, (clip.num_steps - shared) * guided)
    scale = 1.0
    for step in clip.cascade:
        params = dict(step.params)
        scale *= _number(params.get("scale"), 1.0)
        share = _number(params.get("strength"), 1.0)
        total += cost(clip.width * scale, clip.height * scale, clip.sampling.steps * share * guided)
    return total


def _number(value: Scalar, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default
