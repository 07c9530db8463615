"""Stream the raw rows of a file, each with its place (file and row), for messages.

A file's ending, without a last ``.gz``, gives its format: official nested SQuAD JSON (v1.1 and v2.0, with or without
titles) or a list of rows (``.json``), JSON lines (``.jsonl``, ``.ndjson``), CSV and TSV with a header, and Parquet.

Limits: a ``.json`` file and a Parquet file in ``.gz`` are read into memory whole; all others are streamed, a row at a
time. How long a row may be, and how much a packed file may hold, says `limits`. A damaged file, or one whose content is
not what its ending says, is an `InputError`. A row of a table with too many or too few fields becomes a `BrokenRow`,
and reading continues.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from qa_lightning.data.limits import (
    TableLines,
    Unpacked,
    lines_of,
    parquet_columns,
    parquet_rows,
    read_whole,
    refuse_large_parquet,
    small_tables,
)
from qa_lightning.errors import InputError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
COLUMNS = ("id", "question", "context", "answers")
_LARGEST_FIELD = 2**31 - 1  # characters of a CSV field; Python's own limit is 131,072
_TEXTS = ("STRING", "JSON", "ENUM", "NONE")  # kinds of Parquet's text columns; NONE is plain bytes
_BUFFER = 1 << 17  # bytes unpacked at a time
START = 4096  # bytes at the start of a file that its kind is recognized by
_SIGNATURES = {
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
    b"\x1f\x8b": "is gzip; add .gz to its name",
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet; unpack it, or save the sheet as CSV UTF-8",
    b"PAR1": "is Parquet; end its name in .parquet",
}

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


def file_format(path: Path) -> str:
    """The ending that gives a file's format, in lower case and without ``.gz``, such as ``.json``."""
    name = path.with_suffix("") if _is_packed(path) else path
    return name.suffix.lower()


def read_file(path: Path, keep_broken: bool = False) -> Iterator[PlacedRow]:
    """Stream the rows of a file; a file of an unknown ending is read as JSON lines.

    Args:
        path: the file.
        keep_broken: give a broken line of JSON lines as a `BrokenRow` and read on, as for tables; otherwise it is an
            error of the file.

    Raises:
        InputError: the file cannot be read in the format that its ending gives.
    """
    kind = file_format(path)
    if kind == ".parquet":
        return _read_parquet(path)
    if kind == ".json":
        return _read_json(path)
    return _read_table(path, kind) if kind in (".csv", ".tsv") else _read_json_lines(path, keep_broken)


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


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, and unpack gzip.

    Raises:
        InputError: anything that goes wrong while the file is open, with a fix.
    """
    try:
        with path.open("rb") as file:
            yield cast(IO[bytes], io.BufferedReader(Unpacked(file, path), _BUFFER)) if _is_packed(path) else file
    except (EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: the gzip file is cut off or damaged ({error}); create or download it again"
        ) from None
    except gzip.BadGzipFile as error:
        fix = "remove .gz from its name" if "Not a gzipped" in str(error) else "create or download it again"
        raise InputError(f"{path}: not a valid gzip file ({error}); {fix}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def refuse_other_kinds(path: Path, start: bytes) -> None:
    """Check by a file's first bytes that it is not another kind of file than text in UTF-8.

    Raises:
        InputError: it is UTF-16, gzip, ZIP or Parquet, or holds NUL bytes.
    """
    for signature, fix in _SIGNATURES.items():
        if start.startswith(signature):
            raise InputError(f"{path}: not UTF-8: it {fix}")
    if b"\0" in start:
        raise InputError(
            f"{path}: holds NUL bytes, so it is UTF-16 or not a text file; save it as UTF-8, or name the right file"
        )


def _decode(place: str, data: bytes | bytearray) -> str:
    """UTF-8, with or without a byte-order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{place}: not UTF-8 (byte {error.start} is 0x{data[error.start]:02x}; it may be Latin-1 or Windows-1252); "
            "save it as UTF-8"
        ) from None


