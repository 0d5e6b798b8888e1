"""The ffmpeg binary: the right one is taken, and no run of it outlives its reason."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from wanflow.assemble import ffmpeg
from wanflow.errors import AssembleError

#: never ends by itself; writes raw frames to the path that follows
ENDLESS = ("-y", "-f", "lavfi", "-i", "testsrc=size=64x64", "-f", "rawvideo")


def test_binary_that_is_found_can_do_all_that_graphs_need() -> None:
    binary = ffmpeg.find()
    assert binary.missing == ()
    assert ffmpeg.describe()["version"] == binary.version
    assert ffmpeg.find() is binary, "asked once a process"


def fake(path: Path, filters: str) -> Path:
    """An ffmpeg of few filters, such as a minimal distribution ships."""
    path.write_text(
        f"#!/bin/sh\ncase $2 in -version) echo 'ffmpeg version 4.0-mini x';; -filters) echo '{filters}';; esac\n"
    )
    path.chmod(0o755)
    return path


def test_systems_ffmpeg_without_libass_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conda's and some distributions' ffmpeg have no libass; without it the run fails at 3 a.m."""
    fake(tmp_path / "ffmpeg", " .. scale V->V Scale")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    ffmpeg.find.cache_clear()
    try:
        assert ffmpeg.find().origin == "imageio-ffmpeg"
        assert "subtitles" in ffmpeg.inspect(str(tmp_path / "ffmpeg"), "system").missing
    finally:
        ffmpeg.find.cache_clear()


def test_no_usable_ffmpeg_says_what_each_one_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini = fake(tmp_path / "mini", " .. scale V->V Scale")
    monkeypatch.setattr(
        ffmpeg, "_candidates", lambda: [("system", str(mini)), ("imageio-ffmpeg", "/nowhere/ffmpeg")]
    )
    ffmpeg.find.cache_clear()
    try:
        with pytest.raises(
            AssembleError,
            match=r"mini lacks .*subtitles.*libx264.*does not start.*pip install imageio-ffmpeg",
        ):
            ffmpeg.find()
    finally:
        ffmpeg.find.cache_clear()


#: an ffmpeg that is killed when it is asked for the first time
_KILLED_ONCE = """#!/bin/sh
mkdir "$0.done" 2>/dev/null && kill -9 $$
exec {real} "$@"
"""
_ASK_TWICE = """
from wanflow.assemble import ffmpeg
from wanflow.errors import AssembleError
try:
    ffmpeg.find()
except AssembleError as error:
    print(error)
print(ffmpeg.find().origin)
"""


@pytest.mark.parametrize("origin", ["system", "imageio-ffmpeg"])
def test_ffmpeg_that_is_killed_while_it_is_asked_what_it_can_do_is_asked_again(
    tmp_path: Path, origin: str
) -> None:
    """The out-of-memory killer hits the first assembly of a worker: its second try must not find "no usable ffmpeg"."""
    import imageio_ffmpeg

    package = Path(imageio_ffmpeg.__file__).parent
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("ffmpeg-*"))
    (real,) = (package / "binaries").glob("ffmpeg-*")
    wheel = tmp_path / package.name / "binaries" / real.name
    script = tmp_path / "ffmpeg" if origin == "system" else wheel
    script.write_text(_KILLED_ONCE.format(real=real))
    script.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    asked = subprocess.run(
        [sys.executable, "-c", _ASK_TWICE], capture_output=True, text=True,
        env={"PYTHONPATH": path, "PATH": f"{tmp_path}:/bin"},
    )  # fmt: skip
    assert asked.stdout.splitlines() == ["ffmpeg was killed by SIGKILL; out of memory?", origin], asked.stderr


def test_failure_carries_the_last_lines_of_stderr(tmp_path: Path) -> None:
    with pytest.raises(AssembleError, match="exit code") as caught:
        ffmpeg.run(["-i", str(tmp_path / "absent.mp4"), "-f", "null", "-"], timeout_s=30)
    assert "No such file" in caught.value.stderr
    assert len(caught.value.stderr.splitlines()) <= 12


def test_run_that_takes_too_long_is_ended() -> None:
    with pytest.raises(AssembleError, match="took longer than 1 s"):
        ffmpeg.run([*ENDLESS, "/dev/null"], timeout_s=0.6)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process under /proc")
def test_killed_ffmpeg_is_an_error_with_its_signal_and_words(tmp_path: Path) -> None:
    """A node short of memory kills ffmpeg: the variant fails with its reason, and is tried again elsewhere."""
    fifo = tmp_path / "frames"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(ffmpeg.run, [*ENDLESS, str(fifo)], timeout_s=60)
        with fifo.open("rb") as frames:
            assert frames.read(64 * 64), "ffmpeg is at work"
            os.kill(process_of(fifo), signal.SIGKILL)
        with pytest.raises(AssembleError, match="was killed by SIGKILL; out of memory") as caught:
            run.result()
    assert "rawvideo" in caught.value.stderr


def process_of(argument: Path) -> int:
    """The process that was started with this path as an argument."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(argument).encode() in line.read_bytes().split(b"\0"):
                return int(line.parent.name)
    raise AssertionError(f"no process has {argument}")


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's parent death signal")
def test_ffmpeg_dies_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    """kill -9 of a worker must not leave an ffmpeg behind that eats the node's cores for the next hour."""
    fifo = tmp_path / "frames"
    os.mkfifo(fifo)
    code = "import sys; from wanflow.assemble import ffmpeg; ffmpeg.run(sys.argv[1:], timeout_s=600)"
    with (
        subprocess.Popen([sys.executable, "-c", code, *ENDLESS, str(fifo)]) as worker,
        fifo.open("rb") as frames,
    ):
        assert frames.read(64 * 64), "ffmpeg is at work"
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        while frames.read(1 << 20):
            pass  # the end of the pipe is the end of ffmpeg
