"""The manifest as a table: Parquet, CSV or JSON Lines at any URL, read in batches, never the whole at once.

:class:`Table` finds the files, reads their schemas and checks the columns that wanflow knows, so that a wrong type
is one error and not one a row. :meth:`Table.rows` gives the rows that a condition takes, numbered as the files
count them (1-based, over all files in order of their names), multiplied by ``matrix:``.

In CSV, and in the folder names of a partitioned data set (``country=DE/``), a value is the text that is written:
``007`` stays ``007``. Only seed, priority and seconds are numbers there, where their text is one. What a row means is
not known here.

Limits: nested columns are read whole; all files have one format; the columns of all files are looked at before the
first row is read (for Parquet that is one footer a file).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

from wanflow.errors import ManifestError
from wanflow.job.fields import to_number, to_whole
from wanflow.manifest.bombs import bounded
from wanflow.manifest.cells import read_type, values_of, way_inside
from wanflow.manifest.columns import COLUMNS, NUMBERS, wrong_type
from wanflow.manifest.conditions import compile_where
from wanflow.manifest.files import find_files, first_line, folders_of, opened, trouble
from wanflow.manifest.formats import READERS, SCHEMAS
from wanflow.suggest import did_you_mean
from wanflow.where import columns_of, parse_where

if TYPE_CHECKING:
    import pyarrow as pa

_POSITION = "\0position"


@dataclass(frozen=True, slots=True)
class _File:
    url: str
    #: (name, value) of its folders ``name=value``
    folders: tuple[tuple[str, str | None], ...]
    #: the columns that are in the file itself
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class _Choice:
    """One combination of ``matrix:`` values, and the conditions that a row with them must fulfil."""

    setting: Mapping[str, Any]
    #: (text, expression)
    conditions: Sequence[tuple[str, Any]]

    def kept(self, table: pa.Table) -> frozenset[int] | None:
        """Positions of the rows that fulfil all conditions; None: every one."""
        import pyarrow as pa

        if not self.conditions:
            return None
        numbered = _with(table, self.setting).append_column(_POSITION, pa.array(range(table.num_rows)))
        for condition, expression in self.conditions:
            try:
                numbered = numbered.filter(expression)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
                raise ManifestError(
                    f"the condition `{condition}` cannot be tried: {first_line(exc)}; a column of text can be "
                    "compared with a number, or with true and false, only where all of it reads so; else put that "
                    "side in quotes, as in = 'yes'"
                ) from None
        return frozenset(numbered.column(_POSITION).to_pylist())


class Table:
    """An open manifest: ``columns`` are its names, after renaming.

    With ``group_by`` that column is ``variant_id`` too.
    """

    def __init__(
        self, url: str, rename: Mapping[str, str] | None = None, group_by: str | None = None
    ) -> None:
        """Raises ManifestError when it cannot be read or a known column has a wrong type (all of them are listed)."""
        self.url = url
        names, self._format = find_files(url)
        self._files = [_File(name, folders_of(name), self._schema_of(name)) for name in names]
        self._schema, self._loose = self._unite()
        self._theirs = self._rename(rename or {})
        self._id = group_by or "variant_id"
        self._name_group()
        self.columns = tuple(self._theirs)
        self._check_columns()

    def ways_inside(self) -> dict[str, str]:
        """Of each column of lists or structs, what a template writes to get a value of it."""
        ways = {name: way_inside(name, self._schema.field(self._theirs[name]).type) for name in self.columns}
        return {name: way for name, way in ways.items() if way}

    def rows(
        self,
        needed: Collection[str],
        conditions: Sequence[str] = (),
        matrix: Mapping[str, Sequence[Any]] | None = None,
    ) -> Iterator[tuple[int, dict[str, Any], Sequence[str]]]:
        """(row number, values, what of them could not be read) of each row where all ``conditions`` hold.

        Values are those of the columns ``needed`` that exist, and of ``matrix``.

        Raises ManifestError for a condition that does not fit the columns, at once; for a file that turns out broken or
        a table without any row, while reading.
        """
        import pyarrow as pa

        settings = [
            dict(zip(matrix or {}, values, strict=True)) for values in product(*(matrix or {}).values())
        ]
        read = {c for text in conditions for c in _columns_of(text)} | set(needed)
        names = [name for name in self.columns if name in read and name not in settings[0]]
        empty = pa.schema(
            [pa.field(n, self._schema.field(self._theirs[n]).type) for n in names]
        ).empty_table()
        choices = [
            _Choice(
                setting,
                [
                    (text, compile_where(text, _with(empty, setting).schema, self._loose))
                    for text in conditions
                ],
            )
            for setting in settings
        ]
        return self._rows(names, [n for n in names if n in needed], choices)

    def _rows(
        self, names: list[str], needed: list[str], choices: list[_Choice]
    ) -> Iterator[tuple[int, dict[str, Any], Sequence[str]]]:
        before, numbers = 0, self._loose & NUMBERS
        for table in self._batches(names):
            kept = [(choice.setting, choice.kept(table)) for choice in choices]
            columns, broken = [], dict[int, list[str]]()
            for name in needed:
                values, problems = values_of(table.column(name))
                columns.append([*map(_number, values)] if name in numbers else values)
                for i, problem in problems.items():
                    broken.setdefault(i, []).append(f"{name}: {problem}")
            for i, row in enumerate(zip(*columns, strict=True) if columns else [()] * table.num_rows):
                for setting, rows in kept:
                    if rows is None or i in rows:
                        values_by_name = {**dict(zip(needed, row, strict=True)), **setting}
                        yield before + i + 1, values_by_name, broken.get(i, ())
            before += table.num_rows
        if before == 0:
            raise ManifestError(f"{self.url}: the manifest has no rows; is it the right file?")

    def _batches(self, names: list[str]) -> Iterator[pa.Table]:
        import pyarrow as pa

        theirs = [self._theirs[name] for name in names]
        for file in self._files:
            inside = [name for name in dict.fromkeys(theirs) if name in file.schema.names]
            wanted = pa.schema([self._schema.field(name) for name in inside])
            try:
                with opened(file.url) as handle:
                    for batch in READERS[self._format](handle, wanted):
                        yield _fitted(batch, file, theirs, names, self._schema)
            except (pa.ArrowException, OSError, ValueError, KeyError) as exc:
                raise trouble(f"{file.url}: cannot be read", exc, self._advice(exc)) from exc

    def _schema_of(self, url: str) -> pa.Schema:
        import pyarrow as pa

        try:
            with opened(url) as handle:
                schema = SCHEMAS[self._format](handle)
        except (pa.ArrowException, OSError, ValueError, KeyError) as exc:
            raise trouble(f"{url}: is not a readable {self._format} file", exc, self._advice(exc)) from exc
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise ManifestError(f"{url}: two columns are called `{twice[0]}`; rename one of them")
        return pa.schema([(field.name, read_type(field.type)) for field in schema])

    def _advice(self, exc: Exception) -> str:
        text = str(exc)
        if "UTF8" in text or "utf-8" in text:
            return "; save it as UTF-8"
        if self._format == "json":
            return "; a JSON manifest has one object a line (JSON Lines)"
        return ""

    def _unite(self) -> tuple[pa.Schema, frozenset[str]]:
        """One schema for all files, and the names of the columns whose text may stand for numbers."""
        import pyarrow as pa

        folders = list(dict.fromkeys(name for file in self._files for name, _ in file.folders))
        try:
            schema = pa.unify_schemas(
                [file.schema.remove_metadata() for file in self._files], promote_options="permissive"
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            raise ManifestError(self._disagreement()) from None
        added = [name for name in folders if name not in schema.names]
        for name in added:
            schema = schema.append(pa.field(name, pa.string()))
        loose = schema.names if self._format == "csv" else added
        return schema, frozenset(loose)

    def _disagreement(self) -> str:
        """Which column has which types where."""
        first: dict[str, tuple[Any, str]] = {}
        for file in self._files:
            for field in file.schema:
                kind, url = first.setdefault(field.name, (field.type, file.url))
                if kind != field.type and "null" not in (str(kind), str(field.type)):
                    return (
                        f"{self.url}: the column `{field.name}` is {kind} in {url} and {field.type} in {file.url}; "
                        "write it with one type"
                    )
        return f"{self.url}: the files have columns of different types"

    def _rename(self, rename: Mapping[str, str]) -> dict[str, str]:
        problems = [
            f"manifest.rename.{ours}: {self.url} has no column `{theirs}`; {did_you_mean(theirs, self._schema.names)}"
            for ours, theirs in rename.items()
            if theirs not in self._schema.names
        ]
        if problems:
            raise ManifestError("\n".join(problems))
        taken = set(rename.values())
        kept = {name: name for name in self._schema.names if name not in taken and name not in rename}
        self._loose = self._loose & set(kept) | {
            ours for ours, theirs in rename.items() if theirs in self._loose
        }
        return {**rename, **kept}

    def _name_group(self) -> None:
        """Let the column that rows are grouped by be ``variant_id`` as well."""
        if self._id == "variant_id":
            return
        problem = ""
        if self._id not in self._theirs:
            problem = f"there is no column `{self._id}`; {did_you_mean(self._id, self._theirs)}"
        elif "variant_id" in self._theirs:
            problem = (
                f"{self._id} names the videos, but there is a column variant_id too; write `by: variant_id`, or give "
                "that one another name: `manifest.rename: {scene_id: variant_id}`"
            )
        if problem:
            raise ManifestError(f"manifest.group.by: {self.url}: {problem}")
        self._theirs = {"variant_id": self._theirs[self._id], **self._theirs}
        if self._id in self._loose:
            self._loose |= {"variant_id"}

    def _check_columns(self) -> None:
        problems = [
            f"the column {self._id if name == 'variant_id' else name} {problem}"
            for name in self.columns
            if name in COLUMNS
            and name not in self._loose
            and (problem := wrong_type(name, self._schema.field(self._theirs[name]).type))
        ]
        if "variant_id" not in self.columns:
            near = did_you_mean("variant_id", self.columns) or "it has no columns"
            problems.append(
                f"there is no column variant_id; {near}; `manifest.rename: {{variant_id: YOURS}}` renames one"
            )
        if problems:
            raise ManifestError("\n  ".join([f"{self.url}: the manifest cannot be used", *problems]))


@lru_cache(maxsize=1024)
def _number(value: Any) -> Any:
    """A text that is a number as one; any other value as it is."""
    whole = to_whole(value)
    number = to_number(value) if whole is None else whole
    return value if number is None else number


def _columns_of(text: str) -> frozenset[str]:
    try:
        return columns_of(parse_where(text))
    except ValueError as exc:
        raise ManifestError(str(exc)) from None


def _with(table: pa.Table, setting: Mapping[str, Any]) -> pa.Table:
    """``table`` with a constant column for each value of ``setting``."""
    import pyarrow as pa

    for name, value in setting.items():
        table = table.append_column(name, pa.repeat(pa.scalar(value), table.num_rows))
    return table


def _fitted(batch: Any, file: _File, theirs: list[str], names: list[str], schema: pa.Schema) -> pa.Table:
    """The columns ``theirs`` under our ``names``: from the file, from its folders, or null."""
    import pyarrow as pa

    folders = dict(file.folders)
    columns = []
    for name in theirs:
        kind = schema.field(name).type
        if name in file.schema.names:
            columns.append(bounded(batch.column(name), kind))
        else:
            columns.append(pa.repeat(pa.scalar(folders.get(name), kind), batch.num_rows))
    if not columns:  # a table without columns would forget how many rows it has
        return pa.table({"\0none": pa.nulls(batch.num_rows)})
    return pa.table(columns, names=names)
