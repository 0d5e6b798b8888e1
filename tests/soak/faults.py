"""The fault matrix: what befalls a run in mid-render, and what came of it. One function a fault.

Each starts a run in its night, brings the fault about when a clip is half done, sees the run (or the next one) to its
end, and says when what was hit went on. ``__main__`` adds what was lost, what was visible, and whether the store keeps
the promises.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from tests.soak.night import Night, ancestors, is_alive, wait_until
from tests.soak.weather import BUCKET, s3_weather


@dataclass(frozen=True)
class Hit:
    """When the fault came, when it was over (at once, mostly), and when what it hit went on (None: nothing was hit)."""

    at_s: float
    over_s: float
    recovered_s: float | None


#: makes what a night needs around it: (arguments of Night, what its fault gets)
Around = Callable[[Path], AbstractContextManager[tuple[dict[str, Any], Any]]]


class CannotHappenHere(Exception):
    """This machine does not let the fault be brought about; the message says what it would take."""


@contextmanager
def plain(folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    yield {}, None


@contextmanager
def long_clips(folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """Clips that do not end within a notice of three seconds."""
    yield {"num_clips": 6, "num_steps": 50}, None


@contextmanager
def large_videos(folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """Videos of full size: ffmpeg is at them for long enough to be found."""
    yield {"job": {"outputs": [{"name": "square", "preset": "instagram-square"}]}}, None


@contextmanager
def many_clips(folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """Something is left to do however late the first video comes."""
    yield {"num_clips": 18}, None


@contextmanager
def behind_proxy(folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """The store is an S3 server, and the way to it is ours."""
    with s3_weather() as weather:
        yield {"url": f"s3://{BUCKET}/out", "env": {"AWS_ENDPOINT_URL": weather.proxied}}, weather


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """The store is a file system of 64 MB in memory, of its own."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        raise CannotHappenHere("a file system of its own can be mounted by root only")
    try:
        yield {"url": str(disk / "out")}, disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def kill_replica(night: Night, _: Any) -> Hit:
    driver = night.start()
    hit = night.until_step(night.num_steps // 2)
    os.kill(hit.pid, signal.SIGKILL)
    at_s = time.time()
    driver.end_well()
    return Hit(at_s, at_s, night.went_on_s(hit.prompt, at_s, hit.pid))


def stop_replica(night: Night, _: Any) -> Hit:
    driver = night.start()
    hit = night.until_step(night.num_steps // 2)
    os.kill(hit.pid, signal.SIGSTOP)
    at_s = time.time()
    try:
        driver.end_well()
        wait_until(lambda: not is_alive(hit.pid), "the end of the stopped process")
    finally:
        if is_alive(hit.pid):
            os.kill(hit.pid, signal.SIGKILL)
    return Hit(at_s, at_s, night.went_on_s(hit.prompt, at_s, hit.pid))


def kill_ffmpeg(night: Night, _: Any) -> Hit:
    driver = night.start()
    raylets = {node.all_processes["raylet"][0].process.pid for node in night.nodes}
    killed: list[int] = []

    def look() -> bool:
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and b"ffmpeg" in (entry / "cmdline").read_bytes().partition(b"\0")[0]:
                    pid = int(entry.name)
                    if raylets & set(ancestors(pid)):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        return True
            except OSError:
                continue
        return False

    wait_until(look, "an ffmpeg process")
    at_s = time.time()
    driver.end_well()
    failed = driver.events("AssembleFailed")
    assert failed, "the kill came too late to be felt"
    again = [e for e in driver.events("VariantPublished") if e["task"] == failed[0]["task"]]
    return Hit(at_s, at_s, again[0]["time_s"])


def remove_node(night: Night, _: Any) -> Hit:
    driver = night.start()
    hit = night.until_step(night.num_steps // 2, lambda pid: night.node_of(pid) is not night.nodes[0])
    at_s = time.time()
    night.cluster.remove_node(night.node_of(hit.pid), allow_graceful=False)
    driver.end_well()
    return Hit(at_s, at_s, night.went_on_s(hit.prompt, at_s, hit.pid))


def drain_node(night: Night, _: Any) -> Hit:
    notice_s = 3.0
    driver = night.start()
    hit = night.until_step(5, lambda pid: night.node_of(pid) is not night.nodes[0])
    node = night.node_of(hit.pid)
    at_s = time.time()
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = GcsClient(address=night.cluster.address).drain_node(
        node.node_id, reason, "taken back", int((at_s + notice_s) * 1000)
    )
    assert accepted, why
    time.sleep(notice_s)
    night.cluster.remove_node(node, allow_graceful=False)
    driver.end_well()
    return Hit(at_s, at_s, night.went_on_s(hit.prompt, at_s, hit.pid))


def kill_driver(night: Night, _: Any) -> Hit:
    first = night.start()
    first.until("VariantPublished")
    night.until_step(night.num_steps // 2)
    first.kill()
    at_s = time.time()
    before = {path.name for path in night.tracks.iterdir()}
    second = night.start()
    second.end_well()
    return Hit(at_s, at_s, min(step.time_s for step in night.steps() if str(step.pid) not in before))


def two_runs(night: Night, _: Any) -> Hit:
    at_s = time.time()
    first, second = night.start(), night.start()
    first.end_well()
    second.end_well()
    rendered = [line["task"] for run in (first, second) for line in run.events("Render")]
    assert len(rendered) == len(set(rendered)) == night.num_clips, "the two runs rendered the same clips"
    return Hit(at_s, at_s, None)


def refuse_store(night: Night, weather: Any) -> Hit:
    driver = night.start()
    driver.until("VariantPublished")
    night.until_step(night.num_steps // 2)
    at_s = time.time()
    weather.refuses = True
    time.sleep(8)
    weather.refuses = False
    fair_s = time.time()
    driver.end_well()
    assert weather.num_refused, "nobody asked the store while it refused"
    return Hit(at_s, fair_s, _next_published(driver, fair_s))


def stall_store(night: Night, weather: Any) -> Hit:
    driver = night.start()
    driver.until("VariantPublished")
    night.until_step(night.num_steps // 2)
    at_s = time.time()
    weather.flows.clear()
    time.sleep(8)
    weather.flows.set()
    fair_s = time.time()
    driver.end_well()
    return Hit(at_s, fair_s, _next_published(driver, fair_s))


def fill_disk(night: Night, disk: Path) -> Hit:
    driver = night.start()
    driver.until("VariantPublished")
    night.until_step(night.num_steps // 2)
    at_s = time.time()
    filler = disk / "filler"
    until_s = at_s + 6
    while time.time() < until_s:  # whatever is freed meanwhile is taken too
        try:
            with open(filler, "ab", buffering=0) as file:
                while True:
                    file.write(bytes(2**16))
        except OSError:
            time.sleep(0.1)
    filler.unlink()
    fair_s = time.time()
    driver.end_well()
    return Hit(at_s, fair_s, _next_published(driver, fair_s))


def _next_published(driver: Any, since_s: float) -> float:
    times = [e["time_s"] for e in driver.events("VariantPublished") if e["time_s"] >= since_s]
    assert times, "everything was over before the fault"
    return float(min(times))


#: name -> (what happens, what the night needs around it)
HAPPENINGS: dict[str, tuple[Callable[[Night, Any], Hit], Around]] = {
    "replica_killed": (kill_replica, plain),
    "replica_stopped": (stop_replica, plain),
    "ffmpeg_killed": (kill_ffmpeg, large_videos),
    "node_removed": (remove_node, plain),
    "drained": (drain_node, long_clips),
    "driver_killed": (kill_driver, many_clips),
    "two_runs": (two_runs, plain),
    "store_refuses": (refuse_store, behind_proxy),
    "store_stalls": (stall_store, behind_proxy),
    "disk_full": (fill_disk, small_disk),
}
