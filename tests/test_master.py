"""The near-lossless master: what goes in comes out, colours are tagged, nothing half-made stays."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from wanflow import master
from wanflow.errors import RenderError
from wanflow.model import Cause

ROOT = Path(__file__).parents[1]


def _scene(height: int, width: int, num_frames: int) -> np.ndarray:
    """Smooth backdrop, a saturated disc with a hard edge that moves, a little noise: what generated ads look like."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    frames = []
    for i in range(num_frames):
        frame = np.stack(
            [
                128 + 90 * np.sin(x / 37 + i / 3) + 20 * np.cos(y / 11),
                120 + 80 * np.cos((x + y) / 53 - i / 5),
                100 + 100 * np.sin(y / 29 + i / 7) * np.cos(x / 71),
            ],
            axis=-1,
        )
        inside = np.clip(height / 5 - np.hypot(x - width * (0.2 + 0.02 * i), y - height / 2), 0, 1)[..., None]
        frame = frame * (1 - inside) + inside * np.array([230, 30, 40])
        frames.append((frame + rng.normal(0, 1.0, frame.shape)).clip(0, 255).round().astype(np.uint8))
    return np.stack(frames)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize(("height", "width"), [(160, 96), (97, 131)])
def test_what_goes_in_comes_out(height: int, width: int, tmp_path: Path) -> None:
    """Everything is assembled from the master: what it loses, every customer loses. Odd sizes are fine here."""
    scene = _scene(height, width, 9)
    path = tmp_path / "master.mp4"
    assert master.encode(iter([scene[:1], scene[1:5], scene[5:]]), 16, path) == 9
    decoded = np.stack(list(master.decode(path)))
    assert decoded.shape == scene.shape
    assert _psnr(scene, decoded) > 45
    assert np.abs((decoded.astype(float) - scene).mean(axis=(0, 1, 2))).max() < 0.3
    assert path.stat().st_size < scene.nbytes / 2


@pytest.mark.parametrize(
    "colour",
    [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (12, 200, 90), (128, 128, 128)],
)
def test_brand_colours_stay(colour: tuple[int, int, int], tmp_path: Path) -> None:
    """A logo's green read with the wrong matrix is another company's green."""
    flat = np.broadcast_to(np.array(colour, np.uint8), (2, 32, 48, 3)).copy()
    master.encode(iter([flat]), 16, tmp_path / "flat.mp4")
    for frame in master.decode(tmp_path / "flat.mp4"):
        assert np.abs(frame.astype(int) - np.array(colour)).max() <= 2


def test_the_file_says_how_its_colours_are_meant(tmp_path: Path) -> None:
    """Players and ffmpeg guess BT.601 for small pictures unless they are told."""
    path = tmp_path / "master.mp4"
    master.encode(iter([_scene(64, 96, 3)]), 23.976, path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.width, context.height, context.pix_fmt) == (96, 64, "yuv444p")
        # 1 is BT.709 in all three of H.264's tables; range 1 is limited
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (
            1,
            1,
            1,
            1,
        )
        assert stream.frames == 3
        assert float(stream.average_rate or 0) == pytest.approx(23.976, rel=1e-4)


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    """Nothing of the day or the machine is written into it."""
    scene = _scene(64, 96, 5)
    for name in ("a.mp4", "b.mp4"):
        master.encode(iter([scene]), 16, tmp_path / name)
    first, second = (
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.mp4", "b.mp4")
    )
    assert first == second


def test_what_lies_in_memory_does_not_change_the_file(tmp_path: Path) -> None:
    """An encoder that reads what nobody wrote gives another file on a busy machine than on an idle one."""
    code = (
        "import sys; from pathlib import Path; from tests.test_master import _scene; from wanflow import master\n"
        "master.encode(iter([_scene(64, 96, 5)]), 16, Path(sys.argv[1]))"
    )
    files = []
    for fill in ("0", "1", "85"):  # glibc fills with it what it hands out
        path = tmp_path / f"{fill}.mp4"
        environment = os.environ | {"MALLOC_PERTURB_": fill}
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=environment, cwd=ROOT)
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]


def test_a_decoder_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """A master that exists is whole."""

    def broken() -> Iterator[np.ndarray]:
        yield _scene(32, 48, 1)
        raise RenderError("the latents hold NaN", Cause.BAD_OUTPUT)

    with pytest.raises(RenderError, match="NaN"):
        master.encode(broken(), 16, tmp_path / "master.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [np.zeros((1, 32, 48, 3), np.float32)],
        [np.zeros((32, 48, 3), np.uint8)],
        [np.zeros((1, 32, 48, 3), np.uint8), np.zeros((1, 32, 32, 3), np.uint8)],
    ],
    ids=["no frames", "floats", "one frame", "another size"],
)
def test_frames_that_are_no_clip_are_bad_output(chunks: list[np.ndarray], tmp_path: Path) -> None:
    """An engine's mistake is told apart from a full disk."""
    with pytest.raises(RenderError) as raised:
        master.encode(iter(chunks), 16, tmp_path / "master.mp4")
    assert raised.value.cause is Cause.BAD_OUTPUT
    assert list(tmp_path.iterdir()) == []
