"""Fakes for tests, ours and our users': a clock, an engine, a pool. Deterministic; they never sleep.

``FakeEngine`` draws flat moving colour instead of loading weights, so that a whole job can be tried in a second::

    from wanflow import Job, run
    from wanflow.testing import load_fake_engine

    outcome = run(job, inline=True, load_engine=load_fake_engine)

``FakePool`` is the world in virtual time for the scheduler, all from one seed: see ``fake_pool.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from wanflow.engines import Unfinished
from wanflow.engines.trunk import FromBranch
from wanflow.errors import RenderError
from wanflow.fake_faults import Faults
from wanflow.fake_pool import FakePool
from wanflow.model import Cause, Clip, EngineSpec, Loading, Lora

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from wanflow.engines import Keep, Latents, OnStep

__all__ = ["FakeEngine", "FakePool", "Faults", "load_fake_engine"]

# -- an engine -----------------------------------------------------------------------------------------------


class FakeEngine:
    """Follows the engine protocol; draws a colour that follows from the prompt and a band that moves.

    ``failures`` maps a part of a prompt to the cause that such clips fail with, every time.
    """

    def __init__(self, spec: EngineSpec, failures: Mapping[str, Cause] | None = None) -> None:
        self.spec = spec
        self.device = "fake"
        self.decodes_beside = True
        self.swaps_experts = False
        self.loading: Loading | None = None
        self.failures = dict(failures or {})
        #: prompts in the order in which they were rendered
        self.rendered: list[str] = []
        #: the same of trunks
        self.trunks: list[str] = []
        #: rung of the memory ladder
        self.thrift = 0
        #: as ``engine.compile`` of the job
        self.compile: bool | None = None
        #: of all clips, where they are few
        self.prompts: tuple[str, ...] = ()
        #: what clips are rendered with at the moment
        self.loras: tuple[Lora, ...] = ()

    def set_thrift(self, thrift: int) -> None:
        self.thrift = thrift

    def set_compile(self, wanted: bool | None) -> None:
        self.compile = wanted

    def set_prompts(self, prompts: Sequence[str]) -> None:
        self.prompts = tuple(prompts)

    def set_loras(self, loras: Sequence[tuple[Lora, Path]]) -> None:
        self.loras = tuple(lora for lora, _ in loras)

    def generate(
        self, clip: Clip, images: Sequence[bytes], on_step: OnStep, keep: Keep | None = None
    ) -> Latents:
        for part, cause in self.failures.items():
            if part in clip.prompt:
                raise RenderError(f"failed on purpose: {part!r} is in the prompt", cause)
        trunk = ""
        if clip.branch is not None:
            keep = FromBranch((keep and keep.start) or self.trunk(clip, images, on_step), keep)
            trunk = f" {clip.branch}"
        self._take_steps(clip, "denoise", clip.num_steps, on_step, keep)
        self.rendered.append(clip.prompt)
        sizes = " ".join(str(len(image)) for image in images)
        video = f" {clip.video}" if clip.video else ""
        colour = hashlib.sha256(f"{clip.prompt} {clip.seed} {sizes or 0}{trunk}{video}".encode()).digest()[:3]
        return _fake_latents(tuple(colour), clip.num_frames, clip.height // 8, clip.width // 8)

    def trunk(
        self, clip: Clip, images: Sequence[bytes], on_step: OnStep, keep: Keep | None = None
    ) -> Unfinished:
        assert clip.branch is not None
        self._take_steps(clip, "trunk", clip.branch.steps, on_step, keep)
        self.trunks.append(clip.branch.prompt)
        return _fake_state(clip.branch.steps, clip.sampling.steps, None)

    def begin(self, clip: Clip, video: Iterator[Any]) -> Unfinished:
        return _fake_state(0, clip.num_steps, self.encode_pixels(video))

    def maker(self, clip: Clip) -> str:
        return "fake"

    def refine(
        self,
        clip: Clip,
        latents: Latents | None,
        images: Sequence[bytes],
        *,
        strength: float,
        steps: int,
        noise_seed: int,
        on_step: OnStep,
        stage: str,
        keep: Keep | None = None,
    ) -> Latents:
        if latents is None:
            assert keep is not None
            assert keep.start is not None
            latents = keep.start.latents
        self._take_steps(clip, stage, steps, on_step, keep, latents)
        return latents

    def take_step(self, clip: Clip, stage: str, step: int) -> None:
        """The work of a step, counted from 1: nothing, at once. For engines that sleep, or fail half way."""

    def _take_steps(
        self,
        clip: Clip,
        stage: str,
        num_steps: int,
        on_step: OnStep,
        keep: Keep | None,
        latents: Latents | None = None,
    ) -> None:
        first = keep.start.step if keep and keep.start else 0
        on_step(stage, first, num_steps)
        for step in range(first + 1, num_steps + 1):
            self.take_step(clip, stage, step)
            if keep:
                of = clip.num_steps if stage == "trunk" else num_steps
                keep.offer(step, num_steps, partial(_fake_state, step, of, latents))
            on_step(stage, step, num_steps)

    def decode_pixels(self, latents: Latents) -> Iterator[Any]:
        for frame in range(latents.shape[2]):
            yield latents[:, :, frame : frame + 1].repeat_interleave(8, 3).repeat_interleave(8, 4)

    def frames(self, pixels: Iterator[Any]) -> Iterator[np.ndarray]:
        for chunk in pixels:
            yield ((chunk.numpy()[0].transpose(1, 2, 3, 0) + 1) * 127.5).round().astype("uint8")

    def encode_pixels(self, chunks: Iterator[Any]) -> Latents:
        import numpy as np

        return _tensor(np.concatenate([chunk.numpy()[:, :, :, ::8, ::8] for chunk in chunks], axis=2))


def load_fake_engine(
    spec: EngineSpec, device: str | None = None, num_threads: int | None = None
) -> FakeEngine:
    """A ``load_engine`` for ``run`` and the pools."""
    return FakeEngine(spec)


def _fake_state(step: int, num_steps: int, latents: Latents | None) -> Unfinished:
    kept = _fake_latents((0, 0, 0), 1, 1, 1) if latents is None else latents
    return Unfinished(step, num_steps, "fake", {"latents": kept})


def _fake_latents(colour: tuple[int, ...], num_frames: int, height: int, width: int) -> Latents:
    import numpy as np

    values = np.empty((1, 3, num_frames, height, width), np.float32)
    values[:] = np.array(colour, np.float32).reshape(1, 3, 1, 1, 1) / 127.5 - 1
    for frame in range(num_frames):
        values[:, :, frame, :, frame * width // num_frames] *= -1
    return _tensor(values)


def _tensor(values: np.ndarray) -> Latents:
    from safetensors.numpy import save

    from wanflow.engines import load_latents

    return load_latents(save({"latents": values}))[0]
