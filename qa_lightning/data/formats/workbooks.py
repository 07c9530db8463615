"""Stream the rows of an Excel workbook (``.xlsx``) as the texts that a CSV file of the sheet would hold.

The first visible sheet with several columns is read. A formula gives the value that was saved with it; one without such
a value makes a remark that its column cannot be read. A number gives its digits, whatever its format on the sheet. The
texts of all cells are in memory while it is read, so a workbook is limited like what is read whole.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO, Any

from qa_lightning.data.formats.limits import MAX_ROW, read_whole, refuse_workbook
from qa_lightning.data.formats.rows import PlacedRow, Remark
from qa_lightning.data.formats.tables import header_names, lone_title
from qa_lightning.data.formats.texts import is_packed, opened
from qa_lightning.errors import InputError, install_extra, one_line
from qa_lightning.wording import listed

_MAX_ROWS = 1_048_576  # of a sheet, in Excel
_FIRST = 20  # rows of a sheet that say whether it is a table
_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")  # a character of a text as its number, in four hexadecimal digits
_FORMULA = re.compile(rb"<(?:\w+:)?f[\s/>]")  # the element of a formula
_UNSAVED = "a formula without a saved value: open the workbook in Excel or LibreOffice, and save it"
_PIECE = 1 << 20  # bytes of a part that are searched at a time
_OVERLAP = 64  # bytes of the piece before that are seen again


def read_workbook(path: Path) -> Iterator[PlacedRow]:
    """Stream the rows of a workbook's first sheet.

    Raises:
        InputError: openpyxl is missing, the file is no workbook or goes beyond the limits, or it has no rows.
    """
    if find_spec("openpyxl") is None:
        raise InputError(f"{path}: reading it needs openpyxl; run {install_extra('excel')}, or save it as CSV UTF-8")
    with opened(path) as file:
        source: IO[bytes] = io.BytesIO(read_whole(file, path, packed=True)) if is_packed(path) else file
        try:
            yield from _rows_of_workbook(path, source)
        except InputError:
            raise
        except Exception as error:  # openpyxl and zipfile raise whatever a damaged part leads them to
            reason = one_line(error, first=True)
            raise InputError(
                f"{path}: not a readable workbook ({reason}); save it again as .xlsx, or as CSV UTF-8"
            ) from None


def _rows_of_workbook(path: Path, source: IO[bytes]) -> Iterator[PlacedRow]:
    from openpyxl import load_workbook  # imported late: --help does not wait for it

    refuse_workbook(path, source)
    source.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # styles and extensions that openpyxl does not know are no concern of ours
        book = load_workbook(source, read_only=True, data_only=True)
    try:
        sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        tables = [sheet for sheet in sheets if _is_table(sheet)]
        if not tables:
            raise InputError(f"{path}: has no sheet with several columns; the first row must name them")
        chosen, several = tables[0], len(sheets) > 1
        _restore_escapes(book, chosen)
        if several:
            others = listed((sheet.title for sheet in sheets if sheet is not chosen), 5)
            yield str(path), Remark(f"sheet {chosen.title!r} alone is read, not {others}")
        yield from _rows_of_sheet(f"{path} sheet {chosen.title!r}" if several else str(path), chosen)
    finally:
        book.close()


def _is_table(sheet: Any) -> bool:
    """Whether one of a sheet's first rows has two cells or more."""
    sheet.reset_dimensions()  # what the file says of its size is not to be trusted
    return any(len(_cells(values)) > 1 for values in islice(sheet.iter_rows(values_only=True), _FIRST))


