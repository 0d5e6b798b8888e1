"""Where checkpoints are, whether they are whole, and what identifies them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.checkpoints import make
from wanflow.engines import checkpoint as checkpoints
from wanflow.engines import load_engine, read_spec
from wanflow.errors import EngineError, StoreError, WanflowError
from wanflow.storage import Store


@pytest.fixture
def copy(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint("pocket"), tmp_path / "copy")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints"


@pytest.mark.parametrize(
    "path",
    [
        "model_index.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "transformer_2/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named_before_any_gpu_is_asked_for(path: str, copy: Path) -> None:
    """A copy that stopped half-way is the most common broken checkpoint."""
    (copy / path).unlink()
    with pytest.raises(EngineError, match=path.replace(".", r"\.")):
        read_spec(str(copy))


@pytest.mark.parametrize(
    "path",
    [
        "image_encoder/config.json",
        "image_encoder/model.safetensors",
        "image_processor/preprocessor_config.json",
    ],
)
def test_a_model_that_looks_at_image_features_needs_their_encoder(
    path: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Wan 2.1 I2V without CLIP would be found out in the replica, after 30 GB of weights were read."""
    copy = shutil.copytree(checkpoint("wan21_i2v"), tmp_path / "copy")
    (copy / path).unlink()
    with pytest.raises(EngineError, match=path.replace(".", r"\.")):
        read_spec(str(copy))
    index = copy / "model_index.json"
    name = path.partition("/")[0]
    index.write_text(index.read_text().replace(f'"{name}"', '"something_else"'))
    with pytest.raises(EngineError, match=f"lists no {name}"):
        read_spec(str(copy))


def test_an_image_encoder_is_part_of_the_identity_where_it_is_used(
    checkpoint: Callable[[str], Path], copy: Path, tmp_path: Path
) -> None:
    """Other features are other pixels; a folder that no expert looks at decides nothing."""
    looking = shutil.copytree(checkpoint("wan21_i2v"), tmp_path / "looking")
    original = read_spec(str(looking)).weights
    for path in ("image_encoder/model.safetensors", "image_processor/preprocessor_config.json"):
        data = bytearray((looking / path).read_bytes())
        data[-1] ^= 1
        (looking / path).write_bytes(bytes(data))
        changed = read_spec(str(looking)).weights
        assert changed != original
        original = changed
    index = copy / "model_index.json"
    listed = '{"image_encoder": ["transformers", "CLIPVisionModel"],'
    index.write_text(index.read_text().replace("{", listed, 1))
    before = read_spec(str(copy)).weights
    shutil.copytree(looking / "image_encoder", copy / "image_encoder")
    assert read_spec(str(copy)).weights == before


def test_a_weight_file_that_is_cut_short_is_named(copy: Path) -> None:
    """A full disk leaves files that look right by name."""
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(EngineError, match=r"vae/.*cut short"):
        read_spec(str(copy))
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(EngineError, match=r"vae/.*no safetensors"):
        read_spec(str(copy))


def test_pickled_weights_are_refused_in_words(copy: Path) -> None:
    """A .bin from a stranger can run code on every GPU of the cluster."""
    path = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(EngineError, match="safetensors only"):
        read_spec(str(copy))


def test_sharded_weights_are_checked_shard_by_shard(copy: Path) -> None:
    """A14B's experts come in a dozen shards; the index says which."""
    path = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("part-1.safetensors"))
    index = path.with_name(path.name + ".index.json")
    index.write_text('{"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}')
    with pytest.raises(EngineError, match=r"transformer/part-2\.safetensors"):
        read_spec(str(copy))
    index.write_text('{"weight_map": {"a": "part-1.safetensors"}}')
    read_spec(str(copy))


def test_other_families_are_refused_by_name(copy: Path) -> None:
    """Pointing a job at another model family says so instead of failing while it loads."""
    index = copy / "model_index.json"
    index.write_text(index.read_text().replace("WanTransformer3DModel", "LTXVideoTransformer3DModel"))
    with pytest.raises(EngineError, match="LTXVideoTransformer3DModel"):
        read_spec(str(copy))


def test_two_experts_need_a_boundary(copy: Path) -> None:
    """Without it half of the weights would never be used, and nobody would be told."""
    index = copy / "model_index.json"
    index.write_text(index.read_text().replace('"boundary_ratio": 0.9', '"boundary_ratio": null'))
    with pytest.raises(EngineError, match="boundary_ratio and transformer_2"):
        read_spec(str(copy))


@pytest.mark.parametrize(
    ("component", "key"), [("text_encoder", "d_model"), ("image_encoder", "hidden_size"), ("vae", "z_dim")]
)
def test_components_of_two_checkpoints_are_told_apart(
    component: str, key: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Another model's encoder loads well and fails in the first forward, in a replica, after all weights were read."""
    copy = shutil.copytree(checkpoint("wan21_i2v"), tmp_path / "copy")
    config = copy / component / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), key: 7}))
    with pytest.raises(EngineError, match=f"{component} makes 7 channels .* and transformer takes"):
        read_spec(str(copy))


@pytest.mark.parametrize("url", ["/no/such/place", "./none", "memory://nothing-here"])
def test_a_checkpoint_that_is_nowhere_is_an_error_with_its_address(url: str) -> None:
    """Found while planning, in seconds."""
    with pytest.raises(EngineError, match=url.strip("./").replace("/", "/")):
        read_spec(url)


