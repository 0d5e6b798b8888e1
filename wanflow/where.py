"""Which rows: the small language of ``manifest.where`` and ``--only``.

::

    OPTED_IN = true and (country in ('DE', 'AT') or not age < 18) and note is not null

Columns are bare names, or quoted as in SQL ("first name"); text is in single quotes ('it''s'). Operators: ``= == != <>
< <= > >=``, ``[not] in (...)``, ``is [not] null``, ``not``, ``and``, ``or``, parentheses. As in SQL, a comparison with a null
is neither true nor false, and a row is taken only when the whole is true.

:func:`parse_where` needs no table and says what is wrong with the text; :func:`compile_where` turns it into a
pyarrow expression for a schema and says what is wrong with columns and types. There are no functions and no arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NoReturn

from wanflow.errors import ManifestError
from wanflow.suggest import did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

MAX_CHARS = 10_000
MAX_DEPTH = 50

Constant = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    #: 0-based position in the text, for messages
    at: int = 0


@dataclass(frozen=True, slots=True)
class Literal:
    value: Constant
    at: int = 0


@dataclass(frozen=True, slots=True)
class Compare:
    left: Column | Literal
    op: str
    right: Column | Literal


@dataclass(frozen=True, slots=True)
class In:
    column: Column
    values: tuple[Literal, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class IsNull:
    column: Column
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    """A boolean column by itself, or ``true`` and ``false``."""

    operand: Column | Literal


@dataclass(frozen=True, slots=True)
class Not:
    part: Node


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Node, ...]


Node = Compare | In | IsNull | Truth | Not | And | Or

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")+"|`[^`]+`)
    | (?P<op><=|>=|<>|!=|==|=|<|>|\(|\)|,)
    | (?P<word>[^\W\d]\w*)
    )""",
    re.VERBOSE,
)
_KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})


def parse_where(text: str) -> Node:
    """The tree of ``text``; ValueError with the position when it is not one."""
    if len(text) > MAX_CHARS:
        raise ValueError(f"the condition is longer than {MAX_CHARS:,} characters")
    return _Parser(text).parse()


def columns_of(node: Node) -> frozenset[str]:
    """The columns that a condition reads."""
    return frozenset(column.name for column in _columns(node))


def compile_where(text: str, schema: pa.Schema, loose: Collection[str] = ()) -> pc.Expression:
    """``text`` as a pyarrow expression over ``schema``.

    ``loose`` names text columns whose text may stand for numbers and booleans (CSV, folders of a partitioned data
    set): those are converted when they are compared with one. Raises ManifestError with the position in the text.
    """
    try:
        return _Compiler(text, schema, frozenset(loose)).compile(parse_where(text))
    except ValueError as exc:
        raise ManifestError(str(exc)) from None


def _columns(node: Node) -> list[Column]:
    match node:
        case And(parts) | Or(parts):
            return [column for part in parts for column in _columns(part)]
        case Not(part):
            return _columns(part)
        case In(column, _, _) | IsNull(column, _):
            return [column]
        case Compare(left, _, right):
            return [side for side in (left, right) if isinstance(side, Column)]
        case Truth(operand):
            return [operand] if isinstance(operand, Column) else []


def _fail(text: str, at: int, problem: str) -> NoReturn:
    raise ValueError(f"`{text}`: {problem} (at character {at + 1})")


