"""Rename and parse the columns of raw rows, so that each row has ``id, question, context, answers``.

Columns may have other names. Answers may be JSON in a string, a text and its offset in two columns, a text alone, or
two offsets. Ids may be missing. Each guess is reported in a line; ambiguous columns are an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from qa_lightning.data.cells import (
    NOTHING,
    WRITTEN,
    answer_between,
    answers_of,
    is_pair,
    lacks_offsets,
    parsed_cell,
    truth,
    whole_number,
)
from qa_lightning.data.formats import (
    CONTEXTS,
    QUESTIONS,
    BrokenRow,
    PlacedRow,
    Remark,
    encoding_problem,
    reads_like_data,
    simple_name,
)
from qa_lightning.errors import InputError
from qa_lightning.wording import listed

SYNONYMS = {
    "id": ("id", "qid", "question_id", "query_id", "example_id", "uuid", "guid", "key", "_id"),
    "question": QUESTIONS,
    "context": CONTEXTS,
    "answers": ("answers",),
    "answer_text": ("answer_text", "answer", "answers_text"),
    "answer_start": (
        *("answer_start", "start", "answers_start", "answers_answer_start"),
        *("start_char", "answer_offset", "offset", "begin"),
    ),
    "answer_end": ("answer_end", "end", "answers_end", "end_char"),
    "is_impossible": ("is_impossible", "impossible", "unanswerable"),
    "title": ("title", "article_title", "document_title", "doc_title", "page_title"),
}
_APART = ("answer_text", "answer_start", "answer_end")  # the columns that together replace "answers"
_BARE = {synonym.replace("_", "") for synonyms in SYNONYMS.values() for synonym in synonyms}
_BETWEEN = str.maketrans("", "", " \t\r\n\f\v\xa0._-")  # characters between the words of a name
_MAX_BROKEN = 100  # this many first rows without the needed columns stop the reading: the columns are wrong, not a row
_START = "answer_start"
_SEARCHED = "answer_start from the context, if the answer occurs there once"
_BETWEEN_OFFSETS = "answers between two offsets, the second one after the last character"
_PAIRS = "answers are pairs of numbers: offsets in characters, the second one after the last character"
_UNKNOWN = f"answers whose answer_start is missing, empty or -1: {_SEARCHED}"
_NO_OFFSET = re.compile(r"[:\[,(]\s*['\"]?(?:-1(?:\.0*)?|None|null|nan|NaN)['\"]?\s*[,\]})]")
_HAS_OFFSET = re.compile(r"start|offset|begin|\d\s*[\])]", re.IGNORECASE)
_PAIR = re.compile(r"\s*[\[(]+\s*\d+\s*,\s*\d+\s*[\])]")  # as JSON or Python writes it
NO_COLUMN = "none"  # given as a column's name: the data has none, whatever its columns are called
PLACE = "\0"  # stands for the row's place in problems that many rows have


@dataclass(frozen=True)
class Columns:
    """Names of your data's columns; None guesses the name, and ``none`` says that there is no such column.

    Args:
        id: column of the question's id; without such a column, or with ``none``, ids are made from each row's content.
        question: column of the question.
        context: column of the text that the question is about.
        answers: column of answers with offsets, ``{"text": [...], "answer_start": [...]}``, as such or as JSON.
        answer_text: column of the answer's text, if the text is in a column of its own; an empty cell is no answer.
        answer_start: column of the offset of the answer's first character in the context, counted from 0; without
            such a column the answer must occur exactly once in the context.
        answer_end: column of the offset after the answer's last character; with ``answer_start`` it gives the answer,
            if no column has its text.
        is_impossible: column that says whether the question has no answer.
        title: column of the article's title; folds keep the questions of an article together, a split by
            ``validation_fraction`` those of a context.
    """

    id: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None
    answer_text: str | None = None
    answer_start: str | None = None
    answer_end: str | None = None
    is_impossible: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class ReadSettings:
    """How the rows of a source are understood.

    Args:
        columns: names of the columns.
        encoding: of text files that are not UTF-8, as Python names it, such as ``cp1252``; a byte-order mark of UTF-8,
            UTF-16 or UTF-32 goes before it.
        answer_separator: what stands between several answers in one cell; None if a cell holds one. A backslash before
            n or t, as a shell passes them on, makes it a line end or a tab.
    """

    columns: Columns = Columns()
    encoding: str | None = None
    answer_separator: str | None = None

    def __post_init__(self) -> None:
        """Make the separator what stands in a cell."""
        if self.answer_separator is not None:
            mark = self.answer_separator.replace("\\n", "\n").replace("\\t", "\t")
            object.__setattr__(self, "answer_separator", mark)

    def problems(self) -> list[str]:
        """A line for each setting that cannot be used."""
        found = [encoding_problem(self.encoding)]
        if self.answer_separator is not None and (not self.answer_separator or self.answer_separator.isalnum()):
            found.append(
                f"--data.answer_separator {self.answer_separator!r} cannot stand between answers; give a mark: '|'"
            )
        return [problem for problem in found if problem]

    def key(self) -> list[Any]:
        """All that decides the rows, for the key of a cache."""
        return [asdict(self.columns), self.encoding, self.answer_separator]


class MadeId(str):
    """An id that was made from a row's content; the message about equal rows leaves it out, as nobody knows it."""


