"""Tables to Parquet bytes and back: the one way, for files that are written and read whole."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

#: a table of so few rows is mostly its footer: compressing it would cost four times the time and save no bytes
SMALL_ROWS = 50
#: rows of a file that are held at a time where it is read or written in parts
PART_ROWS = 50_000


def dump_table(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    if table.num_rows <= SMALL_ROWS:
        pq.write_table(table, file, compression="none", use_dictionary=False, write_statistics=False)
    else:
        pq.write_table(table, file, compression="zstd", row_group_size=PART_ROWS)
    return file.getvalue()


@contextmanager
def parts_on_disk(schema: pa.Schema, parts: Iterable[pa.Table]) -> Iterator[Path]:
    """A temporary file of all ``parts``, which are made one after the other; each is of ``schema``. Of a million rows
    only a part is in memory."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="wanflow-") as folder:
        path = Path(folder, "table.parquet")
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for part in parts:
                writer.write_table(part)
        yield path


def load_table(data: bytes) -> pa.Table:
    """The table in ``data``; ArrowException when it is none.

    In this thread alone: Arrow's own threads may let go of Python's bytes after the call, and where the interpreter is
    at its end by then, they abort the process: a run that ended well would end with a signal (apache/arrow#34314).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(data), use_threads=False, pre_buffer=False)


def load_parts(path: Path) -> tuple[pa.Schema, int, Iterator[pa.Table]]:
    """Schema and number of rows of the table in a file, and its parts, each read when it is asked for; ArrowException
    when it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    batches = file.iter_batches(PART_ROWS, use_threads=False)
    return file.schema_arrow, file.metadata.num_rows, (pa.Table.from_batches([batch]) for batch in batches)


def read_columns(path: Path, schema: pa.Schema) -> pa.Table:
    """The table in the file at ``path`` with the columns of ``schema``, each in one piece.

    One column is read after the other, so that little more than the table itself is held. ArrowException or KeyError
    when the file is none, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = []
    with pq.ParquetFile(path) as file:
        for field in schema:
            column = file.read([field.name], use_threads=False)[field.name].cast(field.type)
            columns.append(pa.chunked_array([column.unify_dictionaries().combine_chunks()], field.type))
            del column
            give_back()
    return pa.table(columns, schema=schema)


def give_back() -> None:
    """Return memory that Arrow keeps for later to the system: after reading, that is as much as it has read."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
