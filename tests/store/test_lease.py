"""One run at a time: who holds the lease, who waits, who takes over. Time is a number that the test moves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from wanflow.lease import EXPIRY_S, HEARTBEAT_S, Holder, Lease, claim_epoch, holder_of, is_dead
from wanflow.storage import Stat, Store

_HOLDER = """
import sys
from wanflow.lease import Lease
from wanflow.storage import Store
with Lease(Store(sys.argv[1]), run_id="the-first"):
    print("held", flush=True)
    sys.stdin.read()
"""


@dataclass
class Time:
    """A clock whose sleep moves it; ``meanwhile`` is what the rest of the world does then."""

    now: float = 1000.0
    meanwhile: Callable[[float], object] = lambda now: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 2000, "waited for ever"
        self.meanwhile(self.now)


def lease(store: Store, time: Time | None = None, **more: object) -> Lease:
    time = time or Time()
    return Lease(store, clock=time, sleep=time.sleep, **more)  # type: ignore[arg-type]


def test_a_free_lease_is_taken_at_once_and_given_back(store_url: str) -> None:
    """The nightly run, nobody else there."""
    store = Store(store_url)
    with lease(store, run_id="monday") as held:
        assert not held.waited
        holder = holder_of(store)
        assert holder is not None
        assert holder.run_id == "monday"
        assert not is_dead(holder)
    assert holder_of(store) is None
    with lease(store) as again:
        assert not again.waited


def test_a_living_holder_is_waited_for_however_long_it_works(store_url: str) -> None:
    """Tonight's run starts while yesterday's still renders: it waits, says so, and goes on when that one ends."""
    store = Store(store_url)
    first = lease(store, run_id="yesterday")
    first.acquire()
    time, messages = Time(), list[str]()
    beaten = [time.now]

    def meanwhile(now: float) -> None:
        if now > 1200:
            first.release()
        elif now - beaten[0] >= HEARTBEAT_S:
            beaten[0] = now
            first.beat()

    time.meanwhile = meanwhile
    second = lease(store, time, on_wait=messages.append)
    second.acquire()
    assert second.waited
    assert 1200 < time.now < 1210
    assert first.lost == ""
    assert "another run (yesterday process" in messages[0]
    assert 5 <= len(messages) <= 10


def test_a_holder_that_stands_still_is_taken_over_by_the_observers_clock(store_url: str) -> None:
    """The driver's node is gone. No two machines' clocks are compared: the observer watches for a minute."""
    store = Store(store_url)
    first = lease(store)
    first.acquire()
    time, messages = Time(), list[str]()
    second = lease(store, time, on_wait=messages.append)
    second.acquire()
    assert EXPIRY_S <= time.now - 1000 <= EXPIRY_S + 5
    assert "no life for 60 s" in messages[-1]
    first.beat()
    assert "taken over" in first.lost
    first.release()
    assert holder_of(store) is not None, "who lost the lease must not give it back"


def test_a_beat_in_time_starts_the_minute_anew(store_url: str) -> None:
    """A heartbeat that was late by fifty seconds is a sign of life."""
    store = Store(store_url)
    first = lease(store)
    first.acquire()
    time = Time()
    beats = [1050.0]

    def meanwhile(now: float) -> None:
        if beats and now >= beats[0]:
            beats.pop()
            first.beat()

    time.meanwhile = meanwhile
    lease(store, time).acquire()
    assert 1050 + EXPIRY_S <= time.now <= 1050 + EXPIRY_S + 5


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_holder_killed_on_this_machine_is_taken_over_at_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """kill -9 of the driver, then the same command again: nobody wants to wait a minute."""
    url = str(tmp_path / "ws") if kind == "local" else request.getfixturevalue("s3_url")
    store = Store(url)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "held"
        held = holder_of(store)
        assert held is not None
        assert (held.run_id, held.pid, is_dead(held)) == ("the-first", process.pid, False)
        process.kill()
        process.wait()
    time = Time()
    second = lease(store, time)
    second.acquire()
    assert time.now == 1000
    assert not second.waited


def test_a_process_number_that_was_used_again_is_not_the_holder(tmp_path: Path) -> None:
    """After a reboot of a container the dead driver's pid belongs to somebody else."""
    store = Store(str(tmp_path))
    lease(store).acquire()
    data = store.read("lease").replace(b'"started": "', b'"started": "9')
    store.write("lease", data)
    time = Time()
    lease(store, time).acquire()
    assert time.now == 1000


