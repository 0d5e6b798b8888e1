"""A clip that stopped half way and went on elsewhere equals one that never stopped, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engines.conftest import given, make_clip, silent
from wanflow import cascade
from wanflow.engines import Engine, Unfinished, dump_unfinished, load_engine, load_unfinished, read_spec
from wanflow.engines.denoise import make_schedule
from wanflow.engines.unfinished import restore
from wanflow.errors import Cancelled, EngineError
from wanflow.model import CascadeStep, Clip, Mode, Sampling

STEPS = 6


class Interruption:
    """Keeps the state after ``at`` steps as bytes and ends the loop there."""

    def __init__(self, at: int, start: Unfinished | None = None) -> None:
        self.start = start
        self.at = at
        self.data = b""

    def offer(self, step: int, num_steps: int, take: Callable[[], Unfinished]) -> None:
        assert num_steps >= step >= 1
        if step == self.at:
            self.data = dump_unfinished(take())
            raise Cancelled


def _interrupted(render: Callable[[Interruption], torch.Tensor], at: int) -> Unfinished:
    """What is in the store when the render was ended after ``at`` steps."""
    keep = Interruption(at)
    with pytest.raises(Cancelled):
        render(keep)
    return load_unfinished(keep.data)


@pytest.fixture(scope="module")
def other_engine(checkpoint: Callable[[str], Path]) -> Callable[[str], Engine]:
    """Another replica's engine of the same checkpoint."""
    loaded: dict[str, Engine] = {}

    def get(layout: str) -> Engine:
        if layout not in loaded:
            loaded[layout] = load_engine(read_spec(str(checkpoint(layout))), device="cpu", num_threads=1)
        return loaded[layout]

    return get


def _sampling(engine: Engine, scheduler: str) -> Sampling:
    # Shifted times of six steps lie on both sides of the boundary, so that one resume is right at it.
    sampling = replace(engine.spec.sampling, steps=STEPS, scheduler=scheduler, flow_shift=5.0)
    if sampling.boundary is not None:
        times = make_schedule(sampling, {}, torch.device("cpu")).timesteps
        assert 0 < int((times >= 1000 * sampling.boundary).sum()) < STEPS
    return sampling


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
@pytest.mark.parametrize(
    ("layout", "mode"),
    [
        ("wan21_t2v", Mode.T2V),
        ("a14b_t2v", Mode.T2V),
        ("a14b_i2v", Mode.I2V),
        ("wan21_i2v", Mode.I2V),
        ("pocket", Mode.I2V),
    ],
)
def test_a_clip_resumed_after_any_step_is_the_same_clip(
    layout: str,
    mode: Mode,
    scheduler: str,
    engine: Callable[[str], Engine],
    other_engine: Callable[[str], Engine],
    image: bytes,
) -> None:
    """A spot machine goes at step 3 of 6; what a colleague approved on the first machine is what is published."""
    one, two = engine(layout), other_engine(layout)
    clip = make_clip(one, mode, _sampling(one, scheduler))
    source = image if mode is Mode.I2V else None
    whole = one.generate(clip, given(source), silent)
    seen: list[tuple[str, int, int]] = []

    def note(stage: str, step: int, of: int) -> None:
        seen.append((stage, step, of))

    for at in range(1, STEPS + 1):
        kept = _interrupted(lambda keep: one.generate(clip, given(source), silent, keep), at)
        assert (kept.maker, kept.num_steps) == (two.maker(clip), cascade.steps_of(clip, "base"))
        seen.clear()
        resumed = two.generate(clip, given(source), note, Interruption(0, kept))
        assert torch.equal(resumed, whole), f"resumed after step {at}"
        steps = [step for stage, step, _ in seen if stage == "denoise"]
        assert steps == list(range(at, STEPS + 1)), "no step is taken twice"


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
def test_a_clip_may_be_interrupted_again_and_again(scheduler: str, engine: Callable[[str], Engine]) -> None:
    """A bad night on spot machines: one step on each of six of them."""
    wan = engine("a14b_t2v")
    clip = make_clip(wan, Mode.T2V, _sampling(wan, scheduler))
    whole = wan.generate(clip, (), silent)
    kept: Unfinished | None = None
    for at in range(1, STEPS + 1):
        keep = Interruption(at, kept)
        with pytest.raises(Cancelled):
            wan.generate(clip, (), silent, keep)
        kept = load_unfinished(keep.data)
    assert torch.equal(wan.generate(clip, (), silent, Interruption(0, kept)), whole)


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
@pytest.mark.parametrize("mode", [Mode.T2V, Mode.I2V])
def test_a_refine_resumed_after_any_step_is_the_same(
    mode: Mode,
    scheduler: str,
    engine: Callable[[str], Engine],
    other_engine: Callable[[str], Engine],
    image: bytes,
) -> None:
    """The upscale is not made again either: the steps that were kept are already at the larger size."""
    one, two = engine("pocket"), other_engine("pocket")
    source = image if mode is Mode.I2V else None
    step = cascade.check(CascadeStep("refine", (("steps", 4), ("strength", 0.6))), one.spec)
    clip: Clip = replace(make_clip(one, mode, _sampling(one, scheduler)), cascade=(step,))
    latents = [one.generate(clip, given(source), silent)]
    _, whole = cascade.apply(one, clip, latents, given(source), silent, "cascade-1")
    seen: list[tuple[str, int, int]] = []

    def note(stage: str, step: int, of: int) -> None:
        seen.append((stage, step, of))

    for at in range(1, 5):
        kept = _interrupted(
            lambda keep: cascade.apply(one, clip, latents, given(source), silent, "cascade-1", keep), at
        )
        assert (kept.maker, kept.num_steps) == (two.maker(clip), cascade.steps_of(clip, "cascade-1"))
        seen.clear()
        _, resumed = cascade.apply(
            two, clip, latents, given(source), note, "cascade-1", Interruption(0, kept)
        )
        assert torch.equal(resumed, whole), f"resumed after step {at}"
        assert seen[0] == ("cascade-1", at, 4)


