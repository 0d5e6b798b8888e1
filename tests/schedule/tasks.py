"""The smallest tasks that the scheduler can be given."""

from __future__ import annotations

from dataclasses import replace

from wanflow.model import (
    AssembleVariant,
    Attempt,
    Branch,
    Clip,
    Mode,
    Output,
    OutputFile,
    RenderClip,
    Sampling,
    Stage,
    Variant,
)
from wanflow.schedule import PlannedRender, Policy, Scheduler
from wanflow.schedule.actions import Action, RequestCapacity
from wanflow.schedule.events import Event, ReplicaReady, RunStarted


def render(key: str, weights: str = "w", trunk: str = "") -> RenderClip:
    """``trunk``: the name of one that it shares, half of its steps."""
    clip = Clip(
        Mode.T2V, weights, key, "", None, 0, 64, 64, 5, 8.0, Sampling(4, 1.0, None, 3.0, "unipc", None)
    )
    if not trunk:
        return RenderClip(clip, (Stage("master", key),))
    return RenderClip(replace(clip, branch=Branch(trunk, 2)), (Stage("trunk", trunk), Stage("master", key)))


def assembly(name: str, *masters: str) -> AssembleVariant:
    output = Output("o", "1x1", 64, 64, 24.0)
    file = OutputFile(output, f"{name}.mp4", f"key-{name}", masters)
    return AssembleVariant(Variant(name, 1, (), ((output, file.path),)), (file,))


def attempt(number: int) -> Attempt:
    return Attempt(7, number)


class Quiet(Scheduler):
    """Leaves out what is asked of the cluster, which most tests are not about."""

    def handle(self, event: Event) -> list[Action]:
        return [action for action in super().handle(event) if not isinstance(action, RequestCapacity)]


def scheduler(
    works: dict[str, float],
    variants: dict[str, tuple[str, ...]] | None = None,
    *,
    weights: dict[str, str] | None = None,
    held: tuple[str, ...] = (),
    in_seconds: bool = False,
    groups: dict[str, str] | None = None,
    kinds: dict[str, str] | None = None,
    priorities: dict[str, int] | None = None,
    quiet: bool = True,
    **policy: object,
) -> Scheduler:
    """Clips by name with their expected work (``in_seconds``: measured); without ``variants`` each clip is one."""
    settings = {"max_replicas": 2, "max_assemblies": 2} | policy
    variants = variants or {f"v-{key}": (key,) for key in works}
    planned = [
        PlannedRender(
            render(key, (weights or {}).get(key, "w")),
            (priorities or {}).get(key, 0),
            work,
            work if in_seconds else None,
            (groups or {}).get(key, ""),
            (kinds or {}).get(key, ""),
            key in held,
        )
        for key, work in works.items()
    ]
    return (Quiet if quiet else Scheduler)(
        planned,
        [(assembly(name, *masters), 0) for name, masters in variants.items()],
        Policy(**settings),  # type: ignore[arg-type]
        epoch=7,
    )


def started(s: Scheduler, num_replicas: int = 1, at_s: float = 0.0) -> Scheduler:
    """The run has begun, and so many replicas are ready."""
    s.handle(RunStarted(at_s))
    for number in range(1, num_replicas + 1):
        s.handle(ReplicaReady(at_s, f"replica-{number}"))
    return s


def running(s: Scheduler, replica: str) -> str | None:
    """The clip that ``replica`` renders; None: none."""
    copy = s.replicas[replica].copy
    return copy.key if copy else None


def rendering(s: Scheduler, replica: str) -> tuple[str, str, Attempt]:
    """(replica, clip, attempt) of what ``replica`` renders, as events want it."""
    copy = s.replicas[replica].copy
    assert copy is not None, f"{replica} renders nothing"
    return replica, copy.key, copy.attempt
