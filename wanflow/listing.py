"""A listing of a store in 28 bytes a file: whether a path is there, and whether with this size and ETag.

Keeps a hash of each path and a 128-bit digest of each entry (its weight), not the entries: a million files are told
apart by them, and what is wrongly taken for absent would only be made again. The sum of all weights stands for the
whole listing, in whatever order it came.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from wanflow.storage import Stat

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

WEIGHT_BYTES = 16
#: numpy's kind for weights
_KIND = f"V{WEIGHT_BYTES}"
#: weights that are looked for at a time
_PART = 100_000


def weigh(path: str, size_bytes: int, etag: str) -> bytes:
    """The digest of one entry."""
    text = f"{path}\0{size_bytes}\0{etag}"
    return hashlib.blake2b(text.encode(), digest_size=WEIGHT_BYTES).digest()


def total_of(stats: Iterable[Stat]) -> int:
    """The sum of the weights of ``stats``."""
    return sum(int.from_bytes(weigh(stat.path, stat.size_bytes, stat.etag), "big") for stat in stats)


class PathIndex:
    """Positions of paths in a sequence, by their hashes: 12 bytes a path, of which there are less than 2^32."""

    def __init__(self, hashes: array[int]) -> None:
        import numpy as np

        unordered = np.frombuffer(hashes, np.int64) if hashes else np.empty(0, np.int64)
        order = np.argsort(unordered, kind="stable")
        self._order = order.astype(np.uint32)
        self._hashes = array("q", unordered[order].tobytes())

    def positions(self, path: str) -> Iterable[int]:
        """Where ``path`` may stand, first to last; another path of the same hash stands there too."""
        wanted = hash(path)
        number = bisect_left(self._hashes, wanted)
        while number < len(self._hashes) and self._hashes[number] == wanted:
            yield int(self._order[number])
            number += 1


class WeightIndex:
    """Finds weights among others by their first half, which two of them hardly share: the second one is then missed."""

    def __init__(self, weights: np.ndarray[Any, Any]) -> None:
        import numpy as np

        self._halves = _halves(weights)
        self._order = np.argsort(self._halves[:, 0])
        self._first = self._halves[self._order, 0]

    def positions(self, asked: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Of each of ``asked`` (see :func:`as_weights`) where it stands among the weights, or -1."""
        import numpy as np

        found = np.full(len(asked), -1, np.int64)
        if not len(self._first):
            return found
        for start in range(0, len(asked), _PART):
            part = _halves(asked[start : start + _PART])
            at = np.minimum(np.searchsorted(self._first, part[:, 0]), len(self._first) - 1)
            same = (self._halves[self._order[at]] == part).all(axis=1)
            found[start : start + _PART][same] = self._order[at[same]]
        return found


class Listing:
    """The visible files of a target as they were listed, and what has been seen to change since."""

    def __init__(self, stats: Iterable[Stat] = ()) -> None:
        hashes, weights = array("q"), bytearray()
        self.total = 0
        for stat in stats:
            weight = weigh(stat.path, stat.size_bytes, stat.etag)
            hashes.append(hash(stat.path))
            weights += weight
            self.total += int.from_bytes(weight, "big")
        self._index = PathIndex(hashes)
        self._weights = weights
        #: path -> its weight, None when it is gone
        self._changed: dict[str, bytes | None] = {}

    def __contains__(self, path: str) -> bool:
        return self._weight(path) is not None

    def shows(self, path: str, size_bytes: int, etag: str) -> bool:
        """Whether the file at ``path`` is there, with this size and ETag."""
        return self._weight(path) == weigh(path, size_bytes, etag)

    def shows_each(self, weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """For each of ``weights`` (see :func:`as_weights`) whether it was listed; later changes are not looked at."""
        shown: np.ndarray[Any, Any] = WeightIndex(as_array(self._weights)).positions(weights) >= 0
        return shown

    def put(self, stat: Stat) -> None:
        """The file is there now, in place of what was at its path."""
        weight = weigh(stat.path, stat.size_bytes, stat.etag)
        self.remove(stat.path)
        self._changed[stat.path] = weight
        self.total += int.from_bytes(weight, "big")

    def remove(self, path: str) -> None:
        """Nothing is at ``path`` any more."""
        former = self._weight(path)
        if former is not None:
            self.total -= int.from_bytes(former, "big")
        self._changed[path] = None

    def _weight(self, path: str) -> bytes | None:
        if path in self._changed:
            return self._changed[path]
        for position in self._index.positions(path):
            return bytes(self._weights[position * WEIGHT_BYTES : (position + 1) * WEIGHT_BYTES])
        return None


def as_weights(column: pa.Array) -> np.ndarray[Any, Any]:
    """A binary(16) column of weights, as an array for :class:`WeightIndex`."""
    import numpy as np

    if not len(column):
        return as_array(b"")
    return np.frombuffer(column.buffers()[1], _KIND)[column.offset : column.offset + len(column)]


def _halves(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The two 64-bit numbers that each weight is made of."""
    import numpy as np

    return np.ascontiguousarray(weights).view(np.uint64).reshape(-1, 2)


def as_array(weights: bytes | bytearray) -> np.ndarray[Any, Any]:
    """Weights one after the other, as an array for :class:`WeightIndex`."""
    import numpy as np

    return np.frombuffer(weights, _KIND)
