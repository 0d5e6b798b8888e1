"""A whole run in one process, with the fake engine: planning, sharing, publishing, results."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job, write_rows
from wanflow import Job, Outcome, driver, plan, run
from wanflow.cli import main
from wanflow.engines import Keep, OnStep
from wanflow.errors import Stopped
from wanflow.lease import Lease
from wanflow.ledger import Ledger, latest_run
from wanflow.model import Cause, Clip, EngineSpec
from wanflow.report import RunState, results, summary
from wanflow.schedule.events import Event, StepDone
from wanflow.storage import Store
from wanflow.testing import FakeEngine, load_fake_engine
from wanflow.view import View


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


def render(job: Job, **options: object) -> Outcome:
    return run(job, inline=True, load_engine=load_fake_engine, **options)  # type: ignore[arg-type]


def test_manifest_becomes_published_videos(tmp_path: Path, checkpoint: str) -> None:
    """Three customers, two clips: each variant plays, two clips were rendered."""
    job = make_job(tmp_path, checkpoint)
    outcome = render(job)
    assert outcome.exit_code == 0
    assert outcome.counts["published"] == 3
    assert outcome.num_clips_rendered == 2
    for name in ("ann", "bob", "cem"):
        with av.open(str(tmp_path / f"out/{name}/square.mp4")) as video:
            assert (video.streams.video[0].width, video.streams.video[0].height) == (256, 256)
        assert (tmp_path / f"out/{name}/square.jpg").exists()
    rows = results(Store(str(job.workspace))).to_pylist()
    assert [row["variant_id"] for row in rows] == ["ann", "bob", "cem"]
    assert {row["status"] for row in rows} == {"published"}
    assert rows[0]["segment"] == "gold"
    assert rows[0]["files"][0]["path"] == "ann/square.mp4"


def test_compiling_reaches_the_replicas_and_renders_nothing_anew(tmp_path: Path, checkpoint: str) -> None:
    """It changes how long a clip takes, not which clip it is."""
    engines: list[FakeEngine] = []

    def load(spec: EngineSpec, device: str | None, num_threads: int | None) -> FakeEngine:
        engines.append(FakeEngine(spec))
        return engines[-1]

    settings: list[dict[str, Any]] = [{}, {"compile": False}, {"compile": True}]
    for given in settings:
        job = make_job(tmp_path, checkpoint, engine={"checkpoint": checkpoint, "profile": "fast", **given})
        assert run(job, inline=True, load_engine=load, force="base").exit_code == 0
        assert not plan(job).to_render
    assert [engine.compile for engine in engines] == [None, False, True]


def test_replicas_are_told_the_prompts_and_the_largest_size_of_the_whole_run(
    tmp_path: Path, checkpoint: str
) -> None:
    """What has to leave the GPU follows from the size, and the text encoder can do all prompts before it does."""
    engines: list[FakeEngine] = []

    def load(spec: EngineSpec, device: str | None, num_threads: int | None) -> FakeEngine:
        engines.append(FakeEngine(spec))
        return engines[-1]

    clip = {"aspect": "1x1", "negative_prompt": "dull"}
    job = make_job(tmp_path, checkpoint, clip=clip, engine={"checkpoint": checkpoint, "guidance": 4})
    run(job, inline=True, load_engine=load)
    (engine,) = engines
    assert set(engine.prompts) == {"dull", *engine.rendered}
    assert engine.spec.largest == (32, 32, 5)


def test_second_run_does_nothing(tmp_path: Path, checkpoint: str) -> None:
    """The nightly job of a quiet day: exit 0, nothing rendered, results say unchanged."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.mp4")}
    outcome = render(job)
    assert outcome.exit_code == 0
    assert outcome.counts["unchanged"] == 3
    assert outcome.num_clips_rendered == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.mp4")} == before


