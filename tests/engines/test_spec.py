"""What a checkpoint says about itself, and what follows for sizes and lengths."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wanflow.engines import families
from wanflow.engines.spec import check_frames, check_size, frames_for, read_spec, size_for
from wanflow.errors import EngineError
from wanflow.model import EngineSpec, LastImage, Mode

# the parts of the published checkpoints' configurations that tell them apart
_14B = {
    "num_layers": 40,
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
}
_5B = {
    "num_layers": 30,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "in_channels": 48,
    "out_channels": 48,
}
_1_3B = {
    "num_layers": 30,
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
}

#: those whose clips may, or must, have a last frame given
_LAST = {"wan2.2-i2v-a14b": LastImage.MAY, "wan2.1-flf2v-14b-720p": LastImage.MUST}
_I2V = _14B | {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
#: what converted checkpoints say in their scheduler; that of I2V-720P is its own
_SHIFT = {"flow_shift": 3.0}
_SHIFTS = {"wan2.1-i2v-14b-720p": {"flow_shift": 5.0}}

PUBLISHED = [
    ("wan2.2-t2v-a14b", {"boundary_ratio": 0.875}, _14B, (16, 81, 40, 12.0, 4.0, 3.0), "t2v"),
    (
        "wan2.2-i2v-a14b",
        {"boundary_ratio": 0.9},
        _14B | {"in_channels": 36},
        (16, 81, 40, 5.0, 3.5, 3.5),
        "i2v",
    ),
    ("wan2.2-ti2v-5b", {"expand_timesteps": True}, _5B, (24, 121, 50, 5.0, 5.0, None), "t2v i2v"),
    ("wan2.1-t2v-14b", {}, _14B, (16, 81, 50, 5.0, 5.0, None), "t2v"),
    ("wan2.1-t2v-1.3b", {}, _1_3B, (16, 81, 50, 8.0, 6.0, None), "t2v"),
    ("wan2.1-i2v-14b-480p", {}, _I2V, (16, 81, 40, 3.0, 5.0, None), "i2v"),
    ("wan2.1-i2v-14b-720p", {}, _I2V, (16, 81, 40, 5.0, 5.0, None), "i2v"),
    (
        "wan2.1-flf2v-14b-720p",
        {},
        _I2V | {"pos_embed_seq_len": 514},
        (16, 81, 50, 16.0, 5.0, None),
        "i2v",
    ),
]


@pytest.mark.parametrize(("name", "index", "transformer", "numbers", "modes"), PUBLISHED)
def test_published_models_get_their_own_defaults(
    name: str, index: dict[str, Any], transformer: dict[str, Any], numbers: tuple[Any, ...], modes: str
) -> None:
    """Converted checkpoints say flow shift 3.0 in their scheduler; rendering with that makes flat, soft clips."""
    found, can, known = families.recognise(index, transformer, _SHIFTS.get(name, _SHIFT))
    assert (found.name, known) == (name, True)
    assert (
        found.fps, found.num_frames, found.steps, found.flow_shift, found.guidance, found.guidance_low
    ) == numbers  # fmt: skip
    assert can == {Mode(mode) for mode in modes.split()}
    assert found.last_image is _LAST.get(name, LastImage.NEVER)


@pytest.mark.parametrize(("name", "index", "transformer", "numbers", "modes"), PUBLISHED)
def test_the_readme_says_what_each_model_was_made_for(
    name: str, index: dict[str, Any], transformer: dict[str, Any], numbers: tuple[Any, ...], modes: str
) -> None:
    """Who chooses a checkpoint by the table gets what it says."""
    found, _, _ = families.recognise(index, transformer, _SHIFTS.get(name, _SHIFT))
    starts = modes.replace("t2v", "text").replace("i2v", "image").replace(" ", ", ")
    sizes = ", ".join(f"{w}x{h}" for w, h in found.sizes if w > h)
    guidance = ", ".join(f"{g:g}" for g in (found.guidance, found.guidance_low) if g is not None)
    row = (
        f"| `{name}` | {starts} | {found.last_image} | {sizes} | {found.num_frames}, {found.fps:g} "
        f"| {found.steps} | {found.flow_shift:g} | {guidance} |"
    )
    assert row in (Path(__file__).parents[2] / "README.md").read_text().splitlines()


def test_an_unknown_layout_is_refused_in_words() -> None:
    """Better no render than one that ignores what the model was made to look at."""
    with pytest.raises(EngineError, match="neither text-to-video"):
        families.recognise({}, _14B | {"in_channels": 20, "image_dim": 1280}, _SHIFT)


@pytest.mark.parametrize(
    ("layout", "modes", "grid", "boundary"),
    [
        ("pocket", {Mode.T2V, Mode.I2V}, 16, 0.9),
        ("ti2v_5b", {Mode.T2V, Mode.I2V}, 32, None),
        ("a14b_t2v", {Mode.T2V}, 16, 0.875),
        ("a14b_i2v", {Mode.I2V}, 16, 0.9),
        ("wan21_i2v", {Mode.I2V}, 16, None),
    ],
)
def test_spec_follows_from_the_checkpoints_own_files(
    layout: str, modes: set[Mode], grid: int, boundary: float | None, checkpoint: Callable[[str], Path]
) -> None:
    """A job says aspect and seconds; everything else it needs is read from the checkpoint."""
    spec = read_spec(str(checkpoint(layout)))
    assert (spec.modes, spec.grid, spec.sampling.boundary) == (modes, grid, boundary)
    assert (spec.name, spec.fps, spec.num_frames, spec.sampling.steps) == (f"tiny-{layout}", 4.0, 5, 2)


def test_wanflow_json_overrides_single_defaults(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A fine-tune made for eight frames a second says so once, beside its weights."""
    copy = shutil.copytree(checkpoint("a14b_t2v"), tmp_path / "mine")
    (copy / "wanflow.json").write_text(
        json.dumps({"fps": 8, "guidance": {"low": 1.5}, "refine": {"steps": 6}})
    )
    spec = read_spec(str(copy))
    assert (spec.name, spec.fps, spec.num_frames) == ("mine", 8.0, 81)
    assert (spec.sampling.guidance, spec.sampling.guidance_low) == (4.0, 1.5)
    assert dict(spec.hints)["refine_steps"] == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"flowshift": 3}', "did you mean flow_shift"),
        ('{"steps": "many"}', "wrong type"),
        ('{"sizes": {"16x9": [96, 160]}}', "wrong type"),
        ('{"scheduler": "ddim"}', "unipc, euler"),
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
    ],
)
def test_a_wrong_wanflow_json_is_an_error_that_names_it(
    text: str, words: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """A typing error must not silently render with other numbers than the author meant."""
    copy = shutil.copytree(checkpoint("pocket"), tmp_path / "mine")
    (copy / "wanflow.json").write_text(text)
    with pytest.raises(EngineError, match=words) as raised:
        read_spec(str(copy))
    assert "wanflow.json" in str(raised.value)


def _model(name: str) -> EngineSpec:
    """A published model's spec without its weights."""
    index, transformer = next((i, t) for n, i, t, _, _ in PUBLISHED if n == name)
    found, modes, _ = families.recognise(index, transformer, _SHIFTS.get(name, _SHIFT))
    from wanflow.model import Sampling

    return EngineSpec(
        url=name, family="wan", name=name, weights="0", modes=modes, fps=found.fps,
        grid=32 if "5b" in name else 16, frame_stride=4, sizes=found.sizes, num_frames=found.num_frames,
        sampling=Sampling(found.steps, found.guidance, found.guidance_low, found.flow_shift, "unipc", None),
        hints=(("max_positions", 1024),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "aspect", "size"),
    [
        ("wan2.2-t2v-a14b", "16x9", (832, 480)),
        ("wan2.2-t2v-a14b", "9x16", (480, 832)),
        ("wan2.2-t2v-a14b", "1x1", (624, 624)),
        ("wan2.2-t2v-a14b", "4x5", (560, 704)),
        ("wan2.1-i2v-14b-480p", "16x9", (832, 480)),
        ("wan2.1-i2v-14b-720p", "16x9", (1280, 720)),
        ("wan2.2-ti2v-5b", "16x9", (1280, 704)),
        ("wan2.2-ti2v-5b", "9x16", (704, 1280)),
        ("wan2.2-ti2v-5b", "4x5", (832, 1056)),
    ],
)
def test_an_aspect_becomes_the_models_own_size_or_its_area_on_the_grid(
    name: str, aspect: str, size: tuple[int, int]
) -> None:
    """The same job runs on every family: 9x16 is whatever upright size the model was made for."""
    spec = _model(name)
    assert size_for(spec, aspect) == size
    check_size(spec, *size)


@pytest.mark.parametrize("aspect", ["16:9", "9", "0x4", "1x9", "x", "9x16 "])
def test_a_wrong_aspect_is_refused(aspect: str) -> None:
    """16:9 is a number in some YAML readers; it is written 16x9."""
    with pytest.raises(EngineError, match="aspect"):
        size_for(_model("wan2.2-t2v-a14b"), aspect)


@pytest.mark.parametrize(
    ("name", "seconds", "frames"),
    [
        ("wan2.2-t2v-a14b", 5, 81),
        ("wan2.2-t2v-a14b", 2, 33),
        ("wan2.2-ti2v-5b", 5, 121),
        ("wan2.2-t2v-a14b", 0.01, 5),
    ],
)
def test_seconds_become_the_nearest_frames_that_the_model_makes(
    name: str, seconds: float, frames: int
) -> None:
    """Wan's autoencoder folds four frames into one, after the first: 4k+1 frames exist, nothing between."""
    assert frames_for(_model(name), seconds) == frames


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 10_000])
def test_impossible_lengths_are_refused(seconds: float) -> None:
    """A column of milliseconds read as seconds must not order a clip of hours."""
    with pytest.raises(EngineError):
        frames_for(_model("wan2.2-t2v-a14b"), seconds)


