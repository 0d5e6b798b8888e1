"""LoRA files on this node's disk: fetched once, however many replicas ask, and found there by the next run.

``<WANFLOW_CACHE>/loras/<digest>.safetensors``, whole or absent, checked against the digest that the clip was planned
with. When all of them take more than a limit, those that were used longest ago are removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from pathlib import Path

from wanflow.engines.checkpoint import default_cache
from wanflow.errors import InputError
from wanflow.model import Source
from wanflow.storage import fetch_url, redact

#: a few dozen files for 14B experts
MAX_CACHE_BYTES = 32 * 2**30


def local_lora(source: Source, folder: Path | None = None, max_bytes: int = MAX_CACHE_BYTES) -> Path:
    """The file on this node. InputError when it is gone or is no longer the one that was planned with."""
    folder = folder or default_cache().parent / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{source.digest}.safetensors"
    with (folder / f"{source.digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel frees it when its holder dies
        if target.is_file():
            os.utime(target)
            return target
        part = folder / f".tmp-{secrets.token_hex(8)}"
        try:
            fetch_url(source.url, part)
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != source.digest:
                raise InputError(
                    f"{redact(source.url)}: has changed since it was planned with; run again to use it as it is now"
                )
            part.rename(target)
        except FileNotFoundError:
            raise InputError(f"{redact(source.url)}: does not exist any more") from None
        finally:
            part.unlink(missing_ok=True)
    _make_room(folder, target, max_bytes)
    return target


def _make_room(folder: Path, newest: Path, max_bytes: int) -> None:
    """Another process may have one open: its mapping stays good."""
    files = []
    for path in folder.glob("*.safetensors"):
        try:
            facts = path.stat()
        except FileNotFoundError:  # another replica makes room too
            continue
        files.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total > max_bytes and path != newest:
            path.unlink(missing_ok=True)
            total -= size
