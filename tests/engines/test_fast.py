"""The profile ``fast``: guidance that ends, steps not computed to their end, memories that are of one clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engines.conftest import given, make_clip, silent
from tests.engines.test_lora import _diffusers as in_diffusers_names
from tests.engines.test_lora import with_loras, write
from tests.engines.test_resume import Interruption
from wanflow import cascade
from wanflow.engines import Engine, load_unfinished
from wanflow.engines.denoise import num_guided_steps
from wanflow.engines.wan import WanEngine
from wanflow.errors import Cancelled, RenderError
from wanflow.model import CascadeStep, Cause, Clip, Mode, Shortcuts

STEPS = 8
#: above all that the first block of a random expert changes by from one of these steps to the next
ALWAYS = 0.9


def _clip(wan: Engine, shortcuts: Shortcuts | None, **change: object) -> Clip:
    sampling = replace(
        wan.spec.sampling, steps=STEPS, flow_shift=5.0, guidance=4.0, guidance_low=3.0, shortcuts=shortcuts
    )
    clip = make_clip(wan, Mode.T2V, sampling)
    return replace(clip, **change)  # type: ignore[arg-type]


@contextmanager
def _counted(wan: Engine) -> Iterator[list[tuple[int, int]]]:
    """(expert, block) of every block that was computed."""
    assert isinstance(wan, WanEngine)
    calls: list[tuple[int, int]] = []
    handles = [
        block.ffn.register_forward_hook(lambda *_, at=(e, b): calls.append(at))
        for e, expert in enumerate(wan._experts)
        for b, block in enumerate(expert.blocks)
    ]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(("share", "guided"), [(1.0, 8), (0.5, 4), (0.3, 3), (0.0, 0)])
def test_guidance_ends_after_its_share_of_the_steps(
    share: float, guided: int, engine: Callable[[str], Engine]
) -> None:
    """Each step without guidance is half a step's price."""
    wan = engine("a14b_t2v")
    clip = _clip(wan, Shortcuts(guidance_until=share))
    assert num_guided_steps(clip.sampling, STEPS) == guided
    with _counted(wan) as calls:
        latents = wan.generate(clip, (), silent)
    assert sum(block == 0 for _, block in calls) == STEPS + guided
    whole = wan.generate(_clip(wan, None), (), silent)
    assert torch.equal(latents, whole) == (share == 1.0)


def test_steps_that_change_little_are_not_computed_to_their_end(engine: Callable[[str], Engine]) -> None:
    """The first block is computed at every step; where it says so, the other is not, in each expert on its own."""
    wan = engine("a14b_t2v")
    with _counted(wan) as calls:
        wan.generate(_clip(wan, Shortcuts(cache=ALWAYS, cache_low=ALWAYS)), (), silent)
        both = calls.copy()
        calls.clear()
        wan.generate(_clip(wan, Shortcuts(cache_low=ALWAYS)), (), silent)
        low = calls.copy()
        calls.clear()
        wan.generate(_clip(wan, None), (), silent)
    high_steps = sum(at == (0, 0) for at in calls)
    assert sum(block == 0 for _, block in both) == 2 * STEPS
    assert both.count((0, 1)) == both.count((1, 1)) == 2, "the first step of each expert, in both branches"
    assert low.count((0, 1)) == high_steps
    assert low.count((1, 1)) == 2
    assert calls.count((0, 1)) + calls.count((1, 1)) == 2 * STEPS


def test_a_cache_that_never_answers_changes_no_number(engine: Callable[[str], Engine]) -> None:
    """The hooks themselves are no arithmetic; and once off they are gone."""
    wan = engine("a14b_t2v")
    whole = wan.generate(_clip(wan, None), (), silent)
    assert torch.equal(wan.generate(_clip(wan, Shortcuts(cache=1e-9, cache_low=1e-9)), (), silent), whole)
    cached = wan.generate(_clip(wan, Shortcuts(cache=ALWAYS, cache_low=ALWAYS)), (), silent)
    assert not torch.equal(cached, whole)
    assert torch.equal(wan.generate(_clip(wan, None), (), silent), whole)


