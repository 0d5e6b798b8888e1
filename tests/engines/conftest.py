from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.checkpoints import make
from wanflow.engines import Engine, load_engine, read_spec
from wanflow.model import Clip, Mode, Sampling, Source


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a tiny checkpoint by layout, made once a session."""
    made: dict[str, Path] = {}

    def get(layout: str) -> Path:
        if layout not in made:
            made[layout] = make(layout, tmp_path_factory.mktemp(layout))
        return made[layout]

    return get


@pytest.fixture(scope="session")
def engine(checkpoint: Callable[[str], Path]) -> Callable[[str], Engine]:
    """A loaded engine by layout, once a session."""
    loaded: dict[str, Engine] = {}

    def get(layout: str) -> Engine:
        if layout not in loaded:
            loaded[layout] = load_engine(read_spec(str(checkpoint(layout))), device="cpu", num_threads=1)
        return loaded[layout]

    return get


@pytest.fixture(scope="session")
def image() -> bytes:
    """A PNG of 48x40: smooth colours, so that cropping and scaling are well defined."""
    y, x = np.mgrid[0:40, 0:48] / 47.0
    return _png(np.stack([x, y, 0.5 + 0.5 * np.sin(6 * x * y)], axis=-1))


@pytest.fixture(scope="session")
def last_image() -> bytes:
    """Another one, of 40x48."""
    y, x = np.mgrid[0:48, 0:40] / 47.0
    return _png(np.stack([1 - x, 0.5 + 0.5 * np.cos(5 * y), x * y], axis=-1))


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((array * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_clip(
    engine: Engine,
    mode: Mode,
    sampling: Sampling | None = None,
    size: tuple[int, int] = (48, 32),
    has_last: bool = False,
) -> Clip:
    """A five-frame clip of ``engine``'s own weights."""
    return Clip(
        mode=mode,
        weights=engine.spec.weights,
        prompt="a red ball on  green grass &amp; sand",
        negative_prompt="blurry",
        image=Source("image.png", "0" * 64) if mode is Mode.I2V else None,
        seed=7,
        width=size[0],
        height=size[1],
        num_frames=5,
        fps=engine.spec.fps,
        sampling=sampling or engine.spec.sampling,
        last_image=Source("last.png", "1" * 64) if has_last else None,
    )


def given(*images: bytes | None) -> tuple[bytes, ...]:
    """The files that there are, as an engine takes them."""
    return tuple(image for image in images if image is not None)


def silent(stage: str, step: int, of: int) -> None:
    """An ``on_step`` that does nothing."""