def with_usual_columns(
    rows: Iterable[PlacedRow],
    reading: ReadSettings,
    log_line: Callable[[str], None] = lambda line: None,
    only_asked: bool = False,
    skips: bool = False,
) -> Iterator[PlacedRow]:
    """Give rows the usual columns: rename them (`renamed`), parse and complete them (`parsed`)."""
    return parsed(renamed(rows, reading, log_line, only_asked, skips), reading)


def parsed(rows: Iterable[PlacedRow], reading: ReadSettings) -> Iterator[PlacedRow]:
    """Parse and complete the columns of rows from `renamed`; see `usual_row`."""
    return ((place, usual_row(row, reading.answer_separator)) for place, row in rows)


def renamed(
    rows: Iterable[PlacedRow],
    reading: ReadSettings,
    log_line: Callable[[str], None] = lambda line: None,
    only_asked: bool = False,
    skips: bool = False,
) -> Iterator[PlacedRow]:
    """Give the columns of rows their usual names, keys of `SYNONYMS`, and leave the others out.

    Names are chosen once for each distinct set of columns, so files with different columns can be read together.

    Args:
        rows: from `sources.read_rows`.
        reading: the names that a person gave.
        log_line: is called once with each line that says how the data is read: for each distinct choice of columns that
            is not the usual one, which names differ, whether ids are made, and whether offsets are searched for; and
            the remarks of the files' readers.
        only_asked: the rows need no answers, and no id where others have one; answers that are there stay.
        skips: bad rows are left out, so that many of them before the first good one are no reason to stop.

    Raises:
        InputError: no row has the columns or, unless ``skips``, none among the first 100; or a file says that a column
            which is needed cannot be read. A row without them among rows that have them becomes a `BrokenRow` instead.
    """
    choices = _Choices(reading.columns, only_asked)
    logged: set[str] = set()
    unread: dict[str, str] = {}  # column of the next row that cannot be read -> why
    broken: list[PlacedRow] = []  # rows from the first one that lacks the columns to the first one that has them
    lacking: list[str] = []  # the problems of the first one of them
    count = 0  # of those that lack the columns
    told: Mapping[str, str] = {}  # the names in the row before

    def log_once(line: str, where: str = "") -> None:
        if line and line not in logged:
            logged.add(line)
            log_line(where + line)

    for place, row in rows:
        if isinstance(row, Remark):
            if row.column is None:
                log_once(f"{place}: {row.text}")
            else:  # what the column is, the next row tells
                unread[row.column] = f"{place}: {row.text}"
            continue
        if isinstance(row, BrokenRow):
            if broken:  # it keeps its turn
                broken.append((place, row))
            else:
                yield place, row
            continue
        is_first = not choices.made
        names = choices.names(row)
        if names is None:
            problem = place, BrokenRow("columns", choices.problems(place, row), row)
            if not is_first:
                yield problem
                continue
            broken.append(problem)
            lacking, count = lacking or problem[1].problems, count + 1
            if count == _MAX_BROKEN:
                if not skips:
                    lacking = [*lacking, f"so it is with all first {_MAX_BROKEN} rows; later ones were not looked at"]
                    break
                yield from broken
                broken.clear()
                count = 0
            continue
        if names is not told:  # one choice has one line
            log_once(_choice_line(names, row), "columns: " if is_first else f"columns as in {place}: ")
            told = names
        yield from broken
        broken.clear()
        if problems := [unread[column] for column in unread if column in names.values()]:
            raise InputError(problems)
        for line in unread.values():
            log_once(line)
        unread.clear()
        row = {name: row[column] for name, column in names.items()}
        if _UNKNOWN not in logged:
            log_once(_answers_line(row))
        yield place, row
    if lacking and not choices.made:
        raise InputError(lacking)


