"""One engine a model family, behind one small protocol; torch is imported only when an engine is loaded.

``read_spec`` (torch-free) says what a checkpoint can do; ``load_engine`` loads its weights; ``generate``
makes a clip's base latents (``trunk`` those of its steps that other clips share), a method of ``cascade``
climbs from there with the engine's primitives, ``decode_pixels`` and ``frames`` give the picture in chunks. Latents
travel between stages as safetensors bytes. Engines know clips; they do not know jobs, rows, stores or Ray.

A new family is a module with ``load(spec, directory, device, num_threads)`` and a line in ``load_engine``.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from wanflow.engines.checkpoint import local_copy
from wanflow.engines.read_ahead import reading_ahead
from wanflow.engines.spec import check_frames, check_size, frames_for, parse_aspect, read_spec, size_for
from wanflow.engines.timesteps import branch_steps, high_noise_steps, last_steps
from wanflow.engines.unfinished import Keep, Unfinished, dump_unfinished, load_fitting, load_unfinished
from wanflow.errors import EngineError
from wanflow.model import Clip, EngineSpec, Loading, Lora

if TYPE_CHECKING:
    import numpy as np
    import torch

    #: normalised latents, (1, channels, frames, height, width), float32
    Latents = torch.Tensor
    #: pixels in -1..1, (1, 3, frames, height, width), float32
    Pixels = torch.Tensor

#: (stage name, step, of): called at each step; raises Cancelled to stop
OnStep = Callable[[str, int, int], None]

__all__ = [
    "Engine",
    "Keep",
    "OnStep",
    "Unfinished",
    "branch_steps",
    "check_fp8",
    "check_frames",
    "check_size",
    "dump_latents",
    "dump_unfinished",
    "frames_for",
    "high_noise_steps",
    "last_steps",
    "load_engine",
    "load_fitting",
    "load_latents",
    "load_unfinished",
    "parse_aspect",
    "read_spec",
    "size_for",
]


class Engine(Protocol):
    """What the pipeline asks of a model family. One clip at a time, and one call at a time, with one exception: while
    ``decodes_beside`` is true, ``frames`` of a clip may run in one thread beside any other call for the next clip in
    another, but for ``set_thrift``. Neither may change what the other gives, nor break it by failing.
    """

    spec: EngineSpec
    #: ``cpu``, ``cuda:0``
    device: str
    #: how it came by its weights; None where there was nothing to load
    loading: Loading | None

    @property
    def decodes_beside(self) -> bool:
        """Whether ``frames`` may run beside other calls, as things stand."""

    @property
    def swaps_experts(self) -> bool:
        """Whether the high-noise expert has to leave the device for the low-noise one to come, as things stand: then
        clips come in pairs, whose high-noise steps are taken before the low-noise ones of either.
        """

    def set_thrift(self, thrift: int) -> None:
        """How far to trade speed for memory from the next clip on: rungs down the memory ladder from the one that it
        was loaded for (``loading.rung``).

        Each rung computes the same numbers as the one above it. An engine with fewer rungs takes its last.
        """

    def set_prompts(self, prompts: Sequence[str]) -> None:
        """The prompts of all clips to come, as a hint: what encodes them may do so at one go, and leave the device."""

    def set_compile(self, wanted: bool | None) -> None:
        """Whether to compile what computes a step, in profiles other than ``exact``; None: on a GPU.

        The same numbers but for rounding. What cannot be compiled is computed without, with a warning in the log.
        """

    def set_loras(self, loras: Sequence[tuple[Lora, Path]]) -> None:
        """From now on render with these (files on this node), which are the ``loras`` of the clips to come.

        Called between clips only. RenderError (bad input) when one does not fit; then there are none.
        """

    def generate(
        self, clip: Clip, images: Sequence[bytes], on_step: OnStep, keep: Keep | None = None
    ) -> Latents:
        """Base latents of ``clip``. Calls ``on_step`` for the stages ``encode`` and ``denoise``, with step 0
        at a start, or the step that it goes on from.

        ``images`` are the files of ``clip.images``: none, that of the first frame, or those of the first and the last.
        A clip with a branch goes on from ``keep.start``, its trunk or later; without one its trunk is made first.
        A clip of a video always goes on from ``keep.start``, what ``begin`` gave or later.
        Raises RenderError (its cause says whether another try can help), and whatever ``on_step`` and ``keep`` raise.
        """

    def trunk(
        self, clip: Clip, images: Sequence[bytes], on_step: OnStep, keep: Keep | None = None
    ) -> Unfinished:
        """The first steps of a clip with a branch, denoised with the branch's prompt: where ``generate`` goes
        on from. Calls ``on_step`` for the stages ``encode`` and ``trunk``; raises as ``generate`` does.
        """

    def begin(self, clip: Clip, video: Iterator[Pixels]) -> Unfinished:
        """Where the steps of a clip of a video begin: its latents, with the noise of the first step. ``video`` comes
        in chunks, as ``encode_pixels`` takes it (``source_video``); where its latents are at hand, it is not asked.
        """

    def maker(self, clip: Clip) -> str:
        """:attr:`Unfinished.maker` of the steps of ``clip``, of whatever stage, that this engine can go on from."""

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
        """Re-noise ``latents`` (of any size on the grid) to ``strength`` and denoise them with the low-noise
        expert. They are not needed, and may be None, where ``keep.start`` has steps to go on from.
        """

    def decode_pixels(self, latents: Latents) -> Iterator[Pixels]:
        """The picture of ``latents`` in -1..1, (1, 3, frames, height, width), in chunks, each decoded when it is asked
        for; a clip is never held twice.
        """

    def frames(self, pixels: Iterator[Pixels]) -> Iterator[np.ndarray]:
        """``pixels`` as uint8 (frames, height, width, 3), on the host. They are asked for where decoding belongs."""

    def encode_pixels(self, chunks: Iterator[Pixels]) -> Latents:
        """Latents of a video that comes in the chunks in which ``decode_pixels`` gives it: 1 frame, then a
        stride each.
        """


def load_engine(spec: EngineSpec, *, device: str | None = None, num_threads: int | None = None) -> Engine:
    """Load the weights of ``spec``. ``device`` None: the GPU when there is one. ``num_threads``: of torch, on
    a CPU.

    A remote checkpoint is first copied to this node, once. Raises EngineError when it cannot be read, or is
    no longer the one that ``spec`` was read from.
    """
    if spec.family != "wan":
        raise EngineError(f"no engine drives the family {spec.family!r}; known: wan")
    began_s = time.perf_counter()
    # seconds of the processor, which a fetch hardly needs; no daemon: torch cannot be torn down in mid-import
    threading.Thread(target=_import_early).start()
    copy = local_copy(spec.url, spec.weights)
    fetched_s = time.perf_counter()
    try:
        # the loader takes them in this order
        parts = ("text_encoder", "vae", "transformer", "transformer_2", "image_encoder")
        files = [path for part in parts for path in sorted((copy.path / part).glob("*.safetensors"))]
        with reading_ahead(files):
            from wanflow.engines import wan

            imported_s = time.perf_counter()
            engine = wan.load(spec, copy.path, device, num_threads)
    except BaseException:
        copy.release()
        raise
    weakref.finalize(engine, copy.release)
    engine.loading = Loading(
        fetched_bytes=copy.fetched_bytes,
        fetch_s=round(fetched_s - began_s, 3),
        import_s=round(imported_s - fetched_s, 3),
        loaded_bytes=sum(path.stat().st_size for path in files),
        load_s=round(time.perf_counter() - imported_s, 3),
        rung=engine.rung,
    )
    return engine


def _import_early() -> None:
    with suppress(Exception):  # whoever needs it imports it again, and meets the same
        from wanflow.engines import wan  # noqa: F401


def check_fp8(device: str | None) -> None:
    """EngineError unless ``device`` (None: the GPU when there is one) can render clips in 8 bits."""
    from wanflow.engines.devices import default_device
    from wanflow.engines.fp8 import problem_of

    if problem := problem_of(device or default_device()):
        raise EngineError(problem)


def dump_latents(latents: Sequence[Latents]) -> bytes:
    """The latents of a clip's stages so far, the base's first, as safetensors bytes, float32."""
    from safetensors.torch import save

    arrays = [each.detach().float().cpu().contiguous() for each in latents]
    return save(dict(zip(_names(len(arrays)), arrays, strict=True)), {"format": "wanflow-latents-1"})


def load_latents(data: bytes) -> list[Latents]:
    """What ``dump_latents`` wrote, on the CPU; EngineError when the bytes are anything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        arrays = load(data)
        return [arrays[name] for name in _names(max(1, len(arrays)))]
    except (SafetensorError, KeyError) as error:
        raise EngineError(f"these bytes hold no latents ({error}); remove the file and run again") from error


def _names(num: int) -> list[str]:
    return ["latents", *(f"latents-{step}" for step in range(1, num))]
