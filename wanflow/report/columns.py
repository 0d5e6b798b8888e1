"""Carried columns: values of the manifest's rows that results and catalog repeat, as typed Arrow columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from wanflow.model import Scalar

if TYPE_CHECKING:
    import pyarrow as pa


def carried_name(name: str, taken: Iterable[str]) -> str:
    """A name in ``taken`` gets the prefix ``carry_``."""
    return f"carry_{name}" if name in taken else name


def carried_type(values: Iterable[Scalar]) -> pa.DataType:
    """Integers make an int64 column, numbers a float64, truth values a bool; anything else, a mixture too, a string."""
    import pyarrow as pa

    kinds: set[type] = set()
    is_long = False
    for value in values:
        if value is not None:
            kinds.add(value.__class__)
            is_long = is_long or (value.__class__ is int and not -(2**63) <= int(value) < 2**63)
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and not is_long:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


def carried_column(values: Sequence[Scalar], kind: pa.DataType) -> pa.Array:
    """``values`` as a column of their :func:`carried_type`, null where there is none."""
    import pyarrow as pa

    if pa.types.is_float64(kind):
        return pa.array([None if value is None else float(value) for value in values], kind)
    if pa.types.is_string(kind):
        return pa.array([None if value is None else str(value) for value in values], kind)
    return pa.array(values, kind)
