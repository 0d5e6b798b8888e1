"""What the plan notes of the rows, counted while they go by: columns that multiply clips, empty cells that leave a
gap in a sentence, and outputs that no row has.

A clip is shared by all rows that give the same values to the columns of the clip templates. For each such column
this counts how many clips there would be without it. It keeps the clips and a 64-bit hash a column of each, not the
rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wanflow.model import Clip


class Notes:
    """Pass one to :func:`wanflow.manifest.read_variants`, and read it when the rows are through."""

    def __init__(self) -> None:
        self.num_clips = 0
        #: (output, aspect that it is made from) of the outputs that no row has; known when all rows are through
        self.unmade: tuple[tuple[str, str], ...] = ()
        self._places: dict[str, list[str]] = {}
        self._clips: set[int] = set()
        #: equal rows get the same object back; it is kept, so that its id stays its own
        self._seen: dict[int, Clip] = {}
        self._without: dict[str, set[int]] = {}
        #: (place, column) -> by row number, whether it has the gap
        self._gaps: dict[tuple[str, str], bytearray] = {}

    def begin(self, templates: Mapping[str, Iterable[str]], columns: Iterable[str]) -> None:
        """``templates`` is place to the names it uses; ``columns`` are the names that rows have."""
        present = set(columns)
        for place, names in templates.items():
            for name in names:
                if name in present:
                    self._places.setdefault(name, []).append(place)
        self._without = {name: set() for name in self._places}

    def add(self, values: Mapping[str, Any], clips: Iterable[tuple[str, Clip]]) -> None:
        """One good row: its values, and (aspect, clip) of each of its clips. A clip counts with its first row."""
        for aspect, clip in clips:
            if id(clip) in self._seen:
                continue
            self._seen[id(clip)] = clip
            self._clips.add(hash((aspect, clip)))
            for name, others in self._without.items():
                others.add(hash((aspect, *(str(values.get(n)) for n in self._without if n != name))))
            self.num_clips = len(self._clips)

    def gap(self, place: str, column: str, row: int) -> None:
        """One good row has nothing in ``column``, around which the template of ``place`` has words. It counts once,
        however often a matrix repeats it.
        """
        rows = self._gaps.setdefault((place, column), bytearray())
        rows.extend(bytes(max(0, row + 1 - len(rows))))
        rows[row] = True

    def gaps(self) -> Iterator[tuple[str, str, int, int]]:
        """(column, where it is used, rows without it, the first of them)."""
        for (place, column), rows in self._gaps.items():
            yield column, place, sum(rows), rows.index(True)

    def multipliers(self) -> Iterator[tuple[str, str, int, int]]:
        """(column, where it is used, clips now, clips without it), worst first; only columns that multiply."""
        counted = [
            (name, ", ".join(places), self.num_clips, len(self._without[name]))
            for name, places in self._places.items()
        ]
        yield from sorted((c for c in counted if c[3] < c[2]), key=lambda c: (c[3], c[0]))
