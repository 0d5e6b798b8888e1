"""The world in virtual time, for the scheduler: replicas that load, render step by step, fail, hang, die and are taken
back, on nodes that go away, with a store that has weather; and news that comes late, twice, out of order or (where the
real pool may lose it) not at all. Everything follows from one seed. ``wanflow.testing`` exports it.

It knows no Ray and no clock. What it keeps of its own (records, kept steps, what was published) is the truth that a
simulation compares the scheduler's beliefs with.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from wanflow.engines.footprint import LAST_RUNG
from wanflow.fake_faults import Faults
from wanflow.model import Attempt, Cause, Loading
from wanflow.schedule.actions import (
    Action,
    Assemble,
    Cancel,
    KillReplica,
    Probe,
    Render,
    RetireReplica,
    Save,
    StartReplica,
)
from wanflow.schedule.events import (
    AssembleFailed,
    ClipDenoised,
    ClipFound,
    ClipMissing,
    ClipRendered,
    DrainNoticed,
    Event,
    RenderFailed,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    StepDone,
    StepsKept,
    VariantPublished,
)

#: what an attempt can die of by itself
FAILURES = (Cause.OUT_OF_MEMORY, Cause.ITEM_ERROR, Cause.BAD_OUTPUT)


@dataclass
class _Replica:
    number: int
    #: of the memory ladder, on which it begins
    rung: int = 0
    #: None: it waits for its machine
    node: int | None = None
    num_clips: int = 0
    rendering: _Rendering | None = None
    #: the clip before, as long as its tail takes
    finishing: _Rendering | None = None

    def find(self, attempt: Attempt) -> _Rendering | None:
        return next(
            (each for each in (self.rendering, self.finishing) if each and each.attempt == attempt), None
        )

    def drop(self, rendering: _Rendering) -> None:
        """``rendering`` has ended."""
        if rendering is self.finishing:
            self.finishing = None
        else:
            self.rendering = None


@dataclass
class _Rendering:
    key: str
    attempt: Attempt
    replica: str
    step_s: float
    step: int
    #: (at which step, what happens)
    fate: tuple[int, Cause] | None
    ending: str = ""
    #: it is at its tail
    is_denoised: bool = False


class FakePool:
    """A :class:`wanflow.pool.Pool` in virtual time. ``clip_s`` gives the seconds that a clip's render takes.

    There are ``num_gpus`` for replicas (None: as many as are asked for), on ``num_nodes``; the emptiest gets the next.
    ``num_steps`` are the steps of each clip; every ``keep_every``-th is kept in the store (0: none). ``tail_share`` of
    a clip's seconds come behind its steps, and may pass beside the next clip's (0: nothing does, and no event says so).
    """

    def __init__(
        self,
        clip_s: Callable[[str], float],
        masters: Mapping[str, frozenset[str]],
        *,
        seed: int = 0,
        faults: Faults | None = None,
        load_s: float = 5.0,
        assemble_s: float = 1.0,
        num_assembly_slots: int = 2,
        max_replicas: int = 2,
        num_steps: int = 4,
        keep_every: int = 0,
        num_nodes: int = 2,
        num_gpus: int | None = None,
        held: frozenset[str] = frozenset(),
        tail_share: float = 0.0,
        tell_story: bool = True,
    ) -> None:
        self.now_s = 0.0
        self.num_assembly_slots = num_assembly_slots
        self.max_replicas = max_replicas
        #: keys with records, and how often each was rendered to the end
        self.records: dict[str, int] = dict.fromkeys(held, 0)
        #: keys whose record the scheduler was told of
        self.known: set[str] = set()
        #: attempts whose end was told
        self._told: set[Attempt] = set()
        self.published: set[str] = set()
        #: every action and every event that arrived, in order, with its time
        self.story: list[tuple[float, Action | Event]] = []
        #: the most replicas that were up at once
        self.max_alive = 0
        #: replicas whose load never ends
        self.load_hung: set[str] = set()
        self._tell_story = tell_story
        self._clip_s, self._masters = clip_s, masters
        self._random = random.Random(seed)
        self._faults = faults or Faults()
        self._load_s, self._assemble_s = load_s, assemble_s
        self._num_steps, self._keep_every = num_steps, keep_every
        self._num_nodes, self._num_gpus = num_nodes, num_gpus
        #: replicas that wait for a machine, and what each does on it
        self._queue: deque[tuple[str, Callable[[], None]]] = deque()
        self._tail_share = tail_share
        self._coming: list[tuple[float, int, Event | Callable[[], None]]] = []
        self._count = 0
        self._alive: dict[str, _Replica] = {}
        self._given_up: set[str] = set()
        self._kept: dict[str, int] = {}
        #: news that its sender took to the grave
        self._unheard: set[Attempt] = set()
        self._away = self._weather(random.Random(seed + 1))

    def clock(self) -> float:
        return self.now_s

    def perform(self, action: Action) -> None:
        if self._tell_story:
            self.story.append((self.now_s, action))
        match action:
            case StartReplica():
                self._start(action.replica)
            case Render():
                self._render(action)
            case Cancel(replica=name, attempt=attempt) | Save(replica=name, attempt=attempt):
                if name in self._alive and (rendering := self._alive[name].find(attempt)):
                    rendering.ending = "cancel" if isinstance(action, Cancel) else "save"
            case Probe(key=key):
                found = key in self.records and not self._store_is_away()
                self._send(0.05, ClipFound(0, key) if found else ClipMissing(0, key))
            case Assemble():
                self._assemble(action)
            case RetireReplica(replica=name) | KillReplica(replica=name):
                self._given_up.add(name)
                self._alive.pop(name, None)
                self._place()

    def next_event(self, timeout_s: float) -> Event | None:
        until_s = self.now_s + timeout_s
        while self._coming and self._coming[0][0] <= until_s:
            at_s, _, what = heapq.heappop(self._coming)
            self.now_s = max(self.now_s, at_s)
            if callable(what):
                what()
                continue
            if getattr(what, "attempt", None) in self._unheard:
                continue
            event = replace(what, time_s=self.now_s)
            if isinstance(event, ReplicaLost):
                self._given_up.add(event.replica)
            # News from a replica that is gone by then is late, and tells the scheduler nothing.
            is_late = getattr(event, "replica", None) in self._given_up
            # So is what is said twice: since the first time, the master may have been lost and ordered again.
            if isinstance(event, ClipRendered):
                is_late = is_late or event.attempt in self._told
                self._told.add(event.attempt)
            if isinstance(event, ClipRendered | ClipFound) and event.key in self.records and not is_late:
                self.known.add(event.key)
            if self._tell_story:
                self.story.append((self.now_s, event))
            return event
        self.now_s = until_s
        return None

    def more_events(self) -> list[Event]:
        return []  # each has a moment of its own

    def close(self) -> None:
        self._alive.clear()

    # -- replicas -----------------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        number = int(name.rpartition("-")[2])
        rungs = self._faults.rungs
        rung = rungs[number % len(rungs)]
        ready = ReplicaReady(0, name, Loading(0, 0.0, 0.0, 0, 0.0, rung) if rung else None)
        self._alive[name] = _Replica(number, rung)
        self.max_alive = max(self.max_alive, len(self._alive))
        wait_s = self._faults.late_s * self._random.random()
        hangs = self._happens(self._faults.load_hangs)
        dies = not hangs and self._happens(self._faults.start_fails)

        def load() -> None:
            if hangs:
                self.load_hung.add(name)
            elif dies:
                self._at(self._load_s / 2, partial(self._die, name, Cause.REPLICA_LOST, "died while loading"))
            else:
                self._at(self._load_s, lambda: self._send(0, ready) if name in self._alive else None)

        def wait() -> None:
            self._queue.append((name, load))
            self._place()

        self._at(wait_s, wait)

    def _place(self) -> None:
        """Replicas that wait get machines, as long as there are any."""
        while self._queue:
            nodes = [each.node for each in self._alive.values() if each.node is not None]
            if self._num_gpus is not None and len(nodes) >= self._num_gpus:
                return
            name, load = self._queue.popleft()
            if (replica := self._alive.get(name)) is None:
                continue
            node = replica.node = min(range(self._num_nodes), key=nodes.count)
            self._send(0, ReplicaPlaced(0, name, f"node-{node}"))
            if node in self._faults.bad_nodes:
                message, permanent = "no driver here", self._happens(0.5)
                self._at(0.5, partial(self._die, name, Cause.REPLICA_LOST, message, permanent))
            else:
                load()

    def _die(self, name: str, cause: Cause, message: str, permanent: bool = False) -> None:
        replica = self._alive.pop(name, None)
        if replica is None:
            return
        self._place()
        for rendering in (replica.rendering, replica.finishing):
            if rendering and self._happens(0.5):
                self._unheard.add(rendering.attempt)
        self._send(self._random.random(), ReplicaLost(0, name, f"{name}: {message}", permanent, cause))

    def _lose_node(self, node: int | None) -> None:
        for name in [name for name, replica in self._alive.items() if replica.node == node]:
            self._die(name, Cause.NODE_LOST, "its node is gone")

    def _render(self, action: Render) -> None:
        name, key = action.replica, action.key
        assert name not in self._given_up, f"{name} was given up before"
        assert key not in self.known, f"{key} is rendered after its record"
        replica = self._alive.get(name)
        if replica is None:
            return  # it died, and the news is on its way
        if replica.rendering is not None:
            assert replica.rendering.is_denoised, f"{name} is busy"
            assert replica.finishing is None, f"{name} is busy with two"
            replica.finishing = replica.rendering
        rendering = _Rendering(
            key,
            action.attempt,
            name,
            self._clip_s(key) * self._faults.slow.get(replica.number, 1.0) / self._num_steps,
            self._kept.get(key, 0),
            self._fate(action, replica),
        )
        replica.rendering = rendering
        if key in self.records and not self._store_is_away():
            self._at(0.05, lambda: self._end(rendering))
        else:
            self._at(0.0, lambda: self._advance(rendering))

    def _fate(self, action: Render, replica: _Replica) -> tuple[int, Cause] | None:
        faults, draw = self._faults, self._random
        at = draw.randint(0, self._num_steps)
        if action.key in faults.always:
            return at, faults.always[action.key]
        if replica.num_clips >= faults.sick.get(replica.number, replica.num_clips + 1):
            return 0, Cause.ITEM_ERROR
        if faults.too_large.get(action.key, 0) > min(replica.rung + action.thrift, LAST_RUNG):
            return at, Cause.OUT_OF_MEMORY
        if replica.rung >= faults.too_small.get(action.key, replica.rung + 1):
            return at, Cause.OUT_OF_MEMORY
        for share, cause in (
            (faults.replica_dies, Cause.REPLICA_LOST),
            (faults.hangs, Cause.HUNG),
            (faults.preempted, Cause.PREEMPTED),
            (faults.node_lost, Cause.NODE_LOST),
        ):
            if self._happens(share):
                return at, cause
        return (at, draw.choice(FAILURES)) if self._happens(faults.render_fails) else None

    def _advance(self, rendering: _Rendering) -> None:
        """One step of a rendering has ended, or its start."""
        replica = self._alive.get(rendering.replica)
        if replica is None or replica.find(rendering.attempt) is None:
            return
        if rendering.ending:
            self._end_early(rendering)
            return
        is_at_end = rendering.step >= self._num_steps
        if is_at_end and self._tail_share and not rendering.is_denoised:
            self._begin_tail(rendering, replica)
            return
        if rendering.fate and rendering.fate[0] <= rendering.step:
            cause, rendering.fate = rendering.fate[1], None
            if not self._strike(rendering, replica, cause):
                return
        if is_at_end:
            self._end(rendering)
            return
        name, key, attempt = rendering.replica, rendering.key, rendering.attempt
        self._progress(StepDone(0, name, key, attempt, "denoise", rendering.step, self._num_steps))
        if self._keep_every and rendering.step and rendering.step % self._keep_every == 0:
            self._kept[key] = max(rendering.step, self._kept.get(key, 0))
            self._progress(StepsKept(0, name, key, attempt, "denoise", rendering.step))
        rendering.step += 1
        self._at(rendering.step_s * (1 - self._tail_share), lambda: self._advance(rendering))

    def _begin_tail(self, rendering: _Rendering, replica: _Replica) -> None:
        """All steps are done: what is left may pass beside another clip's steps, once no other tail does."""
        name, key, attempt, num_steps = rendering.replica, rendering.key, rendering.attempt, self._num_steps
        if replica.finishing is not None:
            self._at(0.1, lambda: self._advance(rendering))
            return
        rendering.is_denoised = True
        self._progress(StepDone(0, name, key, attempt, "denoise", num_steps, num_steps))
        self._send(0, ClipDenoised(0, name, key, attempt))
        self._at(rendering.step_s * self._num_steps * self._tail_share, lambda: self._advance(rendering))

    def _strike(self, rendering: _Rendering, replica: _Replica, cause: Cause) -> bool:
        """What was to happen happens; whether the rendering goes on nonetheless."""
        name, key = rendering.replica, rendering.key
        if cause is Cause.HUNG:
            return False
        if cause is Cause.REPLICA_LOST:
            if rendering.step >= self._num_steps and key not in self._faults.always:
                self.records[key] = self.records.get(key, 0) + 1
            self._die(name, cause, "process died")
            return False
        if cause is Cause.NODE_LOST:
            self._lose_node(replica.node)
            return False
        if cause is Cause.PREEMPTED:
            grace_s = self._random.choice([0.0, 5.0, 30.0])
            if grace_s:
                self._send(0, DrainNoticed(0, name, grace_s))
            self._at(grace_s, lambda: self._die(name, cause, "its machine was taken back"))
            return grace_s > 0
        self._fail(rendering, cause)
        return False

    def _end(self, rendering: _Rendering) -> None:
        replica = self._alive.get(rendering.replica)
        if replica is None or replica.find(rendering.attempt) is None:
            return
        key = rendering.key
        if self._store_is_away():
            self._fail(rendering, Cause.STORAGE)
            return
        replica.drop(rendering)
        replica.num_clips += 1
        if key not in self.records:
            self.records[key] = 1
        seconds = (("denoise", rendering.step_s * self._num_steps),)
        self._send(0, ClipRendered(0, rendering.replica, key, rendering.attempt, seconds, 1 << 30))

    def _end_early(self, rendering: _Rendering) -> None:
        if rendering.ending == "cancel" or self._store_is_away():
            self._fail(rendering, Cause.CANCELLED)
            return
        self._alive[rendering.replica].drop(rendering)
        self._kept[rendering.key] = max(rendering.step, self._kept.get(rendering.key, 0))
        kept = StepsKept(
            0, rendering.replica, rendering.key, rendering.attempt, "denoise", rendering.step, is_last=True
        )
        self._send(0, kept)

    def _fail(self, rendering: _Rendering, cause: Cause) -> None:
        name, key, attempt = rendering.replica, rendering.key, rendering.attempt
        self._alive[name].drop(rendering)
        self._send(0, RenderFailed(0, name, key, attempt, cause, f"{cause} on purpose"))

    # -- assemblies, the store ------------------------------------------------------------------------------------

    def _assemble(self, action: Assemble) -> None:
        key, attempt = action.key, action.attempt
        masters = sorted(self._masters[key])
        gone = tuple(m for m in masters if m not in self.records)
        if not gone and masters and self._happens(self._faults.master_vanishes):
            gone = (self._random.choice(masters),)
            self.records.pop(gone[0])
        for each in gone:
            self._kept.pop(each, None)
            self.known.discard(each)
        if self._store_is_away():
            self._send(0.1, AssembleFailed(0, key, attempt, Cause.STORAGE, "503"))
        elif gone:
            self._send(0.1, AssembleFailed(0, key, attempt, Cause.STORAGE, "a master is gone", gone))
        elif self._happens(self._faults.assemble_fails):
            self._send(self._assemble_s, AssembleFailed(0, key, attempt, Cause.ITEM_ERROR, "ffmpeg died"))
        else:
            self.published.add(key)
            self._send(self._assemble_s, VariantPublished(0, key, attempt))

    def _weather(self, draw: random.Random) -> list[tuple[float, float]]:
        """(from, to) of the spells in which the store is away, for the first ten thousand seconds."""
        spells: list[tuple[float, float]] = []
        at_s, share = 0.0, self._faults.store_away
        while share > 0 and at_s < 10_000:
            spell_s = 20 * draw.random()
            at_s += spell_s * (1 - share) / share * 2 * draw.random()
            spells.append((at_s, at_s + spell_s))
            at_s += spell_s
        return spells[::-1]

    def _store_is_away(self) -> bool:
        while self._away and self._away[-1][1] < self.now_s:
            self._away.pop()
        return bool(self._away) and self._away[-1][0] <= self.now_s

    # -- news ---------------------------------------------------------------------------------------------------

    def _progress(self, event: Event) -> None:
        if not self._happens(self._faults.dropped):
            self._send(0, event)

    def _send(self, after_s: float, event: Event) -> None:
        """Let ``event`` arrive, perhaps late or twice."""
        times = [after_s]
        if self._happens(self._faults.doubled):
            times.append(after_s + self._random.random() * self._faults.delay_s)
        for each_s in times:
            late_s = (
                self._random.random() * self._faults.delay_s if self._happens(self._faults.delayed) else 0.0
            )
            self._at(each_s + late_s, event)

    def _at(self, after_s: float, what: Event | Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._coming, (self.now_s + after_s, self._count, what))

    def _happens(self, share: float) -> bool:
        return share > 0 and self._random.random() < share
