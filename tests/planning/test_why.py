"""`plan --why`: the reason for everything that would be made, what it was -> what it is to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.checkpoints import make
from tests.planning.published import pretend_run, stores
from tests.run.jobs import ROWS, job_dict, make_job, write_rows
from tests.sounds import tone, write_sound
from wanflow import Job, keys, plan
from wanflow.cli import main
from wanflow.model import Cause
from wanflow.planning.changes import Reason, compare_versions
from wanflow.planning.why import Why, explain, explain_against
from wanflow.records import forget_clip, remember_failure


def whys(job: Job, kind: str = "variant", **options: Any) -> dict[str, str]:
    """Id -> reasons in words."""
    made = plan(job, **options)
    return {
        why.id: "; ".join(map(str, why.changes)) for why in explain(made, stores(job)[0]) if why.kind == kind
    }


@pytest.fixture
def job(tmp_path: Path, checkpoint: str) -> Job:
    made = make_job(tmp_path, checkpoint)
    pretend_run(made)
    return made


def test_new_row_is_new(job: Job) -> None:
    write_rows(job.directory, [*ROWS, ROWS[0] | {"variant_id": "dan", "prompt": "stars"}])
    assert whys(job) == {"dan": "new"}
    assert list(whys(job, "clip").values()) == ["new"]


def test_changed_prompt_shows_both(job: Job) -> None:
    write_rows(job.directory, [*ROWS[:2], ROWS[2] | {"prompt": "stars"}])
    assert whys(job) == {"cem": "prompt changed: 'bokeh' -> 'stars'"}
    assert list(whys(job, "clip").values()) == ["prompt changed: 'bokeh' -> 'stars'"]


def test_another_voice_is_told_and_no_clip_is_made_for_it(tmp_path: Path, checkpoint: str) -> None:
    """The speaker corrected a name: one video is assembled anew."""
    write_sound(tmp_path / "ann.wav", tone(0.4))
    write_sound(tmp_path / "bed.wav", tone(1.0, 200))
    rows = [ROWS[0] | {"voice": "ann.wav"}, ROWS[1] | {"voice": ""}]
    sound = {"voice": "{{ voice }}", "music": {"url": "bed.wav", "duck": 15}}
    job = make_job(tmp_path, checkpoint, rows, sound=sound)
    pretend_run(job)
    assert whys(job) == {}
    write_sound(tmp_path / "ann.wav", tone(0.3))
    found = whys(job)
    assert list(found) == ["ann"]
    assert found["ann"].startswith("sound voice: ann.wav (")
    assert whys(job, "clip") == {}
    quieter = make_job(
        tmp_path, checkpoint, rows, sound=sound | {"music": {"url": "bed.wav", "duck": 20}, "loudness": -16}
    )
    assert whys(quieter)["bob"] == "sound music duck_db: 15.0 -> 20.0; sound loudness: -14.0 -> -16.0"
    silent = make_job(tmp_path, checkpoint, rows)
    assert "sound music: bed.wav (" in whys(silent)["bob"]
    assert whys(silent)["bob"].endswith(" -> none")


def test_image_of_the_same_name_with_other_bytes_is_seen(tmp_path: Path, checkpoint: str) -> None:
    """The shop replaced the packshot in place."""
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "shot.png")
    job = make_job(tmp_path, checkpoint, [ROWS[0] | {"image": "shot.png"}, ROWS[1]])
    pretend_run(job)
    Image.new("RGB", (64, 64), (200, 9, 9)).save(tmp_path / "shot.png")
    found = whys(job)
    assert list(found) == ["ann"]
    assert found["ann"].startswith("image: shot.png (")
    assert " -> shot.png (" in found["ann"]


def test_another_last_frame_is_told_as_such(tmp_path: Path) -> None:
    """From none to one, and from one to another."""
    for name, colour in (("a.png", (9, 9, 9)), ("b.png", (200, 9, 9)), ("c.png", (9, 200, 9))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / name)
    row = ROWS[0] | {"image": "a.png", "last_image": ""}
    job = make_job(tmp_path, str(make("a14b_i2v", tmp_path / "model")), [row])
    pretend_run(job)
    write_rows(job.directory, [row | {"last_image": "b.png"}])
    assert whys(job)["ann"].startswith("image of the last frame: none -> b.png (")
    pretend_run(job)
    write_rows(job.directory, [row | {"last_image": "c.png"}])
    assert whys(job)["ann"].startswith("image of the last frame: b.png (")
    assert " -> c.png (" in whys(job)["ann"]


def changed(job: Job, **changes: Any) -> Job:
    checkpoint = job.engine.checkpoint.t2v
    assert checkpoint
    return Job.from_dict(job_dict(checkpoint, **changes), job.directory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clip": {"aspect": "1x1", "seconds": 0.5, "seed": 7}}, "clip seed: 0 -> 7"),
        ({"cascade": [{"refine": {"scale": 2, "strength": 0.3}}]}, "cascade: none -> refine"),
        (
            {"outputs": [{"name": "square", "preset": "instagram-square", "width": 320}]},
            "output width: 256 -> 320",
        ),
    ],
    ids=["clip", "cascade", "output"],
)
def test_change_of_the_job_names_its_section(job: Job, changes: dict[str, Any], words: str) -> None:
    found = whys(changed(job, **changes))
    assert set(found) == {"ann", "bob", "cem"}
    assert all(words in reason for reason in found.values()), found


def test_change_of_sampling_is_the_engines(job: Job) -> None:
    checkpoint = job.engine.checkpoint.t2v
    found = whys(changed(job, engine={"checkpoint": checkpoint, "steps": 3}))
    assert all(reason.startswith("engine steps: ") and reason.endswith("-> 3") for reason in found.values())


def test_swapped_checkpoint_of_the_same_name_is_the_engines(tmp_path: Path, checkpoint: str) -> None:
    """Somebody copied a fine-tuned checkpoint over the old one."""
    import shutil

    place = tmp_path / "model"
    shutil.copytree(checkpoint, place)
    job = make_job(tmp_path, str(place))
    pretend_run(job)
    weights = next((place / "transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found = whys(job)
    assert set(found) == {"ann", "bob", "cem"}
    assert all(reason.startswith("engine weights: ") for reason in found.values())


def test_changed_headline_is_the_layers(job: Job) -> None:
    write_rows(job.directory, [ROWS[0] | {"headline": "Bye Ann"}, *ROWS[1:]])
    assert whys(job) == {"ann": "layers text text: 'Hello Ann' -> 'Bye Ann'"}
    assert whys(job, "clip") == {}


CUES = [
    "00:00.000 --> 00:00.100\nOne",
    "00:00.100 --> 00:00.200\nTwo",
    *(f"00:00.{n}00 --> 00:00.{n + 1}00\nWord {n}" for n in range(2, 5)),
]


@pytest.mark.parametrize(
    ("cues", "words"),
    [
        ([CUES[0], CUES[1].replace("Two", "Zwei"), *CUES[2:]], "layers captions cue 2: 'Two' -> 'Zwei'"),
        ([cue.replace("Word", "Wort") for cue in CUES], "layers captions cue 3 and 2 more: 'Word 2' -> 'Wort 2'"),
        ([CUES[0].replace("100", "050"), *CUES[1:]], "layers captions cue 1: 0 to 0.1 s -> 0 to 0.05 s"),
        ([CUES[0], *CUES[2:]], "layers captions from cue 2 on: 5 cues -> 4 cues"),
        ([*CUES, "00:00.510 --> 00:00.600\nEnd"], "layers captions from cue 6 on: 5 cues -> 6 cues"),
    ],
)  # fmt: skip
def test_changed_captions_are_told_by_the_first_cue(
    tmp_path: Path, checkpoint: str, cues: list[str], words: str
) -> None:
    """Two hundred cues are nobody's reason."""
    path = tmp_path / "talk.vtt"
    path.write_text("\n\n".join(["WEBVTT", *CUES]))
    layers = [{"captions": {"url": "talk.vtt"}}]
    job = make_job(tmp_path, checkpoint, ROWS[:1], layers=layers)
    pretend_run(job)
    assert whys(job) == {}
    path.write_text("\n\n".join(["WEBVTT", *cues]))
    assert whys(job) == {"ann": words}


