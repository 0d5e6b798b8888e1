"""Where each replica's time went, from what its run wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wanflow.cli import main
from wanflow.closing import gpu_seconds
from wanflow.ledger import Ledger
from wanflow.model import Status
from wanflow.report import summary
from wanflow.report.replicas import ReplicaTime, replica_times
from wanflow.report.results import ResultRow, build_results
from wanflow.schedule.state import ClipState
from wanflow.storage import Store


def events(folder: Path, rows: list[dict[str, Any]]) -> Ledger:
    ledger = Ledger(Store(str(folder)), "run-1")
    ledger.write_job("wanflow: 1")
    for row in rows:
        ledger.append(row)
    ledger.flush()
    return ledger


def rendered(at_s: float, attempt: int, replica: str = "r1", **seconds: float) -> dict[str, Any]:
    return {
        "time_s": at_s, "event": "ClipRendered", "task": "k", "replica": replica, "attempt": f"1.{attempt}",
        "seconds": seconds,
    }  # fmt: skip


def denoised(at_s: float, attempt: int) -> dict[str, Any]:
    return {"time_s": at_s, "event": "ClipDenoised", "task": "k", "replica": "r1", "attempt": f"1.{attempt}"}


def test_the_share_of_steps_counts_from_the_first_clips_last_step_on(tmp_path: Path) -> None:
    """Loading, compiling and the first clip are another question, and the last clip's end holds up nothing."""
    ledger = events(
        tmp_path,
        [
            denoised(100.0, 1),
            rendered(108.0, 1, encode=1.0, denoise=60.0, decode_beside=6.0, store=2.0),
            denoised(130.0, 2),
            denoised(150.0, 3),
            rendered(137.0, 2, encode=0.5, denoise=29.0, decode_beside=7.0),
            {**rendered(151.0, 3, denoise=15.0, trunk=3.0), "event": "RenderFailed", "cause": "bad_output"},
            denoised(200.0, 4),
            rendered(210.0, 4, **{"denoise": 30.0, "cascade-1": 18.0, "decode": 8.0}),
        ],
    )
    (found,) = replica_times(ledger.read_events())
    assert (found.replica, found.num_attempts) == ("r1", 4)
    assert found.steps_share == pytest.approx((29.0 + 15.0 + 3.0 + 30.0 + 18.0) / 100.0)
    assert found.seconds["decode_beside"] == 13.0


def test_replicas_that_end_each_clip_first_count_from_its_end(tmp_path: Path) -> None:
    """Then what comes behind the steps is time without any."""
    ledger = events(tmp_path, [rendered(10.0, 1, denoise=5.0), rendered(20.0, 2, denoise=6.0, decode=4.0)])
    (found,) = replica_times(ledger.read_events())
    assert found.steps_share == pytest.approx(0.6)


def test_one_clip_says_nothing_yet(tmp_path: Path) -> None:
    steps_kept = {
        "time_s": 5.0,
        "event": "StepsKept",
        "task": "k",
        "replica": "r2",
        "attempt": "1.9",
        "step": 3,
    }
    ledger = events(tmp_path, [rendered(10.0, 1, denoise=5.0), steps_kept])
    assert replica_times(ledger.read_events()) == [ReplicaTime("r1", 1, {"denoise": 5.0}, None)]
    found = summary(ledger.workspace)
    assert found is not None
    assert [each.replica for each in found.replicas] == ["r1"]


def test_status_shows_each_replica(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever pays for GPUs looks here first."""
    job = tmp_path / "job.yaml"
    job.write_text(
        "wanflow: 1\nname: small\nmanifest: {url: rows.csv}\nengine: {checkpoint: pocket}\n"
        "outputs: [{name: o, preset: instagram-square}]\n"
        f"publish: {{url: {tmp_path / 'out'}, path: '{{{{ variant_id }}}}.mp4'}}\nworkspace: {tmp_path / 'work'}\n"
    )
    ledger = Ledger(Store(str(tmp_path / "work")), "20261124T000000.000Z-small-abcdef")
    ledger.write_job(job.read_text())
    for row in (
        denoised(10.0, 1),
        rendered(11.0, 1, denoise=9.0),
        denoised(20.0, 2),
        rendered(21.0, 2, denoise=9.8),
    ):
        ledger.append(row)
    ledger.flush()
    assert main(["status", str(job)]) == 0
    shown = capsys.readouterr().out
    assert "r1" in shown
    assert "98.0%" in shown


def test_what_is_decoded_beside_other_steps_is_told_and_not_billed() -> None:
    """Two clips, one GPU: the second is there once, and so is its price."""
    seconds = {"denoise": 20.0, "decode": 1.0, "decode_beside": 4.0, "store": 2.0, "wait": 3.0}
    clip = ClipState("k", "w", 0, 1.0, 0, "", "", 4, 0, seconds=seconds)
    assert gpu_seconds(clip) == 21.0
    _, parts = build_results([ResultRow("v", 1, Status.PUBLISHED, seconds=seconds, gpu_seconds=21.0)])
    (row,) = [row for part in parts for row in part.to_pylist()]
    assert (row["seconds_denoise"], row["seconds_decode"], row["gpu_seconds"]) == (20.0, 5.0, 21.0)
