"""A source video's file to the pixels that a clip is made from: as many frames, at its rate, covering its size."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from wanflow.decoder import Fit, Undecodable, decoder
from wanflow.errors import RenderError
from wanflow.input_checks import describe_video_problem
from wanflow.model import Cause, Clip

if TYPE_CHECKING:
    from wanflow.engines import Pixels

#: what is the file's fault, and would happen again; the rest may be the machine's
_OF_THE_FILE = ("unknown", "pixels", "broken", "hdr", "short")


def source_pixels(
    path: Path, clip: Clip, stride: int, on_chunk: Callable[[], None]
) -> Generator[Pixels, None, None]:
    """Chunks of 1 frame, then of ``stride`` each, as an engine encodes them. ``on_chunk`` may raise to stop.

    Close it, or a decoder waits until it is collected. RenderError: it cannot be decoded. OSError: nor opened.
    """
    import torch

    fit = Fit(clip.width, clip.height, clip.num_frames, clip.fps)
    try:
        with closing(decoder.frames(path, fit)) as frames:
            for number in range((clip.num_frames - 1) // stride + 1):
                on_chunk()
                data = b"".join(next(frames) for _ in range(stride if number else 1))
                array = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                array = array.view(-1, clip.height, clip.width, 3)
                yield (2.0 * (array.to(torch.float32) / 255.0) - 1.0).permute(3, 0, 1, 2)[None].contiguous()
    except Undecodable as error:
        word, details = error.args
        cause = Cause.BAD_INPUT if word in _OF_THE_FILE else Cause.ITEM_ERROR
        words = describe_video_problem(word, details, clip.num_frames, clip.fps)
        raise RenderError(f"the source video {words}", cause) from error
