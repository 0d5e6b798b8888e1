"""One attempt at one clip: its stages, made and put on record one after the other.

In two parts: :meth:`Rendering.denoise` needs the engine for itself, :meth:`Rendering.finish` (the last latents' upload,
decoding, the master) only its decoder, so that a replica may begin the next clip meanwhile. A stage that has a record
is loaded instead of made, and one with steps in the store is gone on from. Knows the store and the engine's protocol.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wanflow import cascade, master, quality
from wanflow.engines import Engine, OnStep, Unfinished, dump_latents, load_fitting, load_latents
from wanflow.engines.source_video import source_pixels
from wanflow.errors import Cancelled, RenderError, StoreError
from wanflow.model import Attempt, Cause, Clip, Record, RenderClip, Scalar, SourceVideo, Stage
from wanflow.pool.keeping import Keeper, Saved
from wanflow.pool.loras import local_video
from wanflow.pool.pairs import is_like, num_high_steps, take_first
from wanflow.pool.stage_timer import UNBILLED, Seconds, StageTimer
from wanflow.pool.trunks import load_trunk, put_trunk
from wanflow.records import clip_record, file_of, forget_clip, put_clip
from wanflow.storage import Store
from wanflow.storage.outage import at_once

LATENTS = "latents.safetensors"
MASTER = "master.mp4"


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
    #: (key, step, seconds): so many of the first steps of another clip, of that key, are in the store
    on_ahead: Callable[[str, int, Seconds], None] = lambda key, step, seconds: None


class _NotNext(Exception):
    """The clip whose steps are taken ahead goes elsewhere, or nowhere."""


class Rendering:
    def __init__(
        self,
        store: Store,
        engine: Engine,
        task: RenderClip,
        attempt: Attempt,
        watch: Watch,
        save_every_s: float,
        next_task: Callable[[], RenderClip | None] = lambda: None,
    ) -> None:
        self.timer = StageTimer()
        #: whether this attempt made latents, and did not find them on record
        self.has_denoised = False
        self._store, self._engine, self._task, self._attempt = store, engine, task, attempt
        self._watch, self._save_every_s, self._next_task = watch, save_every_s, next_task
        #: of the stage under way, where it has steps
        self._keeper: Keeper | None = None
        #: stages whose next offer was waited for: an engine that offers none is not waited for again
        self._waited: set[str] = set()
        #: what the master is made of, as the store has it or is to have it; None: the master is on record
        self._latents: bytes | None = None
        #: the stage that they are of, while they are in no record yet
        self._unstored: Stage | None = None

    def denoise(self, prepare: Callable[[Clip], list[bytes]]) -> None:
        """Make every stage before the master that has no record; the record of the last one is left to ``finish``.

        ``prepare`` makes the engine ready for the clip, and gives its images.
        """
        task, clip, done = self._task, self._task.clip, self._deepest_record()
        if done is not None and done[0] == len(task.stages) - 1:
            return
        latents: list[Any] = []
        trunk: Unfinished | None = None
        first = 0
        if done is not None and task.stages[done[0]].name == "trunk":
            trunk = load_trunk(self._store, self._engine, clip, done[1])
            first = 0 if trunk is None else 1  # it was there when it was looked for: it is made again
        elif done is not None:
            first = done[0] + 1
            self._latents = self._store.read(file_of(done[1], LATENTS).path)
            latents = load_latents(self._latents)
        images = prepare(clip)
        for stage in task.stages[first:-1]:
            keeper = self._keeper = self._keep_steps(clip, stage)
            self.has_denoised = True
            if stage.name == "trunk":
                trunk = self._engine.trunk(clip, images, self._on_step, keeper)
                with _storing(self._on_step):
                    trunk = put_trunk(self._store, self._engine, clip, stage.key, self._attempt, trunk)
                    self._end_steps()
                continue
            if stage.name == "base":
                if trunk is not None:
                    keeper.begin_at(trunk)
                elif clip.video is not None and keeper.start is None:
                    keeper.begin_at(self._begin(clip, clip.video))
                self._take_in_pair(clip, images, keeper)
                latents = [self._engine.generate(clip, images, self._on_step, keeper)]
            else:
                latents = cascade.apply(
                    self._engine, clip, latents, images, self._on_step, stage.name, keeper
                )
            self._latents, self._unstored = dump_latents(latents), stage
            if stage is not task.stages[-2] and not self._put_latents():
                latents = load_latents(self._latents)

    def _take_in_pair(self, clip: Clip, images: list[bytes], keeper: Keeper) -> None:
        """Where experts would be swapped for this clip alone, let the next one pass the first expert with it: take this
        clip's high-noise steps, and then those of the other, which finds them in the store in its turn.
        """
        num_high = num_high_steps(clip)
        begun = 0 if keeper.start is None else keeper.start.step
        if not self._engine.swaps_experts or begun >= num_high:
            return
        keeper.start = take_first(self._engine, clip, images, num_high, self._on_step, keeper)
        other = self._next_task()
        if other is None or not is_like(other.clip, clip):
            return
        with at_once():  # a store that is away is no reason to wait: then this clip goes on alone
            with _storing(self._on_step):  # whatever comes now, this clip loses nothing by it
                is_kept = keeper.keep(keeper.start)
            if is_kept:
                self._take_ahead(other, num_high)

    def _take_ahead(self, other: RenderClip, num_steps: int) -> None:
        """The first steps of the clip that comes next, for as long as it does. Its trouble waits for its own turn."""

        def on_step(stage: str, step: int, _: int) -> None:
            self._on_step("ahead", step if stage == "denoise" else 0, num_steps)
            if self._next_task() is not other:
                raise _NotNext

        base = other.stages[0]
        keeper: Keeper | None = None
        try:
            if any(clip_record(self._store, stage.key) for stage in other.stages):
                return
            keeper = self._keep_steps(other.clip, base, on_kept=lambda stage, step: None)
            if keeper.start is not None:
                return
            state = take_first(self._engine, other.clip, [], num_steps, on_step, keeper)
            if keeper.keep(state):
                spent_s = dict(self.timer.seconds()).get("ahead", 0.0)
                self._watch.on_ahead(other.key, num_steps, (("denoise", round(spent_s, 3)),))
        except Cancelled:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, _NotNext too: this clip is not to fail by another one
            return
        finally:
            if keeper is not None:
                keeper.wait()

    def _begin(self, clip: Clip, video: SourceVideo) -> Unfinished:
        stride = self._engine.spec.frame_stride
        with (
            local_video(video.source) as path,
            # however it ends: its error may be held for long, and with it all that is not closed
            closing(source_pixels(path, clip, stride, lambda: self._on_step("encode", 0, 1))) as pixels,
        ):
            return self._engine.begin(clip, pixels)

    def finish(self) -> None:
        """Put the last latents and the master on record. May be called again after it failed."""
        if self._latents is None:
            return
        self._put_latents()
        # what is on record, as whoever goes on from there would read it: it belongs to no stream of the device
        self._put_master(load_latents(self._latents))

    def kept(self) -> Kept:
        """What is in the store of the stage under way, once the attempt has ended with Saved."""
        keeper = self._keeper
        if keeper is not None:
            keeper.wait()
        found = (keeper.stage, keeper.kept) if keeper is not None and keeper.kept else (self.timer.stage, 0)
        return Kept(*found, self.timer.seconds())

    def give_up(self, cause: Cause) -> None:
        """Delete what would lead to the same failure again, or what nobody will need."""
        if cause is Cause.BAD_OUTPUT:  # another try must not start from what gave it
            with suppress(StoreError):
                for made in self._task.stages[:-1]:
                    if made.name != "trunk":  # which others share
                        forget_clip(self._store, made.key)
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

    def _on_step(self, stage: str, step: int, num_steps: int) -> None:
        self.timer.enter(stage)
        self._watch.on_step(stage, step, num_steps)
        if self._watch.must_save():
            if stage in self._waited or not self._has_unsaved(stage, step):
                raise Saved()
            if stage != "store":
                self._waited.add(stage)

    def _has_unsaved(self, stage: str, step: int) -> bool:
        """Whether an order to save that came just now must wait for the next offer of steps, or for the record."""
        keeper = self._keeper
        return keeper is not None and (stage == "store" or (stage == keeper.stage and step > keeper.kept))

    def _keep_steps(
        self, clip: Clip, stage: Stage, on_kept: Callable[[str, int], None] | None = None
    ) -> Keeper:
        name = "denoise" if stage.name == "base" else stage.name
        return Keeper(
            self._store,
            name,
            stage.key,
            self._attempt,
            partial(
                load_fitting, maker=self._engine.maker(clip), num_steps=cascade.steps_of(clip, stage.name)
            ),
            every_s=self._save_every_s,
            must_save=self._watch.must_save,
            on_kept=on_kept or self._watch.on_kept,
        )

    def _end_steps(self) -> None:
        """The stage under way has its record."""
        assert self._keeper is not None
        self._keeper.clear()
        self._keeper = None

    def _put_latents(self) -> bool:
        """Put what was made on record, unless it is. False where another attempt was first: what follows descends from
        what is on record.
        """
        stage = self._unstored
        if stage is None:
            return True
        with _storing(self._on_step):
            assert self._latents is not None
            files, info = {LATENTS: self._latents}, {"stage": stage.name}
            record, is_mine = put_clip(self._store, stage.key, self._attempt, files, info)
            if not is_mine:
                self._latents = self._store.read(file_of(record, LATENTS).path)
            self._end_steps()
            self._unstored = None
        return is_mine

    def _put_master(self, latents: list[Any]) -> None:
        clip, stage = self._task.clip, self._task.stages[-1]

        def chunks() -> Iterator[Any]:
            done = 0
            self._on_step("decode", 0, clip.num_frames)
            for frames in self._engine.frames(cascade.pixels(self._engine, clip, latents)):
                yield frames
                done += len(frames)
                self._on_step("decode", done, clip.num_frames)

        with tempfile.TemporaryDirectory(prefix="wanflow-") as folder:
            path = Path(folder, MASTER)
            num_frames = master.encode(quality.check_frames(chunks()), clip.fps, path)
            if num_frames != clip.num_frames:
                raise RenderError(
                    f"{num_frames} frames decoded, {clip.num_frames} asked for", Cause.BAD_OUTPUT
                )
            with _storing(self._on_step):
                info: dict[str, Scalar] = {
                    "stage": stage.name,
                    "num_frames": num_frames,
                    "device": self._engine.device,
                }
                spent = self.timer.seconds()
                info |= {f"seconds_{name}": round(value, 3) for name, value in spent if name not in UNBILLED}
                put_clip(self._store, stage.key, self._attempt, {MASTER: path}, info)

    def _deepest_record(self) -> tuple[int, Record] | None:
        for number in range(len(self._task.stages) - 1, -1, -1):
            if record := clip_record(self._store, self._task.stages[number].key):
                return number, record
        return None


@contextmanager
def _storing(on_step: OnStep) -> Iterator[None]:
    """The upload of a stage's result: it is not stopped half way, because it is what would be saved."""
    with suppress(Cancelled):
        on_step("store", 0, 1)
    yield
    with suppress(Cancelled):
        on_step("store", 1, 1)
