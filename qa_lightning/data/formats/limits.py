"""How much of a source is taken into memory at a time, whatever the file holds or unpacks to.

A row, a line of text included, has at most `MAX_ROW` bytes (of CSV and TSV: characters). What is read whole, a packed
``.json``, Parquet or Arrow file, has at most `MAX_WHOLE`, a workbook `MAX_WORKBOOK`. A packed file unpacks to at most
`MAX_RATIO` times its size: real text stays far below that (SQuAD: 4 to 5 times), a file made to fill the memory does
not.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_lightning.errors import InputError

MAX_ROW = 1 << 26
MAX_WHOLE = 1 << 32
MAX_WORKBOOK = 1 << 30
MAX_RATIO = 500
MAX_BLANK = 1_000_000  # empty lines, one after the other: each takes time
MAX_VALUES = 1 << 26  # of one column in a group of rows of Parquet: its lists are unpacked together
_SMALL = 1 << 26  # what unpacks to less is not refused, however small its file
_BLOCK = 1 << 20  # bytes read at a time
_ROWS = 1000  # of Parquet, read at a time
_MAX_PARQUET = 1 << 28  # bytes of a column of Parquet that is read at a time
_NO_ROW = "no row is that long: a line end or the end of a quoted text may be missing"

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)

_Table = TypeVar("_Table", pa.RecordBatch, pa.Table)


class Unpacked(io.RawIOBase):
    """The content of a gzip file, unless it is far larger than any text would be.

    Args:
        file: opened, as it is.
        path: of the file.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._packed, self._path = file, GzipFile(fileobj=file, mode="rb"), path

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is, by unpacking again."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another place of what is unpacked."""
        return self._packed.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer.

        Raises:
            InputError: the file holds too much.
        """
        count = self._packed.readinto(buffer)
        if self._packed.tell() > _SMALL + MAX_RATIO * self._file.tell():
            refuse_ratio(self._path)
        return count


def refuse_ratio(path: Path) -> None:
    """Raise the `InputError` for a file that unpacks to more than `MAX_RATIO` times its size."""
    raise InputError(
        f"{path}: unpacks to more than {MAX_RATIO} times its size, as no data does; if it is what you want to read, "
        "unpack it yourself and name what comes out"
    )


def lines_of(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The lines of a file, each with its end.

    Raises:
        InputError: a line is longer than `MAX_ROW`, or there are more than `MAX_BLANK` empty ones in a row.
    """
    number, blank = 1, 0
    while line := file.readline(MAX_ROW + 1):
        if len(line) > MAX_ROW:
            raise InputError(
                f"{path} line {number}: longer than {MAX_ROW >> 20} MiB; each line must hold one row; if the whole "
                "file is one JSON text, name it .json"
            )
        blank = 0 if line.strip() else blank + 1
        if blank > MAX_BLANK:
            refuse_blanks(path, number)
        yield line
        number += 1


def refuse_blanks(path: Path, number: int) -> None:
    """Raise the `InputError` for lines without anything, of which ``number`` is one too many."""
    raise InputError(f"{path} line {number}: more than {MAX_BLANK:,} empty lines come before this; remove them")


class TableLines:
    """The lines of a table in text, for a reader that takes as many as a row has.

    Args:
        text: of the table, its line ends kept.
        path: of the file.
        line: number of the first of these lines in the file.
    """

    def __init__(self, text: IO[str], path: Path, line: int = 1) -> None:
        self._text, self._path = text, path
        self._line = self._first = line
        self._taken = self._blank = 0

    def begin_row(self) -> None:
        """The next line begins a row."""
        self._first, self._taken = self._line, 0

    def __iter__(self) -> TableLines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_ROW + 1)
        if not line:
            raise StopIteration
        self._taken += len(line)
        self._blank = 0 if line.strip() else self._blank + 1
        if self._blank > MAX_BLANK:
            refuse_blanks(self._path, self._line)
        self._line += 1
        if self._taken > MAX_ROW:
            raise InputError(
                f"{self._path} line {self._first}: a row of more than {MAX_ROW:,} characters begins here; {_NO_ROW}"
            )
        return line


def read_whole(file: IO[bytes], path: Path, packed: bool) -> bytearray:
    """All that a file holds.

    Args:
        file: opened.
        path: of the file.
        packed: it is unpacked while it is read, so its size says nothing.

    Raises:
        InputError: more than `MAX_WHOLE` is packed in it.
    """
    content = bytearray()
    while block := file.read(_BLOCK):
        content += block
        if packed and len(content) > MAX_WHOLE:
            raise InputError(
                f"{path}: unpacks to more than {MAX_WHOLE >> 30} GiB, and must be read whole; write its rows as JSON "
                "lines, which are streamed, or unpack it and name what comes out"
            )
    return content


def refuse_large_parquet(path: Path, metadata: Any, size: int) -> None:
    """Check what a Parquet file says of itself.

    Args:
        path: of the file.
        metadata: from its footer.
        size: of the file, in bytes, without a ``.gz`` around it.

    Raises:
        InputError: it unpacks to too much, or a column has more than `MAX_VALUES` values in a group of rows.
    """
    columns = parquet_columns(metadata)
    if sum(column.total_uncompressed_size for column in columns) > max(MAX_ROW, MAX_RATIO * size):
        refuse_ratio(path)
    if any(column.num_values > MAX_VALUES for column in columns):
        raise InputError(f"{path}: a group of rows has more than {MAX_VALUES:,} values; write smaller groups")


