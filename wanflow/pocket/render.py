"""Rendering with the checkpoint through wanflow's own engine: what the evaluation and the contact sheet
measure and show."""

from __future__ import annotations

import hashlib
import io
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from wanflow import cascade
from wanflow.engines import load_engine, read_spec
from wanflow.model import CascadeStep, Clip, EngineSpec, Mode, Source
from wanflow.pocket.grammar import caption
from wanflow.pocket.scenes import Scene, draw, sample_scene

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """One prompt to render, the scene it stands for, and for image-to-video the drawn first frame."""

    scene: Scene
    prompt: str
    #: (height, width)
    size: tuple[int, int]
    seed: int
    image: bytes | None = None

    @property
    def images(self) -> tuple[bytes, ...]:
        """As the engine takes them."""
        return () if self.image is None else (self.image,)


class Renderer:
    """The engine with pocket's defaults."""

    def __init__(self, checkpoint: Path, num_threads: int | None = None) -> None:
        self.spec = read_spec(str(checkpoint))
        self.engine = load_engine(self.spec, num_threads=num_threads)

    def latents(self, case: Case) -> torch.Tensor:
        """Base latents of a case."""
        return self.engine.generate(clip_of(case, self.spec), case.images, _quiet)

    def frames(self, latents: torch.Tensor) -> Frames:
        """(frames, height, width, 3)."""
        return np.concatenate(list(self.engine.frames(self.engine.decode_pixels(latents))))

    def encoded(self, frames: Frames) -> torch.Tensor:
        """Latents of a clip, given to the engine as it likes them: one frame, then four at a time."""
        pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        starts = range(1, pixels.shape[2], 4)
        return self.engine.encode_pixels(iter([pixels[:, :, :1], *(pixels[:, :, i : i + 4] for i in starts)]))

    def refined(self, case: Case, latents: torch.Tensor, **given: float) -> Frames:
        """The frames at twice the size by the cascade's ``refine``."""
        step = cascade.check(CascadeStep("refine", tuple(given.items())), self.spec)
        clip = replace(clip_of(case, self.spec), cascade=(step,))
        both = cascade.apply(self.engine, clip, [latents], case.images, _quiet, "cascade-1")
        return np.concatenate(list(self.engine.frames(cascade.pixels(self.engine, clip, both))))


def clip_of(case: Case, spec: EngineSpec) -> Clip:
    """The base clip of a case with the checkpoint's defaults."""
    height, width = case.size
    return Clip(
        mode=Mode.I2V if case.image else Mode.T2V,
        weights=spec.weights,
        prompt=case.prompt,
        negative_prompt="",
        image=Source(url="first-frame.png", digest=hashlib.sha256(case.image).hexdigest())
        if case.image
        else None,
        seed=case.seed,
        width=width,
        height=height,
        num_frames=spec.num_frames,
        fps=spec.fps,
        sampling=spec.sampling,
    )


def _quiet(stage: str, step: int, of: int) -> None:
    """Nobody watches."""


def sample_cases(num: int, seed: int, *, images: bool = False) -> list[Case]:
    """Held-out scenes said in natural words, all in the three shapes."""
    rng = random.Random(f"cases {seed}")
    sizes = ((96, 160), (160, 96), (128, 128))
    cases = []
    for i in range(num):
        scene, size = sample_scene(rng, held_out=True), sizes[i % 3]
        image = first_frame(scene, size) if images else None
        cases.append(Case(scene, caption(scene, rng), size, seed=rng.randrange(2**31), image=image))
    return cases


def first_frame(scene: Scene, size: tuple[int, int]) -> bytes:
    """The drawn scene's first frame as PNG: what a user would hand to image-to-video."""
    return to_png(drawn_frames(scene, size)[0])


def drawn_frames(scene: Scene, size: tuple[int, int]) -> Frames:
    """The drawn truth (frames, height, width, 3)."""
    return (draw(scene, *size) * 255).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


def to_png(frame: npt.NDArray[Any]) -> bytes:
    """A frame's file."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()