def test_sizes_and_frames_off_the_grid_are_refused_with_the_nearest_ones() -> None:
    """The message says what to write instead."""
    spec = _model("wan2.2-ti2v-5b")
    with pytest.raises(EngineError, match="Nearest: 1280x704"):
        check_size(spec, 1280, 720)
    with pytest.raises(EngineError, match="Nearest: 117 or 121"):
        check_frames(spec, 120)
    with pytest.raises(EngineError, match="too large"):
        check_size(spec, 32 * 2000, 704)
    with pytest.raises(EngineError):
        check_size(spec, 0, 704)
    check_frames(spec, 1)


def test_clips_beyond_the_models_positions_are_refused(checkpoint: Callable[[str], Path]) -> None:
    """Rotary positions are a table: past its end the transformer would fail in the middle of the night."""
    spec = read_spec(str(checkpoint("pocket")))
    check_frames(spec, 4 * 63 + 1)
    with pytest.raises(EngineError, match="too many"):
        check_frames(spec, 4 * 64 + 1)
    with pytest.raises(EngineError, match="too large"):
        check_size(replace(spec, grid=16), 16 * 65, 16)


def test_planning_with_a_checkpoint_loads_no_torch(checkpoint: Callable[[str], Path]) -> None:
    """An unchanged nightly job answers in seconds; importing torch alone would take longer."""
    code = (
        "import sys\n"
        "import wanflow.cascade, wanflow.master\n"
        "from wanflow.engines import read_spec, size_for\n"
        "from wanflow.model import CascadeStep\n"
        f"spec = read_spec({str(checkpoint('pocket'))!r})\n"
        "size_for(spec, '9x16'); wanflow.cascade.check(CascadeStep('refine'), spec)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'safetensors', 'numpy', 'av', 'fsspec'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
