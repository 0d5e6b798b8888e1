"""The promises about runs, one function each: ledger, epochs, lease, the newest results.

What a run tried is in its ledger, what came of it in the records; the two must agree. See ``checks`` for the shape.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from wanflow.storage import join
from wanflow.verify.checks import NEXT_RUN, Checked, Finding
from wanflow.verify.evidence import Evidence
from wanflow.verify.history import RenderTold, RunTold
from wanflow.verify.reader import EPOCH, LEASE, RecordRead, Unreadable, read_json

STATUSES = {"published", "unchanged", "held", "failed", "left"}
#: a holder that has not shown life for so long is taken over from
LEASE_S = 60.0
#: gc writes it before it deletes anything
MARKS = "gc/marks.parquet"
#: clocks of two machines may differ by this
CLOCK_SLACK_S = 30.0


def check_ledger(evidence: Evidence) -> Checked:
    """Every attempt is on record before it began: a record's attempt, and every render that ended, was ordered."""
    history = evidence.history
    found = [Finding(path, reason) for path, reason in history.problems]
    for run_id, task, attempt in history.unordered:
        found.append(
            Finding(f"runs/{run_id}", f"attempt {attempt} at {task[:12]}... ended and was never ordered")
        )
    for run in history.runs:
        told = run.outcome.get("num_clips_rendered", 0) if isinstance(run.outcome, dict) else 0
        if told > len(run.rendered) and not run.is_collected:
            reason = f"its outcome counts {told} rendered clips, its events {len(run.rendered)}"
            found.append(Finding(f"runs/{run.run_id}", reason))
    unknown: Counter[int] = Counter()
    for path, record in evidence.clips.items():
        if isinstance(record, Unreadable):
            continue
        render = history.renders.get(record.attempt)
        if render is None and record.attempt[0] not in history.epochs:
            unknown[record.attempt[0]] += 1
        elif render is None or (record.info.get("stage") == "master" and render.task != record.key):
            attempt = f"{record.attempt[0]}.{record.attempt[1]}"
            found.append(Finding(path, f"no ledger says that its attempt {attempt} was ordered"))
    if MARKS in evidence.files:  # gc has been at work, and takes the directories of old runs
        unknown.clear()
    for epoch, number in sorted(unknown.items()):
        reason = f"{number} record(s) are of a run whose ledger is gone"
        found.append(Finding(f"epochs/{epoch:08d}", reason, is_warning=True))
    return history.num_events + len(evidence.clips), found


def check_rendered_once(evidence: Evidence) -> Checked:
    """No clip is rendered after its record: every attempt ordered later spent no second of the engine."""
    by_task: dict[str, list[RenderTold]] = {}
    for render in evidence.history.renders.values():
        by_task.setdefault(render.task, []).append(render)
    found = []
    for key, record in evidence.keys.items():
        winner = evidence.history.renders.get(record.attempt)
        if winner is None or winner.ended_s is None:
            continue
        for other in by_task.get(key, ()):
            if other is not winner and other.engine_s > 0 and _after(other, winner):
                attempt = f"{other.attempt[0]}.{other.attempt[1]}"
                reason = f"attempt {attempt} of {other.run_id} rendered it for {other.engine_s:.1f} s, after its record"
                found.append(Finding(f"clips/{key[:2]}/{key}.json", reason))
    return len(evidence.history.renders), found


def _after(other: RenderTold, winner: RenderTold) -> bool:
    assert winner.ended_s is not None
    if other.run_id == winner.run_id:
        return other.ordered_at > winner.ended_at
    return other.ordered_s > winner.ended_s + CLOCK_SLACK_S


def check_epochs(evidence: Evidence) -> Checked:
    """Every epoch was claimed, by one run; no record is of an epoch that nobody claimed."""
    claimed, found = set(), []
    for path, stat in evidence.files.items():
        if match := EPOCH.match(path):
            claimed.add(int(match[1]))
            if not stat.size_bytes:
                found.append(Finding(path, "it is empty"))
        elif path.startswith("epochs/"):
            found.append(Finding(path, "it is no epoch"))
    for epoch, runs in sorted(evidence.history.epochs.items()):
        if len(runs) > 1:
            found.append(
                Finding(f"epochs/{epoch:08d}", f"{len(runs)} runs used it: {', '.join(sorted(runs))}")
            )
    records = {
        **evidence.clips,
        **{path: r for target in evidence.targets for path, r in target.records.items()},
    }
    for path, record in records.items():
        if not isinstance(record, RecordRead) or record.attempt[0] in claimed:
            continue
        if evidence.file(f"epochs/{record.attempt[0]:08d}") is not None:
            claimed.add(record.attempt[0])
        else:
            found.append(Finding(path, f"it is of epoch {record.attempt[0]}, which nobody claimed"))
    return len(claimed), found


