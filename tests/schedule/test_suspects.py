"""A clip that may have taken a replica down has one for itself, in its turn: one is kept for it, and no more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.schedule.tasks import rendering, scheduler
from wanflow.model import Cause, Loading
from wanflow.schedule import Scheduler
from wanflow.schedule.actions import Action, Reason, Render, RetireReplica
from wanflow.schedule.actions import Stage as StageClip
from wanflow.schedule.events import (
    ClipDenoised,
    ClipFound,
    ClipMissing,
    ClipRendered,
    DrainNoticed,
    Event,
    RenderFailed,
    ReplicaLost,
    ReplicaReady,
    RunStarted,
    StopRequested,
)
from wanflow.schedule.state import ClipStatus


class Night:
    """Plays events in their order and validates after each; ``names`` of clips are their turns, the longest first."""

    def __init__(
        self,
        names: str,
        num_replicas: int,
        rungs: Sequence[int] = (),
        variants: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        works = {name: 100.0 - 3 * turn for turn, name in enumerate(names)}
        self.s: Scheduler = scheduler(works, variants, in_seconds=True, max_replicas=num_replicas)
        self._now_s = 0.0
        self.s.handle(RunStarted(0.0))
        for number in range(num_replicas):
            self.ready(number + 1, rungs[number] if rungs else 0)

    def at_s(self) -> float:
        self._now_s += 1.0
        return self._now_s

    def handle(self, event: Event) -> list[Action]:
        actions = self.s.handle(event)
        self.s.validate()
        return actions

    def ready(self, replica: int, rung: int = 0) -> list[Action]:
        loading = Loading(0, 0.0, 0.0, 0, 0.0, rung=rung)
        return self.handle(ReplicaReady(self.at_s(), f"replica-{replica}", loading))

    def on(self, replica: int) -> list[str]:
        return [copy.key for copy in self.s.replicas[f"replica-{replica}"].copies]

    def staged(self, replica: int) -> str | None:
        return self.s.replicas[f"replica-{replica}"].staged

    def denoised(self, replica: int) -> list[str]:
        """The newest clip there has taken its last step; returns what begins."""
        return _begun(self.handle(ClipDenoised(self.at_s(), *rendering(self.s, f"replica-{replica}"))))

    def rendered(self, replica: int) -> list[str]:
        """The oldest clip there is on record; returns what begins."""
        copy = self.s.replicas[f"replica-{replica}"].copies[0]
        return _begun(self.handle(ClipRendered(self.at_s(), copy.replica, copy.key, copy.attempt)))

    def keep_the_second(self) -> str:
        """The first replica goes down with two clips, and the second begins nothing more for the suspect's sake."""
        self.denoised(1)
        suspect = self.lose(1)
        self.denoised(2)
        self.rendered(2)
        assert self.denoised(2) == []
        assert self.staged(2) == suspect
        return suspect

    def lose(self, replica: int) -> str:
        """It goes down with two clips, of which the first was on record by then: the second one is a suspect."""
        first, second = self.on(replica)
        self.handle(ReplicaLost(self.at_s(), f"replica-{replica}", "process died"))
        self.handle(ClipFound(self.at_s(), first))
        self.handle(ClipMissing(self.at_s(), second))
        assert self.s.clips[second].suspected is Cause.REPLICA_LOST
        return second


def _begun(actions: list[Action]) -> list[str]:
    return [action.key for action in actions if isinstance(action, Render)]


def test_a_suspect_has_its_turn_while_the_queue_has_clips() -> None:
    """A replica that begins its next clip beside each end never falls idle: the suspect came after all others, and a
    thousand clips later the deadline left no time for it."""
    night = Night("abcdefghij", 1)
    night.denoised(1)
    night.lose(1)
    night.ready(2)
    assert (night.on(2), night.staged(2)) == (["b"], "c"), "on an idle replica it begins at once"
    assert night.denoised(2) == [], "and has it for itself"
    assert night.rendered(2) == ["c"]

    night = Night("abcdefghij", 1)
    night.denoised(1)
    night.handle(ReplicaLost(night.at_s(), "replica-1", "process died"))
    night.handle(ClipFound(night.at_s(), "a"))
    night.ready(2)
    assert (night.on(2), night.staged(2)) == (["c"], "d"), "the store is still asked for it"
    night.handle(ClipMissing(night.at_s(), "b"))
    assert night.denoised(2) == ["d"], "what was staged before it goes first"
    assert night.staged(2) == "b"
    night.rendered(2)
    assert night.denoised(2) == [], "it is next: nothing is begun beside this end"
    assert night.rendered(2) == ["b"]
    assert night.denoised(2) == []
    assert night.rendered(2) == ["e"]
    assert night.denoised(2) == ["f"], "two at once again"


def test_one_replica_is_kept_for_a_suspect_and_the_others_go_on() -> None:
    night = Night("abcdefghijklmnop", 3)
    night.denoised(1)
    suspect = night.lose(1)
    assert night.denoised(2) == ["d"]
    assert night.staged(2) == suspect
    assert night.denoised(3) == ["f"]
    for replica in (2, 3):
        night.rendered(replica)
    assert night.denoised(2) == []
    assert len(night.denoised(3)) == 1, "this one still begins the next clip beside each end"
    assert night.rendered(2) == [suspect]


