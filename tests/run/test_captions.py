"""Runs with subtitles: a changed cue costs one assembly, and their own font reaches the machine that draws them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.planning.test_quiet import night
from tests.run.jobs import ROWS, make_job
from wanflow import Job, inputs, plan
from wanflow.assemble.fonts import packaged
from wanflow.inputs import read_source
from wanflow.memo import InputMemo
from wanflow.model import AssembleVariant
from wanflow.staging import stage_inputs
from wanflow.storage import Store, validators

SRT = "1\n00:00:00,000 --> 00:00:00,250\nHello {name}\n\n2\n00:00:00,250 --> 00:00:09,000\nand welcome\n"
LAYERS = [{"captions": {"url": "{{ variant_id }}.srt", "at": "bottom", "font": "brand.ttf"}}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


@pytest.fixture
def job(tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(validators, "SETTLED_NS", 0)
    for row in ROWS:
        say(tmp_path, row["variant_id"], SRT.format(name=row["variant_id"]))
    shutil.copyfile(packaged("rubik/Rubik[wght].ttf"), tmp_path / "brand.ttf")
    return make_job(tmp_path, checkpoint, layers=LAYERS)


def say(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.srt").write_text(text)


def test_a_changed_cue_is_one_video_and_no_gpu(job: Job) -> None:
    """The translator fixed a typo; a file that was only saved anew by another tool changes nothing."""
    outcome, quiet = night(job)
    assert (outcome.exit_code, quiet) == (0, False)
    assert outcome.counts["published"] == 3
    assert night(job)[1]
    say(job.directory, "ann", SRT.format(name="Ann"))
    say(job.directory, "bob", "WEBVTT\n\n" + SRT.format(name="bob").replace("\n", "\r\n"))
    outcome, quiet = night(job)
    assert not quiet, "the file is seen before the manifest is read"
    assert (outcome.num_clips_rendered, outcome.counts["published"]) == (0, 1)
    assert outcome.counts["unchanged"] == 2


def test_each_plan_reads_the_files_anew(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their words are in the plan: a memo of digests is not enough, though the files have not changed."""
    workspace = Store(str(job.workspace))
    for _ in range(2):
        memo = InputMemo.load(workspace, inputs.RULES)
        found = inputs.Inputs(job.directory, memo=memo)
        found.prefetch_captions(["ann.srt", "bob.srt"])
        assert [found.captions(f"{name}.srt")[0].text for name in ("ann", "bob")] == [
            "Hello ann",
            "Hello bob",
        ]
        assert set(memo.seen() or {}) == {f"{job.directory}/ann.srt", f"{job.directory}/bob.srt"}
        found.font("brand.ttf")
        memo.save(workspace)


def test_the_font_is_staged_for_the_machine_that_assembles(job: Job) -> None:
    workspace = Store(str(job.workspace))
    [*planned] = plan(job).to_assemble
    tasks = [AssembleVariant(each.variant, each.files) for each in planned]
    staged = stage_inputs(workspace, [], tasks)
    assert staged.refused == {}
    for task in staged.assemblies.values():
        [layer] = task.variant.scenes[0].layers
        [font] = task.variant.scenes[0].sources
        assert font == layer.font  # type: ignore[union-attr]
        assert font.url.startswith(f"{workspace.url}/inputs/")
        assert len(read_source(font)) > 10_000


def test_characters_of_captions_that_no_font_draws_are_noted(tmp_path: Path, checkpoint: str) -> None:
    for row, char in zip(ROWS, ("\u00fc", *"\U0003fff0" * 2), strict=True):
        say(tmp_path, row["variant_id"], SRT.format(name=char))
    layers = [{"captions": {"url": "{{ variant_id }}.srt"}}]
    (lint,) = plan(make_job(tmp_path, checkpoint, layers=layers)).lints
    assert str(lint).startswith(
        "no font on this machine draws \U0003fff0 (U+3FFF0), in layers of 2 variants, first in that of row 2"
    )
