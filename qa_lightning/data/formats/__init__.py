"""Stream the raw rows of a file, each with its place (file and row), for messages.

A file's ending, without a last ``.gz``, gives its format. A ``.json`` file, a workbook's texts, and Parquet and Arrow
files in ``.gz`` are read into memory whole; all others are streamed, a row at a time. How long a row may be, and how
much a packed file may hold, says `limits`. A damaged file, or one whose content is not what its ending says, is an
`InputError`. A row of a table with too many or too few fields, or a line that is no JSON object, becomes a `BrokenRow`,
and reading continues.

Other rooms import from here, and from `limits` what bounds sources that are not files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qa_lightning.data.formats.binary import parquet_groups, read_arrow, read_parquet
from qa_lightning.data.formats.documents import document_splits, is_one_row, read_document, read_json_lines
from qa_lightning.data.formats.layouts import table_rows
from qa_lightning.data.formats.remote import filesystem_of, is_address, no_file_in_folder, remote_files
from qa_lightning.data.formats.rows import (
    COLUMNS,
    CONTEXTS,
    NO_ANSWER,
    QUESTIONS,
    Accepted,
    BrokenRow,
    PlacedRow,
    Remark,
    no_split,
    refuse_repeated,
    simple_name,
)
from qa_lightning.data.formats.tables import read_table, reads_like_data
from qa_lightning.data.formats.texts import EncodingError, encoding_problem, is_packed, marked_encoding, opened_text
from qa_lightning.data.formats.workbooks import read_workbook

__all__ = [
    "COLUMNS",
    "CONTEXTS",
    "JSON_LINES",
    "NO_ANSWER",
    "QUESTIONS",
    "SUFFIXES",
    "Accepted",
    "BrokenRow",
    "EncodingError",
    "PlacedRow",
    "Remark",
    "encoding_problem",
    "file_format",
    "file_splits",
    "filesystem_of",
    "is_address",
    "is_one_row",
    "no_file_in_folder",
    "no_split",
    "opened_text",
    "parquet_groups",
    "read_file",
    "read_parquet",
    "reads_like_data",
    "refuse_repeated",
    "remote_files",
    "simple_name",
    "table_rows",
]

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
SUFFIXES = (".json", *JSON_LINES, ".csv", ".tsv", ".parquet", ".arrow", ".xlsx")


def file_format(path: Path) -> str:
    """The ending that gives a file's format, in lower case and without ``.gz``, such as ``.json``."""
    name = path.with_suffix("") if is_packed(path) else path
    return name.suffix.lower()


def read_file(path: Path, encoding: str | None = None, split: str = "train") -> Iterator[PlacedRow]:
    """Stream the rows of a file; a file of an unknown ending is read as JSON lines.

    Args:
        path: the file.
        encoding: of text files, if it is not UTF-8.
        split: which one to read, if the file holds several.

    Raises:
        InputError: the file cannot be read in the format that its ending gives.
    """
    kind = file_format(path)
    if kind == ".parquet":
        return read_parquet(path)
    if kind == ".arrow":
        return read_arrow(path)
    return read_workbook(path) if kind == ".xlsx" else _read_text(path, kind, encoding, split)


def _read_text(path: Path, kind: str, encoding: str | None, split: str) -> Iterator[PlacedRow]:
    if marked := marked_encoding(path):
        yield str(path), Remark(f"read as {marked}, as its byte-order mark says")
    if kind == ".json":
        yield from read_document(path, encoding, split)
    elif kind in (".csv", ".tsv"):
        yield from read_table(path, kind, encoding)
    else:
        yield from read_json_lines(path, encoding)


def file_splits(path: Path, encoding: str | None = None) -> list[str]:
    """The splits that a file holds by name, as ``{"train": ..., "validation": ...}``; empty for most files."""
    return document_splits(path, encoding) if file_format(path) == ".json" else []
