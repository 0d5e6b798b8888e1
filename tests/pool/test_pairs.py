"""The next clip's high-noise steps, taken before the low-noise expert comes: whatever ends the clip before, or fails in
the next one, each loses no more than it would alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pool.test_replica import CLIP, SAMPLING, SlowEngine, World
from wanflow.engines import high_noise_steps
from wanflow.errors import RenderError
from wanflow.model import Attempt, Branch, Cause, Lora, RenderClip, Source, Stage
from wanflow.pool.pairs import is_like, num_high_steps
from wanflow.pool.rendering import Kept, Watch
from wanflow.pool.replica import Rendered, Replica
from wanflow.records import clip_record

TWO_EXPERTS = replace(SAMPLING, boundary=0.875, flow_shift=5.0)
HIGH = high_noise_steps(TWO_EXPERTS)
FIRST, NEXT = Attempt(1, 1), Attempt(1, 2)


def task(name: str) -> RenderClip:
    clip = replace(CLIP, prompt=name, sampling=TWO_EXPERTS)
    return RenderClip(clip, (Stage("base", name * 64), Stage("master", f"{name}0" * 32)))


A, B = task("a"), task("b")


class Swapping(SlowEngine):
    """Has one expert at a time; notes the clip of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.swaps_experts = True
        self.taken: list[tuple[str, int]] = []
        self.at: Callable[[str, int], None] = lambda name, step: None

    def take_step(self, clip: Any, stage: str, step: int) -> None:
        self.at(clip.prompt, step)
        self.taken.append((clip.prompt, step))


class Pair(World):
    """One replica on which B is staged while A is rendered."""

    def __init__(self, folder: Path, save_every_s: float = 1e9) -> None:
        super().__init__(folder, save_every_s)
        self.engine = Swapping()
        self.ahead: list[tuple[str, int]] = []
        self.one = self.replica(self.engine)
        self.one.stage(B, FIRST)

    def pair_watch(self) -> Watch:
        def on_ahead(key: str, step: int, seconds: Any) -> None:
            assert dict(seconds)["denoise"] >= 0
            self.ahead.append((key, step))

        return replace(self.watch(), on_ahead=on_ahead)

    def go(self, task: RenderClip, attempt: Attempt, replica: Replica | None = None) -> Rendered | Kept:
        return (replica or self.one).render(task, attempt, self.pair_watch())


def steps(name: str, first: int, last: int) -> list[tuple[str, int]]:
    return [(name, step) for step in range(first, last + 1)]


def test_both_clips_pass_the_first_expert_before_either_passes_the_second(tmp_path: Path) -> None:
    """The order of steps is the order of experts; no step is taken twice, and each is told as a stage that moves."""
    pair = Pair(tmp_path)
    made = pair.go(A, FIRST)
    assert isinstance(made, Rendered)
    assert dict(made.seconds)["ahead"] > 0
    assert pair.engine.taken == [*steps("a", 1, HIGH), *steps("b", 1, HIGH), *steps("a", HIGH + 1, 6)]
    assert pair.ahead == [(B.key, HIGH)]
    told = [(step, of) for stage, step, of in pair.seen if stage == "ahead"]
    assert told == [(step, HIGH) for step in range(HIGH)]
    pair.engine.taken.clear()
    pair.go(B, NEXT)
    assert pair.engine.taken == steps("b", HIGH + 1, 6)
    for each in (A, B):
        assert clip_record(pair.store, each.key)
        assert pair.steps(each.stages[0].key) == []


def test_another_replica_that_takes_the_next_clip_goes_on_from_its_steps(tmp_path: Path) -> None:
    """It stood idle first: nothing was done for nothing."""
    pair, other = Pair(tmp_path), Swapping()
    pair.go(A, FIRST)
    pair.go(B, NEXT, pair.replica(other))
    assert other.taken == steps("b", HIGH + 1, 6)


