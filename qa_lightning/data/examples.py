"""Validate raw rows into examples ``id, question, context, answers{text, answer_start}``, and write them to disk.

A question without an answer has empty ``answers``. SQuAD v2.0's ``is_impossible`` is only checked against them.
Rows are streamed. To find duplicate ids, all ids are kept in a temporary file (`IdPlaces`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import pyarrow as pa

from qa_lightning.data.answers import Answers, OffsetPolicy, Problem, check_answers, has_surrogates
from qa_lightning.data.columns import MadeId
from qa_lightning.data.formats import COLUMNS, BrokenRow, PlacedRow
from qa_lightning.errors import InputError
from qa_lightning.files import no_temporary_room
from qa_lightning.wording import counted, listed, shown

OnBadRows = Literal["error", "skip", "repair", "repair_or_skip"]
SKIPPING: tuple[OnBadRows, ...] = ("skip", "repair_or_skip")  # the values that leave bad rows out
REPAIRING: tuple[OnBadRows, ...] = ("repair", "repair_or_skip")
_BATCH_CHARACTERS = 1 << 26  # a batch with more characters of contexts is written; Arrow allows 2 GiB of text a batch
NO_QUESTIONS = "the data has no questions"
REPAIRED, LEFT_OUT = "repaired.txt", "left_out.txt"  # files beside prepared examples that list each change
_REPAIR = "repair to repair answers whose right offset is certain"
_FIXES: dict[OnBadRows, str] = {
    "error": (
        f"correct them, or pass --data.on_bad_rows skip to leave such rows out, {_REPAIR}, or repair_or_skip for both"
    ),
    "repair": "correct them, or pass --data.on_bad_rows repair_or_skip to leave such rows out",
    "skip": f"no row is left; correct them, or pass --data.on_bad_rows {_REPAIR}",
    "repair_or_skip": "no row is left; correct them",
}
_UNIQUE = "ids must be unique: correct them, or pass --data.columns.id none to have them made"
_SKIP = "correct them, or pass --data.on_bad_rows skip to leave such rows out"
_FIXES_OF_TEXTS: dict[OnBadRows, str] = {  # where a wrong offset is not what makes a row bad
    "error": _SKIP,
    "repair": _SKIP,
    "skip": "no row is left; correct them",
    "repair_or_skip": "no row is left; correct them",
}
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("context", pa.string()),
        ("answers", pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])),
        ("title", pa.string()),
    ]
)


class Example(TypedDict, total=False):
    """One question; ``answer_start`` counts characters (code points) of ``context``.

    ``title`` is the article's title, if it has one.
    """

    id: str
    question: str
    context: str
    answers: Answers
    title: str


@dataclass
class CheckedRow:
    """A raw row after its check.

    Attributes:
        example: the row as an example; None if it cannot be used.
        problems: why it cannot be used; empty if it can.
        left_out: what is wrong with answers that are left out of ``example``, because it has others.
        repaired, unplaced: see `answers.CheckedAnswers`; for a row that can be used.
    """

    example: Example | None = None
    problems: list[Problem] = field(default_factory=list)
    left_out: list[Problem] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    unplaced: list[Problem] = field(default_factory=list)

    @property
    def noted(self) -> bool:
        """Whether it has problems or changes."""
        return bool(self.problems or self.left_out or self.repaired or self.unplaced)


def check_row(
    place: str,
    row: dict[str, Any],
    policy: OffsetPolicy = OffsetPolicy(),  # noqa: B008 - immutable
) -> CheckedRow:
    """Turn a raw row into an `Example`, or list all its problems.

    A bad answer beside a good one is left out; it does not make the row a bad one.

    Args:
        place: where the row is in its source, for messages.
        row: with the usual columns.
        policy: what to do with wrong offsets of answers.
    """
    if isinstance(row, BrokenRow):
        return CheckedRow(problems=[Problem(row.kind, problem) for problem in row.problems])
    if problems := list(_column_problems(place, row)):
        return CheckedRow(problems=problems)
    place = f"{place} (id {row['id']})"
    is_impossible = row.get("is_impossible")
    answers = check_answers(place, row.get("answers"), row["context"], policy, is_impossible is True)
    there = bool(answers.good["text"])
    problems = [] if there else list(answers.problems)
    if is_impossible is not None and not isinstance(is_impossible, bool):
        problems.append(Problem("type", f"{place}: is_impossible is {shown(is_impossible)}, neither true nor false"))
    elif not problems and is_impossible is not None and is_impossible == there:
        said = "true, yet there are answers" if there else "false, yet there is no answer"
        problems.append(Problem("contradiction", f"{place}: is_impossible is {said}; correct one of the two"))
    if problems:
        return CheckedRow(problems=problems)
    name = row["id"] if isinstance(row["id"], str) else str(row["id"])
    example = Example(id=name, question=row["question"], context=row["context"], answers=answers.good)
    title = row.get("title")
    if isinstance(title, int):  # a table's number of an article
        title = str(title)
    if isinstance(title, str) and not has_surrogates(title):
        example["title"] = title
    return CheckedRow(example, [], answers.problems, answers.repaired, answers.unplaced)


def _column_problems(place: str, row: dict[str, Any]) -> Iterator[Problem]:
    """What is wrong with a row's columns, but for its answers."""
    missing = [column for column in COLUMNS if column not in row]
    if missing == ["answers"] and row.get("is_impossible") is True:
        missing = []
    if missing:
        yield Problem("columns", f"{place}: no column {listed(missing)}; it has {listed(row) or 'none'}")
        return
    for column in ("question", "context"):
        value = row[column]
        if not isinstance(value, str):
            kind = "empty" if value is None else "type"
            parts = "; join its parts into one text" if isinstance(value, list) else ""
            yield Problem(kind, f"{place}: {column} is {shown(value)}, not a text{parts}")
        elif not value.strip():
            yield Problem("empty", f"{place}: {column} is empty; fill it in or leave the row out")
        elif has_surrogates(value):
            yield Problem("text", f"{place}: {column} holds half of a surrogate pair; save the file as valid UTF-8")
    if not isinstance(row["id"], (str, int)) or isinstance(row["id"], bool) or not str(row["id"]).strip():
        kind = "empty" if row["id"] is None or isinstance(row["id"], str) else "type"
        what = f"{place}: id is {shown(row['id'])}; give each question a unique text or number"
        yield Problem(kind, f"{what}, or pass --data.columns.id none to have ids made")
    elif has_surrogates(str(row["id"])):
        yield Problem("text", f"{place}: id holds half of a surrogate pair; save the file as valid UTF-8")


