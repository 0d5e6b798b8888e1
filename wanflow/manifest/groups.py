"""Several rows, one video: rows with the same id are its scenes (``manifest.group``).

A group's rows may lie anywhere in the table, so all rows that are asked for are read and held before the first one is
made: some 2 kB a row. :func:`gather` brings them together, :func:`join` makes one Variant of what they became, or tells
why not: a video is never made with a scene missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import date, time
from decimal import Decimal
from itertools import groupby, islice
from typing import Any

from wanflow.errors import BadRow
from wanflow.manifest.values import identity, is_null
from wanflow.model import Output, Source, Variant
from wanflow.storage import redact
from wanflow.storage.paths import shown
from wanflow.written import written

#: row number, values, what of them could not be read
Row = tuple[int, dict[str, Any], Sequence[str]]
#: the same after the number of the variant that it belongs to
NumberedRow = tuple[int, int, dict[str, Any], Sequence[str]]

#: fields of a Variant in which its rows may differ
_OWN = ("row", "scenes", "priority")
#: scenes of a video: ffmpeg holds some frames of each, 35 MB in 1080p; more rows are grouped by the wrong column
MAX_SCENES = 100
#: characters of a value that are told
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class MadeRow:
    """What became of one row."""

    #: number of its variant: with a matrix, a row or a group has several
    variant: int
    row: int
    values: dict[str, Any]
    made: Variant | list[BadRow]


def whole_variants(rows: Iterable[Row], chosen: Iterable[Row], matrix: Sequence[str]) -> Iterator[Row]:
    """Of ``rows`` those of a video with a row among ``chosen``: nobody asks for a video with scenes missing."""
    variants = {_variant_of(row, matrix) for row in chosen}
    return (row for row in rows if _variant_of(row, matrix) in variants)


def gather(rows: Iterable[Row], matrix: Sequence[str], limit: int | None = None) -> Iterator[NumberedRow]:
    """``rows``, those of a video one after another in the table's order, videos in the order of their first rows.

    A video is a group with one choice of values for ``matrix``. Only the rows of the first ``limit`` videos are given.
    """
    variants: dict[object, list[Row]] = {}
    for each in rows:
        variants.setdefault(_variant_of(each, matrix), []).append(each)
    waiting = list(variants.values())
    variants.clear()
    waiting.reverse()
    for number in range(len(waiting))[:limit]:
        yield from ((number, *row) for row in waiting.pop())


def join(made: Iterable[MadeRow], by: str | None, order: str | None) -> Iterator[Variant | BadRow]:
    """One Variant for the rows of each video, scenes by the column ``order`` (None: in the table's order), or every
    reason why there is none. ``made`` comes as :func:`gather` gave it, by the column ``by``; None: a row is a video.
    """
    for variant, group in groupby(made, key=lambda each: each.variant):
        rows = list(islice(group, None if by else 1))  # a row that is a video waits for no other
        found = _join(rows, by, order) if by else rows[0].made
        if isinstance(found, Variant):
            yield found
        else:
            yield from (replace(bad, variant=variant) for bad in sorted(found, key=lambda bad: bad.row))


def _variant_of(row: Row, matrix: Sequence[str]) -> tuple[str | int, ...]:
    """A row without a good id is a group of its own: it is told as a bad row."""
    number, values, _ = row
    try:
        group: str | int = identity(values["variant_id"])
    except ValueError:
        group = number
    return group, *(repr(values[name]) for name in matrix)


def _join(rows: list[MadeRow], by: str, order: str | None) -> Variant | list[BadRow]:
    if len(rows) > MAX_SCENES:
        reason = f"{by}: {len(rows):,} rows have this value, but a video has at most {MAX_SCENES} scenes"
        return [BadRow(rows[0].row, rows[0].values["variant_id"], f"{reason}; is it the column to group by?")]
    bad = [reason for each in rows if isinstance(each.made, list) for reason in each.made]
    scenes = [each.made for each in rows if isinstance(each.made, Variant)]
    if order is not None:
        places, problems = _places(rows, order)
        bad += problems
        scenes.sort(key=lambda variant: places.get(variant.row, 0))
    by_row = sorted(scenes, key=lambda variant: variant.row)
    for variant in by_row[1:]:
        reasons = _differences(by_row[0], variant)
        bad += [BadRow(variant.row, variant.variant_id, shown(reason)) for reason in reasons]
    if bad:
        return bad
    first = by_row[0]
    return replace(
        first,
        scenes=tuple(scene for variant in scenes for scene in variant.scenes),
        priority=max(variant.priority for variant in scenes),
    )


def _places(rows: Sequence[MadeRow], order: str) -> tuple[dict[int, int], list[BadRow]]:
    """Row to its place among the scenes."""
    bad: list[BadRow] = []
    texts: dict[int, str] = {}
    keys: dict[int, Any] = {}
    first: dict[Any, int] = {}
    for each in rows:
        value, reason = each.values.get(order), "is empty; every scene of a video needs its place"
        try:
            if not is_null(value):
                texts[each.row], key = written(value), _sort_key(value)
                whose = first.setdefault(key, each.row)
                reason = f"row {whose} has {_short(texts[whose])} already; each scene has its own place"
                if whose == each.row:
                    keys[each.row] = key
                    continue
        except ValueError as exc:
            reason = str(exc)
        bad.append(BadRow(each.row, each.values["variant_id"], shown(f"{order}: {reason}")))
    return {row: place for place, row in enumerate(sorted(keys, key=keys.__getitem__))}, bad


def _sort_key(value: object) -> Any:
    """Numbers and times as they are; a text by its words and the whole numbers in it, as people number slides: 2 before
    10, 1.9 before 1.10, 3a behind 3. ValueError where a value is none that can be written."""
    if isinstance(value, int | float | Decimal | date | time):
        return 0, value
    parts = re.split(r"(^-\d+|\d+)", written(value))
    # behind the numbers of a column that should have had numbers alone: that row is bad for it
    return 1, *(int(part) if i % 2 else part for i, part in enumerate(parts))


def _differences(one: Variant, other: Variant) -> Iterator[str]:
    """What two rows of one video say differently of it, in words."""

    def words(what: str, mine: object, its: object, advice: str) -> str:
        rows = f"{_short(mine)} in row {one.row} and {_short(its)} in row {other.row}"
        return f"{what} {rows}; {advice}"

    for field in fields(one):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        if field.name in _OWN or mine == its:
            continue
        if field.name == "outputs":
            if [output for output, _ in mine] != [output for output, _ in its]:
                yield words(
                    "outputs: are", _outputs(mine), _outputs(its), "give all rows of a video the same aspects"
                )
                continue
            for (_, here), (_, there) in zip(mine, its, strict=True):
                if here != there:
                    yield words("publish.path: gives", here, there, "a video has one; use {{ variant_id }}")
        elif field.name == "carry":
            for (column, here), (_, there) in zip(mine, its, strict=True):
                if here != there and not (is_null(here) and is_null(there)):
                    advice = "a video has one; make it the same in all its rows, or leave it out"
                    yield words(f"publish.carry: {column} is", here, there, advice)
        else:
            for place, here, there in _apart(field.name, mine, its):
                yield words(f"{place}: is", here, there, "a video has one; make it the same in all its rows")


def _apart(place: str, mine: Any, its: Any) -> Iterator[tuple[str, object, object]]:
    """(place, one value, the other) of what differs within two values; an input is told by its name."""
    if mine is None or its is None or not is_dataclass(mine) or isinstance(mine, Source):
        yield place, *(getattr(value, "source", value) for value in (mine, its))
        return
    for field in fields(mine):
        if field.compare and getattr(mine, field.name) != getattr(its, field.name):
            yield from _apart(f"{place}.{field.name}", getattr(mine, field.name), getattr(its, field.name))


def _outputs(outputs: Sequence[tuple[Output, str]]) -> str:
    return ", ".join(f"{output.name} from {output.aspect}" for output, _ in outputs)


def _short(value: object) -> str:
    name = redact(value.url).rpartition("/")[2] if isinstance(value, Source) else str(value)
    text = "nothing" if is_null(value) else name
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
