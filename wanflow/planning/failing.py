"""What becomes of a plan when something that it needs cannot be had: the variants that need it fail with the reason,
and clips that no other variant shows are not rendered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from wanflow.model import Source, Status
from wanflow.planning.branching import hand_over_trunks
from wanflow.planning.plan import ClipPlan, Plan, PlannedClip, PlannedVariant


def without_sources(plan: Plan, refused: Mapping[Source, str]) -> Plan:
    """``plan`` without what is made from the ``refused`` inputs; the words say why they cannot be used."""
    variants = []
    for planned in plan.variants:
        whys = [refused[source] for source in planned.variant.sources if source in refused]
        variants.append(_failed(planned, whys[0]) if whys and planned.status is Status.LEFT else planned)
    reasons = {
        planned.task.key: refused[source]
        for planned in plan.to_render
        for source in planned.task.clip.sources
        if source in refused
    }
    variants, clips = fail_with_clips(variants, plan.clips, reasons)
    return replace(plan, variants=tuple(variants), clips=tuple(clips))


def fail_with_clips(
    variants: Iterable[PlannedVariant], clips: Sequence[PlannedClip], reasons: Mapping[str, str]
) -> tuple[list[PlannedVariant], list[PlannedClip]]:
    """Variants that show a clip which ``reasons`` has a reason for fail with it; what is left to render then.

    Clips that failed before stay, for the report.
    """
    variants = [_with_clips(planned, reasons) for planned in variants]
    users = Counter(key for v in variants for key in {master for file in v.files for master in file.masters})
    needed = [
        planned
        if planned.decision is ClipPlan.FAILED_BEFORE
        else replace(planned, num_variants=users[planned.task.key])
        for planned in clips
        if planned.decision is ClipPlan.FAILED_BEFORE or users[planned.task.key]
    ]
    return variants, hand_over_trunks(clips, needed)


def _with_clips(planned: PlannedVariant, reasons: Mapping[str, str]) -> PlannedVariant:
    found = [reasons[key] for file in planned.files for key in file.masters if key in reasons]
    return _failed(planned, found[0]) if found else planned


def _failed(planned: PlannedVariant, why: str) -> PlannedVariant:
    return PlannedVariant(planned.variant, (), Status.FAILED, why)
