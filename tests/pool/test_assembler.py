"""A variant assembled and published by a pool's worker, from masters and images to records."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from PIL import Image

from tests.assemble.conftest import Studio
from tests.test_quality import disc
from wanflow.inputs import Inputs
from wanflow.model import AssembleVariant, Attempt, ImageLayer, Output, OutputFile, Placement, Scene, Variant
from wanflow.pool import RunContext
from wanflow.pool.assembler import Assembled, assemble_variant
from wanflow.records import put_clip
from wanflow.storage import Store


def test_a_packshot_before_all_that_moves_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What layers cover is told to whoever checks that the file moves."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    studio = Studio(tmp_path)
    studio.film("m", disc(128, 128))
    Image.new("RGB", (60, 60), (200, 40, 40)).save(tmp_path / "packshot.png")
    packshot = ImageLayer(
        Inputs(tmp_path).image(str(tmp_path / "packshot.png")), Placement("center", width=0.6)
    )
    square, attempt = Output("square", "1x1", 256, 256, 8.0), Attempt(1, 1)
    scene = Scene(((square.aspect, studio.clip("m")),), (packshot,))
    variant = Variant("anna", 1, (scene,), ((square, "anna.mp4"),))
    task = AssembleVariant(variant, (OutputFile(square, "anna.mp4", "f" * 64, ("a" * 64,)),))
    workspace, target = Store(str(tmp_path / "work")), Store(str(tmp_path / "out"))
    put_clip(workspace, "a" * 64, attempt, {"master.mp4": studio.masters["m"]}, {})
    context = RunContext("r", 1, workspace.url, target.url, {}, {}, {task.key: task}, ("", ""))
    done = assemble_variant(context, task, attempt)
    assert isinstance(done, Assembled), done
    assert target.stat("anna.mp4")
