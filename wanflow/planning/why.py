"""Why each thing of a plan is made: what was published before beside what is asked for now, old -> new.

What was published before stands in the ``plan.parquet`` of the run that published it (its record names the run), or,
for ``--diff RUN``, of the run that is asked for. Where that is gone the reason is only "changed". Reads the run
directories of the workspace; decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from wanflow import __version__
from wanflow.errors import StoreError
from wanflow.ledger import Ledger
from wanflow.model import Clip, ImageLayer, OutputFile, Status, Variant
from wanflow.planning.changes import (
    Change,
    Reason,
    change,
    compare_clips,
    compare_layers,
    compare_sounds,
    compare_versions,
    differing,
)
from wanflow.planning.plan import ClipPlan, Plan, PlannedClip, PlannedVariant
from wanflow.planning.rows import (
    FormerFile,
    FormerPlan,
    asked_of,
    describe_clip,
    describe_layer,
    describe_output,
    describe_sound,
    former_plan,
)
from wanflow.storage import Store

#: characters of a file's reasons that its record keeps
_LINE = 300


@dataclass(frozen=True, slots=True)
class Why:
    """Why one thing is made."""

    #: ``clip`` or ``variant``
    kind: str
    #: key of the clip's master, or id of the variant
    id: str
    #: where the file is published; empty for a clip
    path: str
    changes: tuple[Change, ...]
    #: of a clip with a branch, how many of its steps it takes itself
    takes: str = ""

    def __str__(self) -> str:
        return "; ".join([*map(str, self.changes), *([self.takes] if self.takes else [])])

    def to_json(self) -> dict[str, Any]:
        changes = [
            {"reason": c.reason.value, "what": c.what, "old": c.old, "new": c.new} for c in self.changes
        ]
        return {"kind": self.kind, "id": self.id, "path": self.path, "changes": changes, "takes": self.takes}


def explain(plan: Plan, workspace: Store) -> list[Why]:
    """Why each file is assembled and each clip rendered; what failed before is told too."""
    former = Former(workspace)
    found: list[Why] = []
    of_clips: dict[str, dict[Change, None]] = {}
    for planned in plan.variants:
        if planned.status is Status.FAILED:
            changes: tuple[Change, ...] = (_failed(planned.reason),)
            found.append(Why("variant", planned.variant.variant_id, planned.variant.outputs[0][1], changes))
        for file in planned.files:
            record = plan.published.records.get(file.path)
            before, old = FormerPlan(), None
            if record is not None:
                before = former.plan(str(dict(record.info).get("run_id", "")))
                old = before.files.get(file.path)
            if record is not None and record.key == file.key:
                live = plan.published.key_of(file.path) == file.key
                changes = (
                    Change(Reason.FORCED)
                    if live
                    else Change(Reason.MISSING, plan.published.reason(file.path)),
                )
            elif record is None:
                told = plan.published.reason(file.path)
                changes = (Change(Reason.NEW) if told == "never published" else Change(Reason.MISSING, told),)
            else:
                changes = tuple(dict.fromkeys(_differences(planned.variant, file, old, before)))
            found.append(Why("variant", planned.variant.variant_id, file.path, changes))
            for scene, key in enumerate(file.masters):
                of_clips.setdefault(key, {}).update(
                    dict.fromkeys(_clip_changes(planned, file, scene, key, old, before))
                )
    return [*_explain_clips(plan, of_clips), *found]


def explain_against(plan: Plan, workspace: Store, run_id: str) -> list[Why]:
    """How every file that is asked for now differs from what run ``run_id`` asked for; equal ones are left out.

    ``plan`` is made in full.
    """
    assert not len(plan.unchanged), "made in full"
    table = Ledger(workspace, run_id).read_plan()
    if table is None:
        raise StoreError(
            f"{workspace.url}/runs/{run_id} has no plan: it had nothing to do, or there is no such run"
        )
    former, then, asked = Former(workspace), former_plan(table), list(asked_of(table))
    makers = {path: run for _, files in asked for path, run in files.items()}
    found = []
    seen = set()
    for planned in plan.variants:
        variant = planned.variant
        seen.add(variant.variant_id)
        for file in wanted_files(variant):
            seen.add(file.path)
            before, old = then, then.files.get(file.path)
            maker = makers.get(file.path) or makers.get(variant.variant_id)
            if old is None and maker:
                before = former.plan(maker)
                old = before.files.get(file.path)
                if old is None:
                    continue
            if old is None:
                found.append(Why("variant", variant.variant_id, file.path, (Change(Reason.NEW),)))
            elif old.key != file.key:
                changes = tuple(dict.fromkeys(_differences(variant, file, old, before)))
                found.append(Why("variant", variant.variant_id, file.path, changes))
    found += [
        Why("variant", name, path if path != name else "", (Change(Reason.GONE),))
        for name, files in asked
        for path in files
        if path not in seen
    ]
    return found


def wanted_files(variant: Variant) -> Iterator[OutputFile]:
    """Every file of a variant, made or not."""
    from wanflow.keys import master_key, output_key

    for output, path in variant.outputs:
        masters = tuple(master_key(scene.clip(output.aspect)) for scene in variant.scenes)
        yield OutputFile(output, path, output_key(variant, output), masters)


def count_reasons(whys: Iterable[Why], kind: str = "variant") -> dict[str, int]:
    """Reason -> number of variants (or clips) that have it, most frequent first."""
    counted = Counter(
        reason for why in whys if why.kind == kind for reason in {c.reason.value for c in why.changes}
    )
    return dict(counted.most_common())


def reasons_of_files(plan: Plan, workspace: Store) -> dict[str, str]:
    """Path of each file to assemble -> why, in a line."""
    found = {}
    for why in explain(plan, workspace):
        if why.path:
            words = str(why)
            found[why.path] = words if len(words) <= _LINE else f"{words[: _LINE - 3]}..."
    return found


class Former:
    """The plans of earlier runs, each read once."""

    def __init__(self, workspace: Store) -> None:
        self._workspace = workspace
        self._plans: dict[str, FormerPlan] = {}

    def plan(self, run_id: str) -> FormerPlan:
        """The plan of ``run_id``; an empty one when it is gone or cannot be read."""
        if run_id not in self._plans:
            self._plans[run_id] = self._read(run_id)
        return self._plans[run_id]

    def _read(self, run_id: str) -> FormerPlan:
        if not run_id or "/" in run_id:
            return FormerPlan()
        try:
            return former_plan(Ledger(self._workspace, run_id).read_plan())
        except (ValueError, KeyError, TypeError):  # damaged, or of a wanflow that wrote it otherwise
            return FormerPlan()


def _explain_clips(plan: Plan, of_clips: Mapping[str, Mapping[Change, None]]) -> Iterator[Why]:
    for clip in plan.clips:
        if clip.decision is ClipPlan.FAILED_BEFORE:
            yield Why("clip", clip.task.key, "", (_failed(clip.reason),))
        elif clip.decision in (ClipPlan.RENDER, ClipPlan.RESUME):
            changes = (Change(Reason.FORCED),) if clip.forced else tuple(of_clips.get(clip.task.key, {}))
            yield Why("clip", clip.task.key, "", changes or (Change(Reason.MISSING),), _takes(clip))


def _failed(reason: str) -> Change:
    return Change(Reason.FAILED_BEFORE, reason.removeprefix(f"{Reason.FAILED_BEFORE}: "))


def _takes(planned: PlannedClip) -> str:
    branch, num_steps = planned.task.clip.branch, planned.task.clip.sampling.steps
    if branch is None or not planned.num_steps:
        return ""
    if planned.makes_trunk:
        return f"takes {num_steps} steps, the first {branch.steps} as the trunk of its group"
    whose = "which the store holds" if planned.decision is ClipPlan.RESUME else "which another clip makes"
    return f"takes {planned.num_steps} of {num_steps} steps, behind a trunk {whose}"


def _clip_changes(
    planned: PlannedVariant,
    file: OutputFile,
    scene: int,
    key: str,
    old: FormerFile | None,
    before: FormerPlan,
) -> Iterator[Change]:
    """Why a variant's scene has another master than before; nothing when it has the same."""
    if old is not None and key in old.masters:
        return
    then_at = None if old is None else dict(_paired(old.masters, file.masters)).get(scene)
    if old is None or then_at is None:
        yield Change(Reason.NEW)
    else:
        clip = planned.variant.scenes[scene].clip(file.output.aspect)
        was = old.clips[then_at]
        found = [*compare_clips(was, describe_clip(clip))] if was else []
        found += compare_versions(
            before.versions, (*_latents(clip), *(step.method for step in clip.cascade), "master")
        )
        yield from found or [Change(Reason.CHANGED)]


