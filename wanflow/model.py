"""The values that every part of wanflow exchanges: frozen, hashable, picklable, standard library only.

A manifest row, or a group of rows, becomes a :class:`Variant`: an ordered list of :class:`Scene`, one a row, each with
one :class:`Clip` for every aspect that its outputs need. Clips that are equal share a key and are rendered once. The
words are those of the README's glossary; units are in the names (``_s`` seconds, ``_bytes``); sizes are pixels, width
before height.

This module knows nothing of files, processes, models or time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

Scalar = str | int | float | bool | None

#: LUFS; what streaming services play at
DEFAULT_LOUDNESS = -14.0

#: metadata of fields that came after keys were in use: a key has them only where they differ from their default
LATER = {"later": True}


class Mode(StrEnum):
    """What a clip starts from."""

    T2V = "t2v"
    I2V = "i2v"


class LastImage(StrEnum):
    """Whether a checkpoint takes an image for the last frame, beside that for the first."""

    NEVER = "never"
    MAY = "may"
    MUST = "must"


class Cause(StrEnum):
    """Why an attempt did not end well; the scheduler has one rule a cause."""

    REPLICA_LOST = "replica_lost"
    #: its machine went away: nothing that the clip did
    NODE_LOST = "node_lost"
    #: its machine was taken back, with notice or without: costs the clip nothing
    PREEMPTED = "preempted"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_OUTPUT = "bad_output"
    ITEM_ERROR = "item_error"
    BAD_INPUT = "bad_input"
    STORAGE = "storage"
    HUNG = "hung"
    CANCELLED = "cancelled"


class Status(StrEnum):
    """How a variant stands at the end of a run."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    HELD = "held"
    FAILED = "failed"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Source:
    """An input file (image, font), identified by its bytes. The URL only says where to read it."""

    #: fsspec URL or absolute path; not part of any key
    url: str = field(compare=False)
    #: SHA-256 of the bytes, hex
    digest: str


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What a checkpoint's own configuration files say; read without loading weights (``engines/spec.py``)."""

    #: where the checkpoint was asked for; not part of any key
    url: str
    #: which engine drives it (``wan``)
    family: str
    #: human name (``pocket``, ``wan2.2-t2v-a14b``)
    name: str
    #: content identity of configurations and weights, hex
    weights: str
    #: what it can start from
    modes: frozenset[Mode]
    fps: float
    #: width and height are multiples of this many pixels
    grid: int
    #: num_frames is ``k * frame_stride + 1``
    frame_stride: int
    #: the (width, height) that the model was made for, one or more an aspect
    sizes: tuple[tuple[int, int], ...]
    #: default number of frames
    num_frames: int
    sampling: Sampling
    #: default ``refine`` parameters and other hints, name to value
    hints: tuple[tuple[str, Scalar], ...] = ()
    #: whether a clip that starts from an image is given its last frame too
    last_image: LastImage = LastImage.NEVER
    #: set by a run: (width, height, frames) for which an engine should have memory; None: its own largest
    largest: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """How a replica came by its weights."""

    #: copied from the store to the node by this replica; 0: it found them there
    fetched_bytes: int
    #: until they were on the node, the waiting for another replica's copy included
    fetch_s: float
    #: the libraries; less where they were imported meanwhile
    import_s: float
    #: weight files read from the node's disk, or its page cache, to the device
    loaded_bytes: int
    load_s: float
    #: of the memory ladder, on which it begins: what its GPU has room for; 0: everything stays there
    rung: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """Every sampling parameter that decides pixels."""

    steps: int
    #: classifier-free guidance at and above the boundary (high-noise expert); 1.0 is off
    guidance: float
    #: guidance below the boundary; None: the same as ``guidance``
    guidance_low: float | None
    flow_shift: float
    #: ``unipc`` or ``euler``
    scheduler: str
    #: share of the 1000 training timesteps at which the low-noise expert takes over; None: one expert
    boundary: float | None
    #: ``exact``: the model's own arithmetic; ``fast``: with ``shortcuts``; ``turbo``: few steps, distilled weights
    profile: str = "exact"
    #: of ``fast``
    shortcuts: Shortcuts | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What the profile ``fast`` leaves out of the model's own arithmetic."""

    #: guidance is off after this share of a stage's steps; 1.0: never
    guidance_until: float = 1.0
    #: relative change of the first block's residual up to which the other blocks are not computed again, in the
    #: high-noise expert (or the only one); 0.0: they always are
    cache: float = 0.0
    #: the same in the low-noise expert
    cache_low: float = 0.0
    #: the experts' weights and activations in 8 bits
    fp8: bool = False
    #: both guidance branches in one forward
    batch_guidance: bool = field(default=False, metadata=LATER)
    #: in place of ``cache``: of the steps of the high-noise expert (or the only one) each so manieth is computed, and
    #: the others extrapolated (TaylorSeer); 0: all are
    taylor: int = field(default=0, metadata=LATER)
    #: the same in the low-noise expert
    taylor_low: int = field(default=0, metadata=LATER)


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


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and when a layer lies on the picture. Lengths are shares of the output's height or width (0.08 is 8 %)."""

    #: ``top-left``, ``top``, ``top-right``, ``left``, ``center``, ``right``, ``bottom-left``, ``bottom``,
    #: ``bottom-right``, ``lower-third``, ``upper-third``
    at: str
    width: float | None = None
    height: float | None = None
    #: distance from the edges, share of the shorter side
    margin: float = 0.05
    opacity: float = 1.0
    start_s: float = 0.0
    #: None: to the end of the scene
    end_s: float | None = None
    #: seconds of fade in and, when ``end_s`` is set, out
    fade_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ImageLayer:
    """A picture (logo, product cut-out; alpha respected), scaled to fit ``width`` and/or ``height``."""

    image: Source
    place: Placement


