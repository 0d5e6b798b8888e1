"""Limits at plan time: what goes too far is refused before any GPU, with the reasons summed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.planning.published import pretend_run, stores
from tests.run.jobs import ROWS, job_dict, make_job, write_rows
from wanflow import Job, keys, plan, run
from wanflow.errors import JobError, Refused
from wanflow.lease import Lease
from wanflow.planning.cost import cost_of
from wanflow.planning.limits import check_limits
from wanflow.testing import load_fake_engine
from wanflow.timings import save_timings

HOUR = {"gpu_hour": 3600.0}


def limited(folder: Path, checkpoint: str, **limits: Any) -> Job:
    return Job.from_dict(job_dict(checkpoint, limits=limits, resources=HOUR), folder)


def refusal(job: Job, **options: Any) -> str:
    with pytest.raises(Refused) as caught:
        check_limits(job, plan(job, **options), stores(job)[0])
    return str(caught.value)


def test_first_run_is_no_change(tmp_path: Path, checkpoint: str) -> None:
    make_job(tmp_path, checkpoint)
    job = limited(tmp_path, checkpoint, max_changed=0)
    check_limits(job, plan(job), stores(job)[0])


def test_template_that_changes_everything_is_refused_with_its_reasons(
    tmp_path: Path, checkpoint: str
) -> None:
    """One word in the prompt's template would have re-rendered the whole shop over night."""
    pretend_run(make_job(tmp_path, checkpoint))
    write_rows(tmp_path, [row | {"prompt": f"{row['prompt']} at dusk"} for row in ROWS])
    job = limited(tmp_path, checkpoint, max_changed="40%")
    words = refusal(job)
    assert "3 of 3 published variants would change; limits.max_changed allows 40%, 1" in words
    assert "3 prompt changed" in words
    assert f"--accept {plan(job).plan_id}" in words
    write_rows(tmp_path, [*ROWS[:2], ROWS[2] | {"prompt": "stars"}])
    check_limits(job, plan(job), stores(job)[0])


def test_run_refuses_before_it_renders_and_goes_on_when_accepted(tmp_path: Path, checkpoint: str) -> None:
    """Exit 5 in the night, one flag in the morning."""
    pretend_run(make_job(tmp_path, checkpoint))
    write_rows(tmp_path, [row | {"headline": "Hi"} for row in ROWS])
    job = limited(tmp_path, checkpoint, max_changed="40%")
    with pytest.raises(Refused) as caught:
        run(job, inline=True, load_engine=load_fake_engine)
    assert caught.value.exit_code == 5
    made = plan(job)
    assert len(made.to_assemble) == 3
    with pytest.raises(Refused, match="is another plan"):
        run(job, inline=True, load_engine=load_fake_engine, accept="000000000000")
    check_limits(job, made, stores(job)[0], made.plan_id)


def test_accepted_run_that_was_interrupted_goes_on_under_the_same_id(tmp_path: Path, checkpoint: str) -> None:
    pretend_run(make_job(tmp_path, checkpoint))
    write_rows(tmp_path, [row | {"prompt": f"{row['prompt']} at dusk"} for row in ROWS])
    job = limited(tmp_path, checkpoint, max_changed=0)
    before = plan(job)
    pretend_run(job, before, until=1)
    assert plan(job).plan_id == before.plan_id
    write_rows(tmp_path, [row | {"prompt": f"{row['prompt']} at dawn"} for row in ROWS])
    assert plan(job).plan_id != before.plan_id


def test_cost_above_the_limit_is_refused_and_never_measured_too(tmp_path: Path, checkpoint: str) -> None:
    make_job(tmp_path, checkpoint)
    job = limited(tmp_path, checkpoint, max_cost=10)
    assert "never measured" in refusal(job)
    clips = [(clip.task.clip, 8.0) for clip in plan(job).to_render]
    save_timings(stores(job)[0], clips)
    made = plan(job)
    cost = cost_of(made, job)
    assert (cost.gpu_s, cost.price(cost.gpu_s), cost.num_never_measured) == (16.0, 16.0, 0)
    assert cost.saved_by_sharing_s == 8.0, "ann and bob share a clip"
    assert cost.saved_by_holding_s == 0.0
    assert "it would cost about 16.00; limits.max_cost allows 10.00" in refusal(job)
    check_limits(job, plan(job, limit=1), stores(job)[0])


def test_clip_of_another_shape_is_estimated_by_its_engines_pace(tmp_path: Path, checkpoint: str) -> None:
    make_job(tmp_path, checkpoint)
    job = limited(tmp_path, checkpoint, max_cost=10)
    save_timings(stores(job)[0], [(clip.task.clip, 2.0) for clip in plan(job).to_render])
    refined = job_dict(checkpoint, resources=HOUR, cascade=[{"refine": {"scale": 2, "strength": 0.3}}])
    expected = plan(Job.from_dict(refined, tmp_path)).expected_gpu_s
    assert expected is not None
    assert 4.0 < expected < 40.0


def test_max_cost_needs_a_price(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"resources\.gpu_hour"):
        Job.from_dict(job_dict(checkpoint, limits={"max_cost": 5}, resources={}), tmp_path)


def test_upgrade_that_renders_differently_says_so_and_waits(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install -U wanflow` must not cost a night of eight GPUs unasked, limits or not."""
    job = make_job(tmp_path, checkpoint)
    pretend_run(job)
    raised = dict(keys.VERSIONS) | {"base": 2}
    monkeypatch.setattr("wanflow.keys.VERSIONS", raised)
    monkeypatch.setattr("wanflow.planning.changes.VERSIONS", raised)
    keys.stages.cache_clear()
    try:
        words = refusal(job)
        assert "renders differently" in words
        assert "base 1 -> 2" in words
        assert "3 published variants" in words
        made = plan(job)
        check_limits(job, made, stores(job)[0], made.plan_id)
    finally:
        keys.stages.cache_clear()


def test_limits_hold_after_a_wait_for_another_run(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id of last month's accepted plan stands in the cron job; while it waits, the export breaks off."""
    job = make_job(tmp_path, checkpoint, limits={"max_changed": "20%"})
    pretend_run(job)
    accept = "000000000000"
    write_rows(tmp_path, [*ROWS, ROWS[0] | {"variant_id": "dee"}])

    class Waiting(Lease):
        def __enter__(self) -> Lease:
            held = super().__enter__()
            write_rows(tmp_path, [row | {"headline": "?"} for row in ROWS])
            self.waited = True
            return held

    monkeypatch.setattr("wanflow.driver.Lease", Waiting)
    with pytest.raises(Refused, match="3 of 3 published variants would change"):
        run(job, inline=True, load_engine=load_fake_engine, accept=accept)
