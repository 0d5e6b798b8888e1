"""The end of a run: from the plan and the scheduler's last state to results, catalog, outcome and exit code."""

from __future__ import annotations

import time
from collections.abc import Mapping

from wanflow.errors import BadRow
from wanflow.job import Job
from wanflow.ledger import Ledger, new_run_id
from wanflow.model import Cause, Clip, Scalar, Status, Variant
from wanflow.pins import copy_pins, has_pins
from wanflow.planning import Plan, PlannedVariant
from wanflow.planning.cost import price_per_s
from wanflow.planning.quiet import Quiet
from wanflow.report.outcome import Outcome, count_statuses, write_end
from wanflow.report.results import ResultFile, ResultRow, UnchangedResults, as_unchanged, result_files
from wanflow.schedule import Scheduler
from wanflow.schedule.state import ClipState, VariantStatus
from wanflow.storage import Store

#: stages of a render that keep a GPU busy; ``decode_beside`` is not among them: it took seconds that the next clip is
#: billed for, so that all bills together never exceed the time for which a GPU was held. Nor is ``ahead``, which is
#: billed as ``denoise`` of the clip whose steps they were
GPU_STAGES = ("encode", "trunk", "denoise", "cascade", "decode")

NO_ROWS = "no row of the manifest is asked for; see manifest.where and --only"


def close_run(
    job: Job,
    ledger: Ledger,
    plan: Plan,
    scheduler: Scheduler | None,
    started_s: float,
    broken: str,
    num_unpublished: int,
    error_code: int = 0,
) -> Outcome:
    """Write results, catalog, index and outcome; return the outcome.

    ``scheduler`` is None when there was nothing to do, or no pool to do it. ``broken`` says why the run as a whole
    broke, or is empty. ``error_code`` is the exit code of the error that ended it, where one did.
    """
    target = Store(job.publish.url)
    broken = broken or _store_trouble(scheduler)
    rows = _rows(job, plan, scheduler, target)
    counts = count_statuses(rows, len(plan.unchanged))
    gpu_s = sum(gpu_seconds(clip) for clip in scheduler.clips.values()) if scheduler else 0.0
    outcome = Outcome(
        run_id=ledger.run_id,
        job=job.name,
        exit_code=error_code or decide_exit_code(job, counts, broken),
        started_at_s=started_s,
        ended_at_s=time.time(),
        counts=counts,
        num_clips_rendered=sum(c.done_here for c in scheduler.clips.values()) if scheduler else 0,
        gpu_seconds=round(gpu_s, 3),
        cost=_cost(job, gpu_s),
        message=broken
        or (scheduler.stopping if scheduler else "")
        or ("" if any(counts.values()) else NO_ROWS),
        num_retired=len(plan.retired),
        num_unpublished=num_unpublished,
    )
    carry: dict[str, Mapping[str, Scalar]] = {
        path: dict(planned.variant.carry) for planned in plan.variants for _, path in planned.variant.outputs
    }
    write_end(
        ledger,
        target,
        outcome,
        rows,
        carry,
        plan.published,
        unchanged=UnchangedResults(plan.unchanged, plan.published.records.table, target.url, _cost(job, 0.0)),
        retired={retired.path for retired in plan.retired},
        cache_control=job.publish.cache_control,
    )
    return outcome


def is_quiet(outcome: Outcome) -> bool:
    """Whether everything that was asked for is published: the next run may find nothing to do."""
    done = outcome.counts[Status.PUBLISHED] + outcome.counts[Status.UNCHANGED]
    return outcome.exit_code == 0 and done == sum(outcome.counts.values())


def close_quiet_run(job: Job, workspace: Store, quiet: Quiet, started_s: float) -> Outcome | None:
    """Write the end of a run that found everything as ``quiet`` says: its results once more, as unchanged.

    None when the results or pins of the earlier run are gone.
    """
    ledger = Ledger(workspace, new_run_id(started_s, job.name))
    cost = _cost(job, 0.0)
    before = Ledger(workspace, quiet.run_id)
    if not has_pins(workspace, quiet.run_id) or not ledger.repeat_results(
        before, quiet.num_variants, lambda part: as_unchanged(part, cost)
    ):
        return None
    copy_pins(workspace, quiet.run_id, ledger.run_id)
    ledger.write_job(job.text)
    outcome = Outcome(
        run_id=ledger.run_id,
        job=job.name,
        exit_code=0,
        started_at_s=started_s,
        ended_at_s=time.time(),
        counts={status.value: 0 for status in Status} | {Status.UNCHANGED.value: quiet.num_variants},
        cost=cost,
        num_retired=quiet.num_retired,
    )
    ledger.write_outcome(outcome.to_json())
    return outcome


