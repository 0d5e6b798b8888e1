"""The verbs that look after a store: ``verify`` and ``gc``. They take a job, or the URL of a workspace without one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from wanflow.tables import MAX_ROWS, print_table

if TYPE_CHECKING:
    from wanflow.gc import Collected
    from wanflow.storage import Store
    from wanflow.verify import Report

AddVerb = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add_store_verbs(verb: AddVerb) -> None:
    """Add both to the parser that ``verb`` adds to."""
    check = verb("verify", _verify, "check every promise about the store; exit 3 when one is broken")
    check.add_argument("job", metavar="JOB", help="job file (YAML), or the URL of a workspace")
    check.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a value of the job"
    )
    check.add_argument("--deep", action="store_true", help="read every file and compare its hash")
    check.add_argument(
        "--repair", action="store_true", help="remove broken records and leftovers; the next run renders them"
    )
    check.add_argument("--json", action="store_true", help="machine-readable: one line")

    collect = verb("gc", _gc, "find what no job needs any more in a workspace; deletes it only with --delete")
    collect.add_argument(
        "jobs", nargs="+", metavar="JOB", help="job files of one workspace, or the workspace's URL"
    )
    collect.add_argument(
        "--delete", action="store_true", help="mark it, and delete what was marked before --grace"
    )
    collect.add_argument(
        "--keep-days",
        type=float,
        default=7.0,
        metavar="N",
        help="keep runs of the last N days, and what they need (7)",
    )
    collect.add_argument(
        "--grace", type=float, default=24.0, metavar="HOURS", help="time between mark and deletion (24)"
    )
    collect.add_argument(
        "--forget", action="append", default=[], metavar="NAME", help="job that is over and keeps nothing"
    )
    collect.add_argument("--json", action="store_true", help="machine-readable: one line")


def _verify(arguments: argparse.Namespace) -> int:
    from wanflow.verify import repair, verify

    workspace, targets = _places(arguments.job, arguments.set)
    if arguments.repair:
        report = repair(
            workspace, targets, deep=arguments.deep, on_wait=lambda words: print(words, file=sys.stderr)
        )
    else:
        report = verify(workspace, targets, deep=arguments.deep)
    if arguments.json:
        print(json.dumps(report.to_json()))
    else:
        _print_report(report)
    return 0 if report.is_clean else 3


def _gc(arguments: argparse.Namespace) -> int:
    from wanflow.gc import collect, workspace_of

    found = collect(
        workspace_of(_places(name)[0] for name in arguments.jobs),
        delete=arguments.delete,
        keep_days=arguments.keep_days,
        grace_h=arguments.grace,
        forget=arguments.forget,
        on_wait=lambda words: print(words, file=sys.stderr),
    )
    if arguments.json:
        print(json.dumps(found.to_json()))
    else:
        _print_collected(found, arguments.delete)
    return 0


def _places(name: str, sets: Sequence[str] = ()) -> tuple[Store, list[str]]:
    """The workspace that an argument names, a job or a URL, and what is known to be published to from there."""
    from wanflow.job import load_job
    from wanflow.storage import Store

    if name.lower().endswith((".yaml", ".yml")):
        job = load_job(name, sets)
        return Store(str(job.workspace)), [job.publish.url]
    return Store(name), []


def _print_report(report: Report) -> None:
    rows = [(c.state, c.name, f"{c.num_checked:,}", f"{len(c.findings):,}", c.promise) for c in report.checks]
    print_table(("", "check", "looked at", "found", "promise"), rows)
    for check in report.checks:
        for finding in check.findings[:MAX_ROWS]:
            print(
                f"{'warn' if finding.is_warning else 'fail'} {check.name}: {finding.path}: {finding.reason}"
            )
            if finding.todo:
                print(f"     -> {finding.todo}")
        if len(check.findings) > MAX_ROWS:
            print(f"... and {len(check.findings) - MAX_ROWS:,} more of {check.name} (--json has all)")
    for words in report.repaired:
        print(words)
    removable = sum(bool(f.remove or f.discard) for check in report.checks for f in check.findings)
    if removable:
        print(f"--repair would remove {removable:,} of these")
    print("clean" if report.is_clean else "promises are broken: see above")


def _print_collected(found: Collected, is_deleting: bool) -> None:
    def cell(counts: Mapping[str, tuple[int, int]], kind: str) -> str:
        number, size = counts.get(kind, (0, 0))
        return f"{_bytes(size)} in {number:,}" if number else "-"

    kinds = [*found.kept, *(kind for kind in found.waste if kind not in found.kept)]
    rows = [
        (
            k,
            _bytes(found.kept.get(k, 0)),
            *(cell(each, k) for each in (found.waste, found.due, found.deleted)),
        )
        for k in kinds
    ]
    print_table(("kind", "needed", "not needed", "grace is over", "deleted"), rows)
    print(f"needed by {len(found.needed.runs):,} run(s)")
    for job in found.needed.unknown_jobs:
        print(
            f"nothing can be deleted: no run of the job {job} says what it needs; run it, or --forget {job}"
        )
    if not is_deleting and found.waste:
        print("nothing was changed; --delete marks what is not needed, and deletes it when its grace is over")


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
