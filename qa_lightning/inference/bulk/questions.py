"""Stream the rows of any source as questions; rows that cannot be asked become `BadRow`s with the reason.

Columns are chosen as in training, but answers are not needed, and a row without an id gets one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qa_lightning.data.columns import ReadSettings, made_id, with_usual_columns
from qa_lightning.data.examples import check_row
from qa_lightning.data.formats import BrokenRow, PlacedRow, Remark
from qa_lightning.data.objects import Source
from qa_lightning.data.sources import count_rows, read_rows
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
        id: its id, if it has one that can be read.
    """

    row: int
    place: str
    problem: str
    id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """What is listed of it: its number, its place and the problem."""
        return {"row": self.row, "place": self.place, "problem": self.problem}


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
    rows = read_rows(source, "validation", reading)
    yield from questions_of(rows, reading, log_line, lambda number: number >= first, documents)


def questions_of(
    rows: Iterable[PlacedRow],
    reading: ReadSettings,
    log_line: Callable[[str], None] = lambda line: None,
    wanted: Callable[[int], bool] = lambda number: True,
    documents: Mapping[str, str] | None = None,
    number: int = 1,
) -> Iterator[Question | BadRow]:
    """The rows that are wanted, as questions; see `read_questions`.

    Args:
        rows: raw rows, with their places.
        wanted: whether to yield the row of a number; other rows are not checked.
        number: of the first of these rows in their source.

    Raises:
        InputError: the question or context column is not known.
    """
    read = with_joined_contexts(rows, documents)
    usual = with_usual_columns(read, reading, log_line, only_asked=True)
    for at, (place, row) in enumerate(usual, number):
        if wanted(at):
            yield _question(at, place, row)


def count_questions(source: Source, reading: ReadSettings) -> int:
    """The number of rows that `read_questions` yields; where the format does not tell it, they are all read.

    Raises:
        InputError: the source cannot be read.
    """
    quick = count_rows(source, "validation")
    if quick is not None:
        return quick
    rows = read_rows(source, "validation", reading)
    return sum(not isinstance(row, Remark) for _, row in rows)


def _question(number: int, place: str, row: dict[str, Any]) -> Question | BadRow:
    given = row.get("id")
    name = None if given is None or not str(given).strip() else str(given)
    if isinstance(row, BrokenRow):
        problems = [str(problem) for problem in row.problems]
    else:
        asked = {"id": made_id(row) if name is None else given, "question": row["question"], "context": row["context"]}
        checked = check_row(place, asked | {"answers": None})
        if example := checked.example:
            return Question(number, example["id"], example["question"], example["context"])
        problems = [str(problem) for problem in checked.problems]
    problem = "; ".join(problem.removeprefix(place).lstrip(": ") for problem in problems)
    return BadRow(number, place, problem, name)
