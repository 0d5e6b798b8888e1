"""Whole programs that make the same clips or ads, each in a process of its own: what one would write, and wanflow.

=================  ==================================================================================================
``wanflow``        ``run(job)`` on Ray: planning, records, masters, assembly, publishing, results
``diffusers``      load the pipeline once, loop over the rows, write a file a row
``ray_data``       Ray Data ``map_batches`` on an actor pool of a pipeline a core, a file a row
``diffusers_ads``  a clip for each prompt as above, then each variant assembled with wanflow's ffmpeg graph, one by one
``naive_ads``      a clip for each variant, then as above
=================  ==================================================================================================

Seconds are of the clock, from the start of the interpreter to its end: imports, loading and Ray's start count, for
everybody. Peers write H.264 without a master. Same prompts, seeds, size, steps and guidance for all.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT, NUM_FRAMES, FPS = 160, 96, 17, 8
#: groups of variants of one composition, and variants in each
BRANCHED_GROUPS, BRANCHED_OF = 12, 8
COLOURS = ("purple", "orange", "cyan", "pink", "green", "yellow", "blue", "red")
KINDS = ("waves", "bokeh", "gradient")
GROUNDS = ("navy", "black", "beige")


def prompts(num_clips: int) -> list[str]:
    """Different backdrops, as an ad would have them."""
    every = [f"{c} {k} drifting left over {g}" for g in GROUNDS for k in KINDS for c in COLOURS]
    if num_clips > len(every):
        raise ValueError(f"there are {len(every)} different prompts, not {num_clips}")
    return every[:num_clips]


def write_job(folder: Path, num_clips: int, num_variants: int) -> Path:
    """A job of so many variants that share the clips; without layers where each has a clip of its own."""
    every = prompts(num_clips)
    rows = [
        {"variant_id": f"v{i:04d}", "prompt": every[i % num_clips], "headline": f"Made for customer {i}"}
        for i in range(num_variants)
    ]
    is_ads = num_variants > num_clips
    layers = (
        [{"text": {"value": "{{ headline }}", "at": "lower-third", "style": "headline"}}] if is_ads else []
    )
    return _write_job(folder, rows, {}, layers, {} if is_ads else {"width": WIDTH, "height": HEIGHT})


def write_branching_job(folder: Path, num_groups: int, num_variants: int, is_branched: bool) -> Path:
    """A job of ``num_groups`` base prompts with so many variants each, which leave the group's trunk or have none."""
    rows = [
        {"variant_id": f"v{i:02d}-{j}", "base_prompt": base, "prompt": f"{base}, {word}", "seed": i}
        for i, base in enumerate(prompts(num_groups))
        for j, word in enumerate(
            ("small", "large", "slow", "fast", "calm", "bright", "soft", "near")[:num_variants]
        )
    ]
    branch = {"branch": {"at": "boundary", "on": "{{ base_prompt }}"}} if is_branched else {}
    return _write_job(folder, rows, branch, [], {"width": WIDTH, "height": HEIGHT})


def _write_job(
    folder: Path,
    rows: list[dict[str, Any]],
    clip: dict[str, Any],
    layers: list[dict[str, Any]],
    size: dict[str, int],
) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    job = {
        "wanflow": 1,
        "name": "engine",
        "manifest": {"url": "manifest.parquet"},
        "engine": {"checkpoint": "pocket"},
        "clip": {"aspect": "16x9", "num_frames": NUM_FRAMES} | clip,
        "layers": layers,
        "outputs": [{"name": "web", "preset": "preview", "from": "16x9", "poster": False} | size],
        "publish": {"url": "out", "path": "{{ variant_id }}.mp4"},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))  # which is YAML, too
    return path


# -- the programs, each in a process of its own ------------------------------------------------------------------


def wanflow(job: Path) -> None:
    from wanflow import Job, run

    outcome = run(Job.load(str(job)))
    assert outcome.exit_code == 0, outcome.message


def diffusers(job: Path) -> None:
    pipeline = _Pipeline()
    for row in _rows(job):
        _write(pipeline.frames(row["prompt"]), job.parent / f"{row['variant_id']}.mp4")


def ray_data(job: Path) -> None:
    import ray

    ray.init(include_dashboard=False, log_to_driver=False)
    folder = str(job.parent)

    class Render:
        def __init__(self) -> None:
            import torch

            torch.set_num_threads(1)
            self._pipeline = _Pipeline()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            for name, prompt in zip(batch["variant_id"], batch["prompt"], strict=True):
                _write(self._pipeline.frames(str(prompt)), Path(folder, f"{name}.mp4"))
            return {"variant_id": batch["variant_id"]}

    cores = os.cpu_count() or 1
    rows = ray.data.from_items(_rows(job), override_num_blocks=len(_rows(job)))
    rows.map_batches(Render, batch_size=1, num_cpus=1, concurrency=cores).materialize()


def diffusers_ads(job: Path) -> None:
    _ads(job, is_naive=False)


def naive_ads(job: Path) -> None:
    _ads(job, is_naive=True)


