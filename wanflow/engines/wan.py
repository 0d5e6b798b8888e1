"""The engine for Wan 2.1 and 2.2: diffusers' own components around our denoise loop.

Owns the loaded weights of one checkpoint on one device: both experts, the text encoder, the VAE, and CLIP's image
encoder where the experts look at its features. The transformers and the text encoder run in bf16 on a GPU and in
float32 on a CPU; the VAE and the image encoder always in float32, as diffusers' examples load them. It does what the
pipelines cannot: text cached by prompt, noise from the clip's seed whatever the device, progress and a way to stop at
each step, a low-noise refine, frames that leave the decoder as they are made.

Every component is on the device (an A14B checkpoint takes about 70 GB in bf16) where there is room for that when it is
loaded; else they come while they work (``footprint`` chooses, ``residence`` moves). Limits: one clip's steps at a
time; two replicas that share a GPU, and load at the same time, both count on what is free of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionModel, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from wanflow.engines import footprint
from wanflow.engines.attention import Context
from wanflow.engines.backends import use_backend
from wanflow.engines.checkpoint import LocalFiles
from wanflow.engines.compiled import CompiledBlocks
from wanflow.engines.denoise import Condition, add_noise, denoise, draw_noise, make_schedule
from wanflow.engines.devices import default_device, free_bytes
from wanflow.engines.encoded import Encoded
from wanflow.engines.fp8 import problem_of, quantize
from wanflow.engines.image_features import ImageEncoder
from wanflow.engines.lora import LoraSlots
from wanflow.engines.memory_errors import MemoryErrors, let_go
from wanflow.engines.picture import open_cover, to_pixels
from wanflow.engines.profiles import is_compiled
from wanflow.engines.prompts import prompts_of
from wanflow.engines.residence import Residence
from wanflow.engines.spec import check_last_image
from wanflow.engines.step_cache import StepCache
from wanflow.engines.text import TextEncoder
from wanflow.engines.trunk import BranchReached, FromBranch, ToBranch
from wanflow.engines.unfinished import maker_of, take
from wanflow.engines.video import VideoCoder
from wanflow.errors import EngineError, RenderError
from wanflow.model import Cause, Clip, EngineSpec, Loading, Lora, Mode

if TYPE_CHECKING:
    import numpy as np

    from wanflow.engines import OnStep
    from wanflow.engines.unfinished import Keep, Unfinished


def load(
    spec: EngineSpec,
    directory: Path,
    device: str | None,
    num_threads: int | None,
    room_bytes: int | None = None,
) -> WanEngine:
    """Load every component of the checkpoint in ``directory``. EngineError says what is wrong with it.

    ``room_bytes``: of the device, for weights and all that is computed; None: what is free of it.
    """
    device = device or default_device()
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EngineError(
            f"device {device} was asked for, but torch sees no GPU here: check the driver and torch's build"
        )
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    if room_bytes is None:
        room_bytes = free_bytes(device)
    rung, has_room_for_two, expert_stays = 0, True, False
    if room_bytes is not None:
        parts = footprint.read_parts(LocalFiles(directory), spec)
        rung = footprint.choose_rung(parts, room_bytes)
        has_room_for_two = footprint.needed_bytes_of_two(parts) <= room_bytes
        expert_stays = footprint.needed_bytes_beside_expert(parts) <= room_bytes
    while True:
        try:
            return _load_on(rung, spec, directory, device, has_room_for_two, expert_stays)
        except torch.OutOfMemoryError as error:  # somebody else took of it meanwhile
            words = let_go(error)
        if rung >= footprint.ONE_AT_A_TIME:
            raise EngineError(f"checkpoint {spec.name} ({directory}) cannot be loaded: {words}")
        rung += 1


def _load_on(
    rung: int,
    spec: EngineSpec,
    directory: Path,
    device: str,
    has_room_for_two: bool = True,
    expert_stays: bool = False,
) -> WanEngine:
    """With its components where that rung of the memory ladder has them."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    index = json.loads((directory / "model_index.json").read_text())
    scheduler = directory / "scheduler" / "scheduler_config.json"
    helpers_at = {"": device if rung == 0 else "cpu"}
    experts_at = {"": device if rung < footprint.ONE_AT_A_TIME else "cpu"}
    try:
        # each weight goes from the mapped file to the device: the host holds no copy, and on a CPU whose precision is
        # the file's, replicas share the pages
        text = UMT5EncoderModel.from_pretrained(
            directory / "text_encoder", dtype=dtype, device_map=helpers_at, use_safetensors=True
        )
        vae = AutoencoderKLWan.from_pretrained(directory / "vae", device_map=helpers_at, use_safetensors=True)
        experts = [
            WanTransformer3DModel.from_pretrained(
                directory / name, dtype=dtype, device_map=experts_at, use_safetensors=True
            )
            for name in ("transformer", "transformer_2")
            if (index.get(name) or [None, None])[1]
        ]
        tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer")
        images = _load_images(directory, helpers_at) if experts[0].config.image_dim is not None else None
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise EngineError(f"checkpoint {spec.name} ({directory}) cannot be loaded: {error}") from error
    return WanEngine(
        spec=spec,
        device=device,
        text=TextEncoder(tokenizer, text.eval(), dtype, device),
        experts=[expert.eval() for expert in experts],
        vae=vae.eval(),
        images=images,
        expand_timesteps=bool(index.get("expand_timesteps")),
        scheduler_config=json.loads(scheduler.read_text()) if scheduler.is_file() else {},
        rung=rung,
        has_room_for_two=has_room_for_two,
        expert_stays=expert_stays,
    )


