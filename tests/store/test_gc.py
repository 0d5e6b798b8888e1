"""What gc may delete, and what it must not, however it meets the runs of the jobs that share a workspace."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job, write_rows
from wanflow import Job, Outcome, plan, run
from wanflow.cli import main
from wanflow.errors import UsageError
from wanflow.gc import collect, workspace_of
from wanflow.gc.needed import find_needed
from wanflow.gc.sweep import read_marks, sweep
from wanflow.gc.waste import find_waste
from wanflow.ledger import new_run_id, run_ids
from wanflow.pins import Pins, read_pins, write_pins
from wanflow.planning import Plan
from wanflow.storage import Store
from wanflow.testing import load_fake_engine
from wanflow.verify import verify
from wanflow.view import View

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


def render(job: Job, **options: object) -> Outcome:
    return run(job, inline=True, load_engine=load_fake_engine, **options)  # type: ignore[arg-type]


def workspace_of_job(job: Job) -> Store:
    return Store(str(job.workspace))


def delete_all(job: Job, **options: Any) -> Any:
    """As far as gc ever goes: no young runs, no grace."""
    return collect(workspace_of_job(job), delete=True, keep_days=0, grace_h=0, **options)


def records(job: Job) -> set[str]:
    names = (stat.path for stat in workspace_of_job(job).list("clips"))
    return {path for path in names if path.endswith(".json")}


def change_prompt(folder: Path, prompt: str) -> None:
    write_rows(folder, [*ROWS[:2], ROWS[2] | {"prompt": prompt}])


def test_what_the_newest_run_no_longer_needs_goes_and_the_rest_stays(tmp_path: Path, checkpoint: str) -> None:
    """A prompt was changed: yesterday's clip goes, today's and the unchanged one stay; the next run does nothing."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    first = records(job)
    change_prompt(tmp_path, "stars")
    render(job)
    assert len(records(job)) == 6
    found = delete_all(job)
    assert found.deleted["clips"][0] == 4, "record and file of base latents and master"
    assert len(records(job)) == 4
    assert len(records(job) & first) == 2
    assert plan(job).is_empty
    assert verify(workspace_of_job(job), deep=True).is_clean
    write_rows(tmp_path, [*(row | {"headline": "New"} for row in ROWS[:2]), ROWS[2] | {"prompt": "stars"}])
    assert render(job).num_clips_rendered == 0


def test_a_quiet_night_keeps_what_its_unchanged_videos_were_made_of(tmp_path: Path, checkpoint: str) -> None:
    """The newest run had nothing to do; the job still needs all its clips for tomorrow's headline."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    render(job)
    assert delete_all(job).deleted.keys() == {"runs"}
    assert len(records(job)) == 4


def test_jobs_that_share_a_workspace_keep_what_any_of_them_needs(tmp_path: Path, checkpoint: str) -> None:
    """Two jobs, one clip in common: gc after one of them has changed leaves the other's clips alone."""
    shared = str(tmp_path / "work")
    ads = make_job(tmp_path / "ads", checkpoint, name="ads", workspace=shared)
    courses = make_job(
        tmp_path / "courses",
        checkpoint,
        [ROWS[0], ROWS[2] | {"prompt": "fire"}],
        name="courses",
        workspace=shared,
    )
    render(ads)
    render(courses)
    change_prompt(tmp_path / "ads", "stars")
    render(ads)
    assert len(records(ads)) == 8
    delete_all(ads)
    assert len(records(ads)) == 6, "only the clip that ads has left behind is gone"
    for folder, job, rows in (
        ("ads", ads, ROWS[:2]),
        ("courses", courses, [ROWS[0], ROWS[2] | {"prompt": "fire"}]),
    ):
        write_rows(tmp_path / folder, [row | {"headline": "New"} for row in rows])
        assert render(job).num_clips_rendered == 0