@pytest.mark.parametrize("order", ["cancels", "saves"])
def test_an_order_during_the_next_clips_steps_ends_at_once_and_loses_nothing(
    order: str, tmp_path: Path
) -> None:
    """Notice of a drain: the clip is not asked to wait for another one, and its own steps are in the store already."""
    pair = Pair(tmp_path)
    pair.engine.at = lambda name, step: setattr(pair, order, (name, step) == ("b", 2))
    if order == "saves":
        made = pair.go(A, FIRST)
        assert isinstance(made, Kept)
        assert (made.stage, made.step) == ("denoise", HIGH)
        assert pair.steps(B.stages[0].key) == [2]
    else:
        with pytest.raises(RenderError) as caught:
            pair.go(A, FIRST)
        assert caught.value.cause is Cause.CANCELLED
        assert pair.steps(B.stages[0].key) == []
    assert pair.engine.taken[-1] == ("b", 2)
    assert pair.steps(A.stages[0].key) == [HIGH]
    setattr(pair, order, False)
    pair.engine.at = lambda name, step: None
    pair.engine.taken.clear()
    assert isinstance(pair.go(A, NEXT), Rendered)
    assert pair.engine.taken == steps("a", HIGH + 1, 6)


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), RenderError("no room", Cause.OUT_OF_MEMORY), MemoryError()]
)
def test_a_next_clip_that_fails_costs_the_clip_before_nothing(error: Exception, tmp_path: Path) -> None:
    """It meets its own trouble in its own turn."""
    pair = Pair(tmp_path)

    def fail(name: str, step: int) -> None:
        if (name, step) == ("b", 2):
            raise error

    pair.engine.at = fail
    assert isinstance(pair.go(A, FIRST), Rendered)
    assert pair.engine.taken == [*steps("a", 1, HIGH), *steps("b", 1, 1), *steps("a", HIGH + 1, 6)]
    assert not pair.ahead
    with pytest.raises(RenderError):
        pair.go(B, NEXT)


def test_where_the_store_takes_no_steps_nothing_is_taken_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clip before would lose its own by waiting."""
    pair = Pair(tmp_path)

    def fail(*arguments: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("wanflow.pool.keeping.put_steps", fail)
    assert isinstance(pair.go(A, FIRST), Rendered)
    assert pair.engine.taken == steps("a", 1, 6)


def test_a_clip_with_steps_or_a_record_is_left_to_its_turn(tmp_path: Path) -> None:
    """They are there already, by whoever made them."""
    pair = Pair(tmp_path)
    pair.engine.at = lambda name, step: setattr(pair, "saves", (name, step) == ("b", 1))
    pair.go(B, NEXT)
    pair.saves, pair.engine.at = False, lambda name, step: None
    pair.go(A, FIRST)
    assert not pair.ahead
    assert pair.engine.taken == [("b", 1), *steps("a", 1, 6)]
    pair.go(B, NEXT)
    third = replace(task("c"), stages=(Stage("base", "c" * 64), Stage("master", "c0" * 32)))
    pair.one.stage(B, Attempt(1, 3))
    pair.go(third, Attempt(1, 3))
    assert not pair.ahead


def test_a_clip_staged_for_another_attempt_is_not_taken(tmp_path: Path) -> None:
    """It may be rendered elsewhere by now."""
    pair = Pair(tmp_path)
    pair.go(A, Attempt(1, 7))
    assert pair.engine.taken == steps("a", 1, 6)


def test_a_clip_that_is_not_next_any_more_is_taken_no_further(tmp_path: Path) -> None:
    """Another replica has it, or the run stops: what is left of the time is the clip's that is under way."""
    pair = Pair(tmp_path)

    def part(name: str, step: int) -> None:
        if (name, step) == ("b", 2):
            pair.one.unstage()

    pair.engine.at = part
    assert isinstance(pair.go(A, FIRST), Rendered)
    assert pair.engine.taken == [*steps("a", 1, HIGH), *steps("b", 1, 2), *steps("a", HIGH + 1, 6)]
    pair.one.stage(B, FIRST)
    pair.one.stage(task("c"))
    assert pair.one._next is None, "only the newest is next"


def test_engines_that_swap_nothing_take_each_clip_in_its_turn(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.engine.swaps_experts = False
    pair.go(A, FIRST)
    assert pair.engine.taken == steps("a", 1, 6)


def test_only_clips_between_which_nothing_has_to_change_go_in_pairs() -> None:
    """An image asks for the VAE, a LoRA for other weights, 8 bits for good."""
    clip, source = A.clip, Source("x.png", "0" * 64)
    assert 0 < num_high_steps(clip) == HIGH < clip.num_steps
    assert is_like(B.clip, clip)
    changes: list[dict[str, Any]] = [
        {"image": source},
        {"loras": (Lora(source),)},
        {"branch": Branch("trunk", 2)},
        {"sampling": replace(TWO_EXPERTS, steps=8)},
        {"sampling": replace(TWO_EXPERTS, boundary=None)},
    ]
    for change in changes:
        assert not is_like(replace(B.clip, **change), clip), change
    assert num_high_steps(replace(clip, sampling=replace(TWO_EXPERTS, boundary=0.0))) == 0