@dataclass(frozen=True, slots=True)
class TextLayer:
    """Words in any script. ``text`` is a user's: it never reaches a filter string."""

    text: str
    place: Placement
    #: ``headline``, ``subhead``, ``caption``, ``cta``
    style: str = "headline"
    #: ``#rrggbb``; None: the style's
    color: str | None = None
    #: ``#rrggbb`` of a box behind the words; None: the style's (most have none, but an outline or shadow)
    background: str | None = None
    #: a font file; None: the packaged font, then the system's for what it lacks
    font: Source | None = None
    #: share of the output's height; None: the style's
    size: float | None = None


@dataclass(frozen=True, slots=True)
class BoxLayer:
    """A filled rectangle under the words, so that they can be read."""

    color: str
    place: Placement


@dataclass(frozen=True, slots=True)
class Cue:
    """Words that are shown for some seconds of the scene. They are a user's: they never reach a filter string."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class CaptionsLayer:
    """What is said, as words: cues in the order of their start, at one place and of one size."""

    cues: tuple[Cue, ...]
    place: Placement
    #: these are :class:`TextLayer`'s
    style: str = "caption"
    color: str | None = None
    background: str | None = None
    font: Source | None = None
    size: float | None = None


Layer = ImageLayer | TextLayer | BoxLayer | CaptionsLayer


@dataclass(frozen=True, slots=True)
class Voice:
    """Someone who speaks in a scene."""

    source: Source
    #: how long the file lasts; follows from its bytes
    seconds: float = field(compare=False)
    #: seconds into the scene
    start_s: float = 0.0
    #: dB on top of what brings it to the video's loudness
    volume_db: float = 0.0
    #: how a shorter clip lasts as long as it: ``hold`` (its last frame stays), ``boomerang`` (it runs back and forth);
    #: empty: it is not shorter
    extend: str = ""

    @property
    def end_s(self) -> float:
        return self.start_s + self.seconds


@dataclass(frozen=True, slots=True)
class Music:
    """What plays under a whole video, from its beginning to its end; a shorter file begins again."""

    source: Source
    #: how long the file lasts; follows from its bytes
    seconds: float = field(compare=False)
    #: dB on top of what brings it to the video's loudness
    volume_db: float = 0.0
    #: dB by which it is softer while someone speaks
    duck_db: float = 15.0
    #: seconds of the file that are left out at its beginning
    skip_s: float = 0.0
    fade_in_s: float = 0.0
    fade_out_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What is seen and said for some seconds: clips by aspect, what is laid over them, and a voice."""

    #: (aspect such as ``9x16``, clip)
    clips: tuple[tuple[str, Clip], ...]
    layers: tuple[Layer, ...] = ()
    voice: Voice | None = None

    def clip(self, aspect: str) -> Clip:
        """The clip of ``aspect``; KeyError when the scene has none."""
        return dict(self.clips)[aspect]

    def seconds(self, aspect: str) -> float:
        """How long it is seen in that aspect: as long as its clip, or as its voice where that extends it."""
        clip_s = self.clip(aspect).seconds
        return max(clip_s, self.voice.end_s) if self.voice and self.voice.extend else clip_s

    @property
    def sources(self) -> Iterator[Source]:
        """Every input file of its layers and its voice."""
        for layer in self.layers:
            if isinstance(layer, ImageLayer):
                yield layer.image
            elif isinstance(layer, TextLayer | CaptionsLayer) and layer.font:
                yield layer.font
        if self.voice:
            yield self.voice.source


