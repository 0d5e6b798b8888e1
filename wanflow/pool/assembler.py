"""Assembles and publishes one variant: masters, layers, sound in, visible files out. Knows neither Ray nor scheduler.

Masters and layer images are kept in a folder of this machine while the run lasts, because many variants share them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wanflow import assemble, quality
from wanflow.errors import AssembleError, InputError, StoreError, WanflowError
from wanflow.inputs import read_source
from wanflow.model import (
    AssembleVariant,
    Attempt,
    Cause,
    Record,
    Scalar,
    Source,
)
from wanflow.pool import RunContext
from wanflow.pool.failures import no_room
from wanflow.publish import publish
from wanflow.records import clip_record
from wanflow.storage import Store, wait_out


class MasterMissing(WanflowError):
    """Masters that the plan counted on are not in the store."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        super().__init__(keys)
        self.keys = keys

    def __str__(self) -> str:
        return f"{len(self.keys)} master(s) are missing in the store and will be rendered again"


#: a run's folder that nothing was put into for so long belongs to a run that is over
MAX_CACHE_AGE_S = 24 * 3600.0

Seconds = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Assembled:
    """What an assembly made: (stage, seconds) and the record of each published file."""

    seconds: Seconds
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Failed:
    """Why an assembly failed, as the scheduler should see it."""

    cause: Cause
    message: str
    #: masters that are not in the store
    missing: tuple[str, ...] = ()
    #: of files that were published before the failure
    records: tuple[Record, ...] = ()


def assemble_variant(context: RunContext, task: AssembleVariant, attempt: Attempt) -> Assembled | Failed:
    """Make and publish every file of ``task``. Failures are values: one variant's trouble must not end a worker."""
    records: list[Record] = []
    try:
        with wait_out():  # what is assembled is not thrown away because the store is away for some minutes
            return Assembled(_publish_files(context, task, attempt, records), tuple(records))
    except MasterMissing as error:
        return Failed(Cause.STORAGE, str(error), error.keys, tuple(records))
    except StoreError as error:
        return Failed(Cause.STORAGE, str(error), (), tuple(records))
    except InputError as error:
        return Failed(Cause.BAD_INPUT, str(error), (), tuple(records))
    except Exception as error:  # noqa: BLE001 - whatever else a file can do to a library
        if words := no_room(error):
            return Failed(Cause.STORAGE, words, (), tuple(records))
        words = str(error) if isinstance(error, AssembleError) else f"{type(error).__name__}: {error}"
        return Failed(Cause.ITEM_ERROR, words, (), tuple(records))


def _publish_files(
    context: RunContext, task: AssembleVariant, attempt: Attempt, records: list[Record]
) -> Seconds:
    """Assemble and publish; each file's record is appended as soon as it is published."""
    workspace, target = Store(context.workspace), Store(context.target)
    cache = cache_folder(context.run_id)
    started_s = time.perf_counter()
    rendered = _master_records(workspace, task)
    masters = {key: _fetch_master(workspace, record, cache) for key, record in rendered.items()}
    sources = {source.digest: _fetch_source(source, cache) for source in set(task.variant.sources)}
    seconds = {"fetch": time.perf_counter() - started_s, "assemble": 0.0, "publish": 0.0}
    for file in task.files:
        with tempfile.TemporaryDirectory(prefix="wanflow-") as folder:
            since_s = time.perf_counter()
            finished = assemble.assemble(task.variant, file, masters, sources, Path(folder))
            local = finished.files
            lengths_s = [scene.seconds(file.output.aspect) for scene in task.variant.scenes]
            shown, has_sound = [masters[key] for key in file.masters], task.variant.has_sound
            facts = quality.check_file(
                local["video"], file.output, lengths_s, shown, finished.covered, has_sound=has_sound
            )
            facts["job"] = context.job
            facts["reason"] = context.reasons.get(file.path, "")
            facts |= _gpu_facts(context, [rendered[key] for key in file.masters])
            seconds["assemble"] += time.perf_counter() - since_s
            since_s = time.perf_counter()
            name, run_id, cache_control = task.variant.variant_id, context.run_id, context.cache_control
            records.append(
                publish(
                    target, workspace, file, name, local, attempt, run_id, facts, cache_control=cache_control
                )
            )
            seconds["publish"] += time.perf_counter() - since_s
    return tuple(seconds.items())


def cache_folder(run_id: str) -> Path:
    """This machine's folder for the run's masters and layer images; those of runs long over are removed on the way."""
    root = Path(tempfile.gettempdir(), f"wanflow-{os.getuid()}")
    folder = root / run_id
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for other in root.iterdir():
            with suppress(OSError):  # another worker removes it at the same time
                if time.time() - other.stat().st_mtime > MAX_CACHE_AGE_S:
                    shutil.rmtree(other)
    return folder


def _master_records(workspace: Store, task: AssembleVariant) -> dict[str, Record]:
    found = {key: clip_record(workspace, key) for key in sorted(task.masters)}
    missing = tuple(key for key, record in found.items() if record is None)
    if missing:
        raise MasterMissing(missing)
    return {key: record for key, record in found.items() if record is not None}


def _fetch_master(workspace: Store, record: Record, cache: Path) -> Path:
    path = cache / f"{record.key}.mp4"
    if not path.exists():
        try:
            _place(path, partial(workspace.fetch, record.files[0].path))
        except FileNotFoundError:  # deleted since its record was read
            raise MasterMissing((record.key,)) from None
    return path


def _gpu_facts(context: RunContext, masters: list[Record]) -> dict[str, Scalar]:
    """A file's share of the GPU seconds that its masters cost in this run."""
    seconds = 0.0
    for record in masters:
        if record.key in context.sharing:
            info = dict(record.info)
            spent = sum(float(value or 0) for name, value in info.items() if name.startswith("seconds_"))
            seconds += spent / context.sharing[record.key]
    facts: dict[str, Scalar] = {"gpu_seconds": round(seconds, 3)}
    if context.price_per_s is not None:
        facts["cost"] = round(seconds * context.price_per_s, 6)
    return facts


def _fetch_source(source: Source, cache: Path) -> Path:
    path = cache / source.digest
    if not path.exists():
        _place(path, lambda part: part.write_bytes(read_source(source)))
    return path


def _place(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file that appears at ``path`` only when it is whole."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    os.close(descriptor)
    try:
        write(Path(name))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
