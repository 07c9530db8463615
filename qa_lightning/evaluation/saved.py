"""Read answers, and null odds, from files to score them: as ``predict`` writes them, or as other tools saved them.

That is one JSON object ``{"id": "answer"}``; or rows with ``id``, under any name that data may have it, and ``answer``
(or ``prediction_text``, as the ``evaluate`` library has it, or a list of one as ``answers``, as DuReader has it, where
no other column could be meant): JSON lines, a JSON list, any JSON of pandas, CSV, TSV, Excel, Parquet or Arrow, also
with ``.gz``. Other columns and the order of columns are ignored. A text file is UTF-8 if no byte-order mark says
otherwise: ``--encoding`` is that of the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from qa_lightning.data.columns import SYNONYMS
from qa_lightning.data.formats import (
    JSON_LINES,
    SUFFIXES,
    Remark,
    file_format,
    opened_text,
    read_file,
    simple_name,
    table_rows,
)
from qa_lightning.errors import InputError
from qa_lightning.metrics.squad import text_problem
from qa_lightning.wording import shown

_JSON = (".json", *JSON_LINES)
_TABLES = (".csv", ".tsv")
_ANSWERS = ("answer", "prediction_text")  # names of the column with the answer's text
_LISTED = "answers"  # that of a list of one text, as DuReader has it; elsewhere it holds what is right
_BESIDE = {"question", "question_type", "yesno", "yesno_answers", "entity_answers"}  # columns that may be beside it
_LAYOUT = 'expected one object {"id": "answer", ...} with texts as answers, or rows with id and answer'


def read_predictions(path: Path) -> dict[str, str]:
    """Id -> answer text.

    Raises:
        InputError: the file cannot be read, has another layout, or answers are not texts; it names the ids.
    """
    try:
        if file_format(path) in SUFFIXES and file_format(path) not in _JSON:
            if file_format(path) in _TABLES:
                _text(path)  # refuses what is not UTF-8
            return _of_rows(_without_remarks(read_file(path)))
        return _of_json(str(path), _json_values(path))
    except InputError as error:
        raise InputError([f"--predictions {problem}" for problem in error.problems]) from None


def _without_remarks(rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The rows of a file; raises an `InputError` for a column that is used and cannot be read."""
    for place, row in rows:
        if not isinstance(row, Remark):
            yield place, row
        elif row.column is not None and (_ids((row.column,)) or row.column in _ANSWERS):
            raise InputError(f"{place}: {row.text}")


def _of_json(where: str, values: list[tuple[str, Any]]) -> dict[str, str]:
    """Id -> answer of the JSON values of a file."""
    if len(values) != 1:
        return _of_rows(values)
    value = values[0][1]
    if isinstance(value, dict) and (table := _table(where, value)) is not None:
        return _of_rows(table)
    if isinstance(value, dict) and _is_row(value):
        return _of_rows(values)
    if isinstance(value, list):
        return _of_rows((f"{where} item {number}", row) for number, row in enumerate(value, 1))
    if not isinstance(value, dict):
        raise InputError(f"{where}: {_LAYOUT}")
    if problems := [f"{where}: {problem}" for key, text in value.items() if (problem := text_problem(key, text))]:
        raise InputError(problems)
    return value


def _table(where: str, value: dict[str, Any]) -> Iterator[tuple[str, Any]] | None:
    """The rows of a table as pandas exports it, whose index may be the ids; None if it is none."""
    if any(isinstance(one, str) for one in value.values()):
        return None
    items = value.get("data")
    if isinstance(items, list) and "columns" not in value:
        return ((f"{where} row {number}", row) for number, row in enumerate(items, 1))
    rows = list(value.values())
    if rows and all(isinstance(row, dict) and _id_column(row) is None and _answer_column(row) for row in rows):
        return ((f"{where} row {number}", {"id": key, **row}) for number, (key, row) in enumerate(value.items(), 1))
    return table_rows(where, value)