@dataclass(frozen=True, slots=True)
class Output:
    """A file format of a variant, every number of its preset resolved."""

    name: str
    #: aspect of the clips that it is made from
    aspect: str
    width: int
    height: int
    fps: float
    #: ``h264``
    codec: str = "h264"
    crf: int = 20
    #: ``cover`` crops, ``contain`` adds bars
    fit: str = "cover"
    #: motion-interpolate the master's frames to ``fps`` instead of repeating them
    interpolate: bool = False
    #: also write ``<path without extension>.jpg``
    poster: bool = True

    def frames(self, seconds: float) -> int:
        """Frames of a scene of ``seconds``: each is cut to a whole number of its own, at least one."""
        return max(1, round(seconds * self.fps))


@dataclass(frozen=True, slots=True)
class Variant:
    """One finished video of one customer (or course page): scenes in order, one file an output."""

    variant_id: str
    #: 1-based row of the manifest that it came from (the first one of a group)
    row: int
    scenes: tuple[Scene, ...]
    #: (output, path under publish.url)
    outputs: tuple[tuple[Output, str], ...]
    priority: int = 0
    #: columns that results and catalog repeat
    carry: tuple[tuple[str, Scalar], ...] = ()
    music: Music | None = None
    #: of its sound (integrated, ITU-R BS.1770), LUFS
    loudness: float = DEFAULT_LOUDNESS

    @property
    def has_sound(self) -> bool:
        return self.music is not None or any(scene.voice for scene in self.scenes)

    @property
    def sources(self) -> Iterator[Source]:
        """Every input file that it is assembled from, beside its masters."""
        for scene in self.scenes:
            yield from scene.sources
        if self.music:
            yield self.music.source


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """One try at a task. Epochs grow with every run start, so two runs never share an attempt."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store as it was when its record was written."""

    path: str
    sha256: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Record:
    """The small JSON that says: this key is done, here are its files."""

    key: str
    files: tuple[StoredFile, ...]
    attempt: str
    #: facts worth keeping with the result (seconds by stage, frames, device)
    info: tuple[tuple[str, Scalar], ...] = ()
    #: the record's own ETag, where the reader learnt it
    etag: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """One keyed step of a clip: ``trunk`` where it has a branch, ``base``, ``cascade-1`` ..., ``master``.

    Each result has a record of its own.
    """

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class RenderClip:
    """GPU task: make every stage of ``clip`` that has no record yet; the last one is the master."""

    clip: Clip
    stages: tuple[Stage, ...]

    @property
    def key(self) -> str:
        """The master's key: what assembly waits for."""
        return self.stages[-1].key


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to assemble and publish, with the keys of the masters it is made from, in scene order."""

    output: Output
    path: str
    key: str
    masters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AssembleVariant:
    """CPU task: assemble and publish ``files`` of ``variant``."""

    variant: Variant
    files: tuple[OutputFile, ...]

    @property
    def key(self) -> str:
        """Unique within a run: the path of its first file."""
        return self.files[0].path

    @property
    def masters(self) -> frozenset[str]:
        return frozenset(key for file in self.files for key in file.masters)


Task = RenderClip | AssembleVariant
