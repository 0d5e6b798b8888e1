"""Records of published videos as columns: some 500 bytes a record, a third of what it takes as objects.

:class:`Records` is a mapping from a video's path to its record. What the index had, or was read from the store, stands
in an Arrow table and becomes a :class:`Record` when it is asked for; what came since is kept as it is. A row's number
in the table stays its own for as long as the mapping lives.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from wanflow.listing import Listing, PathIndex, WeightIndex, as_array, as_weights, weigh
from wanflow.model import Record, Scalar, StoredFile
from wanflow.storage import Stat

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

#: facts of a record with a column of their own; others stand as JSON in ``more``
TEXTS = ("job", "reason", "variant_id", "output", "run_id")
NUMBERS = ("made_at", "gpu_seconds", "cost")
#: rows that are held as objects at a time
PART_ROWS = 10_000
#: rows of the table that are written at a time
SAVED_ROWS = 50_000


def schema() -> pa.Schema:
    import pyarrow as pa

    file = pa.struct(
        [
            ("path", pa.string()),
            ("sha256", pa.string()),
            ("size_bytes", pa.int64()),
            ("etag", pa.string()),
            #: its entry in a listing (``wanflow.listing``)
            ("weight", pa.binary(16)),
        ]
    )
    shared = pa.dictionary(pa.int32(), pa.string())  # few values, many records
    return pa.schema(
        [
            ("path", pa.string()),
            ("key", pa.string()),
            ("attempt", shared),
            ("etag", pa.string()),
            #: the record's own entry in a listing
            ("weight", pa.binary(16)),
            ("files", pa.list_(file)),
            *((name, pa.string() if name == "variant_id" else shared) for name in TEXTS),
            *((name, pa.float64()) for name in NUMBERS),
            ("more", pa.string()),
        ]
    )


def table_of(records: Iterable[tuple[Record, bytes]]) -> pa.Table:
    """Records, each with its weight, as rows of :func:`schema`."""
    import pyarrow as pa

    def row(record: Record, weight: bytes) -> dict[str, Any]:
        path, info = record.files[0].path, dict(record.info)
        if info.get("path") == path:
            del info["path"]
        texts = {name: info.pop(name) for name in TEXTS if isinstance(info.get(name), str)}
        numbers = {name: info.pop(name) for name in NUMBERS if _is_number(info.get(name))}
        return {
            "path": path,
            "key": record.key,
            "attempt": record.attempt,
            "etag": record.etag,
            "weight": weight,
            "files": [
                {
                    "path": file.path,
                    "sha256": file.sha256,
                    "size_bytes": file.size_bytes,
                    "etag": file.etag,
                    "weight": weigh(file.path, file.size_bytes, file.etag),
                }
                for file in record.files
            ],
            "more": json.dumps(info, ensure_ascii=False) if info else None,
            **texts,
            **numbers,
        }

    parts, part = [], []
    for record, weight in records:
        part.append(row(record, weight))
        if len(part) == PART_ROWS:
            parts.append(pa.Table.from_pylist(part, schema()))
            part.clear()
    return in_one_piece(pa.concat_tables([*parts, pa.Table.from_pylist(part, schema())]))


def in_one_piece(table: pa.Table) -> pa.Table:
    """The same with one chunk a column, so that rows are found without looking for their chunk."""
    import pyarrow as pa

    if all(column.num_chunks == 1 for column in table.columns):
        return table
    names, columns = table.column_names, table.unify_dictionaries().columns
    del table  # a column's parts go as soon as they are joined
    whole = [pa.chunked_array([columns.pop(0).combine_chunks()]) for _ in names]
    return pa.table(whole, names=names)


def joined(one: pa.Table, other: pa.Table) -> pa.Table:
    """The rows of both, in one piece; the same object where there is nothing to join."""
    import pyarrow as pa

    if not other.num_rows or not one.num_rows:
        return one if one.num_rows else other
    return in_one_piece(pa.concat_tables([one, other]))


def all_shown(table: pa.Table, visible: Listing) -> np.ndarray[Any, Any]:
    """Of each record of ``table`` whether every file of it is ``visible`` as it was published."""
    import numpy as np

    files = table["files"].chunk(0)
    shown = visible.shows_each(as_weights(files.values.field("weight")))
    before = np.concatenate([[0], np.cumsum(shown)])
    starts = files.offsets.to_numpy()
    counts: np.ndarray[Any, Any] = before[starts[1:]] - before[starts[:-1]]
    same: np.ndarray[Any, Any] = counts == np.diff(starts)
    return same


def still_listed(index: pa.Table, stats: Iterator[Stat]) -> tuple[pa.Table, list[Stat], int]:
    """The rows of ``index`` that ``stats`` have with the same ETag, the stats that it lacks, and their total."""
    import numpy as np
    import pyarrow as pa

    known = WeightIndex(as_weights(index["weight"].chunk(0)))
    kept = np.zeros(index.num_rows, bool)
    unknown: list[Stat] = []
    total = 0
    while part := list(islice(stats, PART_ROWS)):
        asked = [weigh(stat.path, 0, stat.etag) for stat in part]
        total += sum(int.from_bytes(weight, "big") for weight in asked)
        rows = known.positions(as_array(b"".join(asked)))
        kept[rows[rows >= 0]] = True
        unknown += [part[number] for number in np.flatnonzero(rows < 0)]
    return index if kept.all() else index.filter(pa.array(kept)), unknown, total


class Records(MutableMapping[str, Record]):
    """Record of each published video by its path."""

    def __init__(self, table: pa.Table | None = None) -> None:
        """``table`` is of :func:`schema`, in one piece (``in_one_piece``)."""
        self.table = schema().empty_table() if table is None else table
        hashes = array("q")
        for batch in self.table.select(["path"]).to_batches(PART_ROWS):
            hashes.extend(map(hash, batch.column(0).to_pylist()))
        self._index = PathIndex(hashes)
        self._paths, self._keys = (in_one_piece(self.table)[name].chunk(0) for name in ("path", "key"))
        #: rows of ``table`` that count no more
        self.gone: set[int] = set()
        self.added: dict[str, Record] = {}

    def row_of(self, path: str) -> int | None:
        """The row of ``table`` that stands for ``path``; None when there is none, or an added record instead."""
        for row in self._index.positions(path):
            if self._paths[row].as_py() == path:
                return None if row in self.gone else row
        return None

    def parts(self) -> Iterator[pa.Table]:
        """The rows of ``table`` that count, a part at a time."""
        import numpy as np
        import pyarrow as pa

        kept = np.ones(self.table.num_rows, bool)
        kept[list(self.gone)] = False
        for start in range(0, self.table.num_rows, SAVED_ROWS):
            yield self.table.slice(start, SAVED_ROWS).filter(pa.array(kept[start : start + SAVED_ROWS]))

    def key_at(self, row: int) -> str:
        return str(self._keys[row].as_py())

    def at(self, row: int) -> Record:
        return _parsed(self.table.slice(row, 1).to_pylist()[0])

    def __getitem__(self, path: str) -> Record:
        if path in self.added:
            return self.added[path]
        row = self.row_of(path)
        if row is None:
            raise KeyError(path)
        return self.at(row)

    def __setitem__(self, path: str, record: Record) -> None:
        self.pop(path, None)
        self.added[path] = record

    def __delitem__(self, path: str) -> None:
        if path in self.added:
            del self.added[path]
        elif (row := self.row_of(path)) is not None:
            self.gone.add(row)
        else:
            raise KeyError(path)

    def __contains__(self, path: object) -> bool:
        return path in self.added or (isinstance(path, str) and self.row_of(path) is not None)

    def __iter__(self) -> Iterator[str]:
        for row, path in enumerate(self._paths):
            if row not in self.gone:
                yield path.as_py()
        yield from self.added

    def __len__(self) -> int:
        return int(self.table.num_rows) - len(self.gone) + len(self.added)


def _parsed(row: Mapping[str, Any]) -> Record:
    info: dict[str, Scalar] = {name: row[name] for name in (*TEXTS, *NUMBERS) if row[name] is not None}
    info |= {"path": row["path"], **json.loads(row["more"] or "{}")}
    files = tuple(
        StoredFile(file["path"], file["sha256"], file["size_bytes"], file["etag"]) for file in row["files"]
    )
    return Record(row["key"], files, row["attempt"], tuple(info.items()), row["etag"])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
