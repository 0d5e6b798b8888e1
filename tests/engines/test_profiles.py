"""What the engine makes of profiles: turbo's times and experts, 8 bits where they can be had, attention kernels."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engines.conftest import given, make_clip, silent
from tests.engines.test_fast import _counted
from tests.pool.test_replica import World
from wanflow.engines import Engine, load_engine, read_spec
from wanflow.engines.backends import NATIVE, TOLERANCE, best_backend, candidates, choose
from wanflow.engines.denoise import make_schedule
from wanflow.engines.profiles import fp8_problem
from wanflow.errors import EngineError, RenderError
from wanflow.model import Mode, Sampling, Shortcuts
from wanflow.pool import RunContext
from wanflow.pool.replica import Replica
from wanflow.testing import FakeEngine

TURBO = Sampling(4, 1.0, 1.0, 5.0, "euler", 0.875, "turbo")
TIMES = [1000.0, 937.5, 833.333, 625.0]


@pytest.mark.parametrize("boundary", [0.875, 0.9])
@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_turbo_takes_the_times_that_distilled_weights_know(scheduler: str, boundary: float) -> None:
    """1000, 750, 500 and 250 before the shift, two above each model's boundary; UniPC's times are whole numbers."""
    sampling = replace(TURBO, scheduler=scheduler, boundary=boundary)
    schedule = make_schedule(sampling, {}, torch.device("cpu"))
    assert schedule.timesteps.tolist() == pytest.approx(TIMES, abs=1.0 if scheduler == "unipc" else 1e-2)
    assert [float(s) * 1000 for s in schedule.sigmas[:4]] == pytest.approx(TIMES, abs=1e-2)
    assert float(schedule.sigmas[-1]) == 0.0
    assert int((schedule.timesteps >= 1000 * boundary).sum()) == 2


def test_eulers_own_four_steps_are_other_ones() -> None:
    """This is why turbo gives its times: without, the weights would be asked at times that they never saw."""
    schedule = make_schedule(replace(TURBO, profile="exact"), {}, torch.device("cpu"))
    assert schedule.timesteps.tolist() != pytest.approx(TIMES, abs=20)


@pytest.mark.parametrize("layout", ["a14b_t2v", "a14b_i2v"])
def test_a_turbo_clip_is_two_forwards_of_each_expert(
    layout: str, engine: Callable[[str], Engine], image: bytes
) -> None:
    """Four forwards in all: no guidance, nothing twice."""
    wan = engine(layout)
    mode = Mode.I2V if layout == "a14b_i2v" else Mode.T2V
    clip = make_clip(wan, mode, replace(TURBO, boundary=wan.spec.sampling.boundary))
    with _counted(wan) as calls:
        wan.generate(clip, given(image if mode is Mode.I2V else None), silent)
    assert [at for at in calls if at[1] == 0] == [(0, 0), (0, 0), (1, 0), (1, 0)]


@pytest.mark.parametrize(
    ("capability", "torchao", "message"),
    [
        (None, "0.18.0", "needs a GPU, and there is none here: leave it out, or render on a GPU"),
        ((8, 0), "0.18.0", "needs a GPU of compute capability 8.9 or newer .this one has 8.0.: leave it out"),
        ((9, 0), None, r"needs torchao, which is not installed: pip install 'wanflow\[fp8\]'"),
    ],
)
def test_without_what_8_bits_need_one_error_says_what_to_do(
    capability: tuple[int, int] | None, torchao: str | None, message: str
) -> None:
    """Falling back to 16 bits in silence would put other pixels under the key, and double the bill."""
    assert re.search(message, fp8_problem(capability, torchao))
    assert fp8_problem((8, 9), "0.18.0") == fp8_problem((12, 0), "0.18.0") == ""


def test_a_replica_that_cannot_do_8_bits_says_so_before_it_loads(tmp_path: Path) -> None:
    """The run ends with this one line, not with a thousand failed clips."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    world = World(tmp_path)
    loaded: list[int] = []

    def load(*_: object) -> FakeEngine:
        loaded.append(1)
        raise AssertionError("loaded")

    context = RunContext(
        "r", 1, world.store.url, "", {"w": None}, {}, {}, ("nonce", "n"), load_engine=load, fp8=True
    )  # type: ignore[dict-item]  # fmt: skip
    with pytest.raises(EngineError, match="needs a GPU"):
        Replica(context, "w", None, None)
    assert not loaded


def test_an_engine_does_not_render_an_8_bit_clip_in_16(engine: Callable[[str], Engine]) -> None:
    """What the key says is what is in the file, or there is no file."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    wan = engine("a14b_t2v")
    clip = make_clip(wan, Mode.T2V, replace(wan.spec.sampling, shortcuts=Shortcuts(fp8=True)))
    with pytest.raises(RenderError, match=r"engine\.fast\.fp8 needs a GPU"):
        wan.generate(clip, (), silent)


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_8_bits_stay_close_and_are_for_good(checkpoint: Callable[[str], Path]) -> None:
    """On a GPU of capability 8.9 or newer."""
    wan = load_engine(read_spec(str(checkpoint("a14b_t2v"))), device="cuda")
    clip = make_clip(wan, Mode.T2V, replace(wan.spec.sampling, steps=3))
    exact = wan.generate(clip, (), silent)
    small = replace(clip, sampling=replace(clip.sampling, shortcuts=Shortcuts(fp8=True)))
    found = wan.generate(small, (), silent)
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.2
    with pytest.raises(RenderError, match="for good"):
        wan.generate(clip, (), silent)


def test_the_fastest_kernel_that_is_right_is_chosen() -> None:
    """One is not installed, one is wrong on this driver: the next is taken, and in the end torch's own."""
    right = torch.arange(8.0)

    def attempt(name: str) -> torch.Tensor:
        if name == "absent":
            raise RuntimeError("not installed")
        return {
            "wrong": right + 1,
            "broken": right * float("nan"),
            "good": right * (1 + TOLERANCE / 2),
            NATIVE: right,
        }[name]

    assert choose(("absent", "wrong", "broken", "good", NATIVE), attempt) == "good"
    assert choose(("absent", "wrong", NATIVE), attempt) == NATIVE
    assert choose((NATIVE, "good"), attempt) == NATIVE


def test_a_cpu_and_older_gpus_keep_torchs_own_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever sets diffusers' variable has the last word."""
    monkeypatch.delenv("DIFFUSERS_ATTN_BACKEND", raising=False)
    assert candidates(None) == candidates((8, 0)) == (NATIVE,)
    assert candidates((9, 0)) == ("_flash_3", "_native_cudnn", NATIVE)
    assert best_backend("cpu") == NATIVE
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "_native_math")
    assert best_backend("cpu") == "_native_math"


@pytest.mark.gpu
def test_the_chosen_kernel_works_on_this_gpu() -> None:
    """Whatever it is."""
    assert best_backend("cuda:0") in candidates(torch.cuda.get_device_capability(0))
