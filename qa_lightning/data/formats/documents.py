"""Stream the rows of JSON documents and of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from qa_lightning.data.formats.layouts import document_rows, rows_of_item, splits_of
from qa_lightning.data.formats.limits import lines_of, read_whole
from qa_lightning.data.formats.rows import COLUMNS, BrokenRow, PlacedRow, Remark
from qa_lightning.data.formats.texts import EncodingError, is_packed, opened_text, wrong_byte
from qa_lightning.errors import InputError
from qa_lightning.wording import shown

_LINE = 1 << 20  # bytes of a first line that may be one of JSON lines called .json
_FIRST, _MAX_FIRST = 100, 1 << 24  # lines, and their bytes, that tell JSON lines from one JSON text


def read_document(path: Path, encoding: str | None, split: str) -> Iterator[PlacedRow]:
    """The rows of a ``.json`` file, which is read into memory whole; it may hold JSON lines.

    Args:
        path: the file.
        encoding: of the file, if it is not UTF-8.
        split: which one to read, if the file holds several.
    """
    if _is_lines(path, encoding):
        remark = Remark("has one JSON object in each line, and is read so")
        return chain([(str(path), remark)], read_json_lines(path, encoding))
    return document_rows(path, _parsed(path, encoding), split)


def _is_lines(path: Path, encoding: str | None) -> bool:
    """Whether the first line is a whole JSON object, and no document, and another one begins after it."""
    try:
        with opened_text(path, encoding) as (file, _):
            lines = (line for line in iter(lambda: file.readline(_LINE), b"") if line.strip())
            first, second = next(lines, b""), next(lines, b"")
    except InputError:  # reading it reports what is wrong
        return False
    if not first.endswith((b"\n", b"\r")) or not second.lstrip().startswith(b"{"):
        return False
    item = _object("", first)
    return not isinstance(item, (BrokenRow, list)) and not isinstance(item.get("data"), list)


def document_splits(path: Path, encoding: str | None) -> list[str]:
    """The splits that a ``.json`` file holds by name; empty if it is not divided, or cannot be read.

    A file whose first key is none of them is not read for this.
    """
    try:
        with opened_text(path, encoding) as (_, start):
            if not splits_of(start.decode("utf-8-sig", "ignore")):
                return []
        state = path.stat()
        return _splits(path, encoding, state.st_size, state.st_mtime_ns)
    except (InputError, OSError):  # reading the rows reports what is wrong
        return []


@cache
def _splits(path: Path, encoding: str | None, size: int, modified: int) -> list[str]:
    """The splits of a file; a process reads a file for them once."""
    return list(splits_of(_parsed(path, encoding)))


def _parsed(path: Path, encoding: str | None) -> Any:
    text = ""
    try:
        with opened_text(path, encoding) as (file, start):
            content = read_whole(file, path, is_packed(path))
        if not content.strip():
            raise InputError(f"{path}: is empty")
        text = _decoded(path, content, start)
        return json.loads(text)
    except MemoryError:
        raise InputError(f"{path}: memory does not hold it whole; write its rows as JSON lines") from None
    except InputError:
        raise
    except json.JSONDecodeError as error:
        hint = "; name a file with one object per line .jsonl" if error.msg == "Extra data" else ""
        hint = f"; it begins {shown(text.strip(), 40)}" if error.pos == 0 else hint
        raise InputError(
            f"{path}: not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}){hint}"
        ) from None
    except (ValueError, RecursionError) as error:  # a longer number or a deeper nesting than Python reads
        raise InputError(f"{path}: not valid JSON that Python can read ({error})") from None


def _decoded(path: Path, content: bytearray, start: bytes) -> str:
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise EncodingError(f"{path}: {wrong_byte(error, start)}") from None


def read_json_lines(path: Path, encoding: str | None) -> Iterator[PlacedRow]:
    """Stream the rows of JSON lines; a line that is not one JSON object of a known layout becomes a `BrokenRow`.

    Args:
        path: the file.
        encoding: of the file, if it is not UTF-8.

    Raises:
        InputError: its first lines are the beginning of one JSON text.
    """
    with opened_text(path, encoding) as (file, start):
        record = size = 0
        first: list[bytes] | None = []  # lines, as long as none is an object
        held: list[PlacedRow] = []  # their rows
        for number, line in enumerate(lines_of(file, path), 1):
            if not line.strip():
                continue
            record += 1
            place = f"{path} line {number}" + (f" (record {record})" if record != number else "")
            item = _object(place, line, start)
            if isinstance(item, BrokenRow):
                held.append((place, item))
                if first is not None:
                    first.append(line)
                    size += len(line)
                    if len(first) < _FIRST and size < _MAX_FIRST:
                        continue
                    _refuse_document(path, first)
            yield from held
            held, first = [], None
            if not isinstance(item, BrokenRow):
                yield from _rows_of_object(place, item)
        if first:
            _refuse_document(path, first)
        yield from held


def _rows_of_object(place: str, item: dict[str, Any]) -> Iterator[PlacedRow]:
    """The rows of the object in a line; where its layout is wrong, a `BrokenRow` in place of the rest of it."""
    try:
        yield from rows_of_item(place, item, titled=False)
    except InputError as error:
        yield place, BrokenRow("line", error.problems)


def _refuse_document(path: Path, lines: list[bytes]) -> None:
    """Raise the `InputError` for one JSON text over several lines, of which these are the first."""
    text = b"\n".join(lines).decode("utf-8-sig", "replace").strip()
    try:
        json.loads(text)
        begun = len(lines) > 1
    except json.JSONDecodeError as error:  # what is missing is missing at the end
        begun = len(lines) > 1 and text.startswith(("{", "[")) and error.pos >= len(text)
    except (ValueError, RecursionError):
        begun = False
    if begun:
        raise InputError(f"{path}: looks like one JSON text over several lines, not one in each line; name it .json")


def is_one_row(line: bytes) -> bool:
    """Whether a line of JSON lines is one row, and not several, or none; a line that cannot be read is a bad row."""
    item = _object("", line)
    return isinstance(item, BrokenRow) or len(list(islice(_rows_of_object("", item), 2))) == 1


def _object(place: str, line: bytes, start: bytes = b"") -> dict[str, Any]:
    """Parse a line of JSON lines; a `BrokenRow` unless it is one JSON object in UTF-8.

    Args:
        place: of the row, for messages.
        line: bytes in UTF-8.
        start: the first bytes of the file, for messages.
    """
    try:
        row = json.loads(line.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        return BrokenRow("text", [f"{place}: {wrong_byte(error, start)}"])
    except (ValueError, RecursionError) as error:
        problem = (
            f"{place}: not one JSON object ({error}); each line must hold a whole object; if the whole file is one "
            "JSON text, name it .json"
        )
        return BrokenRow("line", [problem])
    if not isinstance(row, dict):
        return BrokenRow("line", [f"{place}: {shown(row)} is not a JSON object with {', '.join(COLUMNS)}"])
    return row
