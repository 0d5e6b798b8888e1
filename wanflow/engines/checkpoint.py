"""Where a checkpoint's files are, whether they are all there, and what identifies them.

A checkpoint is a folder in diffusers' layout: ``model_index.json`` and a folder a component, weights as safetensors
only (other formats can run code when they are read). It may be a directory, any URL that ``storage`` opens, a
Hugging Face hub id (``org/name``), or ``pocket``, the one that comes with wanflow. Reading a specification touches
configuration files, tensor headers and samples of the weights; loading needs every file on the node's disk, where
remote checkpoints are kept by their content (``node_cache``).

Knows nothing of torch. Limit: a file above 8 MiB enters the identity by its header, size and eight sampled blocks; an
edit that misses all of them (never true of training or merging) needs another ``version`` in ``wanflow.json``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from wanflow.engines.remote import RemoteFiles
from wanflow.errors import EngineError, StoreError
from wanflow.node_cache import Entry, keep

_WHOLE_BYTES = 8 << 20
_BLOCK_BYTES = 64 << 10
_NUM_BLOCKS = 8
_NUM_READERS = 16
_MAX_HEADER_BYTES = 100 << 20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHARD = re.compile(r"[A-Za-z0-9_][\w.-]*\.safetensors")
_CLASSES = {
    "transformer": "WanTransformer3DModel",
    "transformer_2": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
    "text_encoder": "UMT5EncoderModel",
    "image_encoder": "CLIPVisionModel",
}
#: components without weights -> their file
_SETTINGS = {"scheduler": "scheduler_config.json", "image_processor": "preprocessor_config.json"}
#: needed by transformers that look at image features (Wan 2.1 I2V), and by no others, which may list them all the same
_IMAGE = ("image_encoder", "image_processor")
#: component -> (the width of what it makes, in its configuration; what a transformer calls the width that it takes)
_WIDTHS = {
    "text_encoder": ("d_model", "text_dim"),
    "image_encoder": ("hidden_size", "image_dim"),
    "vae": ("z_dim", "out_channels"),
}
_WEIGHTS = {"text_encoder": "model", "image_encoder": "model"}


class Files(Protocol):
    """A checkpoint's files, wherever they are. Paths are relative, with slashes."""

    url: str

    def sizes(self) -> Mapping[str, int]:
        """Path to size in bytes, every file."""

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes ``start`` to ``start + length``; FileNotFoundError when absent."""


class LocalFiles:
    """A directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def sizes(self) -> Mapping[str, int]:
        # followed links: hub caches are folders of links into a store of blobs
        return {
            p.relative_to(self.root).as_posix(): p.stat().st_size for p in self.root.rglob("*") if p.is_file()
        }

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        with (self.root / path).open("rb") as file:
            file.seek(start)
            return file.read(-1 if length is None else length)


def open_files(url: str) -> LocalFiles | RemoteFiles:
    """The files of the checkpoint at ``url``; EngineError when there is none, StoreError when the hub is away."""
    if url == "pocket":
        root = Path(__file__).resolve().parent.parent / "pocket" / "checkpoint"
        if not (root / "model_index.json").is_file():
            raise EngineError(f"the packaged checkpoint is missing from {root}: install wanflow again")
        return LocalFiles(root)
    if "://" in url and not url.startswith("file://"):
        return RemoteFiles(url)
    path = Path(url.removeprefix("file://")).expanduser()
    if path.is_dir():
        return LocalFiles(path.resolve())
    if _HUB_ID.fullmatch(url) and not path.exists():
        return LocalFiles(_hub_snapshot(url))
    raise EngineError(
        f"checkpoint {url}: no such directory; give a directory, a URL, a hub id (org/name) or pocket"
    )


