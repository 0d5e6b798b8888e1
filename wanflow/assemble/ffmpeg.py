"""The ffmpeg binary: which one, what it can do, and running it. The only place that starts it.

The system's is taken when it has every filter and encoder that a graph uses, else the one from the ``imageio-ffmpeg``
wheel. A run has a time limit, no terminal, no network (every input has a protocol whitelist), no credentials in its
environment, and dies with the thread that started it. Limits: where ``setpriv`` is missing (not Linux), a killed worker
leaves ffmpeg to end by itself at its limit of processor time.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from wanflow.errors import AssembleError

FILTERS = frozenset(
    ("adelay", "afade", "aformat", "alimiter", "aloop", "amix", "apad", "aresample", "asetnsamples", "asetpts", "atrim",
     "concat", "crop", "ebur128", "fade", "format", "fps", "highpass", "loop", "minterpolate", "overlay", "pad",
     "reverse", "scale", "select", "setpts", "setsar", "split", "subtitles", "tpad", "trim", "volume")
)  # fmt: skip
ENCODERS = frozenset({"aac", "libx264", "mjpeg"})
_WHITELIST, _PROTOCOLS = "-protocol_whitelist", "file,pipe"
#: what a program needs to start and to find its libraries and fonts
_ENVIRONMENT = (
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "LANG", "LC_ALL", "TZ",
    "SYSTEMROOT",
)  # fmt: skip
#: How much of ffmpeg's last words goes into an error.
_LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class Binary:
    """An ffmpeg and what it said of itself."""

    path: str
    version: str
    #: what a graph needs and this one has not
    missing: tuple[str, ...]
    #: ``system`` or ``imageio-ffmpeg``
    origin: str


@lru_cache(maxsize=1)
def find() -> Binary:
    """The ffmpeg to use. Raises :class:`AssembleError` when none can do it all, or one is killed as it is asked: what a
    node short of memory does to it says nothing of what it can do, and is asked anew the next time.
    """
    tried: list[str] = []
    for origin, path in _candidates():
        try:
            binary = inspect(path, origin)
        except (OSError, subprocess.SubprocessError) as error:
            if isinstance(error, subprocess.CalledProcessError) and error.returncode < 0:
                raise AssembleError(_killed(error.returncode)) from None
            tried.append(f"{path} does not start ({error})")
            continue
        if not binary.missing:
            return binary
        tried.append(f"{path} lacks {', '.join(binary.missing)}")
    raise AssembleError(
        "no usable ffmpeg: " + ("; ".join(tried) or "none on the PATH and no imageio-ffmpeg wheel")
        + ". Install one with libx264 and libass, or `pip install imageio-ffmpeg`"
    )  # fmt: skip


def inspect(path: str, origin: str) -> Binary:
    """Asks one binary for its version, filters and encoders."""
    filters = _names(_ask(path, "-filters"))
    encoders = _names(_ask(path, "-encoders"))
    missing = sorted(FILTERS - filters) + sorted(ENCODERS - encoders)
    version = _ask(path, "-version").split("\n", 1)[0].removeprefix("ffmpeg version ").split(" ", 1)[0]
    return Binary(path, version, tuple(missing), origin)


def describe() -> dict[str, str]:
    """What ``doctor`` shows: path, version and origin of the ffmpeg in use. Raises as :func:`find` does."""
    binary = find()
    return {"path": binary.path, "version": binary.version, "origin": binary.origin}


def run(arguments: Sequence[str], *, timeout_s: float, cwd: Path | None = None) -> str:
    """Runs ffmpeg with ``arguments``; what it wrote to stderr.

    Raises :class:`AssembleError` with the last lines of stderr when it fails, is killed or runs longer than that.
    """
    binary = find()
    command = [*_leash(), binary.path, "-timelimit", str(max(1, round(timeout_s))), *_fenced(arguments)]
    # it parses what strangers sent: none of our credentials is in its reach
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment = {**kept, **_fontconfig(), "AV_LOG_FORCE_NOCOLOR": "1"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment,
        )
    except OSError as error:
        raise AssembleError(f"ffmpeg ({binary.path}) does not start: {error}; run `wanflow doctor`") from None
    try:
        _, raw = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        _, raw = process.communicate()
        raise AssembleError(f"ffmpeg took longer than {timeout_s:.0f} s and was ended", _last(raw)) from None
    except BaseException:  # Ctrl-C or a cancelled task: nothing of ours may stay behind
        process.kill()
        process.wait()
        raise
    code = process.returncode
    if code < 0:
        raise AssembleError(_killed(code), _last(raw))
    if code:
        raise AssembleError(f"ffmpeg ended with exit code {code}", _last(raw))
    return raw.decode("utf-8", "replace")


def _fenced(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with files and pipes as all that each input, and whatever it points to, may be read by."""
    fenced: list[str] = []
    start = 0
    for argument in arguments:
        if argument == "-i":
            if _WHITELIST not in fenced[start:]:
                fenced += [_WHITELIST, _PROTOCOLS]
            start = len(fenced) + 2
        fenced.append(argument)
    return fenced


def _candidates() -> list[tuple[str, str]]:
    found = []
    # a worker may have been started without its environment's programs on the path
    if system := shutil.which("ffmpeg") or shutil.which("ffmpeg", path=os.path.join(sys.prefix, "bin")):
        found.append(("system", system))
    found += [("imageio-ffmpeg", path) for path in _in_wheel()]
    return found


def _in_wheel() -> list[str]:
    """The wheel's own binary. Where it lies is not asked of the wheel: it tries it out, and takes one that was killed
    in that moment for broken as long as the process lives.
    """
    try:
        import imageio_ffmpeg
    except ImportError:
        return []  # optional where the system's ffmpeg is complete
    if named := os.environ.get("IMAGEIO_FFMPEG_EXE"):
        return [named]
    return [str(path) for path in Path(imageio_ffmpeg.__file__).with_name("binaries").glob("ffmpeg-*")]


def _ask(path: str, flag: str) -> str:
    done = subprocess.run(
        [path, "-hide_banner", flag],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout


def _names(listing: str) -> set[str]:
    return set(re.findall(r"^ *[A-Z.|]{2,8} +(\w+) ", listing, re.MULTILINE))


@lru_cache(maxsize=1)
def _leash() -> tuple[str, ...]:
    """On Linux: the kernel kills ffmpeg when the thread that waits for it dies, even by SIGKILL."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    if setpriv is None:
        return ()
    probe = subprocess.run([setpriv, "--pdeathsig", "KILL", "true"], capture_output=True, check=False)
    if probe.returncode < 0:
        raise AssembleError(_killed(probe.returncode))  # not remembered
    return (setpriv, "--pdeathsig", "KILL") if probe.returncode == 0 else ()


def _fontconfig() -> dict[str, str]:
    """libass is given every font that it needs; an empty configuration keeps the system's from changing a video."""
    return {"FONTCONFIG_FILE": str(Path(__file__).with_name("fontconfig.xml"))}


def _last(raw: bytes) -> str:
    lines = [line for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
    return "\n".join(lines[-_LAST_LINES:])


def _killed(code: int) -> str:
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"ffmpeg was killed by {name}; out of memory?"
