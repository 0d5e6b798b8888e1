"""What a person (or a log) sees of a run while it goes on. Views only look; they decide and write nothing.

``TerminalView`` is a live Rich display, ``JsonView`` one JSON line an event, ``View`` silence.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TextIO

from wanflow.model import Attempt
from wanflow.schedule.actions import (
    Action,
    Assemble,
    Finish,
    KillReplica,
    Reason,
    Render,
    RetireReplica,
    StartReplica,
)
from wanflow.schedule.events import (
    AssembleFailed,
    ClipRendered,
    DrainNoticed,
    Event,
    RenderFailed,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    RunStarted,
    StepDone,
    StepsKept,
    Tick,
    VariantPublished,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from wanflow.model import Loading
    from wanflow.planning import Plan


class View:
    """Sees everything, shows nothing."""

    def planned(self, plan: Plan, run_id: str) -> None: ...

    def message(self, words: str) -> None: ...

    def action(self, action: Action) -> None: ...

    def event(self, event: Event) -> None: ...

    @contextmanager
    def live(self) -> Iterator[None]:
        """Around the loop: a live display runs inside."""
        yield


#: by class of an action or event: (field, its name in a row); a run has millions of them
_COLUMNS: dict[type, list[tuple[str, str]]] = {}


def as_row(fact: Action | Event) -> dict[str, Any]:
    """An event or action as JSON-ready values, its name under ``event``."""
    kind = type(fact)
    row: dict[str, Any] = {"event": kind.__name__}
    names = _COLUMNS.get(kind)
    if names is None:
        # a task is named by its key; the ledger's column, like everybody's word for it, is `task`
        words = {"key": "task", "records": "files"}
        names = _COLUMNS[kind] = [(each.name, words.get(each.name, each.name)) for each in fields(fact)]
    for field, name in names:
        value = getattr(fact, field)
        if field == "records":
            row[name] = [file.path for record in value for file in record.files]
        else:
            row[name] = str(value) if isinstance(value, Attempt) else value
    if loading := row.pop("loading", None):
        row |= asdict(loading)
    if "seconds" in row:
        row["seconds"] = {stage: round(value, 3) for stage, value in row["seconds"]}
    return row


def loading_words(loading: Loading) -> str:
    """``fetched 126 GB at 1.2 GB/s, loaded 126 GB at 2.5 GB/s, rung 1 of the memory ladder``, for messages."""

    def pace(verb: str, num_bytes: int, seconds: float) -> str:
        return f"{verb} {num_bytes / 1e9:.3g} GB at {num_bytes / max(seconds, 1e-3) / 1e9:.2g} GB/s"

    fetched = [pace("fetched", loading.fetched_bytes, loading.fetch_s)] if loading.fetched_bytes else []
    rung = [f"rung {loading.rung} of the memory ladder"] if loading.rung else []
    return ", ".join([*fetched, pace("loaded", loading.loaded_bytes, loading.load_s), *rung])


class JsonView(View):
    """One JSON line an event, flushed, for logs that machines read. Steps are left out but for every fourth second."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream: TextIO | None = stream or sys.stdout
        self._steps_s = 0.0

    def planned(self, plan: Plan, run_id: str) -> None:
        self._line(
            {
                "event": "Planned",
                "time_s": time.time(),
                "run_id": run_id,
                "variants": plan.num_variants,
                "clips_wanted": plan.num_clips_wanted,
                "clips_to_render": len(plan.to_render),
                "variants_to_assemble": len(plan.to_assemble),
            }
        )

    def message(self, words: str) -> None:
        self._line({"event": "Message", "time_s": time.time(), "message": words})

    def action(self, action: Action) -> None:
        self._line({"time_s": time.time()} | as_row(action))

    def event(self, event: Event) -> None:
        if isinstance(event, Tick | RunStarted):
            return
        if isinstance(event, StepDone):
            if event.time_s - self._steps_s < 4.0:
                return
            self._steps_s = event.time_s
        self._line(as_row(event))

    def _line(self, row: dict[str, Any]) -> None:
        if self._stream is None:
            return
        try:
            print(json.dumps(row, default=str), file=self._stream, flush=True)
        except BrokenPipeError:  # whoever read the lines is gone; the run is not theirs to end
            self._stream = None


