"""The Plan: what the manifest asks for minus what the store holds, in order, with reasons.

Planning reads the manifest and lists the store; it renders, assembles and writes nothing. It knows neither replicas
nor attempts. The whole plan is held in memory: about 3 kB a variant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from wanflow.engines.spec import read_spec
from wanflow.errors import BadRow, ManifestError
from wanflow.inputs import Inputs
from wanflow.job import Job
from wanflow.keys import master_key, output_key, stages
from wanflow.manifest import COLUMNS, Sharing, read_variants
from wanflow.model import (
    Clip,
    EngineSpec,
    Mode,
    OutputFile,
    Record,
    RenderClip,
    Scalar,
    Status,
    Variant,
)
from wanflow.publish import Published
from wanflow.records import failures, held_clips
from wanflow.storage import Store
from wanflow.timings import load_timings, shape_key


class ClipPlan(StrEnum):
    """What the plan decided for a clip."""

    RENDER = "render"
    #: a part of its stages is in the store
    RESUME = "resume"
    HELD = "held"
    #: it failed in an earlier run in a way that would repeat
    FAILED_BEFORE = "failed_before"


@dataclass(frozen=True, slots=True)
class PlannedClip:
    task: RenderClip
    decision: ClipPlan
    reason: str
    num_variants: int
    priority: int
    #: relative cost of rendering it from the start, in denoised latent tokens
    work: float
    #: GPU seconds measured on clips of the same engine, size and steps; None: never measured
    expected_s: float | None


@dataclass(frozen=True, slots=True)
class PlannedVariant:
    variant: Variant
    #: files to assemble; empty: nothing to do
    files: tuple[OutputFile, ...]
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Lint:
    """A column that multiplies clips."""

    column: str
    where: str
    num_clips: int
    num_clips_without: int

    def __str__(self) -> str:
        return (
            f"{self.column} in {self.where}: {self.num_clips:,} clips; without it {self.num_clips_without:,}"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    engines: Mapping[str, EngineSpec]
    variants: tuple[PlannedVariant, ...]
    clips: tuple[PlannedClip, ...]
    bad_rows: tuple[BadRow, ...]
    lints: tuple[Lint, ...]
    #: clips that the whole manifest asks for, changed or not
    num_clips_wanted: int
    #: clips saved by sharing: one a variant and aspect, minus ``num_clips_wanted``
    num_clips_shared: int
    #: masters that are already in the store, by key
    held: Mapping[str, Record] = field(default_factory=dict)
    #: what was published when the plan was made
    published: Published = field(default_factory=Published)

    @property
    def to_render(self) -> tuple[PlannedClip, ...]:
        return tuple(c for c in self.clips if c.decision in (ClipPlan.RENDER, ClipPlan.RESUME))

    @property
    def to_assemble(self) -> tuple[PlannedVariant, ...]:
        return tuple(v for v in self.variants if v.status is Status.LEFT)

    @property
    def sharing(self) -> Mapping[str, int]:
        """How many of the files to assemble show each master that is to be rendered: they share its cost."""
        users = Counter(
            key for planned in self.to_assemble for file in planned.files for key in set(file.masters)
        )
        return {planned.task.key: users[planned.task.key] for planned in self.to_render}

    @property
    def is_empty(self) -> bool:
        """Nothing to render and nothing to assemble."""
        return not self.to_assemble

    @property
    def expected_gpu_s(self) -> float | None:
        """GPU seconds of all clips to render, from what was measured; None: some were never measured."""
        seconds = [c.expected_s for c in self.to_render]
        return None if None in seconds else sum(s for s in seconds if s is not None)


def make_plan(
    job: Job,
    workspace: Store,
    target: Store,
    only: str | None = None,
    limit: int | None = None,
    skip_bad_rows: bool = False,
) -> Plan:
    """Compare ``job`` with the store.

    Raises JobError, ManifestError (every bad row in it, unless ``skip_bad_rows``), EngineError, StoreError.
    """
    engines = read_engines(job)
    sharing = Sharing()
    published = Published.load(target, workspace)
    variants, bad_rows = [], []
    wanted: Counter[Clip] = Counter()
    # What is in the workspace was looked at when it came there: its bytes need not be decoded again.
    verified = {stat.path.rpartition("/")[2] for stat in workspace.list("inputs")}
    inputs = Inputs(job.directory, verified=verified)
    for item in read_variants(job, engines, inputs, only, limit, sharing):
        if isinstance(item, BadRow):
            bad_rows.append(item)
            continue
        needed = {clip for scene in item.scenes for _, clip in scene.clips}
        wanted.update(needed)
        variants.append(_compare(item, published))
    if bad_rows and not skip_bad_rows:
        raise ManifestError(
            f"{len(bad_rows)} problem(s) in the manifest; nothing was rendered", tuple(bad_rows)
        )

    clips, held = _plan_clips(workspace, variants)
    failed = {c.task.key: c.reason for c in clips if c.decision is ClipPlan.FAILED_BEFORE}
    if failed:
        variants = [_fail_with_clips(v, failed) for v in variants]
        clips = _still_needed(clips, variants)
    return Plan(
        engines={spec.weights: spec for spec in engines.values()},
        variants=tuple(variants),
        clips=tuple(clips),
        bad_rows=tuple(bad_rows),
        lints=tuple(_lints(sharing)),
        num_clips_wanted=len(wanted),
        num_clips_shared=sum(wanted.values()) - len(wanted),
        held=held,
        published=published,
    )


def read_engines(job: Job) -> dict[Mode, EngineSpec]:
    """What the job's checkpoints say of themselves. A mode that its checkpoint cannot do is left out."""
    specs = {url: read_spec(url) for url in set(job.engine.checkpoints().values())}
    return {mode: specs[url] for mode, url in job.engine.checkpoints().items() if mode in specs[url].modes}