def _read_json(path: Path) -> Iterator[PlacedRow]:
    try:
        with opened(path) as file:
            start = file.read(START)
            refuse_other_kinds(path, start)
            content = start + read_whole(file, path, _is_packed(path))
        if not content.strip():
            raise InputError(f"{path}: is empty")
        text = _decode(str(path), content)
        data = json.loads(text)
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
    articles = data.get("data") if isinstance(data, dict) else data
    layout = f'{{"data": [articles with paragraphs]}} or a list of rows with {", ".join(COLUMNS)}'
    if not isinstance(articles, list):
        what = shown(data)
        if isinstance(data, dict):
            what = (
                f"with {shown(articles)} as data"
                if "data" in data
                else f"an object with {listed(data, 10) or 'nothing'}"
            )
        raise InputError(f"{path}: not a SQuAD file; expected {layout}, not {what}")
    for number, article in enumerate(articles, 1):
        if not isinstance(article, dict):
            raise InputError(f"{path}: not a SQuAD file; expected {layout}, but item {number} is {shown(article)}")
        if "paragraphs" in article:
            title = {"title": article["title"]} if "title" in article else {}
            yield from _read_paragraphs(f"{path} article {number}", article["paragraphs"], title)
        else:
            yield f"{path} row {number}", article


def _read_paragraphs(place: str, paragraphs: Any, title: dict[str, Any]) -> Iterator[PlacedRow]:
    """The questions of an article, each with its context and the article's title.

    Args:
        place: of the article.
        paragraphs: of the article, as in the file.
        title: ``{"title": ...}``, or empty if the article has none.
    """

    def refuse(where: str, what: str) -> InputError:
        return InputError(
            f"{where}: not SQuAD's layout ({what}); expected paragraphs with 'context' and 'qas', "
            "a list of questions with 'id', 'question' and 'answers'"
        )

    if not isinstance(paragraphs, list):
        raise refuse(place, f"paragraphs is {shown(paragraphs)}, not a list")
    for number, paragraph in enumerate(paragraphs, 1):
        where = f"{place} paragraph {number}"
        if not isinstance(paragraph, dict):
            raise refuse(where, f"it is {shown(paragraph)}, not an object")
        if missing := [key for key in ("context", "qas") if key not in paragraph]:
            raise refuse(where, f"no {listed(missing)}; it has {listed(paragraph) or 'nothing'}")
        if not isinstance(paragraph["qas"], list):
            raise refuse(where, f"qas is {shown(paragraph['qas'])}, not a list")
        for question_number, qa in enumerate(paragraph["qas"], 1):
            if not isinstance(qa, dict):
                raise refuse(f"{where} question {question_number}", f"it is {shown(qa)}, not an object")
            yield f"{where} question {question_number}", {**qa, "context": paragraph["context"], **title}


def _read_json_lines(path: Path, keep_broken: bool) -> Iterator[PlacedRow]:
    with opened(path) as file:
        for number, line in enumerate(lines_of(file, path), 1):
            if number == 1:
                refuse_other_kinds(path, line[:START])
            if not line.strip():
                continue
            place = f"{path} line {number}"
            try:
                row = _json_object(place, line)
            except InputError as error:
                if not keep_broken:
                    raise
                row = BrokenRow("text", error.problems)
            yield place, row