def _store_trouble(scheduler: Scheduler | None) -> str:
    """Words for a run in which whatever failed, failed by the store: the rows are not to blame, a retry helps."""
    states = [*scheduler.variants.values()] if scheduler else []
    failed = [state for state in states if state.status is VariantStatus.FAILED]
    if failed and all(state.failures[-1] is Cause.STORAGE for state in failed):
        return f"the store failed {len(failed)} variant(s), the last time so: {failed[-1].message}"
    return ""


def decide_exit_code(job: Job, counts: Mapping[str, int], broken: str) -> int:
    """0 done, 1 broken, 3 more failures than ``limits.max_failed``, 5 work left."""
    if broken:
        return 1
    if counts[Status.LEFT] or counts[Status.HELD]:
        return 5
    return 3 if counts[Status.FAILED] > job.limits.failures_allowed(sum(counts.values())) else 0


def gpu_seconds(clip: ClipState) -> float:
    """Seconds that all attempts at a clip kept a replica busy."""
    return sum(value for stage, value in clip.seconds.items() if stage.partition("-")[0] in GPU_STAGES)


def measured_clips(
    plan: Plan, scheduler: Scheduler
) -> tuple[list[tuple[Clip, float]], list[tuple[Clip, float]]]:
    """(clip, seconds) of what was rendered from its first step on in one attempt: what estimates are made of.

    The second list has the clips whose trunk was there already.
    """
    whole: list[tuple[Clip, float]] = []
    sharing: list[tuple[Clip, float]] = []
    for planned in plan.to_render:
        clip, state = planned.task.clip, scheduler.clips[planned.task.key]
        if planned.num_steps and state.done_here and state.num_attempts == 1 and gpu_seconds(state) > 0:
            found_trunk = clip.branch is not None and "trunk" not in state.seconds
            (sharing if found_trunk else whole).append((clip, gpu_seconds(state)))
    return whole, sharing


def _rows(job: Job, plan: Plan, scheduler: Scheduler | None, target: Store) -> list[ResultRow]:
    sharing = plan.sharing
    rows = [_row(job, plan, planned, scheduler, target, sharing) for planned in plan.variants]
    bad: dict[int, list[BadRow]] = {}
    for each in plan.bad_rows:
        bad.setdefault(each.variant, []).append(each)
    for found in bad.values():
        first = min(each.row for each in found)
        reasons = [f"row {each.row}: {each.reason}" if job.manifest.group else each.reason for each in found]
        rows.append(ResultRow(found[0].variant_id, first, Status.FAILED, "; ".join(reasons)))
    return rows


def _row(
    job: Job,
    plan: Plan,
    planned: PlannedVariant,
    scheduler: Scheduler | None,
    target: Store,
    sharing: Mapping[str, int],
) -> ResultRow:
    variant, status, reason = planned.variant, planned.status, planned.reason
    attempts, seconds, gpu_s = 0, {}, 0.0
    state = scheduler.variants.get(planned.files[0].path) if scheduler and planned.files else None
    if scheduler and state:
        status, reason = _STATUSES.get(state.status, Status.LEFT), state.message
        clips = [scheduler.clips[key] for key in sorted(_masters(planned))]
        attempts = state.num_attempts + sum(clip.num_attempts for clip in clips)
        seconds = dict(state.seconds)
        for clip in (scheduler.clips[key] for file in planned.files for key in set(file.masters)):
            share = 1 / sharing.get(clip.key, 1)
            for stage, value in clip.seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + value * share
            gpu_s += gpu_seconds(clip) * share
    if status is Status.UNCHANGED:
        reason = ""
    return ResultRow(
        variant_id=variant.variant_id,
        row=variant.row,
        status=status,
        reason=reason,
        attempts=attempts,
        seconds=seconds,
        gpu_seconds=gpu_s,
        cost=_cost(job, gpu_s),
        files=_files(plan, variant, target),
        carry=dict(variant.carry),
    )


_STATUSES = {VariantStatus.PUBLISHED: Status.PUBLISHED, VariantStatus.FAILED: Status.FAILED}


def _masters(planned: PlannedVariant) -> set[str]:
    return {key for file in planned.files for key in file.masters}


def _files(plan: Plan, variant: Variant, target: Store) -> tuple[ResultFile, ...]:
    """What is live of a variant, made by this run or before."""
    return tuple(
        file
        for output, path in variant.outputs
        if plan.published.key_of(path)
        for file in result_files(target.url, output.name, plan.published.records[path])
    )


def _cost(job: Job, gpu_s: float) -> float | None:
    price = price_per_s(job)
    return None if price is None else round(gpu_s * price, 6)
