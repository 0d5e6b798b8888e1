"""Opens strangers' pictures, videos, sounds, fonts and Parquet footers in processes that may die: no crafted file
ends a run.

A few children (``child.py``) are started when they are first needed and kept; each takes one file at a time. They
have limits of memory, of processor time a file and of open files, may write no file, start no process, and are given
none of the environment's credentials. A child that dies or hangs is replaced; its file is tried once more on a fresh
one, and then it is the file's fault. The frames of a video, which a clip is made from, leave a child one by one.

Knows nothing of URLs and rows. Limits: no jail of the kernel's kind: a file that takes a decoder over, instead of
crashing it, can do what the user may do; where ``resource`` lacks a limit (memory on macOS), time alone ends a bomb.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, LifoQueue
from typing import IO

import wanflow
from wanflow.audio import Heard

#: children at once; more pictures wait
MAX_CHILDREN = 4
#: processor time of one file; a clock's time would blame files for a busy machine
CPU_S = 30.0
#: of a video: 10 s of 4K in HEVC, or its frames for a clip of 5 s, take half of it
VIDEO_CPU_S = 120.0
#: a child that does not answer at all
WALL_S = 240.0
#: 64 megapixels of a progressive JPEG in CMYK take about 1 GB
MEMORY_BYTES = 2 * 2**30
#: of one frame of a video: 4K, the cinema's too
MAX_VIDEO_PIXELS = 4096 * 2304

_HEAD = struct.Struct("!cQQ")
_FIT = struct.Struct("!IIId")
_LENGTH = struct.Struct("!I")
#: in front of each frame another byte, and this one in front of the verdict on the video
_END = b"\0"
_BLOCK_BYTES = 2**20
_KINDS = {"image": b"i", "font": b"f", "parquet": b"p", "sound": b"s", "video": b"v"}
#: what a Python needs to start; credentials are not among it
_ENVIRONMENT = (
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ",
    "SYSTEMROOT",
)  # fmt: skip

#: a child may start no thread, and numpy's libraries would try
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class _Died(Exception):
    """The child ended; the words say how."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a clip takes of a video: frames that cover ``width`` x ``height`` pixels; 0: none is wanted.

    Each shows what is on the screen at its time, a tenth of a frame later, from the video's first frame on. The video
    lasts at least until the clip's last frame begins; its own last one is held to the end of that.
    """

    width: int
    height: int
    num_frames: int
    fps: float


class Undecodable(Exception):
    """A video whose frames cannot be had, or a sound: a word and the details, as :meth:`Decoder.problem` returns
    them."""


class Decoder:
    """Asks children; thread-safe."""

    def __init__(
        self,
        num_children: int = MAX_CHILDREN,
        cpu_s: float = CPU_S,
        wall_s: float = WALL_S,
        video_cpu_s: float = VIDEO_CPU_S,
    ) -> None:
        self._limits = (cpu_s, video_cpu_s, wall_s)
        self._idle: LifoQueue[_Child] = LifoQueue()
        self._room = threading.BoundedSemaphore(num_children)

    def problem(
        self, kind: str, data: bytes, max_pixels: int = 0, fit: Fit | None = None
    ) -> tuple[str, str] | None:
        """What is wrong with ``data`` as an ``image``, a ``font``, the footer of a ``parquet`` file or a ``video`` to
        ``fit``: a word and the details; None: it can be used.

        Words: ``unknown`` (format), ``pixels`` (details: ``9000x9000``), ``broken``, ``memory``, ``time``, ``crash``;
        of an image also ``unusable`` (details: why, and what to do); of a video ``hdr`` and ``short`` (details: its
        seconds).
        """
        head = _HEAD.pack(_KINDS[kind], MAX_VIDEO_PIXELS if fit else max_pixels, len(data))
        head += _fit(fit) if fit else b""
        with self._room:
            ended = "", ""
            for _ in range(2):
                child = self._take()
                try:
                    found = child.ask(head, data)
                except _Died as died:
                    child.close()
                    ended = self._death(died, fit)
                    if ended[0] == "time":
                        break
                    continue
                self._idle.put(child)
                return found
            return ended

    def heard(self, data: bytes) -> Heard:
        """What can be heard in ``data``. Undecodable says what is wrong, with two words more: ``silent``: nothing can;
        ``codec`` (details: its name): it is in one that is not read."""
        word, details = self.problem("sound", data) or ("broken", "")
        if word != "heard":
            raise Undecodable(word, details)
        return Heard(*map(float, details.split()))

    def frames(self, path: Path, fit: Fit) -> Generator[bytes, None, None]:
        """The frames that ``fit`` takes of the video in ``path``, each as RGB, 8 bits, row after row.

        Raises Undecodable, where a frame cannot be had; OSError where the file cannot be opened. Close it: until then
        it has a child.
        """
        with self._room, closing(_Child(*self._limits)) as child, path.open("rb") as file:
            head = _HEAD.pack(_KINDS["video"], MAX_VIDEO_PIXELS, path.stat().st_size) + _fit(fit)
            try:
                yield from child.frames(head, file, fit.width * fit.height * 3)
            except _Died as died:
                raise Undecodable(*self._death(died, fit)) from None

    def _death(self, died: _Died, fit: Fit | None) -> tuple[str, str]:
        """A word and the details of how a child ended."""
        how = str(died)
        return ("time", f"{self._limits[1 if fit else 0]:g} s") if how == "time" else ("crash", how)

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
    def __init__(self, cpu_s: float, video_cpu_s: float, wall_s: float) -> None:
        self._wall_s = wall_s
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-s",
                str(Path(__file__).with_name("child.py")),
                str(cpu_s),
                str(video_cpu_s),
                str(MEMORY_BYTES),
                str(Path(wanflow.__file__).parents[1]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _ONE_THREAD,
            cwd="/",
            start_new_session=True,  # Ctrl-C asks the run to stop, not its decoders to die
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, head: bytes, data: bytes) -> tuple[str, str] | None:
        """The child's verdict. Raises _Died."""
        with self._bounded():
            self._orders.write(head)
            self._orders.write(data)
            self._orders.flush()
            return self._verdict()

    def frames(self, head: bytes, file: IO[bytes], frame_bytes: int) -> Iterator[bytes]:
        """Each frame, as it comes. Raises Undecodable, _Died."""
        with self._bounded():
            self._orders.write(head)
            shutil.copyfileobj(file, self._orders, _BLOCK_BYTES)
            self._orders.flush()
        while True:
            with self._bounded():  # whoever takes the frames has all the time in the world
                if _exactly(self._answers, 1) == _END:
                    found = self._verdict()
                    break
                frame = _exactly(self._answers, frame_bytes)
            yield frame
        if found is not None:
            raise Undecodable(*found)

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """A child that takes too long is killed; whatever ends it is told as _Died."""
        process = self._process
        hung = threading.Timer(self._wall_s, process.kill)
        hung.daemon = True
        hung.start()
        try:
            yield
        except (OSError, EOFError, ValueError):
            process.kill()
            code = process.wait()
            late = hung.finished.is_set()
            raise _Died(
                "time" if late or code in (-signal.SIGPROF, -signal.SIGXCPU) else _how(code)
            ) from None
        finally:
            hung.cancel()

    def _verdict(self) -> tuple[str, str] | None:
        (length,) = _LENGTH.unpack(_exactly(self._answers, _LENGTH.size))
        if length > 1_000_000:
            raise ValueError("not an answer")
        said = json.loads(_exactly(self._answers, length))
        return (str(said[0])[:20], str(said[1])[:300]) if said else None

    def close(self) -> None:
        process = self._process
        process.kill()
        for stream in (self._orders, self._answers):
            with suppress(OSError):
                stream.close()
        process.wait()


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _fit(fit: Fit) -> bytes:
    return _FIT.pack(fit.width, fit.height, fit.num_frames, fit.fps)


def _how(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


#: of this process
decoder = Decoder()
atexit.register(decoder.close)
