"""Renders one clip after the other on one loaded engine; knows the store, but neither Ray nor the scheduler.

Each stage of a clip (base latents, cascade steps, master) is put into the store with a record of its own as soon as it
is made; a stage that has a record is loaded instead of rendered. One replica renders one clip at a time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wanflow import cascade, master
from wanflow.engines import Engine, dump_latents, load_latents
from wanflow.errors import EngineError, InputError, RenderError, StoreError
from wanflow.inputs import read_source
from wanflow.model import Attempt, Cause, Clip, Record, RenderClip, Scalar, Stage
from wanflow.pool import RunContext
from wanflow.records import clip_record, file_of, put_clip
from wanflow.storage import Store, wait_out

LATENTS = "latents.safetensors"
MASTER = "master.mp4"

#: (stage, step, of): called at every step; raises Cancelled to end the attempt
OnStep = Callable[[str, int, int], None]
Seconds = tuple[tuple[str, float], ...]


class Replica:
    """One engine, ready to render. Raises EngineError or StoreError when it cannot be made."""

    def __init__(
        self, context: RunContext, weights: str, device: str | None, num_threads: int | None
    ) -> None:
        self._store = Store(context.workspace)
        check_same_store(self._store, context)
        self._engine: Engine = context.load_engine(context.engines[weights], device, num_threads)
        self._timer = _StageTimer()
        #: source images fetched ahead, by digest; the newest two, since a staged clip may go elsewhere
        self._images: dict[str, bytes] = {}

    def stage(self, task: RenderClip) -> None:
        """Fetch the clip's source image ahead of its turn. Failures wait for the render to report them."""
        try:
            self._image(task.clip)
        except (StoreError, InputError):
            return

    def render(self, task: RenderClip, attempt: Attempt, on_step: OnStep) -> Seconds:
        """Make every stage of ``task`` that has no record; return (stage, seconds).

        Raises RenderError, whose cause says how it failed; ``seconds`` then has what was spent.
        """
        timer = self._timer = _StageTimer()

        def timed_step(stage: str, step: int, num_steps: int) -> None:
            timer.enter(stage)
            on_step(stage, step, num_steps)

        try:
            with wait_out():  # minutes of a GPU are not thrown away because the store is away
                self._make_stages(task, attempt, timed_step, timer)
        except RenderError:
            raise
        except InputError as error:
            raise RenderError(str(error), Cause.BAD_INPUT) from error
        except StoreError as error:
            raise RenderError(str(error), Cause.STORAGE) from error
        except EngineError as error:
            raise RenderError(str(error)) from error
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
                raise RenderError(f"out of memory: {error}", Cause.OUT_OF_MEMORY) from error
            raise RenderError(f"{type(error).__name__}: {error}") from error
        except Exception as error:  # one clip's trouble must not end the replica
            raise RenderError(f"{type(error).__name__}: {error}") from error
        finally:
            self._images.pop(task.clip.image.digest if task.clip.image else "", None)
        return timer.seconds()

    def seconds(self) -> Seconds:
        """(stage, seconds) of the newest render, ended or not."""
        return self._timer.seconds()

    def _make_stages(self, task: RenderClip, attempt: Attempt, on_step: OnStep, timer: _StageTimer) -> None:
        clip, done = task.clip, self._deepest_record(task)
        if done is not None and done[0] == len(task.stages) - 1:
            return
        latents: Any = None
        first = 0
        if done is not None:
            first = done[0] + 1
            latents = load_latents(self._store.read(file_of(done[1], LATENTS).path))
        image = self._image(clip)
        for number, stage in enumerate(task.stages[first:], first):
            if stage.name == "master":
                self._put_master(clip, stage, latents, attempt, on_step, timer)
                continue
            if stage.name == "base":
                latents = self._engine.generate(clip, image, on_step)
            else:
                step = clip.cascade[number - 1]
                latents = cascade.apply(step, self._engine, clip, latents, image, on_step, stage.name)
            timer.enter("store")
            files = {LATENTS: dump_latents(latents)}
            record, is_mine = put_clip(self._store, stage.key, attempt, files, {"stage": stage.name})
            if not is_mine:  # another attempt was first: what follows must descend from what is on record
                latents = load_latents(self._store.read(file_of(record, LATENTS).path))

    def _put_master(
        self, clip: Clip, stage: Stage, latents: Any, attempt: Attempt, on_step: OnStep, timer: _StageTimer
    ) -> None:
        on_step("decode", 0, 1)
        with tempfile.TemporaryDirectory(prefix="wanflow-") as folder:
            path = Path(folder, MASTER)
            num_frames = master.encode(self._engine.decode(latents), clip.fps, path)
            if num_frames != clip.num_frames:
                raise RenderError(
                    f"{num_frames} frames decoded, {clip.num_frames} asked for", Cause.BAD_OUTPUT
                )
            on_step("decode", 1, 1)
            timer.enter("store")
            info: dict[str, Scalar] = {
                "stage": stage.name,
                "num_frames": num_frames,
                "device": self._engine.device,
            }
            info |= {f"seconds_{name}": round(value, 3) for name, value in timer.seconds() if name != "store"}
            put_clip(self._store, stage.key, attempt, {MASTER: path}, info)

    def _deepest_record(self, task: RenderClip) -> tuple[int, Record] | None:
        for number in range(len(task.stages) - 1, -1, -1):
            if record := clip_record(self._store, task.stages[number].key):
                return number, record
        return None

    def _image(self, clip: Clip) -> bytes | None:
        if clip.image is None:
            return None
        found = self._images.get(clip.image.digest)
        if found is None:
            found = self._images[clip.image.digest] = read_source(clip.image)
            for digest in list(self._images)[:-2]:
                self._images.pop(digest, None)
        return found


def check_same_store(store: Store, context: RunContext) -> None:
    """Raise EngineError unless this process sees the driver's workspace."""
    path, content = context.nonce
    try:
        seen = store.read(path).decode()
    except FileNotFoundError:
        seen = ""
    if seen != content:
        raise EngineError(
            f"the workspace {context.workspace} cannot be seen from this node: the driver wrote {path} there and it is "
            "not here. Use an object store (s3://...) or a file system that every node mounts at the same path."
        )


class _StageTimer:
    """Seconds by stage: each second belongs to the stage entered last."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._stage = "encode"
        self._since_s = time.perf_counter()

    def enter(self, stage: str) -> None:
        now_s = time.perf_counter()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now_s - self._since_s
        self._stage, self._since_s = stage, now_s

    def seconds(self) -> Seconds:
        self.enter(self._stage)
        return tuple(self._seconds.items())
