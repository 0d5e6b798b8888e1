"""Templates: what they may say, what they may not, and that they are cheap."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanflow.templates import MAX_CHARS, Template, check_template, compile_template, unknown_names


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


def test_unknown_names_are_told_once_with_the_nearest_column() -> None:
    """``{{ prodct }}`` in the prompt is one error, not twenty thousand."""
    found = unknown_names(
        {"clip.prompt": "{{ prodct }} {{ product }}", "publish.path": "{{ xyz }}"},
        lambda place: ["product", "row"],
    )
    assert found == [
        "clip.prompt: there is no column `prodct`; did you mean `product`?",
        "publish.path: there is no column `xyz`; there are: product, row",
    ]


def test_a_name_that_a_template_sets_itself_needs_no_column() -> None:
    """``{% set %}`` is for names of one's own."""
    assert compile_template("{% set t = a|title %}{{ t }}").names == {"a"}


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
    """``matrix: {n: [1, true, 1.0]}``: equal in Python, three texts on the picture."""
    template = Template("{{ n|string }}")
    assert [template.render({"n": n}) for n in (1, True, 1.0, math.nan)] == ["1", "True", "1.0", ""]


def test_a_template_is_compiled_once() -> None:
    """Compiling costs a millisecond; a job mentions the same template in many places."""
    assert compile_template("{{ a }}-{{ b }}") is compile_template("{{ a }}-{{ b }}")


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=40) | st.integers() | st.none(), min_size=2)
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
