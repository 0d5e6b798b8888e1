"""Bad input ends with one clear error and its exit code, before any engine is loaded; nothing made is lost."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.checkpoints import make
from tests.run.jobs import ROWS, job_dict, write_logo, write_rows
from wanflow.cli import main
from wanflow.schedule import Policy
from wanflow.storage import wait_out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


class Workbench:
    """A folder with a job that is right but for what a test spoils."""

    def __init__(self, folder: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = [dict(row) for row in ROWS]
        self.job = job_dict(checkpoint)
        self._capsys = capsys
        write_logo(folder)

    def run(self, *flags: str) -> tuple[int, str]:
        """Exit code and what was said on standard error."""
        if self.job["manifest"]["url"] == "manifest.parquet":
            write_rows(self.folder, self.rows)
        path = self.folder / "job.yaml"
        YAML(typ="safe").dump(self.job, path)
        self._capsys.readouterr()
        code = main(["run", str(path), "--pool", "inline", "--json", *flags])
        captured = self._capsys.readouterr()
        self.last = json.loads(captured.out.splitlines()[-1])
        return code, captured.err


@pytest.fixture
def bench(tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> Workbench:
    return Workbench(tmp_path, checkpoint, capsys)


@pytest.fixture(autouse=True)
def _no_engine_is_loaded(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "disk" in request.node.name or "skip" in request.node.name:
        return

    def load(*_: object, **__: object) -> None:
        raise AssertionError("an engine was loaded for a job that cannot run")

    monkeypatch.setattr("wanflow.pool.inline.Replica", load)


def test_missing_manifest(bench: Workbench) -> None:
    bench.job["manifest"] = {"url": "nowhere.parquet"}
    code, words = bench.run()
    assert code == 4
    assert "nowhere.parquet" in words


def test_unreadable_manifest(bench: Workbench) -> None:
    (bench.folder / "broken.parquet").write_bytes(b"PAR1 this is no table PAR1")
    bench.job["manifest"] = {"url": "broken.parquet"}
    code, words = bench.run()
    assert code == 4
    assert "broken.parquet" in words


def test_wrong_column_type_is_one_error(bench: Workbench) -> None:
    """Twenty thousand rows of one wrong column are one mistake."""
    bench.rows = [{**ROWS[0], "variant_id": f"v{i}", "seed": b"\x00"} for i in range(50)]
    code, words = bench.run()
    assert code == 4
    assert words.count("seed") <= 3


def test_all_bad_rows_are_listed_at_once(bench: Workbench) -> None:
    """The marketing engineer mends the table once, not once a mistake."""
    bench.rows[0]["seed"] = -3
    bench.rows[1]["variant_id"] = "../../etc/x"
    bench.rows[2]["image"] = "no-such-image.png"
    code, words = bench.run()
    assert code == 4
    assert {row["row"] for row in bench.last["bad_rows"]} == {1, 2, 3}
    assert "row 1 (ann)" in words
    assert "negative" in words
    assert "no-such-image.png" in words


def test_an_output_that_no_clip_can_feed(bench: Workbench) -> None:
    """Every variant would lack that file, and every night's exit code would say that all is well."""
    bench.job["outputs"] = [*bench.job["outputs"], {"name": "story", "preset": "instagram-story"}]
    code, words = bench.run()
    assert code == 4
    assert "outputs: story needs 9x16, but clip.aspect is 1x1, for every row" in words


def test_a_layer_that_begins_after_the_clip_has_ended(bench: Workbench) -> None:
    """A row of the table shortens its clip: its headline would never be seen."""
    bench.job["layers"] = [{"text": {"value": "{{ headline }}", "start": 1.5}}]
    bench.rows = [row | {"seconds": seconds} for row, seconds in zip(ROWS, (2, 1, 2), strict=True)]
    code, words = bench.run()
    assert code == 4
    assert {row["row"] for row in bench.last["bad_rows"]} == {2}
    assert "layers.0.text.start: 1.5 s is not before the end of the clip (1.25 s)" in words


def test_no_row_is_asked_for(bench: Workbench) -> None:
    """``where`` that takes nothing is no error (a quiet night), but nobody should have to guess why nothing came."""
    code, _ = bench.run("--only", "segment = 'platinum'")
    assert code == 0
    assert "no row of the manifest is asked for" in bench.last["message"]


def test_duplicate_ids(bench: Workbench) -> None:
    bench.rows[1]["variant_id"] = "ann"
    code, words = bench.run()
    assert code == 4
    assert "row 2" in words
    assert "row 1" in words


@pytest.mark.parametrize("name", ["../x", "/etc/x", "x" * 300])
def test_unsafe_paths(bench: Workbench, name: str) -> None:
    bench.rows[0]["variant_id"] = name
    code, words = bench.run()
    assert code == 4
    assert "row 1" in words


def test_colliding_publish_paths(bench: Workbench) -> None:
    bench.job["publish"]["path"] = "{{ segment }}/{{ output }}.mp4"
    code, words = bench.run()
    assert code == 4
    assert "gold/square.mp4" in words