def test_another_look_of_captions_is_told_by_its_name(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "talk.vtt").write_text("\n\n".join(["WEBVTT", *CUES]))
    job = make_job(tmp_path, checkpoint, ROWS[:1], layers=[{"captions": {"url": "talk.vtt"}}])
    pretend_run(job)
    layers = [{"captions": {"url": "talk.vtt", "at": "top", "color": "#fff"}}]
    words = "layers captions at: 'lower-third' -> 'top'; layers captions color: none -> '#ffffff'"
    assert whys(changed(job, layers=layers))["ann"] == words


def test_clip_that_failed_before_is_told_with_its_variant(job: Job) -> None:
    write_rows(job.directory, [*ROWS[:2], ROWS[2] | {"prompt": "stars"}])
    key = plan(job).to_render[0].task.key
    remember_failure(stores(job)[0], key, Cause.BAD_OUTPUT, "black frames")
    assert "black frames" in whys(job)["cem"]
    assert whys(job)["cem"].startswith("failed before: black frames")
    assert list(whys(job, "clip")) == [key]


def test_video_and_master_that_are_gone_are_missing_in_the_store(job: Job) -> None:
    workspace, target = stores(job)
    target.delete("ann/square.mp4")
    assert whys(job) == {"ann": "missing in the store: file is missing"}
    for clip in plan(job).clips:
        forget_clip(workspace, clip.task.key)
    assert list(whys(job, "clip").values()) == ["missing in the store"]


