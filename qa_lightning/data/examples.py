"""Validate raw rows into examples ``id, question, context, answers{text, answer_start}``, and write them to disk.

A question without an answer has empty ``answers``. SQuAD v2.0's ``is_impossible`` is only checked against them.
Rows are streamed. To find duplicate ids, all ids are kept in a temporary file (`IdPlaces`).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypedDict

import pyarrow as pa

from qa_lightning.data.answers import Answers, Problem, check_answers, has_surrogates
from qa_lightning.data.columns import MadeId
from qa_lightning.data.formats import COLUMNS, BrokenRow, PlacedRow, counted, listed, shown
from qa_lightning.errors import InputError
from qa_lightning.files import no_temporary_room

OnBadRows = Literal["error", "skip", "repair"]
_BATCH_CHARACTERS = 1 << 26  # a batch with more characters of contexts is written; Arrow allows 2 GiB of text a batch
_FIX = "correct them, or pass --data.on_bad_rows skip to leave such rows out"
_MOVE = ", or repair to move answers whose right offset is certain"
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


def in_validation(context: str, fraction: float, seed: int) -> bool:
    """Whether a context, with all its questions, belongs to the held-out share ``fraction`` of the contexts.

    A hash of ``seed`` and context decides, so the split does not depend on the order or number of rows.
    """
    digest = hashlib.sha256(f"{seed}\n{context}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def check_row(
    place: str, row: dict[str, Any], repairs: list[str] | None = None
) -> tuple[Example | None, list[Problem]]:
    """Turn a raw row into an `Example`, or list all its problems.

    Args:
        place: where the row is in its source, for messages.
        row: with the usual columns.
        repairs: wrong answer offsets are repaired (see `answers.repaired_start`) if the row has no other problem, and
            each repair is appended here as a line; None repairs nothing.

    Returns:
        The example and no problems, or None and at least one problem.
    """
    if isinstance(row, BrokenRow):
        return None, [Problem(row.kind, problem) for problem in row.problems]
    missing = [column for column in COLUMNS if column not in row]
    if missing == ["answers"] and row.get("is_impossible") is True:
        missing = []
    if missing:
        return None, [Problem("columns", f"{place}: no column {listed(missing)}; it has {listed(row) or 'none'}")]
    problems: list[Problem] = []
    for column in ("question", "context"):
        value = row[column]
        if not isinstance(value, str):
            kind = "empty" if value is None else "type"
            problems.append(Problem(kind, f"{place}: {column} is {shown(value)}, not a text"))
        elif not value.strip():
            problems.append(Problem("empty", f"{place}: {column} is empty; fill it in or leave the row out"))
        elif has_surrogates(value):
            problems.append(
                Problem("text", f"{place}: {column} holds half of a surrogate pair; save the file as valid UTF-8")
            )
    if not isinstance(row["id"], (str, int)) or isinstance(row["id"], bool) or not str(row["id"]).strip():
        kind = "empty" if row["id"] is None or isinstance(row["id"], str) else "type"
        what = f"{place}: id is {shown(row['id'])}; give each question a unique text or number"
        problems.append(Problem(kind, what))
    elif has_surrogates(str(row["id"])):
        problems.append(Problem("text", f"{place}: id holds half of a surrogate pair; save the file as valid UTF-8"))
    if problems:
        return None, problems
    place = f"{place} (id {row['id']})"
    moved: list[str] = []
    answers, problems = check_answers(place, row.get("answers"), row["context"], None if repairs is None else moved)
    is_impossible = row.get("is_impossible")
    if is_impossible is not None and not isinstance(is_impossible, bool):
        problems.append(Problem("type", f"{place}: is_impossible is {shown(is_impossible)}, neither true nor false"))
    if not problems and is_impossible is True and answers["text"]:
        problems.append(
            Problem("contradiction", f"{place}: is_impossible is true, yet there are answers; correct one of the two")
        )
    if not problems and is_impossible is False and not answers["text"]:
        problems.append(
            Problem("contradiction", f"{place}: is_impossible is false, yet there is no answer; correct one of the two")
        )
    if problems:
        return None, problems
    if repairs is not None:
        repairs += moved
    example = Example(id=str(row["id"]), question=row["question"], context=row["context"], answers=answers)
    title = row.get("title")
    if isinstance(title, str) and not has_surrogates(title):
        example["title"] = title
    return example, []


def read_examples(
    rows: Iterable[PlacedRow],
    on_bad_rows: OnBadRows,
    skipped: list[str],
    keep: Callable[[Example], bool] = lambda _: True,
    max_examples: int | None = None,
    fix: str | None = None,
    repairs: list[str] | None = None,
) -> Iterator[Example]:
    """Stream the valid examples of some rows.

    Args:
        rows: with the usual columns.
        on_bad_rows: ``error`` raises for bad rows, ``skip`` leaves them out, ``repair`` moves answers whose right
            offset is certain and raises for the other bad rows.
        skipped: with ``skip``, the problems of each bad row are appended here, one line per row.
        keep: whether a valid example is wanted; the others are not yielded.
        max_examples: stop reading after this many wanted examples.
        fix: what the message advises for bad rows; None names the values of ``--data.on_bad_rows``.
        repairs: with ``repair``, each repair of a wanted example is appended here as a line.

    Raises:
        InputError: rows are bad; raised after the last row, with all problems. With ``skip`` only if no row is valid.
            Also if no example is wanted.
    """
    problems: list[str] = []
    bad_rows: list[str] = []
    found = valid = 0
    with closing(IdPlaces()) as places:
        for place, row in _until_broken(rows, problems if on_bad_rows != "skip" else []):
            if found == max_examples:
                break
            moved: list[str] | None = [] if on_bad_rows == "repair" else None
            example, wrong = check_row(place, row, moved)
            if example is not None and (first := places.add(example["id"], place)):
                wrong = [_twice(place, row["id"], first)]
            if wrong:
                problems += wrong
                bad_rows.append("; ".join(wrong))
            elif example is not None:
                valid += 1
                if keep(example):
                    found += 1
                    if repairs is not None:
                        repairs += moved or []
                    yield example
    if problems and (on_bad_rows != "skip" or not valid):
        raise InputError(_summed_up(problems, fix or _FIX + (_MOVE if on_bad_rows == "error" else "")))
    if not found:
        raise InputError("the data has no questions")
    skipped += bad_rows


def _until_broken(rows: Iterable[PlacedRow], problems: list[str]) -> Iterator[PlacedRow]:
    """Pass the rows on; if their source breaks off, its error also lists ``problems``, those of the rows before."""
    try:
        yield from rows
    except InputError as error:
        raise InputError([*error.problems, *problems]) from None


def _summed_up(problems: list[str], fix: str) -> list[str]:
    return [f"{counted(len(problems), 'problem')} in the data ({fix}):", *problems]


def _twice(place: str, name: Any, first: str) -> Problem:
    if isinstance(name, MadeId):
        what = f"{place}: has the same question, context and answers as {first}; leave one of the two out"
        return Problem("same_row", what)
    return Problem("duplicate_id", f"{place}: id {str(name)!r} is also the id of {first}; ids must be unique")


class IdPlaces:
    """Remembers each id and its row's place, in a temporary SQLite file; memory stays at a cache of 16 MiB."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)  # SQLite removes the file when the connection closes
        for command in (
            "PRAGMA cache_size = -16384",  # KiB
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE places (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID",
            "BEGIN",
        ):
            self._base.execute(command)

    def add(self, name: str, place: str) -> str | None:
        """Remember an id; return the place of an earlier row with the same id, or None."""
        try:
            added = self._base.execute("INSERT OR IGNORE INTO places VALUES (?, ?)", (name, place)).rowcount
        except sqlite3.OperationalError as error:
            raise no_temporary_room(error) from None
        if added:
            return None
        return self.find(name)

    def find(self, name: str) -> str | None:
        """The place of the row with this id; None if there is none."""
        found = self._base.execute("SELECT place FROM places WHERE id = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

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