def read_json(files: Files, path: str) -> dict[str, Any]:
    """A configuration file; EngineError names it when it is missing or broken."""
    try:
        value = json.loads(files.read(path))
    except FileNotFoundError:
        raise EngineError(f"checkpoint {files.url} has no {path}: is the copy complete?") from None
    except ValueError as error:
        raise EngineError(f"checkpoint {files.url}: {path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise EngineError(f"checkpoint {files.url}: {path} holds no JSON object")
    return value


def components(files: Files, index: Mapping[str, Any]) -> tuple[str, ...]:
    """The folders that the engine loads, from ``model_index.json``; EngineError when one is absent or of another
    kind.
    """
    present = tuple(
        name for name in (*_CLASSES, "tokenizer", *_SETTINGS) if (index.get(name) or [None, None])[1]
    )
    required: tuple[str, ...] = ("transformer", "vae", "text_encoder", "tokenizer")
    if "transformer" in present:
        if read_json(files, "transformer/config.json").get("image_dim") is not None:
            required += _IMAGE
        else:
            present = tuple(name for name in present if name not in _IMAGE)
    for name in required:
        if name not in present:
            raise EngineError(
                f"checkpoint {files.url}: model_index.json lists no {name}; the wan engine needs one"
            )
    for name, wanted in _CLASSES.items():
        if name in present and index[name][1] != wanted:
            raise EngineError(
                f"checkpoint {files.url}: {name} is a {index[name][1]}; the wan engine drives {wanted}"
            )
    if (index.get("boundary_ratio") is not None) != ("transformer_2" in present):
        raise EngineError(
            f"checkpoint {files.url}: model_index.json must have boundary_ratio and transformer_2 together or neither"
        )
    _check_widths(files, present)
    return present


def _check_widths(files: Files, present: tuple[str, ...]) -> None:
    """EngineError unless the components fit each other: a mix of two checkpoints loads, and fails in a forward."""
    for expert in ("transformer", "transformer_2"):
        takes = read_json(files, f"{expert}/config.json") if expert in present else {}
        for name, (made, taken) in _WIDTHS.items():
            if name not in present or taken not in takes:
                continue
            width = read_json(files, f"{name}/config.json").get(made)
            if width is not None and width != takes[taken]:
                raise EngineError(
                    f"checkpoint {files.url}: {name} makes {width} channels ({made}) and {expert} takes {takes[taken]} "
                    f"({taken}); the two are of different checkpoints"
                )


def needed_files(files: Files, index: Mapping[str, Any]) -> tuple[str, ...]:
    """Every file that loading reads, sorted; EngineError names the first one that is missing."""
    sizes = files.sizes()
    needed = {"model_index.json"}
    for name in components(files, index):
        if name in _SETTINGS:
            needed.add(f"{name}/{_SETTINGS[name]}")
        elif name == "tokenizer":
            needed.update(path for path in sizes if path.startswith("tokenizer/"))
            needed.add("tokenizer/tokenizer_config.json")
            if not {"tokenizer/tokenizer.json", "tokenizer/spiece.model"} & needed:
                needed.add("tokenizer/tokenizer.json")
        else:
            needed.add(f"{name}/config.json")
            needed.update(_weight_files(files, sizes, name))
    for path in sorted(needed):
        if path not in sizes:
            raise EngineError(f"checkpoint {files.url} has no {path}: is the copy complete?")
    return tuple(sorted(needed))


def _weight_files(files: Files, sizes: Mapping[str, int], name: str) -> list[str]:
    base = f"{name}/{_WEIGHTS.get(name, 'diffusion_pytorch_model')}.safetensors"
    if base in sizes:
        return [base]
    if f"{base}.index.json" in sizes:
        shards = read_json(files, f"{base}.index.json").get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise EngineError(f"checkpoint {files.url}: {base}.index.json has no weight_map")
        for shard in shards.values():
            if not (isinstance(shard, str) and _SHARD.fullmatch(shard)):
                raise EngineError(
                    f"checkpoint {files.url}: {base}.index.json names {shard!r:.80}, which is no safetensors "
                    "file beside it; other formats can run code when they are read"
                )
        return [f"{base}.index.json", *sorted({f"{name}/{shard}" for shard in shards.values()})]
    if any(path.startswith(f"{name}/") and path.endswith((".bin", ".pt", ".pth", ".ckpt")) for path in sizes):
        raise EngineError(
            f"checkpoint {files.url}: the weights of {name} are a pickle (.bin), which can run code when read; "
            f"wanflow reads safetensors only: convert them to {base}"
        )
    return [base]


def identity(files: Files, needed: tuple[str, ...], version: object = None) -> str:
    """What the weights are, whatever their path and dates: a SHA-256, hex. Checks that no weight file is cut short."""
    sizes = files.sizes()

    def of_file(path: str) -> str:
        digest = hashlib.sha256()
        header_bytes = _read_header(files, path, sizes[path])[0] if path.endswith(".safetensors") else 0
        for start, length in _blocks(sizes[path], header_bytes) if header_bytes else [(0, sizes[path])]:
            digest.update(files.read(path, start, length))
        return f"{path} {sizes[path]} {digest.hexdigest()}"

    # a few dozen files of ten small reads each: over a network it is the waiting that takes time
    with ThreadPoolExecutor(_NUM_READERS if isinstance(files, RemoteFiles) else 1) as readers:
        lines = [f"wanflow weights 1 {version}", *readers.map(of_file, needed)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def tensor_shapes(files: Files, component: str) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor of a component, from the headers of its files. EngineError as ``identity`` has."""
    sizes = files.sizes()
    return {
        name: tuple(entry["shape"])
        for path in _weight_files(files, sizes, component)
        if path.endswith(".safetensors")
        for name, entry in _read_header(files, path, sizes[path])[1].items()
    }


def _read_header(files: Files, path: str, size: int) -> tuple[int, dict[str, Any]]:
    """Length of the header, and what it says of each tensor; EngineError when the file is not safetensors or cut."""
    length = int.from_bytes(files.read(path, 0, 8), "little")
    if 0 < length <= min(size - 8, _MAX_HEADER_BYTES):
        try:
            tensors = json.loads(files.read(path, 8, length))
            tensors.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in tensors.values()]
            if 8 + length + max(ends, default=0) == size:
                return 8 + length, tensors
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            pass
    raise EngineError(f"checkpoint {files.url}: {path} is cut short or no safetensors file: copy it again")


def _blocks(size: int, header_bytes: int) -> Iterator[tuple[int, int]]:
    if size <= _WHOLE_BYTES:
        yield 0, size
        return
    yield 0, header_bytes
    room = size - header_bytes - _BLOCK_BYTES
    for i in range(_NUM_BLOCKS):
        yield header_bytes + room * i // (_NUM_BLOCKS - 1), _BLOCK_BYTES


def weights_of(files: Files, index: Mapping[str, Any]) -> str:
    """The :func:`identity` of a checkpoint whose ``model_index.json`` is ``index``."""
    own = read_json(files, "wanflow.json") if "wanflow.json" in files.sizes() else {}
    return identity(files, needed_files(files, index), own.get("version"))


def local_copy(url: str, weights: str) -> Entry:
    """The checkpoint with the identity ``weights`` on this node's disk.

    A remote one is fetched once a node; found there, nothing is asked of the store. EngineError when what is at ``url``
    has another identity now.
    """
    files = open_files(url)
    if isinstance(files, RemoteFiles):
        wanted = functools.cache(lambda: _to_fetch(files))
        return keep(
            "checkpoints",
            weights,
            size_bytes=lambda: sum(wanted().values()),
            make=lambda folder: _fetch(files, wanted(), weights, folder),
            is_whole=lambda folder: _is_whole(folder, weights),
        )
    _check_unchanged(files, files, weights)
    return Entry(files.root)


def _to_fetch(files: Files) -> dict[str, int]:
    """Path to size in bytes of each file that a copy has."""
    sizes = files.sizes()
    needed = [*needed_files(files, read_json(files, "model_index.json"))]
    needed += ["wanflow.json"] if "wanflow.json" in sizes else []
    return {path: sizes[path] for path in needed}


def _fetch(files: RemoteFiles, wanted: Mapping[str, int], weights: str, folder: Path) -> None:
    there = LocalFiles(folder).sizes() if folder.is_dir() else {}
    files.fetch({path: size for path, size in wanted.items() if there.get(path) != size}, folder)
    _check_unchanged(LocalFiles(folder), files, weights)


def _is_whole(folder: Path, weights: str) -> bool:
    files = LocalFiles(folder)
    try:
        return weights_of(files, read_json(files, "model_index.json")) == weights
    except EngineError:
        return False


def _check_unchanged(files: Files, source: Files, weights: str) -> None:
    if weights_of(files, read_json(files, "model_index.json")) != weights:
        raise EngineError(
            f"checkpoint {source.url} has changed since the run was planned: run again to plan with the new one"
        )


def _hub_snapshot(repo: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "tokenizer/*"]
    try:
        return Path(snapshot_download(repo, allow_patterns=wanted))
    except Exception as error:  # an OSError, or one of the HTTP client's own
        kind = EngineError if _is_final(error) else StoreError
        raise kind(f"checkpoint {repo}: no such directory, and the hub did not give it: {error}") from error


def _is_final(error: BaseException | None) -> bool:
    """Whether the hub has said no, or is not to be asked; else it is away, and a later try may succeed."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status < 500 and status not in (408, 429)
    if isinstance(error, OfflineModeIsEnabled | HFValidationError):
        return True
    return error is not None and _is_final(error.__cause__)  # "not in the cache either", because of what?
