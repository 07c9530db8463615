"""The layouts of JSON: what a document or an item of it looks like, and the rows that it holds.

| an item | its rows |
|---|---|
| an article with ``paragraphs`` (SQuAD, Haystack's annotation tool) | those of its paragraphs, with its title |
| a context with ``qas`` (simpletransformers, CMRC with ``context_text``) | its questions, each with the context |
| a task with ``data`` and ``annotations`` (Label Studio) | its data, with the regions or typed texts as answers |
| anything else | itself |

A question in ``qas`` may have ``detected_answers`` (MRQA). A document is an item; a list of items; or an object with
such a list as ``data``, with a document for each split, or a table as pandas exports it: ``split``, ``index`` or
``columns`` (``records`` is a list of items).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qa_lightning.data.formats.rows import (
    COLUMNS,
    CONTEXTS,
    NO_ANSWER,
    QUESTIONS,
    Accepted,
    PlacedRow,
    no_split,
    simple_name,
)
from qa_lightning.errors import InputError
from qa_lightning.wording import listed, shown

SPLIT_NAMES = {  # name in a file -> the split that it is
    "train": "train",
    "training": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    "test": "test",
}
_LAYOUTS = (
    f'{{"data": [articles with paragraphs]}}, a list of rows with {", ".join(COLUMNS)}, a list of contexts with qas, '
    "or a table as pandas exports it"
)
_MAX_DEPTH = 4  # objects and lists within each other that an unknown document is searched for items in


def splits_of(document: Any) -> dict[str, Any]:
    """Split -> its document, of a document that is divided by name; empty for any other.

    Args:
        document: parsed; or the beginning of its text, of which the first key alone is read.
    """
    if isinstance(document, str):
        first = re.match(r'\s*\{\s*"(\w+)"\s*:\s*[\[{]', document)
        return {SPLIT_NAMES[first[1]]: None} if first and first[1] in SPLIT_NAMES else {}
    if not isinstance(document, dict) or not document or not document.keys() <= SPLIT_NAMES.keys():
        return {}
    named = {SPLIT_NAMES[name]: part for name, part in document.items()}
    whole = len(named) == len(document) and all(isinstance(part, (list, dict)) for part in named.values())
    return named if whole else {}


def document_rows(path: Path, document: Any, split: str) -> Iterator[PlacedRow]:
    """The rows of a document.

    Args:
        path: of its file.
        document: parsed.
        split: which one to read, if there are several.

    Raises:
        InputError: the layout is none that is known, or there is no such split.
    """
    where = str(path)
    if parts := splits_of(document):
        if split not in parts:
            raise no_split(f"{path}:", split, parts)
        document, where = parts[split], f"{path} [{split}]"
    items = document.get("data") if isinstance(document, dict) and "columns" not in document else document
    items = next(([one] for one in (document, items) if isinstance(one, dict) and _is_item(one)), items)
    if isinstance(document, dict) and not isinstance(items, list):
        table = table_rows(where, items if isinstance(items, dict) else document)
        if table is None:
            raise InputError(f"{where}: {_unknown(document)}")
        yield from table
        return
    if not isinstance(items, list):
        raise InputError(f"{where}: not a SQuAD file; expected {_LAYOUTS}, not {shown(document)}")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            what = f"item {number} is {shown(item)}"
            if isinstance(item, list):
                what += "; a table without the names of its columns: export it with orient='records'"
            raise InputError(f"{where}: not a SQuAD file; expected {_LAYOUTS}, but {what}")
        name = "article" if "paragraphs" in item else "context" if "qas" in item else "row"
        yield from rows_of_item(f"{where} {name} {number}", item)


def _is_item(document: dict[str, Any]) -> bool:
    """Whether a document is an item alone: an article, a context with its questions, a task, or a row."""
    if isinstance(document.get("data"), list):
        return False
    for name in ("paragraphs", "qas"):
        if isinstance(items := document.get(name), list) and all(isinstance(item, dict) for item in items[:1]):
            return True
    if isinstance(document.get("data"), dict) and isinstance(document.get("annotations"), list):
        return True
    texts = {simple_name(name) for name, value in document.items() if isinstance(value, str)}
    return all(texts.intersection(names) for names in (QUESTIONS, CONTEXTS))


def rows_of_item(place: str, item: dict[str, Any], titled: bool = True) -> Iterator[PlacedRow]:
    """The rows of an item.

    Args:
        place: of the item.
        item: an article, a context with its questions, a task, or a row.
        titled: whether the item stands in a document.

    Raises:
        InputError: an article or a context is not laid out as it should be.
    """
    if item.keys() == {"header"}:  # MRQA's files begin with one
        return
    # A table of several layouts, written as JSON, has null where a row is of another one.
    parts = [
        name for name in ("paragraphs", "qas") if name in item and (item[name] is not None or "question" not in item)
    ]
    if "paragraphs" in parts:
        yield from _rows_of_article(place, item)
    elif "qas" in parts:
        title = {"title": item["title"]} if "title" in item else {}
        yield from _rows_of_context(place, item, title)
    elif isinstance(item.get("data"), dict) and isinstance(item.get("annotations"), list):
        yield place, _row_of_task(item)
    else:
        yield place, item


def _refused(where: str, what: str) -> InputError:
    return InputError(
        f"{where}: not SQuAD's layout ({what}); expected paragraphs with 'context' and 'qas', "
        "a list of questions with 'id', 'question' and 'answers'"
    )


def _rows_of_article(place: str, article: dict[str, Any]) -> Iterator[PlacedRow]:
    title = {"title": article["title"]} if "title" in article else {}
    paragraphs = article["paragraphs"]
    if not isinstance(paragraphs, list):
        raise _refused(place, f"paragraphs is {shown(paragraphs)}, not a list")
    for number, paragraph in enumerate(paragraphs, 1):
        where = f"{place} paragraph {number}"
        if not isinstance(paragraph, dict):
            raise _refused(where, f"it is {shown(paragraph)}, not an object")
        yield from _rows_of_context(where, paragraph, title)


def _rows_of_context(place: str, item: dict[str, Any], title: dict[str, Any]) -> Iterator[PlacedRow]:
    """The questions about a context, each with the context under its own name, and the title.

    The context is what is called so, else the longest of the texts that are called like one.
    """
    fitting = [name for name in item if simple_name(name) in CONTEXTS]
    context = max(fitting, key=lambda name: (name == "context", len(str(item[name]))), default="context")
    if missing := [name for name in (context, "qas") if name not in item]:
        raise _refused(place, f"no {listed(missing)}; it has {listed(item) or 'nothing'}")
    if not isinstance(item["qas"], list):
        raise _refused(place, f"qas is {shown(item['qas'])}, not a list")
    for number, qa in enumerate(item["qas"], 1):
        where = f"{place} question {number}"
        if not isinstance(qa, dict):
            raise _refused(where, f"it is {shown(qa)}, not an object")
        yield where, {**_with_detected(qa, item[context]), context: item[context], **title}


def _with_detected(qa: dict[str, Any], context: Any) -> dict[str, Any]:
    """A question of MRQA with the answers that its authors found in the context, and their offsets.

    ``char_spans`` are pairs of offsets, of the first and of the last character. The other texts in ``answers`` count as
    right, too. The id is the ``qid``, by which MRQA's own script knows predictions.
    """
    detected = qa.get("detected_answers")
    if detected is not None and qa.get("qid"):
        qa = {**qa, "id": qa["qid"]}
    if not isinstance(detected, list) or not all(isinstance(one, dict) and "char_spans" in one for one in detected):
        return qa
    answers: list[dict[str, Any]] = []
    for one in detected:
        spans = one["char_spans"] if isinstance(one["char_spans"], list) else []
        for span in spans:
            if not isinstance(span, list) or len(span) != 2 or not all(type(end) is int for end in span):
                return qa
            first, last = span
            there = context[first : last + 1] if isinstance(context, str) and 0 <= first <= last else ""
            text = one.get("text", there)
            alike = isinstance(text, str) and not there.startswith(text) and _bare(text) == _bare(there)
            answers.append({"text": there if alike else text, "answer_start": first})
    if not answers:
        return qa
    texts = qa["answers"] if isinstance(qa.get("answers"), list) else []
    found = [answer["text"] for answer in answers]
    answers += [{"text": Accepted(text)} for text in texts if isinstance(text, str) and text not in found]
    return {**qa, "answers": answers}


def _bare(text: str) -> str:
    """A text without what writing it down again may change."""
    return " ".join(text.split()).lower()


def _row_of_task(task: dict[str, Any]) -> dict[str, Any]:
    """A row of a task of Label Studio: its data, and as answers what its annotators marked or typed.

    Annotations that were cancelled do not count. A task that nobody annotated has no answers, also not the empty ones
    of a question that the text does not answer.
    """
    row = {"id": task.get("id"), **task["data"]}
    done = [one for one in task["annotations"] if isinstance(one, dict) and not one.get("was_cancelled")]
    return {**row, "answers": [answer for one in done for answer in _answers_of_annotation(one)]} if done else row


def _answers_of_annotation(annotation: dict[str, Any]) -> list[Any]:
    """The regions of an annotation; without any the texts that were typed; without these all that is there.

    What is no answer, such as a choice, stands for none beside one. Alone it stays, and is refused as an answer, unless
    it says that there is none: only an empty annotation is known to be one without an answer.
    """
    results = [one for one in annotation.get("result") or () if isinstance(one, dict)]
    values = [one["value"] if isinstance(one.get("value"), dict) else one for one in results]
    regions = [value for value in values if "start" in value and "end" in value]
    typed = [value for value in values if "text" in value]
    return regions or typed or [value for value in values if not _says_nothing(value)]


def _says_nothing(value: dict[str, Any]) -> bool:
    """Whether a value of Label Studio holds choices that all say that there is no answer."""
    choices = value.get("choices")
    return isinstance(choices, list) and all(str(one).strip().lower() in NO_ANSWER for one in choices)


def table_rows(where: str, table: dict[str, Any]) -> Iterator[PlacedRow] | None:
    """The rows of a table as pandas exports it; None if it is none.

    Args:
        where: place of the table.
        table: the object.

    Raises:
        InputError: a row has not as many values as there are columns.
    """
    if {"columns", "data"} <= table.keys() and isinstance(table["columns"], list) and isinstance(table["data"], list):
        return _split_rows(where, table["columns"], table["data"])
    columns = list(table.values())
    if not columns:
        return None
    if all(isinstance(column, list) for column in columns):
        if len(columns) > 1 and len({len(column) for column in columns}) == 1:
            return _zipped(where, list(table), zip(*columns, strict=True))
        return None
    if not all(isinstance(column, dict) and column for column in columns):
        return None
    inner = list(columns[0])
    if _are_numbers(inner) and not _are_numbers(list(table)):
        if any(list(column) != inner for column in columns):
            return None
        return _zipped(where, list(table), zip(*(column.values() for column in columns), strict=True))
    if not all({str, list, dict} & set(map(type, column.values())) for column in columns):
        return None
    if not _are_numbers(list(table)):  # the index is then the rows' own name
        table = {key: {"id": key, **row} for key, row in table.items()}
    placed = ((f"{where} row {number}", row) for number, row in enumerate(table.values(), 1))
    return (one for place, row in placed for one in rows_of_item(place, row))


def _split_rows(where: str, names: list[Any], rows: list[Any]) -> Iterator[PlacedRow]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(names):
            raise InputError(
                f"{where}: row {number} of 'data' is {shown(row)}, not a list of {len(names)} values, as 'columns' says"
            )
    return _zipped(where, list(map(str, names)), rows)


def _zipped(where: str, names: list[str], rows: Any) -> Iterator[PlacedRow]:
    return ((f"{where} row {number}", dict(zip(names, row, strict=True))) for number, row in enumerate(rows, 1))


def _are_numbers(keys: list[str]) -> bool:
    return all(key.isdecimal() for key in keys)


def _unknown(document: dict[str, Any]) -> str:
    """Which layout an object resembles, and what to change; or all layouts."""
    has = f"an object with {listed(document, 10) or 'nothing'}"
    if found := _find_items(document, ()):
        keys, what = found
        return (
            f"not a SQuAD file, but its {' '.join(map(repr, keys))} reads like {what}; write that list alone, or as "
            f'{{"data": [...]}}'
        )
    if document and all(isinstance(value, str) for value in document.values()):
        if {"question", "context"} & document.keys():
            return f"it is one row without a question or a context ({has}); expected {_LAYOUTS}"
        return f"reads like predictions, a text for each id, not like questions ({has}); expected {_LAYOUTS}"
    lists = {name: len(value) for name, value in document.items() if isinstance(value, list)}
    if len(lists) > 1 and len(lists) == len(document):
        sizes = ", ".join(f"{name!r} has {size:,}" for name, size in list(lists.items())[:10])
        return f"reads like the columns of a table, but they are not equally long ({sizes}); export it again"
    wrong = f"with {shown(document['data'])} as data" if "data" in document else has
    return f"not a SQuAD file; expected {_LAYOUTS}, not {wrong}"


def _find_items(value: Any, keys: tuple[str, ...]) -> tuple[tuple[str, ...], str] | None:
    """The keys that lead to a list of items of a known layout, and what the items are."""
    if isinstance(value, list):
        first = value[0] if value and isinstance(value[0], dict) else {}
        for name, what in (
            ("paragraphs", "SQuAD's articles"),
            ("qas", "contexts with qas"),
            ("annotations", "tasks of Label Studio"),
            ("question", "rows"),
        ):
            if name in first:
                return keys, what
    elif isinstance(value, dict) and len(keys) < _MAX_DEPTH:
        for name, inner in value.items():
            if found := _find_items(inner, (*keys, name)):
                return found
    return None
