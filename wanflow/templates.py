"""Templates: one line of text with a row's values in it, in sandboxed, strict Jinja2.

What may be written: ``{{ column }}``, expressions with filters, ``{% if %}`` and ``{% set %}``. There are no loops,
macros, includes or attributes; every text on the way to the result has at most :data:`MAX_CHARS`, every number is of
moderate size, and nesting ends at :data:`MAX_DEPTH`, so a template can neither reach into Python nor exhaust the
driver. Nothing is escaped: the result is text, not HTML.

How a row's values stand in a text, ``wanflow.written`` says.

A template made of text and plain names alone, or with filters of :data:`DIRECT` on texts, is joined directly, without
Jinja2's own machinery. What a row's values mean is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache, update_wrapper
from typing import Any, Final, NoReturn, TypeVar

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import SandboxedEnvironment

from wanflow.suggest import did_you_mean
from wanflow.written import NULL, plain, written

T = TypeVar("T")

#: a prompt has 512 tokens at most and a path 300 characters
MAX_CHARS = 20_000
_TOO_LONG = f"the text is longer than {MAX_CHARS:,} characters"
#: rendered texts that are remembered for each template with expressions
MAX_REMEMBERED = 20_000

#: of expressions and blocks in each other
MAX_DEPTH = 40
#: entries of a list that an expression makes; digits of round()
MAX_ITEMS = 10_000
MAX_DIGITS = 20

FILTERS = (
    "abs", "capitalize", "d", "default", "first", "float", "int", "join", "last", "length", "lower", "replace",
    "round", "string", "title", "trim", "truncate", "upper", "urlencode",
)  # fmt: skip
#: filters that take a text and nothing else
DIRECT = frozenset({"capitalize", "lower", "string", "title", "trim", "upper"})
#: filters that make a text of what they are given
_OF_TEXT = DIRECT | {"replace", "truncate"}
#: filters that look into a list or struct
_OF_LISTS = frozenset({"first", "join", "last", "length", "urlencode"})
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.Assign, nodes.Expr, nodes.Helper, nodes.Keyword,
)  # fmt: skip


class _Environment(SandboxedEnvironment):
    """Jinja2 with names, filters and arithmetic, and nothing else."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined, autoescape=False, finalize=written, keep_trailing_newline=True
        )
        self.globals.clear()
        self.filters = {name: _bounded(name, self.filters[name]) for name in FILTERS}
        self.filters[_TOGETHER] = _together

    def getattr(self, obj: Any, attribute: str) -> Any:
        if obj is NULL:
            return NULL
        if isinstance(obj, dict):  # a struct column
            return obj.get(attribute, self.undefined(obj=obj, name=attribute))
        raise SecurityError(f"`.{attribute}` is not available; use a filter, as in `{{{{ name|upper }}}}`")

    def getitem(self, obj: Any, argument: Any) -> Any:
        if obj is NULL:
            return NULL
        if isinstance(obj, dict | list | tuple | str):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                if isinstance(obj, list) and isinstance(argument, int):
                    return NULL  # another row's list is longer
                return self.undefined(obj=obj, name=argument)
        raise SecurityError(f"`[{argument}]` is not available here")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return _within(left + right)
        if isinstance(left, Decimal) and isinstance(right, float):
            left = float(left)
        if isinstance(right, Decimal) and isinstance(left, float):
            right = float(right)
        if operator in ("*", "**"):
            small = all(
                isinstance(side, int | float | Decimal) and -1e9 < side < 1e9 for side in (left, right)
            )
            if not small or (operator == "**" and right > 16):
                raise SecurityError(f"`{operator}` is for numbers of moderate size")
        if any(isinstance(side, str | bytes | list | tuple | dict) for side in (left, right)):
            raise SecurityError(f"`{operator}` is for numbers; texts are joined with ~")
        return super().call_binop(context, operator, left, right)


#: the filter that `~` becomes
_TOGETHER = "~"


