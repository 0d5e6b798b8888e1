"""Sources as the VAE encoded them, the last ones at hand: clips of one image or video pay for it once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch

#: in host memory; an image of A14B at 720p is 24 MB, a video 19
KEPT_BYTES = 2**30

Tensors = tuple[torch.Tensor | None, ...]


class Encoded:
    """Keeps what was used last, up to ``KEPT_BYTES``; gives it on ``device``."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._kept: OrderedDict[tuple[object, ...], Tensors] = OrderedDict()
        self._num_bytes = 0

    def of(self, key: tuple[object, ...], make: Callable[[], Tensors]) -> Tensors:
        """What ``make`` made, now or before, of ``key``: the source's digest, and all that decides how it is taken."""
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _on(make(), "cpu")
            self._num_bytes += _size(kept)
            while self._num_bytes > KEPT_BYTES and len(self._kept) > 1:
                self._num_bytes -= _size(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(key)
        return _on(kept, self._device)


def _on(tensors: Tensors, device: str) -> Tensors:
    return tuple(None if each is None else each.to(device) for each in tensors)


def _size(tensors: Tensors) -> int:
    return sum(each.nbytes for each in tensors if each is not None)
