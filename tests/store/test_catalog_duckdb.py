"""The catalog as a warehouse sees it: one Parquet file at a fixed path, joined and counted by somebody else's SQL."""

from __future__ import annotations

from pathlib import Path

import duckdb

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job, write_rows
from wanflow import run
from wanflow.testing import load_fake_engine


def test_duckdb_reads_every_live_file_with_run_reason_and_cost(tmp_path: Path) -> None:
    """The campaign's dashboard: what is live for which segment, since which run, why, and at what cost."""
    job = make_job(tmp_path, str(make("pocket", tmp_path / "checkpoint")))
    first = run(job, inline=True, load_engine=load_fake_engine)
    write_rows(tmp_path, [*ROWS[:2], ROWS[2] | {"headline": "Bye Cem"}])
    second = run(job, inline=True, load_engine=load_fake_engine)
    catalog = str(tmp_path / "out/catalog/files.parquet")
    rows = duckdb.sql(
        f"select variant_id, run_id, reason, cost >= 0, size_bytes > 0, length(sha256) from '{catalog}' "
        "where kind = 'video' and not retired order by variant_id"
    ).fetchall()
    assert rows == [
        ("ann", first.run_id, "new", True, True, 64),
        ("bob", first.run_id, "new", True, True, 64),
        ("cem", second.run_id, "layers text text: 'Hello Cem' -> 'Bye Cem'", True, True, 64),
    ]
    segments = duckdb.sql(
        f"select segment, count(*) from '{catalog}' where kind = 'video' group by segment order by segment"
    ).fetchall()
    assert segments == [("basic", 1), ("gold", 2)]
    [(url, etag, made)] = duckdb.sql(f"select url, etag, epoch(made_at) from '{catalog}' limit 1").fetchall()
    assert Path(url).exists()
    assert etag
    assert made > 1_700_000_000
