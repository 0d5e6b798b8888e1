"""Tables to Parquet bytes and back: the one way, for files that are written and read whole."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

#: a table of so few rows is mostly its footer: compressing it would cost four times the time and save no bytes
SMALL_ROWS = 50


def dump_table(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    if table.num_rows <= SMALL_ROWS:
        pq.write_table(table, file, compression="none", use_dictionary=False, write_statistics=False)
    else:
        pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def load_table(data: bytes) -> pa.Table:
    """The table in ``data``; ArrowException when it is none.

    In this thread alone: Arrow's own threads may let go of Python's bytes after the call, and where the interpreter is
    at its end by then, they abort the process: a run that ended well would end with a signal (apache/arrow#34314).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(data), use_threads=False, pre_buffer=False)
