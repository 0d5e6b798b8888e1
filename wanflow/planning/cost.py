"""What a plan costs: GPU seconds from what was measured, and a price for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from wanflow.job import Job
from wanflow.keys import trunk_key
from wanflow.model import Clip, Scalar
from wanflow.planning.plan import Plan, Shape
from wanflow.planning.wanted import WantedClips
from wanflow.timings import expected_s, shape_key


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one replica, and their price. A clip that was never measured counts nothing, and is counted."""

    #: to render what the plan renders, at most: a clip that is half done counts whole
    gpu_s: float
    num_clips: int
    num_never_measured: int
    #: what rendering a clip for every variant would take on top
    saved_by_sharing_s: float
    #: what rendering every clip anew would take on top
    saved_by_holding_s: float
    #: what it would take on top if each clip to render took all of its steps itself
    saved_by_branching_s: float
    #: price of a second of one replica; None: the job has no ``resources.gpu_hour``
    price_per_s: float | None

    def price(self, seconds: float) -> float | None:
        return None if self.price_per_s is None else round(seconds * self.price_per_s, 4)

    def to_json(self) -> dict[str, Scalar]:
        return {
            "gpu_s": round(self.gpu_s, 3),
            "price": self.price(self.gpu_s),
            "clips": self.num_clips,
            "clips_never_measured": self.num_never_measured,
            "saved_by_sharing_s": round(self.saved_by_sharing_s, 3),
            "saved_by_sharing": self.price(self.saved_by_sharing_s),
            "saved_by_holding_s": round(self.saved_by_holding_s, 3),
            "saved_by_holding": self.price(self.saved_by_holding_s),
            "saved_by_branching_s": round(self.saved_by_branching_s, 3),
            "saved_by_branching": self.price(self.saved_by_branching_s),
        }


def cost_of(plan: Plan, job: Job) -> Cost:
    """What ``plan`` costs with the prices of ``job``."""
    measured = [clip.expected_s for clip in plan.to_render]
    gpu_s = sum(seconds for seconds in measured if seconds is not None)
    once_s = sum(shape.num_clips * (shape.expected_s or 0.0) for shape in plan.shapes)
    unshared_s = sum(shape.num_uses * (shape.expected_s or 0.0) for shape in plan.shapes)
    return Cost(
        gpu_s=gpu_s,
        num_clips=len(measured),
        num_never_measured=measured.count(None),
        saved_by_sharing_s=unshared_s - once_s,
        saved_by_holding_s=max(0.0, once_s - gpu_s),
        saved_by_branching_s=sum(clip.shared_s or 0.0 for clip in plan.to_render),
        price_per_s=price_per_s(job),
    )


def price_per_s(job: Job) -> float | None:
    """What a second of one replica costs, in the currency of ``resources.gpu_hour``."""
    hour = job.resources.gpu_hour
    return None if hour is None else hour / 3600 * max(job.resources.gpus_per_replica or 1, 1)


def shapes_of(wanted: WantedClips, timings: Mapping[str, float]) -> tuple[Shape, ...]:
    """The clips that a manifest asks for, with the number of their uses, by what they should take."""
    clips: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    seconds: dict[str, float | None] = {}
    trunks: set[str] = set()

    def count(clip: Clip, num_clips: int, num_uses: int, makes_trunk: bool) -> None:
        key = shape_key(clip, makes_trunk)
        clips[key] += num_clips
        uses[key] += num_uses
        if key not in seconds:
            seconds[key] = expected_s(clip, timings, makes_trunk)

    for master, clip in wanted.clips.items():
        num_uses = wanted.num_uses[master]
        if clip.branch is not None and (trunk := trunk_key(clip, clip.branch)) not in trunks:
            trunks.add(trunk)
            count(clip, 1, 1, makes_trunk=True)
            count(clip, 0, num_uses - 1, makes_trunk=False)
        else:
            count(clip, 1, num_uses, makes_trunk=clip.branch is None)
    return tuple(Shape(number, uses[key], seconds[key]) for key, number in clips.items())
