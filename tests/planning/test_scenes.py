"""Plans of videos of several scenes: what a changed row makes anew, and what is said of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.planning.published import pretend_run, stores
from tests.run.jobs import make_job, write_rows
from tests.sounds import speech, write_sound
from wanflow import Job, plan, run
from wanflow.errors import ManifestError
from wanflow.planning import ClipPlan
from wanflow.planning.why import explain
from wanflow.report import results
from wanflow.testing import load_fake_engine

#: two lessons that begin with the same slide
SLIDES: list[dict[str, Any]] = [
    {"LESSON": "sea", "SLIDE": 1, "prompt": "intro", "headline": "Welcome"},
    {"LESSON": "sea", "SLIDE": 2, "prompt": "waves", "headline": "Waves"},
    {"LESSON": "sea", "SLIDE": 3, "prompt": "bokeh", "headline": "Foam"},
    {"LESSON": "sky", "SLIDE": 1, "prompt": "intro", "headline": "Welcome"},
    {"LESSON": "sky", "SLIDE": 2, "prompt": "stars", "headline": "Stars"},
]
MANIFEST = {"url": "manifest.parquet", "group": {"by": "LESSON", "order": "SLIDE"}}
PUBLISH = {"url": "out", "path": "{{ variant_id }}/{{ output }}.mp4", "carry": ["LESSON"]}


def with_slide(number: int, **changes: Any) -> list[dict[str, Any]]:
    return [*SLIDES[:number], SLIDES[number] | changes, *SLIDES[number + 1 :]]


@pytest.fixture
def job(tmp_path: Path, checkpoint: str) -> Job:
    """Both lessons are published."""
    made = make_job(tmp_path, checkpoint, SLIDES, manifest=MANIFEST, publish=PUBLISH)
    pretend_run(made)
    return made


def whys(job: Job, kind: str = "variant") -> dict[str, str]:
    return {
        why.id: re.sub(r"\([0-9a-f]{8}\)", "(DIGEST)", "; ".join(map(str, why.changes)))
        for why in explain(plan(job), stores(job)[0])
        if why.kind == kind
    }


def test_a_plan_counts_videos_and_the_clips_that_they_share(tmp_path: Path, checkpoint: str) -> None:
    """Five rows are two videos of four clips: the common intro is rendered once."""
    made = plan(make_job(tmp_path, checkpoint, SLIDES, manifest=MANIFEST, publish=PUBLISH))
    assert (made.num_variants, made.num_clips_wanted, made.num_clips_shared) == (2, 4, 1)
    uses = {clip.task.clip.prompt: clip.num_variants for clip in made.clips}
    assert uses == {"intro": 2, "waves": 1, "bokeh": 1, "stars": 1}


def test_what_has_not_changed_is_unchanged(job: Job) -> None:
    """Nor when the table comes in another order."""
    made = plan(job)
    assert (made.is_empty, made.unchanged.variant_ids, list(made.unchanged.rows)) == (
        True,
        ["sea", "sky"],
        [1, 4],
    )
    write_rows(job.directory, SLIDES[::-1])
    again = plan(job)
    assert (again.is_empty, again.unchanged.variant_ids, list(again.unchanged.rows)) == (
        True,
        ["sky", "sea"],
        [1, 3],
    )


def test_a_changed_slide_is_rendered_and_only_its_lesson_assembled(job: Job) -> None:
    write_rows(job.directory, with_slide(1, prompt="calm waves"))
    made = plan(job)
    assert [
        (clip.task.clip.prompt, clip.decision) for clip in made.clips if clip.decision != ClipPlan.HELD
    ] == [("calm waves", ClipPlan.RENDER)]
    assert [planned.variant.variant_id for planned in made.to_assemble] == ["sea"]
    assert whys(job) == {"sea": "prompt changed: 'waves' -> 'calm waves'"}


def test_a_changed_slide_that_all_lessons_show_is_one_clip(job: Job) -> None:
    write_rows(job.directory, [row | ({"prompt": "opening"} if row["SLIDE"] == 1 else {}) for row in SLIDES])
    made = plan(job)
    assert [clip.num_variants for clip in made.to_render] == [2]
    assert len(made.to_assemble) == 2


def test_changed_words_on_one_slide_cost_no_gpu(job: Job) -> None:
    write_rows(job.directory, with_slide(2, headline="Spray"))
    assert plan(job).to_render == ()
    assert whys(job) == {"sea": "layers text text: 'Foam' -> 'Spray'"}


def test_a_slide_in_between_is_told_as_one_more_scene(job: Job) -> None:
    """And not as a change of every slide after it."""
    write_rows(job.directory, [*SLIDES, SLIDES[0] | {"SLIDE": 1.5, "prompt": "shells", "headline": "Shells"}])
    assert whys(job) == {"sea": "clip scenes: 3 -> 4"}
    assert list(whys(job, "clip").values()) == ["new"]


def test_a_slide_in_between_moves_the_voices_behind_it(tmp_path: Path, checkpoint: str) -> None:
    """Their words are what they were; only the new slide's are told."""
    for number in range(3):
        write_sound(tmp_path / f"{number}.wav", speech(0.3 + number / 10))
    rows = [row | {"said": f"{min(number, 2)}.wav"} for number, row in enumerate(SLIDES[:3])]
    sound = {"voice": {"url": "{{ said }}"}}
    job = make_job(tmp_path, checkpoint, rows[:2], manifest=MANIFEST, publish=PUBLISH, sound=sound)
    pretend_run(job)
    write_rows(tmp_path, [rows[0], rows[2] | {"SLIDE": 1.5}, rows[1]])
    assert whys(job) == {"sea": "clip scenes: 2 -> 3; sound voice of scene 2: none -> 2.wav (DIGEST)"}


