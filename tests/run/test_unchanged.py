"""A quiet night at size: twenty thousand customers, nothing changed."""

from __future__ import annotations

import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.checkpoints import make
from tests.run.jobs import job_dict, write_logo, write_rows
from wanflow import plan
from wanflow.job import load_job
from wanflow.model import Attempt
from wanflow.planning import PlannedVariant
from wanflow.publish import publish
from wanflow.storage import Store

NUM_ROWS = 20_000


@pytest.mark.slow
def test_unchanged_job_of_twenty_thousand_rows_ends_in_ten_seconds_of_cpu(tmp_path: Path) -> None:
    """Cron starts it every night; on most nights it has nothing to do, and should cost nothing.

    Counted in processor seconds, so that a busy machine does not make it fail.
    """
    checkpoint = str(make("pocket", tmp_path / "checkpoint"))
    rows = [
        {"variant_id": f"c{i}", "prompt": f"waves {i % 12}", "headline": f"Hello {i}", "segment": f"s{i % 7}"}
        for i in range(NUM_ROWS)
    ]
    write_rows(tmp_path, rows)
    write_logo(tmp_path)
    path = tmp_path / "job.yaml"
    YAML(typ="safe").dump(job_dict(checkpoint), path)
    job = load_job(path)
    _pretend_that_all_is_published(tmp_path, plan(job).variants)

    for attempt in ("reads the records", "reads the index"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "wanflow.cli", "run", str(path), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert f'"unchanged": {NUM_ROWS}' in done.stdout.splitlines()[-1]
        cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        print(f"{attempt}: {cpu_s:.1f} s")
    assert cpu_s < 10


def _pretend_that_all_is_published(folder: Path, variants: tuple[PlannedVariant, ...]) -> None:
    """What a night of work would have left: a file and a record for every variant."""
    video = folder / "video.mp4"
    video.write_bytes(b"a video")
    poster = folder / "poster.jpg"
    poster.write_bytes(b"a poster")
    target, workspace = Store(str(folder / "out")), Store(str(folder / "out/.wanflow"))

    def one(planned: PlannedVariant) -> None:
        for file in planned.files:
            local = {"video": video, "poster": poster}
            publish(target, workspace, file, planned.variant.variant_id, local, Attempt(1, 1), "run", {})

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, variants))