def test_changed_headline_assembles_only_that_customers_variant(tmp_path: Path, checkpoint: str) -> None:
    job = make_job(tmp_path, checkpoint)
    render(job)
    write_rows(tmp_path, [ROWS[0] | {"headline": "Bye Ann"}, *ROWS[1:]])
    made = plan(job)
    assert [v.variant.variant_id for v in made.to_assemble] == ["ann"]
    assert made.to_render == ()
    outcome = render(job)
    assert outcome.counts == {"published": 1, "unchanged": 2, "held": 0, "failed": 0, "left": 0}
    assert outcome.num_clips_rendered == 0


def test_changed_prompt_renders_only_its_clip(tmp_path: Path, checkpoint: str) -> None:
    job = make_job(tmp_path, checkpoint)
    render(job)
    write_rows(tmp_path, [*ROWS[:2], ROWS[2] | {"prompt": "stars"}])
    outcome = render(job)
    assert outcome.num_clips_rendered == 1
    assert outcome.counts["published"] == 1


def test_changed_cascade_keeps_the_base_latents(tmp_path: Path, checkpoint: str) -> None:
    """The upscale is tuned in the morning; the night's diffusion is not paid for again."""
    render(make_job(tmp_path, checkpoint))
    job = make_job(tmp_path, checkpoint, cascade=[{"refine": {"scale": 2, "strength": 0.3}}])
    made = plan(job)
    assert {c.decision.value for c in made.to_render} == {"resume"}
    engines: list[FakeEngine] = []
    outcome = run(
        job, inline=True, load_engine=lambda spec, device, threads: engines.append(e := FakeEngine(spec)) or e
    )
    assert outcome.counts["published"] == 3
    assert engines[0].rendered == [], "the base stage must come from the store"


def test_another_jobs_outputs_in_the_same_workspace_come_from_the_same_masters(
    tmp_path: Path, checkpoint: str
) -> None:
    """The second channel wants other sizes, words and a place of its own; its clips are there already."""
    shared = str(tmp_path / "work")
    render(make_job(tmp_path / "ads", checkpoint, workspace=shared))
    outputs = [{"name": "small", "preset": "instagram-square", "width": 128}]
    rows = [row | {"headline": "Salut"} for row in ROWS]
    shop = make_job(tmp_path / "shop", checkpoint, rows, name="shop", workspace=shared, outputs=outputs)
    outcome = render(shop)
    assert (outcome.counts["published"], outcome.num_clips_rendered) == (3, 0)


def test_deleted_video_is_published_again(tmp_path: Path, checkpoint: str) -> None:
    """Somebody removed a file by hand: the next run repairs it without a GPU."""
    job = make_job(tmp_path, checkpoint)
    render(job)
    (tmp_path / "out/ann/square.mp4").unlink()
    made = plan(job)
    assert [v.reason for v in made.to_assemble] == ["file is missing"]
    outcome = render(job)
    assert outcome.counts["published"] == 1
    assert (tmp_path / "out/ann/square.mp4").exists()


def _failing(spec: EngineSpec, device: str | None, num_threads: int | None, cause: Cause) -> FakeEngine:
    return FakeEngine(spec, {"bokeh": cause})


def test_failed_clip_fails_its_variants_and_the_rest_is_published(tmp_path: Path, checkpoint: str) -> None:
    job = make_job(tmp_path, checkpoint)
    outcome = run(job, inline=True, load_engine=partial(_failing, cause=Cause.ITEM_ERROR))
    assert outcome.exit_code == 3
    assert outcome.counts["published"] == 2
    assert outcome.counts["failed"] == 1
    failed = results(Store(str(job.workspace)), failed=True).to_pylist()
    assert [row["variant_id"] for row in failed] == ["cem"]
    assert "failed on purpose" in failed[0]["reason"]
    assert failed[0]["attempts"] == 2
    assert render(job).counts["published"] == 1, "the next run tries it again"


