"""Python objects as sources: what a caller may give in place of a name, and the rows of a `GivenRows`.

These are a ``datasets.Dataset`` or ``DatasetDict``, a DataFrame of pandas or polars, and a list of dicts. A row is
named as its owner finds it: ``dataset[2]``, ``dataset["train"][2]``, ``dataset.iloc[2]``, ``dataset.row(2)``.

Libraries are recognized by the names of their classes, so that none is imported that the caller has not imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from qa_lightning.data.formats import PlacedRow, no_split, refuse_repeated
from qa_lightning.data.formats.limits import small_tables
from qa_lightning.errors import InputError
from qa_lightning.wording import counted, shown

if TYPE_CHECKING:
    GivenData: TypeAlias = Any  # all that `given_source` takes; its libraries are not typed
else:
    GivenData = str  # what a flag can give

Split = Literal["train", "validation"]
_ROWS = 1000  # of a dataset, read at a time
_TAKEN = (
    "a file, a folder or a dataset's name, a list of paths, a datasets.Dataset or DatasetDict, a DataFrame, or a list "
    "of dicts"
)
_KINDS = {
    ("datasets", "DatasetDict"): "DatasetDict",
    ("datasets", "Dataset"): "Dataset",
    ("pandas", "DataFrame"): "DataFrame",
    ("polars", "DataFrame"): "polars DataFrame",
}
_FIXES = {
    ("datasets", "IterableDataset"): "it is read more than once; pass datasets.Dataset.from_list(list(...))",
    ("datasets", "IterableDatasetDict"): "it is read more than once; load it without streaming=True",
    ("pandas", "Series"): "it is one column; pass the whole DataFrame",
    ("polars", "LazyFrame"): "call its collect()",
    ("builtins", "dict"): "pass a list of dicts, one for each row; of several splits pass dataset= and validation=",
    ("builtins", "generator"): "it is read more than once; pass list(...)",
}
_SAVED = re.compile(r"\w+ \((?:list|(?:polars )?DataFrame|Dataset|DatasetDict)\)")  # see `GivenRows.__str__`


class GivenRows:
    """The rows of an object; they are read anew each time, and not copied.

    Args:
        argument: the name of the argument that it was given as, for messages.
        value: the object.
        kind: what it is: a value of `_KINDS`, or ``list``.
    """

    def __init__(self, argument: str, value: Any, kind: str) -> None:
        self.argument = argument
        self.value = value
        self.kind = kind
        self._fingerprints: dict[Split, str] = {}

    def __str__(self) -> str:
        return f"{self.argument} ({self.kind})"

    __repr__ = __str__

    @property
    def splits(self) -> list[str]:
        """The names of its splits; empty if it is not divided."""
        return list(self.value) if self.kind == "DatasetDict" else []

    def count(self, split: Split) -> int:
        """The number of rows of a split."""
        return len(self._part(split))

    def rows(self, split: Split) -> Iterator[PlacedRow]:
        """Stream the rows of a split, each with its place; an object that is not divided ignores ``split``.

        Values of numpy and pandas become plain ones, and missing values (NaN, NA, NaT) None.
        """
        return ((self.place(split, number), row) for number, row in enumerate(self._rows(split)))

    def place(self, split: Split, number: int) -> str:
        """What its owner calls a row of a split; rows are counted from 0."""
        if self.kind == "DatasetDict":
            return f"{self.argument}[{split!r}][{number}]"
        if self.kind == "polars DataFrame":
            return f"{self.argument}.row({number})"
        return f"{self.argument}.iloc[{number}]" if self.kind == "DataFrame" else f"{self.argument}[{number}]"

    def fingerprint(self, split: Split) -> str:
        """A key of the content of a split, the same for equal rows in whatever object; see `forget`."""
        if split not in self._fingerprints:
            content = hashlib.sha256()
            for _, row in self.rows(split):
                try:
                    text = json.dumps(row, default=repr)
                except (TypeError, ValueError, RecursionError):  # names that are no texts, circles
                    text = repr(row)
                content.update(text.encode("utf-8", "surrogatepass") + b"\n")
            self._fingerprints[split] = f"rows-{content.hexdigest()}"
        return self._fingerprints[split]

    def forget(self) -> None:
        """Forget the fingerprints: the object may have been changed since they were computed."""
        self._fingerprints.clear()

    def _part(self, split: Split) -> Any:
        if self.kind != "DatasetDict":
            return self.value
        if split not in self.value:
            raise no_split(f"{self}:", split, self.value)
        return self.value[split]

    def _rows(self, split: Split) -> Iterator[dict[str, Any]]:
        part = self._part(split)
        if self.kind in ("Dataset", "DatasetDict"):
            return rows_of_dataset(part, self.argument + (f"[{split!r}]" if self.kind == "DatasetDict" else ""))
        if self.kind == "polars DataFrame":
            return ({name: _plain(cell) for name, cell in row.items()} for row in part.iter_rows(named=True))
        if self.kind == "DataFrame":
            return self._rows_of_pandas()
        return ({str(name): _plain(cell) for name, cell in row.items()} for row in part)

    def _rows_of_pandas(self) -> Iterator[dict[str, Any]]:
        """The rows of a DataFrame; an index that has a name is a column too, as where pandas writes a file."""
        frame = self.value
        names_of_index = enumerate(frame.index.names)
        levels = [level for level, name in names_of_index if name is not None and name not in frame.columns]
        if levels:
            frame = frame.reset_index(level=levels, allow_duplicates=True)
        names = [str(name) for name in frame.columns]
        refuse_repeated(str(self), names)
        for cells in frame.itertuples(index=False, name=None):
            yield dict(zip(names, map(_plain, cells), strict=True))


Source: TypeAlias = str | GivenRows


def given_source(argument: str, value: Any) -> Source:
    """What `sources` reads, from what a caller gave.

    Args:
        argument: its name, ``dataset`` or ``validation``.
        value: a name or path, a list of paths, or an object that holds rows.

    Raises:
        InputError: it is none of these, or a list that mixes them; a message begins with what was given.
    """
    if isinstance(value, str):
        if _SAVED.fullmatch(value):
            raise InputError(f"was a {value.partition('(')[2][:-1]} in memory when this was saved; pass it again")
        return value
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    for one in type(value).__mro__:
        if kind := _KINDS.get((_library(one), one.__name__)):
            return GivenRows(argument, value, kind)
    if isinstance(value, (list, tuple)):
        return _given_list(argument, list(value))
    name = (_library(type(value)), type(value).__name__)
    raise InputError(f"is of type {name[1]} ({shown(value)}); {_FIXES.get(name, f'pass {_TAKEN}')}")


def _given_list(argument: str, items: list[Any]) -> Source:
    if not items:
        raise InputError("is an empty list; there is nothing in it to read")
    if all(isinstance(item, Mapping) for item in items):
        return GivenRows(argument, items, "list")
    if all(isinstance(item, (str, os.PathLike)) for item in items):
        paths = [str(os.fspath(item)) for item in items]
        if with_comma := [path for path in paths if "," in path]:
            raise InputError(f"holds the path {with_comma[0]!r}, whose comma would separate two paths; rename the file")
        return ",".join(paths)
    wanted = Mapping if isinstance(items[0], Mapping) else (str, os.PathLike)
    number = next(number for number, item in enumerate(items) if not isinstance(item, wanted))
    what = f"item {number} is of type {type(items[number]).__name__} ({shown(items[number])})"
    raise InputError(f"is a list of {counted(len(items), 'item')} of which {what}; give dicts alone, or paths alone")


def _library(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def rows_of_dataset(dataset: Any, place: str) -> Iterator[dict[str, Any]]:
    """Stream the rows of a ``datasets.Dataset``, so many at a time as memory holds easily.

    Args:
        dataset: in whatever format its owner has set.
        place: what it is called in messages.
    """
    plain, tables = dataset.with_format(None), dataset.with_format("arrow")
    for begin in range(0, len(dataset), _ROWS):
        number = begin
        for table in small_tables(tables[begin : begin + _ROWS], f"{place} rows {begin + 1:,} and on"):
            columns = plain[number : number + table.num_rows]
            number += table.num_rows
            for row in range(table.num_rows):
                yield {name: values[row] for name, values in columns.items()}


def _plain(value: Any) -> Any:
    """A cell as plain Python: arrays become lists, numpy's numbers Python's, and missing values None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value):
        return None
    if _library(type(value)) == "numpy" and hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value
