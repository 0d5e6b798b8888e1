"""The scheduling benchmark's bound and rows: a ratio is worth what its denominator is."""

from __future__ import annotations

import math

import pytest

from benchmarks.cells import CELLS, Cell, Gpu, bound_s, make_rows, node_gpus


def test_bound_is_all_work_over_all_gpus() -> None:
    """Without faults no schedule of four GPUs ends before a quarter of the work."""
    assert bound_s([2.0, 3.0, 3.0, 4.0], [Gpu()] * 4) == pytest.approx(4.0)
    assert bound_s([1.0] * 40, [Gpu()] * 4) == pytest.approx(10.0)


def test_bound_is_never_below_the_longest_row() -> None:
    """One clip of twelve seconds keeps a run of eight GPUs for twelve seconds."""
    assert bound_s([12.0, 1.0], [Gpu()] * 8) == 12.0
    assert bound_s([12.0], [Gpu(speed=0.5), Gpu(from_s=3.0)]) == 15.0


def test_bound_counts_gpus_only_while_they_are_there() -> None:
    """A GPU that comes at 2 s and goes at 6 s did four seconds of work at most; a slow one does a third."""
    assert bound_s([1.0] * 10, [Gpu(), Gpu(from_s=2.0, until_s=6.0)]) == pytest.approx(6.0)
    assert bound_s([1.0] * 12, [Gpu(), Gpu(from_s=2.0, until_s=6.0)]) == pytest.approx(8.0)
    assert bound_s([1.0] * 8, [Gpu(), Gpu(speed=1 / 3)]) == pytest.approx(6.0)


def test_bound_waits_for_the_first_gpu() -> None:
    """Before there is any GPU, nothing is done; after the last one has gone, nothing either."""
    assert bound_s([1.0], [Gpu(from_s=5.0)]) == 6.0
    with pytest.raises(ValueError, match="gone before"):
        bound_s([10.0], [Gpu(until_s=5.0)])


@pytest.mark.parametrize("cell", CELLS.values(), ids=list(CELLS))
def test_every_contender_gets_the_same_rows(cell: Cell) -> None:
    """Two makings of a cell's rows are equal; estimates are off by 20 % at most, and order what they can."""
    rows = make_rows(cell, 200, 0.5)
    assert rows == make_rows(cell, 200, 0.5)
    assert sum(node_gpus(cell, 8)) == 8
    if not cell.has_estimates:
        assert {row.expected_s for row in rows} == {None}
        return
    expected = [row.expected_s or math.nan for row in rows]
    assert expected == sorted(expected, reverse=True)
    assert all(0.79 < row.true_s / e < 1.26 for row, e in zip(rows, expected, strict=True))
