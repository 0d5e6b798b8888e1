"""What goes wrong in the world that ``fake_pool.py`` pretends. Plain values; ``wanflow.testing`` exports them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wanflow.model import Cause


@dataclass
class Faults:
    """How unkind the world is. Shares of 1; all draws come from the pool's seed."""

    #: a clip's attempt ends with a failure of a random kind
    render_fails: float = 0.0
    #: a replica dies during a clip; some of them after the record was written
    replica_dies: float = 0.0
    #: a replica dies while it loads
    start_fails: float = 0.0
    #: a replica begins to load, and says nothing any more
    load_hangs: float = 0.0
    #: a replica stops in the middle of a clip, and says nothing any more
    hangs: float = 0.0
    #: a replica's machine is taken back during a clip; half of the time with notice
    preempted: float = 0.0
    #: a replica's machine goes away during a clip, with every other replica on it
    node_lost: float = 0.0
    #: an assembly fails
    assemble_fails: float = 0.0
    #: an assembly finds one of its masters gone
    master_vanishes: float = 0.0
    #: how much of the time the store is away, in spells of up to 20 s
    store_away: float = 0.0
    #: an event comes twice
    doubled: float = 0.0
    #: an event comes up to ``delay_s`` late
    delayed: float = 0.0
    delay_s: float = 5.0
    #: progress gets lost
    dropped: float = 0.0
    #: a replica waits up to this long for its machine
    late_s: float = 0.0
    #: replicas, by number from 1, on which every clip fails at once, after so many that did not
    sick: Mapping[int, int] = field(default_factory=dict)
    #: nodes, by number from 0, on which no replica comes up
    bad_nodes: frozenset[int] = frozenset()
    #: replicas, by number, that take so many times as long
    slow: Mapping[int, float] = field(default_factory=dict)
    #: rung of the memory ladder that a clip needs
    too_large: Mapping[str, int] = field(default_factory=dict)
    #: clips that need a GPU larger than those of replicas that begin on this rung: no lower one helps there
    too_small: Mapping[str, int] = field(default_factory=dict)
    #: on which replicas begin, in turn
    rungs: tuple[int, ...] = (0,)
    #: these keys always fail, and how
    always: Mapping[str, Cause] = field(default_factory=dict)
