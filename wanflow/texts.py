"""Words that nobody can draw, seen while planning: a night later they would be variants that failed in assembly.

Fonts are the assembling machine's, and this one may have others: so it is a note and no bad row. A layer with a font of
its own is left out, since that font is not fetched for a plan.
"""

from __future__ import annotations

from collections.abc import Iterator

from wanflow.model import TextLayer, Variant
from wanflow.planning import Plan, Undrawable


def undrawable_texts(plan: Plan) -> Iterator[Undrawable]:
    """One note for all texts of the variants to assemble that have a character which no font here has."""
    texts = [(planned.variant, text) for planned in plan.to_assemble for text in _texts(planned.variant)]
    chars = sorted({char for _, text in texts for char in text})
    if not chars:
        return
    from wanflow.assemble.text import undrawable

    missing = undrawable("".join(chars))
    rows = {variant.variant_id: variant.row for variant, text in texts if not set(missing).isdisjoint(text)}
    if rows:
        yield Undrawable(tuple(missing), len(rows), min(rows.values()))


def _texts(variant: Variant) -> Iterator[str]:
    for scene in variant.scenes:
        for layer in scene.layers:
            # the packaged font has all of ASCII, and nothing is loaded for it
            if isinstance(layer, TextLayer) and layer.font is None and not layer.text.isascii():
                yield layer.text
