"""One run at a time: a lease with a heartbeat, and epochs that grow with every run.

The holder rewrites its lease every 10 s. An observer takes it over when it has stood still for 60 s of the observer's
own monotonic clock (clocks of two machines are never compared; time in which the observer could not look does not
count), or at once when the holder was a process of this very machine that is dead. A holder whose heartbeat fails
looks whose the lease is and keeps on trying: what it cannot write (a full disk) another cannot write either. A lease
only saves work: without it keys, records and epochs still keep the results right. Whoever lost its lease (suspended,
cut off) learns so from :attr:`Lease.lost`; its epoch keeps it from overwriting newer work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from types import TracebackType

from wanflow.errors import Conflict, StoreError
from wanflow.storage import Store
from wanflow.storage.outage import OUTAGE_S

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0
#: without a sign from the store that the lease is its own for so long, the holder gives up: its run has waited out what
#: it could
SILENCE_S = OUTAGE_S + EXPIRY_S
#: a waiting run looks this often
LOOK_S = 2.0
_MAX_BYTES = 10_000


def claim_epoch(workspace: Store) -> int:
    """A number greater than every epoch claimed before; claim it after the lease, so that the holder's is highest."""
    taken = [
        int(name)
        for name in (stat.path.rpartition("/")[2] for stat in workspace.list("epochs"))
        if name.isdigit()
    ]
    number = max(taken, default=0) + 1
    me = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}\n".encode()
    while True:
        path = f"epochs/{number:08d}"
        # another run's, or my own lost acknowledgement: numbers may be skipped
        with contextlib.suppress(Conflict):
            workspace.create(path, me)
            if workspace.read(path) == me:  # some servers let several writers win
                return number
        number += 1


@dataclass(frozen=True, slots=True)
class Holder:
    """What a lease file says."""

    #: differs with every acquisition
    token: str
    run_id: str
    host: str
    #: tells boots and containers with one host name apart; a pid means something only within one
    machine: str
    pid: int
    #: start time of the process, since pids are used again
    started: str
    #: counts heartbeats
    beat: int = 0
    #: seconds since 1970 by the holder's clock; for people, never compared
    beat_at_s: float = 0.0
    released: bool = False


def lease_path(target: Store | None) -> str:
    """The lease of a workspace, or of one publish target in it."""
    return "lease" if target is None else f"leases/{hashlib.sha256(target.url.encode()).hexdigest()[:16]}"


def holder_of(workspace: Store, target: Store | None = None) -> Holder | None:
    """Who holds the lease as far as its file says; None when nobody does. It may be dead."""
    holder = last_holder(workspace, target)
    return None if holder is None or holder.released else holder


def last_holder(workspace: Store, target: Store | None = None) -> Holder | None:
    """Who held the lease last, given back or not."""
    return _look(workspace, lease_path(target))[0]


def lease_paths(workspace: Store) -> list[str]:
    """The leases of every target that was ever published to from this workspace."""
    return ["lease", *sorted(stat.path for stat in workspace.list("leases"))]


def lease_holders(workspace: Store) -> list[Holder]:
    """Who holds the workspace's leases, of all targets, as far as their files say."""
    found = (_look(workspace, path)[0] for path in lease_paths(workspace))
    return [holder for holder in found if holder is not None and not holder.released]


def last_holders(workspace: Store) -> list[str]:
    """The runs that the workspace's leases name, given back or not. No listing of runs is needed to know them."""
    found = (_look(workspace, path)[0] for path in lease_paths(workspace))
    return [holder.run_id for holder in found if holder is not None]


def is_dead(holder: Holder) -> bool:
    """Whether the holder is known to be dead: a process of this machine that is gone. False when unknown."""
    return holder.machine == _machine() and _process_start(holder.pid) != holder.started


@contextlib.contextmanager
def all_leases(
    workspace: Store, run_id: str, on_wait: Callable[[str], object] | None = None
) -> Iterator[list[Lease]]:
    """Hold every lease of the workspace: wait until no run is at work, keep the next one waiting meanwhile."""
    with contextlib.ExitStack() as stack:
        # sorted, so that two who want them all do not each hold what the other waits for
        yield [
            stack.enter_context(Lease(workspace, path=path, run_id=run_id, on_wait=on_wait))
            for path in lease_paths(workspace)
        ]


