"""LoRAs and source videos on this node's disk: fetched once, however many replicas ask, and found by the next run.

``loras/<digest>.safetensors`` and ``videos/<digest>`` of the ``node_cache``, checked against the digest that the clip
was planned with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanflow.errors import InputError
from wanflow.model import Source
from wanflow.node_cache import Entry, keep
from wanflow.storage import fetch_url, redact, size_of


def local_lora(source: Source) -> Path:
    """The file on this node. InputError when it is gone or is no longer the one that was planned with."""
    kept = _keep("loras", f"{source.digest}.safetensors", source)
    # it was used last, so it stays until it is read; what is open stays good whoever removes it
    kept.release()
    return kept.path


@contextmanager
def local_video(source: Source) -> Iterator[Path]:
    """The file on this node, which stays there meanwhile: the engine may first have to move its weights about, and
    another replica to make room. Raises as :func:`local_lora`.
    """
    kept = _keep("videos", source.digest, source)
    try:
        yield kept.path
    finally:
        kept.release()


def _keep(kind: str, name: str, source: Source) -> Entry:
    def fetch(path: Path) -> None:
        fetch_url(source.url, path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != source.digest:
            raise InputError(
                f"{redact(source.url)}: has changed since it was planned with; run again to use it as it is now"
            )

    try:
        return keep(kind, name, lambda: size_of(source.url) or 0, fetch)
    except FileNotFoundError:
        raise InputError(f"{redact(source.url)}: does not exist any more") from None