def test_failure_that_would_repeat_is_remembered_until_a_retry(tmp_path: Path, checkpoint: str) -> None:
    """A poisonous clip must not cost its attempts again every night."""
    from wanflow.records import forget_failures

    job = make_job(tmp_path, checkpoint)
    run(job, inline=True, load_engine=partial(_failing, cause=Cause.BAD_INPUT))
    outcome = render(job)
    assert outcome.counts["failed"] == 1
    assert outcome.num_clips_rendered == 0
    assert "failed before" in results(Store(str(job.workspace)), failed=True).to_pylist()[0]["reason"]
    assert forget_failures(Store(str(job.workspace))) == 1
    assert render(job).counts["published"] == 1


def test_failure_of_last_night_costs_nothing_beside_other_work(tmp_path: Path, checkpoint: str) -> None:
    """A clip that is known to be poison must not meet a replica only because another customer is new."""
    job = make_job(tmp_path, checkpoint)
    run(job, inline=True, load_engine=partial(_failing, cause=Cause.BAD_INPUT))
    write_rows(tmp_path, [*ROWS, {**ROWS[0], "variant_id": "dan", "prompt": "stars"}])
    engines: list[FakeEngine] = []

    def load(spec: EngineSpec, device: str | None, num_threads: int | None) -> FakeEngine:
        engines.append(FakeEngine(spec))
        return engines[-1]

    outcome = run(job, inline=True, load_engine=load)
    assert outcome.counts["published"] == 1
    assert outcome.counts["failed"] == 1
    assert engines[0].rendered == ["stars"]


def test_costs_of_catalog_and_results_add_up(tmp_path: Path, checkpoint: str) -> None:
    """Two formats of one clip share its price; the sum over the files is what the night cost."""
    outputs = [
        {"name": "large", "preset": "instagram-square", "width": 256},
        {"name": "small", "preset": "instagram-square", "width": 128},
    ]
    job = make_job(tmp_path, checkpoint, outputs=outputs)
    outcome = run(job, inline=True)
    rows = results(Store(str(job.workspace))).to_pylist()
    files = pq.read_table(tmp_path / "out/catalog/files.parquet").to_pylist()
    assert sum(row["gpu_seconds"] for row in rows) == pytest.approx(outcome.gpu_seconds, rel=0.01)
    half_a_digit = (
        len(files) * 0.5
    )  # each file's figures are rounded: milliseconds, millionths of the currency
    seconds, cost = outcome.gpu_seconds, outcome.cost
    assert sum(row["gpu_seconds"] or 0 for row in files) == pytest.approx(
        seconds, rel=0.01, abs=half_a_digit * 1e-3
    )
    assert sum(row["cost"] or 0 for row in files) == pytest.approx(cost, rel=0.01, abs=half_a_digit * 1e-6)


def test_stop_in_mid_clip_ends_at_the_next_step(tmp_path: Path, checkpoint: str) -> None:
    """`wanflow stop` and Ctrl-C do not wait for a clip of minutes, with or without Ray."""
    job = make_job(tmp_path, checkpoint)
    workspace = Store(str(job.workspace))

    class Stopping(View):
        def event(self, event: Event) -> None:
            if isinstance(event, StepDone) and event.step == 1:
                run_id = latest_run(workspace)
                assert run_id
                Ledger(workspace, run_id).ask_stop("enough")

    outcome = run(job, inline=True, view=Stopping(), load_engine=_endless)
    assert outcome.exit_code == 5
    assert outcome.counts["left"] == 3
    assert outcome.message == "enough"


def test_deadline_of_a_job_is_the_next_time_that_the_clock_shows_it(tmp_path: Path, checkpoint: str) -> None:
    """A night from 22:00 to 06:00, and one that began after midnight."""
    job = make_job(tmp_path, checkpoint, limits={"deadline": "06:00"})
    morning = datetime(2026, 11, 21, 6, 0).timestamp()
    assert driver._deadline_s(job, datetime(2026, 11, 20, 22, 0).timestamp()) == morning
    assert driver._deadline_s(job, datetime(2026, 11, 21, 5, 59).timestamp()) == morning
    assert driver._deadline_s(make_job(tmp_path, checkpoint), morning) is None


