"""The promises about the store's files, one function each: records, payloads, visible files, catalog, leftovers.

Each takes the :class:`Evidence` and returns how many things it looked at and what it found. Nothing is changed here; a
finding names what ``--repair`` may remove (paths of the workspace). The promises about runs are in ``run_checks``.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wanflow.storage import Store, Unfinished, join
from wanflow.verify.evidence import CATALOG, Evidence, Target
from wanflow.verify.reader import (
    CLIP_FILE,
    CLIP_RECORD,
    EPOCH,
    EVENTS,
    FAILURE,
    INPUT,
    LEASE,
    OTHERS,
    PUBLISH_RECORD,
    STEP,
    TEMPORARY,
    NamedFile,
    RecordRead,
    Unreadable,
    read_json,
    read_record,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as promised."""

    #: a path of the workspace, or the URL of a visible file
    path: str
    reason: str
    #: the next run, or nobody, is harmed by it: it only costs room, or will pass
    is_warning: bool = False
    #: what a person can do; empty where ``--repair`` or the next run does it
    todo: str = ""
    #: paths of the workspace that ``--repair`` removes
    remove: tuple[str, ...] = ()
    #: what ``--repair`` discards, and where
    discard: tuple[Store, Unfinished] | None = None


Checked = tuple[int, list[Finding]]

#: a write that is younger may be under way; `gc` waits no less
UNDER_WAY_S = 3600.0
NEXT_RUN = "the next run makes it again"


def check_records(evidence: Evidence) -> Checked:
    """Every clip record can be read and is about the key that its path says."""
    found = []
    for path, record in evidence.clips.items():
        match = CLIP_RECORD.match(path)
        assert match is not None
        if isinstance(record, Unreadable):
            found.append(Finding(path, record.reason, remove=(path,)))
        elif match[1] != match[2][:2]:
            found.append(Finding(path, f"it belongs into clips/{match[2][:2]}/", remove=(path,)))
        elif record.key != match[2]:
            found.append(Finding(path, f"it is about another key, {record.key[:12]}...", remove=(path,)))
    return len(evidence.clips), found


def check_payloads(evidence: Evidence) -> Checked:
    """Every file that a clip record names is there, in the folder of its attempt, with its size (and hash)."""
    number, found = 0, []
    for path, record in evidence.clips.items():
        if isinstance(record, Unreadable):
            continue
        folder = f"{path.removesuffix('.json')}/{record.attempt[0]}.{record.attempt[1]}/"
        for file in record.files:
            number += 1
            if reason := _payload_trouble(evidence, file, folder):
                remove = (path, file.path) if file.path in evidence.files else (path,)
                found.append(
                    Finding(file.path, reason, remove=remove if file.path.startswith(folder) else (path,))
                )
    return number, found


def _payload_trouble(evidence: Evidence, file: NamedFile, folder: str) -> str:
    if not file.path.startswith(folder):
        return f"it does not lie in {folder}, the folder of the attempt that its record names"
    stat = evidence.file(file.path, file.size_bytes)
    if stat is None:
        return "it is missing"
    if stat.size_bytes != file.size_bytes:
        return f"it has {stat.size_bytes:,} bytes; its record says {file.size_bytes:,}"
    return _other_hash(evidence.hashes.get(file.path), file)


def _other_hash(sha256: str | None, file: NamedFile) -> str:
    if sha256 is None or sha256 == file.sha256:
        return ""
    return f"its content has the SHA-256 {sha256[:12]}...; its record says {file.sha256[:12]}..."


def check_publish_records(evidence: Evidence) -> Checked:
    """Every publish record can be read and lies where the path of its video puts it."""
    number, found = 0, []
    for target in evidence.targets:
        for path, record in target.records.items():
            number += 1
            if isinstance(record, Unreadable):
                found.append(Finding(path, record.reason, remove=(path,)))
                continue
            named = hashlib.sha256(record.files[0].path.encode()).hexdigest()
            if (
                not path.endswith(f"/{named[:2]}/{named}.json")
                or record.info.get("path") != record.files[0].path
            ):
                reason = f"it is about {record.files[0].path}, whose record lies elsewhere"
                found.append(Finding(path, reason, remove=(path,)))
    for folder in evidence.unknown_targets:
        todo = "verify the job that publishes there (wanflow verify JOB)"
        reason = "no run here says which publish.url its records are of"
        found.append(Finding(f"published/{folder}", reason, is_warning=True, todo=todo))
    return number, found