@dataclass
class RowChanges:
    """What was repaired, left out or taken as it is while rows were read: a line each.

    Attributes:
        repaired: answers whose offset, or text, was repaired.
        skipped: bad rows that were left out, with their problems.
        left_out: bad answers that were left out of questions that have others.
        unplaced: answers that were taken for their text alone, because their offset is wrong.
    """

    repaired: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unplaced: list[str] = field(default_factory=list)

    def add(self, checked: CheckedRow) -> None:
        """Add the changes of a row that is used."""
        self.repaired += checked.repaired
        self.left_out += checked.left_out
        self.unplaced += checked.unplaced


def read_examples(
    rows: Iterable[PlacedRow],
    on_bad_rows: OnBadRows,
    changes: RowChanges | None = None,
    keep: Callable[[str, bool], bool] = lambda *_: True,
    max_examples: int | None = None,
    fix: str | None = None,
    texts_alone: bool = False,
) -> Iterator[Example]:
    """Stream the valid examples of some rows.

    Args:
        rows: with the usual columns.
        on_bad_rows: ``error`` raises for bad rows, ``skip`` leaves them out; ``repair`` repairs answers whose right
            offset is certain and raises for the other bad rows, ``repair_or_skip`` leaves those out.
        changes: gets the changes of wanted examples, and the bad rows that are left out.
        keep: whether a valid example is wanted, by its context and by whether it has an answer; the others are not
            yielded.
        max_examples: stop reading after this many wanted examples.
        fix: what the message advises for bad rows; None names the values of ``--data.on_bad_rows``.
        texts_alone: take answers with a wrong offset, because only their texts are needed.

    Raises:
        InputError: rows are bad; raised after the last row, with all problems. With ``skip`` and ``repair_or_skip``
            only if no row is valid. Also if no example is wanted.
    """
    settings = ExampleSettings(on_bad_rows, texts_alone, fix)
    with closing(Merged(settings, changes, keep)) as merged:
        for place, row in _until_broken(rows, merged.told_at_a_break):
            checked = check_row(place, row, settings.policy)
            example = checked.example
            if example is None:
                merged.refuse(checked)
            elif merged.takes(place, example["id"], example["context"], bool(example["answers"]["text"]), checked):
                yield example
            if merged.found == max_examples:
                break
        merged.end()


