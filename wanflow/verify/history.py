"""What the ledgers of all runs say, in one pass: who ordered which render when, and what came of it.

Only the columns that the checks need are kept. A run whose files cannot be read is in :attr:`History.problems`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wanflow.storage import Store
from wanflow.verify.reader import EVENTS, RUN, Unreadable, parse_attempt, read_json, read_table

if TYPE_CHECKING:
    import pyarrow as pa

EVENT_COLUMNS = ("time_s", "event", "task", "attempt", "data")
#: stages of a render that keep a replica's engine busy
ENGINE_STAGES = ("trunk", "denoise", "ahead", "cascade", "decode")

Number = tuple[int, int]


@dataclass(slots=True)
class RenderTold:
    """One attempt at a clip as the ledger tells it."""

    task: str
    attempt: Number
    run_id: str
    ordered_s: float
    #: place in the run's events
    ordered_at: int
    #: when and where the ledger says that the clip was rendered; None: it does not
    ended_s: float | None = None
    ended_at: int = 0
    #: seconds of the engine that it spent, however it ended
    engine_s: float = 0.0


@dataclass(slots=True)
class RunTold:
    """One run's directory. Plan and results are kept of the newest ended run of a job only."""

    run_id: str
    job: str
    outcome: dict[str, Any] | Unreadable | None = None
    plan: pa.Table | Unreadable | None = None
    results: pa.Table | Unreadable | None = None
    #: tasks that were seen rendered or found rendered
    rendered: set[str] = field(default_factory=set)
    #: gc has left its plan and outcome of it only
    is_collected: bool = False


@dataclass
class History:
    #: oldest first
    runs: list[RunTold] = field(default_factory=list)
    renders: dict[Number, RenderTold] = field(default_factory=dict)
    #: renders that ended without an order: (run, task, attempt)
    unordered: list[tuple[str, str, str]] = field(default_factory=list)
    #: epoch -> the runs that used it
    epochs: dict[int, set[str]] = field(default_factory=dict)
    #: (path, what is wrong with it)
    problems: list[tuple[str, str]] = field(default_factory=list)
    num_events: int = 0
    #: every publish.url that results name files of
    target_urls: set[str] = field(default_factory=set)

    @property
    def newest(self) -> list[RunTold]:
        """The newest run of each job that has ended."""
        ended = {run.job: run for run in self.runs if isinstance(run.outcome, dict)}
        return list(ended.values())

    @property
    def unended(self) -> list[RunTold]:
        """The newest run of each job, where it has no outcome."""
        last = {run.job: run for run in self.runs}
        return [run for run in last.values() if run.outcome is None]


def read_history(workspace: Store, files: Collection[str]) -> History:
    """``files``: every path of the workspace."""
    history = History()
    by_run: dict[str, list[int]] = {path.split("/")[1]: [] for path in files if path.startswith("runs/")}
    for path in files:
        if match := EVENTS.match(path):
            by_run[match[1]].append(int(match[2]))
    for run_id in sorted(by_run):
        match = RUN.match(run_id)
        run = RunTold(run_id, (match[1] or "") if match else run_id)
        history.runs.append(run)
        run.is_collected = f"runs/{run_id}/job.yaml" not in files
        _read_files(workspace, history, run)
        if run.outcome is not None:
            for older in history.runs[:-1]:
                if older.job == run.job:
                    older.plan = older.results = None
        _read_events(workspace, history, run, sorted(by_run[run_id]))
    return history


def _read_files(workspace: Store, history: History, run: RunTold) -> None:
    folder = f"runs/{run.run_id}"
    run.outcome = read_json(workspace, f"{folder}/outcome.json")
    run.plan = read_table(workspace, f"{folder}/plan.parquet")
    run.results = read_table(workspace, f"{folder}/results.parquet")
    for name, found in (
        ("outcome.json", run.outcome),
        ("plan.parquet", run.plan),
        ("results.parquet", run.results),
    ):
        if isinstance(found, Unreadable):
            history.problems.append((f"{folder}/{name}", found.reason))
    if url := _target_url(run.results):
        history.target_urls.add(url)


def _target_url(results: pa.Table | Unreadable | None) -> str:
    """The publish.url of a run, read off the first file that its results name."""
    if results is None or isinstance(results, Unreadable) or "files" not in results.column_names:
        return ""
    for files in results["files"]:
        for file in files.as_py() or ():
            url, path = str(file.get("url")), str(file.get("path"))
            if url.endswith(f"/{path}"):
                return url[: -len(path) - 1]
    return ""


def _read_events(workspace: Store, history: History, run: RunTold, numbers: list[int]) -> None:
    folder = f"runs/{run.run_id}/events"
    place, number, last = 0, -1, max(numbers, default=-1)
    while True:
        number += 1
        path = f"{folder}/{number:06d}.parquet"
        table = read_table(workspace, path)
        if table is None and number > last:  # listings may lag: the one after the last is asked for, too
            break
        if table is None:
            history.problems.append((path, "it is missing, and later ones are there"))
            continue
        if isinstance(table, Unreadable) or not set(EVENT_COLUMNS) <= set(table.column_names):
            reason = table.reason if isinstance(table, Unreadable) else "it lacks columns of an event"
            history.problems.append((path, reason))
            continue
        columns = (table[name].to_pylist() for name in EVENT_COLUMNS)
        for time_s, event, task, attempt, data in zip(*columns, strict=True):
            place += 1
            _take(history, run, place, float(time_s or 0), event, task, parse_attempt(attempt), data)
    history.num_events += place


def _take(
    history: History,
    run: RunTold,
    place: int,
    time_s: float,
    event: str,
    task: str,
    attempt: Number | None,
    data: str,
) -> None:
    if event in {"ClipRendered", "ClipFound"}:
        run.rendered.add(task)
    if attempt is None:
        return
    if event in {"Render", "Assemble"}:
        history.epochs.setdefault(attempt[0], set()).add(run.run_id)
    if event == "Render":
        history.renders[attempt] = RenderTold(task, attempt, run.run_id, time_s, place)
    elif event in {"ClipRendered", "RenderFailed"}:
        render = history.renders.get(attempt)
        if render is None or render.task != task:
            history.unordered.append((run.run_id, task, f"{attempt[0]}.{attempt[1]}"))
            return
        render.engine_s = max(render.engine_s, _engine_seconds(data))
        if event == "ClipRendered" and render.ended_s is None:
            render.ended_s, render.ended_at = time_s, place


def _engine_seconds(data: str) -> float:
    try:
        seconds = json.loads(data or "{}").get("seconds") or {}
        return sum(
            float(value) for stage, value in seconds.items() if stage.partition("-")[0] in ENGINE_STAGES
        )
    except (ValueError, AttributeError, TypeError):
        return 0.0
