"""A checkpoint in an object store: what planning reads of it, and that a node fetches it once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.store.conftest import Network
from wanflow.engines import load_engine, read_spec
from wanflow.engines.checkpoint import LocalFiles, local_copy
from wanflow.errors import EngineError, StoreAway
from wanflow.model import EngineSpec
from wanflow.storage import Store, fetch, fetch_url, wait_out
from wanflow.storage.retry import TRIES

EXPERT = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("wan21_t2v", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints"


@pytest.fixture
def spec(network: Network, s3_url: str, checkpoint: Path) -> EngineSpec:
    """Of the checkpoint in the store, with ``network`` between."""
    store = Store(s3_url)
    for path in LocalFiles(checkpoint).sizes():
        store.write(path, checkpoint / path)
    spec = read_spec(s3_url)
    network.log.clear()
    return spec


def reads(network: Network) -> list[str]:
    """The files that were read of the store, in order."""
    asked = [path.partition("?")[0].split("/", 3) for method, path in network.log if method == "GET"]
    return [parts[3] for parts in asked if len(parts) == 4]


def test_the_second_replica_of_a_node_asks_the_store_for_nothing(
    network: Network, spec: EngineSpec, cache: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight replicas a node, 126 GB: each byte comes once. In pieces, and none of them twice."""
    monkeypatch.setattr(fetch, "PIECE_BYTES", 100_000)
    first = load_engine(spec, device="cpu", num_threads=1)
    sizes = LocalFiles(cache / spec.weights).sizes()
    assert sizes == {
        path: size for path, size in LocalFiles(checkpoint).sizes().items() if path != "config.json"
    }
    assert reads(network).count(EXPERT) == -(-sizes[EXPERT] // 100_000)
    assert first.loading is not None
    assert first.loading.fetched_bytes == sum(sizes.values())
    network.log.clear()
    second = load_engine(spec, device="cpu", num_threads=1)
    assert network.log == []
    assert second.loading is not None
    assert second.loading.fetched_bytes == 0
    weights = sum(size for path, size in sizes.items() if path.endswith(".safetensors"))
    assert second.loading.loaded_bytes == first.loading.loaded_bytes == weights


def test_planning_reads_what_it_samples_and_no_more(network: Network, s3_url: str, spec: EngineSpec) -> None:
    """A hundred gigabytes are known by some megabytes: each sample is one request of its own length."""
    size = sum(stat.size_bytes for stat in Store(s3_url).list())
    network.log.clear()
    read_spec(s3_url)
    methods = [method for method, _ in network.log]
    assert set(methods) == {"GET"}, "no look-ups: the listing says what is there"
    # of each weight file its length, its header and its bytes; of every other file once, configurations twice
    assert len(methods) <= 30
    assert size > 100_000


def test_a_fetch_that_was_killed_is_gone_on_with(
    network: Network, spec: EngineSpec, cache: Path, tmp_path: Path
) -> None:
    """A pod is evicted in mid-fetch; its successor on the node fetches what is missing, and never loads a half."""
    network.rule = lambda method, path: "stall" if method == "GET" and EXPERT in path else "pass"
    script = f"from wanflow.engines.checkpoint import local_copy; local_copy({spec.url!r}, {spec.weights!r})"
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        unfinished = cache / f".tmp-{spec.weights}" / spec.weights
        until_s = time.monotonic() + 60
        while not (unfinished / "vae/diffusion_pytorch_model.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (cache / spec.weights).exists()
    network.rule = lambda method, path: "pass"
    network.log.clear()
    copy = local_copy(spec.url, spec.weights)
    assert EXPERT in reads(network)
    assert "vae/diffusion_pytorch_model.safetensors" not in reads(network)
    assert read_spec(str(copy.path)).weights == spec.weights
    assert not list(cache.glob(".tmp-*"))
    copy.release()


def test_a_checkpoint_whose_store_is_away_is_waited_for(
    network: Network, spec: EngineSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes without a store, before the fetch and in the middle of it, cost a replica minutes: no byte is fetched
    twice. A row's own input fails within seconds."""
    monkeypatch.setattr("wanflow.storage.outage.FIRST_ASK_S", 0.001)
    monkeypatch.setattr("wanflow.storage.outage.ASK_EVERY_S", 0.002)
    monkeypatch.setattr(fetch, "PIECE_BYTES", 100_000)
    refused = {"list-type=2": 30, EXPERT: 60}

    def rule(method: str, path: str) -> str:
        for part, left in refused.items():
            if left and part in path:
                refused[part] -= 1
                return "503"
        served.append(path.partition("?")[0].split("/", 3)[-1])
        return "pass"

    served: list[str] = []
    network.rule = rule
    with wait_out():
        local_copy(spec.url, spec.weights).release()
    assert set(refused.values()) == {0}
    assert served.count(EXPERT) == -(-(cache / spec.weights / EXPERT).stat().st_size // 100_000)
    network.rule = lambda method, path: "503" if EXPERT in path and method == "GET" else "pass"
    network.log.clear()
    with wait_out(), pytest.raises(StoreAway):
        fetch_url(f"{spec.url}/{EXPERT}", cache / "lora")
    assert len(reads(network)) <= fetch.PIECES_AT_ONCE * TRIES


def test_a_copy_that_was_damaged_is_fetched_again(network: Network, spec: EngineSpec, cache: Path) -> None:
    """Found before it is loaded: garbage under the right key would be published."""
    copy = local_copy(spec.url, spec.weights)
    copy.release()
    os.truncate(copy.path / EXPERT, 1000)
    network.log.clear()
    again = local_copy(spec.url, spec.weights)
    assert reads(network).count(EXPERT) == 1
    assert read_spec(str(again.path)).weights == spec.weights
    again.release()


def test_a_checkpoint_that_changed_in_the_store_is_not_taken_for_the_planned_one(
    spec: EngineSpec, s3_url: str, cache: Path, checkpoint: Path
) -> None:
    data = bytearray((checkpoint / EXPERT).read_bytes())
    data[-1] ^= 1
    Store(s3_url).write(EXPERT, bytes(data))
    with pytest.raises(EngineError, match="changed since the run was planned"):
        local_copy(spec.url, spec.weights)
    assert [path.suffix for path in cache.iterdir()] == [".lock", ".lock"]


def test_a_loaded_checkpoint_is_not_removed_for_another(
    spec: EngineSpec, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As long as its replica lives; then it makes room."""
    from wanflow.node_cache import keep

    engine = load_engine(spec, device="cpu", num_threads=1)
    monkeypatch.setenv("WANFLOW_CACHE_GIB", "1e-6")
    keep("checkpoints", "other", lambda: 10, lambda path: path.mkdir()).release()
    assert (cache / spec.weights).is_dir()
    del engine
    keep("checkpoints", "third", lambda: 10, lambda path: path.mkdir()).release()
    assert not (cache / spec.weights).exists()
