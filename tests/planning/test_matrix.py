"""With a matrix a row is many videos, all of one id: what is told and counted once a video, and what once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.planning.published import pretend_run, stores
from tests.run.jobs import make_job, write_rows
from wanflow import Job, plan, run
from wanflow.cli import main
from wanflow.errors import ManifestError
from wanflow.report import results
from wanflow.testing import load_fake_engine

LOCALES = ["de", "en", "ja", "no"]
ROWS: list[dict[str, Any]] = [{"ad": f"ad-{n}", "prompt": "waves", "headline": f"No. {n}"} for n in range(5)]


def make(folder: Path, checkpoint: str, group: bool, **changes: Any) -> Job:
    """Every ad in four languages; with ``group`` of two scenes each."""
    rows = [row | {"prompt": prompt} for row in ROWS for prompt in ("waves", "dunes")[: 1 + group]]
    return make_job(
        folder,
        checkpoint,
        rows,
        manifest={"url": "manifest.parquet"}
        | ({"group": "ad"} if group else {"rename": {"variant_id": "ad"}}),
        matrix={"locale": LOCALES},
        publish={"url": "out", "path": "{{ variant_id }}/{{ locale }}.mp4"},
        **changes,
    )


@pytest.mark.parametrize("group", [False, True])
def test_a_bad_row_fails_all_its_videos(tmp_path: Path, checkpoint: str, group: bool) -> None:
    """One headline of five is too long: four of twenty videos are not made, which is no night for exit 0."""
    job = make(tmp_path, checkpoint, group, limits={"max_failed": "6%"})
    pretend_run(job)
    rows = [row | {"prompt": prompt} for row in ROWS for prompt in ("waves", "dunes")[: 1 + group]]
    rows[-1] = rows[-1] | {"headline": "x" * 3000}
    write_rows(tmp_path, rows)
    with pytest.raises(ManifestError, match=r"^1 problem\(s\)") as error:
        plan(job)
    assert [(bad.row, bad.variant_id) for bad in error.value.bad_rows] == [(len(rows), "ad-4")]
    assert str(error.value).count("3,000 characters") == 1

    outcome = run(job, inline=True, load_engine=load_fake_engine, skip_bad_rows=True)
    assert (outcome.exit_code, outcome.counts["unchanged"], outcome.counts["failed"]) == (3, 16, 4)
    failed = [row for row in results(stores(job)[0]).to_pylist() if row["status"] == "failed"]
    assert [(row["variant_id"], row["row"]) for row in failed] == [("ad-4", len(rows))] * 4
    assert all("3,000 characters" in row["reason"] for row in failed)


def test_the_plan_tells_a_bad_row_once(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who repairs the table has one cell to repair."""
    job = make(tmp_path, checkpoint, group=False)
    write_rows(tmp_path, [*ROWS[1:], ROWS[0] | {"headline": "x" * 3000}])
    (tmp_path / "job.json").write_text(job.text)
    assert main(["plan", str(tmp_path / "job.json"), "--skip-bad-rows", "--json"]) == 0
    told, facts = capsys.readouterr().out.rsplit("\n{", 1)
    assert told.count("3,000 characters") == 1
    assert '"bad_rows": 1,' in facts
