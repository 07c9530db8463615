"""Rows as people have them -> rows of ``id, question, context, answers``.

Columns may have other names, answers may be JSON in a text, a text and its place in columns of their own, or a text
alone, and ids may be missing. What is guessed is told, and nothing is guessed that could be meant in two ways.
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
_APART = ("answer_text", "answer_start")  # answers in columns of their own
_TRUTH = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}
_NOTHING = ("", "null", "none", "nan")  # as a cell of a table says that there is no value
_TRIED = 100  # rows without the needed columns at the beginning, before it is said that the columns are the wrong ones


@dataclass(frozen=True)
class Columns:
    """What the columns of your data are called, where that is not to be guessed; None guesses.

    Args:
        id: of the question; without such a column ids are made of the row's content.
        question: the question.
        context: the text that is asked about.
        answers: lists of texts and places, ``{"text": [...], "answer_start": [...]}``, as such or as JSON.
        answer_text: the answer, where it stands in a column of its own; empty for no answer.
        answer_start: the answer's first character in the context, counted from 0; without such a column the answer
            must stand in the context once.
        is_impossible: whether the question has no answer.
    """

    id: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None
    answer_text: str | None = None
    answer_start: str | None = None
    is_impossible: str | None = None


class MadeId(str):
    """An id that was made of a row's content, and so says nothing to a person."""


def with_usual_columns(
    rows: Iterable[PlacedRow], columns: Columns, tell: Callable[[str], None] = lambda line: None
) -> Iterator[PlacedRow]:
    """Rename, parse and complete rows; which column is which is decided anew where there are other columns.

    Args:
        rows: as `sources.read_rows` gives them.
        columns: names that are given.
        tell: is called with a line that says what was guessed, or named, and what is made up for.

    Raises:
        InputError: a column that is named is not there, or one that is not could be several; that of a few rows among
            others is theirs alone (a `BrokenRow`).
    """
    chosen: dict[tuple[str, ...], dict[str, str]] = {}
    told: set[str] = set()
    broken: list[PlacedRow] = []  # before the first row that has the columns
    for place, row in rows:
        if isinstance(row, BrokenRow):
            yield place, row
            continue
        there = tuple(row)
        if there not in chosen:
            try:
                names = choose_columns(place, list(there), columns)
                if "id" not in names and any("id" in other for other in chosen.values()):
                    raise InputError(f"{place}: no column 'id', as others have; it has {listed(there)}")
            except InputError as error:
                problem = place, BrokenRow("columns", error.problems, row)
                if chosen:
                    yield problem
                    continue
                broken.append(problem)
                if len(broken) == _TRIED:
                    break
                continue
            line = _decided(names)
            if line and line not in told:
                told.add(line)
                tell(f"columns{f' as in {place}' if chosen else ''}: {line}")
            chosen[there] = names
            yield from broken
            broken.clear()
        yield place, usual_row(row, chosen[there])
    if broken:
        first = broken[0][1]
        assert isinstance(first, BrokenRow)
        raise InputError(first.problems)


def choose_columns(place: str, there: list[str], columns: Columns) -> dict[str, str]:
    """Which column of the data is which.

    Args:
        place: of the row that has the columns, for messages.
        there: the columns that there are.
        columns: names that are given.

    Raises:
        InputError: all that is wrong with the names.
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
        problems.append("--data.columns.answers: leave it out, or --data.columns.answer_text and answer_start")
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
            "or --data.columns.answer_text NAME where it holds the answer's text alone"
        )
    if problems:
        raise InputError(problems)
    return names


def usual_row(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A row with the usual columns; values that cannot be understood stay as they are, for `examples.check_row`."""
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
    """An id of the row's content: the same whatever stands around it, in whatever order and form."""
    content = [row.get("question"), row.get("context"), _listed_answers(row.get("answers"))]
    try:
        text = json.dumps(content, default=str)
    except (TypeError, ValueError, RecursionError):  # no answers that `examples.check_row` lets pass
        text = json.dumps(content[:2], default=str)
    return MadeId(hashlib.sha256(text.encode()).hexdigest()[:20])


