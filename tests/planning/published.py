"""What a run leaves behind, made without rendering or ffmpeg: planning sees no difference."""

from __future__ import annotations

from pathlib import Path

from wanflow import Job, plan
from wanflow.lease import claim_epoch
from wanflow.ledger import Ledger, new_run_id
from wanflow.model import Attempt
from wanflow.planning import Plan
from wanflow.planning.force import begin_force
from wanflow.planning.rows import plan_table
from wanflow.publish import Published, publish
from wanflow.records import held_clips, put_clip
from wanflow.storage import Store

#: seconds since 1970 of the first pretended run; each later one is a minute younger
_START_S = 1_780_000_000.0


def stores(job: Job) -> tuple[Store, Store]:
    return Store(str(job.workspace)), Store(job.publish.url)


def pretend_run(
    job: Job,
    made: Plan | None = None,
    *,
    until: int | None = None,
    only: str | None = None,
    force: str | None = None,
) -> str:
    """Do what the plan of ``job`` says, with records and files of a few bytes; returns the run's id.

    ``until``: die after so many clips.
    """
    made = made or plan(job, only=only, force=force)
    workspace, target = stores(job)
    epoch = claim_epoch(workspace)
    run_id = new_run_id(_START_S + 60 * epoch, job.name)
    ledger = Ledger(workspace, run_id)
    ledger.write_job(job.text)
    ledger.write_plan(plan_table(made))
    begin_force(workspace, target, job.name, made, epoch)
    for number, clip in enumerate(made.to_render):
        if number == until:
            return run_id
        done = held_clips(workspace, [stage.key for stage in clip.task.stages])
        for stage in clip.task.stages:
            if stage.key not in done:
                put_clip(
                    workspace, stage.key, Attempt(epoch, 1), {"data.bin": b"frames"}, {"stage": stage.name}
                )
    video = Path(job.directory, "any.mp4")
    video.write_bytes(b"a video")
    for planned in made.to_assemble:
        for file in planned.files:
            name = planned.variant.variant_id
            publish(
                target, workspace, file, name, {"video": video}, Attempt(epoch, 1), run_id, {"job": job.name}
            )
    snapshot = Published.load(target, workspace)
    snapshot.save(target, workspace)
    return run_id