def parquet_rows(metadata: Any) -> int:
    """How many rows of a Parquet file to read at a time: fewer where a value may repeat the beginning of another.

    Such values (``DELTA_BYTE_ARRAY``) are each at most as long as all that the file holds of their column.
    """
    repeating = [
        column
        for column in parquet_columns(metadata)
        if "DELTA_BYTE_ARRAY" in column.encodings
        or {"DELTA_LENGTH_BYTE_ARRAY", "RLE_DICTIONARY"} <= {*column.encodings}  # and so not read as a dictionary
    ]
    longest = max((column.total_uncompressed_size for column in repeating), default=1)
    return max(1, min(_ROWS, _MAX_PARQUET // max(1, longest)))


def parquet_columns(metadata: Any) -> list[Any]:
    """Each column of each group of rows."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return [group.column(number) for group in groups for number in range(group.num_columns)]


def small_tables(table: _Table, place: str) -> Iterator[_Table]:
    """Parts of a table, in order, whose values take some `MAX_ROW` bytes each, however often a value is repeated.

    Args:
        table: texts may be encoded by a dictionary, which takes as little memory as it did in the file.
        place: for a message: where the table's rows come from.

    Raises:
        InputError: one row has more than `MAX_ROW` bytes.
    """
    if sum(map(_size, table.columns)) <= MAX_ROW:
        yield table
    elif table.num_rows == 1:
        raise InputError(f"{place}: a row has more than {MAX_ROW >> 20} MiB; leave out the columns that are so large")
    else:
        half = table.num_rows // 2
        for part in (table.slice(0, half), table.slice(half)):
            yield from small_tables(part, place)


def _size(array: Any) -> int:
    """Bytes of the values of an Arrow array as Python objects hold them, roughly: a repeated value counts again."""
    if isinstance(array, pa.ChunkedArray):
        return sum(map(_size, array.chunks))
    kind, own = array.type, 8 * len(array)
    if isinstance(array, pa.ExtensionArray):
        return _size(array.storage)
    if pa.types.is_dictionary(kind):
        if not _is_text(kind.value_type):
            return own + int(array.dictionary.nbytes)
        each = pc.fill_null(pc.binary_length(array.dictionary), 0).to_numpy(zero_copy_only=False)
        return own + int(each[array.indices.drop_null().to_numpy(zero_copy_only=False)].sum(dtype=np.int64))
    if _is_text(kind):
        return own + (pc.sum(pc.cast(pc.binary_length(array), pa.int64())).as_py() or 0)
    if pa.types.is_struct(kind):
        return own + sum(map(_size, array.flatten()))
    if pa.types.is_map(kind):
        begin, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return own + sum(_size(part.slice(begin, end - begin)) for part in (array.keys, array.items))
    if any(test(kind) for test in _LISTS):
        return own + _size(array.flatten())
    return own + int(array.nbytes)


def _is_text(kind: Any) -> bool:
    return any(test(kind) for test in _TEXTS)


def refuse_workbook(path: Path, file: IO[bytes]) -> None:
    """Check by the directory of a workbook, a ZIP archive, how much it unpacks to; no more than that is unpacked.

    Raises:
        InputError: that is more than `MAX_RATIO` times the file, or more than `MAX_WORKBOOK`.
    """
    with zipfile.ZipFile(file) as archive:
        size = sum(part.file_size for part in archive.infolist())
    packed = file.seek(0, io.SEEK_END)
    if size > _SMALL + MAX_RATIO * packed:
        refuse_ratio(path)
    if size > MAX_WORKBOOK:
        raise InputError(
            f"{path}: unpacks to more than {MAX_WORKBOOK >> 30} GiB, and its texts are read whole; save the sheet as "
            "CSV UTF-8, which is streamed"
        )


def refuse_packed_arrow(path: Path, content: Any = None) -> None:
    """Check that the record batches of an Arrow stream are as long in memory as in the file.

    ``datasets`` writes no others. Arrow unpacks a batch whole, and says only afterwards how long it is; so its
    description is read here, a table of FlatBuffers (https://arrow.apache.org/docs/format/Columnar.html).

    Args:
        path: of the file.
        content: the stream as a buffer, if it is not the whole file.

    Raises:
        InputError: a batch is packed.
    """
    try:
        with pa.memory_map(str(path)) if content is None else pa.BufferReader(content) as file:
            packed = any(
                _is_packed(message.metadata.to_pybytes()) for message in pa.ipc.MessageReader.open_stream(file)
            )
    except (pa.ArrowException, OSError, EOFError, struct.error):
        return  # no stream of Arrow: whoever reads it says so
    if packed:
        raise InputError(f"{path}: holds packed Arrow batches, whose size cannot be told; save it without compression")


def _is_packed(message: bytes) -> bool:
    """Whether the batch that a message describes is packed: its field ``compression`` is there."""
    (root,) = struct.unpack_from("<I", message, 0)
    (kind,) = struct.unpack_from("<B", message, _field(message, root, 1) or 0)
    header = _field(message, root, 2)
    if header is None or kind not in (2, 3):  # a batch of a dictionary, or of rows
        return False
    table = header + struct.unpack_from("<I", message, header)[0]
    if kind == 2:
        inner = _field(message, table, 1)
        if inner is None:
            return False
        table = inner + struct.unpack_from("<I", message, inner)[0]
    return _field(message, table, 3) is not None


def _field(message: bytes, table: int, number: int) -> int | None:
    """Where a field of a FlatBuffers table stands; None if it is not there."""
    (back,) = struct.unpack_from("<i", message, table)
    (length,) = struct.unpack_from("<H", message, table - back)
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", message, table - back + place)[0] if place < length else 0
    return table + offset if offset else None
