"""The Plan: what the manifest asks for minus what the store holds, in order, with reasons and cost.

``difference`` makes it (``wanted``: what is asked for, with keys) and ``plan`` says what it is. ``why`` explains it
against what was published before (``changes``: old -> new), ``cost`` prices it, ``limits`` refuses one that goes too
far, ``force`` makes done work count as undone, ``retired`` finds what nobody asks for any more, ``rows`` writes it into
the run directory and reads it back, ``quiet`` recognises that there is nothing to plan.

Planning reads the manifest and lists the store; it renders, assembles and publishes nothing. It knows neither replicas
nor attempts.
"""

from __future__ import annotations

from wanflow.planning.difference import make_plan, read_engines
from wanflow.planning.plan import ClipPlan, Lint, Plan, PlannedClip, PlannedVariant, Undrawable

__all__ = [
    "ClipPlan",
    "Lint",
    "Plan",
    "PlannedClip",
    "PlannedVariant",
    "Undrawable",
    "make_plan",
    "read_engines",
]
