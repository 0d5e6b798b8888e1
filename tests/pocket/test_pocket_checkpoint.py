"""The shipped checkpoint: small, loadable by diffusers as it is, and obedient."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import UMT5EncoderModel

from wanflow.pocket import CHECKPOINT
from wanflow.pocket.detect import detect
from wanflow.pocket.reading import read_words, tagged_caption
from wanflow.pocket.render import Renderer, sample_cases
from wanflow.pocket.scenes import sample_scene
from wanflow.pocket.text import build_tokenizer

pytestmark = pytest.mark.skipif(not CHECKPOINT.exists(), reason="no checkpoint in wanflow/pocket/checkpoint")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(CHECKPOINT)


def test_everything_fits_into_the_wheel() -> None:
    """A wheel of a hundred megabytes would not be installed for a try."""
    files = [p for p in CHECKPOINT.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 24_000_000
    assert all(p.stat().st_size < 16 * 2**20 for p in files)


def test_importing_pocket_loads_no_torch() -> None:
    """``wanflow --help`` must answer at once, and it may look up where the checkpoint lies."""
    code = "import sys, wanflow.pocket; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_diffusers_loads_and_renders_it_unchanged() -> None:
    """Pocket runs through exactly the code that Wan 2.2 runs through."""
    from diffusers import WanPipeline

    pipeline: Any = WanPipeline.from_pretrained(CHECKPOINT)
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(
        prompt="a large red circle moving left over white",
        height=64,
        width=96,
        num_frames=5,
        num_inference_steps=2,
        guidance_scale=4.0,
        guidance_scale_2=2.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert np.asarray(result.frames).shape == (1, 5, 64, 96, 3)
    assert pipeline.config.expand_timesteps
    assert 0 < pipeline.config.boundary_ratio < 1


def test_wanflow_json_agrees_with_the_spec(renderer: Renderer) -> None:
    """Defaults of a render come from the file beside the weights."""
    own = json.loads((CHECKPOINT / "wanflow.json").read_text())
    assert renderer.spec.num_frames == own["num_frames"] == 17
    assert (160, 96) in renderer.spec.sizes
    assert renderer.spec.sampling.steps <= 12


def test_held_out_prompts_are_obeyed(renderer: Renderer) -> None:
    """A few prompts for every change; the full two hundred carry the marker ``slow``."""
    cases = sample_cases(4, seed=21)
    seen = [detect(renderer.frames(renderer.latents(case))) for case in cases]
    for part in ("background", "colour"):
        right = sum(getattr(s, part) == getattr(c.scene, part) for s, c in zip(seen, cases, strict=True))
        assert right >= 3, part


def test_words_are_read_in_pairs_that_training_never_had() -> None:
    """What the encoder misreads no denoiser can draw: one that guessed by a word's company cost a third of the
    colours."""
    encoder = UMT5EncoderModel.from_pretrained(CHECKPOINT / "text_encoder", dtype=torch.float32)
    rng = random.Random(1)
    captions = [tagged_caption(sample_scene(rng, held_out=True), rng) for _ in range(200)]
    with torch.no_grad():
        scores, truth = read_words(build_tokenizer(), encoder, captions)
    assert float((scores.argmax(1) == truth).float().mean()) > 0.99


def test_same_seed_same_bytes(renderer: Renderer) -> None:
    """The key of a clip stands for its pixels."""
    case = sample_cases(1, seed=2)[0]
    assert torch.equal(renderer.latents(case), renderer.latents(case))


@pytest.mark.soak
def test_the_evaluation_runs_end_to_end(tmp_path: Path) -> None:
    """The table of the model card must be reproducible by one command; here with few prompts."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "wanflow.pocket.evaluate", "--prompts", "8", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout.strip().splitlines()[-1])
    assert {"text: colour", "image: motion", "vae: reconstruction", "speed: base clip"} <= {
        r["name"] for r in rows
    }
