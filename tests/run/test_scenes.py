"""Videos of several scenes, from the table to the published file, with the fake engine and the real ffmpeg."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.checkpoints import make
from tests.run.jobs import make_job, write_rows
from wanflow import Job, Outcome, run
from wanflow.model import EngineSpec
from wanflow.report import results, summary
from wanflow.storage import Store
from wanflow.testing import FakeEngine

BLUE, GREEN, WHITE = "#0000ff", "#00ff00", "#ffffff"
#: an ad of three scenes and one of two, which begin with the same hook; not in the order in which they are shown
ROWS: list[dict[str, Any]] = [
    {"ad": "spring", "part": "10", "prompt": "call to action", "tint": GREEN, "seconds": 2.0},
    {"ad": "spring", "part": "1", "prompt": "hook", "tint": BLUE, "seconds": 0.5},
    {"ad": "autumn", "part": "2", "prompt": "leaves", "tint": WHITE, "seconds": 0.5},
    {"ad": "spring", "part": "9", "prompt": "product", "tint": WHITE, "seconds": 0.5},
    {"ad": "autumn", "part": "1", "prompt": "hook", "tint": BLUE, "seconds": 0.5},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


@pytest.fixture
def job(tmp_path: Path, checkpoint: str) -> Job:
    return make_job(
        tmp_path,
        checkpoint,
        ROWS,
        manifest={"url": "manifest.parquet", "group": {"by": "ad", "order": "part"}},
        clip={"aspect": "1x1"},
        layers=[{"box": {"color": "{{ tint }}", "at": "bottom", "height": "30%"}}],
        publish={"url": "out", "carry": ["ad"]},
    )


def render(job: Job) -> tuple[Outcome, list[str]]:
    """The outcome, and the prompts of what was rendered."""
    engines: list[FakeEngine] = []

    def load(spec: EngineSpec, device: str | None, num_threads: int | None) -> FakeEngine:
        engines.append(FakeEngine(spec))
        return engines[-1]

    outcome = run(job, inline=True, load_engine=load)
    return outcome, sorted(prompt for engine in engines for prompt in engine.rendered)


def colour_of(prompt: str) -> np.ndarray:
    """What the fake engine paints for it."""
    return np.frombuffer(hashlib.sha256(f"{prompt} 0 0".encode()).digest()[:3], np.uint8)


def assert_shows(path: Path, *scenes: tuple[str, str, int]) -> None:
    """``path`` shows ``scenes`` (prompt, colour of the box, frames), each with its own box, and nothing else."""
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)]
    expected = [scene for scene in scenes for _ in range(scene[2])]
    assert len(frames) == len(expected)
    for number, (frame, (prompt, tint, _)) in enumerate(zip(frames, expected, strict=True)):
        height = len(frame)
        seen = np.median(frame[: height // 2], axis=(0, 1)), np.median(frame[-height // 5 :], axis=(0, 1))
        box = np.array([int(tint[i : i + 2], 16) for i in (1, 3, 5)])
        assert np.abs(seen[0] - colour_of(prompt)).max() < 20, f"frame {number} does not show {prompt}"
        assert np.abs(seen[1] - box).max() < 20, f"frame {number} has not the box of {prompt}"


def test_scenes_follow_one_another_and_a_changed_one_is_rendered_alone(job: Job, tmp_path: Path) -> None:
    """Clips have 5 and 9 frames at 4 a second, which are 38 and 68 of the 30 a second that are published."""
    outcome, rendered = render(job)
    assert (outcome.exit_code, outcome.counts["published"]) == (0, 2)
    assert rendered == ["call to action", "hook", "leaves", "product"], "the hook of both is one clip"
    spring, autumn = tmp_path / "out/spring/square.mp4", tmp_path / "out/autumn/square.mp4"
    call = ("call to action", GREEN, 68)
    assert_shows(spring, ("hook", BLUE, 38), ("product", WHITE, 38), call)
    assert_shows(autumn, ("hook", BLUE, 38), ("leaves", WHITE, 38))
    assert spring.with_suffix(".jpg").exists()

    before = autumn.stat()
    write_rows(tmp_path, [*ROWS[:3], ROWS[3] | {"prompt": "bottle"}, ROWS[4]])
    outcome, rendered = render(job)
    assert (outcome.counts["published"], outcome.counts["unchanged"]) == (1, 1)
    assert rendered == ["bottle"]
    assert_shows(spring, ("hook", BLUE, 38), ("bottle", WHITE, 38), call)
    assert autumn.stat().st_mtime_ns == before.st_mtime_ns

    write_rows(tmp_path, [row | ({"prompt": "teaser"} if row["prompt"] == "hook" else {}) for row in ROWS])
    outcome, rendered = render(job)
    assert outcome.counts["published"] == 2
    assert rendered == ["teaser"], "the product shot of the first night is in the store"
    assert_shows(autumn, ("teaser", BLUE, 38), ("leaves", WHITE, 38))


def test_a_lesson_of_many_slides_is_as_long_as_their_whole_frames(tmp_path: Path, checkpoint: str) -> None:
    """Each clip of 37.5 frames is shown for 38: twelve of them are six frames longer than their seconds say."""
    rows = [{"variant_id": "a", "prompt": f"slide {n % 2}", "seconds": 0.5} for n in range(12)]
    job = make_job(
        tmp_path,
        checkpoint,
        rows,
        manifest={"url": "manifest.parquet", "group": "variant_id"},
        clip={"aspect": "1x1"},
        layers=[],
        publish={"url": "out"},
    )
    outcome, rendered = render(job)
    assert (outcome.counts["published"], rendered) == (1, ["slide 0", "slide 1"])
    with av.open(str(tmp_path / "out/a/square.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 12 * 38


def test_an_unchanged_night_makes_nothing_and_has_a_row_a_video(job: Job) -> None:
    """Ten slides a lesson or one: a quiet night is quiet."""
    render(job)
    outcome, rendered = render(job)
    assert (outcome.counts["unchanged"], rendered) == (2, [])
    store = Store(str(job.workspace))
    assert summary(store).counts["unchanged"] == 2
    assert [
        (row["variant_id"], row["row"], row["status"], row["ad"]) for row in results(store).to_pylist()
    ] == [
        ("spring", 1, "unchanged", "spring"),
        ("autumn", 3, "unchanged", "autumn"),
    ]


def test_results_price_all_scenes_of_a_video(job: Job) -> None:
    """A shared hook is split, the other clips are their video's own: the rows add up to the night."""
    outcome, _ = render(job)
    rows = {row["variant_id"]: row for row in results(Store(str(job.workspace))).to_pylist()}
    assert rows["spring"]["attempts"] == 4, "three clips and an assembly"
    assert rows["autumn"]["attempts"] == 3
    assert sum(row["gpu_seconds"] for row in rows.values()) == pytest.approx(outcome.gpu_seconds, abs=0.01)
