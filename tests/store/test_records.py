"""Records: one winner a key, whatever the store answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wanflow.model import Attempt, Cause
from wanflow.records import (
    clip_record,
    failure,
    failures,
    file_of,
    forget_failures,
    held_clips,
    put_clip,
    remember_failure,
)
from wanflow.storage import Store

KEY = "ab" * 32


def test_a_clip_is_held_once_its_record_is_written(store_url: str, tmp_path: Path) -> None:
    """The next run finds the master and does not render it again."""
    store = Store(store_url)
    assert clip_record(store, KEY) is None
    master = tmp_path / "m.mp4"
    master.write_bytes(b"frames")
    record, won = put_clip(
        store, KEY, Attempt(3, 1), {"master.mp4": master, "base.bin": b"latents"}, {"gpu_s": 1.5}
    )
    assert won
    assert record.attempt == "3.1"
    assert clip_record(store, KEY) == record
    assert held_clips(store, [KEY, "cd" * 32]) == {KEY: record}
    assert store.read(file_of(record, "master.mp4").path) == b"frames"
    assert file_of(record, "base.bin").size_bytes == 7
    with pytest.raises(KeyError, match="no file 'x'"):
        file_of(record, "x")


def test_racing_attempts_have_one_winner_and_share_no_path(store_url: str) -> None:
    """Replica presumed lost comes back: both attempts finish. Everybody must agree on one of them."""
    store = Store(store_url)

    def finish(number: int) -> tuple[str, bool]:
        record, won = put_clip(store, KEY, Attempt(1, number), {"master.mp4": b"attempt %d" % number}, {})
        assert store.read(record.files[0].path) == b"attempt " + record.attempt.partition(".")[2].encode()
        return record.attempt, won

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(finish, range(1, 17)))
    assert len({attempt for attempt, _ in ends}) == 1
    assert [won for _, won in ends].count(True) == 1
    payloads = [stat.path for stat in store.list("clips") if not stat.path.endswith(".json")]
    assert len(payloads) == 16


def test_an_attempt_that_is_put_twice_has_won_both_times(store_url: str) -> None:
    """The acknowledgement was lost and the replica tries again."""
    store = Store(store_url)
    first = put_clip(store, KEY, Attempt(1, 1), {"master.mp4": b"x"}, {})
    assert put_clip(store, KEY, Attempt(1, 1), {"master.mp4": b"x"}, {})[1]
    assert first[1]


@pytest.mark.parametrize(
    "damage", ["payload gone", "payload shorter", "record empty", "record of another key"]
)
def test_a_record_without_its_files_counts_as_absent_and_is_replaced(store_url: str, damage: str) -> None:
    """A bucket's lifecycle rule deleted old masters, but their records are younger."""
    store = Store(store_url)
    record, _ = put_clip(store, KEY, Attempt(1, 1), {"master.mp4": b"frames"}, {})
    path = f"clips/ab/{KEY}.json"
    if damage == "payload gone":
        store.delete(record.files[0].path)
    elif damage == "payload shorter":
        store.write(record.files[0].path, b"fra")
    elif damage == "record empty":
        store.write(path, b"")
    else:
        store.write(path, store.read(path).replace(b"ab", b"ba"))
    assert clip_record(store, KEY) is None
    assert held_clips(store, [KEY]) == {}
    again, won = put_clip(store, KEY, Attempt(2, 1), {"master.mp4": b"frames"}, {})
    assert won
    assert clip_record(store, KEY) == again
    assert again.attempt == "2.1"


def test_many_keys_are_found_by_one_listing_as_few_are_by_probes(store_url: str) -> None:
    """Hundreds of clips wanted, some held: the answer must not depend on how it is found."""
    store = Store(store_url)
    keys = [f"{number:02x}" * 32 for number in range(100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put_clip(store, key, Attempt(1, 1), {"m": key.encode()}, {}), keys[:20]))
    gone = clip_record(store, keys[3])
    assert gone is not None
    store.delete(gone.files[0].path)
    many = held_clips(store, keys)
    assert set(many) == set(keys[:20]) - {keys[3]}
    assert many == held_clips(store, keys[:20])


def test_failures_are_remembered_until_they_are_forgotten(store_url: str) -> None:
    """A poisonous prompt must not cost GPU time every night; `retry` gives it another chance."""
    store = Store(store_url)
    assert failure(store, KEY) is None
    remember_failure(store, KEY, Cause.BAD_INPUT, "image is truncated: é", Attempt(4, 2))
    remember_failure(store, "cd" * 32, Cause.ITEM_ERROR, "boom")
    found = failure(store, KEY)
    assert found is not None
    assert (found.cause, str(found), found.attempt) == (Cause.BAD_INPUT, "image is truncated: é", "4.2")
    assert set(failures(store)) == {KEY, "cd" * 32}
    assert set(failures(store, [KEY, "ee" * 32])) == {KEY}
    assert forget_failures(store) == 2
    assert failures(store) == {}
