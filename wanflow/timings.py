"""Measured GPU seconds by kind of clip, kept in the workspace, so that the next plan can say what it will cost.

One small JSON file, ``timings.json``: shape key -> seconds (a running mean). Losing it loses nothing but estimates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress

from wanflow.errors import StoreError
from wanflow.keys import digest
from wanflow.model import Clip
from wanflow.storage import Store

PATH = "timings.json"
#: weight of the newest measurement in the running mean
NEWEST = 0.3


def shape_key(clip: Clip) -> str:
    """Clips with the same key should take the same time on the same hardware."""
    return digest(
        "shape",
        clip.weights,
        clip.mode,
        clip.width,
        clip.height,
        clip.num_frames,
        clip.sampling,
        clip.cascade,
    )


def load_timings(workspace: Store) -> dict[str, float]:
    try:
        return {str(k): float(v) for k, v in json.loads(workspace.read(PATH)).items()}
    except FileNotFoundError:
        return {}
    except ValueError:
        return {}  # an estimate that cannot be read is no estimate


def save_timings(workspace: Store, measured: Iterable[tuple[Clip, float]]) -> None:
    """Fold ``measured`` (clip, seconds) into the file. Estimates are not worth failing a run for."""
    measured = list(measured)
    if not measured:
        return
    with suppress(StoreError):
        timings = load_timings(workspace)
        for clip, seconds in measured:
            key = shape_key(clip)
            timings[key] = timings.get(key, seconds) * (1 - NEWEST) + seconds * NEWEST
        workspace.write(PATH, json.dumps(timings, sort_keys=True).encode())