@pytest.mark.parametrize("failure", [Cancelled(), RenderError("broken", Cause.ITEM_ERROR), MemoryError()])
def test_a_clip_after_a_failed_one_is_as_if_it_came_first(
    failure: Exception, engine: Callable[[str], Engine]
) -> None:
    """A cache that outlived its clip would put one customer's film into another's, or break at another size."""
    wan = engine("a14b_t2v")
    shortcuts = Shortcuts(0.5, ALWAYS, ALWAYS)
    second = _clip(wan, shortcuts, prompt="a blue cube", seed=3)
    alone = wan.generate(second, (), silent)

    def stop(stage: str, step: int, of: int) -> None:
        if stage == "denoise" and step == 3:
            raise failure

    for size in ({}, {"width": 32, "height": 64, "num_frames": 9}):
        with pytest.raises((Cancelled, RenderError)):
            wan.generate(_clip(wan, shortcuts, **size), (), stop)
        assert torch.equal(wan.generate(second, (), silent), alone)
    wan.generate(_clip(wan, shortcuts), (), silent)
    assert torch.equal(wan.generate(second, (), silent), alone), "after one that ended well"


def test_extrapolated_steps_are_not_computed_in_each_expert_on_its_own(
    engine: Callable[[str], Engine],
) -> None:
    """Each expert counts its own steps: the first three are computed, then each second one; in both branches."""
    wan = engine("a14b_t2v")
    whole_steps = {}
    with _counted(wan) as calls:
        whole = wan.generate(_clip(wan, None), (), silent)
        for expert in (0, 1):
            whole_steps[expert] = calls.count((expert, 1)) // 2
        for shortcuts in (Shortcuts(taylor=2), Shortcuts(taylor_low=2), Shortcuts(taylor=2, taylor_low=2)):
            calls.clear()
            found = wan.generate(_clip(wan, shortcuts), (), silent)
            for expert, interval in ((0, shortcuts.taylor), (1, shortcuts.taylor_low)):
                steps = range(whole_steps[expert])
                computed = [step for step in steps if step < 3 or not interval or step % interval == 0]
                assert calls.count((expert, 0)) == calls.count((expert, 1)) == 2 * len(computed)
            assert torch.equal(found, whole) == (len(calls) == 4 * STEPS)
            assert _distance(found, whole) < 0.5


def test_a_clip_after_an_extrapolated_one_is_as_if_it_came_first(
    engine: Callable[[str], Engine], tmp_path: Path
) -> None:
    """Also where the next one has a LoRA on the very layer that the extrapolation hangs on."""
    wan = engine("a14b_t2v")
    plain = _clip(wan, None)
    taylor = _clip(wan, Shortcuts(taylor=2, taylor_low=2))
    head = {"proj_out": (torch.full((4, 24), 0.1), torch.full((64, 4), 0.1))}
    source, path = write(tmp_path / "head.safetensors", in_diffusers_names(head))
    styled = with_loras(wan, taylor, (source, path, 1.0, "both"))
    alone = wan.generate(styled, (), silent)
    wan.set_loras([])
    first, exact = wan.generate(taylor, (), silent), wan.generate(plain, (), silent)

    def stop(stage: str, step: int, of: int) -> None:
        if stage == "denoise" and step == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        wan.generate(replace(taylor, width=32, height=64), (), stop)
    assert torch.equal(wan.generate(plain, (), silent), exact)
    assert torch.equal(wan.generate(taylor, (), silent), first)
    with_loras(wan, taylor, (source, path, 1.0, "both"))
    assert torch.equal(wan.generate(styled, (), silent), alone)
    wan.set_loras([])


def test_a_cached_clip_that_goes_on_elsewhere_stays_close(engine: Callable[[str], Engine]) -> None:
    """What the cache remembers is not saved (A14B: 1.3 GB): the step after a resume is computed in full."""
    wan = engine("a14b_t2v")
    clip = _clip(wan, Shortcuts(0.5, 0.1, 0.1))
    exact = wan.generate(_clip(wan, None), (), silent)
    whole = wan.generate(clip, (), silent)
    for at in range(1, STEPS):
        keep = Interruption(at)
        with pytest.raises(Cancelled):
            wan.generate(clip, (), silent, keep)
        with _counted(wan) as calls:
            resumed = wan.generate(clip, (), silent, Interruption(0, load_unfinished(keep.data)))
        assert calls[1][1] == 1, "the first step is computed to its end"
        assert _distance(resumed, whole) <= 1.5 * _distance(whole, exact) + 1e-6


def test_without_a_cache_a_fast_clip_goes_on_to_the_last_bit(engine: Callable[[str], Engine]) -> None:
    """Where guidance ends is counted from the clip's first step, not from where it goes on."""
    wan = engine("a14b_t2v")
    clip = _clip(wan, Shortcuts(guidance_until=0.5))
    whole = wan.generate(clip, (), silent)
    for at in (3, 4, 5):
        keep = Interruption(at)
        with pytest.raises(Cancelled):
            wan.generate(clip, (), silent, keep)
        assert torch.equal(wan.generate(clip, (), silent, Interruption(0, load_unfinished(keep.data))), whole)


