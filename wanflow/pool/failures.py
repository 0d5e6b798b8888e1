"""What went wrong, as the scheduler should see it: the cause behind an exception, and what to do about a full disk."""

from __future__ import annotations

import errno
import tempfile

from wanflow.errors import AssembleError, EngineError, InputError, RenderError, StoreError
from wanflow.model import Cause

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def no_room(error: BaseException) -> str | None:
    """What to do, when ``error`` came from a full disk of this node; else None."""
    full = isinstance(error, OSError) and error.errno in _FULL
    if isinstance(error, AssembleError):
        full = "No space left on device" in error.stderr or "Disk quota exceeded" in error.stderr
    if not full:
        return None
    folder = tempfile.gettempdir()
    return (
        f"the disk of this node is full ({folder}): free some of it, or set TMPDIR to a larger one ({error})"
    )


def render_error(error: Exception) -> RenderError:
    """``error`` with the cause that the scheduler should see."""
    if isinstance(error, RenderError):
        return error
    if isinstance(error, InputError):
        return RenderError(str(error), Cause.BAD_INPUT)
    if isinstance(error, StoreError):
        return RenderError(str(error), Cause.STORAGE)
    if isinstance(error, EngineError):
        return RenderError(str(error))
    if words := no_room(error):
        return RenderError(words, Cause.STORAGE)
    out_of_memory = isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    if isinstance(error, MemoryError) or out_of_memory:
        return RenderError(f"out of memory: {error}", Cause.OUT_OF_MEMORY)
    return RenderError(f"{type(error).__name__}: {error}")
