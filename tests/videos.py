"""Small videos for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path,
    frames: Sequence[int | np.ndarray],
    rate: int,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
) -> Path:
    """Frames of one grey level of ``size``, or uint8 (height, width, 3), nearly without loss; returns ``path``."""
    with av.open(str(path), "w") as container:
        arrays = [
            np.full((size[1], size[0], 3), frame, np.uint8) if isinstance(frame, int) else frame
            for frame in frames
        ]
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = arrays[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"qp": "1"}
        for array in arrays:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return path