def test_without_the_schedules_memory_the_clip_would_be_another(engine: Callable[[str], Engine]) -> None:
    """Latents and a step number are not enough for a multistep schedule: this is why its state is kept."""
    wan = engine("wan21_t2v")
    clip = make_clip(wan, Mode.T2V, _sampling(wan, "unipc"))
    whole = wan.generate(clip, (), silent)
    kept = _interrupted(lambda keep: wan.generate(clip, (), silent, keep), 3)
    forgetful = replace(kept, tensors={"latents": kept.latents}, numbers={"_step_index": 3})
    assert not torch.equal(wan.generate(clip, (), silent, Interruption(0, forgetful)), whole)


def test_steps_of_another_schedule_are_refused(engine: Callable[[str], Engine]) -> None:
    """A state that does not fit must not become somebody's video."""
    wan = engine("wan21_t2v")
    clip = make_clip(wan, Mode.T2V, _sampling(wan, "unipc"))
    kept = _interrupted(lambda keep: wan.generate(clip, (), silent, keep), 3)
    device = torch.device("cpu")
    restore(make_schedule(clip.sampling, {}, device), kept, device)
    for other in (replace(clip.sampling, scheduler="euler"), replace(clip.sampling, steps=STEPS + 1)):
        with pytest.raises(EngineError, match="cannot be gone on from"):
            restore(make_schedule(other, {}, device), kept, device)
    with pytest.raises(EngineError, match="cannot be gone on from"):
        restore(make_schedule(clip.sampling, {}, device), replace(kept, maker="UniPC of 0.1"), device)


def test_bytes_that_hold_no_steps_are_refused(engine: Callable[[str], Engine]) -> None:
    """Half an upload, a file of another kind, one of a release to come."""
    from wanflow.engines import dump_latents

    wan = engine("wan21_t2v")
    clip = make_clip(wan, Mode.T2V, _sampling(wan, "unipc"))
    keep = Interruption(2)
    with pytest.raises(Cancelled):
        wan.generate(clip, (), silent, keep)
    newer = keep.data.replace(b"wanflow-steps-1", b"wanflow-steps-2")
    for data in (b"", b"garbage", keep.data[:-7], keep.data[:40], dump_latents([torch.zeros(1)]), newer):
        with pytest.raises(EngineError, match="hold no steps"):
            load_unfinished(data)


def test_broken_latents_are_not_kept() -> None:
    """Whoever went on from NaN would end at NaN: such an attempt is better started anew."""
    state = Unfinished(1, 2, "m", {"latents": torch.tensor([float("nan")])})
    with pytest.raises(EngineError, match="NaN"):
        dump_unfinished(state)


@pytest.mark.gpu
@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
def test_a_clip_resumed_on_a_gpu_is_the_same_clip(scheduler: str, checkpoint: Callable[[str], Path]) -> None:
    """In bf16, where the state of a schedule is of two precisions."""
    wan = load_engine(read_spec(str(checkpoint("a14b_t2v"))), device="cuda")
    clip = make_clip(wan, Mode.T2V, _sampling(wan, scheduler))
    whole = wan.generate(clip, (), silent)
    for at in range(1, STEPS + 1):
        kept = _interrupted(lambda keep: wan.generate(clip, (), silent, keep), at)
        assert torch.equal(wan.generate(clip, (), silent, Interruption(0, kept)), whole)
