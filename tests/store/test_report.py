"""Results, catalog, outcome, and what status shows after any kind of end."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from wanflow.cli import main
from wanflow.errors import StoreError, UsageError
from wanflow.lease import Lease
from wanflow.ledger import Ledger, run_ids
from wanflow.model import Attempt, Output, OutputFile, Record, Scalar, Status, StoredFile
from wanflow.publish import Published, publish
from wanflow.report import RunState, results, summary
from wanflow.report.catalog import read_catalog, update_catalog
from wanflow.report.catalog import schema as catalog_schema
from wanflow.report.outcome import Outcome, count_statuses, write_end
from wanflow.report.results import ResultRow, build_results, result_files
from wanflow.report.results import schema as results_schema
from wanflow.storage import Store

RECORD = Record(
    "k", (StoredFile("anna/s.mp4", "ab" * 32, 5, "e"), StoredFile("anna/s.jpg", "cd" * 32, 2, "f")), "1.1"
)
ROWS = [
    ResultRow(
        "anna",
        1,
        Status.PUBLISHED,
        attempts=2,
        seconds={"denoise": 3.0, "cascade-1": 1.0, "cascade-2": 0.5, "unknown": 9.0},
        gpu_seconds=4.5,
        cost=0.003,
        files=result_files("s3://ads/spring", "story", RECORD),
        carry={"segment": "vip", "score": 3, "status": "gold"},
    ),
    ResultRow("ben", 2, Status.FAILED, "clip x: image is truncated", carry={"segment": None, "score": 4}),
    ResultRow("cleo", 3, Status.UNCHANGED, carry={"segment": "new", "score": None}),
]


def end(ledger: Ledger, target: Store, rows: list[ResultRow], exit_code: int = 0) -> Outcome:
    outcome = Outcome(
        ledger.run_id, "spring", exit_code, 100.0, 160.0, count_statuses(rows), message="as told"
    )
    write_end(ledger, target, outcome, rows, {})
    return outcome


def put(
    target: Store, workspace: Store, folder: Path, path: str, epoch: int = 1, cost: float = 0.01
) -> Record:
    video, poster = folder / "v.mp4", folder / "p.jpg"
    video.write_bytes(f"{path} {epoch}".encode())
    poster.write_bytes(b"poster")
    file = OutputFile(Output("story", "9x16", 90, 160, 8.0), path, f"key-{epoch}", ("m",))
    return publish(
        target, workspace, file, path.split("/")[0], {"video": video, "poster": poster},
        Attempt(epoch, 1), f"run-{epoch}", {"gpu_seconds": 2.0, "cost": cost},
    )  # fmt: skip


def updated(target: Store, published: Published, carry: dict[str, dict[str, Scalar]]) -> pa.Table:
    update_catalog(target, published, carry)
    table = read_catalog(target)
    assert table is not None
    return table


def test_results_have_a_typed_row_a_variant_whatever_became_of_it() -> None:
    """Analysts join on carried columns; a column's type must not depend on the night."""
    table = pa.concat_tables(build_results(ROWS)[1])
    assert table.schema.names == [*results_schema().names, "segment", "score", "carry_status"]
    assert table.schema.field("score").type == pa.int64()
    assert table.column("status").to_pylist() == ["published", "failed", "unchanged"]
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["seconds_denoise"], first["seconds_cascade"], first["seconds_decode"]) == (3.0, 1.5, 0.0)
    assert first["files"][0]["url"] == "s3://ads/spring/anna/s.mp4"
    assert first["carry_status"] == "gold"
    assert build_results([])[0] == results_schema()


