"""With a matrix a row is many videos, all of one id: what is told and counted once a video, and what once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.planning.published import pretend_run, stores
from tests.run.jobs import make_job, write_rows
from wanflow import Job, plan, run
from wanflow.cli import main
from wanflow.errors import ManifestError, Refused
from wanflow.keys import VERSIONS
from wanflow.ledger import Ledger
from wanflow.planning.limits import check_limits
from wanflow.planning.why import explain_against
from wanflow.report import results
from wanflow.testing import load_fake_engine
from wanflow.texts import undrawable_texts
from wanflow.verify import verify

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


def test_an_upgrade_tells_how_many_videos_it_would_make_anew(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who accepts it should know what it takes: twenty videos of five ads."""
    job = make(tmp_path, checkpoint, group=False)
    pretend_run(job)
    raised = dict(VERSIONS) | {"output": VERSIONS["output"] + 1}
    monkeypatch.setattr("wanflow.keys.VERSIONS", raised)
    monkeypatch.setattr("wanflow.planning.changes.VERSIONS", raised)
    with pytest.raises(Refused, match="20 published variants would be made again"):
        check_limits(job, plan(job), stores(job)[0])


def test_a_character_that_no_font_draws_is_noted_with_all_its_videos(tmp_path: Path, checkpoint: str) -> None:
    job = make(tmp_path, checkpoint, group=False)
    write_rows(tmp_path, [*ROWS[1:], ROWS[0] | {"headline": "Hi \U00010fff"}])
    (note,) = undrawable_texts(plan(job))
    assert (note.num_variants, note.row) == (4, 5)


def test_verify_misses_one_result_of_an_id(tmp_path: Path, checkpoint: str) -> None:
    """The results of the other locales do not explain the one that is not there."""
    job = make_job(
        tmp_path,
        checkpoint,
        [ROWS[0] | {"variant_id": "ad"}],
        matrix={"locale": ["de", "en"]},
        publish={"url": "out", "path": "{{ variant_id }}/{{ locale }}.mp4"},
    )
    outcome = run(job, inline=True, load_engine=load_fake_engine)
    workspace = stores(job)[0]
    assert verify(workspace).is_clean
    file = tmp_path / f"out/.wanflow/runs/{outcome.run_id}/results.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    words = [finding.reason for check in verify(workspace).checks for finding in check.findings]
    assert "ad was planned and has no row" in words


def texts_of(
    folder: Path, checkpoint: str, locales: list[str] = LOCALES, width: int = 128, **texts: str
) -> Job:
    """One ad, its headline by locale: those of ``texts`` differ from the first night's."""
    words = "".join(f"{{% if locale == '{name}' %}}{text}{{% endif %}}" for name, text in texts.items())
    return make_job(
        folder,
        checkpoint,
        [{"variant_id": "ad", "prompt": "waves"}],
        matrix={"locale": locales},
        publish={"url": "out", "path": "{{ variant_id }}/{{ locale }}/{{ output }}.mp4"},
        layers=[{"text": {"value": "in {{ locale }} " + words, "at": "lower-third"}}],
        outputs=[
            {"name": "square", "preset": "instagram-square", "width": 256},
            {"name": "small", "preset": "instagram-square", "width": width},
        ],
    )


def against(job: Job, run_id: str) -> dict[str, str]:
    found = explain_against(plan(job, in_full=True), stores(job)[0], run_id)
    return {why.path: "; ".join(map(str, why.changes)) for why in found}


def test_diff_compares_each_video_with_its_own_former_one(tmp_path: Path, checkpoint: str) -> None:
    """Every night another language changes; the diff with the last one must not tell of the first."""
    pretend_run(texts_of(tmp_path, checkpoint))
    for night in ({"de": "d2"}, {"de": "d2", "ja": "j2"}, {"de": "d2", "ja": "j2", "no": "n2"}):
        last = pretend_run(texts_of(tmp_path, checkpoint, **night))
    assert against(texts_of(tmp_path, checkpoint, **night), last) == {}
    now = texts_of(tmp_path, checkpoint, LOCALES[:3], de="d3", ja="j2", no="n2")
    assert against(now, last) == {
        "ad/de/square.mp4": "layers text text: 'in de d2' -> 'in de d3'",
        "ad/de/small.mp4": "layers text text: 'in de d2' -> 'in de d3'",
        "ad/no/square.mp4": "no longer asked for",
        "ad/no/small.mp4": "no longer asked for",
    }


def test_diff_knows_the_files_that_a_changed_video_kept(tmp_path: Path, checkpoint: str) -> None:
    """Only the small output was made anew last night: the other one is no news this morning."""
    pretend_run(texts_of(tmp_path, checkpoint))
    last = pretend_run(texts_of(tmp_path, checkpoint, width=192))
    assert against(texts_of(tmp_path, checkpoint, width=192), last) == {}
    now = texts_of(tmp_path, checkpoint, ["de"], width=192, de="d2")
    told = against(now, last)
    assert {path: words for path, words in told.items() if "/de/" in path} == {
        "ad/de/square.mp4": "layers text text: 'in de' -> 'in de d2'",
        "ad/de/small.mp4": "layers text text: 'in de' -> 'in de d2'",
    }
    assert list(told.values()).count("no longer asked for") == 6


def test_diff_reads_plans_from_before_files_were_told(tmp_path: Path, checkpoint: str) -> None:
    """The run of before the upgrade: an unchanged variant had one run in ``made_by``."""
    first = pretend_run(texts_of(tmp_path, checkpoint, ["de"]))
    second = pretend_run(texts_of(tmp_path, checkpoint, ["de"]))
    ledger = Ledger(stores(texts_of(tmp_path, checkpoint))[0], second)
    table = ledger.read_plan()
    assert table is not None
    ledger.write_plan(table.drop_columns("kept").append_column("made_by", pa.array([first])))
    assert against(texts_of(tmp_path, checkpoint, ["de"]), second) == {}
    now = texts_of(tmp_path, checkpoint, ["de"], de="d2")
    assert against(now, second)["ad/de/square.mp4"] == "layers text text: 'in de' -> 'in de d2'"
