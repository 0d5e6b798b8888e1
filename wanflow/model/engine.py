"""What a checkpoint can do, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

Scalar = str | int | float | bool | None

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
