"""The file formats of a manifest: for each, how to see its columns and how to read some of them in batches.

Both take an open file; batches have the columns of the schema that is asked for, in the file's own types for
Parquet, where texts may come dictionary-encoded. Errors are pyarrow's own, or ValueError.

What a file says of itself is looked at before pyarrow believes it (``wanflow.manifest.bombs``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from wanflow.manifest.bombs import (
    check_chunks,
    check_csv,
    check_footer,
    check_json,
    check_parquet,
    check_types,
    check_width,
)

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 4096
#: of files with lists or structs, which are decoded whole
NESTED_BATCH_ROWS = 256
#: one line of a JSON file, or one row of a CSV file, must fit
BLOCK_BYTES = 8 * 2**20


def _parquet_schema(handle: Any) -> pa.Schema:
    import pyarrow.parquet as pq

    check_parquet(handle)
    file = pq.ParquetFile(handle)
    check_width(file.metadata.num_columns)
    check_types(file.schema_arrow)
    return file.schema_arrow


def _parquet_batches(handle: Any, schema: pa.Schema) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_parquet(handle)
    # one long text that a million rows point to stays one text until it has been cut
    texts = [
        field.name
        for field in schema
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    file = pq.ParquetFile(handle, read_dictionary=texts)
    check_footer(handle)
    check_chunks(file.metadata, schema.names)
    rows = NESTED_BATCH_ROWS if any(map(pa.types.is_nested, schema.types)) else BATCH_ROWS
    return file.iter_batches(rows, columns=schema.names, use_threads=False)  # type: ignore[no-any-return]


def _csv_reader(handle: Any, types: Mapping[str, Any], names: list[str] | None) -> Any:
    from pyarrow import csv

    return csv.open_csv(
        handle,
        read_options=csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=csv.ParseOptions(newlines_in_values=True, delimiter=check_csv(handle)),
        convert_options=csv.ConvertOptions(
            column_types=types,
            include_columns=names,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    )


def _csv_schema(handle: Any) -> pa.Schema:
    """Everything is text."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in _csv_reader(handle, {}, None).schema.names])


def _csv_batches(handle: Any, schema: pa.Schema) -> Iterator[Any]:
    return iter(_csv_reader(handle, dict(zip(schema.names, schema.types, strict=True)), schema.names or None))


def _json_reader(handle: Any, schema: pa.Schema | None) -> Any:
    from pyarrow import json

    known = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore") if schema else None
    return json.open_json(handle, read_options=json.ReadOptions(block_size=BLOCK_BYTES), parse_options=known)


def _json_schema(handle: Any) -> pa.Schema:
    """As inferred from the first block, but dates stay the text that they are."""
    import pyarrow as pa

    check_json(handle, BLOCK_BYTES)
    found = _json_reader(handle, None).schema
    return pa.schema([(f.name, pa.string() if pa.types.is_temporal(f.type) else f.type) for f in found])


def _json_batches(handle: Any, schema: pa.Schema) -> Iterator[Any]:
    return iter(_json_reader(handle, schema))


SCHEMAS: dict[str, Callable[[Any], Any]] = {
    "parquet": _parquet_schema,
    "csv": _csv_schema,
    "json": _json_schema,
}
READERS: dict[str, Callable[[Any, Any], Iterator[Any]]] = {
    "parquet": _parquet_batches,
    "csv": _csv_batches,
    "json": _json_batches,
}
