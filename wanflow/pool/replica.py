"""Renders one clip after the other on one loaded engine; knows the store, but neither Ray nor the scheduler.

Each stage of a clip (trunk, base latents, cascade steps, master) is put into the store with a record of its own as soon
as it is made; a stage that has a record is loaded instead of rendered, and one with steps in the store is gone on from.
One replica renders one clip at a time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanflow import cascade, master, quality
from wanflow.engines import Engine, OnStep, Unfinished, check_fp8, dump_latents, load_latents
from wanflow.errors import Cancelled, EngineError, InputError, RenderError, StoreError
from wanflow.inputs import read_source
from wanflow.model import Attempt, Cause, Clip, Lora, Record, RenderClip, Scalar, Source, Stage
from wanflow.pool import RunContext
from wanflow.pool.failures import render_error
from wanflow.pool.keeping import Keeper, Saved
from wanflow.pool.loras import local_lora
from wanflow.pool.processes import memory_bytes
from wanflow.pool.trunks import load_trunk, put_trunk
from wanflow.records import clip_record, file_of, forget_clip, put_clip
from wanflow.storage import Store, wait_out

LATENTS = "latents.safetensors"
MASTER = "master.mp4"

Seconds = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Rendered:
    """Every stage of the clip is on record."""

    seconds: Seconds
    #: resident memory of this process; None where the system does not say
    memory_bytes: int | None
    #: seconds from the beginning of loading to the end of the replica's first step; None after its first clip
    first_step_s: float | None = None


@dataclass(frozen=True)
class Kept:
    """The attempt was told to save and ended: ``step`` steps of ``stage`` are in the store."""

    stage: str
    step: int
    seconds: Seconds


@dataclass(frozen=True)
class Watch:
    """How others follow an attempt, and end it. The functions may be called from several threads."""

    #: (stage, step, of): called at every step; raises Cancelled to end the attempt
    on_step: Callable[[str, int, int], None]
    #: asked at every step: whether to keep the steps and end the attempt
    must_save: Callable[[], bool] = lambda: False
    #: (stage, step): so many steps are in the store
    on_kept: Callable[[str, int], None] = lambda stage, step: None


class Replica:
    """One engine, ready to render. Raises EngineError or StoreError when it cannot be made."""

    def __init__(
        self, context: RunContext, weights: str, device: str | None, num_threads: int | None
    ) -> None:
        self._began_s = time.perf_counter()
        self._first_step_s: float | None = None
        self._num_rendered = 0
        self._store = Store(context.workspace)
        self._save_every_s = context.save_every_s
        check_same_store(self._store, context)
        if context.fp8:  # before minutes of loading
            check_fp8(device)
        self._engine: Engine = context.load_engine(context.engines[weights], device, num_threads)
        if context.compile is not None:
            self._engine.set_compile(context.compile)
        if prompts := context.prompts.get(weights):
            self._engine.set_prompts(prompts)
        self.loading = self._engine.loading
        self._thrift = 0
        #: what the engine renders with; None: not known
        self._loras: tuple[Lora, ...] | None = ()
        self._timer = _StageTimer()
        #: of the stage under way, where it has steps
        self._keeper: Keeper | None = None
        #: source images fetched ahead, by digest; those of the newest two clips, since a staged one may go elsewhere
        self._images: dict[str, bytes] = {}

    def stage(self, task: RenderClip) -> None:
        """Fetch the clip's images and LoRAs ahead of its turn. Failures wait for the render to report them."""
        try:
            for image in task.clip.images:
                self._image(image)
            for lora in task.clip.loras:
                local_lora(lora.source)
        except (StoreError, InputError):
            return

    def render(self, task: RenderClip, attempt: Attempt, watch: Watch, thrift: int = 0) -> Rendered | Kept:
        """Make every stage of ``task`` that has no record. ``thrift``: rungs down the memory ladder from the first one.

        Raises RenderError, whose cause says how it failed; ``seconds`` then has what was spent.
        """
        timer = self._timer = _StageTimer()
        self._keeper = None
        #: stages whose next offer was waited for: an engine that offers none is not waited for again
        waited: set[str] = set()

        def on_step(stage: str, step: int, num_steps: int) -> None:
            timer.enter(stage)
            if self._first_step_s is None and step and stage not in ("encode", "store"):
                self._first_step_s = round(time.perf_counter() - self._began_s, 3)
            watch.on_step(stage, step, num_steps)
            if watch.must_save():
                if stage in waited or not self._has_unsaved(stage, step):
                    raise Saved()
                if stage != "store":
                    waited.add(stage)

        try:
            if thrift != self._thrift:
                self._engine.set_thrift(thrift)
                self._thrift = thrift
            with wait_out():  # minutes of a GPU are not thrown away because the store is away
                self._make_stages(task, attempt, on_step, watch, timer)
        except Saved:
            stage, step = self._kept_steps()
            return Kept(stage or timer.stage, step, timer.seconds())
        except Exception as error:  # one clip's trouble must not end the replica
            failure = render_error(error)
            self._give_up_steps(failure.cause)
            if failure.cause is Cause.BAD_OUTPUT:  # another try must not start from what gave it
                with suppress(StoreError):
                    for made in task.stages[:-1]:
                        if made.name != "trunk":  # which others share
                            forget_clip(self._store, made.key)
            if failure is error:
                raise
            raise failure from error
        finally:
            self._keeper = None
            for image in task.clip.images:
                self._images.pop(image.digest, None)
        self._num_rendered += 1
        first_step_s = self._first_step_s if self._num_rendered == 1 else None
        return Rendered(timer.seconds(), memory_bytes(), first_step_s)

    def seconds(self) -> Seconds:
        """(stage, seconds) of the newest render, ended or not."""
        return self._timer.seconds()

    def _make_stages(
        self, task: RenderClip, attempt: Attempt, on_step: OnStep, watch: Watch, timer: _StageTimer
    ) -> None:
        clip, done = task.clip, self._deepest_record(task)
        if done is not None and done[0] == len(task.stages) - 1:
            return
        latents: Any = None
        trunk: Unfinished | None = None
        first = 0
        if done is not None and task.stages[done[0]].name == "trunk":
            trunk = load_trunk(self._store, self._engine, clip, done[1])
            first = 0 if trunk is None else 1  # it was there when it was looked for: it is made again
        elif done is not None:
            first = done[0] + 1
            latents = load_latents(self._store.read(file_of(done[1], LATENTS).path))
        images = [self._image(source) for source in clip.images]
        if clip.loras != self._loras:
            # whatever happens in between, the next clip's are set anew
            self._loras = None
            self._engine.set_loras([(lora, local_lora(lora.source)) for lora in clip.loras])
            self._loras = clip.loras
        for stage in task.stages[first:]:
            if stage.name == "master":
                self._put_master(clip, stage, latents, attempt, on_step, timer)
                continue
            keeper = self._keeper = self._keep_steps(stage, attempt, watch)
            if stage.name == "trunk":
                trunk = self._engine.trunk(clip, images, on_step, keeper)
            elif stage.name == "base":
                if trunk is not None:
                    keeper.begin_at(trunk)
                latents = self._engine.generate(clip, images, on_step, keeper)
            else:
                step = clip.cascade[int(stage.name.partition("-")[2]) - 1]
                latents = cascade.apply(
                    step, self._engine, clip, latents, images, on_step, stage.name, keeper
                )
            # where another attempt was first, what follows descends from what is on record
            with _storing(on_step):
                if latents is None and trunk is not None:
                    trunk = put_trunk(self._store, self._engine, clip, stage.key, attempt, trunk)
                else:
                    files = {LATENTS: dump_latents(latents)}
                    record, is_mine = put_clip(self._store, stage.key, attempt, files, {"stage": stage.name})
                    if not is_mine:
                        latents = load_latents(self._store.read(file_of(record, LATENTS).path))
                keeper.clear()
                self._keeper = None

    def _keep_steps(self, stage: Stage, attempt: Attempt, watch: Watch) -> Keeper:
        name = "denoise" if stage.name == "base" else stage.name
        return Keeper(
            self._store,
            name,
            stage.key,
            attempt,
            every_s=self._save_every_s,
            must_save=watch.must_save,
            on_kept=watch.on_kept,
        )

    def _has_unsaved(self, stage: str, step: int) -> bool:
        """Whether an order to save that came just now must wait for the next offer of steps, or for the record."""
        keeper = self._keeper
        return keeper is not None and (stage == "store" or (stage == keeper.stage and step > keeper.kept))

    def _kept_steps(self) -> tuple[str, int]:
        """The stage under way that has steps in the store, and how many; else an empty name."""
        keeper = self._keeper
        if keeper is not None:
            keeper.wait()
        return (keeper.stage, keeper.kept) if keeper is not None and keeper.kept else ("", 0)

    def _give_up_steps(self, cause: Cause) -> None:
        """Delete steps that would lead to the same failure again, or that nobody will need."""
        keeper = self._keeper
        if keeper is None:
            return
        keeper.wait()
        if cause in (Cause.BAD_OUTPUT, Cause.ITEM_ERROR, Cause.BAD_INPUT):
            keeper.clear()
        elif cause is Cause.CANCELLED:
            with suppress(StoreError):  # they are only in the way
                if clip_record(self._store, keeper.key) is not None:  # the other attempt was first
                    keeper.clear()

    def _put_master(
        self, clip: Clip, stage: Stage, latents: Any, attempt: Attempt, on_step: OnStep, timer: _StageTimer
    ) -> None:
        def chunks() -> Iterator[Any]:
            done = 0
            on_step("decode", 0, clip.num_frames)
            for frames in self._engine.decode(latents):
                yield frames
                done += len(frames)
                on_step("decode", done, clip.num_frames)

        with tempfile.TemporaryDirectory(prefix="wanflow-") as folder:
            path = Path(folder, MASTER)
            num_frames = master.encode(quality.check_frames(chunks()), clip.fps, path)
            if num_frames != clip.num_frames:
                raise RenderError(
                    f"{num_frames} frames decoded, {clip.num_frames} asked for", Cause.BAD_OUTPUT
                )
            with _storing(on_step):
                info: dict[str, Scalar] = {
                    "stage": stage.name,
                    "num_frames": num_frames,
                    "device": self._engine.device,
                }
                spent = timer.seconds()
                info |= {f"seconds_{name}": round(value, 3) for name, value in spent if name != "store"}
                put_clip(self._store, stage.key, attempt, {MASTER: path}, info)

    def _deepest_record(self, task: RenderClip) -> tuple[int, Record] | None:
        for number in range(len(task.stages) - 1, -1, -1):
            if record := clip_record(self._store, task.stages[number].key):
                return number, record
        return None

    def _image(self, source: Source) -> bytes:
        found = self._images.get(source.digest)
        if found is None:
            found = self._images[source.digest] = read_source(source)
            for digest in list(self._images)[:-4]:
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


@contextmanager
def _storing(on_step: OnStep) -> Iterator[None]:
    """The upload of a stage's result: it is not stopped half way, because it is what would be saved."""
    with suppress(Cancelled):
        on_step("store", 0, 1)
    yield
    with suppress(Cancelled):
        on_step("store", 1, 1)


class _StageTimer:
    """Seconds by stage: each second belongs to the stage entered last."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._stage = "encode"
        self._since_s = time.perf_counter()

    @property
    def stage(self) -> str:
        return self._stage

    def enter(self, stage: str) -> None:
        now_s = time.perf_counter()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now_s - self._since_s
        self._stage, self._since_s = stage, now_s

    def seconds(self) -> Seconds:
        self.enter(self._stage)
        return tuple(self._seconds.items())