def test_a_part_of_the_manifest_says_nothing_about_the_rest(tmp_path: Path, checkpoint: str) -> None:
    """`--only` for one segment is the newest run; the other segments' clips stay."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    change_prompt(tmp_path, "stars")
    render(job, only="variant_id = 'cem'")
    assert delete_all(job).deleted == {}
    render(job)
    assert delete_all(job).deleted["clips"][0] == 4


def test_nothing_is_deleted_before_its_grace_is_over(tmp_path: Path, checkpoint: str) -> None:
    """Marked today, deleted tomorrow: whoever counts on it has a night to say so."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    change_prompt(tmp_path, "stars")
    render(job)
    workspace = workspace_of_job(job)
    now_s = time.time()
    assert collect(workspace, delete=True, keep_days=0, now_s=lambda: now_s).deleted == {}
    assert len([path for path in read_marks(workspace) if path.startswith("clips/")]) == 4
    assert collect(workspace, delete=True, keep_days=0, now_s=lambda: now_s + DAY_S / 2).deleted == {}
    assert collect(workspace, delete=True, keep_days=0, now_s=lambda: now_s + DAY_S).deleted["clips"][0] == 4
    assert read_marks(workspace) == {}


def test_what_is_needed_again_loses_its_mark(tmp_path: Path, checkpoint: str) -> None:
    """The old prompt came back before the grace was over."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    change_prompt(tmp_path, "stars")
    render(job)
    collect(workspace_of_job(job), delete=True, keep_days=0)
    write_rows(tmp_path, ROWS)
    assert render(job).num_clips_rendered == 0
    assert collect(workspace_of_job(job), delete=True, keep_days=0, grace_h=0).deleted["clips"][0] == 4
    assert plan(job).is_empty
    write_rows(tmp_path, [row | {"headline": "New"} for row in ROWS])
    assert plan(job).to_render == ()


def test_young_runs_keep_what_they_needed(tmp_path: Path, checkpoint: str) -> None:
    """Somebody may want yesterday's prompt back: for a week it costs nothing."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    change_prompt(tmp_path, "stars")
    render(job)
    assert collect(workspace_of_job(job), delete=True, grace_h=0).deleted == {}


def test_without_delete_nothing_is_written(tmp_path: Path, checkpoint: str) -> None:
    """The default is a look."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    change_prompt(tmp_path, "stars")
    render(job)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = collect(workspace_of_job(job), keep_days=0, grace_h=0)
    assert found.waste["clips"][0] == 4
    assert found.deleted == {}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_job_that_says_nothing_keeps_everything_until_it_is_forgotten(
    tmp_path: Path, checkpoint: str
) -> None:
    """Runs of an earlier version have no pins: what they need is anybody's guess."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    change_prompt(tmp_path, "stars")
    render(job)
    workspace = workspace_of_job(job)
    other = new_run_id(time.time() - 30 * DAY_S, "old-job")
    workspace.write(f"runs/{other}/job.yaml", b"name: old-job")
    found = delete_all(job)
    assert found.deleted == {}
    assert found.needed.unknown_jobs == ("old-job",)
    assert delete_all(job, forget=["old-job"]).deleted["clips"][0] == 4
    with pytest.raises(UsageError, match="old-job, small"):
        delete_all(job, forget=["typo"])


def test_a_job_of_a_name_that_is_almost_the_same_keeps_what_it_needs(tmp_path: Path, checkpoint: str) -> None:
    """Two versions of a campaign beside each other: gc of one must not take the other's masters and latents."""
    shared = str(tmp_path / "work")
    one = make_job(tmp_path / "one", checkpoint, name="ads-v1.2", workspace=shared)
    render(one)
    kept = records(one)
    rows = [row | {"prompt": "stars"} for row in ROWS]
    render(make_job(tmp_path / "other", checkpoint, rows, name="ads-v1_2", workspace=shared))
    assert delete_all(one).deleted == {}
    assert kept < records(one)
    assert plan(one).is_empty


