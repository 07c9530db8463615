"""Stream the rows of a table in text, CSV or TSV, each with the number that a spreadsheet shows beside it.

A first line ``sep=;``, which Excel writes and hides, names the separator. Otherwise it is the most frequent one in the
header: comma, semicolon, tab or bar. A row with too many or too few fields becomes a `BrokenRow`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from qa_lightning.data.formats.limits import TableLines, lines_of
from qa_lightning.data.formats.rows import BrokenRow, PlacedRow, repeated
from qa_lightning.data.formats.texts import EncodingError, opened_text, wrong_byte
from qa_lightning.errors import InputError
from qa_lightning.wording import counted, listed, shown

_LARGEST_FIELD = 2**31 - 1  # characters of a CSV field; Python's own limit is 131,072
_SEPARATORS = ",;\t|"
_SEPARATOR_LINE = re.compile(rb'"?sep=(.)"?\r?(?:\n|$)', re.IGNORECASE)
_NAME_THEM = "put a line above it that names the columns"
_LONG = 60  # characters that no name of a column has


def read_table(path: Path, kind: str, encoding: str | None) -> Iterator[PlacedRow]:
    """Stream the rows of a table.

    Args:
        path: the file.
        kind: ``.csv`` or ``.tsv``.
        encoding: of the file, if it is not UTF-8.
    """
    csv.field_size_limit(_LARGEST_FIELD)
    try:
        with opened_text(path, encoding) as (raw, start):
            bare = start.removeprefix(b"\xef\xbb\xbf")
            said = _SEPARATOR_LINE.match(bare)
            separator = said[1].decode("latin-1") if said else "\t" if kind == ".tsv" else _separator(bare)
            with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:  # newline="" keeps line ends in texts
                if said:
                    text.readline()
                yield from _rows_of_table(path, TableLines(text, path, 2 if said else 1), separator, hidden=bool(said))
    except UnicodeDecodeError:
        with opened_text(path, encoding) as (raw, start):
            for number, line in enumerate(lines_of(raw, path), 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    raise EncodingError(f"{path} line {number}: {wrong_byte(error, start)}") from None
        raise  # never reached: one of the lines cannot be decoded


def header_names(place: str, fields: list[str]) -> list[str]:
    """The names of a table's columns.

    Args:
        place: of the table, for messages.
        fields: its first row.

    Raises:
        InputError: a name stands there twice.
    """
    names = [field.strip() for field in fields]
    if twice := repeated(filter(None, names)):
        what = f"{place}: its header names {listed(twice)} twice; its first line must name each column once"
        if reads_like_data(names):
            what = f"{place}: the first row reads like data ({listed(names, 5)}); {_NAME_THEM}"
        raise InputError(what)
    if len(names) > 1 and len(list(filter(None, names))) == 1:
        raise lone_title(place, next(filter(None, names)))
    return names


def lone_title(place: str, title: str) -> InputError:
    """The error for a table whose first row is a title, not a header."""
    return InputError(
        f"{place}: its first row holds {shown(title)} alone; the first row must name the columns: remove what stands "
        "above it"
    )


def reads_like_data(names: list[str]) -> bool:
    """Whether what should be names of columns reads like a row of data: a question, a sentence, a number."""
    return any(
        len(name) > _LONG or name.endswith(("?", "？", "؟", "。")) or name.count(" ") > 4 or _is_number(name)
        for name in names[:1000]
    )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+([.,]\d+)?", text) is not None


def _separator(start: bytes) -> str:
    """The most frequent separator in the first line, outside of double quotes."""
    header = re.sub(rb'"[^"]*"', b"", start.lstrip(b"\r\n").split(b"\n")[0])
    return max(_SEPARATORS, key=lambda mark: header.count(mark.encode()))


def _rows_of_table(path: Path, text: TableLines, separator: str, hidden: bool) -> Iterator[PlacedRow]:
    """The rows after the header.

    Args:
        path: of the file.
        text: its lines.
        separator: of fields.
        hidden: whether a line stands before the first of these that spreadsheets do not show.
    """
    names: list[str] = []
    number = 0  # of the row, as spreadsheets count: the header, empty rows, and rows of several lines as one
    read = int(hidden)  # lines of the file
    lines = csv.reader(text, delimiter=separator, strict=True)
    try:
        for fields in lines:
            text.begin_row()
            first, read = read + 1, lines.line_num + hidden
            number += 1
            if not any(field.strip() for field in fields):  # an empty line, or an empty row that a spreadsheet adds
                continue
            place = f"{path} row {number}" + (f" (line {first})" if first != number else "")
            if not names:
                names = header_names(str(path), fields)
            elif len(fields) != len(names):
                problem = (
                    f"{place}: {counted(len(fields), 'field')} where the header has {len(names)}; put "
                    f"texts that hold {shown(separator)} or line breaks in double quotes"
                )
                yield place, BrokenRow("fields", [problem])
            elif any("\0" in field for field in fields):
                yield place, BrokenRow("text", [f"{place}: holds a NUL byte; remove it"])
            else:
                yield place, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        open_quote = ": a quoted text begins in this row and has no end" if "end of data" in str(error) else ""
        raise InputError(
            f"{path} line {read + 1}: not valid CSV ({error}){open_quote}; put a text that holds double quotes in "
            "double quotes, and double each quote in it"
        ) from None
    if not names:
        raise InputError(f"{path}: is empty; its first line must name the columns")
    if number == 1 and reads_like_data(names):
        raise InputError(f"{path}: its only row reads like data ({listed(names, 5)}); {_NAME_THEM}")
