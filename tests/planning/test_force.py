"""`--force STAGE`: made again from that stage on, once, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.planning.published import pretend_run, stores
from tests.run.jobs import make_job
from wanflow import Job, plan, run
from wanflow.errors import UsageError
from wanflow.planning.force import end_force
from wanflow.records import held_clips
from wanflow.testing import FakeEngine, load_fake_engine

CASCADE = [{"refine": {"scale": 2, "strength": 0.3}}]


@pytest.fixture
def job(tmp_path: Path, checkpoint: str) -> Job:
    """Three variants of two clips, with a cascade step, all of it published."""
    made = make_job(tmp_path, checkpoint, cascade=CASCADE)
    pretend_run(made)
    assert plan(made).is_empty
    return made


@pytest.mark.parametrize(
    ("stage", "decisions"),
    [("base", {"render"}), ("cascade", {"resume"}), ("master", {"resume"}), ("variant", {"held"})],
)
def test_forced_stage_is_made_again_and_the_ones_before_it_are_kept(
    job: Job, stage: str, decisions: set[str]
) -> None:
    """A bug in the refine step is fixed without a version: its results are made again, the base latents are not."""
    made = plan(job, force=stage)
    assert {clip.decision.value for clip in made.clips} == decisions
    assert [v.reason for v in made.to_assemble] == ["forced"] * 3
    assert plan(job).is_empty, "a plan forgets nothing"


def test_forced_run_that_is_restarted_does_not_make_again_what_it_has_made(job: Job) -> None:
    """The pod dies after the first of two clips and starts again with the same command line."""
    workspace, _ = stores(job)
    pretend_run(job, force="base", until=1)
    again = plan(job, force="base")
    assert len(again.to_render) == 1, "the clip that it made stays"
    assert len(again.to_assemble) == 3, "no video was published yet"
    pretend_run(job, again)
    assert plan(job, force="base").is_empty
    end_force(workspace, job.name)
    assert len(plan(job, force="base").to_render) == 2, "asked for again, it is done again"


def test_any_later_run_finishes_what_a_forced_one_began(job: Job) -> None:
    """Nobody has to remember the flag in the morning."""
    pretend_run(job, force="base", until=1)
    made = plan(job)
    assert len(made.to_render) == 1
    assert len(made.to_assemble) == 3


def test_force_for_some_rows_leaves_the_others_alone(job: Job) -> None:
    made = plan(job, only="variant_id = 'cem'", force="base")
    assert [v.variant.variant_id for v in made.to_assemble] == ["cem"]
    assert len(made.to_render) == 1


def test_force_of_no_stage_is_a_usage_error(job: Job) -> None:
    with pytest.raises(UsageError, match="base, cascade, master, variant"):
        plan(job, force="encode")


def test_forced_run_replaces_records_and_videos_and_puts_its_request_away(
    tmp_path: Path, checkpoint: str
) -> None:
    """The whole way, with an engine: old records go, new ones come, the next night is quiet."""
    job = make_job(tmp_path, checkpoint)
    workspace, _ = stores(job)
    run(job, inline=True, load_engine=load_fake_engine)
    keys = [clip.task.key for clip in plan(job, force="master").clips]
    before = held_clips(workspace, keys)
    engines: list[FakeEngine] = []
    outcome = run(
        job,
        inline=True,
        load_engine=lambda spec, device, threads: engines.append(e := FakeEngine(spec)) or e,  # type: ignore[func-returns-value]
        force="base",
    )
    assert outcome.exit_code == 0
    assert outcome.counts["published"] == 3
    assert len(engines[0].rendered) == 2
    after = held_clips(workspace, keys)
    assert {after[key].attempt != before[key].attempt for key in keys} == {True}
    assert list(workspace.list("forced")) == []
    assert plan(job).is_empty
