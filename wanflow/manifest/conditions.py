"""A condition of the ``where`` language as a pyarrow expression over a table's columns, every column and type
checked.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from functools import reduce
from typing import TYPE_CHECKING, Any

from wanflow.errors import ManifestError
from wanflow.job.fields import DECIMAL_COMMA, DECIMAL_POINT
from wanflow.manifest.columns import NUMBERS
from wanflow.suggest import did_you_mean
from wanflow.where import (
    And,
    Column,
    Compare,
    Constant,
    In,
    IsNull,
    Literal,
    Node,
    Not,
    Or,
    Truth,
    fail,
    parse_where,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc


def compile_where(text: str, schema: pa.Schema, loose: Collection[str] = ()) -> pc.Expression:
    """``text`` as a pyarrow expression over ``schema``.

    ``loose`` names text columns whose text may stand for numbers and booleans (CSV, folders of a partitioned data
    set): those are converted when they are compared with one, or with a column that is known to be numbers. A moment
    without an offset is one of the column's time zone. Raises ManifestError with the position in the text.
    """
    try:
        return _Compiler(text, schema, frozenset(loose)).compile(parse_where(text))
    except ValueError as exc:
        raise ManifestError(str(exc)) from None


class _Compiler:
    """A tree to a pyarrow expression, every column and type checked."""

    def __init__(self, text: str, schema: pa.Schema, loose: frozenset[str]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self.pa: Any = pa
        self.pc: Any = pc
        self.text = text
        self.schema = schema
        self.loose = loose

    def compile(self, node: Node) -> Any:
        match node:
            case And(parts):
                return reduce(lambda a, b: a & b, map(self.compile, parts))
            case Or(parts):
                return reduce(lambda a, b: a | b, map(self.compile, parts))
            case Not(part):
                return ~self.compile(part)
            case IsNull(column, negated):
                field, _ = self._field(column)
                return field.is_valid() if negated else field.is_null(nan_is_null=False)
            case In(column, values, negated):
                field, kind = self._field(column)
                field, scalars = self._with_literals(column, field, kind, values)
                null = self.pc.scalar(
                    self.pa.scalar(None, self.pa.bool_())
                )  # isin() alone says false for null
                found = self.pc.if_else(field.is_valid(), field.isin(scalars), null)
                return ~found if negated else found
            case Compare(left, op, right):
                return self._compare(left, op, right)
            case Truth(operand):
                if isinstance(operand, Literal):
                    return self.pc.scalar(operand.value)
                return self._compare(operand, "=", Literal(True, operand.at))

    def _field(self, column: Column) -> tuple[Any, Any]:
        """The column's expression and type; dictionary-encoded columns are read as their values."""
        if column.name not in self.schema.names:
            hint = did_you_mean(column.name, self.schema.names)
            fail(
                self.text,
                column.at,
                f"there is no column `{column.name}`; {hint}; text goes in single quotes",
            )
        kind = self.schema.field(column.name).type
        field = self.pc.field(column.name)
        if self.pa.types.is_dictionary(kind):
            return field.cast(kind.value_type), kind.value_type
        return field, kind

    def _compare(self, left: Column | Literal, op: str, right: Column | Literal) -> Any:
        if isinstance(left, Literal) and isinstance(right, Literal):
            fail(self.text, left.at, "compares two values; one side must be a column")
        if isinstance(left, Literal):
            flipped = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op, op)
            return self._compare(right, flipped, left)
        field, kind = self._field(left)
        if isinstance(right, Column):
            other, other_kind = self._field(right)
            if {left.name, right.name} & self.loose & NUMBERS:
                field, kind = self._as_number(left, field, kind)
                other, other_kind = self._as_number(right, other, other_kind)
            if self._sort(kind) != self._sort(other_kind):
                fail(
                    self.text,
                    left.at,
                    f"`{left.name}` is {kind}, `{right.name}` is {other_kind}; they cannot be compared",
                )
            return _apply(op, self._as_double(field, kind)[0], self._as_double(other, other_kind)[0])
        field, scalars = self._with_literals(left, field, kind, (right,))
        return _apply(op, field, self.pc.scalar(scalars[0]))

    def _with_literals(
        self, column: Column, field: Any, kind: Any, literals: tuple[Literal, ...]
    ) -> tuple[Any, Any]:
        """The field, converted where it must be, and an array of the values in the field's type."""
        targets = [self._target(column, kind, literal) for literal in literals]
        if len(set(map(self._sort, targets))) > 1:
            fail(self.text, column.at, f"`{column.name}` is compared with values of different kinds")
        if self._sort(kind) == "time":
            return field, self.pa.array([self._moment(column, kind, literal) for literal in literals])
        target = self.pa.float64() if self.pa.float64() in targets else targets[0]
        plain = [float(x.value) if target == self.pa.float64() else x.value for x in literals]
        values = self.pa.array(plain).cast(target)
        if target == self.pa.float64():
            field, kind = self._as_number(column, *self._as_double(field, kind))
        return (field if target == kind else field.cast(target, safe=False)), values

    def _as_number(self, column: Column, field: Any, kind: Any) -> tuple[Any, Any]:
        """A loose column's text as numbers, with a decimal comma too; any other column as it is."""
        if column.name not in self.loose or self._sort(kind) != "text":
            return field, kind
        written = self.pc.replace_substring_regex(
            self.pc.utf8_trim_whitespace(field), pattern=DECIMAL_COMMA, replacement=DECIMAL_POINT
        )
        return written.cast(self.pa.float64()), self.pa.float64()

    def _as_double(self, field: Any, kind: Any) -> tuple[Any, Any]:
        """A decimal as the float that its digits are; pyarrow's own cast often gives one beside it."""
        if not self.pa.types.is_decimal(kind):
            return field, kind
        return field.cast(self.pa.string()).cast(self.pa.float64()), self.pa.float64()

    def _moment(self, column: Column, kind: Any, literal: Literal) -> Any:
        """The date or time that a text says, as a scalar of ``kind``."""
        text, zone = self.pa.scalar(literal.value), getattr(kind, "tz", None)
        with suppress(self.pa.ArrowInvalid, self.pa.ArrowNotImplementedError):
            return text.cast(kind)
        with suppress(self.pa.ArrowInvalid):
            if zone:
                local = text.cast(self.pa.timestamp(kind.unit))
                return self.pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="earliest")
        advice = "it cannot be compared with a text"
        if self.pa.types.is_timestamp(kind):
            advice = f"write '2026-01-31' or '2026-01-31 18:30:00{'+02:00' if zone else ''}'"
        elif self.pa.types.is_date(kind):
            advice = "write a date as '2026-01-31'"
        return fail(self.text, literal.at, f"`{column.name}` is {kind}; {advice}")

    def _target(self, column: Column, kind: Any, literal: Literal) -> Any:
        """The type in which a column of ``kind`` and ``literal`` are compared."""
        wanted, given = self._sort(kind), self._sort_of(literal.value)
        if wanted == "text" and given != "text" and column.name in self.loose:
            return self.pa.bool_() if given == "boolean" else self.pa.float64()
        if wanted == "time" and given == "text":
            return kind
        if wanted != given:
            shown = f"'{literal.value}'" if given == "text" else str(literal.value).lower()
            hint = f"; write '{shown}' in single quotes" if wanted == "text" else ""
            fail(
                self.text,
                literal.at,
                f"`{column.name}` is {wanted} ({kind}) and cannot be compared with {shown}{hint}",
            )
        if wanted == "number":
            if isinstance(literal.value, float):
                return self.pa.float64()
            if self.pa.types.is_uint64(kind) or (self.pa.types.is_decimal(kind) and kind.scale == 0):
                return self.pa.decimal256(76, 0)
            return self.pa.int64() if self.pa.types.is_integer(kind) else self.pa.float64()
        return kind

    def _sort(self, kind: Any) -> str:
        types = self.pa.types
        if types.is_boolean(kind):
            return "boolean"
        if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
            return "number"
        if types.is_string(kind) or types.is_large_string(kind):
            return "text"
        return "time" if types.is_temporal(kind) else str(kind)

    def _sort_of(self, value: Constant) -> str:
        return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _apply(op: str, left: Any, right: Any) -> Any:
    match op:
        case "=":
            return left == right
        case "!=":
            return left != right
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case _:
            return left >= right
