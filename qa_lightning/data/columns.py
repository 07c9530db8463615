"""Rename and parse the columns of raw rows, so that each row has ``id, question, context, answers``.

Columns may have other names. Answers may be JSON in a string, a text and its offset in two columns, or a text alone.
Ids may be missing. Each guess is reported in a line; ambiguous columns are an error.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qa_lightning.data.formats import BrokenRow, PlacedRow, listed
from qa_lightning.errors import InputError

SYNONYMS = {
    "id": ("id", "qid", "question_id", "example_id", "uuid", "guid", "key", "_id"),
    "question": ("question", "q", "query", "question_text"),
    "context": ("context", "passage", "paragraph", "text", "document", "article", "body", "context_text"),
    "answers": ("answers",),
    "answer_text": ("answer_text", "answer", "answers_text"),
    "answer_start": (
        *("answer_start", "start", "answers_start", "answers_answer_start"),
        *("start_char", "answer_offset", "offset", "begin"),
    ),
    "is_impossible": ("is_impossible", "impossible", "unanswerable"),
}
_APART = ("answer_text", "answer_start")  # the columns that together replace "answers"
_TRUTH = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}
_NOTHING = ("", "null", "none", "nan")  # cells of a table that mean "no value"
_MAX_BROKEN = 100  # this many first rows without the needed columns stop the reading: the columns are wrong, not a row


@dataclass(frozen=True)
class Columns:
    """Names of your data's columns; None guesses the name.

    Args:
        id: column of the question's id; without such a column, ids are made from each row's content.
        question: column of the question.
        context: column of the text that the question is about.
        answers: column of answers with offsets, ``{"text": [...], "answer_start": [...]}``, as such or as JSON.
        answer_text: column of the answer's text, if the text is in a column of its own; an empty cell is no answer.
        answer_start: column of the offset of the answer's first character in the context, counted from 0; without
            such a column the answer must occur exactly once in the context.
        is_impossible: column that says whether the question has no answer.
    """

    id: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None
    answer_text: str | None = None
    answer_start: str | None = None
    is_impossible: str | None = None


class MadeId(str):
    """An id that was made from a row's content; the message about equal rows leaves it out, as nobody knows it."""


def with_usual_columns(
    rows: Iterable[PlacedRow], columns: Columns, log_line: Callable[[str], None] = lambda line: None
) -> Iterator[PlacedRow]:
    """Give rows the usual columns: rename, parse and complete them.

    Names are chosen once for each distinct set of columns, so files with different columns can be read together.

    Args:
        rows: from `sources.read_rows`.
        columns: the names that a person gave.
        log_line: is called once for each distinct choice of columns that is not the usual one, with a line that says
            which names differ, whether ids are made, and whether offsets are searched for.

    Raises:
        InputError: no row has the columns, or none among the first 100. A row without them among rows that have them
            becomes a `BrokenRow` instead.
    """
    chosen: dict[tuple[str, ...], dict[str, str]] = {}
    logged: set[str] = set()
    broken: list[PlacedRow] = []  # rows before the first one that has the columns
    for place, row in rows:
        if isinstance(row, BrokenRow):
            yield place, row
            continue
        there = tuple(row)
        if there not in chosen:
            try:
                names = choose_columns(place, list(there), columns)
                if "id" not in names and any("id" in other for other in chosen.values()):
                    raise InputError(f"{place}: no column 'id', which other rows have; it has {listed(there)}")
            except InputError as error:
                problem = place, BrokenRow("columns", error.problems, row)
                if chosen:
                    yield problem
                    continue
                broken.append(problem)
                if len(broken) == _MAX_BROKEN:
                    break
                continue
            line = _choice_line(names)
            if line and line not in logged:
                logged.add(line)
                log_line(f"columns{f' as in {place}' if chosen else ''}: {line}")
            chosen[there] = names
            yield from broken
            broken.clear()
        yield place, usual_row(row, chosen[there])
    if broken:
        first = broken[0][1]
        assert isinstance(first, BrokenRow)
        raise InputError(first.problems)


