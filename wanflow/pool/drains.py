"""Which nodes of the cluster are to be taken back, and when: the one place that looks into Ray's private state for it.

Ray tells its own libraries (Serve, Train) so; there is no public call. Where a release of Ray has it elsewhere, or a
client outside of the cluster cannot ask, there is no notice: what the machine's loss then costs is the steps since the
last save. Tested with Ray 2.60.
"""

from __future__ import annotations

import time
from typing import Any

#: grace where a drain has no deadline: long enough to finish what is under way
NO_DEADLINE_S = 3600.0


def draining_nodes(state: Any = None) -> dict[str, float]:
    """Seconds that are left of each node (hex id) that is draining; empty when Ray does not say."""
    try:
        if state is None:
            from ray._private.state import state
        deadlines: dict[str, int] = state.get_draining_nodes()
        now_s = time.time()
        return {
            str(node): max(0.0, deadline_ms / 1000 - now_s) if deadline_ms else NO_DEADLINE_S
            for node, deadline_ms in deadlines.items()
        }
    except Exception:  # noqa: BLE001 - private to Ray: whatever it raises, the answer is that nothing is known
        return {}
