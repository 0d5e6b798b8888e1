"""Pins: what a run relies on in the store, written before it does, so that ``gc`` leaves it alone.

``runs/<run_id>/pins.parquet`` has a row for every stage's key and every input of everything that the run asks for, made
by it or held before. The pins of the newest whole run are also what its job needs until the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanflow.keys import stages
from wanflow.model import Clip, ImageLayer, Source, TextLayer, Variant
from wanflow.parquet import dump_table, load_table
from wanflow.storage import Store

if TYPE_CHECKING:
    import pyarrow as pa

KEY, INPUT = "key", "input"


@dataclass(frozen=True, slots=True)
class Pins:
    """Keys of stages and digests of inputs."""

    keys: frozenset[str]
    inputs: frozenset[str]
    #: the run looked at all rows of its manifest: what is not in here, the job no longer asks for
    is_whole: bool


def pins_of(variants: Iterable[Variant], is_whole: bool) -> Pins:
    """Everything that ``variants`` need, from base latents to fonts."""
    clips: set[Clip] = set()
    sources: set[Source] = set()
    for variant in variants:
        for scene in variant.scenes:
            clips.update(clip for _, clip in scene.clips)
            for layer in scene.layers:
                if isinstance(layer, ImageLayer):
                    sources.add(layer.image)
                elif isinstance(layer, TextLayer) and layer.font:
                    sources.add(layer.font)
    sources.update(clip.image for clip in clips if clip.image)
    keys = frozenset(stage.key for clip in clips for stage in stages(clip))
    return Pins(keys, frozenset(source.digest for source in sources), is_whole)


def write_pins(workspace: Store, run_id: str, pins: Pins) -> None:
    """Durable when it returns."""
    import pyarrow as pa

    rows = sorted([(KEY, key) for key in pins.keys] + [(INPUT, digest) for digest in pins.inputs])
    table = pa.table({"kind": [kind for kind, _ in rows], "id": [name for _, name in rows]}, schema=_schema())
    table = table.replace_schema_metadata({"is_whole": str(int(pins.is_whole))})
    workspace.write(_path(run_id), dump_table(table))


def has_pins(workspace: Store, run_id: str) -> bool:
    return workspace.stat(_path(run_id)) is not None


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