def escape(text: str) -> str:
    """Somebody else's words for Rich: what looks like markup in them is text."""
    from rich.markup import escape as escaped

    return escaped(text)


class TerminalView(View):
    """An overall bar with the time left, and a line a replica with its clip and step."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(file=sys.stdout)
        self._progress: Progress | None = None
        self._overall: TaskID | None = None
        self._lines: dict[str, TaskID] = {}
        self._prompts: dict[str, str] = {}
        #: replica -> the clip that it began last; an earlier one may end beside it
        self._newest: dict[str, str] = {}
        self._num_clips = self._num_variants = 0
        self._work: dict[str, float] = {}

    def planned(self, plan: Plan, run_id: str) -> None:
        self._num_clips, self._num_variants = len(plan.to_render), len(plan.to_assemble)
        self._prompts = {c.task.key: c.task.clip.prompt for c in plan.clips}
        self._console.print(
            f"[bold]{run_id}[/]: {plan.num_variants} variants of {plan.num_clips_wanted} clips; "
            f"{self._num_clips} clips to render, {self._num_variants} variants to assemble"
        )
        for lint in plan.lints:
            self._console.print(f"[yellow]note[/] {escape(str(lint))}")

    def message(self, words: str) -> None:
        self._console.print(f"[dim]{escape(words)}[/]")

    @contextmanager
    def live(self) -> Iterator[None]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as self._progress:
            total = self._num_clips + self._num_variants
            self._overall = self._progress.add_task("clips and variants", total=total)
            yield
        self._progress = None

    def action(self, action: Action) -> None:
        if self._progress is None:
            return
        match action:
            case StartReplica(replica=name):
                self._lines[name] = self._progress.add_task(f"{name}: waits for a machine", total=None)
            case Render(replica=name, key=key):
                self._newest[name] = key
                self._progress.reset(self._lines[name], total=None, description=self._describe(name, key, ""))
                if action.reason is Reason.STRAGGLER:
                    self._console.print(f"[dim]second copy[/] of a straggler on {name}")
            case RetireReplica(replica=name):
                self._forget(name)
            case KillReplica(replica=name, message=message):
                self._console.print(f"[red]ended[/] {escape(message)}")
                self._forget(name)
            case Assemble() | Finish():
                pass

    def event(self, event: Event) -> None:
        if self._progress is None or self._overall is None:
            return
        match event:
            case ReplicaPlaced(replica=name, node=node) if name in self._lines:
                # from here on, its line counts the time that it loads
                self._progress.reset(self._lines[name], total=None, description=f"{name}: loads on {node}")
            case ReplicaReady(replica=name, loading=loading) if name in self._lines:
                self._progress.update(self._lines[name], description=f"{name}: ready")
                if loading:
                    self._console.print(f"[dim]ready[/] {name}: {loading_words(loading)}")
            case StepDone(replica=name, key=key) if name in self._lines and self._newest.get(name) == key:
                self._progress.update(
                    self._lines[name],
                    description=self._describe(name, event.key, event.stage),
                    completed=event.step,
                    total=event.num_steps,
                )
            case ClipRendered() | VariantPublished():
                self._progress.advance(self._overall)
            case ReplicaLost(replica=name, message=message):
                self._console.print(f"[red]lost[/] {escape(message)}")
                self._forget(name)
            case DrainNoticed(replica=name, grace_s=grace_s):
                self._console.print(f"[yellow]drains[/] {name}: its machine goes in {grace_s:.0f} s")
            case StepsKept(replica=name, stage=stage, step=step, is_last=True):
                self._console.print(f"[yellow]saved[/] {name}: {stage} up to step {step}, for later")
            case RenderFailed(message=message) | AssembleFailed(message=message):
                self._console.print(f"[red]failed[/] {escape(message)}")

    def _describe(self, name: str, key: str, stage: str) -> str:
        return f"{name}: {self._prompts.get(key, key)[:38]:38} {stage:10}"

    def _forget(self, name: str) -> None:
        if self._progress is not None and (line := self._lines.pop(name, None)) is not None:
            self._progress.remove_task(line)
