"""Words that nobody can draw, seen while planning: a night later they would be variants that failed in assembly.

Fonts are the assembling machine's, and this one may have others: so it is a note and no bad row. A layer with a font of
its own is left out, since that font is not fetched for a plan.
"""

from __future__ import annotations

from collections.abc import Iterator

from wanflow.model import CaptionsLayer, TextLayer, Variant
from wanflow.planning import Plan, Undrawable


def undrawable_texts(plan: Plan) -> Iterator[Undrawable]:
    """One note for all texts of the variants to assemble that have a character which no font here has."""
    drawn = [(planned.variant, chars) for planned in plan.to_assemble if (chars := _chars(planned.variant))]
    if not drawn:
        return
    from wanflow.assemble.text import undrawable

    missing = undrawable("".join(sorted(set().union(*(chars for _, chars in drawn)))))
    rows = [variant.row for variant, chars in drawn if not chars.isdisjoint(missing)]
    if rows:
        yield Undrawable(tuple(missing), len(rows), min(rows))


def _chars(variant: Variant) -> set[str]:
    """All that is not ASCII: that the packaged font has, and nothing is loaded for it."""
    found: set[str] = set()
    for scene in variant.scenes:
        for layer in scene.layers:
            if isinstance(layer, TextLayer) and layer.font is None:
                found.update(layer.text)
            elif isinstance(layer, CaptionsLayer) and layer.font is None:
                found.update(*(cue.text for cue in layer.cues))
    return {char for char in found if not char.isascii()}
