"""Templates: what they may say, what they may not, and that they are cheap."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanflow.templates import (
    MAX_CHARS,
    Template,
    check_template,
    compile_template,
    opaque_names,
    unknown_names,
)


@pytest.mark.parametrize(
    ("text", "values", "result"),
    [
        ("{{ a }}", {"a": "x"}, "x"),
        ("{{ a }} on {{ b }}!", {"a": "x", "b": 3}, "x on 3!"),
        ("plain", {}, "plain"),
        ("", {}, ""),
        ("{{ a|upper }}, {{ b|default('none', true) }}", {"a": "x", "b": ""}, "X, none"),
        ("{% if a > 2 %}many{% else %}few{% endif %}", {"a": 3}, "many"),
        ("{% set n = a * 2 %}{{ n + 1 }}", {"a": 3}, "7"),
        ("{{ a|join(', ') }}", {"a": ["x", "y"]}, "x, y"),
        ("{{ a.name }} {{ a['size'] }}", {"a": {"name": "n", "size": 2}}, "n 2"),
        ("{{ a[:3] }}", {"a": "abcdef"}, "abc"),
        ("{{ a ~ b }}", {"a": 1, "b": 2}, "12"),
        ("{{ a }}\n", {"a": "x"}, "x\n"),
        ("{{ a }}", {"a": "<b>&amp;</b>"}, "<b>&amp;</b>"),
        ("{{ a }}", {"a": "{{ b }}"}, "{{ b }}"),
        ("{# note #}{{ a }}", {"a": "x"}, "x"),
    ],
)
def test_a_template_says_what_jinja_says(text: str, values: dict[str, object], result: str) -> None:
    """Marketing copies templates from the manual; values are text, never templates or HTML."""
    assert Template(text).render(values) == result


@pytest.mark.parametrize("text", ["{{ a }}", "-{{ a }}-", "{{ a|trim }}", "{% if a %}x{% endif %}"])
@pytest.mark.parametrize("null", [None, math.nan])
def test_null_is_the_empty_text(text: str, null: object) -> None:
    """A customer without a first name must not be greeted as "None"."""
    assert Template(text).render({"a": null}).strip("-") == ""


@pytest.mark.parametrize(
    "text",
    [
        "{{ a.__class__ }}",
        "{{ a['__class__'].__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ a|attr('__class__') }}",
        "{{ self.__init__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ a.upper() }}",
        "{{ range(10) }}",
        "{% for i in a %}{{ i }}{% endfor %}",
        "{% macro m() %}{% endmacro %}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
        "{{ a|map('upper')|list }}",
        "{{ a|center(1000000000) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ a|nosuch }}",
        "{{ a",
        "{{ }}",
        "{% if a %}",
        "{{ " + "(" * 500 + "a" + ")" * 500 + " }}",
        "x" * (MAX_CHARS + 1),
    ],
)
def test_a_template_that_reaches_further_is_refused_when_it_is_written(text: str) -> None:
    """A job file from a pull request must not run code on the driver, nor be found broken at row 19,000."""
    with pytest.raises(ValueError, match="template"):
        check_template(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ a * 1000000000000 }}", "numbers of moderate size"),
        ("{{ b * 10 }}", "numbers of moderate size"),
        ("{{ 9 ** 99999999 }}", "numbers of moderate size"),
        ("{{ b['__class__'] }}", "no attribute|not available|has no"),
        ("{{ a.real }}", "not available"),
        ("{{ a / 0 }}", "division by zero"),
        ("{{ b.nope }}", "not available"),
        ("{{ c.nope }}", "has no attribute 'nope'"),
        ("{{ b ~ b }}", "longer than"),
        ("{{ b }}{{ b }}", "longer than"),
    ],
)
def test_a_template_that_fails_on_a_row_says_why(text: str, words: str) -> None:
    """What only a value brings out is the row's error, in words, not the run's end."""
    with pytest.raises(ValueError, match=words):
        Template(text).render({"a": 3, "b": "x" * (MAX_CHARS - 1), "c": {"k": 1}})


@pytest.mark.parametrize(
    "text",
    [
        "{{ shop.city }}", "{{ shop['city'] }}", "{{ shop.address.city }}", "{{ tags[0] }}", "{{ tags[-1] }}",
        "{{ tags|first }}", "{{ tags|last|upper }}", "{{ shops[0].city }}", "{{ words[0][1] }}", "{{ tags[0][:3] }}",
        "{{ tags|join(', ') }}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("null", [None, math.nan, []])
def test_what_is_in_a_null_or_after_a_lists_end_is_empty(text: str, null: object) -> None:
    """A customer without a shop, or without a tag, gets a text without it, as one without a name does."""
    if null == [] and "shop" in text and "shops" not in text:
        null = {"city": None, "address": None}
    assert Template(f"-{text}-").render(dict.fromkeys(["shop", "tags", "shops", "words"], null)) == "--"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ shop.town }}", "has no attribute 'town'"),
        ("{{ shop.town.name }}", "not available"),
        ("{{ ''['__class__'] }}", "has no attribute '__class__'"),
        ("{{ name.first }}", "`.first` is not available"),
        ("{{ ''.first }}", "`.first` is not available"),
        ("{{ name[9] }}", "has no element 9"),
        ("{{ tags.first }}", "`.first` is not available"),
        ("{{ tags['a'] }}", "has no attribute 'a'|has no element"),
    ],
)
def test_what_no_row_can_have_is_an_error(text: str, words: str) -> None:
    """A slip of the pen must not be an empty text on twenty thousand ads."""
    with pytest.raises(ValueError, match=words):
        Template(text).render({"shop": {"city": "Ulm"}, "name": "Anna", "tags": []})


def test_unknown_names_are_told_once_with_the_nearest_column() -> None:
    """``{{ prodct }}`` in the prompt is one error, not twenty thousand."""
    found = unknown_names(
        {"clip.prompt": "{{ prodct }} {{ product }}", "publish.path": "{{ xyz }}"},
        ["product", "row"],
    )
    assert found == [
        "clip.prompt: there is no column `prodct`; did you mean `product`?",
        "publish.path: there is no column `xyz`; there are: product, row",
    ]


def test_a_name_that_a_template_sets_itself_needs_no_column() -> None:
    """``{% set %}`` is for names of one's own."""
    assert compile_template("{% set t = a|title %}{{ t }}").names == {"a"}