def _json_object(place: str, line: bytes) -> dict[str, Any]:
    """Parse a line of JSON lines.

    Args:
        place: of the row, for messages.
        line: bytes in UTF-8.

    Raises:
        InputError: the line is not one JSON object in UTF-8.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is 0x{line[error.start]:02x}"
        raise InputError(f"{place}: not one JSON object in UTF-8 ({byte}); save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place}: not one JSON object in UTF-8 ({error}); each line must hold a whole object; "
            "if the whole file is one JSON text, name it .json"
        ) from None
    if not isinstance(row, dict):
        raise InputError(f"{place}: {shown(row)} is not a JSON object with {', '.join(COLUMNS)}")
    return row


def _read_table(path: Path, kind: str) -> Iterator[PlacedRow]:
    """Read CSV or TSV; in a ``.csv`` the separator is the most frequent of comma, semicolon and tab in its header."""
    csv.field_size_limit(_LARGEST_FIELD)
    try:
        with opened(path) as raw:
            start = raw.read(START)
            refuse_other_kinds(path, start)
            header = start.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").split(b"\n")[0]
            separator = "\t" if kind == ".tsv" else max(",;\t", key=lambda mark: header.count(mark.encode()))
            raw.seek(0)
            with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:  # newline="" keeps line ends in texts
                yield from _rows_of_table(path, TableLines(text, path), separator)
    except UnicodeDecodeError:
        with opened(path) as raw:
            for number, line in enumerate(lines_of(raw, path), 1):
                _decode(f"{path} line {number}", line)
        raise  # never reached: one of the lines cannot be decoded, and `_decode` raised for it


def _rows_of_table(path: Path, text: TableLines, separator: str) -> Iterator[PlacedRow]:
    names: list[str] = []
    number = read = 0  # counts of rows, and of lines of the file
    lines = csv.reader(text, delimiter=separator, strict=True)
    try:
        for fields in lines:
            text.begin_row()
            first, read = read + 1, lines.line_num
            if not any(field.strip() for field in fields):  # an empty line, or an empty row that a spreadsheet adds
                continue
            if not names:
                names = [field.strip() for field in fields]
                if twice := _repeated(filter(None, names)):
                    raise InputError(
                        f"{path}: its header names {listed(twice)} twice; its first line must name each column once"
                    )
                continue
            number += 1
            place = f"{path} row {number}"
            if len(fields) != len(names):
                problem = (
                    f"{place} (line {first}): {counted(len(fields), 'field')} where the header has {len(names)}; put "
                    f"texts that hold {shown(separator)} or line breaks in double quotes"
                )
                yield place, BrokenRow("fields", [problem])
            elif any("\0" in field for field in fields):
                yield place, BrokenRow("text", [f"{place} (line {first}): holds a NUL byte; remove it"])
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


def _read_parquet(path: Path) -> Iterator[PlacedRow]:
    content: Any = path
    if _is_packed(path):
        with opened(path) as packed:
            content = pa.BufferReader(read_whole(packed, path, packed=True))
    number = 0
    twice: list[str] = []
    try:
        file = _parquet_file(path, content)
        fields = list(file.schema_arrow)
        twice = _repeated(field.name for field in fields)
        # Dates and times are left out: no column needs them, and Python cannot represent all of them.
        names = [field.name for field in fields if not pa.types.is_temporal(field.type)]
        for batch in file.iter_batches(batch_size=parquet_rows(file.metadata)) if not twice else ():
            for part in small_tables(batch.select(names), f"{path} rows {number + 1:,} to {number + len(batch):,}"):
                for row in _without_dictionaries(part).to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        # A damaged footer or page, names and texts that are not UTF-8, or dates nested in other columns.
        raise InputError(f"{path}: not a readable Parquet file ({error}); create or download it again") from None
    if twice:
        raise InputError(f"{path}: names columns twice: {listed(twice)}; each column needs a name of its own")


def _parquet_file(path: Path, content: Any) -> Any:
    """Open a Parquet file so that a text which stands in it once, for many rows, stands in memory once.

    Raises:
        InputError: what it says of itself goes beyond the limits.
    """
    file = pq.ParquetFile(content)
    size = content.size() if isinstance(content, pa.BufferReader) else path.stat().st_size
    refuse_large_parquet(path, file.metadata, size)
    every = [file.schema.column(number) for number in range(len(file.schema))]
    texts = [one.path for one in every if one.physical_type == "BYTE_ARRAY" and one.logical_type.type in _TEXTS]
    # Arrow cannot do it with texts in lists, nor with values that begin like the ones before.
    delta = {one.path_in_schema for one in parquet_columns(file.metadata) if any("DELTA" in e for e in one.encodings)}
    texts = [name for name in texts if name in file.schema_arrow.names and name not in delta]
    return pq.ParquetFile(content, metadata=file.metadata, read_dictionary=texts)


def _without_dictionaries(batch: Any) -> Any:
    """The same columns with each text at its place, which Python reads faster."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)