class _Parser:
    """Recursive descent over tokens: or, and, not, comparison."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text) and text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                open_quote = text[at] in "'\"`"
                _fail(text, at, "a quote is not closed" if open_quote else f"`{text[at]}` does not belong here")
            kind, value = match.lastgroup, match[match.lastgroup]
            if kind == "word" and value.lower() in _KEYWORDS:
                kind, value = "keyword", value.lower()
            self.tokens.append((kind, value, match.start(match.lastgroup)))
            at = match.end()
        self.next = 0
        self.depth = 0

    def parse(self) -> Node:
        if not self.tokens:
            _fail(self.text, 0, "the condition is empty; write column = value")
        node = self._any()
        if self.next < len(self.tokens):
            _, value, at = self.tokens[self.next]
            _fail(self.text, at, f"`{value}` does not belong here; join conditions with and, or")
        return node

    def _peek(self) -> tuple[str, str, int]:
        return self.tokens[self.next] if self.next < len(self.tokens) else ("end", "the end", len(self.text))

    def _take(self, *values: str) -> bool:
        kind, value, _ = self._peek()
        if kind in ("keyword", "op") and value in values:
            self.next += 1
            return True
        return False

    def _expect(self, value: str, what: str) -> None:
        if not self._take(value):
            _, found, at = self._peek()
            _fail(self.text, at, f"expected {what}, found `{found}`")

    def _any(self) -> Node:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Node:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            _fail(self.text, self._peek()[2], "too deeply nested")
        try:
            if self._take("not"):
                return Not(self._one())
            if self._take("("):
                inner = self._any()
                self._expect(")", "`)`")
                return inner
            return self._comparison()
        finally:
            self.depth -= 1

    def _comparison(self) -> Node:
        left = self._operand()
        if self._take("is"):
            negated = self._take("not")
            self._expect("null", "`null`")
            return IsNull(self._as_column(left, "is null"), negated)
        negated = self._take("not")
        if self._take("in"):
            self._expect("(", "`(` and a list of values")
            values = [self._literal()]
            while self._take(","):
                values.append(self._literal())
            self._expect(")", "`,` or `)`")
            return In(self._as_column(left, "in"), tuple(values), negated)
        if negated:
            _fail(self.text, self._peek()[2], "expected `in` after `not`")
        kind, op, _ = self._peek()
        if kind == "op" and op in ("=", "==", "!=", "<>", "<", "<=", ">", ">="):
            self.next += 1
            right = self._operand()
            return Compare(left, {"==": "=", "<>": "!="}.get(op, op), right)
        if isinstance(left, Literal) and not isinstance(left.value, bool):
            _fail(self.text, left.at, "a value alone is no condition; write column = value")
        return Truth(left)

    def _as_column(self, operand: Column | Literal, what: str) -> Column:
        if isinstance(operand, Literal):
            _fail(self.text, operand.at, f"`{what}` needs a column before it; text is in single quotes, columns are not")
        return operand

    def _literal(self) -> Literal:
        operand = self._operand()
        if isinstance(operand, Column):
            _fail(self.text, operand.at, f"expected a value, found the column `{operand.name}`; put text in single quotes")
        return operand

    def _operand(self) -> Column | Literal:
        kind, value, at = self._peek()
        self.next += 1
        if kind == "number":
            return Literal(float(value) if any(c in value for c in ".eE") else int(value), at)
        if kind == "text":
            return Literal(value[1:-1].replace("''", "'"), at)
        if kind == "quoted":
            return Column(value[1:-1].replace('""', '"') if value[0] == '"' else value[1:-1], at)
        if kind == "keyword" and value in ("true", "false"):
            return Literal(value == "true", at)
        if kind == "keyword" and value == "null":
            _fail(self.text, at, "nothing is equal to null; write `column is null`")
        if kind == "word":
            return Column(value, at)
        _fail(self.text, at, f"expected a column or a value, found `{value}`")


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
                null = self.pc.scalar(self.pa.scalar(None, self.pa.bool_()))  # isin() alone says false for null
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
            _fail(self.text, column.at, f"there is no column `{column.name}`; {hint}; text goes in single quotes")
        kind = self.schema.field(column.name).type
        field = self.pc.field(column.name)
        if self.pa.types.is_dictionary(kind):
            return field.cast(kind.value_type), kind.value_type
        if self.pa.types.is_decimal(kind):
            return field.cast(self.pa.float64()), self.pa.float64()
        return field, kind

    def _compare(self, left: Column | Literal, op: str, right: Column | Literal) -> Any:
        if isinstance(left, Literal) and isinstance(right, Literal):
            _fail(self.text, left.at, "compares two values; one side must be a column")
        if isinstance(left, Literal):
            flipped = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op, op)
            return self._compare(right, flipped, left)
        field, kind = self._field(left)
        if isinstance(right, Column):
            other, other_kind = self._field(right)
            if self._sort(kind) != self._sort(other_kind):
                _fail(self.text, left.at, f"`{left.name}` is {kind}, `{right.name}` is {other_kind}; they cannot be compared")
            return _apply(op, field, other)
        field, scalars = self._with_literals(left, field, kind, (right,))
        return _apply(op, field, self.pc.scalar(scalars[0]))

    def _with_literals(self, column: Column, field: Any, kind: Any, literals: tuple[Literal, ...]) -> tuple[Any, Any]:
        """The field, converted where it must be, and an array of the values in the field's type."""
        targets = [self._target(column, kind, literal) for literal in literals]
        if len(set(map(self._sort, targets))) > 1:
            _fail(self.text, column.at, f"`{column.name}` is compared with values of different kinds")
        target = self.pa.float64() if self.pa.float64() in targets else targets[0]
        values = self.pa.array([literal.value for literal in literals])
        return (field if target == kind else field.cast(target, safe=False)), values.cast(target)

    def _target(self, column: Column, kind: Any, literal: Literal) -> Any:
        """The type in which a column of ``kind`` and ``literal`` are compared."""
        wanted, given = self._sort(kind), self._sort_of(literal.value)
        if wanted == "text" and given != "text" and column.name in self.loose:
            return self.pa.bool_() if given == "boolean" else self.pa.float64()
        if wanted == "time" and given == "text":
            try:
                self.pa.scalar(literal.value).cast(kind)
            except self.pa.ArrowInvalid:
                _fail(self.text, literal.at, f"`{column.name}` is {kind}; write a date as '2026-01-31'")
            return kind
        if wanted != given:
            shown = f"'{literal.value}'" if given == "text" else str(literal.value).lower()
            hint = f"; write '{shown}' in single quotes" if wanted == "text" else ""
            _fail(self.text, literal.at, f"`{column.name}` is {wanted} ({kind}) and cannot be compared with {shown}{hint}")
        if wanted == "number":
            whole = isinstance(literal.value, int) and abs(literal.value) < 2**63
            exact = whole and self.pa.types.is_integer(kind) and not self.pa.types.is_uint64(kind)
            return self.pa.int64() if exact else self.pa.float64()
        return kind

    def _sort(self, kind: Any) -> str:
        types = self.pa.types
        if types.is_boolean(kind):
            return "boolean"
        if types.is_integer(kind) or types.is_floating(kind):
            return "number"
        if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
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
