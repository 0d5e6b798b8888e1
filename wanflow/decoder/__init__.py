"""Opens strangers' pictures, fonts and Parquet footers in processes that may die: a crafted file costs not the run.

A few children (``child.py``) are started when they are first needed and kept; each takes one file at a time. They
have limits of memory, of processor time a file and of open files, may write no file, start no process, and are given
none of the environment's credentials. A child that dies or hangs is replaced; its file is tried once more on a fresh
one, and then it is the file's fault.

Knows nothing of URLs and rows. Limits: no jail of the kernel's kind: a file that takes a decoder over, instead of
crashing it, can do what the user may do; where ``resource`` lacks a limit (memory on macOS), time alone ends a bomb.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import Empty, LifoQueue
from typing import IO

#: children at once; more pictures wait
MAX_CHILDREN = 4
#: processor time of one file; a clock's time would blame files for a busy machine
CPU_S = 30.0
#: a child that does not answer at all
WALL_S = 240.0
#: 64 megapixels of a progressive JPEG in CMYK take about 1 GB
MEMORY_BYTES = 2 * 2**30

_HEAD = struct.Struct("!cQQ")
_LENGTH = struct.Struct("!I")
_KINDS = {"image": b"i", "font": b"f", "parquet": b"p"}
#: what a Python needs to start; credentials are not among it
_ENVIRONMENT = (
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ",
    "SYSTEMROOT",
)  # fmt: skip


class _Died(Exception):
    """The child ended; the words say how."""


class Decoder:
    """Asks children; thread-safe."""

    def __init__(
        self, num_children: int = MAX_CHILDREN, cpu_s: float = CPU_S, wall_s: float = WALL_S
    ) -> None:
        self._limits = (cpu_s, wall_s)
        self._idle: LifoQueue[_Child] = LifoQueue()
        self._room = threading.BoundedSemaphore(num_children)

    def problem(self, kind: str, data: bytes, max_pixels: int = 0) -> tuple[str, str] | None:
        """What is wrong with ``data`` as an ``image``, a ``font`` or the footer of a ``parquet`` file: a word and the
        details; None: it can be used.

        Words: ``unknown`` (format), ``pixels`` (details: ``9000x9000``), ``broken``, ``memory``, ``time``, ``crash``.
        """
        with self._room:
            words = ""
            for _ in range(2):
                child = self._take()
                try:
                    found = child.ask(kind, data, max_pixels)
                except _Died as died:
                    child.close()
                    words = str(died)
                    if words == "time":
                        return "time", f"{self._limits[0]:g} s"
                    continue
                self._idle.put(child)
                return found
            return "crash", words

    def close(self) -> None:
        """End the idle children; new ones start when they are needed."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    def _take(self) -> _Child:
        with suppress(Empty):
            while True:
                child = self._idle.get_nowait()
                if child.alive:
                    return child
                child.close()
        return _Child(*self._limits)


class _Child:
    def __init__(self, cpu_s: float, wall_s: float) -> None:
        self._wall_s = wall_s
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-s",
                str(Path(__file__).with_name("child.py")),
                str(cpu_s),
                str(MEMORY_BYTES),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            cwd="/",
            start_new_session=True,  # Ctrl-C asks the run to stop, not its decoders to die
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, kind: str, data: bytes, max_pixels: int) -> tuple[str, str] | None:
        """The child's verdict. Raises _Died."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        hung = threading.Timer(self._wall_s, process.kill)
        hung.daemon = True
        hung.start()
        try:
            process.stdin.write(_HEAD.pack(_KINDS[kind], max_pixels, len(data)))
            process.stdin.write(data)
            process.stdin.flush()
            (length,) = _LENGTH.unpack(_exactly(process.stdout, _LENGTH.size))
            said = json.loads(_exactly(process.stdout, length))
        except (OSError, EOFError, ValueError):
            process.kill()
            code = process.wait()
            late = hung.finished.is_set()
            raise _Died(
                "time" if late or code in (-signal.SIGPROF, -signal.SIGXCPU) else _how(code)
            ) from None
        finally:
            hung.cancel()
        return (str(said[0])[:20], str(said[1])[:300]) if said else None

    def close(self) -> None:
        process = self._process
        process.kill()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        process.wait()


def _exactly(stream: IO[bytes], length: int) -> bytes:
    if length > 1_000_000:
        raise ValueError("not an answer")
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _how(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


#: of this process
decoder = Decoder()
atexit.register(decoder.close)