def read_null_odds(path: Path, wanted: Sequence[str]) -> dict[str, float]:
    """Id -> number, for the ``wanted`` ids, from a JSON object ``{"id": number}``.

    Raises:
        InputError: the file cannot be read, or one of the ids has no number; one line per id.
    """
    try:
        odds = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--null_odds {path}: cannot be read as JSON ({error})") from None
    if not isinstance(odds, dict):
        raise InputError(f'--null_odds {path}: expected one object {{"id": number, ...}}')
    bad = [
        f"--null_odds {path}: {key!r} has {repr(odds[key]) if key in odds else 'no number'}; a number is wanted"
        for key in wanted
        if isinstance(odds.get(key), bool) or not isinstance(odds.get(key), (int, float)) or math.isnan(odds[key])
    ]
    if bad:
        raise InputError(bad)
    return {key: float(odds[key]) for key in wanted}


def _json_values(path: Path) -> list[tuple[str, Any]]:
    """The JSON values of a file, each with its place: one, or one after the other, on lines of their own or not."""
    text = _text(path)
    try:
        values, problems = _split(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if problems and not values:
        raise InputError(f"{path}: cannot be read as JSON ({problems[0][1]})")
    if problems:
        raise InputError(
            [f"{path} line {line}: cannot be read as JSON ({why}); is the file whole?" for line, why in problems]
        )
    return [(f"{path} line {line}", value) for line, value in values]


def _text(path: Path) -> str:
    """The text of a file, without a byte-order mark."""
    try:
        with opened_text(path, None) as (file, _):
            return file.read().decode().removeprefix("\ufeff")  # `utf-8-sig` counts bytes from behind the mark
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start:,} is 0x{error.object[error.start]:02x}"
        raise InputError(f"{path}: not UTF-8 ({wrong}); save it as UTF-8") from None


def _split(text: str) -> tuple[list[tuple[int, Any]], list[tuple[int, str]]]:
    """JSON values with their lines, and what is wrong with lines that hold none; reading goes on in the next line."""
    values: list[tuple[int, Any]] = []
    problems: list[tuple[int, str]] = []
    decoder, at, line, counted = json.JSONDecoder(), 0, 1, 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        line, counted = line + text.count("\n", counted, at), at
        if at == len(text):
            return values, problems or ([(1, "it is empty")] if not values else [])
        try:
            value, at = decoder.raw_decode(text, at)
            values.append((line, value))
        except json.JSONDecodeError as error:
            problems.append((line, str(error)))
            at = text.find("\n", at) + 1 or len(text)


def _of_rows(rows: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Id -> answer of rows with their places; all problems are raised together."""
    predictions: dict[str, str] = {}
    problems = []
    for place, row in rows:
        columns = (_id_column(row), _answer_column(row)) if isinstance(row, dict) else (None, None)
        if None in columns:
            problems.append(f"{place}: {shown(row)} is no object with id and answer")
            continue
        given, answer = (row[column] for column in columns)
        key = _name(given)
        if columns[1] == _LISTED:
            (answer,) = answer
        if key is None:
            problems.append(f"{place}: id is {shown(given)}; it must be a text or a whole number")
        elif problem := text_problem(key, answer):
            problems.append(f"{place}: {problem}")
        elif predictions.setdefault(key, answer) != answer:
            problems.append(f"{place}: id {key!r} has another answer in a row before; ids must be unique")
    if problems:
        raise InputError(problems)
    return predictions


def _is_row(value: dict[str, Any]) -> bool:
    return _answer_column(value) is not None and _id_column(value) is not None


def _id_column(row: dict[str, Any]) -> str | None:
    """The column of the id: the first of the names that data may have it under, not empty if there is such a one."""
    there = _ids(tuple(row))
    return next((name for name in there if row[name] is not None), there[0] if there else None)


@lru_cache(1000)
def _ids(names: tuple[str, ...]) -> list[str]:
    """Columns that are called as an id may be, the usual name first."""
    known = {name: name if name in SYNONYMS["id"] else simple_name(name) for name in names}
    names = tuple(sorted(names, key=lambda name: known[name] != name))  # "id" before "ID"
    return [name for synonym in SYNONYMS["id"] for name in names if known[name] == synonym]


def _answer_column(row: dict[str, Any]) -> str | None:
    found = next((name for name in _ANSWERS if name in row), None)
    listed = row.get(_LISTED)
    if found or not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], str):
        return found
    return _LISTED if row.keys() <= {_LISTED, *_BESIDE, *_ids(tuple(row))} else None


def _name(value: Any) -> str | None:
    """An id as the data has it: tools turn texts of digits into numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
