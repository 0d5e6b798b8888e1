"""What is generated on a GPU: a clip, and what it is made from."""

from __future__ import annotations

from dataclasses import dataclass, field

from wanflow.model.engine import Mode, Sampling, Scalar


@dataclass(frozen=True, slots=True)
class Source:
    """An input file (image, font), identified by its bytes. The URL only says where to read it."""

    #: fsspec URL or absolute path; not part of any key
    url: str = field(compare=False)
    #: SHA-256 of the bytes, hex
    digest: str


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank weights that are added to an expert's own."""

    source: Source
    scale: float = 1.0
    #: ``high``, ``low`` or ``both``
    expert: str = "both"


@dataclass(frozen=True, slots=True)
class CascadeStep:
    """One upscale step after the base latents (``refine``), with its parameters sorted by name."""

    method: str
    params: tuple[tuple[str, Scalar], ...] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a clip leaves its trunk: the first steps, which all clips with an equal branch share."""

    #: what the trunk is denoised with; cleaned
    prompt: str
    #: steps of the trunk, at least one and fewer than ``Sampling.steps``
    steps: int


@dataclass(frozen=True, slots=True)
class SourceVideo:
    """What a clip is made from, frame by frame: noise is added to it, and what that hides is drawn anew."""

    source: Source
    #: the last steps of the schedule, which are taken; the noise is that of the first of them
    steps: int


@dataclass(frozen=True, slots=True)
class Clip:
    """One generation on the GPU. Equal clips are the same clip, whoever asked for them."""

    mode: Mode
    #: :attr:`EngineSpec.weights` of the checkpoint that renders it
    weights: str
    #: cleaned (see ``manifest.clean_prompt``)
    prompt: str
    negative_prompt: str
    image: Source | None
    seed: int
    width: int
    height: int
    num_frames: int
    fps: float
    sampling: Sampling
    cascade: tuple[CascadeStep, ...] = ()
    #: None: every step is the clip's own
    branch: Branch | None = None
    #: low-rank weights, in the order in which they were asked for
    loras: tuple[Lora, ...] = ()
    #: of the last frame, beside that of the first
    last_image: Source | None = None
    #: of a text-to-video clip; None: it starts from noise alone
    video: SourceVideo | None = None

    @property
    def num_steps(self) -> int:
        """Denoising steps of the base latents, those of a trunk included."""
        return self.sampling.steps if self.video is None else self.video.steps

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every input file that it is made from."""
        videos = () if self.video is None else (self.video.source,)
        return (*self.images, *videos, *(lora.source for lora in self.loras))

    @property
    def images(self) -> tuple[Source, ...]:
        """The image of the first frame and that of the last, as far as they are given."""
        return tuple(image for image in (self.image, self.last_image) if image is not None)

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps
