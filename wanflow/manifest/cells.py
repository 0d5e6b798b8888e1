"""A column's cells: the type that they are read as, and the values that they become. What they mean is not known here.

Programs write the same values in different types. Here text is text also where a file says bytes (Impala, Hive and
older Spark write it so), a float of four bytes is the number that was written into it (19.9, not 19.899999618530273),
and times have microseconds. Lists and structs are taken as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

#: of a text that is no UTF-8, what its row's reason repeats
SHOWN_CHARS = 40


def read_type(kind: pa.DataType) -> pa.DataType:
    """The type in which a column of ``kind`` is read."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):  # a way to store values; files differ in it
        return read_type(kind.value_type)
    if types.is_large_binary(kind):
        return pa.large_string()
    if types.is_binary(kind) or types.is_fixed_size_binary(kind):
        return pa.string()
    if types.is_binary_view(kind) or types.is_string_view(kind):  # which pyarrow cannot filter
        return pa.string()
    if types.is_float16(kind) or types.is_float32(kind):
        return pa.float64()
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    return kind


def converted(column: Any, kind: pa.DataType) -> Any:
    """``column`` as ``kind``, which is wider, or what :func:`read_type` says. What is no UTF-8 stays as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.type == kind:
        return column
    if pa.types.is_float32(column.type) and pa.types.is_float64(kind):
        return column.cast(pa.string()).cast(kind)
    options = pc.CastOptions(target_type=kind, allow_invalid_utf8=True, allow_time_truncate=True)
    return column.cast(options=options)


def values_of(column: Any) -> tuple[list[Any], dict[int, str]]:
    """The values, and what is wrong with those that are none, by their position: bytes that are no UTF-8 (the value is
    the text with a mark in their place), a date in the year 300000 (None).
    """
    try:
        return column.to_pylist(), {}
    except (ValueError, OverflowError):  # looked for one by one
        pass
    values: list[Any] = []
    problems = {}
    for position, cell in enumerate(column):
        try:
            values.append(cell.as_py())
        except UnicodeDecodeError as exc:
            text = exc.object.decode("utf-8", "replace")
            values.append(text)
            problems[position] = f"`{text[:SHOWN_CHARS]}` is not UTF-8 text"
        except (ValueError, OverflowError) as exc:
            values.append(None)
            problems[position] = f"has a value that cannot be read: {str(exc).splitlines()[0]}"
    return values, problems


def way_inside(name: str, kind: pa.DataType) -> str:
    """What a template writes to get a value of a list or struct column; nothing for other columns."""
    import pyarrow as pa

    types, way = pa.types, name
    while types.is_nested(kind) and kind.num_fields:
        if types.is_struct(kind):
            field = kind.field(0)
            way, kind = (
                f"{way}.{field.name}" if field.name.isidentifier() else f"{way}['{field.name}']",
                field.type,
            )
        elif types.is_map(kind):
            way, kind = f"{way}[0][1]", kind.item_type
        else:
            way, kind = f"{way}[0]", kind.field(0).type
    return way if way != name else ""