def test_as_many_replicas_are_kept_as_suspects_wait() -> None:
    """Two replicas went down with two clips each, of which neither was on record; four are left, and a long queue."""
    night = Night("abcdefghijklmnopqrstuvwxyz", 6)
    for replica in (1, 2):
        night.denoised(replica)
        keys = night.on(replica)
        night.handle(ReplicaLost(night.at_s(), f"replica-{replica}", "process died"))
        for key in keys:
            night.handle(ClipMissing(night.at_s(), key))
    suspects = {key for key, clip in night.s.clips.items() if clip.suspected}
    assert len(suspects) == 4
    num_alone = num_beside = 0
    done: list[str] = []
    for _ in range(4):
        for replica in (3, 4, 5, 6):
            begun = night.denoised(replica)
            num_beside += bool(begun)
            assert not suspects & set(begun), "never beside another one"
            kept = [name for name in (3, 4, 5, 6) if night.staged(name) in suspects]
            assert len(kept) <= len(suspects - set(done))
            done += night.on(replica)[:1]
            num_alone += bool(suspects & set(night.rendered(replica)))
    assert num_alone == 4, "all of them had their turn within the first rounds"
    assert num_beside >= 4


def test_a_card_that_was_too_small_for_a_suspect_is_not_kept_for_it() -> None:
    """Of a pool of 24 and 80 GB the small card goes on two at once: it would only run out of memory again."""
    night = Night("abcdefghijklmno", 3, rungs=(3, 0, 0))
    night.handle(RenderFailed(night.at_s(), *rendering(night.s, "replica-1"), Cause.OUT_OF_MEMORY, "full"))
    assert night.s.clips["a"].failed_on == "replica-1"
    while "a" not in night.on(2):
        night.denoised(2)
        if "a" not in night.on(2):
            night.rendered(2)
    night.lose(2)
    for _ in range(2):  # what was staged before it, then its turn
        begun = night.denoised(1)
        assert len(begun) == 1
        assert begun != ["a"]
        assert night.staged(1) != "a"
        night.rendered(1)
    night.denoised(3)
    assert night.staged(3) == "a"
    night.rendered(3)
    assert night.denoised(3) == []
    assert night.rendered(3) == ["a"]


@pytest.mark.parametrize("first_idle", [2, 4])
def test_at_the_tail_the_suspect_keeps_its_turn_and_whoever_falls_idle_first_has_it(first_idle: int) -> None:
    """Fewer clips than replicas: nothing is staged but for it, where a clip ends; others that end leave it there."""
    night = Night("abcdefgh", 4)
    night.denoised(1)
    suspect = night.lose(1)
    assert (night.denoised(2), night.denoised(3)) == (["d"], ["f"])
    night.rendered(2)
    assert [night.staged(replica) for replica in (2, 3, 4)] == [None, None, "h"]
    assert night.handle(ClipDenoised(night.at_s(), *rendering(night.s, "replica-2"))) == [
        StageClip("replica-2", suspect, Reason.NEXT_IN_ORDER)
    ]
    night.rendered(3)
    assert night.denoised(3) == ["h"], "what was staged elsewhere, but the suspect"
    assert night.handle(ClipDenoised(night.at_s(), *rendering(night.s, "replica-4"))) == []
    assert night.staged(2) == suspect
    assert night.rendered(first_idle) == [suspect]
    assert night.staged(2) is None


@pytest.mark.parametrize("cause", [None, Cause.NODE_LOST])
def test_a_kept_replica_that_goes_leaves_the_suspect_to_the_next(cause: Cause | None) -> None:
    """Drained, or gone at once."""
    night = Night("abcdefghijklmnop", 3)
    suspect = night.keep_the_second()
    if cause:
        night.handle(ReplicaLost(night.at_s(), "replica-2", "gone", cause=cause))
    else:
        assert not _begun(night.handle(DrainNoticed(night.at_s(), "replica-2", 120.0)))
    night.denoised(3)
    assert night.staged(3) == suspect
    if not cause:
        ended = night.s.replicas["replica-2"].copies[0]
        actions = night.handle(ClipRendered(night.at_s(), ended.replica, ended.key, ended.attempt))
        assert actions[0] == RetireReplica("replica-2", Reason.DRAINING)


def test_a_stop_does_not_wait_for_the_suspect() -> None:
    night = Night("abcdefghijklmnop", 2)
    suspect = night.keep_the_second()
    night.handle(StopRequested(night.at_s(), "stop"))
    ended = night.s.replicas["replica-2"].copies[0]
    actions = night.handle(ClipRendered(night.at_s(), ended.replica, ended.key, ended.attempt))
    assert actions[0] == RetireReplica("replica-2", Reason.STOPPING)
    assert night.s.clips[ended.key].status is ClipStatus.DONE
    assert night.s.clips[suspect].num_attempts == 1


def test_a_replica_that_is_kept_in_vain_goes_on_two_at_once() -> None:
    """Nobody wants the suspect any more: another clip of its only variant has failed."""
    names = "abcdefghijkl"
    variants = {f"v-{name}": (name,) for name in names if name not in "be"}
    night = Night(names, 3, variants=variants | {"v": ("b", "e")})
    assert night.keep_the_second() == "b"
    night.handle(RenderFailed(night.at_s(), *rendering(night.s, "replica-3"), Cause.BAD_INPUT, "no image"))
    assert night.s.clips["e"].status is ClipStatus.FAILED
    assert night.s.clips["b"].status is ClipStatus.LEFT
    assert len(night.on(2)) == 2
