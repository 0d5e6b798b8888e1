"""What a plan is: values only. Knows neither store nor manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from wanflow.errors import BadRow
from wanflow.memo import InputMemo
from wanflow.model import EngineSpec, OutputFile, Record, RenderClip, Status, Variant
from wanflow.pins import Pins
from wanflow.publish import Published
from wanflow.unchanged import Unchanged


class ClipPlan(StrEnum):
    """What the plan decided for a clip."""

    RENDER = "render"
    #: a part of its stages is in the store
    RESUME = "resume"
    HELD = "held"
    #: it failed in an earlier run in a way that would repeat
    FAILED_BEFORE = "failed_before"


@dataclass(frozen=True, slots=True)
class PlannedClip:
    task: RenderClip
    decision: ClipPlan
    reason: str
    num_variants: int
    priority: int
    #: relative cost of rendering it from the start, in denoised latent tokens
    work: float
    #: GPU seconds by what was measured on clips of the same engine; None: never measured
    expected_s: float | None
    #: records of its stages that a force makes count as undone
    forced: tuple[str, ...] = ()
    #: ``work`` and ``expected_s`` have the steps of its trunk in them: it has one, and is the first to need it
    makes_trunk: bool = False
    #: base steps to take, and those of a trunk that another clip makes or the store holds
    num_steps: int = 0
    num_steps_shared: int = 0
    #: GPU seconds that the latter would take; None: never measured
    shared_s: float | None = 0.0


@dataclass(frozen=True, slots=True)
class PlannedVariant:
    variant: Variant
    #: files to assemble; empty: nothing to do
    files: tuple[OutputFile, ...]
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Retired:
    """A published video of this job that its manifest no longer asks for."""

    variant_id: str
    path: str
    record: Record


@dataclass(frozen=True, slots=True)
class Forced:
    """A request to make done work again: records of ``stages`` older than ``epoch`` count as undone."""

    #: what was asked for: trunk, base, cascade, master or variant
    stage: str
    #: which rows: the ``--only`` and ``--limit`` that it came with
    selection: str
    #: of the run that took the request up; None: no run has yet, every record is older
    epoch: int | None = None

    def undoes(self, attempt: str) -> bool:
        """Whether the result of ``attempt`` (epoch.number) is older than the request."""
        head = attempt.partition(".")[0]
        return self.epoch is None or not head.isdigit() or int(head) < self.epoch


@dataclass(frozen=True, slots=True)
class Lint:
    """A column that multiplies clips."""

    column: str
    where: str
    num_clips: int
    num_clips_without: int

    def __str__(self) -> str:
        return (
            f"{self.column} in {self.where}: {self.num_clips:,} clips; without it {self.num_clips_without:,}"
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """A sentence of which some rows have not all words."""

    column: str
    where: str
    num_rows: int
    #: the first of them
    row: int

    def __str__(self) -> str:
        return (
            f"{self.column} is empty in {self.num_rows:,} rows, first in row {self.row}: {self.where} has words around "
            "it, and a gap there"
        )


@dataclass(frozen=True, slots=True)
class Unmade:
    """An output of the job that no row has."""

    output: str
    aspect: str

    def __str__(self) -> str:
        return f"no row gets the output {self.output}: it is made from {self.aspect}, which no row has as its aspect"


@dataclass(frozen=True, slots=True)
class Undrawable:
    """Characters of texts to lay over clips that no font of the planning machine has."""

    chars: tuple[str, ...]
    num_variants: int
    #: row of the first variant that has one of them
    row: int

    def __str__(self) -> str:
        named = ", ".join(f"{char} (U+{ord(char):04X})" for char in self.chars[:8])
        return (
            f"no font on this machine draws {named}, in layers of {self.num_variants:,} variants, first in that of "
            f"row {self.row}: they fail where they are assembled, unless a font there does"
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """Clips that should take equally long."""

    #: distinct clips that the manifest asks for
    num_clips: int
    #: how often they are shown: one a variant and aspect
    num_uses: int
    #: GPU seconds by what was measured; None: never measured
    expected_s: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    engines: Mapping[str, EngineSpec]
    #: what is to be made, or failed before
    variants: tuple[PlannedVariant, ...]
    clips: tuple[PlannedClip, ...]
    #: what a matrix repeats is in it once a video
    bad_rows: tuple[BadRow, ...]
    lints: tuple[Lint | Gap | Unmade | Undrawable, ...]
    #: clips that the whole manifest asks for, changed or not
    num_clips_wanted: int
    #: clips saved by sharing: one a variant and aspect, minus ``num_clips_wanted``
    num_clips_shared: int
    #: masters that are already in the store, by key
    held: Mapping[str, Record] = field(default_factory=dict)
    #: what was published when the plan was made
    published: Published = field(default_factory=Published)
    #: the variants with nothing to do
    unchanged: Unchanged = field(default_factory=Unchanged)
    #: what all variants rely on in the store
    pins: Pins = field(default_factory=Pins)
    #: digest of what will be published where once the plan is done: the same for a run that goes on with it
    plan_id: str = ""
    #: published, and no longer asked for
    retired: tuple[Retired, ...] = ()
    #: whether a run takes the retired files away
    unpublish: bool = False
    forced: Forced | None = None
    shapes: tuple[Shape, ...] = ()
    #: what was learnt about input files; a run saves it
    memo: InputMemo = field(default_factory=InputMemo)

    @property
    def num_variants(self) -> int:
        """All of them."""
        return len(self.variants) + len(self.unchanged)

    @property
    def to_render(self) -> tuple[PlannedClip, ...]:
        return tuple(c for c in self.clips if c.decision in (ClipPlan.RENDER, ClipPlan.RESUME))

    @property
    def num_steps(self) -> int:
        """Base steps to take."""
        return sum(clip.num_steps for clip in self.to_render)

    @property
    def num_steps_shared(self) -> int:
        """What branching spares: steps of trunks that other clips make, or the store holds."""
        return sum(clip.num_steps_shared for clip in self.to_render)

    @property
    def num_trunks(self) -> int:
        """Trunks to make."""
        return sum(clip.makes_trunk for clip in self.to_render)

    @property
    def to_assemble(self) -> tuple[PlannedVariant, ...]:
        return tuple(v for v in self.variants if v.status is Status.LEFT)

    @property
    def num_files(self) -> Mapping[str, int]:
        """Files to assemble, by output."""
        return Counter(file.output.name for planned in self.to_assemble for file in planned.files)

    @property
    def to_unpublish(self) -> tuple[Retired, ...]:
        return self.retired if self.unpublish else ()

    @property
    def sharing(self) -> Mapping[str, int]:
        """How many of the files to assemble show each master that is to be rendered: they share its cost."""
        users = Counter(
            key for planned in self.to_assemble for file in planned.files for key in set(file.masters)
        )
        return {planned.task.key: users[planned.task.key] for planned in self.to_render}

    @property
    def is_empty(self) -> bool:
        """Nothing to render and nothing to assemble."""
        return not self.to_assemble

    @property
    def expected_gpu_s(self) -> float | None:
        """GPU seconds of all clips to render, from what was measured; None: some were never measured."""
        seconds = [c.expected_s for c in self.to_render]
        return None if None in seconds else sum(s for s in seconds if s is not None)
