"""Renders clips on one loaded engine; knows the store, but neither Ray nor the scheduler.

One clip at a time has the engine's forwards. Where the engine can decode beside them, the end of a clip (decoding, its
master, uploads) goes on in a thread of its own while the next clip is denoised: two clips at once, never three. Where
the two do not fit into memory together, each has the replica for itself from then on.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace

from wanflow.engines import Engine, check_fp8
from wanflow.errors import EngineError, InputError, RenderError, StoreError
from wanflow.inputs import read_source
from wanflow.model import Attempt, Cause, Clip, Lora, RenderClip, Source
from wanflow.pool import RunContext
from wanflow.pool.failures import render_error
from wanflow.pool.keeping import Saved
from wanflow.pool.loras import local_lora, local_video
from wanflow.pool.processes import memory_bytes
from wanflow.pool.rendering import Kept, Rendering, Watch
from wanflow.pool.stage_timer import Seconds, StageTimer
from wanflow.storage import Store, wait_out


@dataclass(frozen=True)
class Rendered:
    """Every stage of the clip is on record."""

    seconds: Seconds
    #: resident memory of this process; None where the system does not say
    memory_bytes: int | None
    #: seconds from the beginning of loading to the end of the replica's first step; None after its first clip
    first_step_s: float | None = None


@dataclass(frozen=True)
class Denoised:
    """The attempt needs the forwards no more; its end goes on beside whatever begins next."""


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
        with wait_out():  # a start says nothing about the run as long as the store is away
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
        #: of the newest two attempts, and of those that are not asked for yet
        self._timers: dict[Attempt, StageTimer] = {}
        #: held by whoever has the engine for itself
        self._forwards = threading.Lock()
        self._has_room_for_two = True
        #: the clip that ended, or ends, beside others last, and what came of each that was not asked for yet
        self._finishing: tuple[Rendering, Future[Rendered | Kept]] | None = None
        self._outcomes: dict[Attempt, Future[Rendered | Kept]] = {}
        #: source images fetched ahead, by digest; those of the newest two clips, since a staged one may go elsewhere
        self._images: dict[str, bytes] = {}
        #: the clip that comes next, and the attempt during which its first steps may be taken
        self._next: tuple[Attempt, RenderClip] | None = None

    def stage(self, task: RenderClip, ahead_of: Attempt | None = None) -> None:
        """Fetch the clip's images, video and LoRAs ahead of its turn. Failures wait for the render to report them.

        Its first steps may be taken during ``ahead_of``, an attempt here at the clip before it.
        """
        self._next = None if ahead_of is None else (ahead_of, task)
        try:
            for image in task.clip.images:
                self._image(image)
            for lora in task.clip.loras:
                local_lora(lora.source)
            if task.clip.video is not None:
                with local_video(task.clip.video.source):
                    pass
        except (StoreError, InputError):
            return

    def unstage(self) -> None:
        """No clip is to come next: steps of it that are being taken end."""
        self._next = None

    def render(self, task: RenderClip, attempt: Attempt, watch: Watch, thrift: int = 0) -> Rendered | Kept:
        """Make every stage of ``task`` that has no record. ``thrift``: rungs down the memory ladder from the first one.

        Raises RenderError, whose cause says how it failed; ``seconds`` then has what was spent.
        """
        made = self._denoise(task, attempt, watch, thrift)
        return made if isinstance(made, Kept) else self._finish(made)

    def begin(
        self, task: RenderClip, attempt: Attempt, watch: Watch, thrift: int = 0
    ) -> Rendered | Kept | Denoised:
        """As :meth:`render`, but where the clip's end may go on beside the next clip, it does: Denoised is returned,
        and :meth:`finish` has the rest to say. One thread begins clips, one after the other.
        """
        made = self._denoise(task, attempt, watch, thrift)
        if isinstance(made, Kept):
            return made
        self._wait_for_end(made.timer)
        # Where nothing was denoised, nothing says that all of the engine is where it is to be.
        if not (made.has_denoised and self._has_room_for_two and self._engine.decodes_beside):
            return self._finish(made)
        outcome: Future[Rendered | Kept] = Future()
        self._finishing = made, outcome
        self._outcomes[attempt] = outcome
        threading.Thread(
            target=self._finish_beside, args=self._finishing, name="wanflow-end", daemon=True
        ).start()
        return Denoised()

    def finish(self, attempt: Attempt) -> Rendered | Kept:
        """Once: wait for the end of an attempt that began with Denoised; say, or raise, what ``render`` would have."""
        try:
            return self._outcomes[attempt].result()
        finally:
            del self._outcomes[attempt]

    def seconds(self, attempt: Attempt) -> Seconds:
        """(stage, seconds) of one of the newest two attempts, ended or not."""
        return self._timers[attempt].seconds()

    def _denoise(self, task: RenderClip, attempt: Attempt, watch: Watch, thrift: int) -> Rendering | Kept:
        def on_step(stage: str, step: int, num_steps: int) -> None:
            if self._first_step_s is None and step and stage not in ("encode", "store"):
                self._first_step_s = round(time.perf_counter() - self._began_s, 3)
            watch.on_step(stage, step, num_steps)

        if thrift != self._thrift:  # weights move
            self._wait_for_end()
        was_beside = self._is_finishing()
        try:
            with self._engine_for_itself():
                made = Rendering(
                    self._store,
                    self._engine,
                    task,
                    attempt,
                    replace(watch, on_step=on_step),
                    self._save_every_s,
                    lambda: self._next_after(attempt),
                )
                self._timers[attempt] = made.timer
                for other in list(self._timers)[:-2]:
                    if other not in self._outcomes:
                        del self._timers[other]
                try:
                    return self._attempt(made, lambda: self._make_latents(made, thrift)) or made
                except RenderError as error:
                    if error.cause is not Cause.OUT_OF_MEMORY or not was_beside:
                        raise
            # It may fit once the clip before is out of the way; steps that it kept are gone on from.
            self._has_room_for_two = False
            self._wait_for_end(made.timer)
            with self._engine_for_itself():
                return self._attempt(made, lambda: self._make_latents(made, thrift)) or made
        finally:
            for image in task.clip.images:
                self._images.pop(image.digest, None)

    def _next_after(self, attempt: Attempt) -> RenderClip | None:
        found = self._next
        return found[1] if found is not None and found[0] == attempt else None

    def _make_latents(self, made: Rendering, thrift: int) -> None:
        if thrift != self._thrift:
            self._engine.set_thrift(thrift)
            self._thrift = thrift
        made.denoise(self._prepare)

    def _prepare(self, clip: Clip) -> list[bytes]:
        images = [self._image(source) for source in clip.images]
        if clip.loras != self._loras:
            # whatever happens in between, the next clip's are set anew
            self._loras = None
            self._engine.set_loras([(lora, local_lora(lora.source)) for lora in clip.loras])
            self._loras = clip.loras
        return images

    def _finish_beside(self, made: Rendering, outcome: Future[Rendered | Kept]) -> None:
        try:
            outcome.set_result(self._finish_with_room(made))
        except BaseException as error:  # noqa: BLE001 - whoever waits for it must not wait for ever
            _let_go(error)
            outcome.set_exception(error)

    def _finish_with_room(self, made: Rendering) -> Rendered | Kept:
        try:
            return self._finish(made)
        except RenderError as error:
            was_beside = "decode_beside" in dict(made.timer.seconds())
            if error.cause is not Cause.OUT_OF_MEMORY or not was_beside:
                raise
        self._has_room_for_two = False
        with self._forwards:  # alone, and nothing of the first try is held any more
            return self._finish(made)

    def _finish(self, made: Rendering) -> Rendered | Kept:
        if kept := self._attempt(made, made.finish):
            return kept
        self._num_rendered += 1
        first_step_s = self._first_step_s if self._num_rendered == 1 else None
        return Rendered(made.timer.seconds(), memory_bytes(), first_step_s)

    def _attempt(self, made: Rendering, work: Callable[[], None]) -> Kept | None:
        """``work()``; what goes wrong in it as the scheduler should see it."""
        try:
            with wait_out():  # minutes of a GPU are not thrown away because the store is away
                work()
        except Saved:
            return made.kept()
        except Exception as error:  # one clip's trouble must not end the replica
            _let_go(error)
            failure = render_error(error)
            made.give_up(failure.cause)
            if failure is error:
                raise
            raise failure from error
        return None

    @contextmanager
    def _engine_for_itself(self) -> Iterator[None]:
        """But for the decoder; what is decoded meanwhile is not billed a second time."""
        with self._forwards:
            beside = self._finishing[0].timer if self._finishing else None
            if beside:
                beside.set_beside(True)
            try:
                yield
            finally:
                if beside:
                    beside.set_beside(False)

    def _is_finishing(self) -> bool:
        return self._finishing is not None and not self._finishing[1].done()

    def _wait_for_end(self, timer: StageTimer | None = None) -> None:
        """Of the clip before. Whoever waits does not have the engine: that one may need it for itself."""
        if self._finishing is not None and self._is_finishing():
            if timer is not None:
                timer.enter("wait")
            wait([self._finishing[1]])

    def _image(self, source: Source) -> bytes:
        found = self._images.get(source.digest)
        if found is None:
            found = self._images[source.digest] = read_source(source)
            for digest in list(self._images)[:-4]:
                self._images.pop(digest, None)
        return found


def _let_go(error: BaseException) -> None:
    """What the frames of ``error`` hold of the device (a second decoder that was not to blame): the error may be kept
    for as long as the next clip takes, and is a cycle with the frame that caught it.
    """
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


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