class Lease:
    """``with Lease(workspace, target) as lease:`` waits for it, keeps it, gives it back at the end.

    ``path`` is a lease to take instead of ``target``'s. ``on_wait`` gets a message when waiting begins and about every
    half minute; what it raises ends the wait.
    """

    def __init__(
        self,
        workspace: Store,
        target: Store | None = None,
        *,
        path: str = "",
        run_id: str = "",
        on_wait: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        heartbeat_s: float = HEARTBEAT_S,
        expiry_s: float = EXPIRY_S,
    ) -> None:
        self._workspace, self._path = workspace, path or lease_path(target)
        self._on_wait, self._clock, self._sleep = on_wait, clock, sleep
        self._heartbeat_s, self._expiry_s = heartbeat_s, expiry_s
        self._me = Holder(
            secrets.token_hex(8),
            run_id,
            socket.gethostname(),
            _machine(),
            os.getpid(),
            _process_start(os.getpid()),
        )
        self._etag = ""
        #: when the lease was last known to be mine
        self._sure_at = 0.0
        self._lost = ""
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        #: whether another run held it first (the store may have changed meanwhile)
        self.waited = False
        #: the run that had it before, as far as its file said
        self.former = ""

    @property
    def lost(self) -> str:
        """Empty while the lease is this run's; else why it is not."""
        return self._lost

    def __enter__(self) -> Lease:
        self.acquire()
        self._thread = threading.Thread(target=self._keep, name="wanflow-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        self.release()

    def acquire(self) -> None:
        """Wait until the lease is mine. StoreError when the store cannot be read or written."""
        watched: tuple[str, float] | None = None
        told_at: float | None = None
        looked_at = self._clock()
        while True:
            holder, etag = _look(self._workspace, self._path)
            now = self._clock()
            if (
                now - looked_at >= self._expiry_s / 2
            ):  # I could not look, so the holder may have been unable to beat
                watched = None
            looked_at = now
            if holder is not None and holder.token == self._me.token:  # mine: the acknowledgement was lost
                self._held(holder, etag or "", now)
                return
            if watched is None or watched[0] != etag:
                watched = (etag or "", now)
            free = holder is None or holder.released or is_dead(holder)
            stale = now - watched[1] >= self._expiry_s
            if free or stale:
                if not free:
                    self._say(
                        f"the run before ({_name(holder)}) has shown no life for {self._expiry_s:.0f} s: taking over"
                    )
                self.former = holder.run_id if holder is not None else ""
                with contextlib.suppress(Conflict):  # another run was faster: look again
                    self._write(replace(self._me, beat=0), etag, now)
                    if self._is_mine():
                        return
                continue
            self.waited = True
            if told_at is None or now - told_at >= 30:
                told_at = now
                self._say(f"another run ({_name(holder)}) is at work here: waiting for it to end")
            self._sleep(LOOK_S)

    def beat(self) -> None:
        """Show life once; the thread calls it. Sets :attr:`lost` when the lease is another's, or nothing is known of it
        for too long.
        """
        now = self._clock()
        try:
            try:
                self._write(replace(self._me, beat=self._me.beat + 1), self._etag, now)
            except StoreError as error:
                holder, etag = _look(self._workspace, self._path)
                if holder is not None and holder.token == self._me.token and not holder.released:
                    self._held(holder, etag or "", now)
                elif holder is not None or isinstance(error, Conflict):
                    self._lost = f"the lease was taken over by {_name(holder)}"
                else:
                    raise
        except Exception as exc:  # noqa: BLE001 - the next beat may get through; the lease holds for some more of them
            if now - self._sure_at >= SILENCE_S:
                self._lost = f"no heartbeat reached the store for {SILENCE_S:.0f} s: {exc}"

    def release(self) -> None:
        """Give it back; does nothing when it is another's."""
        if self._lost or not self._etag:
            return
        with contextlib.suppress(StoreError):  # it expires by itself
            self._write(replace(self._me, released=True), self._etag, self._clock())
        self._etag = ""

    def _is_mine(self) -> bool:
        """Whether a write that went well is still what the lease says: some servers let several writers win."""
        holder, _ = _look(self._workspace, self._path)
        if holder is not None and holder.token == self._me.token:
            return True
        self._etag = ""
        return False

    def _keep(self) -> None:
        while not self._lost and not self._end.wait(self._heartbeat_s):
            self.beat()

    def _write(self, me: Holder, etag: str | None, now: float) -> None:
        body = json.dumps(asdict(replace(me, beat_at_s=round(time.time(), 3)))).encode()
        self._held(me, self._workspace.replace(self._path, body, if_match=etag).etag, now)

    def _held(self, me: Holder, etag: str, now: float) -> None:
        self._me, self._etag, self._sure_at = me, etag, now

    def _say(self, message: str) -> None:
        if self._on_wait is not None:
            self._on_wait(message)


def _look(workspace: Store, path: str) -> tuple[Holder | None, str | None]:
    """Holder and ETag; a damaged lease has no holder, and may be replaced."""
    try:
        data, stat = workspace.get(path, _MAX_BYTES)
    except FileNotFoundError:
        return None, None
    try:
        return Holder(**json.loads(data)), stat.etag
    except (ValueError, TypeError):
        return None, stat.etag


def _name(holder: Holder | None) -> str:
    if holder is None:
        return "nobody"
    return " ".join(part for part in (holder.run_id, f"process {holder.pid} on {holder.host}") if part)


def _machine() -> str:
    """This boot of this machine, this pid namespace; only the host's name where the system does not say."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _process_start(pid: int) -> str:
    """When ``pid`` started, in the system's ticks; empty when there is no such process (a zombie is none)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if os.path.exists("/proc/self/stat"):
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
