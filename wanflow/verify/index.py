"""The index of publish records, ``published-TARGET.parquet``: their bodies in one file, with the ETag of each record.

A record whose listed ETag is the index's was read when the index was written, and has not changed since: it need not
be asked for again. With ``deep`` nobody takes its word: all records are read, and the index is held against them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from wanflow.storage import Stat, Store
from wanflow.verify.reader import RecordRead, Unreadable, check_record, read_table

if TYPE_CHECKING:
    import pyarrow as pa

#: facts of a record's ``info`` that have a column; ``more`` has the others as JSON, ``path`` is the row's
FACTS = ("job", "reason", "variant_id", "output", "run_id", "made_at", "gpu_seconds", "cost")
COLUMNS = ("path", "key", "attempt", "etag", "files", *FACTS, "more")
_PART_ROWS = 10_000


def indexed_records(
    workspace: Store, folder: str, files: Mapping[str, Stat]
) -> Iterator[tuple[str, RecordRead | Unreadable]]:
    """Path of a record in ``published/<folder>/`` -> what the index says of it, where ``files`` has its ETag.

    An index that is absent, damaged or of another form says nothing: it is a cache.
    """
    table = read_table(workspace, f"published-{folder}.parquet")
    if table is None or isinstance(table, Unreadable) or not set(COLUMNS) <= set(table.column_names):
        return
    for batch in table.select(list(COLUMNS)).to_batches(_PART_ROWS):
        yield from _of_batch(batch, folder, files)


def _of_batch(
    batch: pa.RecordBatch, folder: str, files: Mapping[str, Stat]
) -> Iterator[tuple[str, RecordRead | Unreadable]]:
    for row in batch.to_pylist():
        name = hashlib.sha256(str(row["path"]).encode()).hexdigest()
        path = f"published/{folder}/{name[:2]}/{name}.json"
        stat = files.get(path)
        if stat is None or stat.etag != row["etag"]:
            continue
        try:
            yield path, check_record(_body(row))
        except ValueError:  # not JSON: the record itself is asked for
            continue


def _body(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record's JSON, as far as the index repeats it."""
    info = {name: row[name] for name in FACTS if row[name] is not None}
    info |= {"path": row["path"], **json.loads(row["more"] or "{}")}
    return {"key": row["key"], "attempt": row["attempt"], "files": row["files"], "info": info}
