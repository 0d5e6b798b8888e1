"""``doctor`` against real parts: a real encode, real stores, a broken torch on the path."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch

from wanflow.doctor import Check, checks
from wanflow.engines import devices
from wanflow.engines.devices import DeviceFacts, Gpu
from wanflow.job import Job
from wanflow.memory_facts import memory_facts


def job(folder: Path, checkpoint: object = "pocket", **more: object) -> Job:
    return Job.from_dict(
        {
            "wanflow": 1,
            "name": "checked",
            "manifest": "rows.parquet",
            "engine": {"checkpoint": checkpoint},
            "publish": {"url": str(folder / "out"), "path": "{{ variant_id }}.mp4"},
            **more,
        },
        folder,
    )


def answers(job: Job | None = None) -> dict[str, Check]:
    return {check.name: check for check in checks(job)}


@pytest.fixture(scope="module")
def without_job() -> dict[str, Check]:
    return answers()


def test_a_machine_that_was_set_up_by_make_is_ready(without_job: dict[str, Check]) -> None:
    """The first thing support asks for; on a machine where the tests pass nothing may fail."""
    assert list(without_job) == ["python", "torch", "ffmpeg", "encode", "fonts", "ray", "checkpoint", "store"]
    assert {name: check for name, check in without_job.items() if check.status == "fail"} == {}


def test_what_is_not_ok_comes_with_what_to_do(without_job: dict[str, Check]) -> None:
    for check in without_job.values():
        assert check.found
        assert bool(check.todo) == (check.status != "ok"), check


def test_the_trial_encode_is_a_real_one(without_job: dict[str, Check]) -> None:
    """An ffmpeg that lists libass but cannot draw with it is found before the night, not in it."""
    assert without_job["encode"].found.startswith("24 frames of 128x128")


def test_doctor_starts_no_ray(without_job: dict[str, Check]) -> None:
    assert without_job["ray"].found.startswith(ray.__version__)
    assert not ray.is_initialized()


def test_a_jobs_own_stores_are_tried_and_left_clean(tmp_path: Path) -> None:
    found = answers(job(tmp_path, workspace=str(tmp_path / "work")))
    assert found["workspace"].status == "ok"
    assert found["publish.url"].status == "ok"
    assert "conditional writes" in found["publish.url"].found
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_store_that_cannot_be_written_fails_and_the_rest_is_still_asked(tmp_path: Path) -> None:
    """publish.url lies below a file: permission and quota errors look the same from here."""
    (tmp_path / "out").write_text("I am a file")
    found = answers(job(tmp_path, workspace=str(tmp_path / "work")))
    assert found["publish.url"].status == "fail"
    assert "out" in found["publish.url"].found
    assert found["workspace"].status == "ok"


def test_a_checkpoint_with_a_missing_file_is_named(tmp_path: Path) -> None:
    """Half-copied checkpoints are the usual reason for a bad first night."""
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    found = answers(job(tmp_path, {"t2v": "pocket", "i2v": str(tmp_path / "half")}))
    assert found["checkpoint t2v"].status == "ok"
    assert found["checkpoint i2v"].status == "fail"
    assert "half" in found["checkpoint i2v"].found


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("a14b_i2v", "(i2v, may have a last_image)"),
        ("wan21_flf2v", "(i2v, must have a last_image)"),
        ("wan21_i2v", "(i2v), "),
    ],
)
def test_what_a_checkpoint_starts_and_ends_at_is_told(tmp_path: Path, layout: str, words: str) -> None:
    """Which of three checkpoints for images takes a last frame is in no name."""
    from tests.checkpoints import make

    found = answers(job(tmp_path, {"i2v": str(make(layout, tmp_path / layout))}))
    assert f"tiny-{layout} {words}" in found["checkpoint"].found


def test_the_rung_on_which_a_replica_begins_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the card in the shop will do, and what it will do without, before it is bought."""
    from tests.checkpoints import make

    path = str(make("a14b_t2v", tmp_path / "tiny"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check = answers(job(tmp_path, {"t2v": path, "i2v": "pocket"}))["memory t2v"]
    assert check.status == "ok"
    assert re.match(
        r"transformer [\d.]+ MB, transformer_2 [\d.]+ MB, vae .*, text_encoder [\d.]+ MB\. 32x32, ",
        check.found,
    )
    assert (
        "32x64, 5 frames, about 288 MB to compute with: rung 0 on 24 GB, 48 GB, 80 GB, 141 GB; a clip's end beside the "
        "next one's steps (290 MB in all) on 24 GB, 48 GB, 80 GB, 141 GB." in check.found
    )
    assert check.found.endswith(" rung 0: everything stays on the GPU")


def test_a_gpu_without_room_for_two_clips_at_once_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything stays on it, and each clip is decoded before the next one's steps: pocket wants 320 MB, and 355."""
    for free_bytes, names in ((330 * 10**6, "none"), (360 * 10**6, "Tiny GPU, 360 MB free")):
        free = Gpu("Tiny GPU", 10**9, free_bytes, bf16=True)
        monkeypatch.setattr(
            devices, "device_facts", lambda free=free: DeviceFacts("2.13", "13.0", (free,), 1)
        )
        found = answers(job(tmp_path))["memory"].found
        assert "rung 0 on Tiny GPU" in found
        assert f"beside the next one's steps (355 MB in all) on {names}." in found


def test_a_gpu_on_which_nothing_helps_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better than a night of clips that fail at the last rung."""
    free = Gpu("Tiny GPU", 10**9, 10**8, bf16=True)
    monkeypatch.setattr(devices, "device_facts", lambda: DeviceFacts("2.13", "13.0", (free,), 1))
    check = answers(job(tmp_path))["memory"]
    assert check.status == "warn"
    assert "rung 2 on Tiny GPU, 100 MB free. rung 2: what works is on the GPU, one component" in check.found
    assert re.search(r"at a time, and [\d.]+ MB in the host's memory$", check.found)
    assert re.search(
        r"clips of \d+x\d+, \d+ frames want \d+ MB of the GPU at once, whatever is moved", check.todo
    )
    monkeypatch.setattr(os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 4000)
    assert re.search(
        r"a replica keeps [\d.]+ MB in the host's memory, which has 16.4 MB", memory_facts("pocket")[1]
    )


def test_torch_that_cannot_be_loaded_is_told_and_the_rest_is_still_asked(tmp_path: Path) -> None:
    """A CUDA build on a machine without its libraries raises OSError at import: an answer, not a traceback."""
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    code = "from wanflow.doctor import checks\nfor c in checks(): print(c.name, c.status, c.found, sep='|')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines()]
    torch = next(line for line in lines if line[0] == "torch")
    assert torch[1] == "fail"
    assert "libcudart.so.13" in torch[2]
    assert {line[0]: line[1] for line in lines}["encode"] == "ok"


def test_a_jobs_profile_is_told_with_what_this_machine_has_for_it(tmp_path: Path) -> None:
    """What changes pixels, and what only changes how long they take, in one line."""
    from tests.inputs.test_profiles import lora_bytes

    (tmp_path / "ink.safetensors").write_bytes(lora_bytes(width=192))
    engine = {"checkpoint": "pocket", "profile": "fast", "fast": {"guidance_until": 0.5, "cache_low": 0.1}}
    lora = [{"url": "ink.safetensors", "scale": 0.8, "expert": "low"}, {"url": "{{ style }}"}]
    found = answers(job(tmp_path, engine=engine, clip={"lora": lora}))["profile"]
    assert found.status == "ok", found
    assert "fast, 12 steps, guidance until 0.5 of them, step cache 0.08 and 0.1" in found.found
    assert "attention by " in found.found
    assert "blocks as they are" in found.found or torch.cuda.is_available()
    assert "8 bits: " in found.found
    assert "LoRA ink.safetensors (" in found.found
    assert ") at 0.8 for low; 1 LoRA(s) by row" in found.found
    compiled = answers(job(tmp_path, engine=engine | {"compile": True}))["profile"]
    taylor = engine | {"fast": {"taylor_low": 3, "batch_guidance": True}}
    told = answers(job(tmp_path, engine=taylor))["profile"].found
    assert (
        "guidance until 0.6 of them with both branches in one forward, step cache 0.08 and taylor 3" in told
    )
    assert re.search(r"blocks (compiled, kept in /|as they are: no C compiler)", compiled.found)


def test_a_profile_that_cannot_be_had_fails_before_the_night(tmp_path: Path) -> None:
    """No distilled weights, a LoRA of another model, 8 bits without a GPU: each with what to do."""
    from tests.inputs.test_profiles import lora_bytes

    def found(**sections: object) -> Check:
        return answers(job(tmp_path, **sections))["profile"]

    turbo = found(engine={"checkpoint": "pocket", "profile": "turbo"})
    assert turbo.status == "fail"
    assert "set engine.turbo to" in turbo.found
    (tmp_path / "other.safetensors").write_bytes(lora_bytes(width=5120))
    other = found(clip={"lora": [{"url": "other.safetensors"}]})
    assert other.status == "fail"
    assert "is made for a model of another size" in other.found
    if not torch.cuda.is_available():
        fp8 = found(engine={"checkpoint": "pocket", "profile": "fast", "fast": {"fp8": True}})
        assert fp8.status == "fail"
        assert "engine.fast.fp8 needs a GPU" in fp8.found