def check_index(evidence: Evidence) -> Checked:
    """The index of publish records says of each what the record says (looked at with ``--deep``)."""
    found = []
    for path in evidence.misindexed:
        index = f"published-{path.split('/')[1]}.parquet"
        found.append(Finding(index, f"what it says of {path} is not what the record says", remove=(index,)))
    return sum(len(target.records) for target in evidence.targets), found


def check_visible(evidence: Evidence) -> Checked:
    """Every visible file is as its publish record says: size and ETag (and hash)."""
    number, found = 0, []
    for target in evidence.targets:
        for path, record in target.records.items():
            if isinstance(record, Unreadable):
                continue
            for file in record.files:
                number += 1
                url = join(target.store.url, file.path)
                stat = target.file(file.path, file.size_bytes, file.etag)
                if stat is None:
                    found.append(Finding(url, "it is missing; its record is there", todo=NEXT_RUN))
                elif not target.is_as_named(file):
                    was, now = (file.size_bytes, file.etag), (stat.size_bytes, stat.etag)
                    reason = f"it was changed: {_facts(now)}; its record says {_facts(was)}"
                    found.append(Finding(url, reason, todo=NEXT_RUN))
                elif reason := _other_hash(target.hashes.get(file.path), file):
                    # Size and ETag agree, so that a run would take it for good: without a record it is made again.
                    found.append(Finding(url, reason, remove=(path,)))
    return number, found


def _facts(facts: tuple[int, str]) -> str:
    return f"{facts[0]:,} bytes, ETag {facts[1]}"


def check_foreign(evidence: Evidence) -> Checked:
    """Every visible file has a record, here or (says the catalog) in the workspace of another job."""
    number, found = 0, []
    runs = {run.run_id for run in evidence.history.runs}
    for target in evidence.targets:
        others = {
            row["path"]: (row["size_bytes"], row["etag"])
            for row in _catalog_rows(target)
            if row.get("run_id") not in runs
        }
        for path, stat in target.visible.items():
            number += 1
            if others.get(path) == (stat.size_bytes, stat.etag) or target.record_of(path) is not None:
                continue
            if target.store.stat(path) is not None:
                todo = "whose is it? publish puts nothing there without a record: move or delete it, or run the job"
                found.append(Finding(join(target.store.url, path), "it has no publish record", todo=todo))
    return number, found


def check_half_made(evidence: Evidence) -> Checked:
    """No write was left half-way, in sight of anybody or out of it."""
    found = [
        _half_made(target.store, write, _publishes(target, write), is_seen=not write.upload_id)
        for target in evidence.targets
        for write in target.unfinished
    ]
    found += [
        _half_made(evidence.workspace, write, _is_known(write.path), is_seen=False)
        for write in evidence.unfinished
    ]
    return len(found), found


def _half_made(store: Store, write: Unfinished, is_ours: bool, is_seen: bool) -> Finding:
    what = "an upload that was never completed" if write.upload_id else "a temporary file"
    path, reason = join(store.url, write.path), f"{what} of {write.size_bytes:,} bytes"
    if not is_ours:
        return Finding(path, reason, is_warning=True, todo="no record names it: whose is it?")
    if time.time() - write.since_s < UNDER_WAY_S:
        return Finding(path, reason, is_warning=True, todo="it may be under way: verify again in an hour")
    return Finding(path, reason, is_warning=not is_seen, discard=(store, write))


def _publishes(target: Target, write: Unfinished) -> bool:
    """Whether it is a write of what this workspace publishes there, whoever else writes below the same URL."""
    path = write.path
    return path == CATALOG or bool(TEMPORARY.search(path)) or target.record_of(path) is not None


def check_catalog(evidence: Evidence) -> Checked:
    """The catalog lists what is live, all of it, as it is."""
    number, found = 0, []
    crashed = {run.run_id for run in evidence.history.runs if not isinstance(run.outcome, dict)}
    for target in evidence.targets:
        url = join(target.store.url, CATALOG)
        if isinstance(target.catalog, Unreadable):
            found.append(Finding(url, target.catalog.reason, todo=NEXT_RUN))
            continue
        live = {file.path: (record, file) for record in _live(target) for file in record.files}
        rows = {row["path"]: row for row in _catalog_rows(target)}
        number += len(rows)
        for path, row in rows.items():
            stat = target.file(path, row["size_bytes"], row["etag"])
            if stat is None or (stat.size_bytes, stat.etag) != (row["size_bytes"], row["etag"]):
                what = "is not there" if stat is None else "is another file now"
                found.append(Finding(url, f"it lists {path}, which {what}", todo=NEXT_RUN))
            elif path in live and (row["sha256"], row["key"]) != (live[path][1].sha256, live[path][0].key):
                found.append(
                    Finding(url, f"what it says of {path} is not what the record says", todo=NEXT_RUN)
                )
        for path, (record, _) in live.items():
            if path not in rows:
                passing = record.info.get("run_id") in crashed
                reason = f"it lacks {path}" + (", whose run did not end" if passing else "")
                found.append(Finding(url, reason, is_warning=passing, todo=NEXT_RUN))
    return number, found


