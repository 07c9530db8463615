"""A raw row with its place, a row that cannot be read, a remark about a file; and errors that several formats share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from qa_lightning.errors import InputError
from qa_lightning.wording import listed

COLUMNS = ("id", "question", "context", "answers")
CONTEXTS = ("context", "context_text", "passage", "paragraph", "text", "document", "article", "body")  # its names
QUESTIONS = ("question", "q", "query", "question_text", "query_text")  # names of the question
NO_ANSWER = (  # what people write where there is no answer, in lower case
    *("n/a", "na", "n.a.", "-", "--", "–", "—", "/", "?"),
    *("no answer", "not answerable", "unanswerable"),
)

PlacedRow = tuple[str, dict[str, Any]]  # the row's place in its source, for messages, and the row


class BrokenRow(dict[str, Any]):
    """A row that cannot be read or lacks columns, with its problems.

    Args:
        kind: a key of `bad_rows.ROW_FINDINGS`.
        problems: sentences that begin with the row's place.
        values: the columns that the row has.
    """

    def __init__(self, kind: str, problems: list[str], values: Mapping[str, Any] | None = None) -> None:
        super().__init__(values or {})
        self.kind = kind
        self.problems = problems


class Accepted(str):
    """The text of an answer that counts as right, whether or not the context holds it; nothing is wrong if not."""


class Remark(dict[str, Any]):
    """A note about how a file is read; its reader yields it among the rows, and it is no row itself.

    Args:
        text: a line to log, without the file's name.
        column: the column of the rows after it that cannot be read, and must not be used; None if all can be.
    """

    def __init__(self, text: str, column: str | None = None) -> None:
        super().__init__()
        self.text, self.column = text, column


def refuse_repeated(place: str, names: Iterable[str]) -> None:
    """Raise the `InputError` for a table of which several columns have the same name."""
    if twice := repeated(names):
        raise InputError(f"{place}: names columns twice: {listed(twice)}; each column needs a name of its own")


def no_split(place: str, split: str, there: Iterable[str]) -> InputError:
    """The error for data that is divided into other splits than the wanted one."""
    return InputError(f"{place} has no split {split!r}; it has {listed(there) or 'none'}")


def simple_name(name: Any) -> str:
    """The name of a column, or of a part of an answer, in snake case: ``Answer-Text`` becomes ``answer_text``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(name)).lower()
    return "_".join(filter(None, re.split(r"[\s._-]+", words)))


def repeated(names: Iterable[str]) -> list[str]:
    """The names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]
