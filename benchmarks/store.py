"""``wanflow verify`` and ``wanflow gc`` at size: N published videos, N/100 clips of two stages, a hundred old runs.

::

    python -m benchmarks.store [--rows N[,N...]] [--json]

A process a verb. ``verify`` is without ``--deep``; ``gc`` is a look (no ``--delete``) that finds old runs and a tenth
of the clips. In seconds of processor time, what it takes to make up listings (``pretended_store``) left out:

``records_per_s``  publish records and clip records of the workspace, through the verb
``seconds``        the whole verb
``peak_mb``        memory of the process at its highest
``requests``       what the stores were asked, by kind; a page of a listing is one
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks import pretended_store
from wanflow.gc import collect
from wanflow.ledger import Ledger, new_run_id
from wanflow.listing import weigh
from wanflow.model import Record, Status, StoredFile
from wanflow.parquet import dump_table
from wanflow.pins import Pins, write_pins
from wanflow.publish import record_path
from wanflow.record_table import table_of
from wanflow.records import dump_record
from wanflow.report.results import ResultRow, build_results
from wanflow.storage import Store
from wanflow.storage.stat import Stat
from wanflow.verify import verify

WORKSPACE, TARGET = "pretended://work", "pretended://ads"
NUM_RUNS, ROWS_A_CLIP, DAY_S = 100, 100, 86_400.0
VERBS = ("verify", "gc")


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--json", action="store_true", help="one line a size and verb, nothing else")
    parser.add_argument("--verb", choices=VERBS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [int(text) for text in arguments.rows.split(",")]
    if arguments.verb:
        measure(arguments.verb, sizes[0])
        return
    for size in sizes:
        for verb in VERBS:
            command = [sys.executable, "-m", "benchmarks.store", "--rows", str(size), "--verb", verb]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            line = done.stdout.splitlines()[-1]
            facts = json.loads(line)
            words = (
                f"{size:>10,} rows: {verb:<6} {facts['seconds']:.1f} s, {facts['records_per_s']:,} records/s; peak "
                f"{facts['peak_mb']:,} MB; {facts['requests']}"
            )
            print(line if arguments.json else words, flush=True)


def measure(verb: str, num_rows: int) -> None:
    """Print the figures of one verb at one size as a line of JSON."""
    pretended_store.pretend()
    keys = [
        hashlib.sha256(b"%d" % number).hexdigest() for number in range(2 * max(1, num_rows // ROWS_A_CLIP))
    ]
    num_gone = len(keys) // 10
    workspace = fill(num_rows, keys, keys[num_gone:])
    pretended_store.requests.clear()
    before_s, pretence_s = time.process_time(), pretended_store.spent_s()
    if verb == "verify":
        report = verify(workspace, [TARGET])
        num_seen = {check.name: check.num_checked for check in report.checks}
        assert (num_seen["records"], num_seen["publish-records"]) == (len(keys), num_rows), num_seen
        # there is no catalog, which would be as large as the index, and is one request more
        assert [c.name for c in report.checks if c.state == "fail"] == ["catalog"], report
    else:
        found = collect(workspace)
        assert found.waste["runs"][0] > NUM_RUNS, found
        assert found.waste.get("clips", (0, 0))[0] == 2 * num_gone, found
    seconds = time.process_time() - before_s - (pretended_store.spent_s() - pretence_s)
    facts = {
        "rows": num_rows,
        "verb": verb,
        "records_per_s": round((num_rows + len(keys)) / seconds),
        "seconds": round(seconds, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "requests": dict(sorted(pretended_store.requests.items())),
    }
    print(json.dumps(facts))


def fill(num_rows: int, keys: list[str], needed: list[str]) -> Store:
    """A workspace of clips ``keys`` and ``num_rows`` videos that the first of its runs has published."""
    workspace, target = Store(WORKSPACE), Store(TARGET)
    runs = [new_run_id(time.time() - (NUM_RUNS - number) * DAY_S, "nightly") for number in range(NUM_RUNS)]
    for number, run_id in enumerate(runs, 1):
        ledger = Ledger(workspace, run_id)
        ledger.write_job("name: nightly")
        write_pins(workspace, run_id, Pins(frozenset(needed), frozenset(), is_whole=True))
        workspace.write(f"epochs/{number:08d}", b"claimed")
        for order, key in enumerate(keys if number == 1 else [], 1):
            ledger.append({"event": "Render", "task": key, "attempt": f"1.{order}"})
        ledger.write_results(*build_results([ResultRow("v", 1, Status.FAILED, "why")]))
        ledger.write_outcome({"counts": {"failed": 1}})
    folder = record_path(target, workspace, "x").split("/")[1]

    def video(number: int) -> Record:
        path = f"c{number:07d}/story.mp4"
        file = StoredFile(path, hashlib.sha256(path.encode()).hexdigest(), 1_000_000 + number, f"v{number}")
        info = (("path", path), ("variant_id", path[:8]), ("output", "story"), ("run_id", runs[0]))
        return Record(f"{number:064x}", (file,), "1.1", info, f"r{number}")

    def weighed() -> Iterator[tuple[Record, bytes]]:
        for number in range(num_rows):
            record = video(number)
            yield record, weigh(record_path(target, workspace, record.files[0].path), 0, record.etag)

    def clip(number: int) -> Record:
        name = f"clips/{keys[number][:2]}/{keys[number]}/1.{number + 1}/data.bin"
        return Record(keys[number], (StoredFile(name, keys[number], 1000, "e"),), f"1.{number + 1}")

    def clips() -> Iterator[Stat]:
        for number, key in enumerate(keys):
            yield Stat(f"clips/{key[:2]}/{key}.json", 500, "c")
            yield Stat(clip(number).files[0].path, 1000, "e")

    def records() -> Iterator[Stat]:
        for number in range(num_rows):
            yield Stat(record_path(target, workspace, video(number).files[0].path), 700, f"r{number}")

    def files() -> Iterator[Stat]:
        for number in range(num_rows):
            yield Stat(f"c{number:07d}/story.mp4", 1_000_000 + number, f"v{number}")

    numbers = {key: number for number, key in enumerate(keys)}

    def body(path: str) -> tuple[bytes, str] | None:
        number = numbers.get(path.rpartition("/")[2].removesuffix(".json"))
        return None if number is None else (dump_record(clip(number)), "c")

    workspace.write(f"published-{folder}.parquet", dump_table(table_of(weighed())))
    pretended_store.formulas[WORKSPACE] = {f"published/{folder}/": records, "clips/": clips}
    pretended_store.formulas[TARGET] = {"": files}
    pretended_store.bodies[WORKSPACE] = body
    return workspace


if __name__ == "__main__":
    main()
