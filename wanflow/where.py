"""Which rows: the small language of ``manifest.where`` and ``--only``.

::

    OPTED_IN = true and (country in ('DE', 'AT') or not age < 18) and note is not null

Columns are bare names, or quoted as in SQL ("first name"); text is in single quotes ('it''s'). Operators: ``= == !=
<> < <= > >=``, ``[not] in (...)``, ``is [not] null``, ``not``, ``and``, ``or``, parentheses. As in SQL, a
comparison with a null is neither true nor false, and a row is taken only when the whole is true. There are no
functions and no arithmetic.

Here the text becomes a tree; ``wanflow.manifest.conditions`` makes of a tree what pyarrow evaluates. Knows no
table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

MAX_CHARS = 10_000
MAX_DEPTH = 50
#: conditions that one `and` or `or` joins
MAX_PARTS = 500
MAX_DIGITS = 300

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


def fail(text: str, at: int, problem: str) -> NoReturn:
    if len(text) > 200:
        text = f"...{text[max(0, at - 90) : at + 90]}..."
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
                fail(
                    text, at, "a quote is not closed" if open_quote else f"`{text[at]}` does not belong here"
                )
            kind, value = match.lastgroup, match[match.lastgroup]
            if kind == "word" and value.lower() in _KEYWORDS:
                kind, value = "keyword", value.lower()
            self.tokens.append((kind, value, match.start(match.lastgroup)))
            at = match.end()
        self.next = 0
        self.depth = 0

    def parse(self) -> Node:
        if not self.tokens:
            fail(self.text, 0, "the condition is empty; write column = value")
        node = self._any()
        if self.next < len(self.tokens):
            _, value, at = self.tokens[self.next]
            fail(self.text, at, f"`{value}` does not belong here; join conditions with and, or")
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
            fail(self.text, at, f"expected {what}, found `{found}`")

    def _any(self) -> Node:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        self._check_number(parts)
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Node:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        self._check_number(parts)
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _check_number(self, parts: list[Node]) -> None:
        if len(parts) > MAX_PARTS:
            fail(self.text, 0, f"joins {len(parts)} conditions; at most {MAX_PARTS}, use `column in (...)`")

    def _one(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            fail(self.text, self._peek()[2], "too deeply nested")
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
            fail(self.text, self._peek()[2], "expected `in` after `not`")
        kind, op, _ = self._peek()
        if kind == "op" and op in ("=", "==", "!=", "<>", "<", "<=", ">", ">="):
            self.next += 1
            right = self._operand()
            return Compare(left, {"==": "=", "<>": "!="}.get(op, op), right)
        if isinstance(left, Literal) and not isinstance(left.value, bool):
            fail(self.text, left.at, "a value alone is no condition; write column = value")
        return Truth(left)

    def _as_column(self, operand: Column | Literal, what: str) -> Column:
        if isinstance(operand, Literal):
            fail(
                self.text,
                operand.at,
                f"`{what}` needs a column before it; text is in single quotes, columns are not",
            )
        return operand

    def _literal(self) -> Literal:
        operand = self._operand()
        if isinstance(operand, Column):
            fail(
                self.text,
                operand.at,
                f"expected a value, found the column `{operand.name}`; put text in single quotes",
            )
        return operand

    def _operand(self) -> Column | Literal:
        kind, value, at = self._peek()
        self.next += 1
        if kind == "number":
            if len(value) > MAX_DIGITS:
                fail(self.text, at, f"a number has at most {MAX_DIGITS} characters")
            whole = not any(c in value for c in ".eE") and abs(int(value)) < 2**63
            return Literal(int(value) if whole else float(value), at)
        if kind == "text":
            return Literal(value[1:-1].replace("''", "'"), at)
        if kind == "quoted":
            return Column(value[1:-1].replace('""', '"') if value[0] == '"' else value[1:-1], at)
        if kind == "keyword" and value in ("true", "false"):
            return Literal(value == "true", at)
        if kind == "keyword" and value == "null":
            fail(self.text, at, "nothing is equal to null; write `column is null`")
        if kind == "word":
            return Column(value, at)
        fail(self.text, at, f"expected a column or a value, found `{value}`")
