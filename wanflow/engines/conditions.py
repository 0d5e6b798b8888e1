"""Source images as the model takes them, the last ones at hand: clips of one picture pay for the VAE once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from wanflow.engines.denoise import Condition

#: in host memory; an image of A14B at 720p is 24 MB
KEPT_BYTES = 2**30


class Conditions:
    """Keeps what was used last, up to ``KEPT_BYTES``; gives it on ``device``."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._kept: OrderedDict[tuple[object, ...], Condition] = OrderedDict()
        self._num_bytes = 0

    def of(
        self,
        images: Sequence[bytes],
        width: int,
        height: int,
        num_frames: int,
        make: Callable[[], Condition],
    ) -> Condition:
        """What ``make`` made, now or before, of the same images at the same size and length."""
        key = (*(hashlib.sha256(image).digest() for image in images), width, height, num_frames)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _on(make(), "cpu")
            self._num_bytes += _size(kept)
            while self._num_bytes > KEPT_BYTES and len(self._kept) > 1:
                self._num_bytes -= _size(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(key)
        return _on(kept, self._device)


def _tensors(condition: Condition) -> tuple[torch.Tensor | None, ...]:
    return condition.channels, condition.first, condition.features


def _on(condition: Condition, device: str) -> Condition:
    return Condition(*(None if each is None else each.to(device) for each in _tensors(condition)))


def _size(condition: Condition) -> int:
    return sum(each.nbytes for each in _tensors(condition) if each is not None)
