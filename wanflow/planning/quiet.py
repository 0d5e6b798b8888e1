"""The quiet night: a run that finds everything as the run before left it is recognised without planning.

A whole run that ends with every variant published or unchanged notes in ``quiet/<job>.json`` a digest of all that its
plan depended on: the job, wanflow's own code, the checkpoints, what the stores say about the manifest's files and the
input files (size and ETag, or size and times), and the listings of records and published files. The next one compares.
Any difference, doubt (a file that is too young to be trusted, a URL that must not be kept) or damage means a plan.

Rows are not read and keys not made; stores are listed as always, so a video that was deleted or replaced is seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wanflow import __version__
from wanflow.engines.spec import read_spec
from wanflow.errors import StoreError
from wanflow.job import Job
from wanflow.keys import VERSIONS, digest
from wanflow.memo import InputMemo
from wanflow.planning.plan import Plan
from wanflow.publish import digest_of_listings
from wanflow.storage import Store, list_url, redact
from wanflow.storage.validators import Validators

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Quiet:
    """The run whose results are still true."""

    run_id: str
    num_variants: int
    num_retired: int


def manifest_state(job: Job) -> str | None:
    """What the store says about the manifest's files; taken before they are read. None: it cannot be told."""
    try:
        urls = list_url(job.manifest.url)
    except (FileNotFoundError, StoreError):  # the plan will say so
        return None
    found = Validators().of(urls)
    return digest(sorted(found.items())) if urls and len(found) == len(urls) else None


def note_quiet(job: Job, workspace: Store, plan: Plan, manifest: str | None, quiet: Quiet) -> None:
    """Note that ``quiet.run_id`` left everything as ``job`` asks for. ``manifest``: as it was before the plan."""
    inputs = plan.memo.seen()
    if manifest is None or plan.published.digest is None or inputs is None:
        return
    found = _digest(job, manifest, plan.published.digest, sorted(plan.engines), inputs)
    body = {"format": _FORMAT, "digest": found, "inputs": sorted(inputs), **asdict(quiet)}
    workspace.write(_path(job), json.dumps(body, ensure_ascii=False).encode())


def find_quiet(job: Job, workspace: Store, target: Store, manifest: str | None) -> Quiet | None:
    """The run after which nothing has changed, or None. ``manifest`` is :func:`manifest_state`."""
    noted = _read(workspace, job)
    if noted is None or manifest is None:
        return None
    memo = InputMemo()
    memo.look(noted["inputs"], job.allowed())
    inputs = memo.seen()
    if inputs is None or len(inputs) != len(noted["inputs"]):
        return None
    weights = sorted({read_spec(url).weights for url in job.engine.checkpoints().values()})
    listings = digest_of_listings(target, workspace)
    if noted["digest"] != _digest(job, manifest, listings, weights, inputs):
        return None
    return Quiet(noted["run_id"], noted["num_variants"], noted["num_retired"])


def quiet_runs(workspace: Store) -> frozenset[str]:
    """The runs whose results the next quiet night of some job would repeat."""
    found = set()
    for stat in workspace.list("quiet"):
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found.add(str(json.loads(workspace.read(stat.path))["run_id"]))
    return frozenset(found)


def _digest(job: Job, manifest: str, listings: str, weights: list[str], inputs: Mapping[str, str]) -> str:
    return digest(
        job.model_dump_json(),
        str(job.directory),
        __version__,
        dict(VERSIONS),
        _code(),
        manifest,
        listings,
        weights,
        sorted(inputs.items()),
    )


def _code() -> str:
    """wanflow's own files: presets and defaults decide keys as well, and may change without a new version."""
    root = Path(__file__).resolve().parents[1]
    stats = ((path, path.stat()) for path in sorted(root.rglob("*.py")))
    return digest([(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats])


def _read(workspace: Store, job: Job) -> dict[str, Any] | None:
    try:
        body = json.loads(workspace.read(_path(job)))
        types = {"digest": str, "inputs": list, "run_id": str, "num_variants": int, "num_retired": int}
        good = body["format"] == _FORMAT and all(isinstance(body[name], kind) for name, kind in types.items())
        return dict(body) if good else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _path(job: Job) -> str:
    return f"quiet/{hashlib.sha256(f'{job.name} {redact(job.publish.url)}'.encode()).hexdigest()[:16]}.json"
