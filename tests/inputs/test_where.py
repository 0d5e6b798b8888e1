"""The language of ``where`` and ``--only``, against an oracle in plain Python with SQL's three-valued logic."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanflow.errors import ManifestError
from wanflow.manifest.conditions import compile_where
from wanflow.where import (
    MAX_CHARS,
    And,
    Column,
    Compare,
    In,
    IsNull,
    Literal,
    Node,
    Not,
    Or,
    Truth,
    columns_of,
    parse_where,
)

TABLE = pa.table(
    {
        "n": pa.array([1, 2, None, -3], pa.int32()),
        "f": pa.array([1.0, 2.5, None, -3.0]),
        "s": pa.array(["a", "it's", None, ""]),
        "b": pa.array([True, False, None, True]),
        "first name": pa.array(["x", "y", "z", None]),
        "d": pa.array(
            [datetime.date(2026, 1, 1), datetime.date(2026, 6, 1), None, datetime.date(2027, 1, 1)]
        ),
        "c": pa.array(["a", "b", "a", None]).dictionary_encode(),
        "t": pa.array(["1", "true", None, "2.5"]),
    }
)


def rows(text: str, table: pa.Table = TABLE, loose: tuple[str, ...] = ()) -> list[int]:
    numbered = table.append_column("#", pa.array(range(table.num_rows)))
    found: list[int] = numbered.filter(compile_where(text, table.schema, loose)).column("#").to_pylist()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n = 1", [0]),
        ("n == 1 or n = 2", [0, 1]),
        ("n <> 1", [1, 3]),
        ("n >= 1.5", [1]),
        ("2 > n", [0, 3]),
        ("n = f", [0, 3]),
        ("not n = 1", [1, 3]),
        ("n is null", [2]),
        ("n is not null", [0, 1, 3]),
        ("n in (1, 2)", [0, 1]),
        ("n not in (1, 2)", [3]),
        ("not (n in (1, 2.0))", [3]),
        ("s = 'it''s'", [1]),
        ("s = ''", [3]),
        ("b", [0, 3]),
        ("not b", [1]),
        ("b = true AND n = 1", [0]),
        ("b = false Or (s = 'a' and n < 5)", [0, 1]),
        ("n = 1 or n = 2 and b = true", [0]),
        ("\"first name\" = 'y'", [1]),
        ("`first name` in ('x', 'z')", [0, 2]),
        ("d < '2026-03-01'", [0]),
        ("c = 'a'", [0, 2]),
        ("c in ('b', 'q')", [1]),
        ("true", [0, 1, 2, 3]),
        ("n = 99999999999999999999", []),
        ("n < 1e300", [0, 1, 3]),
        ("f > -4", [0, 1, 3]),
        ("s >= 'b'", [1]),
    ],
)
def test_a_condition_takes_the_rows_that_sql_would(text: str, expected: list[int]) -> None:
    """Whoever writes ``where`` has written it in the warehouse a hundred times."""
    assert rows(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the condition is empty"),
        ("n =", r"expected a column or a value, found `the end` \(at character 4\)"),
        ("n = 1 n = 2", r"`n` does not belong here; join conditions with and, or \(at character 7\)"),
        ("(n = 1", r"expected `\)`, found `the end`"),
        ("n = 1)", r"`\)` does not belong here"),
        ("s = 'a", r"a quote is not closed \(at character 5\)"),
        ("n = 1; drop table x", r"`;` does not belong here \(at character 6\)"),
        ("n in ()", "expected a column or a value"),
        ("n in (s)", "expected a value, found the column `s`; put text in single quotes"),
        ("n is 3", "expected `null`"),
        ("n = null", "nothing is equal to null; write `column is null`"),
        ("n not 3", "expected `in` after `not`"),
        ("5", "a value alone is no condition"),
        ("'a' in ('a')", "`in` needs a column before it"),
        ("1 = 1", "compares two values"),
        ("m = 1", r"there is no column `m`; .*\(at character 1\)"),
        ("firstname = 'a'", "did you mean `first name`"),
        ('s = "DE"', "there is no column `DE`.*text goes in single quotes"),
        ("n = 'a'", r"`n` is number \(int32\) and cannot be compared with 'a'"),
        ("s = 1", r"`s` is text \(string\) and cannot be compared with 1; write '1' in single quotes"),
        ("b = 'true'", "`b` is boolean"),
        ("n = s", "`n` is int32, `s` is string"),
        ("n", "`n` is number"),
        ("d = 'soon'", "write a date as '2026-01-31'"),
        ("n = 1.2.3", "does not belong here"),
        ("(" * 200 + "n = 1" + ")" * 200, "too deeply nested"),
        ("not " * 200 + "b", "too deeply nested"),
        ("n = 1 " + "or n = 1 " * 2000, "longer than"),
        ("upper(s) = 'A'", "does not belong here"),
    ],
)
def test_a_mistake_is_answered_with_its_position(text: str, words: str) -> None:
    """A filter that is wrong must end the run before it renders the wrong half of the customers."""
    with pytest.raises(ManifestError, match=words):
        rows(text)


PRICES = [Decimal(n).scaleb(-2) for n in range(20_000)]


@pytest.mark.parametrize("kind", [pa.decimal128(10, 2), pa.decimal256(60, 4), pa.decimal64(18, 2)])
def test_a_decimal_is_equal_to_the_number_of_its_digits(kind: pa.DataType) -> None:
    """Prices are decimals in a warehouse, and 0.35 is one of them."""
    table = pa.table({"price": pa.array(PRICES, kind), "same": pa.array(map(float, PRICES))})
    assert rows("price = same", table) == [*range(20_000)]
    for price in (35, 495, 1990):
        text = f"{PRICES[price]}"
        assert rows(f"price = {text}", table) == rows(f"price in ({text})", table) == [price]
        assert len(rows(f"price <= {text}", table)) == len(rows(f"{text} > price", table)) + 1 == price + 1
    assert rows("price = 20", table) == [2000]


@pytest.mark.parametrize("kind", [pa.decimal128(38, 0), pa.decimal256(76, 0), pa.uint64(), pa.int64()])
def test_whole_numbers_are_compared_to_the_last_digit(kind: pa.DataType) -> None:
    """Ids of a warehouse are decimals without places; a float holds 2**53 of them."""
    ids = pa.table({"id": pa.array([2**53, 2**53 + 1, None], pa.decimal128(38, 0)).cast(kind)})
    assert rows("id = 9007199254740993", ids) == rows("id > 9007199254740992", ids) == [1]
    assert rows("id in (9007199254740993, 1)", ids) == [1]
    assert rows("id not in (9007199254740993)", ids) == [0]


def test_text_of_a_csv_is_compared_as_what_it_is_compared_with() -> None:
    """``OPTED_IN = true`` must hold for a CSV as it does for Parquet, where the column is a boolean."""
    table = pa.table({"t": ["1", "true", "false", None], "n": ["7", "07", "8.0", None]})
    assert rows("t = true", table, ("t",)) == [0, 1]
    assert rows("n = 7", table, ("n",)) == [0, 1]
    assert rows("n in (7, 8)", table, ("n",)) == [0, 1, 2]
    assert rows("n = '07'", table, ("n",)) == [1]


def test_numbers_of_a_csv_are_compared_as_its_rows_read_them() -> None:
    """A comma of a spreadsheet, and the spaces that a column was lined up with. ``1,500`` may be either number."""
    table = pa.table({"seconds": ["1,5", " 10 ", "9.0", None], "most": ["2", "9", "9", "9"]})
    loose = ("seconds", "most")
    assert rows("seconds > 1.4 and seconds < 9.5", table, loose) == [0, 2]
    assert rows("most >= 9 and seconds in (9, 10)", table, loose) == [1, 2]
    assert rows("seconds <= most", table, loose) == [0, 2]
    assert rows("seconds is null", table, loose) == [3]
    with pytest.raises(pa.ArrowInvalid, match="1,500"):
        rows("seconds > 2", pa.table({"seconds": ["1,500"]}), loose)


UTC_AND_BERLIN = pa.table(
    {
        "u": pa.array(["2026-01-30T23:30:00Z", "2026-01-31T00:00:00Z", None]).cast(pa.timestamp("us", "UTC")),
        "b": pa.array(["2026-01-30T23:30:00Z", "2026-01-30T22:30:00Z", None]).cast(
            pa.timestamp("ms", "Europe/Berlin")
        ),
        "h": pa.array([datetime.time(18, 30), None, None]),
        "local": pa.array([datetime.datetime(2026, 1, 31, 18, 30), None, None]),
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u >= '2026-01-31'", [1]),
        ("u < '2026-01-31'", [0]),
        ("u = '2026-01-31 00:00:00'", [1]),
        ("u in ('2026-01-31', '2026-01-30 23:30')", [0, 1]),
        ("b >= '2026-01-31'", [0]),
        ("b >= '2026-01-30 23:30'", [0, 1]),
        ("b >= '2026-01-31 00:00:00+00:00'", []),
        ("u >= '2026-01-31T00:00:00+01:00'", [0, 1]),
        ("b >= '2026-03-29 02:30:00'", []),
        ("local >= '2026-01-31'", [0]),
    ],
)
def test_a_day_is_one_of_the_columns_time_zone(text: str, expected: list[int]) -> None:
    """Spark writes every time as UTC; pandas keeps Europe/Berlin. An hour that summer time leaves out is no error."""
    assert rows(text, UTC_AND_BERLIN) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("u > 'soon'", r"write '2026-01-31' or '2026-01-31 18:30:00\+02:00'"),
        ("local > '2026-01-31 18:30:00Z'", "write '2026-01-31' or '2026-01-31 18:30:00' "),
        ("h > '18:30'", "`h` is time64.*; it cannot be compared with a text"),
    ],
)
def test_a_moment_that_cannot_be_read_is_answered_with_one_that_can(text: str, words: str) -> None:
    """The answer must not be what was written."""
    with pytest.raises(ManifestError, match=words):
        rows(text, UTC_AND_BERLIN)


def test_many_values_in_a_list_are_no_deep_tree() -> None:
    """A list of a thousand customers is pasted into --only now and then."""
    assert rows("n in (" + ", ".join(map(str, range(1, 1500))) + ")") == [0, 1]


def test_columns_are_known_without_a_table() -> None:
    """Only the columns that are needed are read from the store."""
    assert columns_of(parse_where("a = 1 and (b in ('x') or not c is null) and d")) == {"a", "b", "c", "d"}


constants = st.integers(-5, 5) | st.sampled_from([0.5, 2.5, -3.0])
leaves: st.SearchStrategy[Node] = st.one_of(
    st.builds(
        Compare, st.sampled_from([Column("n"), Column("f")]), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.builds(Literal, constants) | st.sampled_from([Column("n"), Column("f")]),
    ),
    st.builds(Compare, st.just(Column("s")), st.sampled_from(["=", "!=", "<", ">"]),
              st.builds(Literal, st.sampled_from(["a", "it's", "", "z\"`"]))),
    st.builds(In, st.sampled_from([Column("n"), Column("f")]),
              st.lists(st.builds(Literal, constants), min_size=1, max_size=3).map(tuple), st.booleans()),
    st.builds(IsNull, st.sampled_from([Column("n"), Column("s"), Column("first name")]), st.booleans()),
    st.builds(Truth, st.just(Column("b"))),
)  # fmt: skip
trees: st.SearchStrategy[Node] = st.recursive(
    leaves,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


def written(node: Node | Column | Literal) -> str:
    """A tree as text, every part in parentheses."""
    match node:
        case Column(name):
            return f'"{name}"' if " " in name else name
        case Literal(value):
            return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
        case Compare(left, op, right):
            return f"{written(left)} {op} {written(right)}"
        case In(column, values, negated):
            return f"{written(column)} {'not ' if negated else ''}in ({', '.join(map(written, values))})"
        case IsNull(column, negated):
            return f"{written(column)} is {'not ' if negated else ''}null"
        case Truth(operand):
            return written(operand)
        case Not(part):
            return f"not ({written(part)})"
        case And(parts):
            return " AND ".join(f"({written(part)})" for part in parts)
        case Or(parts):
            return " or ".join(f"({written(part)})" for part in parts)


def truth(node: Node, row: dict[str, Any]) -> bool | None:
    """SQL's three-valued logic: the oracle."""
    match node:
        case Compare(left, op, right):
            a, b = (row[x.name] if isinstance(x, Column) else x.value for x in (left, right))
            if a is None or b is None:
                return None
            return {"=": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op]
        case In(column, values, negated):
            if row[column.name] is None:
                return None
            return (row[column.name] in [v.value for v in values]) != negated
        case IsNull(column, negated):
            return (row[column.name] is None) != negated
        case Truth(operand):
            value = row[operand.name] if isinstance(operand, Column) else operand.value
            return value if value is None else bool(value)
        case Not(part):
            inner = truth(part, row)
            return None if inner is None else not inner
        case And(parts):
            found = [truth(part, row) for part in parts]
            return False if False in found else None if None in found else True
        case Or(parts):
            found = [truth(part, row) for part in parts]
            return True if True in found else None if None in found else False


@settings(max_examples=200, deadline=None)
@given(trees)
def test_every_condition_takes_exactly_the_rows_where_it_is_true(tree: Node) -> None:
    """Nulls are where filters go wrong, and a wrong filter mails the wrong people."""
    expected = [i for i, row in enumerate(TABLE.to_pylist()) if truth(tree, row) is True]
    assert rows(written(tree)) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40) | st.text("no1 ='()<>,andris", max_size=40))
def test_any_text_is_a_condition_or_an_error_in_words(text: str) -> None:
    """``--only`` is typed by hand."""
    assert len(text) <= MAX_CHARS
    try:
        parse_where(text)
    except ValueError as exc:
        problem = str(exc)
    else:
        problem = "at character"
    assert "at character" in problem
