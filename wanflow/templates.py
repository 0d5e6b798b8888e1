"""Templates: one line of text with a row's values in it, in sandboxed, strict Jinja2.

What may be written: ``{{ column }}``, expressions with filters, ``{% if %}`` and ``{% set %}``. There are no loops,
macros, includes or attributes, no filter that can blow a text up, and no more than :data:`MAX_CHARS` of result, so
a template can neither reach into Python nor exhaust the driver. Nothing is escaped: the result is text, not HTML. A
null (and a NaN) is the empty text.

A template made of text and plain names alone is joined directly, without Jinja2. What a row's values mean is not
known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NoReturn

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, nodes
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import SandboxedEnvironment

from wanflow.suggest import did_you_mean

#: a prompt has 512 tokens at most and a path 300 characters
MAX_CHARS = 20_000
#: rendered texts that are remembered for each template with expressions
MAX_REMEMBERED = 20_000

FILTERS = (
    "abs", "capitalize", "d", "default", "first", "float", "int", "join", "last", "length", "lower", "replace",
    "round", "string", "title", "trim", "truncate", "upper", "urlencode",
)  # fmt: skip
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.Assign, nodes.Expr, nodes.Helper, nodes.Keyword,
)  # fmt: skip


class _Environment(SandboxedEnvironment):
    """Jinja2 with names, filters and arithmetic, and nothing else."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined, autoescape=False, finalize=_shown, keep_trailing_newline=True
        )
        self.globals.clear()
        self.filters = {name: self.filters[name] for name in FILTERS}

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict):  # a struct column
            return obj.get(attribute, self.undefined(obj=obj, name=attribute))
        raise SecurityError(f"`.{attribute}` is not available; use a filter, as in `{{{{ name|upper }}}}`")

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, dict | list | tuple | str):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                return self.undefined(obj=obj, name=argument)
        raise SecurityError(f"`[{argument}]` is not available here")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(side, int | float) and abs(side) < 1e9 for side in (left, right)) or (
            operator == "**" and right > 16
        ):
            raise SecurityError(f"`{operator}` is for numbers of moderate size")
        return super().call_binop(context, operator, left, right)


def _shown(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


_ENVIRONMENT: Final = _Environment()


class Template:
    """One compiled template. ``names`` are the names it needs from the row.

    ``constant`` is its text when it needs none, else None.
    """

    __slots__ = ("_name", "_parts", "_remembered", "_template", "constant", "names", "text")

    def __init__(self, text: str) -> None:
        tree = _parse(text)
        self.text = text
        self.names = frozenset(find_undeclared_variables(tree))
        self.constant: str | None = None
        self._parts = _plain_parts(tree)
        #: of a template that is one name and nothing else: that name
        self._name = self._parts[0][0] if self._parts is not None and len(self._parts) == 1 else None
        self._template = None if self._parts is not None else _ENVIRONMENT.from_string(tree)
        self._remembered: dict[tuple[Any, ...], str] = {}
        if not self.names:
            self.constant = self.render({})

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for ``values``, which must have all of ``names``. ValueError says what cannot be done."""
        if self._name is not None:
            return _limited(_text(values[self._name]))
        if self.constant is not None:
            return self.constant
        if self._parts is not None:
            return _limited(
                "".join([part if name is None else _text(values[name]) for name, part in self._parts])
            )
        shown = [_shown(values[name]) for name in self.names]
        key = tuple(
            [(value.__class__, value) for value in shown]
        )  # 1, 1.0 and true are equal, and read differently
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
        context = {name: _shown(values[name]) for name in self.names}
        pieces, length = [], 0
        try:
            for piece in self._template.generate(context):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_CHARS:
                    break
        except (TemplateError, ArithmeticError, TypeError, ValueError, AttributeError, LookupError) as exc:
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


def unknown_names(templates: Mapping[str, str], names: Callable[[str], Iterable[str]]) -> list[str]:
    """One line for every name that a template uses and that its place does not have.

    ``templates`` is place (``clip.prompt``) to text; ``names`` gives the names that exist at a place.
    """
    problems = []
    for place, text in templates.items():
        known = set(names(place))
        problems += [
            f"{place}: there is no column `{name}`; {did_you_mean(name, known)}"
            for name in sorted(compile_template(text).names - known)
        ]
    return problems


def _text(value: Any) -> str:
    if value.__class__ is str:
        return value
    return str(_shown(value))


def _limited(text: str) -> str:
    if len(text) > MAX_CHARS:
        raise ValueError(f"the text is longer than {MAX_CHARS:,} characters")
    return text


def _parse(text: str) -> nodes.Template:
    if len(text) > MAX_CHARS:
        raise ValueError(f"the template is longer than {MAX_CHARS:,} characters")
    try:
        tree = _ENVIRONMENT.parse(text)
        _check_nodes(tree)
        _ENVIRONMENT.from_string(tree)  # unknown filters and tests are found when it is compiled
    except TemplateSyntaxError as exc:
        where = f" in line {exc.lineno}" if "\n" in text.strip() else ""
        raise ValueError(
            f"template `{_short(text)}`: {exc.message}{where}{_filter_hint(exc.message or '')}"
        ) from None
    except (RecursionError, MemoryError, SyntaxError):
        raise ValueError(f"template `{_short(text)}`: too deeply nested") from None
    except (TemplateError, ArithmeticError, TypeError, ValueError) as exc:
        raise ValueError(f"template `{_short(text)}`: {exc}") from None
    return tree


def _check_nodes(tree: nodes.Template) -> None:
    for node in tree.find_all(nodes.Node):
        if isinstance(node, nodes.Call):
            _refuse(node, "a call; use a filter, as in `{{ name|upper }}`")
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


def _plain_parts(tree: nodes.Template) -> tuple[tuple[str | None, str], ...] | None:
    """(name or None, text) pieces when there are only names and text, else None."""
    parts: list[tuple[str | None, str]] = []
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            if isinstance(node, nodes.TemplateData):
                parts.append((None, node.data))
            elif isinstance(node, nodes.Name):
                parts.append((node.name, ""))
            else:
                return None
    return tuple(parts) or ((None, ""),)


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


__all__ = [
    "FILTERS",
    "Template",
    "UndefinedError",
    "check_template",
    "compile_template",
    "is_template",
    "unknown_names",
]