class _Choices:
    """Which column is which, found out once for each distinct set of columns.

    Args:
        columns: the names that a person gave.
        only_asked: see `with_usual_columns`.
    """

    def __init__(self, columns: Columns, only_asked: bool) -> None:
        self._columns, self._only_asked = columns, only_asked
        self._names: dict[tuple[str, ...], dict[str, str]] = {}
        self._problems: dict[tuple[str, ...], list[str]] = {}
        self._with_ids = False

    @property
    def made(self) -> bool:
        """Whether any row had the columns."""
        return bool(self._names)

    def names(self, row: Mapping[str, Any]) -> dict[str, str] | None:
        """Usual name -> column of a row; None if it does not have the columns, see `problems`."""
        there = tuple(row)
        if there not in self._names and there not in self._problems:
            names, problems = choose_columns(there, self._columns, self._only_asked)
            if not problems and self._with_ids and "id" not in names and not self._only_asked:
                problems = [f"{PLACE}: no column 'id', which other rows have; it has {listed(there)}"]
            if problems:
                self._problems[there] = problems
            else:
                self._names[there] = names
                self._with_ids |= "id" in names
        return self._names.get(there)

    def problems(self, place: str, row: Mapping[str, Any]) -> list[str]:
        """What is wrong with the columns of a row, in sentences with its place."""
        return [problem.replace(PLACE, place) for problem in self._problems[tuple(row)]]


