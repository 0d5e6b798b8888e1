"""Pins: what a run relies on in the store, written before it does, so that ``gc`` leaves it alone.

``runs/<run_id>/pins.parquet`` has a row for every stage's key and every input of everything that the run asks for, made
by it or held before. The pins of the newest whole run are also what its job needs until the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanflow.keys import stages
from wanflow.model import Clip
from wanflow.parquet import dump_table, load_table
from wanflow.storage import Store

if TYPE_CHECKING:
    import pyarrow as pa

KEY, INPUT = "key", "input"


@dataclass(frozen=True, slots=True)
class Pins:
    """Keys of stages and digests of inputs."""

    keys: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    #: the run looked at all rows of its manifest: what is not in here, the job no longer asks for
    is_whole: bool = False


def pins_of(clips: Collection[Clip], inputs: Iterable[str], is_whole: bool) -> Pins:
    """Everything that variants of ``clips`` need. ``inputs``: digests of what their layers show."""
    keys = frozenset(stage.key for clip in clips for stage in stages(clip))
    of_clips = (source.digest for clip in clips for source in clip.sources)
    return Pins(keys, frozenset([*inputs, *of_clips]), is_whole)


def write_pins(workspace: Store, run_id: str, pins: Pins) -> None:
    """Durable when it returns."""
    import pyarrow as pa

    rows = sorted([(KEY, key) for key in pins.keys] + [(INPUT, digest) for digest in pins.inputs])
    table = pa.table({"kind": [kind for kind, _ in rows], "id": [name for _, name in rows]}, schema=_schema())
    table = table.replace_schema_metadata({"is_whole": str(int(pins.is_whole))})
    workspace.write(_path(run_id), dump_table(table))


def has_pins(workspace: Store, run_id: str) -> bool:
    return bool(run_id) and workspace.stat(_path(run_id)) is not None


def copy_pins(workspace: Store, from_run: str, to_run: str) -> None:
    """Let ``to_run`` rely on what ``from_run`` relied on."""
    workspace.write(_path(to_run), workspace.read(_path(from_run)))


def read_pins(workspace: Store, run_id: str) -> Pins | None:
    """None when the run has none."""
    try:
        table = load_table(workspace.read(_path(run_id)))
    except FileNotFoundError:
        return None
    ids: dict[str, set[str]] = {KEY: set(), INPUT: set()}
    for kind, name in zip(table["kind"].to_pylist(), table["id"].to_pylist(), strict=True):
        ids[kind].add(name)
    is_whole = (table.schema.metadata or {}).get(b"is_whole") == b"1"
    return Pins(frozenset(ids[KEY]), frozenset(ids[INPUT]), is_whole)


def _path(run_id: str) -> str:
    return f"runs/{run_id}/pins.parquet"


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("kind", pa.string()), ("id", pa.string())])
