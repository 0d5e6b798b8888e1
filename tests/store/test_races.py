"""Many at once, on networks that lie: the promises hold whatever the order. Counts are bounded, chance is seeded."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wanflow.errors import Conflict
from wanflow.lease import claim_epoch
from wanflow.model import Attempt, Output, OutputFile
from wanflow.publish import Published, publish
from wanflow.records import clip_record, put_clip
from wanflow.storage import Store

from .conftest import Network

_COUNTER = """
import sys
from wanflow.errors import Conflict
from wanflow.storage import Store
store = Store(sys.argv[1])
for _ in range(40):
    while True:
        data, stat = store.get("count")
        try:
            store.replace("count", b"%d" % (int(data) + 1), if_match=stat.etag)
            break
        except Conflict:
            pass
"""


def bad_weather(network: Network, seed: int, share: float = 0.25, most: int = 3) -> None:
    """Requests are lost, unanswered or refused by chance, but never more often than ``most`` times a path."""
    chance, met = random.Random(seed), Counter[str]()

    def rule(method: str, path: str) -> str:
        name = path.partition("?")[0]
        if ".probe-" in path or met[name] >= most or chance.random() > share:
            return "pass"
        met[name] += 1
        return chance.choice(["lose", "drop", "503", "500"])

    network.rule = rule


@pytest.mark.parametrize("seed", range(3))
def test_racing_attempts_agree_on_one_winner_over_a_bad_network(
    network: Network, s3_url: str, seed: int
) -> None:
    """Doubled attempts at six clips while answers are lost: every clip has one master, and all know which."""
    store = Store(s3_url)
    keys = [f"{number:02x}" * 32 for number in range(6)]
    bad_weather(network, seed)

    def finish(task: tuple[str, int]) -> tuple[str, str, bool]:
        key, number = task
        record, won = put_clip(store, key, Attempt(1, number), {"m.mp4": f"{key} {number}".encode()}, {})
        return key, record.attempt, won

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(finish, [(key, number) for number in range(1, 5) for key in keys]))
    network.rule = lambda method, path: "pass"
    for key in keys:
        held = clip_record(store, key)
        assert held is not None
        assert {attempt for each, attempt, _ in ends if each == key} == {held.attempt}
        assert [won for each, _, won in ends if each == key].count(True) == 1
        assert store.read(held.files[0].path).decode() == f"{key} {held.attempt.partition('.')[2]}"


@pytest.mark.parametrize("seed", range(2))
def test_racing_runs_leave_each_path_published_or_to_be_repaired(
    network: Network, s3_url: str, tmp_path: Path, seed: int
) -> None:
    """Two runs, one of them out of date, publish the same paths: no path ends with the older run's record, and what
    does not match its record is seen and repaired by the next run."""
    target, workspace = Store(s3_url).child("out"), Store(s3_url).child("work")
    paths = [f"c{number}/story.mp4" for number in range(4)]
    bad_weather(network, seed)

    def put(path: str, epoch: int, folder: Path) -> None:
        video = folder / f"{path.replace('/', '-')}-{epoch}.mp4"
        video.write_bytes(f"{path} of run {epoch}".encode())
        file = OutputFile(Output("story", "9x16", 90, 160, 8.0), path, f"key-{epoch}", ("m",))
        publish(target, workspace, file, "x", {"video": video}, Attempt(epoch, 1), f"run-{epoch}", {})

    def race(task: tuple[str, int]) -> bool:
        try:
            put(*task, tmp_path)
        except Conflict:
            return False
        return True

    tasks = [(path, epoch) for path in paths for epoch in (1, 2)]
    with ThreadPoolExecutor(8) as pool:
        done = dict(zip(tasks, pool.map(race, tasks), strict=True))
    network.rule = lambda method, path: "pass"
    assert all(done[path, 2] for path in paths), "the newer run is never refused"
    found = Published.load(target, workspace)
    for path in paths:
        assert found.records[path].attempt == "2.1"
        if found.key_of(path) is None:
            put(path, 3, tmp_path)
        stat = target.stat(path)
        assert stat is not None
    repaired = Published.load(target, workspace)
    for path in paths:
        key = repaired.key_of(path)
        assert key in {"key-2", "key-3"}
        assert target.read(path).decode() == f"{path} of run {key[-1]}"


def test_processes_count_together_on_one_disk(tmp_path: Path) -> None:
    """Driver and assembly tasks are processes: compare-and-replace holds between them, not only between threads."""
    store = Store(str(tmp_path))
    store.create("count", b"0")
    command = [sys.executable, "-c", _COUNTER, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert store.read("count") == b"120"


def test_epochs_stay_unique_over_a_bad_network(network: Network, s3_url: str) -> None:
    """A lost acknowledgement may skip a number, never give it twice."""
    store = Store(s3_url)
    bad_weather(network, 5)
    with ThreadPoolExecutor(6) as pool:
        epochs = list(pool.map(lambda _: claim_epoch(store), range(12)))
    assert len(set(epochs)) == 12


def test_listing_while_files_come_and_go_shows_every_file_that_stays(store_url: str) -> None:
    """Planning lists the store while another job's run writes to it."""
    store = Store(store_url)
    stays = {f"stays/{number}.json" for number in range(30)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: store.write(path, b"x"), stays))
    end = threading.Event()

    def churn() -> None:
        number = 0
        while not end.is_set():
            store.write(f"stays/new-{number}/a.json", b"x")
            store.delete(f"stays/new-{number}/a.json")
            store.write("stays/0.json", b"again %d" % number)
            number += 1

    with ThreadPoolExecutor(2) as pool:
        churned = [pool.submit(churn) for _ in range(2)]
        try:
            for _ in range(8):
                assert stays <= {stat.path for stat in store.list("stays")}
        finally:
            end.set()
        for each in churned:
            each.result()


def test_an_unchanged_snapshot_costs_no_request_a_record(
    network: Network, s3_url: str, tmp_path: Path
) -> None:
    """20,000 unchanged rows in seconds: one index and the pages of two listings, however many records there are."""
    target = Store(s3_url)
    workspace = target.child(".wanflow")
    video = tmp_path / "v.mp4"
    video.write_bytes(b"video")

    def put(number: int) -> None:
        file = OutputFile(Output("s", "9x16", 90, 160, 8.0), f"c{number}/s.mp4", f"key-{number}", ("m",))
        publish(target, workspace, file, "x", {"video": video}, Attempt(1, 1), "run", {})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(40)))
    Published.load(target, workspace).save(target, workspace)
    network.log.clear()
    found = Published.load(target, workspace)
    assert sorted(found.key_of(f"c{number}/s.mp4") or "" for number in range(40)) == sorted(
        f"key-{number}" for number in range(40)
    )
    listings = [path for method, path in network.log if "list-type" in path]
    assert len(network.log) == len(listings) + 1
    assert len(listings) <= 3
