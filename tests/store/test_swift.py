"""The promises on a second real server: OpenStack Swift behind its S3 door, which heeds fewer conditions than S3 does.

Swift's create-only may let more than one of simultaneous writers win; what is promised there is what can be kept: the
loser is found out by the next look, and repaired by the next run.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job, write_rows
from tests.store import swift
from tests.store.conftest import Network, proxy_before
from tests.store.test_weather import (
    TROUBLES,
    check,
    everybody_at_once,
    findings,
    job_in,
    three_nights,
    weather,
)
from wanflow import Job, Outcome, run
from wanflow.errors import Conflict
from wanflow.gc import collect
from wanflow.lease import Lease, claim_epoch
from wanflow.model import Attempt
from wanflow.records import clip_record, put_clip
from wanflow.storage import Store
from wanflow.storage.s3_client import client
from wanflow.testing import load_fake_engine
from wanflow.verify import verify

pytestmark = [
    pytest.mark.needs_swift,
    pytest.mark.slow,
    pytest.mark.skipif(
        swift.swift_bin() is None, reason="no OpenStack Swift: WANFLOW_SWIFT names no bin folder"
    ),
]
BUCKET = "wanflow-tests"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    commands = swift.swift_bin()
    assert commands is not None
    with swift.running(tmp_path_factory.mktemp("swift"), commands) as endpoint:
        yield endpoint


@pytest.fixture
def url(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix; the environment leads to Swift for the length of the test."""
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": swift.KEY,
        "AWS_SECRET_ACCESS_KEY": swift.SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if BUCKET not in [name.strip("/") for name in client().ls("")]:
        client().call_s3("create_bucket", Bucket=BUCKET)
    return f"s3://{BUCKET}/{secrets.token_hex(6)}"


def render(job: Job) -> Outcome:
    return run(job, inline=True, load_engine=load_fake_engine)


def test_create_replace_list_and_delete_behave_as_on_every_store(url: str) -> None:
    store = Store(url)
    first = store.create("a/b.json", b"one")
    with pytest.raises(Conflict):
        store.create("a/b.json", b"two")
    with pytest.raises(Conflict):
        store.replace("a/b.json", b"two", if_match="0" * 32)
    second = store.replace("a/b.json", b"two", if_match=first.etag)
    assert store.get("a/b.json") == (b"two", second)
    assert list(store.list()) == [second]
    assert store.folders() == ["a"]
    with pytest.raises(FileNotFoundError):
        store.read("nothing.json")
    store.delete("a/b.json")
    store.delete("a/b.json")
    assert store.stat("a/b.json") is None


def test_large_files_go_up_in_parts_and_create_only_holds_for_them(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wanflow.storage.s3.PART_BYTES", 5 * 2**20)
    content = random.Random(3).randbytes(12 * 2**20)
    file = tmp_path / "master.mp4"
    file.write_bytes(content)
    store = Store(url)
    stat = store.create("master.mp4", file)
    assert store.get("master.mp4") == (content, stat)
    with pytest.raises(Conflict):
        store.create("master.mp4", file)
    assert store.unfinished() == []


def test_a_clip_has_one_record_and_a_run_one_epoch(url: str) -> None:
    store = Store(url)
    with Lease(store, run_id="first"):
        assert [claim_epoch(store) for _ in range(3)] == [1, 2, 3]
    key = "ab" * 32
    assert put_clip(store, key, Attempt(1, 1), {"master.mp4": b"x"}, {})[1]
    record, won = put_clip(store, key, Attempt(1, 2), {"master.mp4": b"y"}, {})
    assert not won
    assert clip_record(store, key) == record


@pytest.fixture
def stormy(endpoint: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """The way to Swift leads through a proxy, and its client is as impatient as in ``test_weather``."""
    monkeypatch.setattr("wanflow.storage.retry.FIRST_WAIT_S", 0.0001)
    monkeypatch.setattr("wanflow.storage.s3_client.READ_TIMEOUT_S", 3)
    monkeypatch.setattr("wanflow.lease.LOOK_S", 0.05)
    with proxy_before(endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy.network


@pytest.mark.parametrize("day", [three_nights, partial(everybody_at_once, most=2)], ids=["nights", "at-once"])
def test_a_storm_before_swift_ends_as_a_quiet_day(
    day: Callable[[Job, Path], None], stormy: Network, url: str, tmp_path: Path
) -> None:
    """Refused, lost, stalled, cut off: no clip after its record, every file whole."""
    job = job_in(tmp_path, url, str(make("pocket", tmp_path / "checkpoint")))
    met = weather(stormy, 1)
    day(job, tmp_path)
    assert set(met) == set(TROUBLES)
    assert findings(check(job, stormy)) == []


def test_a_whole_job_ends_as_on_any_store(url: str, tmp_path: Path) -> None:
    """First night, a change, a quiet night, gc; then every promise is checked."""
    checkpoint = str(make("pocket", tmp_path / "checkpoint"))
    publish = {"url": f"{url}/out", "path": "{{ variant_id }}/{{ output }}.mp4"}
    job = make_job(tmp_path, checkpoint, publish=publish)
    assert render(job).counts["published"] == 3
    write_rows(tmp_path, [ROWS[0] | {"headline": "Bye Ann"}, ROWS[1], ROWS[2] | {"prompt": "stars"}])
    changed = render(job)
    assert (changed.counts["published"], changed.num_clips_rendered) == (2, 1)
    assert render(job).counts["unchanged"] == 3
    workspace = Store(str(job.workspace))
    assert collect(workspace, delete=True, keep_days=0, grace_h=0).deleted["clips"][0] == 4
    report = verify(workspace, [job.publish.url], deep=True)
    assert [each for check in report.checks for each in check.findings] == []
