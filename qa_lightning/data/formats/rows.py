"""A raw row with its place, a row that cannot be read, a remark about a file; and how messages write values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from qa_lightning.errors import InputError

COLUMNS = ("id", "question", "context", "answers")

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


class Remark(dict[str, Any]):
    """A note about how a file is read; its reader yields it among the rows, and it is no row itself.

    Args:
        text: a line to log, without the file's name.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


def shown(value: Any, limit: int = 60) -> str:
    """The ``repr`` of a value for a message, cut to ``limit`` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def listed(names: Any, limit: int = 30) -> str:
    """Names for a message: the first ``limit`` of them, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more


def counted(count: int, noun: str) -> str:
    """A count for a message: ``1 row``, ``2,000 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def refuse_repeated(place: str, names: Iterable[str]) -> None:
    """Raise the `InputError` for a table of which several columns have the same name."""
    if twice := repeated(names):
        raise InputError(f"{place}: names columns twice: {listed(twice)}; each column needs a name of its own")


def no_split(place: str, split: str, there: Iterable[str]) -> InputError:
    """The error for data that is divided into other splits than the wanted one."""
    return InputError(f"{place} has no split {split!r}; it has {listed(there) or 'none'}")


def repeated(names: Iterable[str]) -> list[str]:
    """The names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]
