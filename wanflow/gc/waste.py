"""What lies in a workspace and is not needed, by kind. Reads listings, and records of keys with several attempts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wanflow.gc.needed import Needed
from wanflow.gc.runs import OldRuns
from wanflow.records import clip_record, in_parallel
from wanflow.storage import Stat, Store


@dataclass
class Waste:
    """What nobody needs: path -> (kind, bytes), records before their files."""

    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    #: bytes that stay, by kind
    kept: Counter[str] = field(default_factory=Counter)


def find_waste(
    workspace: Store, needed: Needed, old_upload_s: float, old_runs: OldRuns | None = None
) -> Waste:
    """Everything in ``clips/``, ``steps/``, ``inputs/`` and of ``old_runs`` that is not needed, and uploads that never
    ended.
    """
    waste = Waste()
    clips = list(workspace.list("clips"))
    recorded = {key_of(stat.path) for stat in clips if is_record(stat.path)}
    losing = _losing(workspace, clips, recorded & needed.keys)
    for stat in sorted(clips, key=lambda stat: not is_record(stat.path)):
        key = key_of(stat.path)
        if key not in needed.keys:
            waste.files[stat.path] = ("clips" if key in recorded else "attempts", stat.size_bytes)
        elif stat.path in losing:
            waste.files[stat.path] = ("attempts", stat.size_bytes)
        else:
            waste.kept["clips"] += stat.size_bytes
    for stat in workspace.list("steps"):
        key = stat.path.split("/")[1]
        if key in recorded or key not in needed.keys:
            waste.files[stat.path] = ("steps", stat.size_bytes)
        else:
            waste.kept["steps"] += stat.size_bytes
    for stat in workspace.list("inputs"):
        if stat.path.removeprefix("inputs/") not in needed.inputs:
            waste.files[stat.path] = ("inputs", stat.size_bytes)
        else:
            waste.kept["inputs"] += stat.size_bytes
    for stat in sorted(workspace.list("runs"), key=lambda stat: not goes_first(stat.path)):
        if old_runs is not None and old_runs.wants(stat.path):
            waste.files[stat.path] = ("runs", stat.size_bytes)
        else:
            waste.kept["runs"] += stat.size_bytes
    for write in workspace.unfinished():
        if write.since_s < old_upload_s:
            waste.files[f"{UNFINISHED}{write.path}#{write.upload_id}"] = ("unfinished", write.size_bytes)
    return waste


#: before the path of a write that never ended, which is no file of the store
UNFINISHED = "unfinished:"


def _losing(workspace: Store, clips: list[Stat], recorded: set[str]) -> set[str]:
    """Files of recorded keys that the record does not name. Only keys with several attempts have any."""
    files: dict[str, list[str]] = defaultdict(list)
    for stat in clips:
        if not is_record(stat.path):
            files[key_of(stat.path)].append(stat.path)
    several = [key for key in recorded if len({path.rpartition("/")[0] for path in files.get(key, ())}) > 1]
    losing: set[str] = set()
    for key, record in zip(
        several, in_parallel(lambda key: clip_record(workspace, key), several), strict=True
    ):
        if record is not None:
            losing.update(set(files[key]) - {file.path for file in record.files})
    return losing


def by_kind(waste: Waste, paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for path in paths:
        kind, size = waste.files[path]
        number, total = counts.get(kind, (0, 0))
        counts[kind] = (number + 1, total + size)
    return counts


def is_record(path: str) -> bool:
    return path.startswith("clips/") and path.count("/") == 2


def goes_first(path: str) -> bool:
    """Whether the file says that others are there: it is deleted before them."""
    return is_record(path) or (path.startswith("runs/") and path.endswith("/outcome.json"))


def due_of(waste: Waste, marks: Mapping[str, float], before_s: float) -> list[str]:
    """What was marked before then. A run's directory goes as one: a file that came since keeps the others."""
    waiting = {path for path in waste.files if marks.get(path, before_s + 1) > before_s}
    written = {_run_of(path) for path in waiting} - {""}
    return [path for path in waste.files if path not in waiting and _run_of(path) not in written]


def _run_of(path: str) -> str:
    return path.split("/")[1] if path.startswith("runs/") else ""


def key_of(path: str) -> str:
    """The key that a path below ``clips/`` belongs to."""
    return path.split("/")[2].removesuffix(".json")
