"""Steps of unfinished clips in the workspace: ``steps/<key>/<step>-<attempt>.safetensors``.

``key`` is that of the stage which the steps belong to (base latents, a cascade step), so that every clip that needs
the stage can go on from them, and a changed job never meets steps of the old one. A file is whole or absent. The one
with most steps counts; who writes it deletes those with fewer, who makes the stage's record deletes them all. Losing
one costs the time of its steps, never a clip: what cannot be read is passed over, and so is a store that does not
answer. Files whose stage has a record are left-overs of a crash.

Does not know what is in the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from wanflow.errors import StoreError, WanflowError
from wanflow.model import Attempt
from wanflow.storage import Store

FOLDER = "steps"
_NAME = re.compile(r"(\d+)-(\d+)\.(\d+)\.safetensors")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeptSteps:
    """A file of steps."""

    step: int
    attempt: Attempt
    path: str


def list_steps(store: Store, key: str) -> list[KeptSteps]:
    """The files of ``key``, most steps first; files that do not belong there are passed over."""
    found = []
    for stat in store.list(f"{FOLDER}/{key}"):
        if match := _NAME.fullmatch(stat.path.rpartition("/")[2]):
            step, epoch, number = map(int, match.groups())
            found.append(KeptSteps(step, Attempt(epoch, number), stat.path))
    return sorted(found, key=lambda kept: (kept.step, kept.attempt), reverse=True)


def put_steps(store: Store, key: str, step: int, attempt: Attempt, data: bytes) -> None:
    """Write the attempt's state after ``step`` steps, then delete files with fewer. StoreError: it is not kept."""
    store.write(f"{FOLDER}/{key}/{step}-{attempt}.safetensors", data)
    with suppress(StoreError):  # they are only in the way
        for older in list_steps(store, key):
            if older.step < step:
                store.delete(older.path)


def newest_steps(store: Store, key: str, parse: Callable[[bytes], T]) -> tuple[KeptSteps, T] | None:
    """The furthest file that ``parse`` takes (it raises a WanflowError for what it does not), or None."""
    try:
        listed = list_steps(store, key)
    except StoreError:
        return None
    for kept in listed:
        with suppress(FileNotFoundError, WanflowError):
            return kept, parse(store.read(kept.path))
    return None


def clear_steps(store: Store, key: str) -> None:
    """Delete every file of ``key``; what stays behind because the store did not answer is only in the way."""
    with suppress(StoreError):
        for stat in list(store.list(f"{FOLDER}/{key}")):
            store.delete(stat.path)
