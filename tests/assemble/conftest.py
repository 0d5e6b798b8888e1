"""What the assembly tests share: masters made by wanflow's own encoder, pictures, and variants over them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from wanflow import master
from wanflow.assemble import Finished, assemble, presets
from wanflow.model import Clip, Layer, Mode, Output, OutputFile, Sampling, Scene, Source, Variant

Frames = np.ndarray[Any, Any]
SAMPLING = Sampling(
    steps=1, guidance=1.0, guidance_low=None, flow_shift=1.0, scheduler="unipc", boundary=None
)
NUM_FRAMES, FPS = 9, 8.0
GRAY = (90, 100, 110)


def moving(width: int, height: int, num_frames: int = NUM_FRAMES) -> Frames:
    """A dark picture with a bright bar that crosses it: (frames, height, width, 3)."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8) + np.array(GRAY, np.uint8)
    for i in range(num_frames):
        left = round(i * (width - 16) / num_frames)
        frames[i, :, left : left + 16] = (210, 200, 120)
    return frames


def still(width: int, height: int, colour: Sequence[int] = GRAY, num_frames: int = NUM_FRAMES) -> Frames:
    return np.zeros((num_frames, height, width, 3), np.uint8) + np.array(colour, np.uint8)


def write_master(path: Path, frames: Frames, fps: float = FPS) -> Path:
    master.encode(iter([frames]), fps, path)
    return path


def read_frames(path: Path) -> Frames:
    """Every frame of a video as RGB: (frames, height, width, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@dataclass
class Studio:
    """Makes masters and sources in a folder and assembles variants over them."""

    folder: Path
    masters: dict[str, Path] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)

    def film(self, key: str, frames: Frames, fps: float = FPS) -> str:
        self.masters[key] = write_master(self.folder / f"{key}.mp4", frames, fps)
        return key

    def picture(self, name: str, image: Image.Image, **how: Any) -> Source:
        image.save(self.folder / name, **how)
        return self.file(self.folder / name)

    def file(self, path: Path) -> Source:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.sources[digest] = path
        return Source(str(path), digest)

    def make(
        self, layers: Sequence[Layer], output: Output, keys: Sequence[str] = ("m",), name: str = "out"
    ) -> dict[str, Path]:
        return self.finish(layers, output, keys, name).files

    def finish(
        self, layers: Sequence[Layer], output: Output, keys: Sequence[str] = ("m",), name: str = "out"
    ) -> Finished:
        scenes = tuple(Scene(((output.aspect, self.clip(key)),), tuple(layers)) for key in keys)
        file = OutputFile(output, "v.mp4", "key", tuple(keys))
        variant = Variant("anna", 1, scenes, ((output, "v.mp4"),))
        return assemble(variant, file, self.masters, self.sources, self.folder / name)

    def clip(self, key: str) -> Clip:
        with av.open(str(self.masters[key])) as container:
            stream = container.streams.video[0]
            size, fps, frames = (
                (stream.width, stream.height),
                float(stream.average_rate or FPS),
                stream.frames,
            )
        return Clip(Mode.T2V, "w", "p", "", None, 0, *size, frames, fps, SAMPLING)


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    made = Studio(tmp_path)
    made.film("m", moving(72, 128))
    return made


@pytest.fixture
def story() -> Output:
    """A small story: 270x480, so that a test costs a fraction of a second."""
    return presets.resolve("instagram-story", "story", height=480, fps=8)
