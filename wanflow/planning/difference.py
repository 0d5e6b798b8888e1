"""Makes the plan: the variants that the manifest asks for, minus what the store holds.

Variants with nothing to do are held in columns (``Unchanged``), those to be made as objects: about 2 kB a variant, and
half as much for each clip that is no other variant's.
"""

from __future__ import annotations

import gc
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import starmap

from wanflow.engines.spec import read_spec
from wanflow.errors import BadRow, ManifestError
from wanflow.inputs import RULES, Inputs
from wanflow.job import Job
from wanflow.keys import master_key, stages
from wanflow.manifest import COLUMNS, Notes, read_variants
from wanflow.memo import InputMemo
from wanflow.model import Clip, EngineSpec, Mode, OutputFile, Record, RenderClip, Status, Variant
from wanflow.pins import pins_of
from wanflow.planning.branching import share_trunks
from wanflow.planning.cost import shapes_of
from wanflow.planning.failing import fail_with_clips
from wanflow.planning.force import forced_stages, open_request
from wanflow.planning.plan import ClipPlan, Forced, Gap, Lint, Plan, PlannedClip, PlannedVariant, Unmade
from wanflow.planning.retired import find_retired
from wanflow.planning.wanted import WantedClips
from wanflow.publish import Published
from wanflow.records import failures, held_clips
from wanflow.storage import Store
from wanflow.timings import expected_s, load_timings, work_of
from wanflow.unchanged import Unchanged


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's cyclic collector looks through all objects again and again while a plan grows; a plan has no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_without_collector()
def make_plan(
    job: Job,
    workspace: Store,
    target: Store,
    only: str | None = None,
    limit: int | None = None,
    skip_bad_rows: bool = False,
    force: str | None = None,
    in_full: bool = False,
) -> Plan:
    """Compare ``job`` with the store. ``force``: trunk, base, cascade, master or variant is made again, once.

    ``in_full``: unchanged variants are among the plan's variants, with all that decides them.

    Raises JobError, ManifestError (every bad row in it, unless ``skip_bad_rows``), EngineError, StoreError.
    """
    engines = read_engines(job)
    notes = Notes()
    published = Published.load(target, workspace)
    forced = open_request(workspace, job.name, force, only, limit) if force else None
    wanted = WantedClips()
    variants, bad_rows = [], []
    unchanged = Unchanged()
    #: of each record: whether its video is asked for
    asked = bytearray(published.records.table.num_rows)
    plan_id = hashlib.sha256(repr(forced and (forced.stage, forced.selection)).encode())
    memo = InputMemo.load(workspace, RULES)
    inputs = Inputs(job.directory, memo=memo, allowed=job.allowed())
    for item in read_variants(job, engines, inputs, only, limit, notes):
        if isinstance(item, BadRow):
            bad_rows.append(item)
            continue
        files = wanted.files_of(item)
        for file in files:
            plan_id.update(f"{file.path}\0{file.key}\n".encode())
        rows = [published.records.row_of(file.path) for file in files]
        for row in rows:
            if row is not None:
                asked[row] = True
        planned = _compare(item, files, rows, published, forced)
        if planned.status is Status.UNCHANGED and not in_full:
            unchanged.add(item, [row for row in rows if row is not None])
        else:
            variants.append(planned)
    if bad_rows and not skip_bad_rows:
        told = tuple(dict.fromkeys(bad_rows))
        raise ManifestError(f"{len(told)} problem(s) in the manifest; nothing was rendered", told)

    timings = load_timings(workspace)
    clips, held = _plan_clips(workspace, variants, timings, forced)
    failed = {c.task.key: c.reason for c in clips if c.decision is ClipPlan.FAILED_BEFORE}
    if failed:
        variants, clips = fail_with_clips(variants, clips, failed)
    # Rows that were left out, or could not be read, are no rows that were taken away.
    whole = only is None and limit is None and not bad_rows and job.manifest.mode == "snapshot"
    return Plan(
        engines={spec.weights: spec for spec in engines.values()},
        variants=tuple(variants),
        clips=tuple(clips),
        bad_rows=tuple(bad_rows),
        lints=tuple(_lints(notes)),
        num_clips_wanted=len(wanted.clips),
        num_clips_shared=wanted.num_uses.total() - len(wanted.clips),
        held=held,
        published=published,
        unchanged=unchanged,
        pins=pins_of(wanted.clips.values(), wanted.inputs, only is None and limit is None and not bad_rows),
        plan_id=plan_id.hexdigest()[:12],
        retired=find_retired(published, asked, job.name) if whole else (),
        unpublish=job.publish.unpublish,
        forced=forced,
        shapes=shapes_of(wanted, timings),
        memo=memo,
    )


def read_engines(job: Job) -> dict[Mode, EngineSpec]:
    """What the job's checkpoints say of themselves. A mode that its checkpoint cannot do is left out."""
    specs = {url: read_spec(url) for url in set(job.engine.checkpoints().values())}
    return {mode: specs[url] for mode, url in job.engine.checkpoints().items() if mode in specs[url].modes}