def test_losing_attempts_and_steps_of_finished_clips_go(tmp_path: Path, checkpoint: str) -> None:
    """They belong to clips that are needed, and are not."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    workspace = workspace_of_job(job)
    record = sorted(records(job))[0]
    key = record.rpartition("/")[2].removesuffix(".json")
    workspace.write(f"clips/{key[:2]}/{key}/1.99/master.mp4", b"lost the race")
    workspace.write(f"steps/{key}/denoise-3-1.1.safetensors", b"steps")
    workspace.write(f"inputs/{'e' * 64}", b"logo of last year")
    found = delete_all(job)
    assert {kind: number for kind, (number, _) in found.deleted.items()} == {
        "attempts": 1,
        "steps": 1,
        "inputs": 1,
    }
    assert plan(job).is_empty
    assert len(records(job)) == 4


def test_a_run_that_pins_between_mark_and_deletion_is_honoured(tmp_path: Path, checkpoint: str) -> None:
    """The race: gc has found its waste, then a run of another job begins and counts on it."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    workspace = workspace_of_job(job)
    first = read_pins(workspace, run_ids(workspace)[0])
    assert first is not None
    change_prompt(tmp_path, "stars")
    render(job)
    runs = run_ids(workspace)
    waste = find_waste(workspace, find_needed(workspace, runs, time.time()), 0.0)
    assert len(waste.files) == 4

    begun = new_run_id(time.time(), "other")
    workspace.write(f"runs/{begun}/job.yaml", b"name: other")
    assert sweep(workspace, waste, waste.files, runs) == [], "a run has begun and has not said what it needs"
    write_pins(workspace, begun, Pins(first.keys, frozenset(), is_whole=False))
    assert sweep(workspace, waste, waste.files, runs) == []
    assert len(records(job)) == 6


class _LosesClips(View):
    """Somebody deletes every clip as soon as the plan is made."""

    def __init__(self, clips: Path) -> None:
        self._clips = clips

    def planned(self, plan: Plan, run_id: str) -> None:
        shutil.rmtree(self._clips, ignore_errors=True)


def test_a_held_clip_that_is_missing_at_use_becomes_a_render(tmp_path: Path, checkpoint: str) -> None:
    """gc, a lifecycle rule or a hand was faster: the run renders what it had counted on, and nothing fails."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    write_rows(tmp_path, [row | {"headline": "New"} for row in ROWS])
    assert len(plan(job).held) == 2
    outcome = render(job, view=_LosesClips(tmp_path / "out/.wanflow/clips"))
    assert outcome.exit_code == 0
    assert outcome.counts["published"] == 3
    assert outcome.num_clips_rendered == 2


def test_pins_name_every_stage_and_input_of_everything_asked_for(tmp_path: Path, checkpoint: str) -> None:
    """Also of what was not changed: what a job needs is more than what tonight's run touches."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    write_rows(tmp_path, [ROWS[0] | {"headline": "New"}, *ROWS[1:]])
    render(job)
    workspace = workspace_of_job(job)
    first, second = (read_pins(workspace, run_id) for run_id in run_ids(workspace))
    assert first is not None
    assert first == second
    assert first.is_whole
    assert len(first.keys) == 4
    assert len(first.inputs) == 1
    assert first == plan(job).pins


def test_the_command_looks_first_and_deletes_when_told(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table by kind; --json for programs; several workspaces or none are usage errors."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    change_prompt(tmp_path, "stars")
    render(job)
    url = str(tmp_path / "out/.wanflow")
    assert main(["gc", url, "--keep-days", "0", "--grace", "0"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert main(["gc", url, "--keep-days", "0", "--grace", "0", "--delete", "--json"]) == 0
    body = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert body["deleted"]["clips"]["files"] == 4
    assert main(["gc", str(tmp_path / "nowhere")]) == 2
    with pytest.raises(UsageError, match="one by one"):
        workspace_of([Store(url), Store(str(tmp_path))])
