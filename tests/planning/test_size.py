"""What a plan holds of variants with nothing to do: a million of them must fit."""

from __future__ import annotations

from pathlib import Path

from tests.planning.published import pretend_run, stores
from tests.run.jobs import ROWS, make_job, write_rows
from wanflow import plan, run
from wanflow.model import Status
from wanflow.planning.rows import asked_of, plan_table
from wanflow.report import results
from wanflow.report.catalog import read_catalog
from wanflow.testing import load_fake_engine


def test_unchanged_variants_are_held_in_columns_and_not_as_objects(tmp_path: Path, checkpoint: str) -> None:
    job = make_job(tmp_path, checkpoint)
    run_id = pretend_run(job)
    made = plan(job)
    assert made.variants == ()
    assert (made.num_variants, made.unchanged.variant_ids) == (3, ["ann", "bob", "cem"])
    assert list(asked_of(plan_table(made))) == [
        (name, {f"{name}/square.mp4": run_id}) for name in ("ann", "bob", "cem")
    ]
    in_full = plan(job, in_full=True)
    assert [planned.status for planned in in_full.variants] == [Status.UNCHANGED] * 3
    assert (in_full.plan_id, in_full.pins) == (made.plan_id, made.pins)


def test_results_and_catalog_have_changed_and_unchanged_variants_side_by_side(
    tmp_path: Path, checkpoint: str
) -> None:
    """Whoever joins on them does not see which rows the run held in columns."""
    job = make_job(tmp_path, checkpoint)
    run(job, inline=True, load_engine=load_fake_engine)
    write_rows(tmp_path, [ROWS[0], ROWS[1] | {"headline": "Bye"}, ROWS[2]])
    assert [planned.variant.variant_id for planned in plan(job).variants] == ["bob"]
    outcome = run(job, inline=True, load_engine=load_fake_engine)
    assert (outcome.counts["published"], outcome.counts["unchanged"]) == (1, 2)
    workspace, target = stores(job)
    rows = results(workspace, outcome.run_id).to_pylist()
    assert [(row["variant_id"], row["status"]) for row in rows] == [
        ("ann", "unchanged"),
        ("bob", "published"),
        ("cem", "unchanged"),
    ]
    assert [row["segment"] for row in rows] == [row["segment"] for row in ROWS]
    assert rows[0]["files"][0]["url"] == f"{target.url}/{rows[0]['files'][0]['path']}"
    assert rows[0]["files"][0].keys() == rows[1]["files"][0].keys()
    catalog = read_catalog(target)
    assert catalog is not None
    segments = {row["variant_id"]: row["segment"] for row in catalog.to_pylist() if row["kind"] == "video"}
    assert segments == {row["variant_id"]: row["segment"] for row in ROWS}