def _lints(notes: Notes) -> Iterator[Lint | Gap | Unmade]:
    """Columns that at least double the clips (prompt, image and the like are meant to: they are left out), gaps, and
    outputs that no row has.
    """
    for column, where, num_clips, num_without in notes.multipliers():
        if column not in COLUMNS and num_clips >= 2 * num_without:
            yield Lint(column, where, num_clips, num_without)
    yield from starmap(Gap, notes.gaps())
    yield from starmap(Unmade, notes.unmade)


def _compare(
    variant: Variant,
    wanted: Sequence[OutputFile],
    rows: Sequence[int | None],
    published: Published,
    forced: Forced | None,
) -> PlannedVariant:
    """Which of a variant's files the store lacks. ``rows`` are those of their records."""
    files, reasons = [], []
    for file, row in zip(wanted, rows, strict=True):
        if row is None or published.key_at(row) != file.key:
            reasons.append(_why_not(file, published))
        elif forced and forced.undoes(published.records[file.path].attempt):
            reasons.append("forced")
        else:
            continue
        files.append(file)
    if not files:
        return PlannedVariant(variant, (), Status.UNCHANGED, "")
    return PlannedVariant(variant, tuple(files), Status.LEFT, ", ".join(dict.fromkeys(reasons)))


def _why_not(file: OutputFile, published: Published) -> str:
    reason = published.reason(file.path)
    return "changed" if reason == "published" else reason


def _plan_clips(
    workspace: Store, variants: Sequence[PlannedVariant], timings: Mapping[str, float], forced: Forced | None
) -> tuple[list[PlannedClip], dict[str, Record]]:
    """The clips that changed variants need, each held, to render, or failed before; longest work first."""
    users: Counter[Clip] = Counter()
    priority: dict[Clip, int] = {}
    for planned in variants:
        if not planned.files:
            continue
        needed = {master for file in planned.files for master in file.masters}
        for clip in {clip for scene in planned.variant.scenes for _, clip in scene.clips}:
            if master_key(clip) in needed:
                users[clip] += 1
                priority[clip] = max(priority.get(clip, planned.variant.priority), planned.variant.priority)
    undone: dict[Clip, tuple[str, ...]] = {}
    held = held_clips(workspace, [master_key(clip) for clip in users])
    open_clips = [clip for clip in users if master_key(clip) not in held]
    if forced:
        open_clips, undone = _undo(workspace, users, held, forced)
    parts = dict.fromkeys(stage.key for clip in open_clips for stage in stages(clip)[:-1])
    partly = held_clips(workspace, parts.keys())
    failed = failures(workspace) if open_clips else {}

    planned_clips = []
    for clip, num_variants in users.items():
        task = RenderClip(clip, stages(clip))
        forced_keys = undone.get(clip, ())
        done = [stage.name for stage in task.stages if stage.key in partly and stage.key not in forced_keys]
        if task.key in held:
            decision, reason = ClipPlan.HELD, "in the store"
        elif task.key in failed and not forced_keys:
            decision = ClipPlan.FAILED_BEFORE
            reason = f"failed before: {failed[task.key].reason} (`wanflow retry` tries it again)"
        elif done:
            decision, reason = ClipPlan.RESUME, f"{done[-1]} is in the store"
        else:
            decision, reason = ClipPlan.RENDER, "forced" if forced_keys else "not in the store"
        planned_clips.append(
            PlannedClip(
                task,
                decision,
                reason,
                num_variants,
                priority[clip],
                work=work_of(clip),
                expected_s=expected_s(clip, timings),
                forced=forced_keys,
                makes_trunk=clip.branch is not None and not done,
                num_steps=clip.num_steps if done in ([], ["trunk"]) else 0,
            )
        )
    planned_clips.sort(key=lambda c: (-c.priority, -c.work))
    return share_trunks(planned_clips, timings), held


def _undo(
    workspace: Store, clips: Mapping[Clip, int], held: dict[str, Record], forced: Forced
) -> tuple[list[Clip], dict[Clip, tuple[str, ...]]]:
    """Take out of ``held`` what ``forced`` undoes. The clips to make, and each one's stages with undone records."""
    again = {
        clip: [stage.key for stage in stages(clip) if stage.name.partition("-")[0] in forced_stages(forced)]
        for clip in clips
    }
    parts = dict.fromkeys(key for keys in again.values() for key in keys[:-1])
    records = held_clips(workspace, parts.keys()) | held
    undone = {
        clip: tuple(key for key in keys if key in records and forced.undoes(records[key].attempt))
        for clip, keys in again.items()
    }
    for keys in undone.values():
        for key in keys:
            held.pop(key, None)
    return [clip for clip in clips if master_key(clip) not in held], undone