def test_a_holder_on_another_machine_is_never_thought_dead(tmp_path: Path) -> None:
    """Its pid means nothing here."""
    store = Store(str(tmp_path))
    lease(store).acquire()
    store.write("lease", store.read("lease").replace(b'"machine": "', b'"machine": "other-'))
    holder = holder_of(store)
    assert holder is not None
    assert not is_dead(holder)
    time = Time()
    lease(store, time).acquire()
    assert time.now >= 1000 + EXPIRY_S


def test_a_damaged_lease_is_taken_over(store_url: str) -> None:
    """A power cut left it empty."""
    store = Store(store_url)
    store.write("lease", b"")
    lease(store).acquire()
    assert holder_of(store) is not None


def test_targets_of_one_workspace_have_leases_of_their_own(store_url: str) -> None:
    """Two jobs share a workspace: both may run at once."""
    store = Store(store_url)
    with lease(store, target=store.child("a")), lease(store, target=store.child("b")) as second:
        assert not second.waited


def test_a_wait_ends_when_the_message_raises(tmp_path: Path) -> None:
    """Ctrl-C, or a job that would rather fail than wait."""
    store = Store(str(tmp_path))
    lease(store).acquire()

    def give_up(message: str) -> None:
        raise InterruptedError(message)

    with pytest.raises(InterruptedError, match="another run"):
        lease(store, on_wait=give_up).acquire()


def test_many_contenders_for_a_free_lease_have_one_holder(store_url: str) -> None:
    """Cron on two machines starts at the same second."""
    store = Store(store_url)

    class Busy(Exception):
        pass

    def give_up(message: str) -> None:
        raise Busy

    def contend(_: int) -> int:
        try:
            lease(store, on_wait=give_up).acquire()
        except Busy:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(contend, range(16))) == 1


def test_epochs_are_never_given_twice(store_url: str) -> None:
    """Two runs that start together must not share an attempt's name."""
    store = Store(store_url)
    with ThreadPoolExecutor(6) as pool:
        epochs = list(pool.map(lambda _: claim_epoch(store), range(12)))
    assert len(set(epochs)) == 12
    assert claim_epoch(store) == max(epochs) + 1


class _ManyWinners(Store):
    """A server whose create-only lets several writers win, as Swift's may: over the first write comes another's."""

    over: bytes | None = None

    def create(self, path: str, data: bytes | Path, **more: Any) -> Stat:
        stat = super().create(path, data, **more)
        if self.over is not None:
            self.write(path, self.over)
            self.over = None
        return stat


def test_a_lease_that_somebody_else_has_won_too_is_waited_for(tmp_path: Path) -> None:
    """Two runs began in the same moment, and the store said yes to both: the one that wrote last goes on."""
    store, time = _ManyWinners(str(tmp_path)), Time()
    rival = Holder("their-token", "rival", "elsewhere", "another machine", 1, "1")
    store.over = json.dumps(asdict(rival)).encode()
    time.meanwhile = lambda now: store.write(
        "lease", json.dumps(asdict(replace(rival, released=True))).encode()
    )
    mine = lease(store, time, run_id="mine")
    mine.acquire()
    assert (mine.waited, mine.former) == (True, "rival")
    holder = holder_of(store)
    assert holder is not None
    assert holder.run_id == "mine"


def test_an_epoch_that_somebody_else_has_won_too_is_left_to_them(tmp_path: Path) -> None:
    """Runs that share an epoch would write their clips' files to the same places."""
    store = _ManyWinners(str(tmp_path))
    store.over = b"somebody else"
    assert claim_epoch(store) == 2
    assert claim_epoch(store) == 3
