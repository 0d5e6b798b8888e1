"""What is finished by ffmpeg: scenes of clips, what is laid over them and heard, and the files that they become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from wanflow.model.clip import Clip, Source
from wanflow.model.engine import Scalar

#: LUFS; what streaming services play at
DEFAULT_LOUDNESS = -14.0


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
