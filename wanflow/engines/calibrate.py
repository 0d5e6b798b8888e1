"""How far is ``fast`` from ``exact`` on a checkpoint? ``python -m wanflow.engines.calibrate CHECKPOINT`` measures it.

The same prompts and seeds are rendered exactly, then with each threshold of the step cache, and with each interval of
TaylorSeer that ``--taylor`` names, in one expert at a time: distance of the latents (relative L2, the mean over the
clips), share of the forwards that were cut short in each expert, and seconds. Pick what cuts the most short among
clips that you would still sign, look at them, and write it into the job::

    engine: {profile: fast, fast: {cache: 0.08, taylor_low: 3}}

Guidance is left on throughout, unless ``--guidance-until`` says otherwise. Text-to-video only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from wanflow.engines import load_engine, read_spec
from wanflow.engines.wan import WanEngine
from wanflow.errors import WanflowError
from wanflow.model import Clip, Mode, Sampling, Shortcuts

PROMPTS = (
    "A potter shapes a bowl on a spinning wheel, warm light from a window, slow push-in",
    "A red car drives along a coast road at sunset, aerial view",
    "A woman laughs and turns towards the camera in a busy market",
)
THRESHOLDS = (0.02, 0.05, 0.08, 0.12, 0.2)


@dataclass
class Forwards:
    """Forwards of the experts, in their order."""

    begun: list[int] = field(default_factory=lambda: [0, 0])
    #: computed to their end
    whole: list[int] = field(default_factory=lambda: [0, 0])

    def share_skipped(self, expert: int) -> float:
        return 1 - self.whole[expert] / self.begun[expert] if self.begun[expert] else 0.0


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    #: as it is written into a job
    setting: str
    distance: float
    skipped_high: float
    skipped_low: float
    #: of the seconds of exact
    seconds_ratio: float


@contextmanager
def counted(engine: WanEngine) -> Iterator[Forwards]:
    """Count the forwards that ``engine`` makes meanwhile. It compiles nothing from here on: blocks are looked into."""
    found = Forwards()
    engine.set_compile(False)

    def note(numbers: list[int], expert: int) -> Any:
        def hook(*_: object) -> None:
            numbers[expert] += 1

        return hook

    hooks = [
        layer.register_forward_hook(note(numbers, i))
        for i, expert in enumerate(engine._experts)
        for layer, numbers in ((expert.patch_embedding, found.begun), (expert.blocks[-1].ffn, found.whole))
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def relative_l2(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def render(engine: WanEngine, clips: Sequence[Clip]) -> tuple[list[torch.Tensor], float, Forwards]:
    """Latents of each clip, the seconds of all, and their forwards."""
    with counted(engine) as forwards:
        start_s = time.perf_counter()
        latents = [engine.generate(clip, (), lambda *_: None).cpu() for clip in clips]
        return latents, time.perf_counter() - start_s, forwards


def settings(
    thresholds: Sequence[float], intervals: Sequence[int], has_two_experts: bool
) -> Iterator[tuple[str, Shortcuts]]:
    """What is measured, as it is written into a job, and what comes of it."""
    for threshold in thresholds:
        yield f"cache: {threshold:g}", Shortcuts(cache=threshold, cache_low=threshold)
    for interval in intervals:
        yield f"taylor: {interval}", Shortcuts(taylor=interval)
        if has_two_experts:
            yield f"taylor_low: {interval}", Shortcuts(taylor_low=interval)


def measure(
    engine: WanEngine, clips: Sequence[Clip], settings: Iterable[tuple[str, Shortcuts]]
) -> Iterator[Row]:
    """A row a setting; the clips are exact ones."""
    render(engine, [replace(clips[0], sampling=replace(clips[0].sampling, steps=1))])  # warm
    exact, exact_s, _ = render(engine, clips)
    for setting, shortcuts in settings:
        found, seconds, forwards = render(engine, [with_shortcuts(clip, shortcuts) for clip in clips])
        distances = [relative_l2(one, other) for one, other in zip(found, exact, strict=True)]
        yield Row(
            setting,
            sum(distances) / len(distances),
            forwards.share_skipped(0),
            forwards.share_skipped(1),
            seconds / exact_s,
        )


def with_shortcuts(clip: Clip, shortcuts: Shortcuts) -> Clip:
    return replace(clip, sampling=replace(clip.sampling, profile="fast", shortcuts=shortcuts))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m wanflow.engines.calibrate", description=__doc__)
    parser.add_argument("checkpoint", help="as in engine.checkpoint")
    parser.add_argument("--thresholds", type=float, nargs="+", default=THRESHOLDS)
    parser.add_argument("--taylor", type=int, nargs="+", default=(), help="intervals; default: none")
    parser.add_argument("--prompt", action="append", help="again for more; default: three of ours")
    parser.add_argument("--seeds", type=int, default=1, help="clips a prompt")
    parser.add_argument("--size", help="width x height; default: the model's first")
    parser.add_argument("--num-frames", type=int, help="default: the model's")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--guidance-until", type=float, default=1.0)
    parser.add_argument(
        "--batch-guidance", action="store_true", help="both branches in one forward: is it faster?"
    )
    parser.add_argument("--json", action="store_true", help="end with one machine-readable line")
    chosen = parser.parse_args(arguments)
    try:
        spec = read_spec(chosen.checkpoint)
        engine = load_engine(spec)
        assert isinstance(engine, WanEngine)
        width, height = map(int, chosen.size.split("x")) if chosen.size else spec.sizes[0]
        sampling: Sampling = replace(spec.sampling, steps=chosen.steps or spec.sampling.steps)
        clips = [
            Clip(Mode.T2V, spec.weights, prompt, "", None, seed, width, height,
                 chosen.num_frames or spec.num_frames, spec.fps, sampling)
            for prompt in chosen.prompt or PROMPTS
            for seed in range(chosen.seeds)
        ]  # fmt: skip
        print(
            f"{spec.name}, {len(clips)} clips of {width}x{height}x{clips[0].num_frames}, {sampling.steps} steps"
        )
        print("setting         distance  skipped high  skipped low  seconds")
        rows = []
        guidance = {"guidance_until": chosen.guidance_until, "batch_guidance": chosen.batch_guidance}
        wanted = settings(chosen.thresholds, chosen.taylor, sampling.boundary is not None)
        for row in measure(engine, clips, ((name, replace(each, **guidance)) for name, each in wanted)):
            rows.append(row)
            skipped = f"{row.skipped_high:12.0%}  {row.skipped_low:11.0%}"
            print(f"{row.setting:14}  {row.distance:8.3f}  {skipped}  {row.seconds_ratio:7.2f}", flush=True)
    except WanflowError as error:
        print(f"error: {error}")
        return 1
    if chosen.json:
        print(json.dumps([asdict(row) for row in rows]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
