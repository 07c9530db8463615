"""Stream the rows of any source as questions; rows that cannot be asked become `BadRow`s with the reason.

Columns are chosen as in training, but answers are not needed, and a row without an id gets one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qa_lightning.data.columns import Columns, ReadSettings, choose_columns, made_id, with_usual_columns
from qa_lightning.data.examples import check_row
from qa_lightning.data.formats import BrokenRow, PlacedRow, Remark
from qa_lightning.data.objects import Source
from qa_lightning.data.sources import read_rows
from qa_lightning.errors import InputError
from qa_lightning.inference.bulk.several import with_joined_contexts


@dataclass(frozen=True)
class Question:
    """A row that can be asked.

    Attributes:
        row: its number in the source, from 1.
        context: `several.SeveralTexts`, if the row has several.
    """

    row: int
    id: str
    question: str
    context: str


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be asked.

    Attributes:
        row: its number in the source, from 1.
        place: the file and the row or line in it.
        problem: what is wrong, and the fix.
    """

    row: int
    place: str
    problem: str


def read_questions(
    source: Source,
    reading: ReadSettings,
    log_line: Callable[[str], None] = lambda line: None,
    first: int = 1,
    documents: Mapping[str, str] | None = None,
) -> Iterator[Question | BadRow]:
    """Stream the rows of a source; a bad row is yielded as a `BadRow`, and the next row is read.

    Args:
        source: what `sources.read_rows` takes.
        reading: names of columns, those that are None are guessed; encoding, separator of answers.
        log_line: is called with each line that says how the data is read.
        first: number of the first row to yield; rows before it are read but not checked.
        documents: id -> text, for rows with ``document_ids``.

    Raises:
        InputError: the source cannot be read, or its question or context column is not known.
    """
    read = with_joined_contexts(read_rows(source, "validation", reading, keep_broken=True), documents)
    rows = with_usual_columns(_completed(read, reading.columns), reading, log_line)
    for number, (place, row) in enumerate(rows, 1):
        if number >= first:
            yield _question(number, place, row)


def _completed(rows: Iterable[PlacedRow], columns: Columns) -> Iterator[PlacedRow]:
    """Add empty columns that `with_usual_columns` requires and answering does not need: answers, and an id per row.

    Existing answers stay, because made ids depend on them, here as in scoring.
    """
    missing: dict[tuple[str, ...], list[str]] = {}
    id_column: str | None = None
    for place, row in rows:
        if isinstance(row, (BrokenRow, Remark)):
            yield place, row
            continue
        present = tuple(row)
        if present not in missing:
            missing[present], named = _missing(place, list(present), columns, id_column)
            id_column = id_column or named
        yield place, row | dict.fromkeys(missing[present])


def _missing(place: str, present: list[str], columns: Columns, id_column: str | None) -> tuple[list[str], str | None]:
    """The columns to add to a row, and the name of its id column (None: it has none).

    Args:
        place: of the row, for messages.
        present: the row's columns.
        columns: names that the caller gave.
        id_column: the id column of earlier rows, if they had one.
    """
    trials = [[], ["answers"], *([[id_column], [id_column, "answers"]] if id_column else [])]
    for added in trials:
        try:
            names = choose_columns(place, [*present, *added], columns)
        except InputError:
            continue
        if "id" in names or id_column is None:
            return added, names.get("id")
    return ["answers"], None  # question or context is unknown: `with_usual_columns` raises


def _question(number: int, place: str, row: dict[str, Any]) -> Question | BadRow:
    if isinstance(row, BrokenRow):
        problems = [str(problem) for problem in row.problems]
    else:
        asked = {name: row[name] for name in ("id", "question", "context")} | {"answers": None}
        if asked["id"] is None or not str(asked["id"]).strip():
            asked["id"] = made_id(row)
        checked = check_row(place, asked)
        if example := checked.example:
            return Question(number, example["id"], example["question"], example["context"])
        problems = [str(problem) for problem in checked.problems]
    return BadRow(number, place, "; ".join(problem.removeprefix(place).lstrip(": ") for problem in problems))