def _together(parts: list[Any]) -> str:
    return _limited("".join([_limited(written(part)) for part in parts]))


def _within(value: Any) -> Any:
    """``value`` when it is small enough to go on with."""
    if isinstance(value, str | list | tuple | dict):
        if isinstance(value, str):
            _limited(value)
        elif len(value) > MAX_ITEMS:
            raise SecurityError(f"a list on the way is longer than {MAX_ITEMS:,}")
    return value


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that takes and gives small values only; what would be large is seen before it is made."""

    at = int(name in _WITH_ENVIRONMENT)

    def bounded(*given: Any, **named: Any) -> Any:
        environment, value, arguments = given[:at], _within(given[at]), given[at + 1 :]
        if name in _OF_TEXT or (name == "urlencode" and not isinstance(value, list | dict)):
            value = written(value)
        elif name == "join" and isinstance(value, list):
            value = [written(_within(part)) for part in value]
        elif name in ("first", "last") and value in ("", []):
            return NULL
        options = [*arguments, *named.values()]
        for option in options:
            _within(option)
        if name == "round" and any(isinstance(o, int | float) and abs(o) > MAX_DIGITS for o in options):
            raise SecurityError(f"round() has at most {MAX_DIGITS} digits")
        if name == "replace" and len(options) > 1:
            old, new = str(options[0]), str(options[1])
            if len(value) + (value.count(old) if old else len(value) + 1) * len(new) > 4 * MAX_CHARS:
                raise ValueError(_TOO_LONG)
        if name == "join" and isinstance(value, list):
            glue = max([len(o) for o in options if isinstance(o, str)], default=0)
            if sum(len(part) + glue for part in value) > 2 * MAX_CHARS:
                raise ValueError(_TOO_LONG)
        return _within(function(*environment, value, *arguments, **named))

    # how Jinja2 knows that a filter wants its environment or context first
    return update_wrapper(bounded, function)


#: filters whose first argument is Jinja2's environment or context
_WITH_ENVIRONMENT: Final = frozenset(
    name for name in FILTERS if hasattr(JINJA_FILTERS[name], "jinja_pass_arg")
)
_ENVIRONMENT: Final = _Environment()


class Template:
    """One compiled template. ``names`` are the names it needs from the row.

    ``constant`` is its text when it needs none, else None.
    """

    __slots__ = (
        "_name", "_parts", "_remembered", "_template", "bare_names", "constant", "embedded_names", "names", "text",
    )  # fmt: skip

    def __init__(self, text: str) -> None:
        tree = _parse(text)
        self.text = text
        self.names = frozenset(_guarded(text, lambda: find_undeclared_variables(tree)))
        #: columns whose whole value is shown, not something in it
        self.bare_names = _bare_names(tree)
        self.constant: str | None = None
        self._parts = _plain_parts(tree)
        is_plain = self._parts is not None and not any(filters for _, _, filters in self._parts)
        #: of a template that is one name and nothing else: that name
        self._name = self._parts[0][0] if is_plain and self._parts and len(self._parts) == 1 else None
        #: names that stand between words: where one is empty, there is a gap
        self.embedded_names = frozenset(
            name
            for name, _, _ in self._parts or ()
            if name and any(text.strip() for _, text, _ in self._parts or ())
        )
        self._template = None if is_plain else _guarded(text, lambda: _ENVIRONMENT.from_string(tree))
        self._remembered: dict[tuple[Any, ...], str] = {}
        if not self.names:
            self.constant = self.render({})

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for ``values``, which must have all of ``names``. ValueError says what cannot be done."""
        if self._name is not None:
            return _limited(_text(values[self._name]))
        if self.constant is not None:
            return self.constant
        texts = []
        for name, text, filters in self._parts or ():
            if name is not None:
                value = values[name]
                if value.__class__ is not str and self._template is not None:
                    break  # Jinja2 knows what its filters make of it
                text = _text(value)
                for each in filters:
                    text = each(_limited(text))
            texts.append(text)
        else:
            if self._parts is not None:
                return _limited("".join(texts))
        found = [plain(values[name]) for name in self.names]
        key = tuple(
            [(value.__class__, value) for value in found]
        )  # 1 and true are equal, and read differently
        try:
            known = self._remembered.get(key)
        except TypeError:  # a list or struct column cannot be remembered
            return self._evaluate(values)
        if known is None:
            known = self._evaluate(values)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = known
        return known

    def _evaluate(self, values: Mapping[str, Any]) -> str:
        assert self._template is not None
        context = {name: plain(values[name]) for name in self.names}
        pieces, length = [], 0
        try:
            for piece in self._template.generate(context):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_CHARS:
                    break
        except (TemplateError, ArithmeticError, TypeError, ValueError, AttributeError, LookupError) as exc:
            if str(exc) == _TOO_LONG:
                raise
            raise ValueError(f"template `{_short(self.text)}`: {exc}") from None
        return _limited("".join(pieces))


