"""Cuts the files of an input into parts that different machines read, and reads one.

A part is a file, or a group of rows of a Parquet file. Its rows are cut into pieces: a piece is answered by one
process, and is one file of answers. Rows keep their number in the input, and pieces depend on nothing but the input and
the batch size. Files are read by the readers of `data.formats`, so a row means, and is called, what it is elsewhere.

Limit: a file that is not Parquet is read by one process, from its beginning, also where its first rows are done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path, PurePosixPath
from typing import cast

from qa_lightning.data.columns import ReadSettings
from qa_lightning.data.formats import (
    JSON_LINES,
    BrokenRow,
    PlacedRow,
    Remark,
    file_format,
    is_address,
    no_file_in_folder,
    parquet_groups,
    read_file,
    read_parquet,
    remote_files,
)
from qa_lightning.data.sources import none_named, source_files, source_names
from qa_lightning.errors import InputError
from qa_lightning.inference.bulk.questions import BadRow, Question, questions_of
from qa_lightning.paths import named_path

_SUFFIXES = (".parquet", *JSON_LINES, ".csv", ".tsv")
_MAX_CHUNKS = 16  # of a piece: what a lost process has to do again
_MIN_PIECES = 64  # of an input with so many chunks, so that all processes have something to do to the end


@dataclass(frozen=True)
class Part:
    """Consecutive rows that one process reads.

    Attributes:
        file: path or address.
        group: of a Parquet file; None for a whole file.
        before: rows of the file before this part.
        first: number of its first row in the input, from 1.
        rows: how many there are.
    """

    file: str
    group: int | None
    before: int
    first: int
    rows: int


@dataclass(frozen=True)
class RowPiece:
    """Consecutive rows that are answered and written together.

    Attributes:
        first, last: the numbers of its first and last row.
        rows: its rows.
    """

    first: int
    last: int
    rows: list[Question | BadRow]


def input_files(source: str) -> list[str]:
    """The files of an input: paths and addresses, each of a file, a folder, or a pattern, with commas between them.

    Raises:
        InputError: a name among them names no file, or a file's format is another one; all of them are listed.
    """
    found: list[str] = []
    problems = []
    for name in source_names(source):
        try:
            found += _named(name)
        except InputError as error:
            problems += error.problems
    fix = f"--engine ray reads {', '.join(_SUFFIXES)}, each also with .gz; leave --engine out, or convert it"
    problems += [f"{name}: {fix}" for name in found if file_format(_opened(name)) not in _SUFFIXES]
    if problems or not found:
        raise InputError(problems or [f"--input '{source}' names no file"])
    return found


def _named(name: str) -> list[str]:
    """The files of one name.

    Raises:
        InputError: there are none.
    """
    if is_address(name):
        return [str(file) for file in remote_files(name, _SUFFIXES)]
    path = named_path("--input", name)
    if path.is_dir():
        inside = (file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith((".", "_")))
        files = [file for file in inside if file_format(file) in _SUFFIXES]
    else:
        files = source_files(name)
    if not files:
        raise InputError(f"--input {name}: {no_file_in_folder(_SUFFIXES) if path.is_dir() else none_named(name)}")
    return [str(file.absolute()) for file in files]


def _opened(file: str) -> Path:
    """A file as readers take it."""
    return cast(Path, remote_files(file, ())[0]) if is_address(file) else Path(file)


def _is_parquet(file: str) -> bool:
    """Whether a file is Parquet whose groups of rows can be read one by one."""
    return PurePosixPath(file.partition("?")[0] if is_address(file) else file).suffix.lower() == ".parquet"


def input_fingerprint(files: Sequence[str]) -> str:
    """A key of the content of files, by their names, sizes and times of modification; no file is read.

    Raises:
        InputError: a file is gone.
    """
    found = hashlib.sha256()
    for name in files:
        file = _opened(name)
        try:
            state = file.stat()
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({error.strerror or error})") from None
        found.update(f"{file.name}\n{state.st_size}\n{state.st_mtime_ns}\n".encode())
    return f"files-{found.hexdigest()}"


def input_size(files: Sequence[str]) -> int:
    """The bytes of files that must be read to count their rows."""
    return sum(_opened(name).stat().st_size for name in files if not _is_parquet(name))


def row_counts(file: str, encoding: str | None) -> list[int]:
    """The number of rows of each group of a Parquet file; of any other file one number, for which it is read.

    Raises:
        InputError: the file cannot be read.
    """
    path = _opened(file)
    if _is_parquet(file):
        return parquet_groups(path)
    rows = read_file(path, encoding, "validation")
    return [sum(not isinstance(row, Remark) for _, row in rows)]


def parts_of(files: Sequence[str], counts: Sequence[Sequence[int]]) -> list[Part]:
    """The parts of files whose rows are counted, in order; empty ones are left out."""
    parts = []
    first = 1
    for file, numbers in zip(files, counts, strict=True):
        begin = first
        for group, rows in enumerate(numbers):
            one = group if _is_parquet(file) else None
            if rows:
                parts.append(Part(file, one, first - begin, first, rows))
            first += rows
    return parts


def rows_of_piece(rows: int, rows_together: int) -> int:
    """The rows of a piece: whole chunks, more of them the larger the input is.

    Args:
        rows: of the input.
        rows_together: rows of a chunk.
    """
    return rows_together * min(_MAX_CHUNKS, max(1, rows // rows_together // _MIN_PIECES))


def ranges(part: Part, size: int) -> Iterator[tuple[int, int]]:
    """The first and the last row of each piece of a part."""
    end = part.first + part.rows
    return ((first, min(first + size, end) - 1) for first in range(part.first, end, size))


def read_part(part: Part, encoding: str | None) -> Iterator[PlacedRow]:
    """Stream the raw rows of a part."""
    path = _opened(part.file)
    if part.group is not None:
        return read_parquet(path, part.group, part.before)
    return read_file(path, encoding, "validation")


def read_pieces(
    part: Part,
    size: int,
    reading: ReadSettings,
    wanted: Callable[[int], bool],
    documents: Mapping[str, str] | None,
    before: PlacedRow | None,
) -> Iterator[RowPiece]:
    """Read the pieces of a part.

    Args:
        part: what to read.
        size: rows of a piece.
        reading: how rows are understood.
        wanted: whether to give the piece that begins with a row; others are read but not checked.
        documents: id -> text, for rows with ``document_ids``.
        before: an earlier row with the needed columns, see `first_usual`: a part of broken rows alone is then no error.

    Raises:
        InputError: the part cannot be read, or has another number of rows than before.
    """
    seed, number = ([], part.first) if before is None else ([before], part.first - 1)
    rows = chain(seed, read_part(part, reading.encoding))

    def first_of(row: int) -> int:
        return row - (row - part.first) % size

    def is_wanted(row: int) -> bool:
        return row >= part.first and wanted(first_of(row))

    found = questions_of(rows, reading, wanted=is_wanted, documents=documents, number=number)
    due = {first: last for first, last in ranges(part, size) if wanted(first)}
    changed = InputError(f"{part.file} has changed while it was read: it has another number of rows than it had")
    for first, some in groupby(found, lambda row: first_of(row.row)):
        piece = list(some)
        if due.pop(first, None) != piece[-1].row:
            raise changed
        yield RowPiece(first, piece[-1].row, piece)
    if due:
        raise changed


def first_usual(
    parts: Sequence[Part],
    reading: ReadSettings,
    log_line: Callable[[str], None],
    documents: Mapping[str, str] | None,
) -> PlacedRow | None:
    """The first row that can be asked; None if there is none.

    Raises:
        InputError: the rows cannot be read, or their question or context column is not known.
    """
    taken: list[PlacedRow] = []

    def noted() -> Iterator[PlacedRow]:
        for part in parts:
            for placed in read_part(part, reading.encoding):
                taken[:] = [placed]
                yield placed

    for question in questions_of(noted(), reading, log_line, documents=documents):
        if isinstance(question, Question) and not isinstance(taken[0][1], (BrokenRow, Remark)):
            return taken[0]
    return None
