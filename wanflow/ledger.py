"""The run directory: what was tried. Its files and their columns are a contract.

::

    <workspace>/runs/<run_id>/job.yaml              the job as it was given
                              plan.parquet          what was to be done, and why
                              pins.parquet          what it relies on (``wanflow.pins``)
                              events/000000.parquet what was ordered and what happened, in order
                              results.parquet       a row a variant
                              outcome.json          how it ended; absent while it runs and after a crash
                              stop                  somebody asked the run to stop

Records are the truth of what is done; the ledger is the truth of what was tried. An event that was appended as durable
(or before a flush) is in the store when the call returns; a crash loses at most the buffered rest, never a file's half.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanflow.errors import Conflict, StoreError
from wanflow.parquet import dump_table, load_parts, load_table, parts_on_disk
from wanflow.records import in_parallel
from wanflow.storage import Store

if TYPE_CHECKING:
    import pyarrow as pa

#: columns of an event; what else a row has goes into ``data`` as JSON
EVENT_COLUMNS = ("time_s", "event", "task", "attempt", "replica", "reason", "data")
_COLUMNS = frozenset(EVENT_COLUMNS)
_encode = json.JSONEncoder(default=str, ensure_ascii=False).encode
#: buffered rows are written when there are this many
BUFFERED_ROWS = 500
#: of a job's name in its runs' ids
_SLUG_CHARS = 40


def new_run_id(started_s: float, name: str = "") -> str:
    """Sortable by time, unique: ``20261120T150539.120Z-spring-sale-3f9a2c``."""
    now = datetime.fromtimestamp(started_s, UTC)
    stamp = now.strftime("%Y%m%dT%H%M%S.") + f"{now.microsecond // 1000:03d}Z"
    return "-".join(part for part in (stamp, _slug(name), secrets.token_hex(3)) if part)


def run_ids(workspace: Store, name: str = "") -> list[str]:
    """Every run of the workspace, oldest first; ``name``: of the job of this name only."""
    return [run for run in workspace.folders("runs") if not name or is_run_of(run, name)]


def is_run_of(run_id: str, name: str) -> bool:
    """Whether the run is one of the job of this name."""
    return job_of(run_id) == _slug(name)


def job_of(run_id: str) -> str:
    """The name of the run's job, as it is in the id: another for each job."""
    return run_id.partition("-")[2].rpartition("-")[0]


def latest_run(workspace: Store, name: str = "") -> str | None:
    """The youngest run, or None."""
    return max(run_ids(workspace, name), default=None)


