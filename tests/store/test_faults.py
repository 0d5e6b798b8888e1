"""The network between a run and its bucket fails: what was done stays done, once, and the message says what to do."""

from __future__ import annotations

import pickle
import random
import time
from pathlib import Path

import pytest

from wanflow.errors import Conflict, StoreError
from wanflow.lease import Lease, claim_epoch
from wanflow.ledger import Ledger
from wanflow.model import Attempt, Output, OutputFile
from wanflow.publish import Published, publish
from wanflow.records import put_clip
from wanflow.storage import Store
from wanflow.storage.retry import LONGEST_WAIT_S, TRIES, call

from .conftest import Network

KEY = "ab" * 32


def test_a_lost_acknowledgement_of_a_record_is_not_a_lost_race(network: Network, s3_url: str) -> None:
    """The record arrived, the answer did not; the retry meets a conflict with itself. The clip is mine."""
    store = Store(s3_url)
    assert store.conditional_writes()
    network.once("lose", "PUT", f"{KEY}.json")
    record, won = put_clip(store, KEY, Attempt(7, 1), {"master.mp4": b"x"}, {})
    assert won
    assert record.attempt == "7.1"
    assert record.etag
    assert sum(method == "PUT" and path.endswith(f"{KEY}.json") for method, path in network.log) == 2


def test_a_record_whose_answers_are_all_lost_is_still_won(network: Network, s3_url: str) -> None:
    """The proxy of a data centre swallows every answer to this PUT: reading the record tells."""
    store = Store(s3_url)
    assert store.conditional_writes()
    network.rule = lambda method, path: "lose" if method == "PUT" and path.endswith(".json") else "pass"
    assert put_clip(store, KEY, Attempt(7, 1), {"master.mp4": b"x"}, {})[1]


def test_lost_acknowledgements_while_publishing_end_in_one_good_publication(
    network: Network, s3_url: str, tmp_path: Path
) -> None:
    """Neither the video's nor the record's lost answer may leave the path unpublished or fail the variant."""
    target, workspace = Store(s3_url).child("out"), Store(s3_url).child("work")
    video = tmp_path / "v.mp4"
    video.write_bytes(b"video")
    file = OutputFile(Output("story", "9x16", 90, 160, 8.0), "anna/story.mp4", "k1", ("m",))
    assert target.conditional_writes()
    for epoch, ending in enumerate(("anna/story.mp4", ".json"), start=1):
        network.once("lose", "PUT", ending)
        other = OutputFile(file.output, file.path, f"k{epoch}", ("m",))
        publish(target, workspace, other, "anna", {"video": video}, Attempt(epoch, 1), "run", {})
        assert Published.load(target, workspace).key_of("anna/story.mp4") == f"k{epoch}"


def test_a_lost_acknowledgement_of_a_durable_event_writes_it_once(network: Network, s3_url: str) -> None:
    """AttemptStarted is in the ledger before the render is ordered, and once."""
    ledger = Ledger(Store(s3_url), "run-1")
    assert ledger.workspace.conditional_writes()
    network.once("lose", "PUT", "000000.parquet")
    ledger.append({"time_s": 1.0, "event": "AttemptStarted", "task": KEY}, durable=True)
    ledger.append({"time_s": 2.0, "event": "ClipRendered", "task": KEY}, durable=True)
    assert ledger.read_events().column("event").to_pylist() == ["AttemptStarted", "ClipRendered"]


def test_a_lost_acknowledgement_of_a_lease_is_noticed(network: Network, s3_url: str) -> None:
    """A run must not wait a minute for itself, and still knows who was there before."""
    store = Store(s3_url)
    assert store.conditional_writes()
    with Lease(store, run_id="monday"):
        pass
    network.once("lose", "PUT", "lease")
    lease = Lease(store, sleep=no_sleep)
    lease.acquire()
    assert lease.former == "monday"
    network.once("lose", "PUT", "lease")
    lease.beat()
    assert lease.lost == ""
    network.once("lose", "PUT", "00000001")
    assert claim_epoch(store) in {1, 2}


@pytest.mark.parametrize("verdict", ["503", "500", "429", "drop"])
def test_passing_trouble_is_tried_again(network: Network, s3_url: str, verdict: str) -> None:
    """A busy service answers "slow down"; that is no reason to fail a clip of ten minutes."""
    store = Store(s3_url)
    for method, ending in (("PUT", "a.json"), ("GET", "a.json"), ("HEAD", "a.json")):
        network.once(verdict, method, ending)
        if method == "PUT":
            store.write("a.json", b"x")
        elif method == "GET":
            assert store.read("a.json") == b"x"
        else:
            assert store.stat("a.json") is not None
    network.once(verdict, "GET", "wanflow-tests")
    assert [stat.path for stat in store.list()] == ["a.json"]


def test_a_listing_that_breaks_off_is_an_error_not_a_short_listing(network: Network, s3_url: str) -> None:
    """A short listing would make everything behind it "never published" and render it again."""
    store = Store(s3_url)
    store.write("a.json", b"x")
    network.rule = lambda method, path: "403" if "list-type" in path else "pass"
    with pytest.raises(StoreError, match="HTTP 403"):
        list(store.list())


