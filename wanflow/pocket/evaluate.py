"""Does pocket do what its card says? ``python -m wanflow.pocket.evaluate`` measures it and prints pass or fail a line.

Prompts are held-out combinations (a colour never seen with that kind, or never over that background), rendered by
wanflow's engine with the checkpoint's defaults and judged from pixels by ``detect``. The VAE and ``refine``
are measured against drawn truth. Exit code 1 when a line fails.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wanflow.pocket import CHECKPOINT
from wanflow.pocket.detail import measure_refine
from wanflow.pocket.detect import detect, detect_at
from wanflow.pocket.render import Renderer, drawn_frames, sample_cases
from wanflow.pocket.scenes import sample_scene

#: (height, width) of the timed clip.
TIMED = (96, 160)


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    name: str
    value: float
    target: float
    unit: str = "%"
    #: Whether more is better.
    rising: bool = True

    @property
    def passed(self) -> bool:
        return self.value >= self.target if self.rising else self.value <= self.target


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures in dB."""
    error = float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))
    return 10 * float(np.log10(255**2 / max(error, 1e-3)))


def measure_text(renderer: Renderer, num: int, seed: int) -> list[Line]:
    """Text-to-video: does the clip show what the prompt says?"""
    right: Counter[str] = Counter()
    for case in sample_cases(num, seed):
        seen = asdict(detect(renderer.frames(renderer.latents(case))))
        right.update(key for key, value in seen.items() if value == getattr(case.scene, key))
    targets = {"colour": 95.0, "background": 95.0, "motion": 90.0, "kind": 85.0}
    return [Line(f"text: {key}", 100 * right[key] / num, target) for key, target in targets.items()]


def measure_image(renderer: Renderer, num: int, seed: int) -> list[Line]:
    """Image-to-video: is the image the first frame, does it move as told, is it itself at the end?"""
    first, motion, identity = [], 0, 0
    for case in sample_cases(num, seed, images=True):
        frames = renderer.frames(renderer.latents(case))
        first.append(psnr(frames[0], drawn_frames(case.scene, case.size)[0]))
        motion += detect(frames).motion == case.scene.motion
        identity += detect_at(frames, -1) == (case.scene.kind, case.scene.colour)
    return [
        Line("image: first frame", float(np.mean(first)), 26.0, "dB"),
        Line("image: motion", 100 * motion / num, 85.0),
        Line("image: identity at the end", 100 * identity / num, 85.0),
    ]


def measure_vae(renderer: Renderer, num: int, seed: int) -> list[Line]:
    """The autoencoder on drawn clips, each forwards and backwards: a subject that grows is harder to draw at the
    end, and that is no drift."""
    rng = random.Random(f"vae cases {seed}")
    whole, drift, kinds = [], [], 0
    for i in range(num):
        scene = sample_scene(rng)
        truth = drawn_frames(scene, ((96, 160), (160, 96), (128, 128))[i % 3])
        for played in (truth, truth[::-1].copy()):
            out = renderer.frames(renderer.encoded(played))
            kinds += detect(out).kind == scene.kind
            whole.append(psnr(out, played))
            drift.append(psnr(out[0], played[0]) - psnr(out[-1], played[-1]))
    return [
        Line("vae: reconstruction", float(np.mean(whole)), 30.0, "dB"),
        Line("vae: last frame below the first", float(np.mean(drift)), 1.0, "dB", rising=False),
        Line("vae: kind kept", 100 * kinds / (2 * num), 90.0),
    ]


def measure_speed(checkpoint: Path, threads: int) -> list[Line]:
    """Seconds for loading, a base clip and a refined clip; the best of three each."""
    renderer = Renderer(checkpoint, threads)
    case = next(c for c in sample_cases(3, 7) if c.size == TIMED)

    def refined() -> None:
        renderer.refined(case, renderer.latents(case))

    timed: tuple[tuple[str, float, Callable[[], object]], ...] = (
        ("speed: load", 2.0, lambda: Renderer(checkpoint, threads)),
        ("speed: base clip", 5.0, lambda: renderer.frames(renderer.latents(case))),
        ("speed: refined clip", 10.0, refined),
    )
    lines = []
    for name, target, work in timed:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        lines.append(Line(name, min(seconds), target, "s", rising=False))
    return lines


def measure_seeds(renderer: Renderer) -> list[Line]:
    """Same seed, same bytes; another seed, another clip."""
    case = sample_cases(1, 11)[0]
    once, again = renderer.latents(case), renderer.latents(case)
    same = once.numpy().tobytes() == again.numpy().tobytes()
    other = type(case)(case.scene, case.prompt, case.size, case.seed + 1)
    apart = np.abs(
        renderer.frames(once).astype(float) - renderer.frames(renderer.latents(other)).astype(float)
    ).mean()
    return [
        Line("seeds: same seed, same bytes", 100.0 * same, 100.0),
        Line("seeds: another seed differs by", float(apart), 3.0, "levels"),
    ]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m wanflow.pocket.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="end with one machine-readable line")
    chosen = parser.parse_args(arguments)
    renderer = Renderer(chosen.checkpoint, chosen.threads)
    num = chosen.prompts
    lines: list[Line] = []
    measures: tuple[Callable[[], list[Line]], ...] = (
        lambda: measure_text(renderer, num, chosen.seed),
        lambda: measure_image(renderer, max(4, num // 2), chosen.seed),
        lambda: measure_vae(renderer, max(3, min(64, num // 3)), chosen.seed),
        lambda: [Line(*row) for row in measure_refine(renderer, max(3, min(12, num // 10)), chosen.seed)],
        lambda: measure_speed(chosen.checkpoint, chosen.threads),
        lambda: measure_seeds(renderer),
    )
    for measure in measures:
        for line in measure():
            lines.append(line)
            mark = "pass" if line.passed else "FAIL"
            sign = ">=" if line.rising else "<="
            print(
                f"{mark}  {line.name:34} {line.value:8.2f} {line.unit:6} {sign} {line.target:g}", flush=True
            )
    if chosen.json:
        print(json.dumps([{**asdict(line), "passed": line.passed} for line in lines]))
    sys.exit(0 if all(line.passed for line in lines) else 1)


if __name__ == "__main__":
    main()
