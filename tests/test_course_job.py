"""The sample course: two lessons of three slides, over five clips."""

from __future__ import annotations

from pathlib import Path

import av

from tests.checkpoints import make
from tests.test_demo_assets import POCKET
from wanflow import run
from wanflow.inputs import Inputs
from wanflow.job import load_job
from wanflow.manifest import read_variants
from wanflow.model import Mode, TextLayer, Variant
from wanflow.pocket.grammar import read_caption
from wanflow.pocket.scenes import Scene
from wanflow.testing import load_fake_engine

JOB = Path(__file__).parents[1] / "jobs" / "course.yaml"


def lessons() -> list[Variant]:
    job = load_job(JOB)
    found = list(
        read_variants(job, dict.fromkeys(Mode, POCKET), Inputs(job.directory, allowed=job.allowed()))
    )
    assert all(isinstance(item, Variant) for item in found)
    return [item for item in found if isinstance(item, Variant)]


def test_two_lessons_of_three_slides_share_their_first() -> None:
    """Each slide has its own words over its own clip; what both begin with is rendered once."""
    espresso, milk = lessons()
    assert [variant.outputs[0][1] for variant in (espresso, milk)] == ["espresso.mp4", "milk.mp4"]
    clips = [[scene.clip("16x9") for scene in variant.scenes] for variant in (espresso, milk)]
    assert [len(of_lesson) for of_lesson in clips] == [3, 3]
    assert clips[0][0] == clips[1][0]
    assert len({clip for of_lesson in clips for clip in of_lesson}) == 5
    scenes = [*espresso.scenes, *milk.scenes]
    words = [tuple(x.text for x in scene.layers if isinstance(x, TextLayer)) for scene in scenes]
    assert len(set(words)) == 6
    assert all(len(texts) == 2 for texts in words)


def test_pocket_knows_what_the_slides_ask_for() -> None:
    """A prompt outside of its grammar, or a pair that it has never seen, looks poor."""
    for prompt in {scene.clip("16x9").prompt for variant in lessons() for scene in variant.scenes}:
        said = read_caption(prompt)
        assert said.keys() == {"kind", "colour", "background", "motion", "scale"}, prompt
        assert not Scene(**said, seed=0).held_out(), prompt


def test_a_lesson_lasts_as_long_as_its_slides(tmp_path: Path) -> None:
    """The job as it is, with tiny weights in pocket's place."""
    sets = [f"engine.checkpoint={make('pocket', tmp_path / 'model')}", f"publish.url={tmp_path / 'out'}"]
    outcome = run(load_job(JOB, sets), inline=True, load_engine=load_fake_engine)
    assert (outcome.counts["published"], outcome.num_clips_rendered) == (2, 5)
    for name in ("espresso", "milk"):
        with av.open(str(tmp_path / "out" / f"{name}.mp4")) as video:
            num_frames = sum(1 for _ in video.decode(video=0))
        assert num_frames == 3 * round(9 / 4 * 24), "nine frames a slide, at 4 a second"
