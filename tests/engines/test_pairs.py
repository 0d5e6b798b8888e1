"""Clips in pairs on the rung of the ladder that holds one expert at a time: the same clips, half of the copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engines.conftest import make_clip, silent
from tests.engines.test_memory import Pretended
from wanflow.engines import Engine, load_latents, read_spec, wan
from wanflow.engines.checkpoint import open_files
from wanflow.engines.footprint import LAST_RUNG, ONE_AT_A_TIME, needed_bytes_beside_expert, read_parts
from wanflow.model import Attempt, Clip, Mode, RenderClip, Sampling, Shortcuts, Stage
from wanflow.pool import RunContext
from wanflow.pool.rendering import LATENTS, Watch
from wanflow.pool.replica import Rendered, Replica
from wanflow.records import clip_record, file_of
from wanflow.storage import Store

EXPERTS = ("transformer", "transformer_2")


def clips_of(engine: Engine, num: int, sampling: Sampling | None = None) -> list[Clip]:
    usual = replace(engine.spec.sampling, steps=6, flow_shift=5.0)
    clip = make_clip(engine, Mode.T2V, sampling or usual)
    return [replace(clip, prompt=f"prompt {number}", seed=number) for number in range(num)]


class Night:
    """A replica on one rung of the ladder, told of each clip while the one before is rendered."""

    def __init__(self, folder: Path, path: Path, rung: int, expert_stays: bool = True) -> None:
        self.world = Pretended(path, rung)
        self.wan = self.world.wan
        self.wan._residence._expert_stays = expert_stays
        self.store = Store(str(folder))
        self.store.write("nonce", b"n")
        context = RunContext(
            "r", 1, self.store.url, "", {self.wan.spec.weights: self.wan.spec}, {}, {}, ("nonce", "n"),
            load_engine=lambda *_: self.wan,
        )  # fmt: skip
        self.replica = Replica(context, self.wan.spec.weights, None, None)
        #: experts as they came onto the "GPU"
        self.copies: list[str] = []
        move = self.wan._residence._move

        def count(module: torch.nn.Module, device: torch.device) -> None:
            if device.index is not None:
                self.copies += [name for name in EXPERTS if self.world.parts.get(name) is module]
            move(module, device)

        self.wan._residence._move = count

    def render(self, clips: list[Clip]) -> list[torch.Tensor]:
        self.wan.set_prompts([prompt for clip in clips for prompt in (clip.prompt, clip.negative_prompt)])
        tasks = [
            RenderClip(clip, (Stage("base", f"{2 * i:064d}"), Stage("master", f"{2 * i + 1:064d}")))
            for i, clip in enumerate(clips)
        ]
        found = []
        for number, task in enumerate(tasks):
            attempt = Attempt(1, number + 1)
            if number + 1 < len(tasks):
                self.replica.stage(tasks[number + 1], attempt)
            assert isinstance(self.replica.render(task, attempt, Watch(silent)), Rendered)
            record = clip_record(self.store, task.stages[0].key)
            assert record is not None
            found += load_latents(self.store.read(file_of(record, LATENTS).path))
        return found


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
@pytest.mark.parametrize(
    ("expert_stays", "copies"),
    [
        (True, [*EXPERTS, *EXPERTS]),
        (False, ["transformer", "transformer_2", "transformer_2"] * 2),
    ],
)
def test_clips_in_pairs_are_the_same_clips_and_experts_are_copied_for_both(
    scheduler: str,
    expert_stays: bool,
    copies: list[str],
    tmp_path: Path,
    checkpoint: Callable[[str], Path],
    engine: Callable[[str], Engine],
) -> None:
    """57 GB a clip, for four seconds of a distilled one's twenty: with room for the decoder beside an expert half of
    them, without three quarters."""
    whole = engine("a14b_t2v")
    sampling = replace(whole.spec.sampling, steps=6, flow_shift=5.0, scheduler=scheduler)
    clips = clips_of(whole, 4, sampling)
    night = Night(tmp_path, checkpoint("a14b_t2v"), ONE_AT_A_TIME, expert_stays)
    latents = night.render(clips)
    assert night.copies == copies
    for clip, found in zip(clips, latents, strict=True):
        assert torch.equal(found, whole.generate(clip, (), silent))
    assert not list(night.store.list("steps/"))


def test_shortcuts_of_a_pair_are_those_of_each_clip(
    tmp_path: Path, checkpoint: Callable[[str], Path], engine: Callable[[str], Engine]
) -> None:
    """What is remembered from step to step is of one clip and one expert: the other clip in between leaves nothing."""
    whole = engine("a14b_t2v")
    shortcuts = Shortcuts(guidance_until=0.8, cache=0.2, taylor_low=2, batch_guidance=True)
    sampling = replace(
        whole.spec.sampling, steps=12, flow_shift=5.0, guidance=3.0, profile="fast", shortcuts=shortcuts
    )
    clips = clips_of(whole, 2, sampling)
    night = Night(tmp_path, checkpoint("a14b_t2v"), ONE_AT_A_TIME)
    for clip, found in zip(clips, night.render(clips), strict=True):
        assert torch.equal(found, whole.generate(clip, (), silent))
    assert night.copies == [*EXPERTS]


def test_an_expert_stays_beside_the_decoder_where_the_device_has_room_for_both(
    checkpoint: Callable[[str], Path],
) -> None:
    """A card that is one byte too small must not run out of memory in the decoder, clip after clip. (torch's device
    without memory is the GPU.)"""
    path = checkpoint("a14b_t2v")
    spec = read_spec(str(path))
    needed = needed_bytes_beside_expert(read_parts(open_files(str(path)), spec))
    stays = [
        wan.load(spec, path, "meta", 1, room_bytes=room)._residence._expert_stays
        for room in (needed, needed - 1)
    ]
    assert stays == [True, False]


def test_an_odd_clip_at_the_end_passes_alone(
    tmp_path: Path, checkpoint: Callable[[str], Path], engine: Callable[[str], Engine]
) -> None:
    """Nothing comes after it that could go with it."""
    clips = clips_of(engine("a14b_t2v"), 3)
    night = Night(tmp_path, checkpoint("a14b_t2v"), ONE_AT_A_TIME)
    latents = night.render(clips)
    assert night.copies == [*EXPERTS, *EXPERTS]
    assert torch.equal(latents[2], engine("a14b_t2v").generate(clips[2], (), silent))


@pytest.mark.parametrize(
    ("layout", "rung"), [("a14b_t2v", 0), ("a14b_t2v", 1), ("a14b_t2v", LAST_RUNG), ("wan21_t2v", 2)]
)
def test_where_no_expert_is_swapped_each_clip_is_rendered_in_its_turn(
    layout: str, rung: int, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    """Where both are there, or one, or none for long, a clip ahead would be late for nothing."""
    night = Night(tmp_path, checkpoint(layout), rung)
    assert not night.wan.swaps_experts
    seen: list[str] = []
    clip, after = clips_of(night.wan, 2)
    tasks = [
        RenderClip(c, (Stage("base", k * 64), Stage("master", f"{k}0" * 32)))
        for c, k in ((clip, "a"), (after, "b"))
    ]
    night.replica.stage(tasks[1], Attempt(1, 1))
    night.replica.render(tasks[0], Attempt(1, 1), Watch(lambda stage, step, of: seen.append(stage)))
    assert "ahead" not in seen
