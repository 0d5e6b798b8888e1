"""Tells "out of memory" apart from every other failure, and leaves the process clean behind it."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from types import TracebackType

import torch

from wanflow.errors import RenderError
from wanflow.model import Cause


class MemoryErrors:
    """Around what computes: running out of memory becomes a RenderError of its own cause, for which the scheduler has a
    rule, and ``recover`` is called once nothing of the failed work is held any more.

    The failed frames hold on to their tensors for as long as somebody holds the error; so it loses them here. (A
    generator as context manager would keep the traceback in a frame of contextlib.)
    """

    def __init__(self, recover: Callable[[], None]) -> None:
        self._recover = recover

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not _is_out_of_memory(error):
            return
        del trace
        words = let_go(error, self._recover)
        raise RenderError(f"out of memory: {words}", Cause.OUT_OF_MEMORY)


def let_go(error: BaseException, recover: Callable[[], None] = lambda: None) -> str:
    """Free what the frames behind ``error`` hold, and give its memory back to the device; returns its words.

    ``recover`` is called in between: once nothing of the failed work is held any more.
    """
    words = str(error) or type(error).__name__
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    del error
    recover()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return words


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's allocator of the CPU has no class of its own for it
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)
