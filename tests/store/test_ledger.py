"""The run directory: its files, their order and their columns; what a crash leaves behind."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from wanflow.errors import StoreError
from wanflow.ledger import BUFFERED_ROWS, EVENT_COLUMNS, Ledger, job_of, latest_run, new_run_id, run_ids
from wanflow.parquet import SMALL_ROWS
from wanflow.storage import Store

_CRASH = """
import os, signal, sys
from wanflow.ledger import Ledger
from wanflow.storage import Store
ledger = Ledger(Store(sys.argv[1]), "run-1")
ledger.write_job("wanflow: 1")
for number in range(5):
    ledger.append({"time_s": float(number), "event": "RenderOrdered", "task": f"clip-{number}"}, durable=True)
    ledger.append({"time_s": number + 0.5, "event": "StepDone", "task": f"clip-{number}"})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_run_directory_has_the_files_of_its_contract(store_url: str) -> None:
    """Other programs read it; a renamed file is a broken promise."""
    store = Store(store_url)
    ledger = Ledger(store, "run-1")
    ledger.write_job("wanflow: 1\n")
    ledger.write_plan([{"variant_id": "anna", "status": "left"}])
    ledger.append({"time_s": 1.0, "event": "Render", "task": "k", "attempt": "1.1", "gpu": 3})
    results = pa.table({"variant_id": ["anna"], "status": ["published"]})
    ledger.write_results(results.schema, [results])
    ledger.write_outcome({"exit_code": 0})
    assert sorted(stat.path for stat in store.list("runs/run-1")) == [
        "runs/run-1/events/000000.parquet",
        "runs/run-1/job.yaml",
        "runs/run-1/outcome.json",
        "runs/run-1/plan.parquet",
        "runs/run-1/results.parquet",
    ]
    reader = Ledger(store, "run-1")
    events = reader.read_events()
    assert tuple(events.column_names) == EVENT_COLUMNS
    assert events.to_pylist() == [
        {
            "time_s": 1.0,
            "event": "Render",
            "task": "k",
            "attempt": "1.1",
            "replica": "",
            "reason": "",
            "data": '{"gpu": 3}',
        }
    ]
    assert reader.read_job() == "wanflow: 1\n"
    plan, results = reader.read_plan(), reader.read_results()
    assert plan is not None
    assert results is not None
    assert plan.to_pylist() == [{"variant_id": "anna", "status": "left"}]
    assert results.num_rows == 1
    assert reader.read_outcome() == {"exit_code": 0}


def test_what_is_absent_is_none(store_url: str) -> None:
    """`wanflow status` of a run that has only just begun."""
    ledger = Ledger(Store(store_url), "run-1")
    assert ledger.read_job() is None
    assert ledger.read_plan() is None
    assert ledger.read_results() is None
    assert ledger.read_outcome() is None
    assert ledger.read_events().num_rows == 0
    assert ledger.stop_asked() is None
    ledger.ask_stop("Friday evening")
    assert ledger.stop_asked() == "Friday evening"


def test_a_crash_loses_no_durable_event_and_only_buffered_ones(tmp_path: Path) -> None:
    """kill -9: whatever was ordered before is on record, in order."""
    done = subprocess.run([sys.executable, "-c", _CRASH, str(tmp_path)], timeout=60, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    events = Ledger(Store(str(tmp_path)), "run-1").read_events()
    ordered = [row for row in events.to_pylist() if row["event"] == "RenderOrdered"]
    assert [row["task"] for row in ordered] == [f"clip-{number}" for number in range(5)]
    assert events.column("time_s").to_pylist() == sorted(events.column("time_s").to_pylist())
    assert events.num_rows == 9, "of the ten rows the last, buffered one is lost"


def test_a_full_buffer_is_written_by_itself(store_url: str) -> None:
    """Thousands of small events must not wait in memory for the end of a long run."""
    ledger = Ledger(Store(store_url), "run-1")
    for number in range(BUFFERED_ROWS + 3):
        ledger.append({"time_s": float(number), "event": "StepDone"})
    assert ledger.read_events().num_rows == BUFFERED_ROWS
    ledger.flush()
    ledger.flush()
    assert ledger.read_events().column("time_s").to_pylist() == [float(n) for n in range(BUFFERED_ROWS + 3)]
    assert len(list(ledger.workspace.list("runs/run-1/events"))) == 2


def test_a_ledger_that_is_opened_again_goes_on_behind_what_is_there(store_url: str) -> None:
    """`wanflow stop` and the driver may both hold it; no event file is overwritten."""
    store = Store(store_url)
    Ledger(store, "run-1").append({"event": "a"}, durable=True)
    Ledger(store, "run-1").append({"event": "b"}, durable=True)
    assert Ledger(store, "run-1").read_events().column("event").to_pylist() == ["a", "b"]


def test_threads_append_without_losing_or_doubling(store_url: str) -> None:
    """Events come from the pool's threads."""
    ledger = Ledger(Store(store_url), "run-1")
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda n: ledger.append({"event": "e", "task": str(n)}, durable=n % 10 == 0), range(60))
        )
    ledger.flush()
    assert sorted(map(int, ledger.read_events().column("task").to_pylist())) == list(range(60))