def test_what_the_deadline_leaves_no_time_for_is_left_with_exit_5(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is six in the morning: results say what is left, and the next night does it."""
    monkeypatch.setattr(driver, "_deadline_s", lambda job, now_s: now_s)
    job = make_job(tmp_path, checkpoint)
    outcome = render(job)
    assert (outcome.exit_code, outcome.num_clips_rendered) == (5, 0)
    rows = results(Store(str(job.workspace))).to_pylist()
    assert {row["status"] for row in rows} == {"left"}
    assert all("deadline" in row["reason"] for row in rows)
    monkeypatch.undo()
    assert render(job).exit_code == 0


class _EndlessEngine(FakeEngine):
    def generate(self, clip: Clip, images: Sequence[bytes], on_step: OnStep, keep: Keep | None = None) -> Any:
        step = 0
        while True:
            on_step("denoise", step := step + 1, 10**9)


def _endless(spec: EngineSpec, device: str | None, num_threads: int | None) -> FakeEngine:
    return _EndlessEngine(spec)


def test_status_of_a_crashed_run_tells_what_was_published(tmp_path: Path, checkpoint: str) -> None:
    """The driver's node burnt down: `status` still knows how far the night had come."""
    job = make_job(tmp_path, checkpoint)
    outcome = render(job)
    workspace = Store(str(job.workspace))
    workspace.delete(f"runs/{outcome.run_id}/outcome.json")
    found = summary(workspace)
    assert found
    assert found.state is RunState.CRASHED
    assert found.counts["published"] == 3
    assert found.counts["left"] == 0
    assert found.counts["held"] == 0


def test_tolerated_failures_are_exit_0(tmp_path: Path, checkpoint: str) -> None:
    job = make_job(tmp_path, checkpoint, limits={"max_failed": "40%"})
    outcome = run(job, inline=True, load_engine=partial(_failing, cause=Cause.BAD_INPUT))
    assert outcome.counts["failed"] == 1
    assert outcome.exit_code == 0


def test_plan_names_the_column_that_breaks_sharing(tmp_path: Path, checkpoint: str) -> None:
    """`{{ first_name }}` in the prompt makes a clip of every customer; the plan says so before the bill does."""
    rows = [
        {"variant_id": f"c{i}", "first_name": f"Ann {i}", "prompt": "waves", "headline": "x", "segment": "s"}
        for i in range(30)
    ]
    job = make_job(
        tmp_path,
        checkpoint,
        rows,
        clip={"prompt": "{{ prompt }} for {{ first_name }}", "aspect": "1x1", "seconds": 0.5},
    )
    made = plan(job)
    assert [str(lint) for lint in made.lints] == ["first_name in clip.prompt: 30 clips; without it 1"]


def test_plan_tells_of_each_output_how_many_rows_get_it(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table says which format a row is; nobody may find out from the platform that a format was never made."""
    outputs = [
        {"name": name, "preset": "web", "from": aspect, "width": 256}
        for name, aspect in (("square", "1x1"), ("wide", "16x9"), ("tall", "9x16"))
    ]
    rows = [row | {"aspect": aspect} for row, aspect in zip(ROWS, ("1x1", "16x9", ""), strict=True)]
    job = make_job(tmp_path, checkpoint, rows, outputs=outputs)
    (tmp_path / "job.json").write_text(job.text)
    assert main(["plan", str(tmp_path / "job.json"), "--json"]) == 0
    words = capsys.readouterr().out
    note = "no row gets the output tall: it is made from 9x16, which no row has as its aspect"
    assert f"note: {note}\n" in words
    assert "to assemble  3 variants: 2 square, 1 wide\n" in words
    facts = json.loads(words.splitlines()[-1])
    assert facts["lints"] == [note]
    assert facts["files_to_assemble"] == {"square": 2, "wide": 1}


def test_plan_names_cells_whose_emptiness_shows(tmp_path: Path, checkpoint: str) -> None:
    """The name of a customer is missing, and the greeting is rendered all the same: a person should know."""
    rows = [row | {"first_name": name} for row, name in zip(ROWS, ("Ann", "Bob", ""), strict=True)]
    layers = [{"text": {"value": "Hello {{ first_name }}!"}}]
    (lint,) = plan(make_job(tmp_path, checkpoint, rows, layers=layers)).lints
    assert str(lint) == (
        "first_name is empty in 1 rows, first in row 3: layers.0.text.value has words around it, and a gap there"
    )


def test_plan_names_characters_that_no_font_draws(tmp_path: Path, checkpoint: str) -> None:
    """Emoji in a headline: said in the evening, and not by a row that failed in assembly the next morning."""
    rows = [
        row | {"headline": f"Grüße {char}"}
        for row, char in zip(ROWS, ("an Köln", *"\U0003fff0" * 2), strict=True)
    ]
    (lint,) = plan(make_job(tmp_path, checkpoint, rows)).lints
    assert str(lint).startswith(
        "no font on this machine draws \U0003fff0 (U+3FFF0), in layers of 2 variants, first in that of row 2"
    )
    assert plan(make_job(tmp_path, checkpoint, rows[:1])).lints == ()


def test_real_engine_renders_a_clip(tmp_path: Path, checkpoint: str) -> None:
    """No fakes: a tiny random Wan checkpoint, text-to-video and image-to-video, with a refine step."""
    rows = [ROWS[0], ROWS[1] | {"image": "logo.png"}]
    job = make_job(tmp_path, checkpoint, rows, cascade=[{"refine": {"scale": 2, "strength": 0.3}}])
    outcome = run(job, inline=True)
    assert outcome.counts["published"] == 2
    assert outcome.gpu_seconds > 0
    row = results(Store(str(job.workspace))).to_pylist()[0]
    assert row["seconds_denoise"] > 0
    assert row["seconds_cascade"] > 0
    assert row["seconds_decode"] > 0


@pytest.mark.parametrize("layout", ["a14b_i2v", "wan21_flf2v"])
def test_real_engine_renders_from_a_first_to_a_last_frame(tmp_path: Path, layout: str) -> None:
    """From the column to the video, with two experts and with CLIP; a row without a first frame is told."""
    rows = [ROWS[0] | {"image": "logo.png", "last_image": "logo.png"}, ROWS[1] | {"last_image": "logo.png"}]
    job = make_job(tmp_path, str(make(layout, tmp_path / "model")), rows, cascade=[{"refine": {"steps": 1}}])
    outcome = run(job, inline=True, skip_bad_rows=True)
    assert (outcome.counts["published"], outcome.counts["failed"]) == (1, 1)
    reasons = {row["variant_id"]: row["reason"] for row in results(Store(str(job.workspace))).to_pylist()}
    assert "last_image: there is no image of the first frame" in reasons["bob"]


def test_run_that_came_and_went_since_the_plan_is_not_repeated(tmp_path: Path, checkpoint: str) -> None:
    """Cron started the job twice: the second one planned before the first was done, and finds its lease given back."""
    job = make_job(tmp_path, checkpoint)
    between: list[Outcome] = []

    class Beside(View):
        def planned(self, plan: object, run_id: str) -> None:
            if not between:
                between.append(render(job))

    outcome = render(job, view=Beside())
    assert between[0].counts["published"] == 3
    assert (outcome.counts["unchanged"], outcome.num_clips_rendered) == (3, 0)


def test_run_that_waits_for_another_one_can_be_stopped(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cron started the job twice; the second one waits, and gives up when it is told to."""
    job = make_job(tmp_path, checkpoint)
    monkeypatch.setattr("wanflow.lease.LOOK_S", 0.01)
    with Lease(Store(str(job.workspace)), Store(job.publish.url), run_id="the-first"):
        said: list[str] = []

        class Told(View):
            def message(self, words: str) -> None:
                said.append(words)
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Stopped, match="SIGTERM"):
            render(job, view=Told())
    assert "the-first" in said[0]
    assert render(job).counts["published"] == 3