def test_a_conflict_of_simultaneous_writers_is_tried_again(network: Network, s3_url: str) -> None:
    """S3 answers 409 when another conditional write of the key is still under way."""
    store = Store(s3_url)
    assert store.conditional_writes()
    network.once("409", "PUT", "a.json")
    store.create("a.json", b"x")
    network.rule = lambda method, path: "409" if method == "PUT" else "pass"
    with pytest.raises(Conflict):
        store.create("b.json", b"x")


def test_a_part_that_fails_for_good_leaves_no_upload_behind(
    network: Network, s3_url: str, tmp_path: Path
) -> None:
    """Parts of unfinished uploads are billed for ever and seen by nobody."""
    store = Store(s3_url)
    big = tmp_path / "big.bin"
    big.write_bytes(bytes(17 * 2**20))
    network.rule = lambda method, path: "403" if "partNumber=2" in path else "pass"
    with pytest.raises(StoreError, match=r"big\.bin.*access denied"):
        store.write("big.bin", big)
    assert [method for method, path in network.log if "uploadId" in path and method == "DELETE"] == ["DELETE"]
    assert store.stat("big.bin") is None


def test_a_server_that_ignores_conditions_is_found_out(
    network: Network, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers that speak S3 take every conditional write; then the store looks before it writes."""
    monkeypatch.setenv("AWS_EXECUTION_ENV", "nobody-tried-here-yet")
    store = Store(s3_url)
    answers = {"probe": 0}

    def ignore(method: str, path: str) -> str:
        if method == "PUT" and ".probe-" in path:
            answers["probe"] += 1
            return "pass" if answers["probe"] == 1 else "200"
        return "pass"

    network.rule = ignore
    assert not store.conditional_writes()
    first = store.create("a.json", b"one")
    with pytest.raises(Conflict):
        store.create("a.json", b"two")
    with pytest.raises(Conflict):
        store.replace("a.json", b"two", if_match="0" * 32)
    store.replace("a.json", b"two", if_match=first.etag)
    assert store.read("a.json") == b"two"
    assert not store.conditional_writes()
    assert answers["probe"] == 3, "one write and one try of each condition"


def test_errors_say_path_status_and_what_to_do_and_never_a_secret(
    network: Network, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message goes into results and logs that many people read."""
    store = Store(s3_url)
    network.rule = lambda method, path: "403"
    actions = (
        lambda: store.read("a/b.json"),
        lambda: store.write("a/b.json", b"x"),
        lambda: store.delete("a/b.json"),
        lambda: list(store.list("a/b.json")),
    )
    for action in actions:
        with pytest.raises(StoreError) as caught:
            action()
        words = str(caught.value)
        assert "HTTP 403" in words
        assert "check the credentials" in words
        assert s3_url in words
        assert "test-key" not in words
        assert "test-secret" not in words
        assert str(pickle.loads(pickle.dumps(caught.value))) == words


def test_a_bucket_that_does_not_exist_is_not_an_empty_one(s3_url: str) -> None:
    """A typo in the job would otherwise render the whole manifest before it fails."""
    store = Store("s3://no-such-bucket-here/x")
    for action in (lambda: store.read("a"), lambda: store.write("a", b"x"), lambda: list(store.list())):
        with pytest.raises(StoreError, match="the bucket does not exist"):
            action()


def test_a_dead_endpoint_is_reported_after_bounded_tries(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network at all: a clear message in seconds, not a hang."""
    monkeypatch.setattr("wanflow.storage.retry.FIRST_WAIT_S", 0.0001)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=rf"after {TRIES} tries"):
        Store(s3_url).read("a.json")


def test_an_answer_that_trickles_is_given_up_and_asked_for_again(
    network: Network, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that sends a byte a moment is never silent for long enough to be noticed by that."""
    store = Store(s3_url)
    store.write("a.bin", bytes(2000))
    monkeypatch.setattr("wanflow.storage.s3.TRY_TIMEOUT_S", 0.5)
    network.once("drip", "GET", "a.bin")
    began_s = time.monotonic()
    assert store.read("a.bin") == bytes(2000)
    assert time.monotonic() - began_s < 20, "the whole answer would have taken 100 s"
    assert [method for method, _ in network.log] == ["PUT", "GET", "GET"]


def test_waits_between_tries_are_random_bounded_and_grow() -> None:
    """A thousand replicas that meet "slow down" together must not come back together."""
    waits: list[float] = []

    def fail() -> None:
        raise TimeoutError("no answer")

    with pytest.raises(StoreError, match="a later run may succeed"):
        call(fail, "read x", sleep=waits.append, chance=random.Random(1).random)
    assert len(waits) == TRIES - 1
    assert len(set(waits)) == len(waits)
    assert all(0 <= wait <= LONGEST_WAIT_S for wait in waits)
    longest: list[float] = []
    with pytest.raises(StoreError):
        call(fail, "read x", sleep=longest.append, chance=lambda: 1.0)
    assert longest == sorted(longest)


def test_what_cannot_pass_is_not_tried_again() -> None:
    """A missing permission does not appear by waiting."""
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise PermissionError(13, "Permission denied")

    with pytest.raises(StoreError, match="access denied"):
        call(fail, "write x", sleep=no_sleep)
    assert len(tries) == 1


def no_sleep(seconds: float) -> None:
    raise AssertionError(f"waited {seconds} s where nothing was to be waited for")