def _listed_answers(answers: Any) -> Any:
    """The same for the same answers in any shape: a list of texts and places; None for none."""
    if isinstance(answers, dict) and all(isinstance(answers.get(name), list) for name in ("text", "answer_start")):
        pairs = zip(answers["text"], answers["answer_start"], strict=False)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
    elif isinstance(answers, list) and all(isinstance(one, dict) for one in answers):
        answers = [{"text": one.get("text"), "answer_start": one.get("answer_start")} for one in answers]
    return None if answers == [] else answers


def _decided(names: Mapping[str, str]) -> str:
    """What is not as it is usually, as one line."""
    parts = [f"{name} from {column!r}" for name, column in names.items() if column != name]
    if "id" not in names:
        parts.append("ids made of each row's content")
    if "answer_text" in names and "answer_start" not in names:
        parts.append("answers placed where the context holds their text, if that is one place")
    return ", ".join(parts)


def _simple(name: str) -> str:
    """A name without case and signs: ``Question-Text`` and ``questionText`` are ``question_text``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return "_".join(filter(None, re.split(r"[\s._-]+", words)))


def _parsed(text: str) -> Any:
    """Answers in a text: JSON, or what Python or numpy write for lists and dictionaries."""
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
            warnings.simplefilter("ignore")  # about escapes in the text
            return ast.literal_eval(_Arrays().visit(ast.parse(bare, mode="eval")))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text


class _Arrays(ast.NodeTransformer):
    """Takes ``array([...], dtype=...)``, which numpy writes, for the list."""

    def visit_Call(self, node: ast.Call) -> Any:
        """Replace a call by its first argument."""
        is_array = isinstance(node.func, ast.Name) and node.func.id == "array" and len(node.args) == 1
        return self.visit(node.args[0]) if is_array else node


def _truth(value: Any) -> Any:
    """True, False or None of what tables write for them; any other value as it is."""
    if value is None or isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return value
    text = str(value).strip().lower()
    return None if text in _NOTHING else _TRUTH.get(text, value)


def _answers_of(text: Any, start: Any, context: Any) -> Any:
    """Answers of a text, or several, with their places, or none, in columns of their own."""
    if isinstance(text, dict) or (isinstance(text, list) and any(isinstance(one, dict) for one in text)):
        return text  # they have their places with them
    if text is None or text != text or (isinstance(text, str) and not text.strip()):
        place = _whole(start)
        lost = isinstance(place, int) and place > 0
        return [{"text": text, "answer_start": place}] if lost else None
    if isinstance(text, str) and isinstance(start, str) and start.strip().startswith("["):  # lists, written as texts
        text, start = _parsed(text), _parsed(start)
    texts = text if isinstance(text, list) else [text]
    starts = start if isinstance(start, list) else [start] * len(texts)
    if len(starts) != len(texts):
        return {"text": texts, "answer_start": starts}
    places = [_place(one, _whole(place), context) for one, place in zip(texts, starts, strict=True)]
    return [{"text": one, "answer_start": place} for one, place in zip(texts, places, strict=True)]


def _place(text: Any, start: Any, context: Any) -> Any:
    """Where an answer begins: as given, or where the context holds it, if that is one place."""
    if start is not None or not (isinstance(text, str) and isinstance(context, str)):
        return start
    first = context.find(text)
    return first if first >= 0 and context.find(text, first + 1) < 0 else None


def _whole(start: Any) -> Any:
    """A whole number of what tables write for it; None for nothing; any other value as it is."""
    if isinstance(start, float):
        return None if start != start else int(start) if start.is_integer() else start
    if not isinstance(start, str):
        return start
    text = start.strip()
    if text.lower() in _NOTHING:
        return None
    return int(text.split(".")[0]) if re.fullmatch(r"[+-]?[0-9]{1,18}(\.0*)?", text) else start
