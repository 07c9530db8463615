"""Raw rows -> validated examples ``id, question, context, answers{text, answer_start}``.

A question without an answer has empty ``answers`` (v2.0's ``is_impossible`` is read, and held against the answers).
Rows are streamed; ids are remembered to find duplicates, in a temporary file (`IdPlaces`).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypedDict

import pyarrow as pa

from qa_lightning.errors import InputError
from qa_lightning.sources import COLUMNS, PlacedRow, shown

OnBadRows = Literal["error", "skip"]
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("context", pa.string()),
        ("answers", pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])),
    ]
)


class Answers(TypedDict):
    """Gold answers: equally long lists, empty for a question without an answer."""

    text: list[str]
    answer_start: list[int]


class Example(TypedDict):
    """One question; ``answer_start`` counts characters (code points) of ``context``."""

    id: str
    question: str
    context: str
    answers: Answers


def in_validation(context: str, fraction: float, seed: int) -> bool:
    """Put a context, with all of its questions, into the held-out part with probability ``fraction``.

    A hash of seed and context decides, so the split is the same whatever the order or number of rows.
    """
    digest = hashlib.sha256(f"{seed}\n{context}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def check_row(place: str, row: dict[str, Any]) -> tuple[Example | None, list[str]]:
    """Turn a raw row into an `Example`, or say all that is wrong with it."""
    missing = [column for column in COLUMNS if column not in row]
    if missing == ["answers"] and row.get("is_impossible") is True:
        missing = []
    if missing:
        return None, [f"{place}: no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, row))}"]
    problems = []
    for column in ("question", "context"):
        value = row[column]
        if not isinstance(value, str):
            problems.append(f"{place}: {column} is {shown(value)}, not a text")
        elif not value.strip():
            problems.append(f"{place}: {column} is empty; fill it in or leave the row out")
        elif has_surrogates(value):
            problems.append(f"{place}: {column} holds half of a surrogate pair; save the file as valid UTF-8")
    if not isinstance(row["id"], (str, int)) or isinstance(row["id"], bool) or row["id"] == "":
        problems.append(f"{place}: id is {shown(row['id'])}; give every question a text or number of its own")
    elif has_surrogates(str(row["id"])):
        problems.append(f"{place}: id holds half of a surrogate pair; save the file as valid UTF-8")
    if problems:
        return None, problems
    place = f"{place} (id {row['id']})"
    answers, problems = _check_answers(place, row.get("answers"), row["context"])
    is_impossible = row.get("is_impossible")
    if is_impossible is not None and not isinstance(is_impossible, bool):
        problems.append(f"{place}: is_impossible is {shown(is_impossible)}, neither true nor false")
    if not problems and is_impossible is True and answers["text"]:
        problems.append(f"{place}: is_impossible is true, yet there are answers; correct one of the two")
    if not problems and is_impossible is False and not answers["text"]:
        problems.append(f"{place}: is_impossible is false, yet there is no answer; correct one of the two")
    if problems:
        return None, problems
    return Example(id=str(row["id"]), question=row["question"], context=row["context"], answers=answers), []


def has_surrogates(text: str) -> bool:
    """Whether ``text`` holds half of a surrogate pair, which no UTF-8 file can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def read_examples(
    rows: Iterable[PlacedRow],
    on_bad_rows: OnBadRows,
    skipped: list[str],
    keep: Callable[[Example], bool] = lambda _: True,
    most: int | None = None,
    cure: str = "correct them, or pass --data.on_bad_rows skip to leave such rows out",
) -> Iterator[Example]:
    """Stream valid examples.

    Args:
        rows: what `read_rows` gives.
        on_bad_rows: ``error`` raises, ``skip`` leaves bad rows out.
        skipped: with ``skip``, what is wrong with each row left out is appended here, one line a row.
        keep: which of the valid examples are wanted.
        most: stop reading after so many wanted ones.
        cure: what a person can do about bad rows.

    Raises:
        InputError: with ``error``, after the last row, listing all problems; for both, when no row was valid.
    """
    problems: list[str] = []
    bad_rows: list[str] = []
    found = valid = 0
    with closing(IdPlaces()) as places:
        for place, row in rows:
            if found == most:
                break
            example, wrong = check_row(place, row)
            if example is not None and (first := places.add(example["id"], place)):
                wrong = [f"{place}: id {example['id']!r} stands already at {first}; ids must be unique"]
            if wrong:
                problems += wrong
                bad_rows.append("; ".join(wrong))
            elif example is not None:
                valid += 1
                if keep(example):
                    found += 1
                    yield example
    if problems and (on_bad_rows == "error" or not valid):
        count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''} in the data"
        raise InputError([f"{count} ({cure}):", *problems])
    if not found:
        raise InputError("the data has no questions")
    skipped += bad_rows


class IdPlaces:
    """Which ids there were, and where, in a temporary database: memory stays at some megabytes for any number."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)  # a file that goes with the connection
        for command in (
            "PRAGMA cache_size = -16384",  # KiB
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE places (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID",
            "BEGIN",
        ):
            self._base.execute(command)

    def add(self, name: str, place: str) -> str | None:
        """Remember an id; where it stood before, if it did."""
        if self._base.execute("INSERT OR IGNORE INTO places VALUES (?, ?)", (name, place)).rowcount:
            return None
        (first,) = self._base.execute("SELECT place FROM places WHERE id = ?", (name,)).fetchone()
        return str(first)

    def close(self) -> None:
        """Remove the file."""
        self._base.close()


def write_examples(examples: Iterable[Example], path: Path, batch_rows: int = 1000) -> int:
    """Write an Arrow stream that ``datasets.Dataset.from_file`` maps from disk; return the number of rows."""
    rows = iter(examples)
    count = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        while batch := list(islice(rows, batch_rows)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
            count += len(batch)
    return count


def _check_answers(place: str, answers: Any, context: str) -> tuple[Answers, list[str]]:
    """Check both usual shapes: ``{"text": [...], "answer_start": [...]}`` and ``[{"text", "answer_start"}, ...]``."""
    result = Answers(text=[], answer_start=[])
    if answers is None:
        return result, []
    if isinstance(answers, dict):
        if not all(isinstance(answers.get(key), list) for key in ("text", "answer_start")):
            return result, [f"{place}: answers is {shown(answers)}; it needs the lists 'text' and 'answer_start'"]
        if len(answers["text"]) != len(answers["answer_start"]):
            return result, [
                f"{place}: {len(answers['text'])} answer texts but "
                f"{len(answers['answer_start'])} answer_start values; they go in pairs"
            ]
        pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
    elif isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in answers]
    else:
        return result, [f"{place}: answers is {shown(answers)}, not a list of answers"]
    problems = []
    for text, start in pairs:
        if not isinstance(text, str) or not text.strip():
            problems.append(f"{place}: answer text is {shown(text)}; an unanswerable question has no answers at all")
        elif not isinstance(start, int) or isinstance(start, bool) or start < 0:
            problems.append(f"{place}: answer_start is {shown(start)}; it counts characters from 0")
        elif context[start : start + len(text)] != text:
            problems.append(
                f"{place}: answer {shown(text)} is not at answer_start {start} "
                f"(there: {shown(context[start : start + len(text)])}); {_where(text, context)}"
            )
        else:
            result["text"].append(text)
            result["answer_start"].append(start)
    return result, problems


def _where(text: str, context: str) -> str:
    places: list[str] = []
    place = context.find(text)
    while place >= 0 and len(places) < 3:
        places.append(str(place))
        place = context.find(text, place + 1)
    return f"it stands at {', '.join(places)}" if places else "the context does not hold it"