def _latents(clip: Clip) -> tuple[str, ...]:
    """What has a version of its own and decides a clip's base latents."""
    given = {"trunk": clip.branch, "picture": clip.images, "video": clip.video}
    return ("base", *(name for name, value in given.items() if value))


def _paired(then: Sequence[str], now: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(scene now, scene then) of the scenes that stayed, by their masters, or were changed in their place; one that
    came or went, or moved, has no other.
    """
    matcher = SequenceMatcher(None, then, now, autojunk=False)
    for _, then_from, then_to, now_from, now_to in matcher.get_opcodes():
        yield from zip(range(now_from, now_to), range(then_from, then_to), strict=False)


def _moved(sound: Mapping[str, Any], places: Mapping[int, int], num_scenes: int) -> Mapping[str, Any]:
    """What was heard, its voices where their scenes are now (``places``: scene now -> scene then)."""
    voices = dict(enumerate(sound.get("voices") or ()))
    return sound and {**sound, "voices": [voices.get(places.get(now, -1)) for now in range(num_scenes)]}


def _differences(
    variant: Variant, file: OutputFile, old: FormerFile | None, before: FormerPlan
) -> Iterator[Change]:
    if old is None:
        yield Change(Reason.CHANGED)
        return
    found: list[Change] = []
    used = ["base", "master", "output"]
    pairs = [*_paired(old.masters, file.masters)]
    if len(old.masters) != len(file.masters):
        found.append(Change(Reason.CLIP, "scenes", str(len(old.masters)), str(len(file.masters))))
    elif len(pairs) != len(file.masters):
        is_order = sorted(old.masters) == sorted(file.masters)
        found.append(Change(Reason.CLIP, "order of the scenes" if is_order else "scenes that came and went"))
    for now_at, then_at in pairs:
        clip, was = variant.scenes[now_at].clip(file.output.aspect), old.clips[then_at]
        used += [*_latents(clip), *(step.method for step in clip.cascade)]
        found += compare_clips(was, describe_clip(clip)) if was else [Change(Reason.CHANGED)]
    for now_at, then_at in pairs:
        layers = variant.scenes[now_at].layers
        used += ["picture" for layer in layers if isinstance(layer, ImageLayer)]
        found += compare_layers(old.layers[then_at], [describe_layer(layer) for layer in layers])
    found += compare_sounds(_moved(old.sound, dict(pairs), len(file.masters)), describe_sound(variant))
    used += ["sound"] if variant.has_sound else []
    now = describe_output(file.output)
    found += [change(Reason.OUTPUT, n, old.output, now) for n in differing(old.output, now) if n != "name"]
    found += compare_versions(before.versions, dict.fromkeys(used))
    yield from found or [Change(Reason.CHANGED, "keys of wanflow", before.wanflow, __version__)]