def test_slides_that_change_places_are_told_as_such(job: Job) -> None:
    write_rows(job.directory, with_slide(1, SLIDE=4))
    assert whys(job) == {"sea": "clip order of the scenes"}
    assert plan(job).to_render == ()


def test_a_slide_that_takes_the_place_of_another_one_is_told(job: Job) -> None:
    """The second went, and a new one came behind the last."""
    write_rows(job.directory, with_slide(1, SLIDE=4, prompt="shells"))
    assert whys(job) == {"sea": "clip scenes that came and went"}
    assert list(whys(job, "clip").values()) == ["new"]


def test_a_lesson_that_left_the_table_is_retired_and_one_that_lost_a_slide_is_not(job: Job) -> None:
    write_rows(job.directory, SLIDES[:2])
    made = plan(job)
    assert [each.path for each in made.retired] == ["sky/square.mp4"]
    assert [(v.variant.variant_id, v.reason) for v in made.to_assemble] == [("sea", "changed")]


def test_a_video_with_bad_rows_fails_once_and_stays_as_it_was(job: Job) -> None:
    """The lesson that is published keeps its three slides; the results say which of them are broken now."""
    rows = with_slide(1, prompt="")
    rows[2] = rows[2] | {"headline": "x" * 3000}
    write_rows(job.directory, rows)
    with pytest.raises(ManifestError) as error:
        plan(job)
    assert [(bad.row, bad.variant_id) for bad in error.value.bad_rows] == [(2, "sea"), (3, "sea")]
    outcome = run(job, inline=True, load_engine=load_fake_engine, skip_bad_rows=True)
    assert (outcome.counts["failed"], outcome.counts["unchanged"], outcome.num_retired) == (1, 1, 0)
    rows = results(stores(job)[0]).to_pylist()
    assert [(row["variant_id"], row["row"], row["status"]) for row in rows] == [
        ("sea", 2, "failed"),
        ("sky", 4, "unchanged"),
    ]
    assert rows[0]["reason"] == (
        "row 2: prompt: is empty, and there is no image either; row 3: layers.1.text.value: has 3,000 characters; at "
        "most 2,000 fit on a picture"
    )
    assert (job.directory / "out/sea/square.mp4").exists()
