"""What clips should take: the plan's guess, corrected by what was seen as the run goes.

A clip's seconds are ``nominal x ratio of its kind x slowness of the replica``. Ratios are learnt from whole renders,
kind by kind; a kind not seen yet borrows the ratio of its weights. A replica's slowness is what is left over on it,
drawn towards 1 while little was seen, so that one odd clip does not brand it. Knows neither queues nor budgets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from wanflow.schedule.state import ClipState, PlannedRender

#: renders that a kind's ratio looks back on, about
MEMORY = 20
#: clips' worth of doubt about a replica being other than usual
DOUBT = 0.5
#: share of a clip that its base steps take when nothing better is known
BASE_SHARE = 0.9


@dataclass(slots=True)
class _Mean:
    """A running mean that forgets: after MEMORY values the newest weighs 1 / MEMORY."""

    value: float = 0.0
    num: int = 0

    def add(self, value: float) -> None:
        self.num += 1
        self.value += (value - self.value) / min(self.num, MEMORY)


@dataclass(slots=True)
class _Kind:
    #: log of seconds over nominal, on a usual replica
    ratio: _Mean = field(default_factory=_Mean)
    #: stage -> seconds, in the order of the stages
    stages: dict[str, _Mean] = field(default_factory=dict)
    #: stage -> seconds between two of its steps, and how many it has
    step_s: dict[str, _Mean] = field(default_factory=dict)
    num_steps: dict[str, int] = field(default_factory=dict)
    #: clips that fitted only so many rungs down the memory ladder
    thrifty: dict[int, int] = field(default_factory=dict)


def measured(renders: Sequence[PlannedRender]) -> tuple[frozenset[str], dict[str, float]]:
    """Weights with measured clips, and their seconds for one of ``work``, for the clips that were not measured."""
    seconds: dict[str, float] = {}
    work: dict[str, float] = {}
    for planned in renders:
        if planned.expected_s is not None and planned.work > 0:
            weights = planned.task.clip.weights
            seconds[weights] = seconds.get(weights, 0.0) + planned.expected_s
            work[weights] = work.get(weights, 0.0) + planned.work
    return frozenset(seconds), {weights: seconds[weights] / work[weights] for weights in seconds}


class Estimates:
    """``in_seconds``: weights whose clips' ``nominal`` is in seconds; others give None until one was rendered."""

    def __init__(self, in_seconds: frozenset[str], switch_s: float) -> None:
        self._in_seconds = in_seconds
        self._kinds: dict[str, _Kind] = {}
        self._weights: dict[str, _Mean] = {}
        self._slowness: dict[str, _Mean] = {}
        #: by weights: the shortest load, and the longest
        self._load_s: dict[str, tuple[float, float]] = {}
        self._switch = _Mean()
        self._switch_s = switch_s

    # -- questions ----------------------------------------------------------------------------------------------

    def is_seen(self, kind: str) -> bool:
        return kind in self._kinds and self._kinds[kind].ratio.num > 0

    def ratio(self, kind: str, weights: str) -> float | None:
        """Seconds for one of ``nominal``; None: nothing to go by."""
        if self.is_seen(kind):
            return math.exp(self._kinds[kind].ratio.value)
        if weights in self._weights:
            return math.exp(self._weights[weights].value)
        return 1.0 if weights in self._in_seconds else None

    def slowness(self, replica: str) -> float:
        """1: as fast as its peers; 3: takes three times as long."""
        seen = self._slowness.get(replica)
        if seen is None:
            return 1.0
        num = min(seen.num, MEMORY)
        return math.exp(seen.value * num / (num + DOUBT))

    def seconds(
        self, clip: ClipState, replica: str | None = None, share: float | None = None
    ) -> float | None:
        """What ``share`` of a clip (None: what is not kept) should take, on ``replica`` or a usual one."""
        ratio = self.ratio(clip.kind, clip.weights)
        if ratio is None:
            return None
        left = 1.0 - clip.kept_share if share is None else share
        return clip.nominal * left * ratio * (1.0 if replica is None else self.slowness(replica))

    def share_done(self, clip: ClipState, stage: str, step: int, num_steps: int) -> float | None:
        """How much of a clip is done after step ``step`` of ``stage``; None: the stage says nothing yet."""
        # steps count from the noise on: those of the trunk are not taken in this stage
        first = clip.num_trunk_steps if stage == "denoise" else 0
        part = max(step - first, 0) / (num_steps - first) if num_steps > first else 0.0
        kind = self._kinds.get(clip.kind)
        if kind and stage in kind.stages:
            before = 0.0
            total = sum(mean.value for mean in kind.stages.values()) or 1.0
            for name, mean in kind.stages.items():
                if name == stage:
                    return min((before + mean.value * part) / total, 1.0)
                before += mean.value
        if stage not in ("trunk", "denoise"):
            return None
        if clip.makes_trunk and num_steps:
            part = step / clip.num_steps
        elif stage == "trunk":
            part = 0.0  # it was not expected to make it
        return BASE_SHARE * part / (1 + clip.num_cascade)

    def num_steps(self, clip: ClipState, stage: str) -> int:
        kind = self._kinds.get(clip.kind)
        known = kind.num_steps.get(stage) if kind else None
        return known or {"denoise": clip.num_steps, "trunk": clip.num_trunk_steps}.get(stage, 0)

    def step_s(self, clip: ClipState, stage: str) -> float | None:
        """Seconds between two steps of ``stage``, on whatever replicas there were."""
        kind = self._kinds.get(clip.kind)
        mean = kind.step_s.get(stage) if kind else None
        return mean.value if mean else None

    def switch_s(self) -> float:
        """What the first clip of another group costs a replica on top."""
        return max(self._switch.value, 0.0) if self._switch.num else self._switch_s

    def load_s(self, weights: str) -> float:
        """The shortest load of a replica: others fetched the weights first, or waited for a machine."""
        return self._load_s.get(weights, (0.0, 0.0))[0]

    def longest_load_s(self, weights: str) -> float:
        return self._load_s.get(weights, (0.0, 0.0))[1]

    def thrift(self, kind: str) -> int:
        """The rung to start at: the lowest that two clips of the kind needed, 0 unless they did."""
        known = self._kinds.get(kind)
        return max((rung for rung, num in known.thrifty.items() if num >= 2), default=0) if known else 0

    # -- lessons ------------------------------------------------------------------------------------------------

    def learn_render(
        self,
        clip: ClipState,
        replica: str,
        wall_s: float,
        is_switch: bool,
        stages: Sequence[tuple[str, float]],
    ) -> None:
        """A clip was rendered from start to end on ``replica``, in ``wall_s`` from its order to its record.

        What a stage took beside another clip's steps (``decode_beside``) is that stage's; what the steps of another
        clip took (``ahead``) is not this one's.
        """
        wall_s -= sum(seconds for stage, seconds in stages if stage == "ahead")
        stages = [(stage, seconds) for stage, seconds in stages if stage != "ahead"]
        if wall_s <= 0 or clip.nominal <= 0:
            return
        kind = self._kinds.setdefault(clip.kind, _Kind())
        taken: dict[str, float] = dict.fromkeys(kind.stages, 0.0)
        for stage, seconds in stages:
            name = stage.removesuffix("_beside")
            taken[name] = taken.get(name, 0.0) + seconds
        for stage, seconds in taken.items():
            kind.stages.setdefault(stage, _Mean()).add(seconds)
        if is_switch and kind.ratio.num:
            expected = self.seconds(clip, replica, 1.0)
            assert expected is not None
            self._switch.add(wall_s - expected)
            return
        seen = math.log(wall_s / clip.nominal)
        own = self._slowness.setdefault(replica, _Mean())
        if kind.ratio.num:
            own.add(seen - kind.ratio.value)
        usual = seen - math.log(self.slowness(replica))
        kind.ratio.add(usual)
        self._weights.setdefault(clip.weights, _Mean()).add(usual)

    def learn_step(self, clip: ClipState, stage: str, seconds: float, num_steps: int) -> None:
        kind = self._kinds.setdefault(clip.kind, _Kind())
        kind.num_steps[stage] = num_steps
        if seconds > 0:
            kind.step_s.setdefault(stage, _Mean()).add(seconds)

    def learn_load(self, weights: str, seconds: float) -> None:
        shortest_s, longest_s = self._load_s.get(weights, (seconds, seconds))
        self._load_s[weights] = min(seconds, shortest_s), max(seconds, longest_s)

    def learn_thrift(self, kind: str, rung: int) -> None:
        """A clip went through ``rung`` rungs down, after it had not fitted above."""
        thrifty = self._kinds.setdefault(kind, _Kind()).thrifty
        thrifty[rung] = thrifty.get(rung, 0) + 1

    def forget(self, replica: str) -> None:
        self._slowness.pop(replica, None)