def _load_images(directory: Path, at: dict[str, str]) -> ImageEncoder:
    model = CLIPVisionModel.from_pretrained(
        directory / "image_encoder", dtype=torch.float32, device_map=at, use_safetensors=True
    )
    # by name: which processor transformers takes by itself, and so the pixels, depends on whether torchvision is there
    processor = CLIPImageProcessorPil.from_pretrained(directory / "image_processor")
    return ImageEncoder(processor, model.eval())


class WanEngine:
    """See :class:`wanflow.engines.Engine` for what its methods promise."""

    def __init__(
        self,
        *,
        spec: EngineSpec,
        device: str,
        text: TextEncoder,
        experts: list[Any],
        vae: Any,
        images: ImageEncoder | None,
        expand_timesteps: bool,
        scheduler_config: dict[str, Any],
        rung: int = 0,
        has_room_for_two: bool = True,
        expert_stays: bool = False,
    ) -> None:
        self.spec, self.device = spec, device
        self.loading: Loading | None = None
        #: of the memory ladder, on which it begins
        self.rung = rung
        self._has_room_for_two = has_room_for_two
        self._text, self._experts, self._vae, self._video = text, experts, vae, VideoCoder(vae, device)
        self._images = images
        helpers = [text.model, vae, *([images.model] if images else [])]
        self._residence = Residence(helpers, experts, device, first=rung, expert_stays=expert_stays)
        self._memory_errors = MemoryErrors(self._residence.recover)
        self._expand_timesteps, self._scheduler_config = expand_timesteps, scheduler_config
        self._compile: bool | None = None
        # before anything else is hung on the blocks: that stays outside of the graph
        self._blocks = CompiledBlocks(experts)
        self._context = Context(experts, experts[0].dtype)
        self._context.keeps = rung == 0
        self._step_cache = StepCache(experts)
        self._loras = LoraSlots(experts)
        self._encoded = Encoded(device)
        self._known_prompts: tuple[str, ...] = ()
        self._decoder_stream = torch.cuda.Stream(device) if device.startswith("cuda") else None
        use_backend(experts, device)
        self._is_fp8 = False
        self._quantized: set[int] = set()
        self._channels, self._spatial = int(vae.config.z_dim), int(vae.config.scale_factor_spatial)

    def set_thrift(self, thrift: int) -> None:
        self._residence.set_thrift(thrift)
        self._context.keeps = self._residence.rung == 0

    def set_compile(self, wanted: bool | None) -> None:
        self._compile = wanted

    def set_prompts(self, prompts: Sequence[str]) -> None:
        self._known_prompts = tuple(prompts)

    def set_loras(self, loras: Sequence[tuple[Lora, Path]]) -> None:
        with self._memory_errors:
            self._loras.set(loras)

    def generate(
        self, clip: Clip, images: Sequence[bytes], on_step: OnStep, keep: Keep | None = None
    ) -> torch.Tensor:
        if clip.branch is not None and (keep is None or keep.start is None):
            keep = FromBranch(self.trunk(clip, images, on_step), keep)
        return self._denoise(clip, images, "denoise", on_step, keep)

    def trunk(
        self, clip: Clip, images: Sequence[bytes], on_step: OnStep, keep: Keep | None = None
    ) -> Unfinished:
        assert clip.branch is not None, "the clip has no branch"
        of = clip.branch.steps
        end = ToBranch(of, keep)

        def on_trunk(stage: str, step: int, num_steps: int) -> None:
            on_step(stage, step, of if stage == "trunk" else num_steps)

        if end.reached is None:
            with suppress(BranchReached):
                shared = replace(clip, prompt=clip.branch.prompt, branch=None)
                self._denoise(shared, images, "trunk", on_trunk, end)
        assert end.reached is not None
        if not bool(torch.isfinite(end.reached.latents).all()):
            raise RenderError("denoising gave NaN or infinite latents", Cause.BAD_OUTPUT)
        on_step("trunk", of, of)
        return end.reached

    def maker(self, clip: Clip) -> str:
        return maker_of(self._schedule(clip, "cpu"))

    def begin(self, clip: Clip, video: Iterator[torch.Tensor]) -> Unfinished:
        assert clip.video is not None, "the clip has no video"
        taken = clip.video.source.digest, clip.width, clip.height, clip.num_frames, clip.fps
        with torch.inference_mode(), self._memory_errors:
            (latents,) = self._encoded.of(taken, lambda: (self.encode_pixels(video),))
            assert latents is not None
            schedule = self._schedule(clip, self.device)
            noise = draw_noise(clip.seed, tuple(latents.shape)).to(self.device)
            return take(schedule, add_noise(schedule, latents, noise), 0)

    def _schedule(self, clip: Clip, device: str) -> Any:
        last = None if clip.video is None else clip.video.steps
        return make_schedule(clip.sampling, self._scheduler_config, torch.device(device), last=last)

    def _denoise(
        self, clip: Clip, images: Sequence[bytes], stage: str, on_step: OnStep, keep: Keep | None
    ) -> torch.Tensor:
        """Base latents with the clip's own prompt, from noise or from ``keep.start``."""
        self._check(clip, images)
        if clip.video is not None and (keep is None or keep.start is None):
            raise RenderError("a clip came without its video", Cause.BAD_INPUT)
        with torch.inference_mode(), self._memory_errors:
            on_step("encode", 0, 1)
            prompts = self._prompts(clip)
            condition = self._condition(clip, images, clip.width, clip.height)
            on_step("encode", 1, 1)
            schedule = self._schedule(clip, self.device)
            noise = draw_noise(clip.seed, self._shape(clip)).to(self.device)
            with self._one_clip(clip):
                return denoise(
                    self._experts, self._predict, schedule, clip.sampling, noise, prompts, condition,
                    lambda step, of: on_step(stage, step, of), keep,
                )  # fmt: skip

    def refine(
        self,
        clip: Clip,
        latents: torch.Tensor | None,
        images: Sequence[bytes],
        *,
        strength: float,
        steps: int,
        noise_seed: int,
        on_step: OnStep,
        stage: str,
        keep: Keep | None = None,
    ) -> torch.Tensor:
        self._check(clip, images)
        with torch.inference_mode(), self._memory_errors:
            sampling, device = clip.sampling, torch.device(self.device)
            schedule = make_schedule(sampling, self._scheduler_config, device, strength, steps)
            if latents is None:
                assert keep is not None
                assert keep.start is not None, "neither latents nor steps to go on from"
                noisy = keep.start.latents.to(device)
            else:
                noise = draw_noise(noise_seed, tuple(latents.shape)).to(device)
                noisy = add_noise(schedule, latents.to(device, torch.float32), noise)
            height, width = (side * self._spatial for side in noisy.shape[3:])
            prompts = self._prompts(clip)
            condition = self._condition(clip, images, width, height)
            with self._one_clip(clip):
                return denoise(
                    self._experts, self._predict, schedule, sampling, noisy, prompts, condition,
                    lambda step, of: on_step(stage, step, of), keep,
                )  # fmt: skip

    @property
    def decodes_beside(self) -> bool:
        """The VAE keeps nothing between calls, and at the first rung nothing moves; where the memory is not enough for
        the decoder beside the next clip's steps, they come after it. On a CPU, decoding takes from those steps what it
        gives.
        """
        return self.device != "cpu" and self._residence.rung == 0 and self._has_room_for_two

    @property
    def swaps_experts(self) -> bool:
        return self._residence.swaps_experts

    def decode_pixels(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        # by way of the host, and so complete whichever stream made them
        return self._decoded(latents.cpu())

    def _decoded(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        with self._memory_errors:
            self._residence.use(self._vae)
            yield from self._video.decode(latents)

    def frames(self, pixels: Iterator[torch.Tensor]) -> Iterator[np.ndarray[Any, Any]]:
        # every chunk is on the host before it is given away: the streams share nothing that one could free, or change,
        # while the other uses it
        while True:
            with (
                self._memory_errors,
                torch.cuda.stream(self._decoder_stream if self.decodes_beside else None),
            ):
                if (chunk := next(pixels, None)) is None:
                    return
                frames = (chunk[0] * 0.5 + 0.5).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
                frames = frames.permute(1, 2, 3, 0).contiguous().cpu()
            yield frames.numpy()

    def encode_pixels(self, chunks: Iterator[torch.Tensor]) -> torch.Tensor:
        with self._memory_errors:
            self._residence.use(self._vae)
            return self._video.encode(chunks)

    @contextmanager
    def _one_clip(self, clip: Clip) -> Iterator[None]:
        """What is remembered from step to step is of one clip, however it ends."""
        self._set_precision(clip.sampling.shortcuts is not None and clip.sampling.shortcuts.fp8)
        self._blocks.is_on = is_compiled(clip.sampling.profile, self.device, self._compile)
        with self._step_cache.clip(clip.sampling.shortcuts):
            try:
                yield
            finally:
                self._context.forget()

    def _set_precision(self, wants_fp8: bool) -> None:
        if wants_fp8 == self._is_fp8:
            return
        if self._is_fp8:
            raise RenderError("this replica's weights are in 8 bits for good, and the clip is not to be")
        if problem := problem_of(self.device):
            raise RenderError(problem, Cause.BAD_INPUT)
        for expert in self._experts:
            self._residence.use(expert)
            for block in expert.blocks:
                if id(block) in self._quantized:  # by a clip that then ran out of memory
                    continue
                with self._residence.holding(block):
                    quantize(block)
                self._quantized.add(id(block))
        self._is_fp8 = True

    def _check(self, clip: Clip, images: Sequence[bytes]) -> None:
        if clip.weights != self.spec.weights:
            raise RenderError(f"the clip was planned for other weights than those loaded ({self.spec.name})")
        if clip.loras != self._loras.current:
            raise RenderError("the clip was planned with other LoRAs than those loaded")
        if clip.mode not in self.spec.modes:
            raise RenderError(f"{self.spec.name} does not do {clip.mode}", Cause.BAD_INPUT)
        if (clip.mode is Mode.I2V) != bool(images):
            raise RenderError(
                f"a {clip.mode} clip came {'with' if images else 'without'} an image", Cause.BAD_INPUT
            )
        has_last = len(images) == 2
        if (clip.last_image is not None) != has_last:
            raise RenderError(
                f"a clip came {'with a' if has_last else 'without its'} last frame", Cause.BAD_INPUT
            )
        if images:
            try:
                check_last_image(self.spec, has_last, clip.num_frames)
            except EngineError as error:
                raise RenderError(f"last_image: {error}", Cause.BAD_INPUT) from None

    def _shape(self, clip: Clip) -> tuple[int, ...]:
        frames = (clip.num_frames - 1) // self.spec.frame_stride + 1
        return 1, self._channels, frames, clip.height // self._spatial, clip.width // self._spatial

    def _prompts(self, clip: Clip) -> tuple[torch.Tensor, torch.Tensor | None]:
        wanted = prompts_of(clip)
        if not all(map(self._text.knows, wanted)):
            self._residence.use(self._text.model)
            if self._residence.rung > 0:  # it will have to leave: all that it will be asked for, in one visit
                for prompt in self._known_prompts:
                    self._text.encode(prompt)
        positive, *negative = map(self._text.encode, wanted)
        return positive, negative[0] if negative else None

    def _condition(self, clip: Clip, images: Sequence[bytes], width: int, height: int) -> Condition:
        """The images at (width, height) as this checkpoint takes them."""
        if not images:
            return Condition()
        digests = (hashlib.sha256(image).hexdigest() for image in images)
        return Condition(
            *self._encoded.of(
                (*digests, width, height, clip.num_frames),
                lambda: self._encode(images, width, height, clip.num_frames).tensors,
            )
        )

    def _encode(self, images: Sequence[bytes], width: int, height: int, num_frames: int) -> Condition:
        pictures = [open_cover(image, width, height) for image in images]
        features = None
        if self._images is not None:
            self._residence.use(self._images.model)
            features = self._images.encode(pictures).to(self._experts[0].dtype)
        first, *last = map(to_pixels, pictures)
        self._residence.use(self._vae)
        if self._expand_timesteps:
            return Condition(first=self._video.encode(iter([first])))
        stride = self.spec.frame_stride
        blank = torch.zeros(1, 3, stride, height, width)
        chunks = [first] + [blank] * ((num_frames - 1) // stride)
        if last:
            chunks[-1] = torch.cat([blank[:, :, 1:], last[0]], dim=2)
        latents = self._video.encode(iter(chunks))
        # a mask of one channel for each frame that a latent frame stands for: the first frame is given, and the last
        # where there is an image of it; the others are not
        mask = torch.zeros(1, stride, *latents.shape[2:], device=latents.device)
        mask[:, :, 0] = 1.0
        if last:
            mask[:, -1, -1] = 1.0
        return Condition(channels=torch.cat([mask, latents], dim=1), features=features)

    def _predict(
        self,
        expert: Any,
        x: torch.Tensor,
        time: torch.Tensor,
        prompts: Sequence[torch.Tensor],
        features: torch.Tensor | None,
        branch: str,
    ) -> torch.Tensor:
        self._residence.use(expert)
        text, image = self._context.use(expert, prompts, features, branch)
        with self._step_cache.branch(expert, branch):
            flow: torch.Tensor = expert(
                hidden_states=x,
                timestep=time,
                encoder_hidden_states=text,
                encoder_hidden_states_image=image,
                return_dict=False,
            )[0]
        return flow
