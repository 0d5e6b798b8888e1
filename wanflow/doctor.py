"""``wanflow doctor``: is this machine ready for a job, and if not, what to do.

One :class:`Check` a question, in the order in which a run would trip over them; each is asked for real (an encode,
a conditional write), in seconds, and one that breaks does not keep the others from being asked. It renders nothing,
starts no Ray, and leaves no file behind in the stores. It looks at this machine only, not at a cluster's other nodes.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wanflow.errors import WanflowError

if TYPE_CHECKING:
    import numpy as np

    from wanflow.engines.devices import DeviceFacts
    from wanflow.job import Job

Status = Literal["ok", "warn", "fail"]

GIB = 2**30
#: Ray keeps objects in shared memory and falls back to the disk below this
MIN_SHM_BYTES = 1 * GIB
#: a local store with less room will fill up in a run
MIN_DISK_BYTES = 5 * GIB
#: where stores are tried
FOLDER = ".wanflow/doctor"
#: of the trial encode: one second
NUM_FRAMES = 8
FPS = 8.0
#: what a headline may be written in: a few characters of each script that need their own glyphs
SCRIPTS = {
    "Latin": "Añŷ€",
    "Greek": "Ωλ",
    "Cyrillic": "Жя",
    "Hebrew": "שלום",
    "Arabic": "سلام",
    "Devanagari": "नमस्ते",
    "Thai": "ไทย",
    "Chinese": "中文",
    "Japanese": "かな",
    "Korean": "한국",
}


@dataclass(frozen=True, slots=True)
class Check:
    """The answer to one question."""

    name: str
    #: ``warn``: a run works, but not as well as it could; ``fail``: it would not work
    status: Status
    found: str
    #: what to do about it; empty when ok
    todo: str = ""


def checks(job: Job | None = None) -> Iterator[Check]:
    """All checks, as they are answered. With a job: of its checkpoint and its stores, else of the packaged ones."""
    yield _ask("python", _python)
    yield _ask("torch", lambda: _torch(job))
    yield _ask("ffmpeg", _ffmpeg)
    yield _ask("encode", _trial_encode)
    yield _ask("fonts", _fonts)
    yield _ask("ray", _ray)
    for name, url in _checkpoints(job).items():
        yield _ask(name, lambda name=name, url=url: _checkpoint(name, url))  # type: ignore[misc]
    if job is not None:
        for checkpoint, url in _checkpoints(job).items():
            name = checkpoint.replace("checkpoint", "memory")
            yield _ask(name, lambda name=name, url=url: _memory(name, url))  # type: ignore[misc]
        yield _ask("profile", lambda: _profile(job))
    if job is None:
        with tempfile.TemporaryDirectory(prefix="wanflow-doctor-") as folder:
            yield _ask("store", lambda: _store("store", folder))
    else:
        yield _ask("workspace", lambda: _store("workspace", str(job.workspace)))
        yield _ask("publish.url", lambda: _store("publish.url", job.publish.url))


def _ask(name: str, question: Callable[[], Check]) -> Check:
    try:
        return question()
    except WanflowError as error:
        return Check(name, "fail", str(error), "do what the message says, then run `wanflow doctor` again")
    except Exception as error:  # noqa: BLE001  a check that breaks is an answer too, and the next ones still count
        return Check(name, "fail", f"{type(error).__name__}: {error}", "please report it with this line")


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return Check("python", "ok", found)


def _torch(job: Job | None) -> Check:
    try:
        from wanflow.engines.devices import device_facts

        facts = device_facts()
    except (ImportError, OSError) as error:
        return Check(
            "torch", "fail", f"cannot be loaded: {error}", "install wanflow again (make demo, or pip install)"
        )
    if facts.gpus:
        gpus = "; ".join(
            f"{gpu.name}, {gpu.total_bytes / GIB:.0f} GiB ({gpu.free_bytes / GIB:.0f} free)"
            for gpu in facts.gpus
        )
        found = f"{facts.torch}, CUDA {facts.cuda}, {len(facts.gpus)} GPU(s): {gpus}"
        if not all(gpu.bf16 for gpu in facts.gpus):
            return Check(
                "torch", "warn", found, "bfloat16 is slow here: use GPUs of compute capability 8 or newer"
            )
        if any(gpu.free_bytes < gpu.total_bytes / 2 for gpu in facts.gpus):
            return Check("torch", "warn", found, "something else fills a GPU: see nvidia-smi")
        return Check("torch", "ok", found)
    return _without_gpu(facts, job)


def _without_gpu(facts: DeviceFacts, job: Job | None) -> Check:
    build = "a build for the CPU" if facts.cuda is None else f"CUDA {facts.cuda}"
    found = f"{facts.torch} ({build}), no GPU, {facts.num_threads} threads"
    if Path("/dev/nvidia0").exists():
        cure = (
            "install a CUDA build of torch"
            if facts.cuda is None
            else "compare its driver with this CUDA (nvidia-smi)"
        )
        todo = f"there is an NVIDIA GPU that torch cannot use: {cure}"
        return Check("torch", "fail", found, todo)
    if job is not None and any(url != "pocket" for url in job.engine.checkpoints().values()):
        todo = "only the pocket checkpoint is quick on a CPU: render on a machine with a GPU, or a cluster (--address)"
        return Check("torch", "warn", found, todo)
    return Check("torch", "ok", found)


def _ffmpeg() -> Check:
    from wanflow.assemble import ffmpeg

    facts = ffmpeg.describe()
    return Check("ffmpeg", "ok", f"{facts['version']} ({facts['origin']}, {facts['path']})")


def _trial_encode() -> Check:
    """A second of film with a word on it, made the way a real variant is made, and read back."""
    from wanflow import master
    from wanflow.assemble import assemble, presets
    from wanflow.model import Clip, Mode, OutputFile, Placement, Sampling, Scene, TextLayer, Variant

    output = presets.resolve("preview", "doctor", aspect="1x1", width=128)
    sampling = Sampling(1, 1.0, None, 1.0, "euler", None)
    clip = Clip(Mode.T2V, "doctor", "", "", None, 0, 64, 64, NUM_FRAMES, FPS, sampling)
    scene = Scene(clips=((output.aspect, clip),), layers=(TextLayer("wanflow", Placement(at="center")),))
    file = OutputFile(output=output, path="doctor.mp4", key="doctor", masters=("doctor",))
    variant = Variant("doctor", 1, (scene,), ((output, file.path),))
    with tempfile.TemporaryDirectory(prefix="wanflow-doctor-") as folder:
        master_file = Path(folder) / "master.mp4"
        master.encode(_frames(), FPS, master_file)
        made = assemble(variant, file, {"doctor": master_file}, {}, Path(folder) / "out").files
        shapes = [frame.shape for frame in master.decode(made["video"])]
        found = (
            f"{len(shapes)} frames of {output.width}x{output.height}, {made['video'].stat().st_size} bytes"
        )
    wanted = round(NUM_FRAMES / FPS * output.fps)
    if len(shapes) != wanted or set(shapes) != {(output.height, output.width, 3)}:
        said = (
            f"ordered {wanted} frames of {output.width}x{output.height}, got {len(shapes)} of {set(shapes)}"
        )
        return Check("encode", "fail", said, "remove this ffmpeg from the PATH: the wheel's is used then")
    return Check("encode", "ok", found)


def _frames() -> Iterator[np.ndarray[Any, Any]]:
    import numpy as np

    numbers = np.arange(NUM_FRAMES, dtype=np.uint8)[:, None, None, None]
    ramp = np.arange(64, dtype=np.uint8)[None, None, :, None]
    yield np.broadcast_to(ramp + 4 * numbers, (NUM_FRAMES, 64, 64, 3)).copy()


def _fonts() -> Check:
    from wanflow.assemble.text import undrawable

    lacking = [script for script, sample in SCRIPTS.items() if undrawable(sample)]
    drawn = ", ".join(script for script in SCRIPTS if script not in lacking)
    if "Latin" in lacking:
        return Check("fonts", "fail", "the packaged fonts do not draw Latin", "install wanflow again")
    if lacking:
        todo = "for these, install fonts (Debian, Ubuntu: apt install fonts-noto-core fonts-noto-cjk) or name a `font:`"
        return Check("fonts", "warn", f"{drawn}; nothing draws {', '.join(lacking)}", todo)
    return Check("fonts", "ok", drawn)


def _ray() -> Check:
    try:
        importlib.import_module("wanflow.pool.ray_pool")
    except ImportError as error:
        return Check(
            "ray", "fail", f"cannot be loaded: {error}", "install wanflow again; until then use --pool inline"
        )
    version = importlib.metadata.version("ray")
    shm = Path("/dev/shm")
    if shm.is_dir() and (room := shutil.disk_usage(shm).total) < MIN_SHM_BYTES:
        found = f"{version}, {room / 2**20:.0f} MiB of shared memory"
        return Check("ray", "warn", found, "give the container more (docker run --shm-size=2g)")
    return Check("ray", "ok", f"{version} (a cluster's nodes must have the same)")


def _checkpoints(job: Job | None) -> dict[str, str]:
    """Name of the check -> URL, each URL once."""
    if job is None:
        return {"checkpoint": "pocket"}
    found: dict[str, str] = {}
    for mode, url in job.engine.checkpoints().items():
        if url not in found.values():
            found[f"checkpoint {mode}"] = url
    return {"checkpoint": next(iter(found.values()))} if len(found) == 1 else found


def _checkpoint(name: str, url: str) -> Check:
    from wanflow.engines import read_spec
    from wanflow.model import LastImage

    spec = read_spec(url)
    modes = "+".join(sorted(spec.modes))
    if spec.last_image is not LastImage.NEVER:
        modes += f", {spec.last_image} have a last_image"
    sizes = ", ".join(f"{width}x{height}" for width, height in spec.sizes)
    found = f"{spec.name} ({modes}), {sizes}, {spec.num_frames} frames at {spec.fps:g} fps, weights {spec.weights[:12]}"
    return Check(name, "ok", found)


def _memory(name: str, url: str) -> Check:
    from wanflow.memory_facts import memory_facts

    found, problem = memory_facts(url)
    todo = f"{problem}: make clips smaller or shorter, or take a larger machine" if problem else ""
    return Check(name, "warn" if problem else "ok", found, todo)


def _profile(job: Job) -> Check:
    from wanflow.profile_facts import profile_facts

    found, problem = profile_facts(job)
    return Check("profile", "fail" if problem else "ok", f"{found}; {problem}" if problem else found,
                 "render on machines that have it, or leave it out" if problem else "")  # fmt: skip


def _store(name: str, url: str) -> Check:
    from wanflow.storage import Store, is_local, redact

    store = Store(url)
    path = f"{FOLDER}/{uuid.uuid4().hex}.json"
    data = b'{"written by": "wanflow doctor"}'
    try:
        store.write(path, data)
        same = store.read(path) == data
        listed = any(stat.path == path for stat in store.list(FOLDER))
    finally:
        store.delete(path)
    found = f"{redact(store.url)}: written, read, listed, deleted"
    if not (same and listed):
        said = "the bytes come back changed" if not same else "a listing does not show what was just written"
        return Check(
            name, "fail", f"{redact(store.url)}: {said}", "wanflow needs a store with strong consistency"
        )
    if not store.conditional_writes():
        todo = "one run at a time: a late overwrite by a second one is noticed by the next run, not prevented"
        return Check(name, "warn", f"{found}; no conditional writes", todo)
    if is_local(url) and (room := shutil.disk_usage(store.url).free) < MIN_DISK_BYTES:
        return Check(name, "warn", f"{found}; {room / GIB:.1f} GiB free", "make room: a full disk ends a run")
    return Check(name, "ok", f"{found}; conditional writes")
