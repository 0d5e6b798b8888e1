"""What the pool learns of nodes and processes, without a cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wanflow.model import Cause
from wanflow.pool.drains import NO_DEADLINE_S, draining_nodes
from wanflow.pool.processes import Process, end, is_running, memory_bytes, this_process

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


class RayState:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def get_draining_nodes(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_seconds_left_are_those_to_the_deadline() -> None:
    """Ray counts milliseconds since 1970; no deadline is a zero."""
    now_ms = time.time() * 1000
    found = draining_nodes(RayState({"a": now_ms + 90_000, "b": 0, "c": now_ms - 5000}))
    assert 80 < found["a"] <= 90
    assert found["b"] == NO_DEADLINE_S
    assert found["c"] == 0.0


@pytest.mark.parametrize(
    "state", [object(), RayState(RuntimeError("not connected")), RayState(None), RayState({"a": "soon"})]
)
def test_a_ray_that_does_not_say_gives_no_notice(state: Any) -> None:
    """The call is private to Ray: a release without it must cost notices, not the run."""
    assert draining_nodes(state) == {}


def test_this_release_of_ray_has_what_is_asked() -> None:
    """The fallback hides a rename: here it would show."""
    state = pytest.importorskip("ray._private.state")
    assert callable(state.state.get_draining_nodes)


def test_a_loss_is_put_down_to_what_was_known_of_the_node() -> None:
    """Only a process that died on a healthy node counts against its clip."""
    pytest.importorskip("ray")
    from ray.exceptions import ActorDiedError, RayActorError

    from wanflow.pool.watching import NodeWatch

    watch = NodeWatch(lambda: {"spot": 60.0})
    assert watch.look() == {"spot": 60.0}
    assert watch.next_look_s() > 0
    died = ActorDiedError()
    assert watch.cause_of_loss(died, "spot") is Cause.PREEMPTED
    assert watch.cause_of_loss(RayActorError("id", "gone", False, True), None) is Cause.PREEMPTED
    assert watch.cause_of_loss(died, None) is Cause.REPLICA_LOST
    never_up = RayActorError("id", "The actor died because its node has died. Node Id: x")
    assert watch.cause_of_loss(never_up, None) is Cause.NODE_LOST


def test_what_a_lost_assembly_costs_depends_on_what_was_lost() -> None:
    """Its node, the node's memory, its process, or nothing at all: an error of ours."""
    pytest.importorskip("ray")
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RaySystemError, RayTaskError
    from ray.exceptions import WorkerCrashedError as Crashed

    from wanflow.pool.assemblies import cause_of_failure

    assert cause_of_failure(NodeDiedError("dead"))[0] is Cause.NODE_LOST
    assert cause_of_failure(OutOfMemoryError("7.18GB of 7.2GB"))[0] is Cause.OUT_OF_MEMORY
    assert cause_of_failure(Crashed())[0] is Cause.REPLICA_LOST
    assert cause_of_failure(RaySystemError(None))[0] is Cause.REPLICA_LOST
    ours = RayTaskError("assemble_variant", "no traceback", ImportError("no module named av"))
    assert cause_of_failure(ours) == (Cause.ITEM_ERROR, "no module named av")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def process_of(pid: int) -> Process:
    return Process(pid, int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]))


@linux
def test_a_stopped_process_ends(sleeper: subprocess.Popen[bytes]) -> None:
    """SIGSTOP: it neither answers nor obeys SIGTERM; its GPU must come back."""
    process = process_of(sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    assert is_running(process)
    assert end(process, patience_s=0.0)
    assert not is_running(process)


@linux
def test_a_number_that_went_to_another_process_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    """Process ids come round: whoever has it now did nothing."""
    earlier = Process(sleeper.pid, process_of(sleeper.pid).began - 1)
    assert not is_running(earlier)
    assert end(earlier, patience_s=0.0)
    assert sleeper.poll() is None


@linux
def test_this_process_runs_and_takes_memory() -> None:
    assert is_running(this_process())
    used = memory_bytes()
    assert used is not None
    assert 1e6 < used < 1e12