@dataclass(frozen=True)
class ExampleSettings:
    """How bad rows are dealt with; see `read_examples`."""

    on_bad_rows: OnBadRows = "error"
    texts_alone: bool = False
    fix: str | None = None

    @property
    def policy(self) -> OffsetPolicy:
        """What to do with wrong offsets of answers."""
        return OffsetPolicy(self.on_bad_rows in REPAIRING, self.texts_alone)

    @property
    def skips(self) -> bool:
        """Whether bad rows are left out."""
        return self.on_bad_rows in SKIPPING

    @property
    def advice(self) -> str:
        """What a message says about bad rows."""
        return self.fix or (_FIXES_OF_TEXTS if self.texts_alone else _FIXES)[self.on_bad_rows]


class Merged:
    """What is known of all rows together: ids that repeat, problems, changes. It takes checked rows in their order.

    Args:
        settings: how bad rows are dealt with.
        changes, keep: see `read_examples`.

    Attributes:
        found: wanted examples so far.
    """

    def __init__(
        self, settings: ExampleSettings, changes: RowChanges | None, keep: Callable[[str, bool], bool]
    ) -> None:
        self._settings, self._changes, self._keep = settings, changes, keep
        self._places = IdPlaces()
        self._problems: list[str] = []
        self._bad_rows: list[str] = []
        self._valid = self.found = 0

    @property
    def told_at_a_break(self) -> list[str]:
        """The problems that the error of a source that breaks off also lists; grows."""
        return [] if self._settings.skips else self._problems

    def takes(self, place: str, name: str, context: str, answered: bool, checked: CheckedRow | None) -> bool:
        """Whether the example of a row is wanted; its changes are noted, or that its id repeats.

        Args:
            place: of the row.
            name, context: the example's.
            answered: whether the example has an answer.
            checked: the row's changes; None if there are none.
        """
        if first := self._places.add(name, place):
            self.refuse(CheckedRow(problems=[_twice(place, name, first)]))
            return False
        self._valid += 1
        if not self._keep(context, answered):
            return False
        self.found += 1
        if self._changes is not None and checked is not None:
            self._changes.add(checked)
        return True

    def refuse(self, checked: CheckedRow) -> None:
        """Note the problems of a row without an example."""
        self._problems += checked.problems
        self._bad_rows.append("; ".join(checked.problems))

    def end(self) -> None:
        """Note the rows that were left out, after the last one.

        Raises:
            InputError: see `read_examples`.
        """
        if self._problems and not (self._settings.skips and self._valid):
            raise InputError(_summed_up(self._problems, self._settings.advice))
        if not self.found:
            raise InputError(NO_QUESTIONS)
        if self._changes is not None:
            self._changes.skipped += self._bad_rows

    def close(self) -> None:
        """Forget the ids."""
        self._places.close()


