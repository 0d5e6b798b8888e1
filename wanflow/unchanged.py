"""Variants with nothing to do, in columns: some 150 bytes a variant where the whole variant takes ten times that.

Each refers to the records of its videos by their rows in the table of ``Published.records``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from wanflow.model import Scalar, Variant

if TYPE_CHECKING:
    import numpy as np


class Unchanged:
    """In the order of the manifest."""

    def __init__(self) -> None:
        self.variant_ids: list[str] = []
        #: of the manifest
        self.rows = array("q")
        #: carried column -> value of each variant
        self.carry: dict[str, list[Scalar]] = {}
        #: names of outputs that occur
        self.output_names: list[str] = []
        #: of each file of all variants, one variant's after the other's: its record and the number of its output
        self._records, self._outputs = array("q"), array("q")
        #: where the files of each variant end
        self._ends = array("q")
        self._numbers: dict[str, int] = {}
        self._texts: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.variant_ids)

    def add(self, variant: Variant, records: Sequence[int]) -> None:
        """``records``: the row of each output's record."""
        for name, value in variant.carry:  # the same names for all variants of a job
            kept = self._texts.setdefault(value, value) if isinstance(value, str) else value
            self.carry.setdefault(name, []).append(kept)
        self.variant_ids.append(variant.variant_id)
        self.rows.append(variant.row)
        for (output, _), record in zip(variant.outputs, records, strict=True):
            number = self._numbers.setdefault(output.name, len(self._numbers))
            if number == len(self.output_names):
                self.output_names.append(output.name)
            self._records.append(record)
            self._outputs.append(number)
        self._ends.append(len(self._records))

    def files_of(self, number: int) -> Iterator[tuple[int, int]]:
        """(row of the record, number of the output) of each video of a variant."""
        start, end = self._ends[number - 1] if number else 0, self._ends[number]
        return zip(self._records[start:end], self._outputs[start:end], strict=True)

    def records(self) -> tuple[Sequence[int], Sequence[int]]:
        """The row of the record of each video, one variant's after the other's, and where those of each begin and end:
        a number more than there are variants.
        """
        return self._records, array("q", [0]) + self._ends

    def owners(self, num_records: int) -> np.ndarray[Any, Any]:
        """For each of ``num_records`` rows the number of the variant that shows it, or -1."""
        import numpy as np

        owners = np.full(num_records, -1, np.int64)
        if self._ends:
            ends = np.frombuffer(self._ends, np.int64)
            counts = np.diff(ends, prepend=0)
            owners[np.frombuffer(self._records, np.int64)] = np.repeat(np.arange(len(ends)), counts)
        return owners
