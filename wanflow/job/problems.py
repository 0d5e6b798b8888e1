"""Validation errors in words: one line each, with the dotted path, what is wrong and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from wanflow.storage.paths import shown
from wanflow.suggest import did_you_mean

#: of one line; it may repeat what was written
MAX_CHARS = 1000


def describe(error: ValidationError, schema: Mapping[str, Any]) -> list[str]:
    """Every problem of ``error``; ``schema`` (JSON Schema of the model) knows the names that exist at each place."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        path = [str(part) for part in item["loc"][:-1] if not _is_type_name(part)]
        # the user's own key may be called like a type
        path += [
            str(p) for p in item["loc"][-1:] if item["type"] == "extra_forbidden" or not _is_type_name(p)
        ]
        words = _words(item, path, schema)
        lines += [f"{'.'.join(path)}: {words}"] if path else words.split("\n")
    return list(dict.fromkeys(shown(line, MAX_CHARS) for line in lines))


def keys_at(schema: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """The properties that may be written at ``path``, name to schema; empty where it is no mapping of fixed names."""
    found: dict[str, Any] = {}
    for branch in _branches(schema, schema):
        if not path:
            found.update(branch.get("properties", {}))
        elif path[0].isdigit() and "items" in branch:
            found.update(keys_at({**branch["items"], "$defs": schema["$defs"]}, path[1:]))
        elif path[0] in branch.get("properties", {}):
            found.update(keys_at({**branch["properties"][path[0]], "$defs": schema["$defs"]}, path[1:]))
    return found


def _branches(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """``node`` with references followed and alternatives spread out."""
    if "$ref" in node:
        yield from _branches(root["$defs"][node["$ref"].rsplit("/", 1)[1]], root)
    for part in (*node.get("anyOf", ()), *node.get("allOf", ())):
        yield from _branches(part, root)
    if "properties" in node or "items" in node:
        yield node


def _words(item: Any, path: list[str], schema: Mapping[str, Any]) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key; {_where_it_belongs(path, schema)}"
    if kind == "missing":
        about = _description(keys_at(schema, path[:-1]).get(path[-1], {}), schema)
        return f"is missing; {about}" if about else "is missing"
    if kind in ("value_error", "assertion_error"):
        return str(item["msg"]).split(", ", 1)[1]
    if value is None:
        return 'is empty; give a value, or leave the line out (a colour needs quotes: "#ffaa00")'
    if kind == "string_type":
        return (
            f"{_shown(value)}; write text, in quotes"
            if isinstance(value, int | float)
            else f"{_shown(value)}; write text"
        )
    if kind == "literal_error":
        options = [o.strip("' ") for o in str(context["expected"]).replace(" or ", ", ").split(",")]
        near = did_you_mean(str(value), options)
        hint = f"; {near}" if near.startswith("did") else ""
        return f"`{value}` is not one of {', '.join(options)}{hint}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        names = ", ".join(list(keys_at(schema, path))[:6])
        return f"{_shown(value)}; write a mapping{f' with keys such as {names}' if names else ''}"
    if kind in ("tuple_type", "list_type"):
        return f"{_shown(value)}; write a list"
    if kind == "too_short":
        return "is an empty list; give one entry, or leave the line out"
    if kind.startswith(("int_", "float_", "bool_")) or kind == "finite_number":
        wanted = (
            "true or false"
            if kind.startswith("bool")
            else "a whole number"
            if kind.startswith("int")
            else "a number"
        )
        return f"{_shown(value)}; write {wanted}"
    return f"{_shown(value)}; {str(item['msg']).replace('Input should be', 'it must be')}"


def _description(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    nodes = (node, *_branches({**node, "$defs": schema["$defs"]}, schema))
    return next((str(n["description"]) for n in nodes if n.get("description")), "")


def _where_it_belongs(path: list[str], schema: Mapping[str, Any]) -> str:
    name = path[-1]
    near = did_you_mean(name, keys_at(schema, path[:-1]))
    if near.startswith("did"):
        return near
    homes = [f"{section}.{name}" for section in keys_at(schema, ()) if name in keys_at(schema, (section,))]
    homes += [name] if len(path) > 1 and name in keys_at(schema, ()) else []
    return f"did you mean `{homes[0]}`?" if homes else near


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}` is true or false"
    if isinstance(value, int | float):
        return f"`{value}` is a number"
    if isinstance(value, dict):
        return "is a mapping"
    if isinstance(value, list | tuple):
        return "is a list"
    text = str(value)
    return (
        f"`{text if len(text) <= 60 else text[:57] + '...'}` is text"
        if isinstance(value, str)
        else f"`{text}`"
    )


def _is_type_name(part: object) -> bool:
    """pydantic puts the names of a union's branches into the path."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)