def choose_columns(place: str, there: list[str], columns: Columns) -> dict[str, str]:
    """Choose which column of the data is which.

    A name that a person gave comes first, then the usual name, then a synonym if exactly one column has one.

    Args:
        place: of a row with these columns, for messages.
        there: the row's columns.
        columns: the names that a person gave.

    Returns:
        Usual name -> column of the data, without the usual names that have no column.

    Raises:
        InputError: a given name is not there, names contradict each other, a needed column is missing, or two columns
            fit one name; it lists all of these problems.
    """
    has = listed(there) or "none"
    names = {name: given for name, given in asdict(columns).items() if given is not None}
    problems = [
        f"--data.columns.{name} {given}: {place} has no such column; it has {has}"
        for name, given in names.items()
        if given not in there
    ]
    for given in sorted(set(names.values())):
        if len(same := [f"--data.columns.{name}" for name in names if names[name] == given]) > 1:
            problems.append(f"{' and '.join(same)}: column {given!r} cannot be both")
    apart = bool(names.keys() & set(_APART))
    if apart and "answers" in names:
        problems.append(
            "--data.columns.answers: leave it out, or leave out --data.columns.answer_text and answer_start"
        )
    unsure = set(names)
    for name, synonyms in SYNONYMS.items():
        if name in names or (name == "answers" and apart) or (name in _APART and "answers" in names):
            continue
        free = [column for column in there if column not in names.values()]
        found = [column for column in free if column not in SYNONYMS and _simple(column) in synonyms]
        if name in free or len(found) == 1:
            names[name] = name if name in free else found[0]
        elif found:
            unsure.add(name)
            either = " or ".join(map(repr, found))
            problems.append(f"{place}: {name} could be {either}; say which with --data.columns.{name}")
    for name in ("question", "context"):
        if name not in names.keys() | unsure:
            problems.append(
                f"{place}: no column {name!r}; it has {has}. Say which it is with --data.columns.{name} NAME"
            )
    if apart and "answer_text" not in names.keys() | unsure:
        problems.append(
            f"--data.columns.answer_start {names['answer_start']}: give --data.columns.answer_text NAME too"
        )
    elif not {"answers", "answer_text", "is_impossible"} & (names.keys() | unsure):
        problems.append(
            f"{place}: no column 'answers'; it has {has}. Say which it is with --data.columns.answers NAME, "
            "or with --data.columns.answer_text NAME if it holds the answer's text alone"
        )
    if problems:
        raise InputError(problems)
    return names


