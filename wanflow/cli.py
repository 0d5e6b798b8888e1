"""The command line: parse, one call, an exit code. Only this and ``store_verbs`` print.

Exit codes: 0 done; 1 the run itself broke, a retry helps; 2 wrong usage; 3 more failures than the job tolerates;
4 job, manifest or checkpoint invalid, found before any GPU; 5 stopped, held or refused with work left.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from wanflow import __version__
from wanflow.errors import ManifestError, UsageError, WanflowError
from wanflow.model import Status
from wanflow.store_verbs import add_store_verbs
from wanflow.tables import MAX_ROWS, print_table

if TYPE_CHECKING:
    from wanflow.job import Job
    from wanflow.planning import Plan, PlannedClip
    from wanflow.planning.cost import Cost
    from wanflow.planning.why import Why
    from wanflow.report import Outcome, Summary
    from wanflow.storage import Store

EXIT_CODES = """\
exit codes: 0 done; 1 the run itself broke, a retry helps; 2 wrong usage; 3 more failures than tolerated;
4 job, manifest or checkpoint invalid (nothing was rendered); 5 stopped, held or refused with work left"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.verb is None:
        parser.print_help()
        return UsageError.exit_code
    try:
        code = arguments.call(arguments)
    except WanflowError as error:
        _print_error(error, arguments)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what has a record stays, run again to go on", file=sys.stderr)
        return 5
    except BrokenPipeError:  # `wanflow results JOB | head`; a run's views never raise it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if arguments.verb == "run" else 0
    assert isinstance(code, int)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wanflow",
        description="A build system for generative video: manifest in, published videos out, only what changed.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wanflow {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")

    def verb(name: str, call: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help, epilog=EXIT_CODES)
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        sub.set_defaults(call=call)
        return sub

    init = verb("init", _init, "write a commented starter job with its manifest into a directory")
    init.add_argument("directory")

    plan = verb("plan", _plan, "show what a run would render and assemble, and why; renders nothing")
    run = verb("run", _run, "render and publish what the job asks for and the store lacks")
    for sub in (plan, run):
        _add_job(sub)
        sub.add_argument("--only", metavar="EXPR", help="only rows where this holds: \"segment = 'gold'\"")
        sub.add_argument("--limit", type=_positive, metavar="N", help="the first N videos (after --only)")
        sub.add_argument(
            "--skip-bad-rows", action="store_true", help="bad rows end as failed, the rest goes on"
        )
        sub.add_argument("--json", action="store_true", help="end with one machine-readable line")
        sub.add_argument(
            "--force", metavar="STAGE", help="make again, once, from: trunk, base, cascade, master or variant"
        )
    plan.add_argument(
        "--why", action="store_true", help="list everything that would be made, with what changed: old -> new"
    )
    plan.add_argument("--diff", metavar="RUN", help="list what is asked for otherwise than in that run")
    plan.add_argument("--cost", action="store_true", help="GPU seconds and price, and what was saved")
    run.add_argument(
        "--accept", metavar="PLAN", help="let this plan go beyond limits.max_changed and max_cost"
    )
    run.add_argument(
        "--address",
        metavar="URL",
        help="Ray cluster: auto or ray://HOST:10001 (default: Ray on this machine)",
    )
    run.add_argument(
        "--pool", choices=("ray", "inline"), default="ray", help="inline: this process, without Ray"
    )

    status = verb("status", _status, "show how the run at work, else the newest (or RUN) stands")
    results = verb("results", _results, "show a run's results, a row a variant")
    for sub, default in ((status, "the one at work, else the newest"), (results, "the newest")):
        _add_job(sub)
        sub.add_argument("run", nargs="?", metavar="RUN", help=f"run id (default: {default})")
        sub.add_argument("--json", action="store_true", help="machine-readable: one line")
    results.add_argument("--failed", action="store_true", help="only what failed")

    stop = verb("stop", _stop, "ask the run at work (or RUN) to end; what is done stays, the rest is left")
    _add_job(stop)
    stop.add_argument("run", nargs="?", metavar="RUN", help="run id (default: the one at work)")

    retry = verb("retry", _retry, "forget remembered failures, so that the next run tries them again")
    _add_job(retry)

    add_store_verbs(verb)

    doctor = verb(
        "doctor", _doctor, "check this machine, and with JOB its store and checkpoint; says what to do"
    )
    _add_job(doctor, optional=True)
    doctor.add_argument("--json", action="store_true", help="machine-readable: one line")

    schema = verb("schema", _schema, "print the JSON Schema of a job or a manifest")
    schema.add_argument("what", choices=("job", "manifest"))
    return parser