@lru_cache(maxsize=4096)
def compile_template(text: str) -> Template:
    """The compiled template of ``text``, made once. ValueError with the line when it is not one."""
    return Template(text)


def is_template(text: str) -> bool:
    """Whether ``text`` has anything to fill in."""
    return "{{" in text or "{%" in text or "{#" in text


def check_template(text: str) -> str:
    """``text`` itself when it is a valid template; ValueError otherwise."""
    compile_template(text)
    return text


def unknown_names(templates: Mapping[str, str], names: Collection[str]) -> list[str]:
    """One line for every name that a template uses and that is not among ``names``.

    ``templates`` is place (``clip.prompt``) to text.
    """
    return [
        f"{place}: there is no column `{name}`; {did_you_mean(name, names)}"
        for place, text in templates.items()
        for name in sorted(compile_template(text).names.difference(names))
    ]


def opaque_names(templates: Mapping[str, str], ways: Mapping[str, str]) -> list[str]:
    """One line for every list or struct that a template shows whole.

    ``templates`` is place to text; ``ways`` gives, of each column of lists or structs, how to get a value of it.
    """
    problems = []
    for place, text in templates.items():
        for name in sorted(compile_template(text).bare_names & ways.keys()):
            is_flat = ways[name] == f"{name}[0]"
            joined = f"join them, as in `{{{{ {name}|join(', ') }}}}`, or " if is_flat else ""
            one = f"take one, as in `{{{{ {ways[name]} }}}}`"
            problems.append(f"{place}: the column `{name}` has several values a row; {joined}{one}")
    return problems


def _text(value: Any) -> str:
    return value if value.__class__ is str else written(value)


def _limited(text: str) -> str:
    if len(text) > MAX_CHARS:
        raise ValueError(_TOO_LONG)
    return text


def _parse(text: str) -> nodes.Template:
    if len(text) > MAX_CHARS:
        raise ValueError(f"the template is longer than {MAX_CHARS:,} characters")

    def parse() -> nodes.Template:
        tree = _ENVIRONMENT.parse(text)
        _check_depth(tree)
        _check_nodes(tree)
        _join_within_limits(tree)
        _ENVIRONMENT.from_string(tree)  # unknown filters and tests are found when it is compiled
        return tree

    return _guarded(text, parse)


def _guarded(text: str, action: Callable[[], T]) -> T:
    """``action()``, which reads or compiles the template ``text``; ValueError says what is wrong with it."""
    try:
        return action()
    except TemplateSyntaxError as exc:
        where = f" in line {exc.lineno}" if "\n" in text.strip() else ""
        raise ValueError(
            f"template `{_short(text)}`: {exc.message}{where}{_filter_hint(exc.message or '')}"
        ) from None
    except (RecursionError, MemoryError, SyntaxError):
        raise ValueError(f"template `{_short(text)}`: too deeply nested") from None
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as exc:
        raise ValueError(f"template `{_short(text)}`: {exc}") from None


