"""The job file: what may be written, what it becomes, and how a mistake is answered."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import time
from pathlib import Path
from typing import Any

import pytest

from tests.inputs.conftest import SPEC, job_dict
from wanflow.errors import JobError
from wanflow.job import Job, load_job
from wanflow.model import CascadeStep, Mode

WriteJob = Callable[[str], Path]

DESIGN = """\
wanflow: 1
name: spring-sale
manifest:
  url: s3://dwh/spring/*.parquet
  rename: {variant_id: CUSTOMER_ID}
  where: OPTED_IN = true
engine:
  checkpoint: pocket
  profile: exact
clip:
  prompt: "{{ product }} on {{ surface }}, slow push-in"
  image: "{{ packshot }}"
  aspect: [9x16, 16x9]
  seconds: 2
  seed: 0
cascade:
  - refine: {scale: 2, strength: 0.3}
layers:
  - image: {url: "{{ logo }}", at: top-left, height: 8%}
  - text: {value: "{{ headline }}", at: lower-third, style: headline}
outputs:
  - {name: story, preset: instagram-story, from: 9x16}
  - {name: link, preset: linkedin, from: 16x9}
limits: {max_failed: 0.5%, deadline: "06:00"}
publish: {url: s3://ads/spring, path: "{{ variant_id }}/{{ output }}.mp4", carry: [segment]}
workspace: s3://ads-work/spring
resources: {replicas: {min: 0, max: 8}, gpus_per_replica: 1, gpu_hour: 2.50}
"""


def problems(data: dict[str, Any]) -> str:
    with pytest.raises(JobError) as caught:
        Job.from_dict(data, "/jobs")
    return str(caught.value)


def test_every_line_of_the_documented_job_is_understood(write_job: WriteJob) -> None:
    """The job that the documentation shows is the contract: it must load, and mean what it says."""
    job = load_job(write_job(DESIGN), env={})
    assert job.manifest.url == "s3://dwh/spring/*.parquet"
    assert job.manifest.rename == {"variant_id": "CUSTOMER_ID"}
    assert job.engine.checkpoints() == {Mode.T2V: "pocket", Mode.I2V: "pocket"}
    assert job.clip.aspect == ("9x16", "16x9")
    assert job.clip.seconds == 2.0
    assert job.cascade_steps() == (CascadeStep("refine", (("scale", 2), ("strength", 0.3))),)
    assert [layer.kind for layer in job.layers] == ["image", "text"]
    assert [(o.name, o.preset, o.from_) for o in job.outputs] == [
        ("story", "instagram-story", "9x16"),
        ("link", "linkedin", "16x9"),
    ]
    assert job.limits.deadline == time(6, 0)
    assert job.publish.carry == ("segment",)
    assert job.workspace == "s3://ads-work/spring"
    assert (job.resources.replicas.min, job.resources.replicas.max) == (0, 8)
    assert job.resources.gpu_hour == 2.5
    assert job.text == DESIGN


def test_what_is_left_out_has_a_sane_default() -> None:
    """A first job is seven lines; the rest must not surprise."""
    job = Job.from_dict(
        {
            "wanflow": 1,
            "name": "a",
            "manifest": "m.csv",
            "engine": {"checkpoint": "pocket"},
            "publish": {"url": "out"},
        },
        "/jobs",
    )
    assert job.clip.seed == 0
    assert job.clip.aspect == ("16x9",)
    assert job.cascade == ()
    assert job.layers == ()
    assert [(o.name, o.preset) for o in job.outputs] == [("video", "preview")]
    assert job.publish.path == "{{ variant_id }}/{{ output }}.mp4"
    assert job.workspace == "/jobs/out/.wanflow"
    assert job.limits.failures_allowed(1000) == 0
    assert job.limits.max_attempts == 3
    assert job.limits.max_load_minutes == 60
    assert (job.resources.replicas.min, job.resources.replicas.max) == (0, None)
    assert job.manifest.mode == "snapshot"


def test_paths_begin_at_the_job_file(tmp_path: Path) -> None:
    """Cron runs the job from anywhere; its paths must not move with the working directory."""
    (tmp_path / "jobs").mkdir()
    path = tmp_path / "jobs" / "job.yaml"
    path.write_text(
        "wanflow: 1\nname: a\nmanifest: ../data/*.parquet\nengine: {checkpoint: {t2v: ./w, i2v: 's3://m/i2v'}}\n"
        "publish: {url: ../out}\nworkspace: /data/space\n"
    )
    job = load_job(path, env={})
    assert job.manifest.url == str(tmp_path / "data" / "*.parquet")
    assert job.engine.checkpoints() == {Mode.T2V: str(tmp_path / "jobs" / "w"), Mode.I2V: "s3://m/i2v"}
    assert job.publish.url == str(tmp_path / "out")
    assert job.workspace == "/data/space"
    assert job.directory == tmp_path / "jobs"


def test_a_hub_id_is_no_path_unless_the_directory_is_there(tmp_path: Path) -> None:
    """``org/name`` looks like a relative path; a local copy of that name comes first."""
    data = job_dict(engine={"checkpoint": "Wan-AI/Wan2.2-TI2V-5B-Diffusers"})
    assert Job.from_dict(data, tmp_path).engine.checkpoint.t2v == "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    local = tmp_path / "Wan-AI" / "Wan2.2-TI2V-5B-Diffusers"
    local.mkdir(parents=True)
    assert Job.from_dict(data, tmp_path).engine.checkpoint.t2v == str(local)


def test_one_checkpoint_a_mode_leaves_the_other_mode_out() -> None:
    """A cluster with text-to-video weights alone must not claim to read images."""
    job = Job.from_dict(job_dict(engine={"checkpoint": {"t2v": "s3://m/t2v"}}))
    assert job.engine.checkpoints() == {Mode.T2V: "s3://m/t2v"}
    assert "names no checkpoint" in problems(job_dict(engine={"checkpoint": {}}))


def test_every_problem_is_told_at_once_with_its_path() -> None:
    """Fixing a job one error a run takes an afternoon; all of them in one list take a minute."""
    text = problems(
        job_dict(
            name=5,
            clip={"prompt": "{{ a }", "seed": -3, "aspect": "16:9", "size": "big"},
            engine={"checkpoint": "pocket", "schedler": "euler", "steps": 0, "profile": "exakt"},
            layers=[
                {"image": {"url": "x.png", "hight": "8%"}},
                {"text": {"value": "a", "style": "headlin"}},
                {},
            ],
            outputs=[{"name": "a", "fit": "crop"}, {"name": "b/c"}],
            limits={"max_failed": "many", "deadline": "6", "max_load_minutes": 0},
            publish={"ulr": "out"},
            matrix={"output": ["a"]},
            cascade=[{"upscale": {}}],
            seed=3,
            resources={"replicas": {"min": 4, "max": 2}},
        )
    )
    for line in (
        "name: `5` is a number; write text, in quotes",
        "clip.prompt: template `{{ a }`",
        "clip.seed: -3 is negative",
        "clip.aspect: `16:9` is not a ratio of width to height; write 16x9",
        "clip.size: `big` is not a size in pixels",
        "engine.schedler: unknown key; did you mean `scheduler`?",
        "engine.steps: `0` is a number; it must be greater than or equal to 1",
        "engine.profile: `exakt` is not one of exact, fast, turbo; did you mean `exact`?",
        "layers.0.image.hight: unknown key; did you mean `height`?",
        "layers.1.text.style: `headlin` is not one of",
        "layers.2: must be exactly one of image, text, captions and box",
        "outputs.0.fit: `crop` is not one of cover, contain",
        "outputs.1.name: `b/c` is not a name",
        "limits.max_failed: `many` is neither a number of variants nor a share",
        "limits.deadline: `6` is not a time of day",
        "limits.max_load_minutes: `0` is a number; it must be greater than 0",
        "publish.url: is missing; The prefix of everything published",
        "publish.ulr: unknown key; did you mean `url`?",
        "matrix: `output` is taken by wanflow",
        "cascade.0.upscale: unknown key; there are: refine",
        "seed: unknown key; did you mean `clip.seed`?",
        "resources.replicas: min 4 is above max 2",
    ):
        assert f"\n  {line}" in text, text


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"wanflow": 2}, "wanflow: `2` is not one of 1"),
        ({"manifest": {"url": ""}}, "manifest.url: is empty"),
        ({"manifest": {"url": "m", "where": "a = = b"}}, "manifest.where: `a = = b`: expected a column or a value"),
        ({"engine": {"checkpoint": None}}, "engine.checkpoint: is empty; give a value"),
        ({"engine": "pocket"}, "engine: `pocket` is text; write a mapping with keys such as checkpoint"),
        ({"clip": {"seconds": 0}}, "clip.seconds: 0 seconds is out of range"),
        ({"clip": {"seconds": "long"}}, "clip.seconds: `long` is not a number of seconds"),
        ({"clip": {"seconds": 1, "num_frames": 9}}, "clip: has both seconds and num_frames"),
        ({"clip": {"size": "32x32", "aspect": ["1x1", "9x16"]}}, "clip: one size for several aspects"),
        ({"clip": {"aspect": []}}, "clip.aspect: write a ratio such as 16x9"),
        ({"clip": {"seed": True}}, "clip.seed: `True` is not a whole number"),
        ({"clip": {"seed": 2**32}}, "clip.seed: 4294967296 is too large"),
        ({"clip": {"num_frames": 1.5}}, "clip.num_frames: `1.5` is a number; write a whole number"),
        ({"layers": [{"image": {"url": "a", "height": 8}}]}, "height: `8` is not a share of the picture; write 8%"),
        ({"layers": [{"image": {"url": "a", "height": "180%"}}]}, "height: 180% is more than the whole"),
        ({"layers": [{"text": {"value": "a", "color": "ffaa00"}}]}, 'color: `ffaa00` is not a colour; write "#ffaa00"'),
        ({"layers": [{"box": {"color": None}}]}, "layers.0.box.color: is empty; give a value"),
        ({"layers": [{"text": {"value": 1.5}}]}, "layers.0.text.value: `1.5` is a number; write text, in quotes"),
        ({"layers": [{"image": {"url": "a", "opacity": 3}}]}, "layers.0.image.opacity: `3` is not an opacity"),
        ({"outputs": [{"name": "a", "preset": "instagram"}]}, "no preset `instagram`; did you mean"),
        ({"outputs": []}, "outputs: is an empty list; give one entry"),
        ({"outputs": [{"name": "a"}, {"name": "a"}]}, "\n  outputs: two outputs are called `a`"),
        (
            {"outputs": [{"name": "a"}, {"name": "b"}], "publish": {"url": "o", "path": "{{ variant_id }}.mp4"}},
            "\n  publish.path: `{{ variant_id }}.mp4` is one path for 2 outputs",
        ),
        ({"publish": {"url": "o", "path": "video.mp4"}}, "one path for all variants"),
        ({"workspace": "out"}, "workspace: is the same as publish.url"),
        ({"matrix": {"locale": []}}, "matrix.locale"),
        ({"cascade": [{"refine": {"scale": [1]}}]}, "cascade.0.refine.scale: must be one value"),
        ({"limits": {"max_failed": "200%"}}, "limits.max_failed: `200%` is neither"),
        ({"limits": {"max_failed": -1}}, "limits.max_failed: `-1` is neither"),
        ({"group": {"by": "x"}}, "group: unknown key"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_the_right_spelling(sections: dict[str, Any], words: str) -> None:
    """The message is read at night by somebody who did not write the job."""
    assert words in problems(job_dict(**sections))


@pytest.mark.parametrize(
    ("allowed", "failures"), [(0, 0), (3, 3), ("0.5%", 5), ("100%", 1000), ("0%", 0), ("3", 3)]
)
def test_tolerance_is_a_count_or_a_share(allowed: Any, failures: int) -> None:
    """0.5 % of a thousand are five; of a hundred, none."""
    limits = Job.from_dict(job_dict(limits={"max_failed": allowed})).limits
    assert limits.failures_allowed(1000) == failures
    if allowed == "0.5%":
        assert limits.failures_allowed(100) == 0


def test_a_notebook_loads_a_job_in_one_line(write_job: WriteJob) -> None:
    """``Job.load`` is what ``wanflow run`` does."""
    path = write_job(DESIGN)
    assert Job.load(path, ["clip.seed=4"], {}) == load_job(path, ["clip.seed=4"], {})


def test_a_number_of_replicas_is_both_limits() -> None:
    """``replicas: 2`` on a laptop means two, not up to two."""
    replicas = Job.from_dict(job_dict(resources={"replicas": 2})).resources.replicas
    assert (replicas.min, replicas.max) == (2, 2)


def test_sampling_overrides_only_what_the_job_says() -> None:
    """A job that asks for fewer steps must keep the model's own shift and guidance."""
    job = Job.from_dict(job_dict(engine={"checkpoint": "pocket", "steps": 4, "flow_shift": 2.5}))
    sampling = job.engine.sampling(SPEC.sampling)
    assert (sampling.steps, sampling.flow_shift) == (4, 2.5)
    assert (sampling.guidance, sampling.profile) == (SPEC.sampling.guidance, "exact")


def test_a_job_is_frozen_and_pickles(tmp_path: Path) -> None:
    """Ray carries jobs; nobody may change one on the way."""
    job = Job.from_dict(job_dict(), tmp_path)
    again = pickle.loads(pickle.dumps(job))
    assert again == job
    assert (again.directory, again.text) == (job.directory, job.text)
    with pytest.raises(ValueError, match="frozen"):
        job.name = "other"  # type: ignore[misc]


def test_short_forms_mean_the_long_ones() -> None:
    """``manifest: x``, ``- refine``, ``path:`` for ``url:``: what people write anyway."""
    job = Job.from_dict(job_dict(manifest={"path": "m.csv"}, cascade=["refine", {"refine": None}]), "/jobs")
    assert job.manifest.url == "/jobs/m.csv"
    assert job.cascade_steps() == (CascadeStep("refine"), CascadeStep("refine"))


@pytest.mark.parametrize("data", [None, [], "job"])
def test_what_is_no_mapping_is_no_job(data: Any) -> None:
    """A YAML list in place of a job must not end in a traceback."""
    with pytest.raises(JobError, match="not a mapping"):
        Job.from_dict(data)


def test_a_branch_point_is_the_boundary_or_a_share_of_the_steps() -> None:
    for at, found in (("boundary", "boundary"), (0.6, 0.6), ("0.6", 0.6), ("60%", 0.6), ("12.5 %", 0.125)):
        job = Job.from_dict(job_dict(clip={"branch": {"at": at, "on": "{{ base }}"}}), "/jobs")
        assert job.clip.branch is not None
        assert job.clip.branch.at == found
    assert job.clip_templates()["clip.branch.on"] == "{{ base }}"
    assert Job.from_dict(job_dict(), "/jobs").clip.branch is None


@pytest.mark.parametrize(
    ("branch", "words"),
    [
        ({"at": 1, "on": "x"}, "clip.branch.at: `1` of the steps is out of range; a share is above 0 and below 1"),
        ({"at": "0%", "on": "x"}, "clip.branch.at: `0%` of the steps is out of range"),
        ({"at": "nan", "on": "x"}, "clip.branch.at: `nan` of the steps is out of range"),
        ({"at": "boundry", "on": "x"}, "is neither boundary nor a share of the steps; write boundary, 0.6 or 60%"),
        ({"at": True, "on": "x"}, "is neither boundary nor a share of the steps"),
        ({"at": 0.5}, "clip.branch.on: is missing; Template of the prompt that the shared steps follow"),
        ({"at": 0.5, "on": "{{ x"}, "clip.branch.on: "),
        ({"at": 0.5, "on": "x", "in": 1}, "clip.branch.in: unknown key"),
        ("boundary", "clip.branch: `boundary` is text; write a mapping with keys such as at, on"),
    ],
)  # fmt: skip
def test_a_mistaken_branch_is_answered_with_what_to_write(branch: Any, words: str) -> None:
    assert words in problems(job_dict(clip={"branch": branch}))
