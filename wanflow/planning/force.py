"""``--force STAGE``: done work counts as undone, once.

A forced run forgets: under the lease it deletes the records of the stages that it forces, clips' and published ones,
and from then on everything is a plain difference to the store. So an interrupted forced run is finished by any later
run. The request itself is kept in ``forced/<job>.json`` with the epoch of the run that took it up: records of that
epoch or a later one are not forgotten again, so the same command line started again (a restarted pod) goes on where it
was. It is put away by a run that ends with nothing left to do.

Files stay visible until they are replaced. What the forgotten records named is found by ``gc``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

from wanflow.errors import UsageError
from wanflow.planning.plan import Forced, Plan
from wanflow.publish import forget_published
from wanflow.records import forget_clip, in_parallel
from wanflow.storage import Store

#: each forces those after it too
STAGES = ("trunk", "base", "cascade", "master", "variant")
_MAX_BYTES = 100_000


def open_request(
    workspace: Store, job_name: str, stage: str, only: str | None = None, limit: int | None = None
) -> Forced:
    """The request to force ``stage``: the one that an earlier run has begun, or a new one."""
    if stage not in STAGES:
        raise UsageError(f"--force {stage}: there is no such stage; it is one of {', '.join(STAGES)}")
    new = Forced(stage, _selection(only, limit))
    begun = _read(workspace, job_name)
    return begun if begun is not None and replace(begun, epoch=None) == new else new


def forced_stages(forced: Forced) -> tuple[str, ...]:
    """The kinds of a clip's stages that are made again."""
    return STAGES[STAGES.index(forced.stage) : -1]


def begin_force(workspace: Store, target: Store, job_name: str, plan: Plan, epoch: int) -> None:
    """Forget what the plan forces. ``epoch`` is the run's; the caller holds the lease. Safe to do twice."""
    if plan.forced is None:
        return
    if plan.forced.epoch is None:
        body = asdict(replace(plan.forced, epoch=epoch))
        workspace.write(_path(job_name), json.dumps(body).encode())
    paths = [
        file.path
        for planned in plan.to_assemble
        for file in planned.files
        if plan.published.key_of(file.path) == file.key
    ]
    in_parallel(lambda path: forget_published(target, workspace, path), paths)
    forced = dict.fromkeys(key for clip in plan.clips for key in clip.forced)
    in_parallel(lambda key: forget_clip(workspace, key), forced)


def end_force(workspace: Store, job_name: str, only: str | None = None, limit: int | None = None) -> None:
    """A run has made all that it was asked for: a request for the same rows, or fewer, is done."""
    begun = _read(workspace, job_name)
    if begun is not None and _selection(only, limit) in ("", begun.selection):
        workspace.delete(_path(job_name))


def _read(workspace: Store, job_name: str) -> Forced | None:
    try:
        body = json.loads(workspace.read(_path(job_name), _MAX_BYTES))
        return Forced(str(body["stage"]), str(body["selection"]), int(body["epoch"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _selection(only: str | None, limit: int | None) -> str:
    return " ".join([*([f"--only {only}"] if only else []), *([f"--limit {limit}"] if limit else [])])


def _path(job_name: str) -> str:
    return f"forced/{hashlib.sha256(job_name.encode()).hexdigest()[:16]}.json"