def _check_depth(tree: nodes.Template) -> None:
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise TemplateSyntaxError(f"nested more than {MAX_DEPTH} deep", node.lineno)
        waiting += [(child, depth + 1) for child in node.iter_child_nodes()]


def _join_within_limits(tree: nodes.Template) -> None:
    """``a ~ b`` becomes a filter, because Jinja2 lets nobody see that operator's operands."""

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(each) for each in value]
        if not isinstance(value, nodes.Node):
            return value
        for name in value.fields:
            setattr(value, name, changed(getattr(value, name)))
        if not isinstance(value, nodes.Concat):
            return value
        parts = nodes.List(value.nodes, lineno=value.lineno)
        return nodes.Filter(parts, _TOGETHER, [], [], None, None, lineno=value.lineno)

    changed(tree)
    tree.set_environment(_ENVIRONMENT)


def _check_nodes(tree: nodes.Template) -> None:
    for node in tree.find_all(nodes.Node):
        if isinstance(node, nodes.Call):
            _refuse(node, "a call; use a filter, as in `{{ name|upper }}`")
        if isinstance(node, nodes.Name) and node.name == "self":  # the only name that Jinja2 keeps to itself
            _refuse(node, "the name `self`; give the column another one (manifest.rename)")
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            _refuse(node, f"`.{node.attr}`")
        if not isinstance(node, _ALLOWED):
            _refuse(
                node,
                f"`{{% {type(node).__name__.lower()} %}}`; there are `if` and `set`, and `|join` for lists",
            )


def _refuse(node: nodes.Node, what: str) -> NoReturn:
    raise TemplateSyntaxError(f"a template cannot have {what}", node.lineno)


def _filter_hint(message: str) -> str:
    name = message.removeprefix("No filter named '").rstrip("'.") if message.startswith("No filter") else ""
    return f" {did_you_mean(name, FILTERS)}" if name else ""


def _plain_parts(
    tree: nodes.Template,
) -> tuple[tuple[str | None, str, tuple[Callable[[str], str], ...]], ...] | None:
    """(name or None, text, filters) pieces when there are only names with filters of DIRECT and text, else None."""
    parts: list[tuple[str | None, str, tuple[Callable[[str], str], ...]]] = []
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            if isinstance(node, nodes.TemplateData):
                parts.append((None, node.data, ()))
                continue
            filters: list[Callable[[str], str]] = []
            inner: nodes.Node | None = node
            while isinstance(inner, nodes.Filter) and inner.name in DIRECT:
                if inner.args or inner.kwargs or inner.dyn_args or inner.dyn_kwargs:
                    return None
                filters.insert(0, JINJA_FILTERS[inner.name])
                inner = inner.node
            if not isinstance(inner, nodes.Name):
                return None
            parts.append((inner.name, "", tuple(filters)))
    return tuple(parts) or ((None, "", ()),)


def _bare_names(tree: nodes.Template) -> frozenset[str]:
    set_here = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}
    shown = (node for output in tree.find_all(nodes.Output) for node in output.nodes)
    return frozenset(name for node in shown for name in _bare(node)) - set_here


def _bare(node: nodes.Node) -> Iterator[str]:
    """The names whose values an expression gives as they are, or as the text of them."""
    match node:
        case nodes.Name():
            yield node.name
        case nodes.Filter() if node.node is not None and node.name not in _OF_LISTS:
            yield from _bare(node.node)
        case nodes.CondExpr() | nodes.And() | nodes.Or() | nodes.List():
            for inner in node.iter_child_nodes(exclude=("test",)):
                yield from _bare(inner)


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


__all__ = [
    "FILTERS",
    "Template",
    "UndefinedError",
    "check_template",
    "compile_template",
    "is_template",
    "opaque_names",
    "unknown_names",
]