class Ledger:
    """One run's directory; written by its driver, read by everybody. Safe to use from several threads."""

    def __init__(self, workspace: Store, run_id: str) -> None:
        self.workspace = workspace
        self.run_id = run_id
        self._rows: list[dict[str, Any]] = []
        self._is_planned = False
        self._next: int | None = None
        self._lock = threading.Lock()

    def path(self, name: str) -> str:
        """``name`` in the run directory, as a path in the workspace."""
        return f"runs/{self.run_id}/{name}"

    @contextmanager
    def withdrawn_unless_planned(self) -> Iterator[None]:
        """Take the run directory away when what is done here raises before :meth:`write_plan`: the run never began."""
        try:
            yield
        except BaseException:
            if not self._is_planned:
                with suppress(StoreError):
                    for stat in list(self.workspace.list(self.path(""))):
                        self.workspace.delete(stat.path)
            raise

    def append(self, row: Mapping[str, Any], durable: bool = False) -> None:
        """Add an event; keys that are no columns go to ``data``. ``durable``: it is in the store on return."""
        with self._lock:
            self._rows.append(_event(row))
            if durable or len(self._rows) >= BUFFERED_ROWS:
                self._flush()

    def flush(self) -> None:
        """Write what is buffered."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._next is None:  # a run is written by one driver, but a caller may open its ledger again
            self._next = 1 + max((_number(path) for path in self._event_paths()), default=-1)
        data = dump_table(_event_table(self._rows))
        while True:
            path = self.path(f"events/{self._next:06d}.parquet")
            self._next += 1
            try:
                self.workspace.create(path, data)
                break
            except Conflict:
                if self.workspace.read(path) == data:  # mine: the acknowledgement was lost
                    break
        self._rows.clear()

    def write_job(self, text: str) -> None:
        self.workspace.write(self.path("job.yaml"), text.encode())

    def write_plan(self, rows: pa.Table | Iterable[Mapping[str, Any]]) -> None:
        self._is_planned = True
        self._write_table("plan.parquet", rows)

    def write_results(self, schema: pa.Schema, parts: Iterable[pa.Table]) -> None:
        """A table of ``schema`` that comes in parts: a part is held at a time."""
        with parts_on_disk(schema, parts) as path:
            self.workspace.write(self.path("results.parquet"), path)

    def repeat_results(self, before: Ledger, num_rows: int, change: Callable[[pa.Table], pa.Table]) -> bool:
        """Write the results of ``before`` once more, ``change`` made to each part of them; a part is held at a time.

        False, and nothing is written, when there are none or not ``num_rows`` of them.
        """
        with tempfile.TemporaryDirectory(prefix="wanflow-") as folder:
            path = Path(folder, "results.parquet")
            try:
                self.workspace.fetch(before.path("results.parquet"), path)
            except FileNotFoundError:
                return False
            schema, num_held, parts = load_parts(path)
            if num_held != num_rows:
                return False
            self.write_results(schema, map(change, parts))
        return True

    def write_outcome(self, outcome: Mapping[str, Any]) -> None:
        """How the run ended; written last, so that its presence says that everything else is there."""
        self.flush()
        self.workspace.write(
            self.path("outcome.json"), json.dumps(outcome, indent=1, ensure_ascii=False).encode()
        )

    def ask_stop(self, message: str) -> None:
        """Ask the run to drain and end; its driver looks for this with :meth:`stop_asked`."""
        self.workspace.write(self.path("stop"), (message or "stop").encode())

    def stop_asked(self) -> str | None:
        """The message of :meth:`ask_stop`, or None."""
        data = self._read("stop")
        return None if data is None else data.decode(errors="replace")

    def read_job(self) -> str | None:
        data = self._read("job.yaml")
        return None if data is None else data.decode()

    def read_plan(self) -> pa.Table | None:
        return self._read_table("plan.parquet")

    def read_results(self) -> pa.Table | None:
        return self._read_table("results.parquet")

    def has_ended(self) -> bool:
        """Whether the run has an outcome."""
        return self.workspace.stat(self.path("outcome.json")) is not None

    def read_outcome(self) -> dict[str, Any] | None:
        data = self._read("outcome.json")
        try:
            return None if data is None else dict(json.loads(data))
        except ValueError as exc:
            raise StoreError(f"{self.path('outcome.json')} is damaged ({exc}); delete it") from exc

    def read_events(self) -> pa.Table:
        """Every event that reached the store, in order."""
        import pyarrow as pa

        tables = in_parallel(lambda path: load_table(self.workspace.read(path)), self._event_paths())
        return pa.concat_tables([_event_table([]), *tables])

    def _event_paths(self) -> list[str]:
        return sorted((stat.path for stat in self.workspace.list(self.path("events"))), key=_number)

    def _read(self, name: str) -> bytes | None:
        try:
            return self.workspace.read(self.path(name))
        except FileNotFoundError:
            return None

    def _read_table(self, name: str) -> pa.Table | None:
        data = self._read(name)
        return None if data is None else load_table(data)

    def _write_table(self, name: str, rows: pa.Table | Iterable[Mapping[str, Any]]) -> None:
        import pyarrow as pa

        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows])
        self.workspace.write(self.path(name), dump_table(table))


def _event(row: Mapping[str, Any]) -> dict[str, Any]:
    unknown = {name: value for name, value in row.items() if name not in _COLUMNS}
    data = row.get("data")
    if unknown:
        data = {**(data if isinstance(data, Mapping) else {}), **unknown}
    event: dict[str, Any] = {name: str(row.get(name) or "") for name in EVENT_COLUMNS[1:-1]}
    event["time_s"] = float(row.get("time_s") or 0.0)
    event["data"] = data if isinstance(data, str) else _encode(data) if data else ""
    return event


def _event_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Without ``pa.array``: it looks at every list through pandas, which takes half a second to import."""
    import pyarrow as pa

    def column(name: str) -> pa.Array:
        if name == "time_s":
            data = pa.py_buffer(array("d", (row[name] for row in rows)))
            return pa.Array.from_buffers(pa.float64(), len(rows), [None, data])
        strings = pa.lib.StringBuilder()
        strings.append_values([row[name] for row in rows])
        return strings.finish()

    return pa.table({name: column(name) for name in EVENT_COLUMNS})


def _number(path: str) -> int:
    name = path.rpartition("/")[2].removesuffix(".parquet")
    return int(name) if name.isdigit() else -1


def _slug(name: str) -> str:
    """The name as it is in run ids. One that loses something by that ends in digits of its hash: no two are alike."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_SLUG_CHARS]
    if slug == name:
        return slug
    digits = hashlib.sha256(name.encode()).hexdigest()[:6]
    return "-".join(filter(None, (slug[: _SLUG_CHARS - 7].rstrip("-"), digits)))
