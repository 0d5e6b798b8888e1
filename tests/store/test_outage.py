"""The store is away for some minutes: a run pauses and goes on; a command says so within seconds."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.run.jobs import make_job
from wanflow import run
from wanflow.errors import StoreAway, StoreError
from wanflow.lease import SILENCE_S, Lease
from wanflow.model import (
    AssembleVariant,
    EngineSpec,
    ImageLayer,
    Mode,
    Output,
    OutputFile,
    Placement,
    Sampling,
    Scene,
    Source,
    Variant,
)
from wanflow.pool import RunContext
from wanflow.pool.replica import Replica
from wanflow.report import results
from wanflow.schedule.events import ClipRendered, Event
from wanflow.staging import stage_inputs
from wanflow.storage import Store, at_once, wait_out
from wanflow.storage.outage import outlast
from wanflow.storage.retry import TRIES
from wanflow.testing import load_fake_engine
from wanflow.verify import verify
from wanflow.view import View

from .conftest import Network, fill


@pytest.fixture(autouse=True)
def _ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanflow.storage.outage.FIRST_ASK_S", 0.001)
    monkeypatch.setattr("wanflow.storage.outage.ASK_EVERY_S", 0.002)


def away_for(network: Network, requests: int, after: int = 0) -> None:
    """From request number ``after`` on, so many requests in a row are refused."""
    seen = [0]

    def rule(method: str, path: str) -> str:
        seen[0] += 1
        return "503" if after < seen[0] <= after + requests else "pass"

    network.rule = rule


def test_a_request_outlasts_an_outage_only_where_somebody_waits_for_it(network: Network, s3_url: str) -> None:
    """A run has the night; `wanflow status` has a person before it."""
    store = Store(s3_url)
    store.write("a.json", b"x")
    away_for(network, 40)
    with pytest.raises(StoreAway, match="a later run may succeed"):
        store.read("a.json")
    said: list[str] = []
    with wait_out(say=said.append):
        assert store.read("a.json") == b"x"
    assert len(said) == 1
    assert "the store is away" in said[0]
    away_for(network, 40)
    with wait_out(), at_once(), pytest.raises(StoreAway):
        store.read("a.json")


def test_patience_ends(network: Network, s3_url: str) -> None:
    """A store that never comes back ends the run; a stop that is asked for ends the waiting."""
    store = Store(s3_url)
    network.rule = lambda method, path: "503"
    with wait_out(0.05), pytest.raises(StoreAway):
        store.read("a.json")
    asked = len(network.log)
    with wait_out(unless=lambda: "stopped by SIGTERM"), pytest.raises(StoreAway):
        store.read("a.json")
    assert len(network.log) - asked == 2 * TRIES


def test_what_is_not_an_outage_is_not_waited_for(network: Network, s3_url: str) -> None:
    """No right to write will still be no right in ten minutes."""
    network.rule = lambda method, path: "403"
    with wait_out(), pytest.raises(StoreError, match="access denied"):
        Store(s3_url).read("a.json")
    assert len(network.log) == 1


def test_one_asks_while_the_others_wait(tmp_path: Path) -> None:
    """A service that comes back is not run over by every thread at once."""
    asking, most, left = set[int](), [0], [40]
    lock = threading.Lock()

    def action() -> str:
        with lock:
            left[0] -= 1
            if left[0] > 0:
                raise StoreAway("away")
        return "back"

    def task(number: int) -> str:
        first = [True]

        def counted() -> str:
            if first[0]:
                first[0] = False
                return action()
            with lock:
                asking.add(number)
                most[0] = max(most[0], len(asking))
            try:
                return action()
            finally:
                with lock:
                    asking.discard(number)

        with wait_out():
            return outlast(counted)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(task, range(8))) == ["back"] * 8
    assert most[0] == 1


def test_inputs_are_staged_with_the_runs_patience(network: Network, s3_url: str, tmp_path: Path) -> None:
    """The store goes away just when twenty thousand logos go there: the run waits for it, as ever."""
    layers = []
    for i in range(3):
        data = f"logo {i}".encode()
        (tmp_path / f"{i}.png").write_bytes(data)
        source = Source(str(tmp_path / f"{i}.png"), hashlib.sha256(data).hexdigest())
        layers.append(ImageLayer(source, Placement("top-left")))
    variant = Variant("ann", 1, (Scene((), tuple(layers)),), ())
    output = OutputFile(Output("square", "1x1", 64, 64, 8.0), "ann.mp4", "k", ())
    away_for(network, 40)
    with wait_out():
        staged = stage_inputs(Store(s3_url), [], [AssembleVariant(variant, (output,))])
    assert not staged.refused
    assert {stat.path for stat in Store(s3_url).list("inputs")} == {
        f"inputs/{each.image.digest}" for each in layers
    }


def test_a_replica_that_starts_in_an_outage_is_not_lost(network: Network, s3_url: str) -> None:
    """Three that fail within seconds would end the run, with nothing rendered and nobody to blame."""
    Store(s3_url).write("nonce", b"n")
    sampling = Sampling(6, 1.0, None, 3.0, "unipc", None)
    spec = EngineSpec(
        "fake", "fake", "fake", "w", frozenset({Mode.T2V}), 8.0, 16, 4, ((32, 32),), 5, sampling
    )
    context = RunContext(
        "r", 1, s3_url, "", {"w": spec}, {}, {}, ("nonce", "n"), load_engine=load_fake_engine
    )
    away_for(network, 40)
    Replica(context, "w", None, None)
    assert [method for method, _ in network.log].count("GET") == 41


def test_an_outage_in_the_middle_of_a_run_fails_no_row_and_renders_nothing_twice(
    network: Network, s3_url: str, tmp_path: Path
) -> None:
    """Two outages of some minutes, while clips are stored and while videos are published."""
    checkpoint = str(make("pocket", tmp_path / "checkpoint"))
    publish = {"url": f"{s3_url}/out", "path": "{{ variant_id }}/{{ output }}.mp4"}
    job = make_job(tmp_path, checkpoint, publish=publish)
    met = {"clips": 0, "mp4": 0}

    def rule(method: str, path: str) -> str:
        for part, ending in (("clips", "latents.safetensors"), ("mp4", "square.mp4")):
            if method == "PUT" and path.partition("?")[0].endswith(ending) and met[part] < 30:
                met[part] += 1
                return "503"
        return "pass"

    network.rule = rule
    outcome = run(job, inline=True, load_engine=load_fake_engine)
    assert met == {"clips": 30, "mp4": 30}
    assert outcome.exit_code == 0
    assert outcome.num_clips_rendered == 2
    workspace = Store(str(job.workspace))
    assert [row["attempts"] for row in results(workspace).to_pylist()] == [2, 2, 2], (
        "a clip and an assembly each"
    )
    assert verify(workspace, deep=True).is_clean


class _Filler(View):
    """Fills ``disk`` when the first clip is there; makes room once the run has said why it waits."""

    def __init__(self, disk: Path) -> None:
        self.dump, self.said = disk / "core", list[str]()

    def event(self, event: Event) -> None:
        if isinstance(event, ClipRendered) and not self.dump.exists() and not self.said:
            fill(self.dump)

    def message(self, words: str) -> None:
        if "disk full" in words:
            self.said.append(words)
            self.dump.unlink()


@pytest.mark.parametrize("small_disk", ["16m"], indirect=True)
def test_a_disk_that_fills_up_pauses_the_run(small_disk: Path, tmp_path: Path) -> None:
    """The volume of workspace and videos is full for a while: no row pays, no clip is rendered twice."""
    checkpoint = str(make("pocket", tmp_path / "checkpoint"))
    publish = {"url": str(small_disk / "out"), "path": "{{ variant_id }}/{{ output }}.mp4"}
    view, job = _Filler(small_disk), make_job(tmp_path / "job", checkpoint, publish=publish)
    outcome = run(job, inline=True, view=view, load_engine=load_fake_engine)
    assert len(view.said) == 1
    assert (outcome.exit_code, outcome.counts["published"]) == (0, 3)
    assert outcome.num_clips_rendered == 2
    workspace = Store(str(job.workspace))
    assert [row["attempts"] for row in results(workspace).to_pylist()] == [2, 2, 2]
    assert verify(workspace, deep=True).is_clean


def test_a_lease_that_a_full_disk_keeps_from_beating_is_still_the_runs_own(small_disk: Path) -> None:
    """Eleven minutes without room: nobody else could take the lease over, so the run has not lost it."""
    store, now = Store(str(small_disk)), [0.0]
    holder = Lease(store, run_id="at-work", clock=lambda: now[0])
    holder.acquire()
    fill(small_disk / "core")
    now[0] += SILENCE_S + 1
    holder.beat()
    assert holder.lost == ""
    (small_disk / "core").unlink()
    observer = Lease(
        store, run_id="waits", clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)
    )
    observer.acquire()
    fill(small_disk / "core")
    holder.beat()
    assert "taken over by waits" in holder.lost, "what cannot be written can still be read"


def test_an_observer_that_could_not_look_does_not_take_over(tmp_path: Path) -> None:
    """After an outage of two minutes the holder's lease looks old to whoever waited for it, and is not."""
    store, now = Store(str(tmp_path)), [0.0]
    holder = Lease(store, run_id="at-work", clock=lambda: now[0])
    holder.acquire()
    sleeps = iter([2.0, 120.0, 2.0])

    def sleep(seconds: float) -> None:
        now[0] += next(sleeps)
        if now[0] > 123:  # the store is back: the observer has looked first, the holder beats a moment later
            holder.beat()

    observer = Lease(store, run_id="waits", clock=lambda: now[0], sleep=sleep)
    with pytest.raises(StopIteration):
        observer.acquire()
    assert holder.lost == ""