def test_identity_is_the_content_and_not_the_place_or_the_date(
    checkpoint: Callable[[str], Path], copy: Path, tmp_path: Path
) -> None:
    """Moving a checkpoint to another bucket must not re-render ten thousand clips."""
    original = read_spec(str(checkpoint("pocket"))).weights
    for file in copy.rglob("*"):
        os.utime(file, (1, 1))
    (copy / "README.md").write_text("notes")
    assert read_spec(str(copy)).weights == original
    assert read_spec(f"file://{copy}").weights == original
    assert read_spec(str(make("pocket", tmp_path / "again"))).weights == original


def test_other_weights_of_the_same_shape_are_another_identity(
    checkpoint: Callable[[str], Path], copy: Path, tmp_path: Path
) -> None:
    """The next night's fine-tune has the same files, sizes and names."""
    original = read_spec(str(checkpoint("pocket"))).weights
    assert read_spec(str(make("pocket", tmp_path / "other", seed=1))).weights != original
    weights = copy / "text_encoder" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert read_spec(str(copy)).weights != original


def test_large_files_are_sampled_and_header_and_tail_count(
    monkeypatch: pytest.MonkeyPatch, copy: Path
) -> None:
    """Reading 100 GB to plan a job is not an option; the samples reach from the first tensor to the last."""
    monkeypatch.setattr(checkpoints, "_WHOLE_BYTES", 1 << 10)
    monkeypatch.setattr(checkpoints, "_BLOCK_BYTES", 1 << 8)
    original = read_spec(str(copy)).weights
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert read_spec(str(copy)).weights != original


def _upload(directory: Path, url: str) -> None:
    store = Store(url)
    for file in directory.rglob("*"):
        if file.is_file():
            store.write(file.relative_to(directory).as_posix(), file)


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_checkpoint_in_a_store_is_the_same_checkpoint(
    kind: str, checkpoint: Callable[[str], Path], tmp_path: Path, cache: Path, request: pytest.FixtureRequest
) -> None:
    """Planned on a laptop from s3://, rendered on a node that copies it once."""
    url = request.getfixturevalue("s3_url") + "/wan" if kind == "s3" else f"memory://{tmp_path.name}/wan"
    _upload(checkpoint("pocket"), url)
    spec = read_spec(url)
    assert spec.weights == read_spec(str(checkpoint("pocket"))).weights
    engine = load_engine(spec, device="cpu", num_threads=1)
    assert engine.spec.weights == spec.weights
    assert sorted(p.name for p in cache.iterdir()) == [
        spec.weights,
        f"{spec.weights}.lock",
        f"{spec.weights}.turn.lock",
    ]


def test_replicas_of_one_node_copy_a_checkpoint_once(
    checkpoint: Callable[[str], Path], tmp_path: Path, cache: Path
) -> None:
    """Eight replicas start at the same moment; 126 GB come over the network once."""
    url = f"memory://{tmp_path.name}/once"
    _upload(checkpoint("wan21_t2v"), url)
    weights = read_spec(url).weights
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: checkpoints.local_copy(url, weights), range(4)))
    assert {copy.path for copy in found} == {cache / weights}
    assert sum(copy.fetched_bytes > 0 for copy in found) == 1
    for copy in found:
        copy.release()


def test_a_copy_that_fails_leaves_nothing_behind(
    checkpoint: Callable[[str], Path], tmp_path: Path, cache: Path
) -> None:
    """The next attempt starts clean instead of loading half a checkpoint."""
    url = f"memory://{tmp_path.name}/broken"
    _upload(checkpoint("wan21_t2v"), url)
    weights = read_spec(url).weights
    Store(url).delete("vae/config.json")
    with pytest.raises(EngineError, match=r"vae/config\.json"):
        checkpoints.local_copy(url, weights)
    assert [p.suffix for p in cache.iterdir()] == [".lock", ".lock"]


def test_loading_a_checkpoint_that_changed_since_planning_is_refused(copy: Path, tmp_path: Path) -> None:
    """Keys name the weights that were planned; pixels of other weights under them would be a lie."""
    spec = read_spec(str(copy))
    shutil.rmtree(copy)
    make("pocket", copy, seed=5)
    with pytest.raises(EngineError, match="changed since"):
        load_engine(spec, device="cpu")


def test_a_hub_id_is_read_from_the_hubs_cache(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node without network renders from what was downloaded before; what was not is an error in words."""
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "models--org--tiny"
    shutil.copytree(checkpoint("pocket"), repo / "snapshots" / ("a" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    assert read_spec("org/tiny").weights == read_spec(str(checkpoint("pocket"))).weights
    with pytest.raises(EngineError, match="org/absent"):
        read_spec("org/absent")


class _Hub(BaseHTTPRequestHandler):
    """Answers everything with one status."""

    status = 0

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, StoreError) for status in (None, 500, 503, 429)),
        *((status, EngineError) for status in (401, 403, 404)),
    ],
)
def test_a_hub_that_is_away_is_no_fault_of_the_checkpoint(
    status: int | None, kind: type[WanflowError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cached and the hub is down (None: nobody listens): cron tries again; a no of the hub is final."""
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(_Hub, "status", status)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        if status is None:
            server.server_close()
        else:
            Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        with pytest.raises(WanflowError, match="org/absent") as raised:
            read_spec("org/absent")
        if status is not None:
            server.shutdown()
    assert type(raised.value) is kind


def test_a_hub_id_that_cannot_be_one_is_an_error_in_words() -> None:
    """The hub's client refuses it before it asks."""
    with pytest.raises(EngineError, match="org/a--b"):
        read_spec("org/a--b")