def test_the_latest_run_is_the_youngest_of_the_job(store_url: str) -> None:
    """Several jobs share a workspace; `status` of one shows its own."""
    store = Store(store_url)
    assert latest_run(store) is None
    names = [
        new_run_id(1_790_000_000.0 + number, name)
        for number, name in enumerate(["Spring sale", "other", "Spring sale", "spring-sale-2", "other"])
    ]
    assert names == sorted(names)
    for name in reversed(names):
        Ledger(store, name).write_job("x")
    assert run_ids(store) == names
    assert latest_run(store) == names[4]
    assert latest_run(store, "Spring sale") == names[2]
    assert latest_run(store, "nobody") is None


def test_a_jobs_name_is_readable_in_its_run_ids() -> None:
    """A plain name is there as it is; any other with six digits, whatever is in it; never above forty characters."""
    told = [
        job_of(new_run_id(1_790_000_000.0, name))
        for name in ("spring-sale", "Spring sale", "\u6625", "a " * 50)
    ]
    assert told[0] == "spring-sale"
    assert re.fullmatch(r"spring-sale-[0-9a-f]{6}", told[1])
    assert re.fullmatch(r"[0-9a-f]{6}", told[2])
    assert re.fullmatch(r"(a-){17}[0-9a-f]{6}", told[3])
    assert job_of(new_run_id(1_790_000_000.0)) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ads-v1.2", "ads-v1_2"),
        ("Ads", "ads"),
        ("x" * 40 + "-north", "x" * 40 + "-south"),
        ("\u6625", "\u79cb"),
    ],
)
def test_two_jobs_are_two_however_alike_their_names(one: str, other: str) -> None:
    """They share a workspace: `stop` of one must not stop the other, and `gc` must keep what either needs."""
    store = Store(f"memory://{secrets.token_hex(6)}")
    runs = [new_run_id(1_790_000_000.0 + number, name) for number, name in enumerate((one, other))]
    for run_id in runs:
        Ledger(store, run_id).write_job("x")
    assert run_ids(store, one) == runs[:1]
    assert run_ids(store, other) == runs[1:]
    assert len({job_of(run_id) for run_id in runs}) == 2


def test_a_damaged_outcome_says_which_file_it_is(store_url: str) -> None:
    ledger = Ledger(Store(store_url), "run-1")
    ledger.workspace.write("runs/run-1/outcome.json", b"{")
    with pytest.raises(StoreError, match=r"outcome\.json is damaged"):
        ledger.read_outcome()


def test_table_of_events_reads_the_same_however_many_rows_it_has(tmp_path: Path) -> None:
    """Small files are written plainly, large ones compressed; a reader knows no difference."""
    rows = [
        {"time_s": float(number), "event": "Render", "task": f"kläppe {number}", "attempt": "1.1"}
        for number in range(SMALL_ROWS + 1)
    ]
    tables = []
    for run, size in (("run-1", 1), ("run-2", len(rows))):
        ledger = Ledger(Store(str(tmp_path)), run)
        for number, row in enumerate(rows, 1):
            ledger.append(row)
            if number % size == 0:
                ledger.flush()
        tables.append(ledger.read_events())
    assert tables[0].equals(tables[1])
    assert tables[0].column("task").to_pylist() == [row["task"] for row in rows]