def _add_job(sub: argparse.ArgumentParser, optional: bool = False) -> None:
    sub.add_argument("job", metavar="JOB", nargs="?" if optional else None, help="job file (YAML)")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=C",
        help="override a value of the job (may be repeated)",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _load(arguments: argparse.Namespace) -> Job:
    from wanflow.job import load_job

    return load_job(arguments.job, arguments.set)


def _workspace(arguments: argparse.Namespace) -> Store:
    from wanflow.storage import Store

    return Store(str(_load(arguments).workspace))


# -- verbs ---------------------------------------------------------------------------------------------------


def _init(arguments: argparse.Namespace) -> int:
    from wanflow.starter import write_starter

    for path in write_starter(arguments.directory):
        print(f"wrote {path}")
    print(f"now: wanflow run {os.path.join(arguments.directory, 'job.yaml')}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from wanflow.driver import plan
    from wanflow.planning.cost import cost_of
    from wanflow.planning.why import explain, explain_against
    from wanflow.storage import Store

    job = _load(arguments)
    made = plan(
        job,
        only=arguments.only,
        limit=arguments.limit,
        skip_bad_rows=arguments.skip_bad_rows,
        force=arguments.force,
        in_full=bool(arguments.diff),
    )
    whys = None
    if arguments.diff:
        whys = explain_against(made, Store(str(job.workspace)), arguments.diff)
    elif arguments.why:
        whys = explain(made, Store(str(job.workspace)))
    cost = cost_of(made, job) if arguments.cost else None
    _print_plan(made, whys, cost)
    if arguments.json:
        print(json.dumps(plan_facts(made, whys, cost)))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from wanflow.driver import run
    from wanflow.view import JsonView, TerminalView

    job = _load(arguments)
    view = TerminalView() if sys.stdout.isatty() and not arguments.json else JsonView()
    # Ray prints its warnings to standard output, which belongs to our lines alone.
    with redirect_stdout(sys.stderr):
        outcome = run(
            job,
            address=arguments.address,
            inline=arguments.pool == "inline",
            only=arguments.only,
            limit=arguments.limit,
            skip_bad_rows=arguments.skip_bad_rows,
            force=arguments.force,
            accept=arguments.accept,
            view=view,
        )
    if arguments.json:
        print(json.dumps({"event": "Outcome"} | outcome.to_json()))
    else:
        _print_outcome(outcome, job)
    return outcome.exit_code


def _status(arguments: argparse.Namespace) -> int:
    from wanflow.report import summary
    from wanflow.storage import Store

    job = _load(arguments)
    found = summary(_workspace(arguments), arguments.run, job.name, Store(job.publish.url))
    if found is None:
        print("null" if arguments.json else f"{job.name} has not run yet")
    elif arguments.json:
        print(json.dumps(asdict(found) | {"elapsed_s": found.elapsed_s}))
    else:
        _print_summary(found)
    return 0


def _results(arguments: argparse.Namespace) -> int:
    from wanflow.report import results

    job = _load(arguments)
    rows = results(_workspace(arguments), arguments.run, arguments.failed, job.name).to_pylist()
    if arguments.json:
        print(json.dumps(rows, default=str))
        return 0
    print_table(
        ("variant", "status", "attempts", "gpu s", "reason or file"),
        [
            (
                row["variant_id"],
                row["status"],
                row["attempts"],
                f"{row['gpu_seconds'] or 0:.1f}",
                row["reason"] or ", ".join(file["path"] for file in row["files"] or ()),
            )
            for row in rows
        ],
    )
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from wanflow.ledger import Ledger
    from wanflow.report import RunState, leased_run, summary
    from wanflow.storage import Store

    job, workspace = _load(arguments), _workspace(arguments)
    run_id = arguments.run or leased_run(workspace, Store(job.publish.url), job.name)
    found = summary(workspace, run_id, job.name)
    if found is None:
        raise UsageError("this job has no run to stop")
    if found.state is RunState.ENDED:
        others = (
            "" if arguments.run else f"no run of {job.name} is at work (one that plans is not seen yet): "
        )
        print(f"{others}{found.run_id} has ended already")
        return 0
    Ledger(workspace, found.run_id).ask_stop("stopped by `wanflow stop`")
    if found.state is RunState.CRASHED:  # by this machine's clock, which may be wrong
        print(f"{found.run_id} shows no sign of life: it has crashed, and nothing is left to stop")
    else:
        print(
            f"asked {found.run_id} to stop; it looks every few seconds, and `wanflow status` says when it has"
        )
    return 0


def _retry(arguments: argparse.Namespace) -> int:
    from wanflow.records import forget_failures

    number = forget_failures(_workspace(arguments))
    print(f"forgot {number} remembered failure(s); the next run tries them again")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from wanflow.doctor import checks

    found = list(checks(_load(arguments) if arguments.job else None))
    if arguments.json:
        print(
            json.dumps([{"name": c.name, "state": c.status, "found": c.found, "todo": c.todo} for c in found])
        )
    else:
        for check in found:
            print(
                f"{check.status:5} {check.name:12} {check.found}"
                + (f"\n      -> {check.todo}" if check.todo else "")
            )
    return 1 if any(check.status == "fail" for check in found) else 0


def _schema(arguments: argparse.Namespace) -> int:
    from wanflow.job import job_schema
    from wanflow.manifest import manifest_schema

    print(json.dumps(job_schema() if arguments.what == "job" else manifest_schema(), indent=2))
    return 0


# -- words ---------------------------------------------------------------------------------------------------


def plan_facts(plan: Plan, whys: Sequence[Why] | None = None, cost: Cost | None = None) -> dict[str, Any]:
    """The plan in numbers, as ``--json`` prints it."""
    facts: dict[str, Any] = {
        "event": "Plan",
        "plan_id": plan.plan_id,
        "variants": plan.num_variants,
        "variants_to_assemble": len(plan.to_assemble),
        "files_to_assemble": dict(plan.num_files),
        "clips_wanted": plan.num_clips_wanted,
        "clips_shared": plan.num_clips_shared,
        "clips_held": len(plan.held),
        "clips_to_render": len(plan.to_render),
        "expected_gpu_s": plan.expected_gpu_s,
        "trunks_to_make": plan.num_trunks,
        "base_steps": plan.num_steps,
        "base_steps_shared": plan.num_steps_shared,
        "bad_rows": len(set(plan.bad_rows)),
        "retired": [retired.path for retired in plan.retired],
        "to_unpublish": len(plan.to_unpublish),
        "lints": [str(lint) for lint in plan.lints],
    }
    if whys is not None:
        facts["why"] = [why.to_json() for why in whys]
    if cost is not None:
        facts["cost"] = cost.to_json()
    return facts


def _print_plan(plan: Plan, whys: Sequence[Why] | None, cost: Cost | None) -> None:
    shared = f", {plan.num_clips_shared:,} saved by sharing" if plan.num_clips_shared else ""
    gpu_s = plan.expected_gpu_s
    expected = "never measured" if gpu_s is None else f"{_duration(gpu_s)} of GPU expected"
    print(f"{plan.num_variants:,} variants of {plan.num_clips_wanted:,} clips{shared}")
    print(f"to render    {len(plan.to_render):,} clips ({expected}), {len(plan.held):,} held")
    if plan.num_trunks or plan.num_steps_shared:
        print(
            f"branching    {plan.num_trunks:,} trunks to make; {plan.num_steps:,} base steps to take, "
            f"{plan.num_steps_shared:,} shared"
        )
    files = ", ".join(f"{num:,} {name}" for name, num in plan.num_files.items())
    print(f"to assemble  {len(plan.to_assemble):,} variants" + (f": {files}" if files else ""))
    if plan.retired:
        what = "to unpublish" if plan.unpublish else "retired     "
        print(f"{what} {len(plan.retired):,} videos that the manifest no longer asks for")
    print(f"plan         {plan.plan_id}")
    if cost is not None:
        _print_cost(cost)
    for lint in plan.lints:
        print(f"note: {lint}")
    for bad in islice(dict.fromkeys(plan.bad_rows), MAX_ROWS):
        print(f"bad {bad}")
    if whys is not None:
        print()
        print_table(
            ("what", "id", "why"),
            [(w.kind, w.id[:12] if w.kind == "clip" else w.path or w.id, str(w)) for w in whys],
            len(whys),
        )  # fmt: skip
    else:
        clips = [
            (c.decision, c.num_variants, _shape(c), c.reason, c.task.clip.prompt[:60]) for c in plan.clips
        ]
        variants = [(v.variant.variant_id, v.status, v.reason) for v in plan.variants if v.files or v.reason]
        if clips:
            print()
            print_table(("clip", "variants", "shape", "reason", "prompt"), clips)
        if variants:
            print()
            print_table(("variant", "status", "reason"), variants)
    if plan.retired:
        print()
        print_table(("retired", "variant"), [(each.path, each.variant_id) for each in plan.retired])


def _print_cost(cost: Cost) -> None:
    def priced(seconds: float) -> str:
        price = cost.price(seconds)
        return f"{seconds:,.1f} GPU seconds" + ("" if price is None else f", {price:,.4f}")

    print(f"cost         {priced(cost.gpu_s)} for {cost.num_clips:,} clips")
    if cost.num_never_measured:
        print(
            f"             and {cost.num_never_measured:,} of them never measured, which count nothing here"
        )
    print(f"saved        {priced(cost.saved_by_sharing_s)} by sharing clips")
    print(f"             {priced(cost.saved_by_holding_s)} by what the store holds")
    if cost.saved_by_branching_s:
        print(f"             {priced(cost.saved_by_branching_s)} by branching")


def _shape(planned: PlannedClip) -> str:
    clip = planned.task.clip
    return f"{clip.mode} {clip.width}x{clip.height}x{clip.num_frames}"


def _print_outcome(outcome: Outcome, job: Job) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{outcome.job}: exit {outcome.exit_code}", show_header=False, title_justify="left")
    for status, number in outcome.counts.items():
        if number:
            table.add_row(status, f"{number:,} variants")
    if outcome.num_retired:
        taken = f" ({outcome.num_unpublished:,} taken away)" if outcome.num_unpublished else ""
        table.add_row("retired", f"{outcome.num_retired:,} videos{taken}")
    table.add_row("clips rendered", f"{outcome.num_clips_rendered:,}")
    table.add_row("took", _duration(outcome.elapsed_s))
    table.add_row("replicas busy", _duration(outcome.gpu_seconds))
    if outcome.cost is not None:
        table.add_row("cost", f"{outcome.cost:.4f}")
    table.add_row("published to", job.publish.url)
    table.add_row("run", outcome.run_id)
    if outcome.message:
        table.add_row("message", Text(outcome.message))
    Console().print(table)
    if outcome.counts[Status.FAILED]:
        print("what failed, and why: wanflow results JOB --failed")


def _print_summary(found: Summary) -> None:
    took = found.elapsed_s
    print(f"run        {found.run_id}")
    print(f"state      {found.state}" + (f", exit code {found.outcome.exit_code}" if found.outcome else ""))
    print(f"took       {'-' if took is None else _duration(took)}")
    print("variants   " + (", ".join(f"{n:,} {status}" for status, n in found.counts.items() if n) or "-"))
    if found.events:
        print("events     " + ", ".join(f"{n:,} {name}" for name, n in found.events.items()))
    if found.message:
        print(f"message    {found.message}")
    if found.replicas:
        print_table(
            ("replica", "attempts", "in steps since its first clip", "seconds by stage"),
            [
                (
                    each.replica,
                    f"{each.num_attempts:,}",
                    "-" if each.steps_share is None else f"{each.steps_share:.1%}",
                    ", ".join(f"{stage} {value:,.1f}" for stage, value in each.seconds.items()),
                )
                for each in found.replicas
            ],
        )


def _print_error(error: WanflowError, arguments: argparse.Namespace) -> None:
    print(f"error: {error}", file=sys.stderr)
    if getattr(arguments, "json", False):
        bad_rows = error.bad_rows if isinstance(error, ManifestError) else ()
        rows = [{"row": bad.row, "variant_id": bad.variant_id, "reason": bad.reason} for bad in bad_rows]
        words = error.message if isinstance(error, ManifestError) else str(error)
        print(
            json.dumps({"event": "Error", "exit_code": error.exit_code, "message": words, "bad_rows": rows})
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    )


if __name__ == "__main__":
    sys.exit(main())
