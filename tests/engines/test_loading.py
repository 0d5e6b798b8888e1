"""Weights on their way from the disk to the device: no copy of them in the host's memory, none of the disk twice."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from wanflow.engines import load_engine, read_spec, wan
from wanflow.engines.read_ahead import PIECE_BYTES, is_cached, reading_ahead


def mapped(path: Path) -> Iterator[range]:
    """The addresses at which this process has mapped ``path``."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, *_, name = line.split(maxsplit=5)
        if name == str(path):
            yield range(*(int(address, 16) for address in addresses.split("-")))


def shard(folder: Path) -> None:
    """Two files and an index, as large components have them."""
    from safetensors.torch import load_file, save_file

    whole = folder / "diffusion_pytorch_model.safetensors"
    tensors = sorted(load_file(whole).items())
    index = {}
    for number, part in enumerate((tensors[::2], tensors[1::2]), 1):
        name = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file(dict(part), folder / name, {"format": "pt"})
        index |= dict.fromkeys(dict(part), name)
    whole.unlink()
    (folder / f"{whole.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.fixture
def sharded(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    folder = shutil.copytree(checkpoint("pocket"), tmp_path / "sharded")
    shard(folder / "transformer")
    return folder


def components(engine: Any) -> dict[str, torch.nn.Module]:
    high, low = engine._experts
    return {"text_encoder": engine._text.model, "vae": engine._vae, "transformer": high, "transformer_2": low}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_replicas_of_a_node_share_the_pages_of_weights_in_the_devices_precision(sharded: Path) -> None:
    """On a CPU each weight is a view of the mapped file, shards included: the second replica's cost no memory."""
    engine = load_engine(read_spec(str(sharded)), device="cpu", num_threads=1)
    for name, component in components(engine).items():
        pages = [span for path in (sharded / name).glob("*.safetensors") for span in mapped(path.resolve())]
        for key, weight in component.named_parameters():
            assert any(weight.data_ptr() in span for span in pages), f"{name}.{key} is a copy"


def test_weights_go_to_the_device_one_by_one(sharded: Path) -> None:
    """On the way to a GPU the host has no component whole, in whatever precision it lies on the disk. (torch's device
    without memory stands for the GPU.)"""
    engine = wan.load(read_spec(str(sharded)), sharded, "meta", 1)
    for name, component in components(engine).items():
        kinds = {(weight.device.type, weight.dtype) for weight in component.parameters()}
        assert kinds <= {("meta", torch.bfloat16), ("meta", torch.float32)}, name
    assert components(engine)["transformer"].blocks[0].attn1.to_q.weight.dtype is torch.bfloat16  # type: ignore[index, union-attr]


def test_shards_give_the_numbers_of_one_file(sharded: Path, checkpoint: Callable[[str], Path]) -> None:
    one, several = (
        components(load_engine(read_spec(str(path)), device="cpu", num_threads=1))["transformer"].state_dict()
        for path in (checkpoint("pocket"), sharded)
    )
    assert one.keys() == several.keys()
    assert all(torch.equal(one[name], several[name]) for name in one)


def test_weights_are_read_ahead_of_the_loader(tmp_path: Path) -> None:
    """A loader waits at each page that is not in memory; a disk is fast when much is asked of it at once."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(bytes(2 * PIECE_BYTES + 5))
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        if is_cached(file, 0, PIECE_BYTES):
            pytest.skip("this file system has no page cache that can be emptied")
        with reading_ahead([path]):
            while not is_cached(file, 2 * PIECE_BYTES, 5):
                pass
        assert is_cached(file, 0, PIECE_BYTES)
    finally:
        os.close(file)


def test_a_file_that_cannot_be_read_ahead_is_the_loaders_trouble(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"w" * 100)
    with reading_ahead([path]):
        path.unlink()
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
