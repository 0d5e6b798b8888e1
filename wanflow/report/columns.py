"""Carried columns: values of the manifest's rows that results and catalog repeat, as typed Arrow columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from wanflow.model import Scalar

if TYPE_CHECKING:
    import pyarrow as pa


def carried_columns(rows: Sequence[Mapping[str, Scalar]], taken: Iterable[str]) -> dict[str, pa.Array]:
    """One column a name that occurs in ``rows``, null where a row lacks it.

    All integers make an int64 column, numbers a float64, truth values a bool; anything else, a mixture too, a string.
    A name in ``taken`` gets the prefix ``carry_``.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    reserved = set(taken)
    return {
        (f"carry_{name}" if name in reserved else name): _column([row.get(name) for row in rows])
        for name in names
    }


def _column(values: Sequence[Scalar]) -> pa.Array:
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(value is None or -(2**63) <= int(value) < 2**63 for value in values):
        return pa.array(values, pa.int64())
    if kinds and kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())
