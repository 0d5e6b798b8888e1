"""The loop between scheduler and pool: what is on record when an order goes out, and what a burst of news costs."""

from __future__ import annotations

from pathlib import Path

from tests.schedule.tasks import assembly, render
from wanflow.driver import drive
from wanflow.ledger import Ledger
from wanflow.planning import Plan
from wanflow.schedule import PlannedRender, Policy, Scheduler
from wanflow.schedule.actions import Action, Render
from wanflow.schedule.events import Event
from wanflow.storage import Store
from wanflow.testing import FakePool
from wanflow.view import View

_NUM = 12


class _Bursts(FakePool):
    """Its replicas end their clips at the same moment; an order to render looks whether it is on record."""

    ledger: Ledger
    num_unrecorded = 0

    def perform(self, action: Action) -> None:
        if isinstance(action, Render):
            events = self.ledger.read_events().to_pylist()
            recorded = {e["attempt"] for e in events if e["event"] == "Render"}
            self.num_unrecorded += str(action.attempt) not in recorded
        super().perform(action)

    def more_events(self) -> list[Event]:
        found = []
        while event := self.next_event(0.0):
            found.append(event)
        return found


def test_every_render_of_a_burst_is_on_record_before_it_is_ordered_and_costs_no_write_of_its_own(
    tmp_path: Path,
) -> None:
    """A driver that dies between two orders must have forgotten none; a small file a clip would be most of its work."""
    keys = [str(number) for number in range(_NUM)]
    pool = _Bursts(
        lambda key: 8.0,
        {f"{key}.mp4": frozenset({key}) for key in keys},
        max_replicas=_NUM // 2,
        num_assembly_slots=_NUM,
        num_nodes=1,
    )
    scheduler = Scheduler(
        [PlannedRender(render(key), 0, 1.0) for key in keys],
        [(assembly(key, key), 0) for key in keys],
        Policy(max_replicas=pool.max_replicas, max_assemblies=_NUM),
        epoch=1,
    )
    store = Store(str(tmp_path))
    pool.ledger = Ledger(store, "run-1")
    drive(scheduler, pool, pool.ledger, Plan({}, (), (), (), (), 0, 0), View(), clock=pool.clock)
    assert len(pool.published) == _NUM
    assert pool.num_unrecorded == 0
    assert len(list(store.list("runs/run-1/events"))) < _NUM