def _live(target: Target) -> Iterator[RecordRead]:
    for record in target.records.values():
        if isinstance(record, RecordRead) and all(map(target.is_as_named, record.files)):
            yield record


def _catalog_rows(target: Target) -> list[dict[str, Any]]:
    names = ("path", "sha256", "size_bytes", "etag", "key", "run_id")
    if target.catalog is None or isinstance(target.catalog, Unreadable):
        return []
    if not set(names) <= set(target.catalog.column_names):
        return []
    rows: list[dict[str, Any]] = target.catalog.select(list(names)).to_pylist()
    return rows


def check_inputs(evidence: Evidence) -> Checked:
    """Every staged input is whole: not empty (and of the hash that is its name)."""
    number, found = 0, []
    for path, stat in evidence.files.items():
        if match := INPUT.match(path):
            number += 1
            sha256 = evidence.hashes.get(path)
            if not stat.size_bytes or sha256 not in (None, match[1]):
                reason = "it is empty" if not stat.size_bytes else "its content is not that of its name"
                found.append(Finding(path, reason, remove=(path,)))
    return number, found


def check_failures(evidence: Evidence) -> Checked:
    """Every remembered failure can be read and says why."""
    number, found = 0, []
    for path in evidence.files:
        if match := FAILURE.match(path):
            number += 1
            body = read_json(evidence.workspace, path)
            if (
                isinstance(body, dict)
                and body.get("key") == match[1]
                and body.get("reason")
                and body.get("cause")
            ):
                continue
            reason = body.reason if isinstance(body, Unreadable) else "it lacks the key, cause or reason"
            found.append(Finding(path, reason, remove=(path,)))
    return number, found


def check_leftovers(evidence: Evidence) -> Checked:
    """Steps are kept of unfinished clips only, and only the winner's files of a finished one."""
    number, found = 0, []
    keys = evidence.keys
    steps: dict[str, list[str]] = defaultdict(list)
    losers: dict[str, list[str]] = defaultdict(list)
    for path in evidence.files:
        if match := STEP.match(path):
            number += 1
            if match[1] in keys:
                steps[f"steps/{match[1]}"].append(path)
        elif match := CLIP_FILE.match(path):
            number += 1
            record = keys.get(match[2])
            if record is None or path not in {file.path for file in record.files}:
                losers[path.rpartition("/")[0]].append(path)
    steps = {folder: _still_there(evidence, paths) for folder, paths in steps.items()}
    losers = {
        folder: _still_there(evidence, paths)
        for folder, paths in losers.items()
        if not _is_named(evidence, folder)
    }
    for folder, paths in steps.items():
        reason = f"steps of a finished clip, {len(paths)} file(s)"
        found += [Finding(folder, reason, is_warning=True, remove=tuple(paths))] if paths else []
    for folder, paths in losers.items():
        reason = f"files of an attempt that no record names, {len(paths)}"
        found += [Finding(folder, reason, is_warning=True, remove=tuple(paths))] if paths else []
    return number, found


def _still_there(evidence: Evidence, paths: list[str]) -> list[str]:
    """Those that are not only listed."""
    return [path for path in paths if evidence.workspace.stat(path) is not None]


def _is_named(evidence: Evidence, folder: str) -> bool:
    """Whether a record that was not listed names the attempt of this folder."""
    path = f"{folder.rpartition('/')[0]}.json"
    if path in evidence.clips:
        return False
    record = read_record(evidence.workspace, path)
    return isinstance(record, RecordRead) and any(file.path.startswith(f"{folder}/") for file in record.files)


def check_layout(evidence: Evidence) -> Checked:
    """Nothing lies in the workspace that the contract does not name."""
    found = [
        Finding(path, "the contract names no such file", is_warning=True, todo="whose is it?")
        for path in evidence.files
        if not _is_known(path)
    ]
    return len(evidence.files), found


def _is_known(path: str) -> bool:
    """Whether the contract names such a file of the workspace."""
    known = (CLIP_RECORD, CLIP_FILE, STEP, INPUT, FAILURE, PUBLISH_RECORD, EPOCH, LEASE, EVENTS, OTHERS)
    return any(pattern.match(path) for pattern in known) or bool(TEMPORARY.search(path))