def test_a_run_that_ended_is_shown_by_its_outcome(store_url: str) -> None:
    """In the morning: `wanflow status`, `wanflow results --failed`."""
    target = Store(store_url)
    workspace = target.child(".wanflow")
    assert summary(workspace) is None
    assert results(workspace).num_rows == 0
    outcome = end(Ledger(workspace, "run-1"), target, ROWS, exit_code=3)
    shown = summary(workspace)
    assert shown is not None
    assert (shown.state, shown.outcome, shown.message) == (RunState.ENDED, outcome, "as told")
    assert shown.elapsed_s == 60.0
    assert shown.counts == {"published": 1, "unchanged": 1, "held": 0, "failed": 1, "left": 0}
    assert results(workspace, failed=True).column("variant_id").to_pylist() == ["ben"]
    assert results(workspace, "run-1").num_rows == 3


def test_a_run_at_work_and_a_crashed_one_are_told_apart(store_url: str) -> None:
    """No outcome: is it still rendering, or did the machine die? Its lease knows."""
    workspace = Store(store_url)
    ledger = Ledger(workspace, "run-1")
    ledger.write_job("wanflow: 1")
    ledger.write_plan([{"kind": "variant", "id": name, "status": "left"} for name in "abc"])
    with Lease(workspace, workspace.child("out"), run_id="run-1"):
        ledger.append({"time_s": 50.0, "event": "Render", "task": "k"}, durable=True)
        ledger.append({"time_s": 70.0, "event": "VariantPublished", "task": "a/s.mp4"}, durable=True)
        shown = summary(workspace)
        assert shown is not None
        assert shown.state is RunState.RUNNING
        assert shown.counts == {"published": 1, "unchanged": 0, "held": 0, "failed": 0, "left": 2}
        assert shown.events == {"Render": 1, "VariantPublished": 1}
    shown = summary(workspace)
    assert shown is not None
    assert shown.state is RunState.CRASHED
    assert "run the job again" in shown.message
    assert shown.elapsed_s == 20.0
    with pytest.raises(UsageError, match="no such run"):
        summary(workspace, "run-2")
    with pytest.raises(StoreError, match="has no results"):
        results(workspace, "run-1")


