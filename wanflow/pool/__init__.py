"""Where the scheduler's actions meet the world: replicas render clips, workers assemble variants.

A pool performs actions and turns what comes of them into events. It decides nothing: no retries, no order, no
time-outs. ``ray_pool.RayPool`` does it with Ray actors and tasks on a cluster or this machine; ``inline.InlinePool``
in this process, one thing after the other, without Ray. Both take a :class:`RunContext` and give the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from wanflow.engines import Engine, load_engine
from wanflow.errors import StoreError, WanflowError
from wanflow.model import AssembleVariant, EngineSpec, RenderClip
from wanflow.records import clip_record
from wanflow.schedule.actions import Action
from wanflow.schedule.events import ClipFound, ClipMissing, Event
from wanflow.storage import Store

#: (spec, device or None for the best one found, torch threads or None for torch's own choice)
LoadEngine = Callable[[EngineSpec, str | None, int | None], Engine]


def load_real_engine(spec: EngineSpec, device: str | None, num_threads: int | None) -> Engine:
    """The engine of ``spec.family`` with its weights loaded."""
    return load_engine(spec, device=device, num_threads=num_threads)


@dataclass(frozen=True)
class RunContext:
    """What a pool must know of a run. Everything in it can be pickled."""

    run_id: str
    epoch: int
    workspace: str
    #: publish.url
    target: str
    engines: Mapping[str, EngineSpec]
    renders: Mapping[str, RenderClip]
    assemblies: Mapping[str, AssembleVariant]
    #: path of a small file in the workspace, and its content: a replica that cannot read it sees another store
    nonce: tuple[str, str]
    #: files that share the GPU time of each master that this run renders; masters that were held are not in it
    sharing: Mapping[str, int] = field(default_factory=dict)
    #: name of the job: records of published videos say whose they are
    job: str = ""
    #: why each file is made, by its path: its record and the catalog repeat it
    reasons: Mapping[str, str] = field(default_factory=dict)
    #: price of a second of one replica; None: no price was given
    price_per_s: float | None = None
    #: Cache-Control of published files; None: the store's default
    cache_control: str | None = None
    #: a clip under way is saved after so many seconds of steps, and costs no more when its machine is lost
    save_every_s: float = 60.0
    #: the clips are in 8 bits: a replica that cannot do that is none
    fp8: bool = False
    #: engine.compile
    compile: bool | None = None
    #: by weights, all prompts that its clips are rendered with; weights of too many prompts to keep are not in it
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    load_engine: LoadEngine = load_real_engine


def is_permanent(error: BaseException | None) -> bool:
    """Whether a replica that failed to start with ``error`` would fail again. The store may be back in a minute."""
    return isinstance(error, WanflowError) and not isinstance(error, StoreError)


def probe(context: RunContext, key: str, now_s: float) -> Event:
    """Whether the clip of ``key`` is on record. With a store that does not answer: no; a replica looks again."""
    try:
        found = clip_record(Store(context.workspace), key) is not None
    except StoreError:
        found = False
    return ClipFound(now_s, key) if found else ClipMissing(now_s, key)


class Pool(Protocol):
    #: replicas that may run at once
    max_replicas: int
    #: assemblies that may run at once
    num_assembly_slots: int

    def perform(self, action: Action) -> None:
        """Carry out one order. Returns at once; what comes of it arrives as events."""

    def next_event(self, timeout_s: float) -> Event | None:
        """The next event, waiting up to ``timeout_s`` seconds for one."""

    def more_events(self) -> list[Event]:
        """What came together with the last event. Waits for nothing and begins nothing."""

    def close(self) -> None:
        """Give everything back. Safe to call twice."""