def choose_columns(
    there: tuple[str, ...], columns: Columns, only_asked: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Choose which column of the data is which.

    A name that a person gave comes first, then the usual name, then a synonym if exactly one column has one.

    Args:
        there: the columns of a row.
        columns: the names that a person gave.
        only_asked: see `with_usual_columns`.

    Returns:
        Usual name -> column of the data, without the usual names that have no column; and all problems, with `PLACE`
        for the row's place: a given name is not there, names contradict each other, a needed column is missing, or two
        columns fit one name.
    """
    has = listed(there) or "none"
    every = set(there)
    told = {name: given for name, given in asdict(columns).items() if given is not None}
    without = {name for name, given in told.items() if given == NO_COLUMN and NO_COLUMN not in every}
    names = {name: given for name, given in told.items() if name not in without}
    problems = [
        f"--data.columns.{name} {given}: {PLACE} has no such column; it has {has}"
        for name, given in names.items()
        if given not in every
    ]
    for given in sorted(set(names.values())):
        if len(same := [f"--data.columns.{name}" for name in names if names[name] == given]) > 1:
            problems.append(f"{' and '.join(same)}: column {given!r} cannot be both")
    apart = bool(names.keys() & set(_APART))
    if apart and "answers" in names:
        problems.append(
            "--data.columns.answers: leave it out, or leave out --data.columns.answer_text, answer_start, answer_end"
        )
    unsure = _guess(there, names, problems, apart, only_asked, without)
    known = names.keys() | unsure
    missing = [name for name in ("question", "context") if name not in known]
    lacks_text = apart and not {"answer_text", "answer_end"} & known
    found = known & {"answers", "answer_text", "answer_end", "is_impossible"}
    lacks_answers = not (apart or found or only_asked)
    if lacks_text:
        problems.append(
            f"--data.columns.answer_start {names['answer_start']}: give --data.columns.answer_text NAME too"
        )
    if len(missing) == 2 and reads_like_data(list(there)):
        problems.append(
            f"{PLACE}: the first row reads like data ({listed(there, 5)}); put a line above it that names the "
            "columns, such as question, context, answer"
        )
    else:
        lacking = [*missing, *(["answers"] if lacks_answers else [])]
        free = every - set(names.values())
        needed = "a question and a context" if only_asked else "a question, a context and answers"
        problems += [_missing_column(name, has, free, len(lacking), needed) for name in lacking]
    return names, problems


def _guess(
    there: tuple[str, ...],
    names: dict[str, str],
    problems: list[str],
    apart: bool,
    only_asked: bool,
    without: set[str],
) -> set[str]:
    """Add the names that were not given to ``names``, and a problem where two columns fit one.

    Returns:
        The usual names that were given, or that several columns fit.
    """
    unsure, taken, every = set(names), set(names.values()), set(there)
    fitting = [(column, simple_name(column)) for column in there if column.lower().translate(_BETWEEN) in _BARE]
    for name, synonyms in SYNONYMS.items():
        if name in names or name in without or (name == "answers" and apart):
            continue
        if name == "answer_end" and _has_text(names, unsure):
            continue
        if "answers" in names and name in _APART:  # a usual name alone: offsets of answers that are plain texts
            if name == "answer_start" and name in every - taken:
                names[name] = name
            continue
        found = [
            column
            for column, simple in fitting
            if simple in synonyms and column not in SYNONYMS and column not in taken
        ]
        if name in every - taken or len(found) == 1:
            names[name] = name if name in every - taken else found[0]
            taken.add(names[name])
        elif found:
            unsure.add(name)
            either = " or ".join(map(repr, found))
            if name != "title" and not (only_asked and name in (*_APART, "is_impossible")):  # data do without a title
                problems.append(f"{PLACE}: {name} could be {either}; say which with --data.columns.{name}")
    if "answer_end" in names and "answer_start" not in names and "answer_end" not in unsure:
        del names["answer_end"]  # it says nothing alone
    return unsure


def _has_text(names: Mapping[str, str], unsure: set[str]) -> bool:
    return bool({"answers", "answer_text"} & (names.keys() | unsure))


def _missing_column(name: str, has: str, free: set[str], lacking: int, needed: str) -> str:
    """A problem with the fix: the flag that names the column, where there are enough columns that it could be."""
    what = f"{PLACE}: no column {name!r}; it has {has}"
    if len(free) < lacking:
        return f"{what}; a row needs {needed}, each in a column of its own"
    what += f". Say which it is with --data.columns.{name} NAME"
    text = ", or with --data.columns.answer_text NAME if it holds the answer's text alone"
    return what + text if name == "answers" else what


def usual_row(row: dict[str, Any], separator: str | None = None) -> dict[str, Any]:
    """A row with the usual columns; values that cannot be parsed stay as they are, and `examples.check_row` finds them.

    Args:
        row: from `renamed`; a `BrokenRow` stays as it is.
        separator: see `ReadSettings.answer_separator`.
    """
    if isinstance(row, BrokenRow):
        return row
    usual = dict(row)
    answers = "answers" if "answers" in usual else "answer_text"
    if answers in usual:
        usual["answers"] = answers_of(usual[answers], usual.get("answer_start"), usual.get("context"), separator)
    elif "answer_end" in usual:
        usual["answers"] = answer_between(usual["answer_start"], usual["answer_end"], usual.get("context"))
    if "is_impossible" in usual:
        usual["is_impossible"] = truth(usual["is_impossible"])
    for name in _APART:
        usual.pop(name, None)
    for name in ("id", "title"):
        if isinstance(usual.get(name), (float, Decimal)):  # what pandas makes of numbers, if one of them is missing
            usual[name] = whole_number(usual[name])
    if "id" not in usual:
        usual["id"] = made_id(usual)
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


def _choice_line(names: Mapping[str, str], row: Mapping[str, Any]) -> str:
    """A line that names what differs from the usual columns; empty if nothing does.

    Args:
        names: from `choose_columns`.
        row: with the columns.
    """
    parts = [f"{name} from {column!r}" for name, column in names.items() if column != name]
    if "id" not in names:
        parts.append("ids made from each row's content")
    if "answer_text" in names and "answer_start" not in names:
        parts.append(_SEARCHED)
    if "answer_end" in names:
        parts.append(_BETWEEN_OFFSETS)
    titles = [column for column in row if simple_name(column) in SYNONYMS["title"]] if "title" not in names else []
    if len(titles) > 1:
        parts.append(f"no title, as it could be {' or '.join(map(repr, titles))}: name it with --data.columns.title")
    return ", ".join(parts)


def _answers_line(row: Mapping[str, Any]) -> str:
    """A line that says what is not as usual in ``answers``, or empty: texts alone, unknown offsets, offsets alone."""
    answers = row.get("answers", row.get("answer_text"))
    written = isinstance(answers, str) and answers.lstrip().startswith(WRITTEN)
    if _START in row:
        return _UNKNOWN if not written and lacks_offsets({"text": answers, _START: row[_START]}) else ""
    if "answers" not in row or not isinstance(answers, (str, list, tuple, dict)):
        return ""
    if isinstance(answers, str):
        if not written:
            return f"answers are texts: {_SEARCHED}" if answers.strip().lower() not in NOTHING else ""
        if _HAS_OFFSET.search(answers) and not _NO_OFFSET.search(answers) and not _PAIR.match(answers):
            return ""  # not parsed twice, but for those that may be told
        answers = parsed_cell(answers, row.get("context"))
    one = answers[0] if isinstance(answers, list) and answers and isinstance(answers[0], list) else answers
    if is_pair(one):
        return _PAIRS
    return _UNKNOWN if isinstance(answers, (list, tuple, dict)) and lacks_offsets(answers) else ""