def test_stop_asks_only_a_run_that_can_hear_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On call: a run that died will not stop soon, and a mistyped run id makes no run of that name."""
    job = tmp_path / "job.yaml"
    job.write_text(
        "wanflow: 1\nname: small\nmanifest: {url: rows.csv}\nengine: {checkpoint: pocket}\n"
        "outputs: [{name: o, preset: instagram-square}]\npublish: {url: out}\nworkspace: work\n"
    )
    workspace = Store(str(tmp_path / "work"))
    run_id = "20261124T000000.000Z-small-abcdef"
    Ledger(workspace, run_id).write_job(job.read_text())
    assert main(["stop", str(job), "20261124T000000.000Z-small-abcdfe"]) == 2
    assert main(["stop", str(job)]) == 0
    assert "shows no sign of life" in capsys.readouterr().out
    with Lease(workspace, Store(str(tmp_path / "out")), run_id=run_id):
        assert main(["stop", str(job)]) == 0
    assert f"asked {run_id} to stop" in capsys.readouterr().out
    assert run_ids(workspace) == [run_id]


def test_the_catalog_has_every_live_file_also_of_earlier_runs(store_url: str, tmp_path: Path) -> None:
    """The ad server reads the catalog, not the results of last night."""
    target = Store(store_url)
    workspace = target.child(".wanflow")
    put(target, workspace, tmp_path, "anna/s.mp4")
    put(target, workspace, tmp_path, "ben/s.mp4")
    carry: dict[str, dict[str, Scalar]] = {"anna/s.mp4": {"segment": "vip"}, "ben/s.mp4": {"segment": "new"}}
    update_catalog(target, Published.load(target, workspace), carry)
    put(target, workspace, tmp_path, "ben/s.mp4", epoch=2, cost=0.02)
    put(target, workspace, tmp_path, "cleo/s.mp4", epoch=2)
    target.delete("anna/s.jpg")
    put(target, workspace, tmp_path, "anna/s.mp4", epoch=1)
    target.write("cleo/s.mp4", b"changed by hand")
    table = updated(target, Published.load(target, workspace), {"ben/s.mp4": {"segment": "gold", "n": 1}})
    assert table.column_names == [*catalog_schema().names, "segment", "n"]
    rows = {row["path"]: row for row in table.to_pylist()}
    assert sorted(rows) == ["anna/s.jpg", "anna/s.mp4", "ben/s.jpg", "ben/s.mp4"]
    ben, anna = rows["ben/s.mp4"], rows["anna/s.mp4"]
    assert (ben["segment"], ben["n"], ben["run_id"], ben["cost"], ben["kind"]) == (
        "gold",
        1,
        "run-2",
        0.02,
        "video",
    )
    assert (anna["segment"], anna["n"], anna["key"], anna["variant_id"]) == ("vip", None, "key-1", "anna")
    assert anna["url"] == f"{target.url}/anna/s.mp4"
    assert anna["made_at"].year >= 2026
    stat = target.stat("ben/s.mp4")
    assert stat is not None
    assert (ben["etag"], ben["size_bytes"]) == (stat.etag, stat.size_bytes)


def test_jobs_that_publish_to_one_place_keep_each_others_rows(store_url: str, tmp_path: Path) -> None:
    """Two workspaces, one bucket: the second job's catalog must not drop the first one's files."""
    root = Store(store_url)
    target, one, two = (root.child(name) for name in ("ads", "work-1", "work-2"))
    snapshot = Published.load(target, two)
    put(target, one, tmp_path, "anna/s.mp4")
    update_catalog(target, Published.load(target, one), {"anna/s.mp4": {"segment": "vip"}})
    snapshot.add(put(target, two, tmp_path, "ben/s.mp4"))
    table = updated(target, snapshot, {"ben/s.mp4": {"tier": 2}})
    rows = {row["path"]: (row["segment"], row["tier"]) for row in table.to_pylist()}
    assert rows["anna/s.mp4"] == ("vip", None)
    assert rows["ben/s.mp4"] == (None, 2)
    target.delete("anna/s.mp4")
    assert updated(target, snapshot, {}).column("path").to_pylist() == [
        "anna/s.jpg",
        "ben/s.jpg",
        "ben/s.mp4",
    ]


def test_a_catalog_made_from_an_older_snapshot_keeps_what_is_younger(store_url: str, tmp_path: Path) -> None:
    """A run with nothing to do ends beside one that publishes: it must not put yesterday's ETags back."""
    target = Store(store_url)
    workspace = target.child(".wanflow")
    put(target, workspace, tmp_path, "anna/s.mp4")
    old = Published.load(target, workspace)
    put(target, workspace, tmp_path, "anna/s.mp4", epoch=2)
    carry: dict[str, dict[str, Scalar]] = {"anna/s.mp4": {"segment": "vip"}}
    young = updated(target, Published.load(target, workspace), carry)
    assert updated(target, old, carry).equals(young)
    assert young.column("run_id").to_pylist() == ["run-2", "run-2"]


def test_an_unchanged_catalog_is_not_written_again(store_url: str, tmp_path: Path) -> None:
    """Its readers see by its ETag that nothing is new."""
    target = Store(store_url)
    workspace = target.child(".wanflow")
    put(target, workspace, tmp_path, "anna/s.mp4")
    carry: dict[str, dict[str, Scalar]] = {"anna/s.mp4": {"segment": "vip"}}
    update_catalog(target, Published.load(target, workspace), carry)
    before = target.stat("catalog/files.parquet")
    update_catalog(target, Published.load(target, workspace), carry)
    assert target.stat("catalog/files.parquet") == before
    assert "catalog/files.parquet" not in Published.load(target, workspace).visible


def test_a_damaged_catalog_is_written_anew(store_url: str, tmp_path: Path) -> None:
    target = Store(store_url)
    workspace = target.child(".wanflow")
    put(target, workspace, tmp_path, "anna/s.mp4")
    target.write("catalog/files.parquet", b"not parquet")
    assert read_catalog(target) is None
    assert updated(target, Published.load(target, workspace), {}).num_rows == 2
    table = read_catalog(target)
    assert table is not None
    assert table.num_rows == 2
