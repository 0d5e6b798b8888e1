"""The two phases: marks with their time, and the deletion of what was marked long enough ago."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from wanflow.gc.waste import UNFINISHED, Waste, goes_first, key_of
from wanflow.ledger import run_ids
from wanflow.parquet import dump_table, load_table
from wanflow.pins import read_pins
from wanflow.records import in_parallel
from wanflow.storage import Store

MARKS = "gc/marks.parquet"
#: pins are looked for again after so many deletions
BATCH = 500


class SinceThen:
    """What runs have pinned since ``runs`` was everything there was."""

    def __init__(self, workspace: Store, runs: Collection[str]) -> None:
        self._workspace = workspace
        self._seen = set(runs)
        self.names: set[str] = set()

    def look(self) -> bool:
        """Take in new pins; False when a run has begun that does not say yet what it needs."""
        new = [run_id for run_id in run_ids(self._workspace) if run_id not in self._seen]
        for run_id in new:
            pins = read_pins(self._workspace, run_id)
            if pins is None:
                return False
            self._seen.add(run_id)
            self.names |= pins.keys | pins.inputs
        return True


def sweep(workspace: Store, waste: Waste, due: Iterable[str], runs: Collection[str]) -> list[str]:
    """Delete ``due``, records before their files; returns what was deleted.

    ``runs``: every run that there was when ``waste`` was found. What others have pinned since is left alone.
    """
    asked = set(due)
    order = [path for path in waste.files if path in asked]
    writes = {f"{UNFINISHED}{write.path}#{write.upload_id}": write for write in workspace.unfinished()}
    since = SinceThen(workspace, runs)
    gone: list[str] = []
    for first in range(0, len(order), BATCH):
        if not since.look():
            break
        batch = [path for path in order[first : first + BATCH] if _name(path) not in since.names]
        for path in batch:
            if path in writes:
                workspace.discard(writes[path])
        files = [path for path in batch if not path.startswith(UNFINISHED)]
        in_parallel(workspace.delete, [path for path in files if goes_first(path)])
        in_parallel(workspace.delete, [path for path in files if not goes_first(path)])
        gone += batch
    return gone


def _name(path: str) -> str:
    """The key or digest that a path is about."""
    return key_of(path) if path.startswith("clips/") else path.split("/")[1] if "/" in path else path


def read_marks(workspace: Store) -> dict[str, float]:
    """Path -> since when it is not needed, in seconds since 1970. Damaged marks are none: everything waits again."""
    import pyarrow as pa

    try:
        table = load_table(workspace.read(MARKS))
        return dict(zip(table["path"].to_pylist(), table["since_s"].to_pylist(), strict=True))
    except (FileNotFoundError, KeyError, pa.ArrowException):
        return {}


def write_marks(workspace: Store, marks: Mapping[str, float]) -> None:
    import pyarrow as pa

    schema: pa.Schema = pa.schema([("path", pa.string()), ("since_s", pa.float64())])
    table = pa.table({"path": list(marks), "since_s": list(marks.values())}, schema=schema)
    workspace.write(MARKS, dump_table(table))
