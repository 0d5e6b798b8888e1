"""What became of a replica's machine: drains under way, and why a replica was lost.

The difference is money: a clip pays for a process that died under it, not for a machine that went away. Ray may take
many seconds to declare a node dead whose processes are gone already, so the node's own port is tried as well.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import ray
from ray.exceptions import RayActorError

from wanflow.model import Cause
from wanflow.pool.drains import draining_nodes

#: how often Ray is asked for drains
LOOK_EVERY_S = 1.0
#: how long a node that is alive may take to take a connection
CONNECT_S = 1.0


class NodeWatch:
    """Drain notices and the fate of nodes (hex ids)."""

    def __init__(self, drains: Callable[[], dict[str, float]] = draining_nodes) -> None:
        self._drains = drains
        self._looked_s = float("-inf")
        #: nodes whose drain was seen
        self._noticed: set[str] = set()

    def next_look_s(self) -> float:
        """Seconds until it is time for :meth:`look`."""
        return max(0.0, self._looked_s + LOOK_EVERY_S - time.monotonic())

    def look(self) -> dict[str, float]:
        """Seconds left of the nodes that are draining."""
        self._looked_s = time.monotonic()
        found = self._drains()
        self._noticed |= found.keys()
        return found

    def cause_of_loss(self, error: Exception, node_id: str | None) -> Cause:
        """Why a replica on ``node_id`` (None: not known yet) ended with ``error``."""
        preempted = isinstance(error, RayActorError) and error.preempted
        if preempted or node_id in self._noticed:
            return Cause.PREEMPTED
        if node_id is None:  # Ray had put it on a node that was gone, and found out when it did not come up
            return Cause.NODE_LOST if "node has died" in str(error) else Cause.REPLICA_LOST
        return Cause.REPLICA_LOST if is_alive(node_id) else Cause.NODE_LOST


def is_alive(node_id: str) -> bool:
    """Whether the node is in Ray's list of the living, and its raylet answers."""
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["NodeID"] == node_id and node["Alive"]:
            # a client's driver cannot reach the nodes
            outside: bool = ray.util.client.ray.is_connected()  # type: ignore[no-untyped-call]
            return outside or _answers(node["NodeManagerAddress"], node["NodeManagerPort"])
    return False


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True