def test_forced_is_a_reason(job: Job) -> None:
    assert set(whys(job, force="base").values()) == {"forced"}
    assert set(whys(job, "clip", force="base").values()) == {"forced"}


def test_raised_stage_version_is_a_reason(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of wanflow that makes other pixels must not look like a change of the manifest."""
    raised = dict(keys.VERSIONS) | {"base": 2}
    monkeypatch.setattr("wanflow.keys.VERSIONS", raised)
    monkeypatch.setattr("wanflow.planning.changes.VERSIONS", raised)
    keys.stages.cache_clear()
    try:
        assert set(whys(job).values()) == {"stage version base: 1 -> 2"}
    finally:
        keys.stages.cache_clear()


def test_pictures_that_are_read_otherwise_are_a_reason(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a clip's image and in a layer; plans of before pictures had a version say so too."""
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "shot.png")
    rows = [{**ROWS[0], "image": "shot.png", "logo": ""}, {**ROWS[1], "image": "", "logo": "shot.png"}]
    rows.append({**ROWS[2], "image": "", "logo": ""})
    layers = [{"image": {"url": "{{ logo }}", "at": "top", "height": "8%"}}]
    job = make_job(tmp_path, checkpoint, rows, layers=layers)
    pretend_run(job)
    raised = dict(keys.VERSIONS) | {"picture": keys.VERSIONS["picture"] + 1}
    monkeypatch.setattr("wanflow.keys.VERSIONS", raised)
    monkeypatch.setattr("wanflow.planning.changes.VERSIONS", raised)
    keys.stages.cache_clear()
    try:
        assert whys(job) == dict.fromkeys(("ann", "bob"), "stage version picture: 1 -> 2")
        assert list(whys(job, "clip").values()) == ["stage version picture: 1 -> 2"]
    finally:
        keys.stages.cache_clear()
    first = {name: version for name, version in raised.items() if name != "picture"}
    assert [*map(str, compare_versions(first, ["base", "picture"]))] == ["stage version picture: 0 -> 2"]
    assert compare_versions({}, ["picture"]) == [], "not known"


def test_reason_reaches_back_over_quiet_nights(job: Job) -> None:
    """The old prompt is that of the run which published the video, not of the one before this."""
    write_rows(job.directory, [*ROWS, ROWS[0] | {"variant_id": "dan"}])
    pretend_run(job)
    write_rows(job.directory, [*ROWS[:2], ROWS[2] | {"prompt": "stars"}])
    assert whys(job) == {"cem": "prompt changed: 'bokeh' -> 'stars'"}


def test_plan_of_a_run_that_is_gone_leaves_a_plain_reason(job: Job) -> None:
    workspace, _ = stores(job)
    for stat in list(workspace.list("runs")):
        workspace.delete(stat.path)
    write_rows(job.directory, [*ROWS[:2], ROWS[2] | {"prompt": "stars"}])
    assert whys(job) == {"cem": "changed"}


def against(job: Job, run_id: str) -> dict[str, str]:
    found: list[Why] = explain_against(plan(job, in_full=True), stores(job)[0], run_id)
    return {why.id: "; ".join(map(str, why.changes)) for why in found}


def test_diff_with_a_run_tells_new_changed_and_gone(tmp_path: Path, checkpoint: str) -> None:
    """What has happened to the campaign since Monday, whatever was published in between."""
    job = make_job(tmp_path, checkpoint)
    monday = pretend_run(job)
    write_rows(tmp_path, [ROWS[0] | {"headline": "Bye"}, ROWS[1], ROWS[2] | {"variant_id": "dan"}])
    tuesday = pretend_run(job)
    assert against(job, monday) == {
        "ann": "layers text text: 'Hello Ann' -> 'Bye'",
        "dan": "new",
        "cem": "no longer asked for",
    }
    assert against(job, tuesday) == {}, "bob was unchanged on Tuesday, and is still as on Monday"


def test_command_line_tells_why_and_what_it_costs(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, checkpoint)
    (tmp_path / "job.json").write_text(json.dumps(job_dict(checkpoint)))
    pretend_run(job)
    write_rows(tmp_path, [*ROWS[:2], ROWS[2] | {"prompt": "stars"}])
    assert main(["plan", str(tmp_path / "job.json"), "--why", "--cost", "--json"]) == 0
    *words, line = capsys.readouterr().out.splitlines()
    assert any("prompt changed: 'bokeh' -> 'stars'" in word for word in words)
    facts = json.loads(line)
    assert [why["changes"][0]["reason"] for why in facts["why"]] == [Reason.PROMPT, Reason.PROMPT]
    assert facts["cost"]["clips_never_measured"] == 1