@pytest.mark.parametrize(
    "text",
    ["{{ self }}", "{{ self|upper }}", "{% set self = 1 %}{{ self }}", "{{ a }}{% if self %}x{% endif %}"],
)
def test_the_one_name_that_is_jinjas_own_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"a template cannot have the name `self`; give the column another one"
    ):
        check_template(text)


@pytest.mark.parametrize(
    "name",
    ["loop", "super", "caller", "varargs", "kwargs", "context", "environment", "range", "dict", "namespace"],
)
@pytest.mark.parametrize("text", ["{{ %s }}", "{{ %s ~ '' }}", "{%% set y = %s %%}{{ y }}"])
def test_names_that_mean_something_in_other_templates_are_columns_here(name: str, text: str) -> None:
    template = Template(text % name)
    assert template.names == {name}
    assert template.render({name: "x"}) == "x"


def test_plain_names_never_reach_jinja() -> None:
    """Twenty thousand rows times eight templates are read every night: the usual template is a join of strings."""
    assert Template("{{ a }}, {{ b }}")._template is None
    assert Template("{{ a }}")._template is None
    assert Template("{{ a|upper }}")._template is not None


def test_a_template_with_expressions_is_evaluated_once_for_equal_values() -> None:
    """A thousand customers of one product share its prompt; so do they share its rendering."""
    calls = []

    class Counted(str):
        __slots__ = ()

        def upper(self) -> str:
            calls.append(self)
            return super().upper()

    template = Template("{{ product|upper }}")
    for i in range(1000):
        assert template.render({"product": Counted(f"p{i % 4}")}) == f"P{i % 4}"
    assert len(calls) == 4


def test_equal_values_that_read_differently_stay_apart() -> None:
    """``matrix: {n: [1, true, 1.0]}``: equal in Python, two texts on the picture."""
    template = Template("{{ n|string }}")
    assert [template.render({"n": n}) for n in (1, True, 1.0, math.nan)] == ["1", "True", "1", ""]


BERLIN = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (20.0, "20"),
        (-0.0, "0"),
        (19.9, "19.9"),
        (2.0**53 - 1, "9007199254740991"),
        (1e300, "1e+300"),
        (Decimal("20"), "20"),
        (Decimal("20.00"), "20.00"),
        (Decimal("19.90"), "19.90"),
        (Decimal("20.5"), "20.5"),
        (Decimal("19.9000000000"), "19.90"),
        (Decimal("0E-10"), "0.00"),
        (Decimal("-0.1250"), "-0.125"),
        (date(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 31, 18, 30, 5, 7, tzinfo=BERLIN), "2026-01-31 18:30:05"),
        (b"Sommer", "Sommer"),
    ],
)
@pytest.mark.parametrize(
    "template",
    [
        "{{ a }}",
        "{{ a|string }}",
        "{{ a|trim }}",
        "{{ a|truncate }}",
        "{{ a|replace('x', 'y') }}",
        "{{ a ~ '' }}",
        "{{ [a]|join }}",
        "{{ l|join }}",
        "{{ l[0] }}",
        "{{ s.b }}",
        "{% if true %}{{ a }}{% endif %}",
    ],
)
def test_a_value_is_shown_as_people_write_it(template: str, value: object, text: str) -> None:
    """ "20.0% off" and b'Sommer' were on every ad of a night, and no check could have said so."""
    assert Template(template).render({"a": value, "l": [value], "s": {"b": value}}) == text


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{ off * 2 }}", "40"),
        ("{{ off / 3 * 3 }}", "20"),
        ("{{ 100 - off }}", "80"),
        ("{{ price * 2 }}", "39.80"),
        ("{{ price + 1 }}", "20.90"),
        ("{{ (price * 1.5)|round(2) }}", "29.85"),
        ("{{ 1.5 + price }}", "21.4"),
        ("{{ price|int }}", "19"),
        ("{{ price|round(1) }}", "19.9"),
        ("{{ price|urlencode }}", "19.90"),
        ("{% if price > 9.5 and off == 20 %}x{% endif %}", "x"),
        ("{{ day[8:10] }}.{{ day[5:7] }}.", "31.01."),
        ("{% if day >= '2026-01-31' %}x{% endif %}", "x"),
    ],
)
def test_an_expression_gets_numbers_whatever_wrote_them(text: str, result: str) -> None:
    """Half of the price, the day of a date: columns are floats in pandas and decimals in Snowflake."""
    row = {"off": 20.0, "price": Decimal("19.9000"), "day": date(2026, 1, 31)}
    assert Template(text).render(row) == result


