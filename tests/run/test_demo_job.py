"""The demo job as it is in the repository, on other checkpoints and other stores: only flags change, never the file."""

from __future__ import annotations

from pathlib import Path

import av
import pyarrow.parquet as pq
import pytest

from tests.checkpoints import make
from tests.conftest import S3
from tests.run.test_ray import Run
from wanflow.job import load_job
from wanflow.storage import Store

JOB = Path(__file__).parents[2] / "jobs" / "ad_variants.yaml"
#: one brand's ads: nine variants of nine clips, three aspects, both modes
ONE_BRAND = ("--only", "customer = 'onda'")


def checkpoints(layout: str, folder: Path) -> list[str]:
    """``--set`` flags that put tiny random weights of ``layout`` in pocket's place."""
    if layout == "a14b":
        t2v, i2v = make("a14b_t2v", folder / "t2v"), make("a14b_i2v", folder / "i2v", seed=1)
        return ["--set", f"engine.checkpoint={{t2v: {t2v}, i2v: {i2v}}}"]
    return ["--set", f"engine.checkpoint={make(layout, folder / layout)}"]


@pytest.mark.parametrize(
    "layout",
    [
        # pocket's layout is what the job runs on in the other tests, and A14B's is the one with two engines
        pytest.param("pocket", marks=pytest.mark.soak),
        pytest.param("ti2v_5b", marks=pytest.mark.soak),
        pytest.param("a14b", marks=pytest.mark.slow),
    ],
)
def test_demo_job_runs_unchanged_on_other_checkpoints(layout: str, tmp_path: Path) -> None:
    """The platform engineer takes the marketing engineer's job to the cluster and names the real weights."""
    flags = [*checkpoints(layout, tmp_path), "--set", f"publish.url={tmp_path / 'out'}", *ONE_BRAND]
    run = Run(JOB, *flags)
    assert run.end() == 0
    assert run.lines[-1]["counts"]["published"] == 9
    assert run.lines[-1]["num_clips_rendered"] == 9
    weights = {line["weights"] for line in run.events("StartReplica")}
    assert len(weights) == (2 if layout == "a14b" else 1)
    sizes = set()
    for path in sorted((tmp_path / "out" / "onda").glob("*.mp4")):
        with av.open(str(path)) as video:
            stream = video.streams.video[0]
            sizes.add((stream.width, stream.height))
            assert stream.average_rate == 24
            assert sum(1 for _ in video.decode(stream)) > 1
    assert sizes == {(720, 1280), (720, 720), (1280, 720)}


@pytest.mark.slow
def test_demo_job_publishes_to_s3_and_an_unchanged_run_does_nothing(
    s3: S3, s3_url: str, tmp_path: Path
) -> None:
    """Deliverables and workspace in buckets; nothing of the run is kept on a disk."""
    flags = [
        *checkpoints("pocket", tmp_path),
        "--set", f"publish.url={s3_url}/ads",
        "--set", f"workspace={s3_url}/work",
        *ONE_BRAND,
    ]  # fmt: skip
    first = Run(JOB, *flags, env=s3.env)
    assert first.end() == 0
    assert first.lines[-1]["counts"]["published"] == 9
    target = Store(f"{s3_url}/ads")
    videos = [stat.path for stat in target.list() if stat.path.endswith(".mp4")]
    assert len(videos) == 9
    local = tmp_path / "one.mp4"
    target.fetch(videos[0], local)
    with av.open(str(local)) as video:
        assert sum(1 for _ in video.decode(video=0)) > 1
    catalog = tmp_path / "files.parquet"
    target.fetch("catalog/files.parquet", catalog)
    rows = pq.read_table(catalog).to_pylist()
    assert {row["path"] for row in rows if row["kind"] == "video"} == set(videos)
    assert {row["customer"] for row in rows} == {"onda"}
    assert "test-secret-never-shown" not in str(first.lines)

    second = Run(JOB, *flags, env=s3.env)
    assert second.end() == 0
    assert second.lines[-1]["counts"]["unchanged"] == 9
    assert not second.events("StartReplica")


def test_demo_plan_shares_clips() -> None:
    """Thirty-six ads of four brands are twelve clips: that is the whole point."""
    from wanflow.driver import plan

    made = plan(load_job(JOB, ["publish.url=memory://demo-plan"]))
    assert len(made.variants) == 36
    assert made.num_clips_wanted == 12
    assert len(made.to_assemble) == 36
