"""The fault matrix on real Ray: CI runs one fault a family, ``make soak`` all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.matrix import FAULTS, Fault, in_own_process


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.name, marks=pytest.mark.slow if fault.in_ci else pytest.mark.soak)
        for fault in FAULTS.values()
    ],
)
def test_run_ends_well_and_the_store_keeps_its_promises(fault: Fault) -> None:
    """Something breaks in the middle of the night; in the morning every video is there, whole, and on record."""
    row = in_own_process(fault)
    if row.skipped:
        pytest.skip(row.skipped)
    assert not row.broken, "\n".join(row.broken)
    assert row.visible_at_end


def test_ci_runs_one_fault_of_each_family() -> None:
    """What only the whole matrix finds is found days later."""
    assert sorted(fault.family for fault in FAULTS.values() if fault.in_ci) == sorted(
        {fault.family for fault in FAULTS.values()}
    )


def test_every_fault_can_be_brought_about() -> None:
    """A fault that is listed and cannot happen would stand in no table."""
    source = Path(__file__).with_name("faults.py").read_text()
    table = source[source.index("HAPPENINGS") :]
    assert all(f'"{name}": (' in table for name in FAULTS)