@pytest.mark.parametrize(
    "text",
    ["{{ a }}", "x {{ a }}", "{{ a|upper }}", "{{ a ~ '!' }}", "{% set t = a %}{{ t }}", "{{ b[0] }}"],
)
@pytest.mark.parametrize(("value", "what"), [(["x", "y"], "a list has no"), ({"k": 1}, "a struct has no")])
def test_a_list_or_struct_is_never_shown_whole(text: str, value: object, what: str) -> None:
    """``['a', 'b']`` is Python's way to write it, and nobody's headline."""
    with pytest.raises(ValueError, match=what):
        Template(text).render({"a": value, "b": [value]})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{{ a }} {{ b|upper|trim }}", {"a", "b"}),
        ("{{ a ~ b }}{{ c|default('x') }}", {"a", "b", "c"}),
        ("{{ a if b else c }}{{ d or e }}", {"a", "c", "d", "e"}),
        ("{{ a[0] }}{{ b.c }}{{ c|join(', ')|upper }}{{ d|first|trim }}{{ e|length }}", set()),
        ("{% if a %}x{% endif %}{% set c = b %}{{ a == b }}", set()),
        ("{% set a = a|join %}{{ a }}{{ b }}", {"b"}),
    ],
)
def test_names_that_are_shown_whole_are_known_before_any_row(text: str, names: set[str]) -> None:
    """So that a list in a headline is one error, and not one a row."""
    assert compile_template(text).bare_names == names


def test_a_list_that_is_shown_whole_is_told_with_what_to_write() -> None:
    found = opaque_names(
        {"clip.prompt": "{{ tags }} {{ shop }} {{ name }}", "layers.0.text.value": "{{ offers }}"},
        {"tags": "tags[0]", "shop": "shop.city", "offers": "offers[0].price"},
    )
    assert found == [
        "clip.prompt: the column `shop` has several values a row; take one, as in `{{ shop.city }}`",
        "clip.prompt: the column `tags` has several values a row; join them, as in `{{ tags|join(', ') }}`, "
        "or take one, as in `{{ tags[0] }}`",
        "layers.0.text.value: the column `offers` has several values a row; take one, as in "
        "`{{ offers[0].price }}`",
    ]


def test_a_template_is_compiled_once() -> None:
    """Compiling costs a millisecond; a job mentions the same template in many places."""
    assert compile_template("{{ a }}-{{ b }}") is compile_template("{{ a }}-{{ b }}")


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b"]),
        st.text(max_size=40)
        | st.integers()
        | st.none()
        | st.floats()
        | st.datetimes()
        | st.decimals(allow_nan=False, allow_infinity=False, places=4),
        min_size=2,
    )
)
def test_the_short_cut_and_jinja_agree(values: dict[str, object]) -> None:
    """The fast path for plain names is an optimisation, so it may not be seen."""
    fast, slow = Template("<{{ a }}|{{ b }}>"), Template("{% if true %}<{{ a }}|{{ b }}>{% endif %}")
    assert slow._template is not None
    assert fast.render(values) == slow.render(values)


@pytest.mark.parametrize(
    "text", ["{{ a|trim }}", "x {{ a|lower|title }} {{ b }}", "{{ b|string|capitalize|upper }}!"]
)
def test_filters_that_are_applied_directly_give_what_jinja2_gives(text: str) -> None:
    """Most rows have texts, and most templates a filter at most: they go past Jinja2, and nobody must notice."""
    values = [
        "",
        " Ann  Lee ",
        "ÄÖß straße",
        "o'neil-smith",
        "\u00a0x\u2003",
        "<b>&amp;</b>",
        "ǆ ﬁ İ",
        7,
        None,
        2.5,
        True,
    ]
    for a in values:
        for b in values:
            row = {"a": a, "b": b}
            template = Template(text)
            assert template.render(row) == template._evaluate(row), row
    with pytest.raises(ValueError, match="longer than"):
        Template(text).render({"a": "a" * 20_001, "b": "b" * 20_001})
