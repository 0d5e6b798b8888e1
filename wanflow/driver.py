"""The heart: one run of a job. Plan, take the lease, let the scheduler and a pool work, write down what came of it.

``drive`` is the loop: the scheduler decides, the pool performs, events come back. Everything that a new driver would
need stands in the store before it matters, so a driver may die at any line and the next one goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timedelta

from wanflow.closing import close_quiet_run, close_run, is_quiet, measured_clips
from wanflow.errors import StoreError
from wanflow.job import Job
from wanflow.lease import Lease, claim_epoch, last_holder
from wanflow.ledger import Ledger, new_run_id
from wanflow.model import AssembleVariant, Clip
from wanflow.pins import write_pins
from wanflow.planning import ClipPlan, Plan, make_plan
from wanflow.planning.cost import price_per_s
from wanflow.planning.failing import without_sources
from wanflow.planning.force import begin_force, end_force
from wanflow.planning.limits import check_limits
from wanflow.planning.quiet import Quiet, find_quiet, manifest_state, note_quiet
from wanflow.planning.retired import leaving, take_away
from wanflow.planning.rows import plan_table
from wanflow.planning.why import reasons_of_files
from wanflow.pool import LoadEngine, Pool, RunContext, load_real_engine
from wanflow.pool.ahead import largest_by_weights, prompts_by_weights
from wanflow.records import remember_failure
from wanflow.report import Outcome
from wanflow.schedule import PlannedRender, Policy, Scheduler
from wanflow.schedule.actions import Action, Finish, Remember, Render
from wanflow.schedule.events import (
    AssembleFailed,
    Event,
    RunStarted,
    StepDone,
    StopRequested,
    Tick,
    VariantPublished,
)
from wanflow.staging import Staged, stage_inputs
from wanflow.stopping import sleep_unless, stop_on_signals, stop_reasons
from wanflow.storage import Store, wait_out
from wanflow.texts import undrawable_texts
from wanflow.timings import save_timings, shape_key
from wanflow.view import View, as_row

#: the loop looks up from waiting at least this often
MAX_WAIT_S = 1.0


def plan(
    job: Job,
    *,
    only: str | None = None,
    limit: int | None = None,
    skip_bad_rows: bool = False,
    force: str | None = None,
    in_full: bool = False,
) -> Plan:
    """What a run of ``job`` would do now, and why. Renders and writes nothing.

    ``in_full``: unchanged variants are told with all that decides them, and not only counted.
    """
    workspace, target = Store(str(job.workspace)), Store(job.publish.url)
    made = make_plan(job, workspace, target, only, limit, skip_bad_rows, force, in_full)
    return replace(made, lints=(*made.lints, *undrawable_texts(made)))


def run(
    job: Job,
    *,
    address: str | None = None,
    inline: bool = False,
    only: str | None = None,
    limit: int | None = None,
    skip_bad_rows: bool = False,
    force: str | None = None,
    accept: str | None = None,
    view: View | None = None,
    load_engine: LoadEngine = load_real_engine,
) -> Outcome:
    """Render and publish what the job asks for and the store lacks.

    ``address`` joins a Ray cluster (``auto``, ``ray://host:port``); None starts Ray on this machine, and nothing at all
    when there is nothing to do. ``inline`` works in this process without Ray. ``force`` (trunk, base, cascade, master
    or variant) makes done work again from there on, once. ``accept`` is the id of a plan that may go beyond the job's
    limits. Raises JobError, ManifestError, EngineError, StoreError or Refused before anything is rendered; Stopped
    where it was to wait no longer for another run; WanflowError (UsageError for a malformed ``address``) when Ray
    cannot be reached. What goes wrong later is in the Outcome.
    """
    view = view or View()
    started_s = time.time()
    workspace, target = Store(str(job.workspace)), Store(job.publish.url)
    before = last_holder(workspace, target)
    whole = not (only or limit or skip_bad_rows or force)
    manifest = manifest_state(job) if whole else None
    if whole and (quiet := find_quiet(job, workspace, target, manifest)):
        outcome = close_quiet_run(job, workspace, quiet, started_s)
        if outcome is not None:
            view.message(f"nothing has changed since {quiet.run_id}")
            return outcome
    made = plan(job, only=only, limit=limit, skip_bad_rows=skip_bad_rows, force=force)
    run_id = new_run_id(started_s, job.name)
    ledger = Ledger(workspace, run_id)
    view.planned(made, run_id)
    check_limits(job, made, workspace, accept)
    made.memo.save(workspace)

    num_unpublished, waits = 0, False

    def begin() -> None:
        ledger.write_job(job.text)
        write_pins(workspace, run_id, made.pins)

    def wait(words: str) -> None:
        nonlocal waits
        if not waits:
            begin()  # so that `wanflow stop` finds it, and gc what it is going to need
        waits = True
        view.message(words)

    def close(scheduler: Scheduler | None, broken: str, error_code: int = 0) -> Outcome:
        outcome = close_run(job, ledger, made, scheduler, started_s, broken, num_unpublished, error_code)
        if outcome.exit_code in (0, 3):
            end_force(workspace, job.name, only, limit)
        if whole and is_quiet(outcome):
            num_retired = outcome.num_retired - outcome.num_unpublished
            quiet = Quiet(run_id, made.num_variants, num_retired)
            note_quiet(job, workspace, made, manifest, quiet)
        return outcome

    if made.is_empty and not made.to_unpublish:
        begin()
        return close(None, "")
    with (
        stop_on_signals() as stop_asked,
        wait_out(unless=stop_asked, say=view.message),
        ledger.withdrawn_unless_planned(),
        Lease(
            workspace,
            target,
            run_id=run_id,
            on_wait=wait,
            sleep=sleep_unless(stop_reasons(stop_asked, ledger)),
        ) as lease,
    ):
        was_free = before is None or before.released
        if lease.waited or not was_free or lease.former != (before.run_id if before else ""):
            # Another run was at work, or died at it, or came and went: the store has changed since, or may have.
            made = plan(job, only=only, limit=limit, skip_bad_rows=skip_bad_rows, force=force)
            view.planned(made, run_id)
            check_limits(job, made, workspace, accept)
        begin()
        epoch = claim_epoch(workspace)
        begin_force(workspace, target, job.name, made, epoch)
        staged = _stage(job, made, workspace)
        if staged.refused:
            made = without_sources(made, staged.refused)
            first = next(iter(staged.refused.values()))
            view.message(f"inputs that cannot be used any more: {len(staged.refused):,} (first: {first})")
        ledger.write_plan(plan_table(made))
        num_unpublished = take_away(workspace, target, made, leaving(made))
        if made.is_empty:
            return close(None, "")

        why_stop = stop_reasons(stop_asked, ledger, lease)
        scheduler: Scheduler | None = None
        try:
            context = _context(job, made, staged, ledger, epoch, load_engine)
            with closing(_open_pool(job, context, address, inline, view, why_stop)) as pool, view.live():
                scheduler = _scheduler(job, made, context, pool, started_s)
                broken = drive(scheduler, pool, ledger, made, view, why_stop).message
        except Exception as error:
            with suppress(StoreError):  # what broke the run may be the store itself
                close(scheduler, f"{type(error).__name__}: {error}", getattr(error, "exit_code", 1))
            raise
        if not lease.lost:
            try:
                num_unpublished += take_away(workspace, target, made, leaving(made))
            except StoreError as error:  # what is left is the next run's
                broken = broken or str(error)
        save_timings(workspace, *measured_clips(made, scheduler))
        return close(scheduler, broken)


def _scheduler(job: Job, made: Plan, context: RunContext, pool: Pool, started_s: float) -> Scheduler:
    clips = [clip for clip in made.clips if clip.decision is not ClipPlan.FAILED_BEFORE]
    return Scheduler(
        [
            PlannedRender(
                clip.task,
                clip.priority,
                clip.work,
                clip.expected_s,
                group=_group(clip.task.clip),
                kind=shape_key(clip.task.clip, clip.makes_trunk),
                held=clip.decision is ClipPlan.HELD,
                makes_trunk=clip.makes_trunk,
            )
            for clip in clips
        ],
        [(context.assemblies[v.files[0].path], v.variant.priority) for v in made.to_assemble],
        Policy(
            max_replicas=pool.max_replicas,
            min_replicas=job.resources.replicas.min,
            max_assemblies=pool.num_assembly_slots,
            max_attempts=job.limits.max_attempts,
            hang_load_s=60.0 * job.limits.max_load_minutes,
            deadline_s=_deadline_s(job, started_s),
            recycle_after=job.resources.recycle_after,
        ),
        context.epoch,
    )


def _group(clip: Clip) -> str:
    """What a replica prepares once: buffers of these weights at one size, and the LoRAs beside them."""
    loras = "".join(f" {lora.expert} {lora.scale:g} {lora.source.digest}" for lora in clip.loras)
    return f"{clip.weights} {clip.width}x{clip.height}x{clip.num_frames}{loras}"


def drive(
    scheduler: Scheduler,
    pool: Pool,
    ledger: Ledger,
    plan: Plan,
    view: View,
    stop_asked: Callable[[], str | None] = lambda: None,
    clock: Callable[[], float] = time.time,
) -> Finish:
    """Let scheduler and pool work until the scheduler says that the run is over."""
    events: list[Event] = [RunStarted(clock())]
    while True:
        # Whatever is there is taken in before anything is ordered: a burst of news costs one write.
        actions: list[Action] = []
        for event in events:
            if not isinstance(event, RunStarted | Tick | StepDone):
                ledger.append(as_row(event))
            if isinstance(event, VariantPublished | AssembleFailed):
                for record in event.records:
                    plan.published.add(record)
            view.event(event)
            decided = scheduler.handle(event)
            for action in decided:
                ledger.append({"time_s": clock()} | as_row(action))
                view.action(action)
            actions += decided
        if any(isinstance(action, Render) for action in actions):
            # An attempt is on record before its render is ordered, so that none is ever forgotten.
            ledger.flush()
        for action in actions:
            if isinstance(action, Finish):
                ledger.flush()
                return action
            if isinstance(action, Remember):
                _remember(ledger, action)
            else:
                pool.perform(action)
        events = [_next_event(scheduler, pool, stop_asked, clock), *pool.more_events()]


def _remember(ledger: Ledger, action: Remember) -> None:
    try:
        remember_failure(ledger.workspace, action.key, action.cause, action.message, action.attempt)
    except StoreError as error:  # the price is one more try the next night
        ledger.append(
            {"time_s": time.time(), "event": "NotRemembered", "task": action.key, "reason": str(error)}
        )


def _next_event(
    scheduler: Scheduler, pool: Pool, stop_asked: Callable[[], str | None], clock: Callable[[], float]
) -> Event:
    if scheduler.stopping is None and (message := stop_asked()):
        return StopRequested(clock(), message)
    wake_s = scheduler.next_wake_s
    wait_s = MAX_WAIT_S if wake_s is None else min(MAX_WAIT_S, max(0.0, wake_s - clock()))
    return pool.next_event(wait_s) or Tick(clock())


def _open_pool(
    job: Job,
    context: RunContext,
    address: str | None,
    inline: bool,
    view: View,
    why_stop: Callable[[], str | None],
) -> Pool:
    if inline:
        from wanflow.pool.inline import InlinePool

        return InlinePool(context, on_progress=view.event, why_stop=why_stop)
    from wanflow.pool.ray_pool import RayPool

    address = address or os.environ.get("RAY_ADDRESS") or None
    view.message("starting Ray" if address is None else f"joining Ray at {address}")
    return RayPool(
        context,
        address=address,
        max_replicas=job.resources.replicas.max,
        gpus_per_replica=job.resources.gpus_per_replica,
    )


def _stage(job: Job, made: Plan, workspace: Store) -> Staged:
    return stage_inputs(
        workspace,
        [planned.task for planned in made.clips],
        [AssembleVariant(planned.variant, planned.files) for planned in made.to_assemble],
        job.allowed(),
    )


def _context(
    job: Job, made: Plan, staged: Staged, ledger: Ledger, epoch: int, load_engine: LoadEngine
) -> RunContext:
    nonce = f"{ledger.run_id} {os.urandom(8).hex()}"
    nonce_path = f"runs/{ledger.run_id}/nonce"
    ledger.workspace.write(nonce_path, nonce.encode())
    largest = largest_by_weights(planned.task.clip for planned in made.clips)
    return RunContext(
        run_id=ledger.run_id,
        epoch=epoch,
        workspace=str(job.workspace),
        target=job.publish.url,
        engines={
            weights: replace(spec, largest=largest.get(weights)) for weights, spec in made.engines.items()
        },
        renders=staged.renders,
        assemblies=staged.assemblies,
        nonce=(nonce_path, nonce),
        sharing=made.sharing,
        job=job.name,
        reasons=reasons_of_files(made, ledger.workspace),
        price_per_s=price_per_s(job),
        cache_control=job.publish.cache_control,
        fp8=job.engine.fast is not None and job.engine.fast.fp8,
        compile=job.engine.compile,
        prompts=prompts_by_weights(planned.task.clip for planned in made.clips),
        load_engine=load_engine,
    )


def _deadline_s(job: Job, now_s: float) -> float | None:
    """The next time that the clock shows the job's deadline, local time."""
    if job.limits.deadline is None:
        return None
    now = datetime.fromtimestamp(now_s)
    deadline = datetime.combine(now.date(), job.limits.deadline)
    return (deadline if deadline > now else deadline + timedelta(days=1)).timestamp()