def check_lease(evidence: Evidence) -> Checked:
    """Every lease can be read; one that is held shows life."""
    number, found = 0, []
    for path in evidence.files:
        if LEASE.match(path):
            number += 1
            body = read_json(evidence.workspace, path)
            if body is None:
                continue
            if isinstance(body, Unreadable) or not isinstance(body.get("token"), str):
                reason = body.reason if isinstance(body, Unreadable) else "it names no holder"
                found.append(Finding(path, reason, is_warning=True, todo="the next run takes it over"))
            elif not body.get("released"):
                found.append(Finding(path, *_held(body), is_warning=True))
    return number, found


def _held(body: dict[str, Any]) -> tuple[str]:
    still_s = time.time() - float(body.get("beat_at_s") or 0)
    if still_s > LEASE_S:
        return (
            f"{body.get('run_id')} holds it and has shown no life for {still_s:,.0f} s; the next run takes over",
        )
    return (f"{body.get('run_id')} is at work: what is found here may be its unfinished work; verify again",)


def check_results(evidence: Evidence) -> Checked:
    """The newest results of each job agree with the store, and explain every variant that has no file."""
    number, found = 0, []
    for run in evidence.history.unended:
        reason = "it has no outcome: at work, or crashed (run the job again)"
        found.append(Finding(f"runs/{run.run_id}", reason, is_warning=True))
    for run in evidence.history.newest:
        path = f"runs/{run.run_id}/results.parquet"
        if run.results is None:
            found.append(Finding(path, "it is missing, and the run has an outcome"))
        if run.results is None or isinstance(run.results, Unreadable):
            continue
        rows = run.results.select(["variant_id", "status", "reason", "files"]).to_pylist()
        number += len(rows)
        for row in rows:
            found += [
                Finding(path, f"{row['variant_id']}: {reason}") for reason in _row_trouble(evidence, run, row)
            ]
        counted = Counter(row["status"] for row in rows)
        counts = run.outcome.get("counts", {}) if isinstance(run.outcome, dict) else {}
        if {name: n for name, n in counts.items() if n} != dict(counted):
            found.append(Finding(path, f"it counts {dict(counted)}, its outcome {counts}"))
    return number, found


def _row_trouble(evidence: Evidence, run: RunTold, row: dict[str, Any]) -> Iterator[str]:
    status, files = row["status"], row["files"] or []
    if status not in STATUSES:
        yield f"its status is {status!r}"
    if status in {"failed", "held", "left"} and not row["reason"]:
        yield f"it is {status} without a reason"
    if status in {"published", "unchanged"} and not files:
        yield f"it is {status} without a file"
    for file in files:
        target = next((t for t in evidence.targets if join(t.store.url, file["path"]) == file["url"]), None)
        if target is None:
            yield f"{file['url']} lies at no place that this workspace publishes to"
            continue
        record = target.record_of(file["path"])
        named = next((f for f in record.files if f.path == file["path"]), None) if record else None
        stat = target.file(file["path"], file["size_bytes"], named.etag if named else "")
        if record is not None and str(record.info.get("run_id")) > run.run_id:
            continue  # published again since, by a younger run
        if stat is None:
            yield f"{file['path']} is not there"
        elif record is None:
            yield f"{file['path']} has no record"
        elif (file["sha256"], file["size_bytes"]) not in {(f.sha256, f.size_bytes) for f in record.files}:
            yield f"{file['path']} is not the file that its record names"
        elif stat.size_bytes != file["size_bytes"]:
            yield f"{file['path']} has {stat.size_bytes:,} bytes, not {file['size_bytes']:,}"


def check_plan(evidence: Evidence) -> Checked:
    """Every variant of the newest plan of each job has its row in the results."""
    number, found = 0, []
    for run in evidence.history.newest:
        if run.plan is None or isinstance(run.plan, Unreadable):
            continue
        if run.results is None or isinstance(run.results, Unreadable):
            continue
        planned = Counter(  # a matrix makes several of one id
            row["id"] for row in run.plan.select(["kind", "id"]).to_pylist() if row["kind"] == "variant"
        )
        number += planned.total()
        told = Counter(run.results["variant_id"].to_pylist())
        path = f"runs/{run.run_id}/results.parquet"
        found += [
            Finding(path, f"{name} was planned and has no row", todo=NEXT_RUN)
            for name in (planned - told).elements()
        ]
    return number, found