def usual_row(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A row with the usual columns; values that cannot be parsed stay as they are, and `examples.check_row` finds them.

    Args:
        row: a raw row.
        names: usual name -> column of the row, from `choose_columns`.
    """
    usual = {name: row[column] for name, column in names.items()}
    if isinstance(usual.get("answers"), str):
        usual["answers"] = _parsed(usual["answers"])
    if "is_impossible" in usual:
        usual["is_impossible"] = _truth(usual["is_impossible"])
    if "answers" not in usual and "answer_text" in usual:
        usual["answers"] = _answers_of(usual["answer_text"], usual.get("answer_start"), usual.get("context"))
    for name in _APART:
        usual.pop(name, None)
    if "id" not in names:
        usual["id"] = made_id(usual)
    if "title" in row and "title" not in names.values():
        usual["title"] = row["title"]
    return usual


def made_id(row: Mapping[str, Any]) -> MadeId:
    """Make an id from a row's question, context and answers.

    Equal content gives an equal id, whatever the order of the rows, the file's format and the shape of the answers.
    """
    content = [row.get("question"), row.get("context"), _listed_answers(row.get("answers"))]
    try:
        text = json.dumps(content, default=str)
    except (TypeError, ValueError, RecursionError):  # answers that `examples.check_row` refuses anyway
        text = json.dumps(content[:2], default=str)
    return MadeId(hashlib.sha256(text.encode()).hexdigest()[:20])


def _listed_answers(answers: Any) -> Any:
    """Answers in one shape, whichever they came in: ``[{"text", "answer_start"}, ...]``; None for no answers."""
    if isinstance(answers, dict) and all(isinstance(answers.get(name), list) for name in ("text", "answer_start")):
        pairs = zip(answers["text"], answers["answer_start"], strict=False)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
    elif isinstance(answers, list) and all(isinstance(one, dict) for one in answers):
        answers = [{"text": one.get("text"), "answer_start": one.get("answer_start")} for one in answers]
    return None if answers == [] else answers


def _choice_line(names: Mapping[str, str]) -> str:
    """A line that names what differs from the usual columns; empty if nothing does."""
    parts = [f"{name} from {column!r}" for name, column in names.items() if column != name]
    if "id" not in names:
        parts.append("ids made from each row's content")
    if "answer_text" in names and "answer_start" not in names:
        parts.append("answer_start from the context, if the answer occurs there once")
    return ", ".join(parts)


def _simple(name: str) -> str:
    """A name in snake case: ``Question-Text`` and ``questionText`` become ``question_text``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return "_".join(filter(None, re.split(r"[\s._-]+", words)))


def _parsed(text: str) -> Any:
    """Parse answers from a string: JSON, or lists and dictionaries as Python or numpy print them.

    None for an empty cell; the string itself if it cannot be parsed. Nothing in it is executed.
    """
    bare = text.strip()
    if bare.lower() in _NOTHING:
        return None
    if not bare.startswith(("{", "[")):
        return text
    try:
        return json.loads(bare)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the string are no concern of ours
            return ast.literal_eval(_Arrays().visit(ast.parse(bare, mode="eval")))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text


class _Arrays(ast.NodeTransformer):
    """Replaces ``array([...], dtype=...)``, which numpy prints, by the list in it."""

    def visit_Call(self, node: ast.Call) -> Any:
        """Return the argument of an ``array`` call; other calls stay, and ``ast.literal_eval`` then refuses them."""
        is_array = isinstance(node.func, ast.Name) and node.func.id == "array" and len(node.args) == 1
        return self.visit(node.args[0]) if is_array else node


def _truth(value: Any) -> Any:
    """Parse True, False or None as tables write them; any other value stays as it is."""
    if value is None or isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return value
    text = str(value).strip().lower()
    return None if text in _NOTHING else _TRUTH.get(text, value)


def _answers_of(text: Any, start: Any, context: Any) -> Any:
    """Build answers from the cells of ``answer_text`` and ``answer_start``.

    Args:
        text: a text, a list of texts, or complete answers; an empty cell (None, NaN, white space) is no answer.
        start: an offset, a list of offsets, or None.
        context: is searched for each text that has no offset.
    """
    if isinstance(text, dict) or (isinstance(text, list) and any(isinstance(one, dict) for one in text)):
        return text  # complete answers, with their offsets
    if text is None or text != text or (isinstance(text, str) and not text.strip()):
        offset = _whole(start)
        text_is_lost = isinstance(offset, int) and offset > 0  # an offset without a text: `check_answers` refuses it
        return [{"text": text, "answer_start": offset}] if text_is_lost else None
    if isinstance(text, str) and isinstance(start, str) and start.strip().startswith("["):  # lists, printed as strings
        text, start = _parsed(text), _parsed(start)
    texts = text if isinstance(text, list) else [text]
    starts = start if isinstance(start, list) else [start] * len(texts)
    if len(starts) != len(texts):
        return {"text": texts, "answer_start": starts}
    offsets = [_offset(one, _whole(given), context) for one, given in zip(texts, starts, strict=True)]
    return [{"text": one, "answer_start": offset} for one, offset in zip(texts, offsets, strict=True)]


def _offset(text: Any, start: Any, context: Any) -> Any:
    """The offset of an answer: ``start`` if it is given, else that of its only occurrence in the context, else None."""
    if start is not None or not (isinstance(text, str) and isinstance(context, str)):
        return start
    first = context.find(text)
    return first if first >= 0 and context.find(text, first + 1) < 0 else None


def _whole(start: Any) -> Any:
    """Parse a whole number as tables write it ("40.0"); None for an empty cell; other values stay as they are."""
    if isinstance(start, float):
        return None if start != start else int(start) if start.is_integer() else start
    if not isinstance(start, str):
        return start
    text = start.strip()
    if text.lower() in _NOTHING:
        return None
    return int(text.split(".")[0]) if re.fullmatch(r"[+-]?[0-9]{1,18}(\.0*)?", text) else start