def test_template_of_a_missing_column(bench: Workbench) -> None:
    bench.job["layers"][1]["text"]["value"] = "{{ hedline }}"
    code, words = bench.run()
    assert code == 4
    assert "headline" in words, "it should be suggested"


def test_aspect_and_size_that_the_model_refuses(bench: Workbench) -> None:
    bench.job["clip"] = {"aspect": "1x1", "size": "65x65", "seconds": 0.5}
    code, words = bench.run()
    assert code == 4
    assert "65" in words


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "bomb"])
def test_bad_images(bench: Workbench, kind: str) -> None:
    path = bench.folder / "source.png"
    if kind == "text":
        path.write_text("this is no image")
    elif kind == "truncated":
        Image.effect_noise((200, 200), 50).save(path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "bomb":
        Image.new("1", (40_000, 40_000)).save(path)
    bench.rows[1]["image"] = "source.png"
    code, words = bench.run()
    assert code == 4
    assert "row 2 (bob)" in words
    assert "source.png" in words


def test_checkpoint_with_a_missing_file(bench: Workbench, tmp_path: Path) -> None:
    directory = make("pocket", tmp_path / "checkpoint")
    (directory / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    bench.job["engine"]["checkpoint"] = str(directory)
    code, words = bench.run()
    assert code == 4
    assert "diffusion_pytorch_model.safetensors" in words


def test_store_that_cannot_be_written(bench: Workbench) -> None:
    (bench.folder / "file").write_text("a file where a directory should be")
    bench.job["publish"]["url"] = "file/out"
    code, words = bench.run()
    assert code == 1
    assert "file/out" in words


def test_unknown_key_of_the_job(bench: Workbench) -> None:
    bench.job["publsh"] = bench.job.pop("publish")
    code, words = bench.run()
    assert code == 4
    assert "did you mean" in words.lower()
    assert "publish" in words


def test_skip_bad_rows_renders_the_rest(bench: Workbench) -> None:
    """Two customers with broken data do not cost the others their night."""
    bench.rows[0]["seed"] = -3
    code, _ = bench.run("--skip-bad-rows")
    assert code == 3
    assert bench.last["counts"]["published"] == 2
    assert bench.last["counts"]["failed"] == 1


@pytest.mark.parametrize("flags", [(), ("--skip-bad-rows",)])
def test_one_bad_number_of_a_csv_costs_its_row_alone_skip(bench: Workbench, flags: tuple[str, ...]) -> None:
    """A word in a column of numbers is found in its row, as in Parquet."""
    lines = ["variant_id;prompt;headline;image;segment;seed;priority"]
    lines += [
        f"{row['variant_id']};{row['prompt']};{row['headline']};;{row['segment']};5.0;{priority}"
        for row, priority in zip(ROWS, ("1.0", "high", ""), strict=True)
    ]
    (bench.folder / "rows.csv").write_text("\n".join(lines))
    bench.job["manifest"] = {"url": "rows.csv"}
    code, words = bench.run(*flags)
    reason = "priority: `high` is not a whole number"
    if not flags:
        assert code == 4
        assert f"row 2 (bob): {reason}" in words
        assert [bad["row"] for bad in bench.last["bad_rows"]] == [2]
        return
    assert code == 3
    assert bench.last["counts"]["published"] == 2
    (results,) = bench.folder.glob("out/.wanflow/runs/*/results.parquet")
    failed = [row for row in pq.read_table(results).to_pylist() if row["status"] == "failed"]
    assert [(row["row"], row["variant_id"], row["reason"]) for row in failed] == [(2, "bob", reason)]


def test_wrong_flag_is_exit_2() -> None:
    with pytest.raises(SystemExit) as end:
        main(["run", "job.yaml", "--no-such-flag"])
    assert end.value.code == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_disk_full_while_publishing_fails_the_variant_and_shows_nothing_half_made(
    bench: Workbench, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume of the deliverables is full after the first video, for longer than a run waits: a retry helps once
    somebody makes room."""
    monkeypatch.setattr("wanflow.driver.Policy", partial(Policy, backoff_s=0.01, max_backoff_s=0.02))
    monkeypatch.setattr("wanflow.driver.wait_out", partial(wait_out, 0.02))
    monkeypatch.setattr("wanflow.storage.outage.FIRST_ASK_S", 0.01)
    bench.job["publish"]["url"] = str(small_disk)
    bench.job["workspace"] = str(bench.folder / "workspace")
    code, _ = bench.run()
    assert code == 1
    assert "disk" in bench.last["message"]
    assert bench.last["counts"]["published"] >= 1
    assert bench.last["counts"]["failed"] >= 1
    whole = list(small_disk.glob("*/*.mp4"))
    assert len(whole) >= bench.last["counts"]["published"]
    bench.job["publish"]["url"] = str(bench.folder / "elsewhere")
    code, _ = bench.run()
    assert code == 0, "with room to write, everything is published, and nothing rendered again"
    assert bench.last["num_clips_rendered"] == 0
