"""How far each profile is from ``exact``, on pocket, on the same seeds: ``python -m benchmarks.profiles --json``.

Held-out prompts in pocket's three shapes are rendered exactly, then with each setting of ``fast``. A line a setting:
forwards of the experts and the share of them that was cut short, distance of the latents (relative L2), PSNR of the
frames against exact, how many clips show what their prompt says (read from pixels by the detectors that pocket's card
uses), and seconds against exact. ``--turbo`` adds four steps of the same weights: pocket is not distilled, so that line
says what turbo would make of a checkpoint without distilled weights, and is the reason why a job may not ask for it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from wanflow.engines.calibrate import Forwards, relative_l2, render, with_shortcuts
from wanflow.engines.wan import WanEngine
from wanflow.job.profiles import FastSection, profiled
from wanflow.model import Clip, Shortcuts
from wanflow.pocket import CHECKPOINT
from wanflow.pocket.detect import detect
from wanflow.pocket.evaluate import psnr
from wanflow.pocket.render import Case, Renderer, clip_of, sample_cases

#: (guidance_until, cache, taylor_low); the cache is the same in both experts, but where Taylor takes the low-noise one
SETTINGS = (
    (1.0, 0.0, 0),
    (0.8, 0.0, 0),
    (0.6, 0.0, 0),
    (0.4, 0.0, 0),
    (1.0, 0.08, 0),
    (1.0, 0.12, 0),
    (1.0, 0.16, 0),
    (1.0, 0.2, 0),
    (1.0, 0.0, 2),
    (1.0, 0.0, 3),
    (0.6, 0.08, 0),
    (0.6, 0.12, 0),
    (0.6, 0.0, 3),
)
PARTS = ("colour", "background", "motion", "kind")


@dataclass(frozen=True)
class Line:
    """One setting."""

    profile: str
    guidance_until: float
    cache: float
    taylor_low: int
    forwards: float
    #: share of the forwards that was cut short
    skipped: float
    latents: float
    psnr_db: float
    #: share of the prompts' parts (colour, background, motion, kind) that clips show
    adherence: float
    seconds_ratio: float


class Bench:
    """The exact clips, and what others are measured against."""

    def __init__(self, checkpoint: Path, num: int, seed: int, threads: int, steps: int | None = None) -> None:
        self._renderer = Renderer(checkpoint, threads)
        self._cases: Sequence[Case] = sample_cases(num, seed)
        clips = [clip_of(case, self._renderer.spec) for case in self._cases]
        self._clips = [
            replace(clip, sampling=replace(clip.sampling, steps=steps or clip.sampling.steps))
            for clip in clips
        ]
        engine = self._renderer.engine
        assert isinstance(engine, WanEngine)
        self._engine = engine
        render(engine, self._clips[:1])  # unmeasured
        self._exact, self._exact_s, self._forwards = render(engine, self._clips)
        self._frames = [self._renderer.frames(latents) for latents in self._exact]

    def exact(self) -> Line:
        return self._line("exact", Shortcuts(), self._exact, self._exact_s, self._forwards)

    def fast(self, shortcuts: Shortcuts) -> Line:
        clips = [with_shortcuts(clip, shortcuts) for clip in self._clips]
        return self._line("fast", shortcuts, *render(self._engine, clips))

    def turbo(self) -> Line:
        sampling = profiled(self._renderer.spec.sampling, "turbo", FastSection())
        clips: list[Clip] = [replace(clip, sampling=sampling) for clip in self._clips]
        return self._line("turbo, not distilled", Shortcuts(0.0), *render(self._engine, clips))

    def _line(
        self, name: str, shortcuts: Shortcuts, found: list[torch.Tensor], seconds: float, forwards: Forwards
    ) -> Line:
        frames = [self._renderer.frames(latents) for latents in found]
        begun, whole = sum(forwards.begun), sum(forwards.whole)
        seen = [asdict(detect(film)) for film in frames]
        right = [
            s[part] == getattr(c.scene, part)
            for s, c in zip(seen, self._cases, strict=True)
            for part in PARTS
        ]
        return Line(
            profile=name,
            guidance_until=shortcuts.guidance_until,
            cache=shortcuts.cache,
            taylor_low=shortcuts.taylor_low,
            forwards=begun / len(found),
            skipped=1 - whole / begun,
            latents=float(np.mean([relative_l2(a, b) for a, b in zip(found, self._exact, strict=True)])),
            psnr_db=float(np.mean([psnr(a, b) for a, b in zip(frames, self._frames, strict=True)])),
            adherence=float(np.mean(right)),
            seconds_ratio=seconds / self._exact_s,
        )


def _setting(text: str) -> tuple[float, float, int]:
    until, cache, *taylor = text.split(":")
    return float(until), float(cache), int(taylor[0]) if taylor else 0


def _shortcuts(until: float, cache: float, taylor_low: int) -> Shortcuts:
    return Shortcuts(until, cache, 0.0 if taylor_low else cache, taylor_low=taylor_low)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiles", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: pocket's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--settings",
        nargs="+",
        type=_setting,
        default=SETTINGS,
        help="UNTIL:CACHE or UNTIL:CACHE:TAYLOR_LOW, guidance and step cache of a line",
    )
    parser.add_argument("--turbo", action="store_true", help="four steps of the same weights, too")
    parser.add_argument("--json", action="store_true", help="end with one machine-readable line")
    chosen = parser.parse_args(arguments)
    bench = Bench(chosen.checkpoint, chosen.clips, chosen.seed, chosen.threads, chosen.steps)
    print(
        "profile               until  cache  taylor low  forwards  skipped  latents  psnr dB  adherence  seconds"
    )
    lines = []
    runs = [bench.exact, *(lambda s=s: bench.fast(_shortcuts(*s)) for s in chosen.settings)]
    for run in (*runs, bench.turbo) if chosen.turbo else runs:
        line = run()
        lines.append(line)
        print(
            f"{line.profile:20}  {line.guidance_until:5.2f}  {line.cache:5.2f}  {line.taylor_low:10}  "
            f"{line.forwards:8.1f}  {line.skipped:7.0%}  {line.latents:7.3f}  {line.psnr_db:7.1f}  "
            f"{line.adherence:9.0%}  {line.seconds_ratio:7.2f}",
            flush=True,
        )
    if chosen.json:
        print(json.dumps([asdict(line) for line in lines]))


if __name__ == "__main__":
    main()
