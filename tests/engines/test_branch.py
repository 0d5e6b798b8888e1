"""Clips that share a trunk: the same to the last bit where nothing differs, another clip where the prompt does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.engines.conftest import given, make_clip, silent
from tests.engines.test_resume import STEPS, Interruption, _interrupted, _sampling
from wanflow.engines import Engine, Unfinished, dump_unfinished, load_fitting, load_unfinished
from wanflow.errors import Cancelled, EngineError
from wanflow.model import Branch, Clip, Mode

LAYOUTS = [
    ("wan21_t2v", Mode.T2V),
    ("a14b_t2v", Mode.T2V),
    ("a14b_i2v", Mode.I2V),
    ("wan21_i2v", Mode.I2V),
    ("ti2v_5b", Mode.I2V),
    ("pocket", Mode.T2V),
    ("pocket", Mode.I2V),
]


class Taken:
    """Counts the steps that an engine takes."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []

    def __call__(self, stage: str, step: int, of: int) -> None:
        if stage != "encode":
            self.steps.append((stage, step, of))


def branched(clip: Clip, steps: int, prompt: str | None = None) -> Clip:
    return replace(clip, branch=Branch(clip.prompt if prompt is None else prompt, steps))


def stored(state: Unfinished) -> Unfinished:
    """As it comes back from the store."""
    return load_unfinished(dump_unfinished(state))


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
@pytest.mark.parametrize(("layout", "mode"), LAYOUTS)
def test_a_clip_branched_with_its_trunks_own_prompt_is_the_unbranched_clip(
    layout: str, mode: Mode, scheduler: str, engine: Callable[[str], Engine], image: bytes
) -> None:
    """Branching itself leaves no trace: only another prompt does."""
    wan = engine(layout)
    size = (64, 32) if layout == "ti2v_5b" else (48, 32)
    clip = make_clip(wan, mode, _sampling(wan, scheduler), size)
    source = image if mode is Mode.I2V else None
    whole = wan.generate(clip, given(source), silent)
    for steps in range(1, STEPS):
        same = branched(clip, steps)
        trunk = stored(wan.trunk(same, given(source), silent))
        assert (trunk.step, trunk.num_steps) == (steps, STEPS)
        assert trunk.maker == wan.maker(same)
        on = Taken()
        made = wan.generate(same, given(source), on, Interruption(0, trunk))
        assert torch.equal(made, whole), f"branched after step {steps}"
        assert on.steps == [("denoise", step, STEPS) for step in range(steps, STEPS + 1)]


@pytest.mark.parametrize(("layout", "mode"), LAYOUTS)
def test_another_prompt_makes_another_clip_of_the_same_trunk(
    layout: str, mode: Mode, engine: Callable[[str], Engine], image: bytes
) -> None:
    wan = engine(layout)
    size = (64, 32) if layout == "ti2v_5b" else (48, 32)
    clip = make_clip(wan, mode, _sampling(wan, "unipc"), size)
    source = image if mode is Mode.I2V else None
    other = branched(replace(clip, prompt="a blue box"), 3, clip.prompt)
    trunk = wan.trunk(other, given(source), silent)
    assert torch.equal(trunk.latents, wan.trunk(branched(clip, 3), given(source), silent).latents), (
        "one trunk"
    )
    made = wan.generate(other, given(source), silent, Interruption(0, trunk))
    assert not torch.equal(made, wan.generate(branched(clip, 3), given(source), silent))
    assert not torch.equal(made, wan.generate(replace(other, branch=None), given(source), silent))


def test_without_a_trunk_the_engine_makes_it(engine: Callable[[str], Engine]) -> None:
    """Whoever calls an engine by hand gets the clip that was asked for."""
    wan = engine("a14b_t2v")
    clip = make_clip(wan, Mode.T2V, _sampling(wan, "unipc"))
    other = branched(replace(clip, prompt="a blue box"), 2, clip.prompt)
    trunk = wan.trunk(other, (), silent)
    on = Taken()
    made = wan.generate(other, (), on)
    assert torch.equal(made, wan.generate(other, (), silent, Interruption(0, trunk)))
    trunk_steps = [("trunk", step, 2) for step in range(3)]
    assert on.steps == trunk_steps + [("denoise", step, STEPS) for step in range(2, STEPS + 1)]


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
def test_a_trunk_and_its_clip_resumed_after_any_step_are_the_same(
    scheduler: str, engine: Callable[[str], Engine]
) -> None:
    """A machine goes in the middle of the shared steps, at the branch, or after it."""
    wan = engine("a14b_t2v")
    clip = make_clip(wan, Mode.T2V, _sampling(wan, scheduler))
    other = branched(replace(clip, prompt="a blue box"), 4, clip.prompt)
    trunk = wan.trunk(other, (), silent)
    whole = wan.generate(other, (), silent, Interruption(0, trunk))
    for at in range(1, 5):
        keep = Interruption(at)
        with pytest.raises(Cancelled):
            wan.trunk(other, (), silent, keep)
        on = Taken()
        resumed = wan.trunk(other, (), on, Interruption(0, load_unfinished(keep.data)))
        assert on.steps == [("trunk", step, 4) for step in range(at, 5)], "no step is taken twice"
        assert torch.equal(wan.generate(other, (), silent, Interruption(0, stored(resumed))), whole)
    for at in (5, 6):

        def go_on(keep: Interruption) -> torch.Tensor:
            keep.start = trunk
            return wan.generate(other, (), silent, keep)

        kept = _interrupted(go_on, at)
        assert torch.equal(wan.generate(other, (), silent, Interruption(0, kept)), whole)


def test_steps_that_an_engine_cannot_go_on_from_are_told_when_they_are_read(
    engine: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept by another release of diffusers, by another schedule, or for another number of steps."""
    wan = engine("wan21_t2v")
    clip = branched(make_clip(wan, Mode.T2V, _sampling(wan, "unipc")), 2)
    data = dump_unfinished(wan.trunk(clip, (), silent))
    assert load_fitting(data, wan.maker(clip), STEPS).step == 2
    euler = replace(clip, sampling=replace(clip.sampling, scheduler="euler"))
    for maker, steps in ((wan.maker(euler), STEPS), (wan.maker(clip), STEPS + 1)):
        with pytest.raises(EngineError, match="cannot be gone on from"):
            load_fitting(data, maker, steps)
    monkeypatch.setattr("diffusers.__version__", "9.9.9")
    with pytest.raises(EngineError, match=r"with \w+ of diffusers 9\.9\.9"):
        load_fitting(data, wan.maker(clip), STEPS)
