"""Who makes a trunk: of the clips to render that share one, the first; the others are spared it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from wanflow.planning.plan import ClipPlan, PlannedClip
from wanflow.timings import expected_s, work_of


def share_trunks(clips: Iterable[PlannedClip], timings: Mapping[str, float]) -> list[PlannedClip]:
    """``clips`` (in order, ``makes_trunk`` where a clip has a branch and neither trunk nor base is in the store), with
    one maker a trunk, and the work of the others without it; in order again, longest work first.
    """
    found = []
    taken: set[str] = set()
    for planned in clips:
        clip, trunk = planned.task.clip, _trunk(planned)
        if clip.branch is None or planned.decision not in (ClipPlan.RENDER, ClipPlan.RESUME):
            found.append(replace(planned, makes_trunk=False) if planned.makes_trunk else planned)
        elif planned.makes_trunk and trunk not in taken:
            taken.add(trunk)
            found.append(planned)
        else:
            whole_s, rest_s = planned.expected_s, expected_s(clip, timings, makes_trunk=False)
            num_shared = clip.branch.steps if planned.num_steps else 0
            shared_s = None if whole_s is None or rest_s is None else max(whole_s - rest_s, 0.0)
            found.append(
                replace(
                    planned,
                    makes_trunk=False,
                    work=work_of(clip, makes_trunk=False),
                    expected_s=rest_s,
                    num_steps=planned.num_steps - num_shared,
                    num_steps_shared=num_shared,
                    shared_s=shared_s if num_shared else 0.0,
                )
            )
    return sorted(found, key=_order)


def hand_over_trunks(before: Iterable[PlannedClip], clips: Iterable[PlannedClip]) -> list[PlannedClip]:
    """``clips``, what is left of ``before``, in order again: where the maker of a trunk is gone, the next makes it."""
    clips = list(clips)
    makers = [{_trunk(each) for each in some if each.makes_trunk} for some in (before, clips)]
    orphans = makers[0] - makers[1]
    for i, planned in enumerate(clips):
        if planned.num_steps_shared and _trunk(planned) in orphans:
            orphans.remove(_trunk(planned))
            is_known = planned.expected_s is not None and planned.shared_s is not None
            clips[i] = replace(
                planned,
                makes_trunk=True,
                work=work_of(planned.task.clip),
                expected_s=(planned.expected_s or 0.0) + (planned.shared_s or 0.0) if is_known else None,
                num_steps=planned.num_steps + planned.num_steps_shared,
                num_steps_shared=0,
                shared_s=0.0,
            )
    return sorted(clips, key=_order)


def _trunk(planned: PlannedClip) -> str:
    return planned.task.stages[0].key


def _order(planned: PlannedClip) -> tuple[int, float]:
    return -planned.priority, -planned.work
