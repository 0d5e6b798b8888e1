"""The whole job on a network that refuses, stalls, resets and swallows answers; then every promise is checked.

Chance is seeded; no path meets more trouble than its tries can take, so that what is tested is the protocol and not
luck. (What happens when a store stays away is in ``test_outage``.)
"""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.run.jobs import ROWS, make_job, write_rows
from wanflow import Job, Outcome, plan, run
from wanflow.gc import collect
from wanflow.storage import Store
from wanflow.storage.retry import TRIES
from wanflow.testing import load_fake_engine
from wanflow.verify import Report, verify

from .conftest import Network

#: what a request can meet: refused, never arriving, done and never answered, not answered in time
TROUBLES = ("503", "500", "429", "drop", "lose", "stall")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


@pytest.fixture
def stormy(network: Network, monkeypatch: pytest.MonkeyPatch) -> Network:
    """A client that waits for a silent server some seconds, not a minute (and is no other test's)."""
    monkeypatch.setattr("wanflow.storage.s3_client.READ_TIMEOUT_S", 3)
    monkeypatch.setenv("AWS_EXECUTION_ENV", "stormy")
    return network


def weather(network: Network, seed: int, share: float = 0.2) -> Counter[str]:
    """Let it storm; returns what was met, counted as it goes."""
    chance, met, by_path = random.Random(seed), Counter[str](), Counter[tuple[str, str]]()

    def rule(method: str, path: str) -> str:
        place = method, path.partition("?")[0]
        if ".probe-" in path or by_path[place] >= TRIES - 2 or chance.random() > share:
            return "pass"
        trouble = chance.choice(TROUBLES)
        if trouble == "stall" and met["stall"] >= 3:  # each costs seconds
            trouble = "drop"
        by_path[place] += 1
        met[trouble] += 1
        return trouble

    network.rule = rule
    return met


def render(job: Job) -> Outcome:
    return run(job, inline=True, load_engine=load_fake_engine)


def check(job: Job, network: Network) -> Report:
    network.rule = lambda method, path: "pass"
    return verify(Store(str(job.workspace)), [job.publish.url], deep=True)


def findings(report: Report) -> list[str]:
    return [f"{check.name}: {each.path}: {each.reason}" for check in report.checks for each in check.findings]


def three_nights(job: Job, folder: Path) -> None:
    """First night, a changed headline and prompt, a quiet night: each clip is rendered once."""
    first = render(job)
    assert (first.exit_code, first.counts["published"], first.num_clips_rendered) == (0, 3, 2), first.message
    write_rows(folder, [ROWS[0] | {"headline": "Bye Ann"}, ROWS[1], ROWS[2] | {"prompt": "stars"}])
    second = render(job)
    assert (second.exit_code, second.counts["published"], second.num_clips_rendered) == (0, 2, 1), (
        second.message
    )
    third = render(job)
    assert (third.exit_code, third.counts["unchanged"]) == (0, 3), third.message


def everybody_at_once(job: Job, folder: Path, most: int = 1) -> None:
    """Cron started the job twice, and gc at its greediest as well; then once more with a changed prompt.

    ``most``: how often a clip may be rendered; 2 where the server may let both runs win the lease.
    """
    for number, prompt in enumerate(("bokeh", "stars")):
        write_rows(folder, [*ROWS[:2], ROWS[2] | {"prompt": prompt}])
        with ThreadPoolExecutor(3) as threads:
            runs = [threads.submit(render, job) for _ in range(2)]
            threads.submit(collect, Store(str(job.workspace)), delete=True, keep_days=0, grace_h=0).result()
            ends = [run.result() for run in runs]
        assert [end.exit_code for end in ends] == [0, 0], [end.message for end in ends]
        num_clips, num_videos = (1, 1) if number else (2, 3)
        assert num_clips <= sum(end.num_clips_rendered for end in ends) <= most * num_clips
        assert num_videos <= sum(end.counts["published"] for end in ends) <= most * num_videos
    assert plan(job).is_empty


def job_in(folder: Path, url: str, checkpoint: str) -> Job:
    publish = {"url": f"{url}/out", "path": "{{ variant_id }}/{{ output }}.mp4"}
    return make_job(folder, checkpoint, publish=publish)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_job_in_a_storm_ends_as_on_a_quiet_day(
    stormy: Network, s3_url: str, tmp_path: Path, checkpoint: str, seed: int
) -> None:
    """Each clip is rendered once, never after its record, and each file is whole."""
    job = job_in(tmp_path, s3_url, checkpoint)
    met = weather(stormy, seed)
    three_nights(job, tmp_path)
    assert set(met) == set(TROUBLES)
    assert findings(check(job, stormy)) == []


@pytest.mark.slow
def test_two_runs_and_gc_at_once_in_a_storm_make_everything_once(
    stormy: Network, s3_url: str, tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wanflow.lease.LOOK_S", 0.05)
    job = job_in(tmp_path, s3_url, checkpoint)
    met = weather(stormy, 3)
    everybody_at_once(job, tmp_path)
    assert set(met) == set(TROUBLES)
    assert findings(check(job, stormy)) == []


def test_large_files_go_up_in_parts_through_a_storm(
    network: Network, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that fails is sent again alone; forty parts in a storm would otherwise never all arrive."""
    monkeypatch.setattr("wanflow.storage.s3.PART_BYTES", 5 * 2**20)
    content = random.Random(7).randbytes(43 * 2**20)
    file = tmp_path / "master.mp4"
    file.write_bytes(content)
    store = Store(s3_url)
    parts = Counter[str]()

    def rule(method: str, path: str) -> str:
        if "partNumber" in path:
            parts[path] += 1
            return "503" if parts[path] == 1 else "drop" if parts[path] == 2 else "pass"
        return "pass"

    network.rule = rule
    store.write("master.mp4", file)
    assert store.read("master.mp4") == content
    assert len(parts) == 9
    assert set(parts.values()) == {3}
    assert store.unfinished() == []
