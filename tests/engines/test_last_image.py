"""The last frame: it goes with a clip through its trunk, its resumes and its refine, and is refused where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.engines.conftest import given, make_clip, silent
from tests.engines.test_branch import branched, stored
from tests.engines.test_resume import STEPS, Interruption, _interrupted, _sampling
from wanflow import cascade
from wanflow.engines import Engine
from wanflow.errors import RenderError
from wanflow.model import CascadeStep, Cause, Mode, Source

LAYOUTS = ["a14b_i2v", "wan21_flf2v"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_trunk_and_a_resume_are_of_the_same_last_frame(
    layout: str, engine: Callable[[str], Engine], image: bytes, last_image: bytes
) -> None:
    """The shared steps end where the clip ends, or its own steps would pull it over."""
    wan = engine(layout)
    clip = make_clip(wan, Mode.I2V, _sampling(wan, "unipc"), has_last=True)
    whole = wan.generate(clip, given(image, last_image), silent)
    same = branched(clip, 3)
    trunk = stored(wan.trunk(same, given(image, last_image), silent))
    assert torch.equal(wan.generate(same, given(image, last_image), silent, Interruption(0, trunk)), whole)
    assert torch.equal(wan.generate(same, given(image, last_image), silent), whole), "the engine's own trunk"
    for at in (1, STEPS - 1):
        kept = _interrupted(lambda keep: wan.generate(clip, given(image, last_image), silent, keep), at)
        assert torch.equal(wan.generate(clip, given(image, last_image), silent, Interruption(0, kept)), whole)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_refine_looks_at_the_last_frame_again(
    layout: str, engine: Callable[[str], Engine], image: bytes, last_image: bytes
) -> None:
    """At the larger size, as at the first frame."""
    wan = engine(layout)
    step = cascade.check(CascadeStep("refine", (("steps", 2),)), wan.spec)
    clip = replace(make_clip(wan, Mode.I2V, has_last=True), cascade=(step,))
    latents = [wan.generate(clip, given(image, last_image), silent)]

    def refined(last: bytes) -> torch.Tensor:
        return cascade.apply(wan, clip, latents, given(image, last), silent, "cascade-1")[1]

    assert torch.equal(refined(last_image), refined(last_image))
    assert not torch.equal(refined(last_image), refined(image))


@pytest.mark.parametrize(
    ("layout", "has_last", "words"),
    [
        ("pocket", True, "cannot be given its last frame"),
        ("ti2v_5b", True, "cannot be given its last frame"),
        ("wan21_i2v", True, "cannot be given its last frame"),
        ("wan21_flf2v", False, "from a first frame to a last one"),
    ],
)
def test_a_last_frame_that_a_model_cannot_or_must_have_is_bad_input(
    layout: str, has_last: bool, words: str, engine: Callable[[str], Engine], image: bytes, last_image: bytes
) -> None:
    """Planning says so first; whoever calls an engine by hand is told too, instead of getting a clip without it."""
    wan = engine(layout)
    clip = make_clip(wan, Mode.I2V, size=(64, 32), has_last=has_last)
    with pytest.raises(RenderError, match=words) as raised:
        wan.generate(clip, given(image, last_image if has_last else None), silent)
    assert raised.value.cause is Cause.BAD_INPUT


def test_a_clip_and_its_files_must_agree(
    engine: Callable[[str], Engine], image: bytes, last_image: bytes
) -> None:
    """Pixels without the last frame must not be stored under the key of a clip with one."""
    wan = engine("a14b_i2v")
    plain = make_clip(wan, Mode.I2V)
    with pytest.raises(RenderError, match="with a last frame"):
        wan.generate(plain, given(image, last_image), silent)
    with_last = replace(plain, last_image=Source("last.png", "1" * 64))
    with pytest.raises(RenderError, match="without its last frame"):
        wan.generate(with_last, given(image), silent)
    with pytest.raises(RenderError, match="one frame"):
        wan.generate(replace(with_last, num_frames=1), given(image, last_image), silent)