def _ads(job: Path, is_naive: bool) -> None:
    """Variant by variant; a clip that was made is kept, unless ``is_naive``."""
    from wanflow import Job, plan
    from wanflow.assemble import assemble

    pipeline, masters = _Pipeline(), {}
    for planned in plan(Job.load(str(job))).to_assemble:
        (file,) = planned.files
        key = file.masters[0]
        if is_naive or key not in masters:
            masters[key] = job.parent / f"{key}.mp4"
            _write(pipeline.frames(planned.variant.scenes[0].clip("16x9").prompt), masters[key], crf=4)
        assemble(planned.variant, file, masters, {}, job.parent / planned.variant.variant_id)


class _Pipeline:
    """diffusers' own, as its documentation shows it."""

    def __init__(self) -> None:
        from diffusers import WanPipeline

        from wanflow.engines import read_spec
        from wanflow.pocket import CHECKPOINT

        self._sampling = read_spec("pocket").sampling
        self._pipeline: Any = WanPipeline.from_pretrained(CHECKPOINT)
        self._pipeline.set_progress_bar_config(disable=True)

    def frames(self, prompt: str) -> Any:
        import torch

        sampling = self._sampling
        made = self._pipeline(
            prompt=prompt, height=HEIGHT, width=WIDTH, num_frames=NUM_FRAMES, num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance, guidance_scale_2=sampling.guidance_low,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        return (made.frames[0] * 255).round().astype("uint8")


def _write(frames: Any, path: Path, crf: int = 20) -> None:
    """With imageio-ffmpeg, which diffusers' ``export_to_video`` uses as well."""
    from imageio_ffmpeg import write_frames

    writer = write_frames(
        str(path),
        (WIDTH, HEIGHT),
        fps=FPS,
        codec="libx264",
        macro_block_size=2,
        output_params=["-crf", str(crf)],
    )
    writer.send(None)
    for frame in frames:
        writer.send(frame.tobytes())
    writer.close()


def _rows(job: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(job.parent / "manifest.parquet").to_pylist()


# -- measuring ---------------------------------------------------------------------------------------------------


def measure_programs(num_clips: int, num_variants: int, naive: bool, branches: bool) -> dict[str, Any]:
    """Seconds of each program, and how many times longer a peer takes than wanflow."""

    def time_clips(program: str, num_videos: int) -> float:
        write = functools.partial(write_job, num_clips=num_clips, num_variants=num_videos)
        return time_program(program, write, num_videos)

    seconds = {f"unique_{p}_s": time_clips(p, num_clips) for p in ("wanflow", "diffusers", "ray_data")}
    figures: dict[str, Any] = {"clips": num_clips, **seconds}
    for peer in ("diffusers", "ray_data"):
        figures[f"unique_vs_{peer}"] = round(seconds[f"unique_{peer}_s"] / seconds["unique_wanflow_s"], 3)
    if num_variants:
        figures["variants"] = num_variants
        peers = {
            "shared_vs_diffusers": "diffusers_ads",
            **({"shared_vs_naive": "naive_ads"} if naive else {}),
        }
        ours_s = figures["shared_wanflow_s"] = time_clips("wanflow", num_variants)
        for name, program in peers.items():
            figures[f"shared_{program}_s"] = theirs_s = time_clips(program, num_variants)
            figures[name] = round(theirs_s / ours_s, 3)
    if branches:
        groups, of = BRANCHED_GROUPS, BRANCHED_OF
        for name, is_branched in (("full", False), ("branch", True)):
            write = functools.partial(
                write_branching_job, num_groups=groups, num_variants=of, is_branched=is_branched
            )
            figures[f"{name}_wanflow_s"] = time_program("wanflow", write, groups * of)
        figures["branch_vs_full"] = round(figures["full_wanflow_s"] / figures["branch_wanflow_s"], 3)
    return figures


def time_program(name: str, write: Callable[[Path], Path], num_videos: int) -> float:
    """Seconds from start to end of one program on the job that ``write`` writes into a folder.

    RuntimeError when it fails or leaves videos out.
    """
    with tempfile.TemporaryDirectory(prefix="wanflow-engine-") as folder:
        job = write(Path(folder))
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.engine_programs", name, str(job)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
        began_s = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        took_s = time.monotonic() - began_s
        num_made = sum(1 for _ in _videos(Path(folder)))
        if done.returncode or num_made < num_videos:
            raise RuntimeError(f"{name} made {num_made} of {num_videos} videos: {done.stderr[-2000:]}")
        print(f"{name}: {num_videos} videos in {took_s:.1f} s", file=sys.stderr, flush=True)
        return round(took_s, 2)


def _videos(folder: Path) -> Iterator[Path]:
    """Finished ones: neither wanflow's nor a peer's own masters."""
    for path in folder.rglob("*.mp4"):
        if ".wanflow" not in path.parts and len(path.stem) < 64:
            yield path


def table(figures: dict[str, Any]) -> str:
    lines = ["| figure | value |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in figures.items())])


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