def _rows_of_sheet(where: str, sheet: Any) -> Iterator[PlacedRow]:
    """The rows after the header.

    Args:
        where: the workbook, with the sheet's name if it has several.
        sheet: of openpyxl.
    """
    names: list[str] = []
    unsaved = _unsaved_formulas(sheet)
    for number, values in enumerate(sheet.iter_rows(values_only=True), 1):
        if number > _MAX_ROWS:
            raise InputError(f"{where}: has more than {_MAX_ROWS:,} rows, as no sheet does; save it again")
        if not (cells := _cells(values)):
            continue
        place = f"{where} row {number}"
        if not names:
            names = header_names(where, cells)
            for column, row in unsaved.items():
                if row == number:
                    raise InputError(f"{place}: column {column} of the header is {_UNSAVED}")
                if column <= len(names) and names[column - 1]:
                    yield (
                        f"{where} row {row}",
                        Remark(f"column {names[column - 1]!r} holds {_UNSAVED}", names[column - 1]),
                    )
        elif len(names) == 1 and len(cells) > 1:
            raise lone_title(where, names[0])
        elif sum(map(len, cells)) > MAX_ROW:
            raise InputError(f"{place}: has more than {MAX_ROW:,} characters; no row is that long")
        else:
            if len(cells) > len(names):
                yield where, Remark("cells to the right of the header's last name are not read")
            yield place, dict(zip(names, cells + [""] * (len(names) - len(cells)), strict=False))


def _cells(values: Iterable[Any]) -> list[str]:
    """The cells of a row, up to the last one that holds something; formats make cells that hold nothing."""
    cells = [_text(value) for value in values]
    while cells and not cells[-1].strip():
        cells.pop()
    return cells


def _restore_escapes(book: Any, sheet: Any) -> None:
    """Read a workbook's table of texts again, if it has escapes: openpyxl drops ``x005F_``, which guards a ``_``.

    Args:
        book, sheet: of openpyxl; the table is replaced in place.
    """
    from openpyxl.cell.text import Text
    from openpyxl.xml.constants import ARC_SHARED_STRINGS, SHEET_MAIN_NS
    from openpyxl.xml.functions import iterparse

    parts = [name for name in book._archive.namelist() if name.lower() == ARC_SHARED_STRINGS.lower()]
    for part in parts:
        with book._archive.open(part) as file:
            if not _holds(file, re.compile(_ESCAPE.pattern.encode())):
                return
        with book._archive.open(part) as file:
            nodes = (node for _, node in iterparse(file) if node.tag == f"{{{SHEET_MAIN_NS}}}si")
            for index, node in enumerate(nodes):
                sheet._shared_strings[index] = Text.from_tree(node).content
                node.clear()


def _unsaved_formulas(sheet: Any) -> Mapping[int, int]:
    """Number of a column -> that of its first row with a formula without a saved value, as other programs write them.

    openpyxl gives such a cell like an empty one. A sheet without formulas is not parsed for them.
    """
    from openpyxl.utils.cell import coordinate_to_tuple
    from openpyxl.worksheet._reader import CELL_TAG, FORMULA_TAG, ROW_TAG, VALUE_TAG
    from openpyxl.xml.functions import iterparse

    with sheet._get_source() as file:
        if not _holds(file, _FORMULA):
            return {}
    first: dict[int, int] = {}
    row = 0
    with sheet._get_source() as file:
        for _, node in iterparse(file):
            if node.tag != ROW_TAG:
                continue
            row, column = int(node.get("r", row + 1)), 0
            for cell in node.iterfind(CELL_TAG):
                column = coordinate_to_tuple(cell.get("r"))[1] if cell.get("r") else column + 1
                if cell.find(FORMULA_TAG) is None:
                    continue
                saved = cell.findtext(VALUE_TAG)  # empty where a text is, it is an empty text
                if saved is None or (not saved and cell.get("t") != "str"):
                    first.setdefault(column, row)
            node.clear()
    return first


def _holds(file: IO[bytes], pattern: re.Pattern[bytes]) -> bool:
    """Whether a part of a workbook matches somewhere; it is read in pieces."""
    before = b""
    while piece := file.read(_PIECE):
        if pattern.search(before + piece):
            return True
        before = piece[-_OVERLAP:]
    return False


def _text(value: Any) -> str:
    """A cell as a CSV file holds it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime):  # a date alone is one at midnight
        return str(value.date() if value.time() == time() else value)
    return _unescaped(value) if isinstance(value, str) else str(value)


def _unescaped(text: str) -> str:
    """A text of a workbook without its escapes, such as ``_x000D_`` for a carriage return."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text) if "_x" in text else text