@pytest.mark.parametrize(
    ("layout", "mode"),
    [("a14b_t2v", Mode.T2V), ("a14b_i2v", Mode.I2V), ("pocket", Mode.I2V), ("ti2v_5b", Mode.T2V)],
)
def test_both_branches_in_one_forward_are_the_same_but_for_rounding(
    layout: str, mode: Mode, engine: Callable[[str], Engine], image: bytes
) -> None:
    """Prompts of other lengths, a time a token, channels of an image: each branch has its own, in half the forwards."""
    wan = engine(layout)
    source = image if mode is Mode.I2V else None
    for negative in ("blurry", "", "blurry, and a great deal longer than the prompt that it goes with, " * 9):
        change = {
            "negative_prompt": negative, "image": make_clip(wan, mode).image, "mode": mode, "width": 64
        }  # fmt: skip
        clip = _clip(wan, Shortcuts(0.5), **change)
        two = wan.generate(clip, given(source), silent)
        with _counted(wan) as calls:
            one = wan.generate(
                _clip(wan, Shortcuts(0.5, batch_guidance=True), **change), given(source), silent
            )
        assert sum(block == 0 for _, block in calls) == STEPS
        assert 0 < _distance(one, two) < 1e-4
        assert (
            _distance(one, wan.generate(replace(clip, negative_prompt="other"), given(source), silent)) > 1e-3
        )


@pytest.mark.parametrize(("layout", "has_last"), [("wan21_i2v", False), ("wan21_flf2v", True)])
def test_both_branches_in_one_forward_look_at_the_same_images(
    layout: str, has_last: bool, engine: Callable[[str], Engine], image: bytes, last_image: bytes
) -> None:
    """Their features serve both, kept or, while memory is short, computed at each step: to the last bit."""
    wan = engine(layout)
    assert isinstance(wan, WanEngine)
    last = last_image if has_last else None
    sampling = replace(wan.spec.sampling, steps=3, guidance=4.0)

    def generate(shortcuts: Shortcuts) -> torch.Tensor:
        clip = make_clip(wan, Mode.I2V, replace(sampling, shortcuts=shortcuts), has_last=has_last)
        return wan.generate(clip, given(image, last), silent)

    two, one = generate(Shortcuts()), generate(Shortcuts(batch_guidance=True))
    assert 0 < _distance(one, two) < 1e-4
    wan._context.keeps = False
    try:
        assert torch.equal(generate(Shortcuts(batch_guidance=True)), one)
    finally:
        wan._context.keeps = True


def test_a_cache_of_both_branches_skips_both_and_is_of_one_clip(engine: Callable[[str], Engine]) -> None:
    """Its memory is of both, so after guidance has ended there is none yet; and after a failure none at all."""
    wan = engine("a14b_t2v")
    shortcuts = Shortcuts(0.75, ALWAYS, ALWAYS, batch_guidance=True)
    clip = _clip(wan, shortcuts)
    with _counted(wan) as calls:
        alone = wan.generate(clip, (), silent)
    assert sum(block == 0 for _, block in calls) == STEPS
    assert calls.count((0, 1)) == 1
    assert calls.count((1, 1)) == 2, "the low-noise expert's first step, and the first one without guidance"

    def stop(stage: str, step: int, of: int) -> None:
        if stage == "denoise" and step == 3:
            raise Cancelled

    for other in (shortcuts, Shortcuts(0.75, ALWAYS, ALWAYS)):
        with pytest.raises(Cancelled):
            wan.generate(_clip(wan, other, prompt="a blue cube", width=32, height=64), (), stop)
        assert torch.equal(wan.generate(clip, (), silent), alone)


def test_a_refine_has_shortcuts_of_its_own_steps(engine: Callable[[str], Engine]) -> None:
    """At twice the size a step costs many times more: what fast saves, it must save there."""
    wan = engine("pocket")
    step = cascade.check(CascadeStep("refine", (("steps", 4), ("strength", 0.3))), wan.spec)
    clip = replace(_clip(wan, Shortcuts(0.5, ALWAYS, ALWAYS)), cascade=(step,))
    latents = [wan.generate(clip, (), silent)]
    with _counted(wan) as calls:
        cascade.apply(wan, clip, latents, (), silent, "cascade-1")
    assert calls.count((1, 0)) == 4 + 2, "guidance for half of them"
    assert calls.count((1, 1)) == 2


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())
