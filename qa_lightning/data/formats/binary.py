"""Stream the rows of Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qa_lightning.data.formats.limits import (
    parquet_columns,
    parquet_rows,
    read_whole,
    refuse_large_parquet,
    refuse_packed_arrow,
    small_tables,
)
from qa_lightning.data.formats.rows import PlacedRow, refuse_repeated
from qa_lightning.data.formats.texts import is_packed, opened
from qa_lightning.errors import InputError, one_line

_TEXTS = ("STRING", "JSON", "ENUM", "NONE")  # kinds of Parquet's text columns; NONE is plain bytes
_FILE = b"ARROW1\0\0"  # begins Arrow's file format, which is its stream format from there on


def read_parquet(path: Path, group: int | None = None, before: int = 0) -> Iterator[PlacedRow]:
    """Stream the rows of a Parquet file.

    Args:
        path: the file.
        group: read only this group of rows.
        before: the number of rows in the groups before it.
    """

    def batches() -> Iterator[Any]:
        file = _parquet_file(path, _content(path))
        names = _names(path, list(file.schema_arrow))
        groups = None if group is None else [group]
        size = parquet_rows(file.metadata)
        yield from (batch.select(names) for batch in file.iter_batches(size, row_groups=groups))

    return _placed(path, batches(), "Parquet", before)


def parquet_groups(path: Path) -> list[int]:
    """The number of rows of each group of a Parquet file.

    Raises:
        InputError: it is no readable Parquet file.
    """
    try:
        metadata = _parquet_file(path, _content(path)).metadata
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "Parquet", error) from None


def read_arrow(path: Path) -> Iterator[PlacedRow]:
    """Stream the rows of an Arrow file: a stream, as ``datasets`` writes it, or Arrow's file format."""

    def batches() -> Iterator[Any]:
        content = _content(path)
        source = content if isinstance(content, pa.Buffer) else pa.memory_map(str(path)).read_buffer()
        if source.size > len(_FILE) and source.slice(0, len(_FILE)).to_pybytes() == _FILE:
            source = source.slice(len(_FILE))
        refuse_packed_arrow(path, source)
        with pa.ipc.open_stream(pa.BufferReader(source)) as stream:
            names = _names(path, list(stream.schema))
            for batch in stream:
                batch.validate(full=True)  # Arrow follows the offsets of a damaged file out of its memory
                yield batch.select(names)

    return _placed(path, batches(), "Arrow")


def _content(path: Path) -> Any:
    """The path of a file, or the file itself if it is not on this machine; of a packed one, what it holds."""
    if not is_packed(path):
        native = getattr(path, "native", None)  # of a `RemoteFile`
        return native() if native else path
    with opened(path) as packed:
        return pa.py_buffer(read_whole(packed, path, packed=True))


def _names(path: Path, fields: list[Any]) -> list[str]:
    """The columns to read. Dates and times are left out: no column needs them, and Python cannot represent all."""
    refuse_repeated(str(path), (field.name for field in fields))
    return [field.name for field in fields if not pa.types.is_temporal(field.type)]


def _placed(path: Path, batches: Iterable[Any], kind: str, number: int = 0) -> Iterator[PlacedRow]:
    try:
        for batch in batches:
            for part in small_tables(batch, f"{path} rows {number + 1:,} to {number + len(batch):,}"):
                for row in _without_dictionaries(part).to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        # A damaged footer or page, names and texts that are not UTF-8, or dates nested in other columns.
        raise _unreadable(path, kind, error) from None


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    reason = one_line(error, first=True)
    return InputError(f"{path}: not a readable {kind} file ({reason}); create or download it again")


def _parquet_file(path: Path, content: Any) -> Any:
    """Open a Parquet file so that a text which stands in it once, for many rows, stands in memory once.

    Raises:
        InputError: what it says of itself goes beyond the limits.
    """
    size = content.size if isinstance(content, pa.Buffer) else path.stat().st_size
    source = pa.BufferReader(content) if isinstance(content, pa.Buffer) else content
    file = pq.ParquetFile(source)
    refuse_large_parquet(path, file.metadata, size)
    every = [file.schema.column(number) for number in range(len(file.schema))]
    texts = [one.path for one in every if one.physical_type == "BYTE_ARRAY" and one.logical_type.type in _TEXTS]
    # Arrow cannot do it with texts in lists, nor with values that begin like the ones before.
    delta = {one.path_in_schema for one in parquet_columns(file.metadata) if any("DELTA" in e for e in one.encodings)}
    texts = [name for name in texts if name in file.schema_arrow.names and name not in delta]
    return pq.ParquetFile(source, metadata=file.metadata, read_dictionary=texts)


def _without_dictionaries(batch: Any) -> Any:
    """The same columns with each text at its place, which Python reads faster."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)