def plan_rows(plan: Plan) -> list[dict[str, Scalar]]:
    """The plan as rows for ``plan.parquet``: a row a variant, and a row a clip that they need."""
    rows: list[dict[str, Scalar]] = [
        {
            "kind": "variant",
            "id": planned.variant.variant_id,
            "row": planned.variant.row,
            "status": planned.status.value,
            "reason": planned.reason,
            "files": len(planned.files),
            "prompt": None,
        }
        for planned in plan.variants
    ]
    rows += [
        {
            "kind": "clip",
            "id": planned.task.key,
            "row": None,
            "status": planned.decision.value,
            "reason": planned.reason,
            "files": planned.num_variants,
            "prompt": planned.task.clip.prompt,
        }
        for planned in plan.clips
    ]
    return rows


def _lints(sharing: Sharing) -> Iterator[Lint]:
    """Columns that at least double the clips. Prompt, image and the like are meant to: they are left out."""
    for column, where, num_clips, num_without in sharing.multipliers():
        if column not in COLUMNS and num_clips >= 2 * num_without:
            yield Lint(column, where, num_clips, num_without)


def _compare(variant: Variant, published: Published) -> PlannedVariant:
    """Which of a variant's files the store lacks."""
    files, reasons = [], []
    for output, path in variant.outputs:
        key = output_key(variant, output)
        if published.key_of(path) == key:
            continue
        masters = tuple(master_key(scene.clip(output.aspect)) for scene in variant.scenes)
        files.append(OutputFile(output, path, key, masters))
        reasons.append(published.reason(path) or "changed")
    if not files:
        return PlannedVariant(variant, (), Status.UNCHANGED, "")
    return PlannedVariant(variant, tuple(files), Status.LEFT, ", ".join(dict.fromkeys(reasons)))


def _plan_clips(
    workspace: Store, variants: Sequence[PlannedVariant]
) -> tuple[list[PlannedClip], dict[str, Record]]:
    """The clips that changed variants need, each held, to render, or failed before; longest work first."""
    users: Counter[Clip] = Counter()
    priority: dict[Clip, int] = {}
    for planned in variants:
        needed = {master for file in planned.files for master in file.masters}
        for clip in {clip for scene in planned.variant.scenes for _, clip in scene.clips}:
            if master_key(clip) in needed:
                users[clip] += 1
                priority[clip] = max(priority.get(clip, planned.variant.priority), planned.variant.priority)
    held = held_clips(workspace, [master_key(clip) for clip in users])
    open_clips = [clip for clip in users if master_key(clip) not in held]
    partly = held_clips(workspace, [stage.key for clip in open_clips for stage in stages(clip)[:-1]])
    failed = failures(workspace) if open_clips else {}
    timings = load_timings(workspace) if users else {}

    planned_clips = []
    for clip, num_variants in users.items():
        task = RenderClip(clip, stages(clip))
        done = [stage.name for stage in task.stages if stage.key in partly]
        if task.key in held:
            decision, reason = ClipPlan.HELD, "in the store"
        elif task.key in failed:
            decision = ClipPlan.FAILED_BEFORE
            reason = f"failed before: {failed[task.key].reason} (`wanflow retry` tries it again)"
        elif done:
            decision, reason = ClipPlan.RESUME, f"{done[-1]} is in the store"
        else:
            decision, reason = ClipPlan.RENDER, "not in the store"
        planned_clips.append(
            PlannedClip(
                task,
                decision,
                reason,
                num_variants,
                priority[clip],
                work=_work(clip),
                expected_s=timings.get(shape_key(clip)),
            )
        )
    planned_clips.sort(key=lambda c: (-c.priority, -c.work))
    return planned_clips, held


def _still_needed(clips: Sequence[PlannedClip], variants: Sequence[PlannedVariant]) -> list[PlannedClip]:
    """What is left to render once the variants of failed clips are out; failed clips stay, for the report."""
    users = Counter(key for v in variants for key in {master for file in v.files for master in file.masters})
    return [
        replace(clip, num_variants=users[clip.task.key])
        if clip.decision is not ClipPlan.FAILED_BEFORE
        else clip
        for clip in clips
        if clip.decision is ClipPlan.FAILED_BEFORE or users[clip.task.key]
    ]


def _fail_with_clips(planned: PlannedVariant, failed: Mapping[str, str]) -> PlannedVariant:
    reasons = [failed[key] for file in planned.files for key in file.masters if key in failed]
    if not reasons:
        return planned
    return PlannedVariant(planned.variant, (), Status.FAILED, reasons[0])


def _work(clip: Clip) -> float:
    """Relative cost of rendering a clip: forwards times tokens, attention's square included.

    Tokens are 16 x 16 pixels and four frames, as in the Wan family; a cascade step counts at its own size. Only the
    ratios matter: they order the work until real seconds are known.
    """

    def cost(width: float, height: float, forwards: float) -> float:
        tokens = (width / 16) * (height / 16) * ((clip.num_frames - 1) // 4 + 1)
        return forwards * tokens * (1 + tokens / 30_000)

    guided = 2 if clip.sampling.guidance > 1 else 1
    total = cost(clip.width, clip.height, clip.sampling.steps * guided)
    scale = 1.0
    for step in clip.cascade:
        params = dict(step.params)
        scale *= _number(params.get("scale"), 1.0)
        share = _number(params.get("strength"), 1.0)
        total += cost(clip.width * scale, clip.height * scale, clip.sampling.steps * share * guided)
    return total


def _number(value: Scalar, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default
