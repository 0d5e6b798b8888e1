"""From a job file's text to a plain mapping: YAML 1.2, ``--set``, ``${VAR}``.

YAML is read as 1.2 without timestamps, so ``no``, ``16:9``, ``06:00`` and ``2026-01-31`` stay text. Order: the
file, then each ``--set``, then the environment, which is put into strings only and never read as YAML. This module
knows no field of the job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from wanflow.errors import JobError
from wanflow.suggest import did_you_mean

MAX_BYTES = 1_000_000
#: a job has some hundred values; far more are an alias that repeats itself
MAX_VALUES = 100_000
MAX_DEPTH = 50
#: mappings that one merge key names, and pairs that a mapping has
MAX_MERGED = 100
MAX_PAIRS = 5_000

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<body>[^{}]*)(?P<close>\})?")
_BODY = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<has_default>:-(?P<default>.*))?", re.DOTALL)
#: a --set value without these is one YAML scalar; with them it is text, or a list or mapping that says so itself
_PLAIN = re.compile(r"[A-Za-z0-9.+~_-]*")


class _Constructor(SafeConstructor):
    """YAML 1.2's core values: text, numbers, true, false, null, lists, mappings."""

    def flatten_mapping(self, node: Any) -> Any:
        """Merge keys (``<<``) copy what they name, so that some lines of them can ask for billions of pairs."""
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge" and len(value.value) > MAX_MERGED:
                self._refuse_merge(node)
        merged = super().flatten_mapping(node)
        if len(node.value) > MAX_PAIRS:
            self._refuse_merge(node)
        return merged

    def _refuse_merge(self, node: Any) -> NoReturn:
        raise ConstructorError(None, None, "merges too much (<<); write the mapping out", node.start_mark)


for _tag in ("timestamp", "value", "binary"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", lambda self, node: node.value)


def parse_yaml(text: str, where: str) -> Any:
    """The value that ``text`` says. JobError with the line when it is no YAML 1.2 or says a key twice."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise JobError(f"{where}: larger than {MAX_BYTES:,} bytes; is it a job file?")
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        return yaml.load(text)
    except DuplicateKeyError as exc:
        key = re.search(r'duplicate key "(.*?)"', str(exc.problem))
        name = key[1] if key else "a key"
        raise JobError(
            f"{where}, line {exc.problem_mark.line + 1}: `{name}` is written twice in one mapping; keep one of them"
        ) from None
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        source = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        hint = next((f" (a value with {s} in it needs quotes)" for s in ("{{", "${") if s in source), "")
        raise JobError(f"{where}{line}: {exc.problem or exc.context}{hint}") from None
    except (YAMLError, ValueError, TypeError, RecursionError) as exc:
        raise JobError(f"{where}: cannot be read as YAML: {str(exc) or type(exc).__name__}") from None


def apply_sets(data: Any, sets: Iterable[str]) -> Any:
    """``data`` with each ``a.b=c`` put in; a number names an entry of a list. JobError lists all that do not fit."""
    problems = []
    data = _copy(data)
    for assignment in sets:
        path, equals, value = assignment.partition("=")
        if not equals or not path.strip() or not all(path.strip().split(".")):
            problems.append(f"--set {assignment}: write it as a.b=value")
            continue
        problem = _put(data, path.strip().split("."), parse_set_value(value))
        if problem:
            problems.append(f"--set {assignment}: {problem}")
    if problems:
        raise JobError("\n".join(problems))
    return data


def parse_set_value(value: str) -> Any:
    """A YAML scalar, or a list or mapping in brackets or braces; whatever else is text, unchanged."""
    text = value.strip()
    if _PLAIN.fullmatch(text) or (text[:1] in "[{\"'" and not text.startswith("{{")):
        try:
            return parse_yaml(text, "--set")
        except JobError:
            return value
    return value


def _put(data: Any, path: list[str], value: Any) -> str | None:
    """Set one value in place; what is wrong, or None."""
    here = data
    for i, name in enumerate(path):
        last = i == len(path) - 1
        before = ".".join(path[:i]) or "the job"
        if isinstance(here, list):
            if not name.isdigit() or int(name) >= len(here):
                entries = f"entries 0 to {len(here) - 1}" if here else "no entries"
                return f"{before} is a list with {entries}; `{name}` is none of them"
            if last:
                here[int(name)] = value
            else:
                here = here[int(name)]
        elif isinstance(here, dict):
            if last:
                here[name] = value
            else:
                if here.get(name) is None:
                    here[name] = {}
                here = here[name]
        else:
            return f"{before} is one value, not a mapping; set it as a whole"
    return None


def substitute(data: Any, env: Mapping[str, str]) -> Any:
    """``data`` with ``${VAR}`` and ``${VAR:-default}`` in its strings replaced; ``$${`` stands for ``${``.

    JobError names every variable that is missing, with the place that wants it.
    """
    problems: list[str] = []

    def fill(text: str, path: str) -> str:
        def one(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            body = _BODY.fullmatch(match["body"]) if match["close"] else None
            if body is None:
                problems.append(
                    f"{path}: `{match[0]}` is not a variable; write ${{NAME}} or ${{NAME:-default}}, "
                    "or $${ for a literal ${"
                )
                return ""
            found = env.get(body["name"])
            if body["has_default"]:
                return found or body["default"]
            if found is None:
                near = did_you_mean(
                    body["name"], [n for n in env if n.casefold()[:3] == body["name"].casefold()[:3]]
                )
                hint = f" ({near})" if near.startswith("did") else ""
                problems.append(
                    f"{path}: the environment has no {body['name']}{hint}; set it, "
                    f"or write ${{{body['name']}:-default}}"
                )
                return ""
            return found

        return _VARIABLE.sub(one, text)

    filled = _walk(data, fill)
    if problems:
        raise JobError("\n".join(problems))
    return filled


def _copy(data: Any) -> Any:
    return _walk(data, lambda text, path: text)


def _walk(data: Any, on_text: Callable[[str, str], str]) -> Any:
    """A copy of ``data`` with every string changed. JobError when an alias makes it endless."""
    seen = 0

    def visit(value: Any, path: str, depth: int) -> Any:
        nonlocal seen
        seen += 1
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            raise JobError(
                f"{path or 'the job'}: too many or too deeply nested values; is an alias (*name) endless?"
            )
        if isinstance(value, str):
            return on_text(value, path)
        if isinstance(value, dict):
            return {k: visit(v, f"{path}.{k}" if path else str(k), depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [visit(v, f"{path}.{i}" if path else str(i), depth + 1) for i, v in enumerate(value)]
        return value

    return visit(data, "", 0)
