"""The files of unfinished clips: the furthest one counts, and none of them can make a clip fail."""

from __future__ import annotations

from collections.abc import Iterator

from wanflow.errors import EngineError, StoreError
from wanflow.model import Attempt
from wanflow.steps import clear_steps, list_steps, newest_steps, put_steps
from wanflow.storage import Stat, Store

KEY = "ab" * 32


def parse(data: bytes) -> str:
    if data == b"rotten":
        raise EngineError("not ours")
    return data.decode()


def test_the_furthest_steps_count_and_the_others_go(store_url: str) -> None:
    """Two attempts at one clip, a straggler and its second copy: neither throws the other back."""
    store = Store(store_url)
    assert newest_steps(store, KEY, parse) is None
    put_steps(store, KEY, 9, Attempt(1, 4), b"nine")
    put_steps(store, KEY, 20, Attempt(1, 4), b"twenty")
    put_steps(store, KEY, 12, Attempt(1, 7), b"twelve")
    assert [(kept.step, kept.attempt) for kept in list_steps(store, KEY)] == [
        (20, Attempt(1, 4)),
        (12, Attempt(1, 7)),
    ]
    found = newest_steps(store, KEY, parse)
    assert found is not None
    assert (found[0].step, found[1]) == (20, "twenty")


def test_steps_are_counted_not_spelt(store_url: str) -> None:
    """Step 100 is further than step 99, whatever their names say."""
    store = Store(store_url)
    put_steps(store, KEY, 99, Attempt(1, 1), b"99")
    put_steps(store, KEY, 100, Attempt(1, 1), b"100")
    assert [kept.step for kept in list_steps(store, KEY)] == [100]


def test_what_cannot_be_read_is_passed_over(store_url: str) -> None:
    """A file of a release to come, a stranger's, half a copy: the clip goes on from the best one that is good."""
    store = Store(store_url)
    put_steps(store, KEY, 5, Attempt(1, 1), b"five")
    store.write(f"steps/{KEY}/9-1.1.safetensors", b"rotten")
    store.write(f"steps/{KEY}/99.safetensors", b"foreign")
    store.write(f"steps/{KEY}/notes.txt", b"foreign")
    found = newest_steps(store, KEY, parse)
    assert found is not None
    assert found[1] == "five"


def test_the_winner_leaves_nothing(store_url: str) -> None:
    """Steps are of no use beside a record, and cost money every month."""
    store = Store(store_url)
    put_steps(store, KEY, 5, Attempt(1, 1), b"five")
    put_steps(store, "cd" * 32, 5, Attempt(1, 1), b"of another clip")
    store.write(f"steps/{KEY}/odd.safetensors", b"foreign")
    clear_steps(store, KEY)
    assert [stat.path for stat in store.list("steps")] == [f"steps/{'cd' * 32}/5-1.1.safetensors"]


def test_a_store_that_does_not_answer_costs_steps_not_the_clip() -> None:
    """The render begins at the beginning; whether the store is back when it must write is another question."""

    class Down(Store):
        def list(self, prefix: str = "", *, skip: str = "") -> Iterator[Stat]:
            raise StoreError("503")

    store = Down("memory://down")
    assert newest_steps(store, KEY, parse) is None
    clear_steps(store, KEY)
