"""Tables that are made to exhaust or crash whoever opens them: seen before they are opened, and cells cut to size.

A few kilobytes can say: a million columns, brackets nested a million deep (which ends a process that recurses), one
text of a gigabyte in every row. The checks take the open file and leave it at its beginning; ValueError says what is
wrong.

Limits: a Parquet page may unpack to what its own header says, up to :data:`MAX_CHUNK_BYTES` a column of a row group.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from wanflow.manifest.cells import converted, read_type
from wanflow.templates import MAX_CHARS

if TYPE_CHECKING:
    import pyarrow as pa

MAX_COLUMNS = 5_000
#: of CSV: a spreadsheet in a country of decimal commas writes semicolons
DELIMITERS = (",", ";", "\t")
MAX_DEPTH = 20
MAX_HEADER_BYTES = 2**20
MAX_FOOTER_BYTES = 64 * 2**20
MAX_CHUNK_BYTES = 2 * 2**30
#: one more than any template, id or carried value may have, so that what was cut is refused as too long with its row
MAX_CELL_CHARS = MAX_CHARS + 1


def check_width(num_columns: int) -> None:
    """ValueError for more columns than a table of people and products has."""
    if num_columns > MAX_COLUMNS:
        raise ValueError(
            f"it has more than {MAX_COLUMNS:,} columns (nested ones counted); leave out what is not needed"
        )


def check_types(schema: pa.Schema) -> None:
    """ValueError for a column whose every value has more bytes than any text."""
    import pyarrow as pa

    for field in schema:
        if pa.types.is_fixed_size_binary(field.type) and field.type.byte_width > 4 * MAX_CELL_CHARS:
            raise ValueError(
                f"every value of the column `{field.name}` has {field.type.byte_width:,} bytes; leave it out"
            )


def check_parquet(handle: Any) -> None:
    """ValueError for a footer that is too large to be one."""
    size = handle.seek(0, io.SEEK_END)
    handle.seek(max(0, size - 8))
    footer = int.from_bytes(handle.read(8)[:4], "little")
    handle.seek(0)
    if size >= 8 and footer > MAX_FOOTER_BYTES:
        raise ValueError(f"its footer claims {footer:,} bytes; at most {MAX_FOOTER_BYTES:,} are read")


def check_footer(handle: Any) -> None:
    """ValueError for a footer that ends the process which reads it: pyarrow aborts at some that are damaged."""
    from wanflow.decoder import decoder

    size = handle.seek(0, io.SEEK_END)
    handle.seek(max(0, size - 8))
    footer = int.from_bytes(handle.read(8)[:4], "little")
    handle.seek(max(0, size - footer - 8))
    data = b"PAR1" + handle.read()
    handle.seek(0)
    if problem := decoder.problem("parquet", data):
        raise ValueError(f"its footer is damaged: what reads it fails ({' '.join(problem).strip()})")


def check_chunks(metadata: Any, names: Collection[str]) -> None:
    """ValueError when a column of a row group would unpack to too much."""
    wanted = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path.split(".")[0] in names]
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, wanted):
            if column.total_uncompressed_size > MAX_CHUNK_BYTES:
                raise ValueError(
                    f"the column `{column.path_in_schema}` unpacks to {column.total_uncompressed_size:,} bytes in one "
                    f"row group; at most {MAX_CHUNK_BYTES:,}; write smaller row groups"
                )


def check_csv(handle: Any) -> str:
    """What stands between the columns: the first of :data:`DELIMITERS` that is in the header, else a comma.

    ValueError for a header of too many or too long names, or one in UTF-16.
    """
    head = handle.read(MAX_HEADER_BYTES)
    handle.seek(0)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16; save it as UTF-8")

    def names_between(delimiter: str) -> list[str]:
        return next(csv.reader(io.StringIO(head.decode("latin-1"), newline=""), delimiter=delimiter), [])

    try:
        delimiter = next((each for each in DELIMITERS if len(names_between(each)) > 1), ",")
        names = names_between(delimiter)
    except csv.Error as exc:
        raise ValueError(f"its first line is no header of a table ({exc})") from None
    check_width(len(names))
    if len(head) == MAX_HEADER_BYTES and sum(map(len, names)) + len(names) >= len(head) - 2:
        raise ValueError(f"its header is longer than {MAX_HEADER_BYTES:,} bytes; is it a table?")
    return delimiter


def check_json(handle: Any, block_bytes: int) -> None:
    """ValueError when the first block, which decides the columns, has too many of them or nests too deeply."""
    text = handle.read(block_bytes).decode("utf-8", "replace")
    handle.seek(0)
    decoder, paths = json.JSONDecoder(), set[tuple[str, ...]]()
    at, end = 0, len(text)
    while True:
        while at < end and text[at].isspace():
            at += 1
        if at >= end:
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except RecursionError:
            raise ValueError(f"it has values nested more than {MAX_DEPTH} deep") from None
        except ValueError:  # pyarrow says where
            return
        _add_paths(value, paths)
        check_width(len(paths))


def _add_paths(value: Any, paths: set[tuple[str, ...]]) -> None:
    waiting: list[tuple[Any, tuple[str, ...]]] = [(value, ())]
    while waiting:
        here, path = waiting.pop()
        if len(path) > MAX_DEPTH:
            raise ValueError(f"it has values nested more than {MAX_DEPTH} deep")
        if isinstance(here, dict):
            paths.update((*path, name) for name in here)
            waiting += [
                (inner, (*path, name)) for name, inner in here.items() if isinstance(inner, dict | list)
            ]
        elif isinstance(here, list):
            waiting += [(inner, (*path, "")) for inner in here if isinstance(inner, dict | list)]


def bounded(column: Any, kind: pa.DataType) -> Any:
    """``column`` as ``kind``, its texts cut to :data:`MAX_CELL_CHARS`."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        texts = converted(column.dictionary, read_type(column.dictionary.type))
        return converted(pa.DictionaryArray.from_arrays(column.indices, _cut(texts)), kind)
    return _cut(converted(column, kind))


def _cut(texts: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return texts
    longest = pc.max(pc.binary_length(texts)).as_py() or 0
    if longest <= MAX_CELL_CHARS:
        return texts
    try:
        return pc.utf8_slice_codeunits(texts, 0, MAX_CELL_CHARS)
    except (
        pa.ArrowInvalid
    ):  # some are no UTF-8, which their rows will tell; a character has four bytes at most
        is_large = pa.types.is_large_string(texts.type)
        data = texts.view(pa.large_binary() if is_large else pa.binary())
        return converted(pc.binary_slice(data, 0, 4 * MAX_CELL_CHARS), texts.type)
