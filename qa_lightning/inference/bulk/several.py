"""Rows with several contexts: texts in a list, or ids of documents in a second file."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from qa_lightning.data.columns import SYNONYMS, ReadSettings
from qa_lightning.data.formats import BrokenRow, EncodingError, PlacedRow, Remark
from qa_lightning.data.sources import as_folder, is_saved_dataset, read_rows, source_fingerprint
from qa_lightning.documents.sources import unaskable
from qa_lightning.errors import InputError
from qa_lightning.wording import listed

CONTEXTS, DOCUMENT_IDS = "contexts", "document_ids"
_ID_NAMES = (*SYNONYMS["id"], "document_id", "doc_id")
_TEXT_NAMES = ("text", "content", *(name for name in SYNONYMS["context"] if name != "text"))


class SeveralTexts(str):
    """Several contexts of one question, one after the other in one text.

    Attributes:
        names: number, from 0, or document id of each.
        texts: the contexts.
    """

    names: tuple[int | str, ...]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, named: Sequence[tuple[int | str, str]]) -> SeveralTexts:
        """Join contexts, at least one, each with its name."""
        joined = cls("".join(text for _, text in named))
        joined.names, joined.texts = tuple(name for name, _ in named), tuple(text for _, text in named)
        return joined

    def place(self, offset: int) -> tuple[int | str, int]:
        """Name of the context that an offset in the joined text is in, and its offset there."""
        begins = [0, *accumulate(map(len, self.texts))]
        number = bisect_right(begins, offset, hi=len(self.texts)) - 1
        return self.names[number], offset - begins[number]


def read_document_file(source: str, encoding: str | None = None) -> dict[str, str]:
    """Read a file of documents: id -> text. Rows have ``id`` and ``text``, in any format of questions.

    Args:
        source: what `sources.read_rows` takes.
        encoding: of a text file, if it is not UTF-8.

    Raises:
        InputError: it cannot be read, or rows lack a usable id or text, or repeat an id; all of them are listed.
    """
    _refuse_folder(source)
    try:
        documents, problems = _documents(source, None)  # what is UTF-8 is read as such: the flag may be for questions
    except InputError as error:
        if encoding is None or not isinstance(error, EncodingError):
            raise InputError([f"--documents {problem}" for problem in error.problems]) from None
        try:
            documents, problems = _documents(source, encoding)
        except InputError as other:
            problems = other.problems
    if problems:
        raise InputError([f"--documents {problem}" for problem in problems])
    return documents


def document_fingerprint(source: str) -> str:
    """A key of the content of a file of documents.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    _refuse_folder(source)
    try:
        return source_fingerprint(source, "validation")
    except InputError as error:
        raise InputError([f"--documents {problem}" for problem in error.problems]) from None


def _refuse_folder(source: str) -> None:
    if (folder := as_folder(source)) is not None and not is_saved_dataset(folder):
        raise InputError(
            f"--documents {source} is a folder; it takes a table with columns id and text. `ask` answers from a folder "
            "of texts, and from Python a Collection"
        )


def _documents(source: str, encoding: str | None) -> tuple[dict[str, str], list[str]]:
    """Documents of a file by their ids, and what is wrong with its rows.

    Raises:
        EncodingError: it has another encoding.
        InputError: it cannot be read.
    """
    documents: dict[str, str] = {}
    problems: list[str] = []
    is_other = False
    for place, row in read_rows(source, "validation", ReadSettings(encoding=encoding)):
        if isinstance(row, Remark):
            continue
        if isinstance(row, BrokenRow):
            problems += row.problems
            is_other |= row.kind == "text"
            continue
        name, text = (
            next((row[one] for one in names if row.get(one) is not None), None) for names in (_ID_NAMES, _TEXT_NAMES)
        )
        if name is None or not isinstance(text, str):
            problems.append(f"{place}: needs an id and a text; it has {listed(row) or 'none'}")
        elif problem := unaskable(text):
            problems.append(f"{place}: the text of document {name} {problem}")
        elif str(name) in documents:
            problems.append(f"{place}: document {name} is there twice; give each its own id")
        else:
            documents[str(name)] = text
    if is_other:
        raise EncodingError(problems)
    return documents, problems


def with_joined_contexts(rows: Iterable[PlacedRow], documents: Mapping[str, str] | None) -> Iterator[PlacedRow]:
    """Give rows with ``contexts`` or ``document_ids`` a ``context`` of `SeveralTexts`; a bad row becomes a `BrokenRow`.

    Args:
        rows: raw rows.
        documents: from `read_document_file`; None if no such file was given.
    """
    for place, row in rows:
        if isinstance(row, BrokenRow):
            yield place, row
            continue
        row = _without_empty(row)
        names = [name for name in (CONTEXTS, DOCUMENT_IDS) if name in row]
        if not names:
            yield place, row
            continue
        if len(names) > 1 or "context" in row:
            found: SeveralTexts | str = f"has {listed([*names, *(['context'] if 'context' in row else [])])}; keep one"
        elif names == [CONTEXTS]:
            found = _of_contexts(row[CONTEXTS])
        else:
            found = _of_ids(row[DOCUMENT_IDS], documents)
        if isinstance(found, SeveralTexts):
            yield place, {**{name: value for name, value in row.items() if name not in names}, "context": found}
        else:
            yield place, BrokenRow("type", [f"{place}: {found}"], row)


def _without_empty(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the empty ones of the columns for contexts: a table has them all. One of them always stays."""
    there = [name for name in ("context", CONTEXTS, DOCUMENT_IDS) if name in row]
    empty = [name for name in there if _is_empty(row[name], name != "context")]
    if len(empty) == len(there):
        del empty[:1]
    return {name: value for name, value in row.items() if name not in empty} if empty else row


def _is_empty(value: Any, is_list: bool) -> bool:
    """Whether a cell, perhaps of a list, has nothing in it."""
    if isinstance(value, str):
        return value.strip() in (("", "[]") if is_list else ("",))
    return value is None or (is_list and isinstance(value, list) and not value)


def _of_contexts(given: Any) -> SeveralTexts | str:
    """The contexts of a row, or its problem."""
    texts = _list(given)
    if not texts or not all(isinstance(text, str) for text in texts):
        return f"{CONTEXTS} must be a list of texts, with at least one"
    problems = [f"{CONTEXTS}[{number}] {problem}" for number, text in enumerate(texts) if (problem := unaskable(text))]
    return "; ".join(problems) or SeveralTexts.of(list(enumerate(texts)))


def _of_ids(given: Any, documents: Mapping[str, str] | None) -> SeveralTexts | str:
    """The documents of a row, or its problem."""
    if documents is None:
        return f"{DOCUMENT_IDS} needs --documents FILE, with the id and text of each document"
    names = _list(given)
    if not names:
        return f"{DOCUMENT_IDS} must be a list of ids, with at least one"
    texts = [(str(name), documents.get(str(name))) for name in names]
    unknown = [name for name, text in texts if text is None]
    if unknown:
        return f"{DOCUMENT_IDS}: --documents has no {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}"
    return SeveralTexts.of([(name, text) for name, text in texts if text is not None])


def _list(given: Any) -> list[Any]:
    """A list, or one that a cell of a table holds as JSON; empty for anything else."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return []
    return given if isinstance(given, list) else []