def changed_lines(changes: RowChanges, folder: Path | None = None) -> Iterator[str]:
    """Lines that say how many answers and rows were repaired, left out or taken without an offset, and the first.

    Args:
        changes: that `read_examples` filled.
        folder: holds files that list all; None if there are none.
    """
    for lines, did, what, of, file in (
        (changes.repaired, "repaired", "answer", "", REPAIRED),
        (changes.skipped, "left out", "bad row", "", LEFT_OUT),
        (changes.left_out, "left out", "bad answer", " of questions that have others", LEFT_OUT),
    ):
        if lines:
            listed_in = f" (all are listed in {folder / file})" if folder else ""
            yield f"{did} {counted(len(lines), what)}{of}{listed_in}, the first: {lines[0]}"
    if lines := changes.unplaced:
        are = "is not at its" if len(lines) == 1 else "are not at their"
        count = "it counts" if len(lines) == 1 else "they count"
        yield (
            f"note: {counted(len(lines), 'gold answer')} {are} answer_start; {count} all the same, for EM and F1 "
            f"compare texts alone; the first: {lines[0]}"
        )


def _until_broken(rows: Iterable[PlacedRow], problems: list[str]) -> Iterator[PlacedRow]:
    """Pass the rows on; if their source breaks off, its error also lists ``problems``, those of the rows before."""
    try:
        yield from rows
    except InputError as error:
        raise InputError([*error.problems, *problems]) from None


def _summed_up(problems: list[str], fix: str) -> list[str]:
    return [f"{counted(len(problems), 'problem')} in the data ({fix}):", *problems]


def _twice(place: str, name: str, first: str) -> Problem:
    if isinstance(name, MadeId):
        what = f"{place}: has the same question, context and answers as {first}; leave one of the two out"
        return Problem("same_row", what)
    return Problem("duplicate_id", f"{place}: id {name!r} is also the id of {first}; {_UNIQUE}")


class IdPlaces:
    """Remembers each id and its row's place, in a temporary SQLite file; memory stays at a cache of 16 MiB.

    Places are bytes: the name of a file need not be valid UTF-8, and SQLite's texts must be.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)  # SQLite removes the file when the connection closes
        for command in (
            "PRAGMA cache_size = -16384",  # KiB
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE places (id TEXT PRIMARY KEY, place BLOB) WITHOUT ROWID",
            "BEGIN",
        ):
            self._base.execute(command)

    def add(self, name: str, place: str) -> str | None:
        """Remember an id; return the place of an earlier row with the same id, or None."""
        try:
            added = self._base.execute(
                "INSERT OR IGNORE INTO places VALUES (?, ?)", (name, place.encode("utf-8", "surrogatepass"))
            ).rowcount
        except sqlite3.OperationalError as error:
            raise no_temporary_room(error) from None
        if added:
            return None
        return self.find(name)

    def find(self, name: str) -> str | None:
        """The place of the row with this id; None if there is none."""
        found = self._base.execute("SELECT place FROM places WHERE id = ?", (name,)).fetchone()
        return None if found is None else found[0].decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """Close the connection, which removes the file."""
        self._base.close()


def write_examples(examples: Iterable[Example], path: Path, batch_rows: int = 1000) -> int:
    """Write an Arrow stream, which ``datasets.Dataset.from_file`` maps from disk.

    Args:
        examples: to write.
        path: of the file.
        batch_rows: rows of a record batch; a batch of long contexts has fewer.

    Returns:
        The number of rows.
    """
    batch: list[Example] = []
    count = characters = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:

        def write() -> None:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
            batch.clear()

        for example in examples:
            batch.append(example)
            count += 1
            characters += len(example["context"])
            if len(batch) == batch_rows or characters > _BATCH_CHARACTERS:
                write()
                characters = 0
        if batch:
            write()
    return count
