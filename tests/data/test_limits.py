"""What is read takes bounded memory, whatever a file unpacks to; what goes beyond a limit is one line."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import re
import resource
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from qa_lightning.data.columns import ReadSettings
from qa_lightning.data.formats import limits
from qa_lightning.data.formats.limits import MAX_RATIO, MAX_ROW, small_tables
from qa_lightning.data.sources import read_rows
from qa_lightning.errors import InputError
from qa_lightning.inference.bulk.questions import read_questions
from tests.helpers.forms import (
    ROWS,
    as_json,
    as_lines,
    as_parquet,
    as_table,
    as_workbook,
    changed_workbook,
    read,
    row,
    write,
)

fork = multiprocessing.get_context("fork")
GIB = 1 << 30


def gzip_of(block: bytes, times: int) -> bytes:
    """A gzip file of a block again and again, as `cat` puts such files together: made without unpacking it."""
    return gzip.compress(block) * times


def dictionary_parquet(text: str, rows: int) -> bytes:
    """Rows that all have the same context, which stands in the file once."""
    texts = {"id": list(map(str, range(rows))), "question": ["Who?"] * rows, "answer_text": [text[:3]] * rows}
    context = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    table = pa.table({**texts, "answer_start": [0] * rows, "context": context})
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer, table.schema, compression="none", dictionary_pagesize_limit=1 << 30, store_schema=False
    ) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def delta_parquet(text: str, rows: int) -> bytes:
    """Rows whose contexts differ in their end alone; the file holds the beginning once."""
    table = pa.table(
        {
            "id": list(map(str, range(rows))),
            "question": ["Who?"] * rows,
            "context": pa.array([f"{text}{number:04}" for number in range(rows)]),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, compression="none", use_dictionary=False, column_encoding={"context": "DELTA_BYTE_ARRAY"}
    )
    return buffer.getvalue()


def zstd_parquet(context: str) -> bytes:
    """One row, packed as well as can be."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": ["1"], "question": ["Who?"], "context": [context]}), buffer, compression="zstd")
    return buffer.getvalue()


def changed_sheet(*changes: tuple[bytes, bytes]) -> bytes:
    """A workbook whose sheet has other content in some places: old and new."""
    return changed_workbook(as_workbook(ROWS), "xl/worksheets/sheet1.xml", *changes)


def entities() -> bytes:
    """Definitions of entities, each ten times as long as the one before: a billion letters from a kilobyte."""
    names = "abcdefghij"
    nested = [f'<!ENTITY {name} "{f"&{inner};" * 10}">' for inner, name in pairwise(names)]
    return f'<!DOCTYPE x [<!ENTITY a "{"x" * 60}">{"".join(nested)}]>'.encode()


TEN_MILLION = 10_000_000
END = b"</sheetData>"
LINES, BLANKS = (letter * 9999 + b"\n" for letter in (b"x", b" "))
LINES, BLANKS = LINES * 1000, BLANKS * 1000
RATIO = f"unpacks to more than {MAX_RATIO} times its size"
BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "zeros as JSON": ("q.json.gz", lambda: gzip_of(b"\0" * TEN_MILLION, 400), "holds NUL bytes"),
    "blanks as JSON": ("q.json.gz", lambda: gzip_of(b" " * TEN_MILLION, 400), RATIO),
    "brackets as JSON": (
        "q.json.gz",
        lambda: gzip_of(b"[" * TEN_MILLION, 400),
        RATIO,
    ),
    "one line without end": ("q.jsonl.gz", lambda: gzip_of(b"x" * TEN_MILLION, 400), "line 1: longer than 64 MiB"),
    "empty lines without end": ("q.jsonl.gz", lambda: gzip_of(BLANKS, 400), RATIO),
    "nothing but line ends": (
        "q.jsonl.gz",
        lambda: gzip_of(b"\n" * TEN_MILLION, 40),
        "line 1000001: more than 1,000,000",
    ),
    "nothing but line ends as a table": (
        "q.csv.gz",
        lambda: gzip_of(b"\n" * TEN_MILLION, 40),
        "line 1000001: more than 1,000,000 empty lines",
    ),
    "a quoted cell of line ends": (
        "q.csv.gz",
        lambda: gzip.compress(b'id,question\n1,"') + gzip_of(b"\n" * TEN_MILLION, 40),
        "line 1000003: more than 1,000,000 empty lines",
    ),
    "one cell without end": (
        "q.csv.gz",
        lambda: gzip_of(b"x" * TEN_MILLION, 400),
        "line 1: a row of more than 67,108,864",
    ),
    "a quoted cell of many lines": (
        "q.csv.gz",
        lambda: gzip.compress(b"id,question\n1,") + gzip_of(b'"', 1) + gzip_of(LINES, 40),
        "line 2: a row of more than 67,108,864 characters begins here",
    ),
    "a row of many cells": (
        "q.tsv.gz",
        lambda: gzip_of(b"x\t" * 5_000_000, 400),
        "line 1: a row of more than",
    ),
    "zeros as Parquet": ("q.parquet.gz", lambda: gzip_of(b"\0" * TEN_MILLION, 400), RATIO),
    "a plain line": ("q.jsonl", lambda: b"x" * (MAX_ROW + 100), "line 1: longer than 64 MiB"),
    "a plain cell": (
        "q.csv",
        lambda: b"id,question\n1," + b"x" * (MAX_ROW + 100),
        "line 2: a row of more than 67,108,864 characters begins here",
    ),
    "a sheet of blanks": ("q.xlsx", lambda: changed_sheet((END, b" " * (200 << 20) + END)), RATIO),
    "a row of a number that no sheet has": (
        "q.xlsx",
        lambda: changed_sheet((b'<row r="5"', b'<row r="999999999"')),
        "has more than 1,048,576 rows, as no sheet does",
    ),
    "entities in a sheet": (
        "q.xlsx",
        lambda: changed_sheet((b"<worksheet", entities() + b"<worksheet"), (b"Who wrote it?", b"&j;")),
        "not a readable workbook",
    ),
    "zeros as Arrow": ("q.arrow.gz", lambda: gzip_of(b"\0" * TEN_MILLION, 400), RATIO),
    "a line without end in UTF-16": (
        "q.jsonl.gz",
        lambda: gzip_of("x".encode("utf-16") + "x".encode("utf-16-le") * 5_000_000, 400),
        "line 1: longer than 64 MiB",
    ),
    "a long context in each of 5,000 rows of Parquet": (
        "q.parquet",
        lambda: dictionary_parquet("x" * (MAX_ROW + 100), 5000),
        "a row has more than 64 MiB",
    ),
    "a page of one letter in Parquet": ("q.parquet", lambda: zstd_parquet("x" * (MAX_ROW * 2)), RATIO),
}


def measured(function: Callable[[], object]) -> tuple[str, float]:
    """What a process of its own is told when it calls a function, and how many GiB that took beside what it had."""
    queue = fork.Queue()

    def call() -> None:
        with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - what was the most until now is forgotten
            file.write("5")
        before = most()
        limit = 6 * GIB  # more than any of them takes, and far less than they unpack to
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            function()
            told = "nothing"
        except InputError as error:
            told = str(error)
        except BaseException as error:
            told = repr(error)
        queue.put((told, (most() - before) / GIB))

    process = fork.Process(target=call)
    process.start()
    found = queue.get(timeout=100)
    process.join()
    return found


def most() -> int:
    """The most memory that this process had, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_packed_or_long_beyond_measure_is_one_line_and_takes_bounded_memory(tmp_path, name) -> None:
    file, make, expected = BOMBS[name]
    path = tmp_path / file
    path.write_bytes(make())
    told, gib = measured(lambda: [None for _ in read_rows(str(path), "train")])
    assert told.startswith(str(path))
    assert expected in told
    assert "\n" not in told
    assert len(told) < len(str(path)) + 300
    assert gib < 0.6
    told, gib = measured(lambda: [None for _ in read_questions(str(path), ReadSettings())])  # for `predict`
    assert expected in told
    assert gib < 0.6


def test_the_same_text_in_many_rows_of_parquet_takes_the_memory_of_few(tmp_path) -> None:
    """5,000 rows of a context of 4 MiB, from a file of 4 MiB."""
    path = write(tmp_path, "q.parquet", dictionary_parquet("x" * (4 << 20), 5000))

    def read_some() -> None:
        rows = read_rows(str(path), "train")
        for number in range(1100):
            assert len(next(rows)[1]["context"]) == 4 << 20, number

    told, gib = measured(read_some)
    assert told == "nothing"
    assert gib < 0.6


def test_texts_with_the_same_beginning_in_parquet_take_the_memory_of_few(tmp_path, monkeypatch) -> None:
    """1,000 contexts of 512 KiB, each of which is a few bytes in the file."""
    packed = delta_parquet("x" * (1 << 19), 1000)
    assert len(packed) < 2 << 20
    monkeypatch.setattr(limits, "_MAX_PARQUET", 1 << 26)
    path = write(tmp_path, "q.parquet", packed)

    def read_all() -> None:
        for number, (_, values) in enumerate(read_rows(str(path), "train")):
            assert values["context"][-5:] == f"x{number:04}"
        assert number == 999

    told, gib = measured(read_all)
    assert told == "nothing"
    assert gib < 0.35
    assert 1 < limits.parquet_rows(pq.read_metadata(path)) < 128
    assert limits.parquet_rows(pq.read_metadata(io.BytesIO(as_parquet(ROWS)))) == 1000


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_every_encoding_of_texts_in_parquet_is_read(tmp_path, encoding) -> None:
    table = pq.read_table(io.BytesIO(as_parquet(ROWS)))
    texts = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)]
    assert texts
    pq.write_table(table, tmp_path / "q.parquet", use_dictionary=False, column_encoding=dict.fromkeys(texts, encoding))
    assert read(str(tmp_path / "q.parquet")) == read(str(write(tmp_path, "other.parquet", as_parquet(ROWS))))


@pytest.mark.parametrize("name", ["q.parquet", "q.parquet.gz"])
def test_a_group_of_too_many_values_is_one_line(tmp_path, monkeypatch, name) -> None:
    path = write(tmp_path, name, as_parquet(ROWS))
    monkeypatch.setattr(limits, "MAX_VALUES", len(ROWS) * 2)
    assert len(read(str(path))) == len(ROWS)
    monkeypatch.setattr(limits, "MAX_VALUES", len(ROWS) - 1)
    said = rf"^{re.escape(str(path))}: a group of rows has more than {len(ROWS) - 1} values; write smaller groups$"
    with pytest.raises(InputError, match=said):
        read(str(path))


def saved(folder: Path, table: pa.Table, compression: str | None = None) -> str:
    """A dataset that ``datasets`` saved, its table then written again with Arrow's own compression."""
    Dataset(table).save_to_disk(str(folder))
    (path,) = folder.glob("*.arrow")
    with pa.ipc.open_stream(path.read_bytes()) as reader:
        whole = reader.read_all()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, whole.schema, options=options) as writer:
        writer.write_table(whole)
    return str(folder)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_packed_arrow_is_refused_before_it_is_unpacked(tmp_path, compression) -> None:
    table = pa.table({name: [each[name] for each in ROWS] for name in ("id", "question", "context")})
    with pytest.raises(InputError, match=r"\.arrow: holds packed Arrow batches"):
        list(read_rows(saved(tmp_path / "packed", table, compression), "train"))
    rows = list(read_rows(saved(tmp_path / "plain", table), "train"))
    assert [values["context"] for _, values in rows] == [each["context"] for each in ROWS]
    coded = table.set_column(2, "context", table["context"].dictionary_encode())
    with pytest.raises(InputError, match=r"\.arrow: holds packed Arrow batches"):
        list(read_rows(saved(tmp_path / "dictionary", coded, compression), "train"))


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("kind", [pa.ipc.new_stream, pa.ipc.new_file])
def test_a_packed_arrow_file_is_refused_before_it_is_unpacked(tmp_path, compression, kind) -> None:
    table = pa.table({name: [each[name] for each in ROWS] for name in ("id", "question", "context")})
    path = tmp_path / "q.arrow"
    with kind(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match=r"q\.arrow: holds packed Arrow batches"):
        list(read_rows(str(path), "train"))


def test_a_workbook_of_more_than_a_gibibyte_is_refused_by_its_directory(tmp_path, monkeypatch) -> None:
    path = write(tmp_path, "q.xlsx", as_workbook(ROWS))
    assert read(path) == ROWS
    monkeypatch.setattr(limits, "MAX_WORKBOOK", 1000)
    with pytest.raises(InputError, match=r"q\.xlsx: unpacks to more than .*save the sheet as CSV UTF-8"):
        read(path)


def test_a_long_row_of_a_saved_dataset_is_one_line(tmp_path) -> None:
    table = pa.table({"id": ["0", "1"], "question": ["Who?"] * 2, "context": ["x", "x" * (MAX_ROW + 1)]})
    rows: Iterator = read_rows(saved(tmp_path / "long", table), "train")
    assert next(rows)[1]["id"] == "0"
    with pytest.raises(InputError, match=r"rows 1 and on: a row has more than 64 MiB"):
        next(rows)


def test_rows_of_a_saved_dataset_are_all_there_in_order(tmp_path, monkeypatch) -> None:
    count = 2500
    table = pa.table(
        {"id": list(map(str, range(count))), "answers": [{"text": ["a"], "answer_start": [n]} for n in range(count)]}
    )
    folder = saved(tmp_path / "many", table)
    for most_bytes in (MAX_ROW, 3000):
        monkeypatch.setattr(limits, "MAX_ROW", most_bytes)
        rows = list(read_rows(folder, "train"))
        assert [place for place, _ in rows] == [f"{folder} [train] row {number}" for number in range(1, count + 1)]
        assert [(each["id"], each["answers"]["answer_start"]) for _, each in rows] == [
            (str(number), [number]) for number in range(count)
        ]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["x" * 100] * 10),
        pa.array(["x" * 100] * 10, pa.large_string()),
        pa.array([b"x" * 100] * 10, pa.binary()),
        pa.array(["x" * 100] * 10).dictionary_encode(),
        pa.array(["x" * 100, "x" * 120, None] * 10).dictionary_encode(),
        pa.array([["x" * 50, "x" * 50]] * 10),
        pa.array([{"a": "x" * 50, "b": ["x" * 50]}] * 10),
        pa.array([[("x" * 50, "x" * 50)]] * 10, pa.map_(pa.string(), pa.string())),
        pa.chunked_array([["x" * 100] * 5, ["x" * 100] * 5]),
        pa.array([list(range(13))] * 10),
        pa.array([[0.0] * 13] * 10, pa.list_(pa.float64(), 13)),
    ],
    ids=lambda array: str(array.type),
)
def test_tables_are_cut_by_the_size_of_their_values(array, monkeypatch) -> None:
    table = pa.table({"column": array})
    monkeypatch.setattr(limits, "MAX_ROW", 420)
    parts = list(small_tables(table, "here"))
    assert pa.concat_tables(parts).to_pylist() == table.to_pylist()
    assert all(part.num_rows <= 5 for part in parts)
    monkeypatch.setattr(limits, "MAX_ROW", 90)
    with pytest.raises(InputError, match=r"^here: a row has more than 0 MiB"):
        list(small_tables(table, "here"))


FORMATS = {
    "q.json.gz": as_json(ROWS),
    "q.jsonl.gz": as_lines(ROWS),
    "q.csv.gz": as_table(ROWS),
    "q.parquet.gz": as_parquet(ROWS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_packed_well_but_small_is_read(tmp_path, monkeypatch, name) -> None:
    """And in several pieces, as tools that pack on many cores write them."""
    content = FORMATS[name]
    packed = b"".join(gzip.compress(part) for part in (content[:50], content[50:51], content[51:]))
    path = tmp_path / name
    path.write_bytes(packed)
    assert len(read(str(path))) == len(ROWS)
    monkeypatch.setattr(limits, "_SMALL", 100)
    monkeypatch.setattr(limits, "MAX_RATIO", 0.5)
    with pytest.raises(InputError, match=r"times its size, as no data does; .* unpack it yourself"):
        read(str(path))


def test_what_must_be_read_whole_has_a_limit_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "MAX_WHOLE", 100)
    for name, packed in (("q.json.gz", as_json(ROWS * 100)), ("q.parquet.gz", as_parquet(ROWS))):
        with pytest.raises(InputError, match="unpacks to more than 0 GiB, and must be read whole"):
            read(str(write(tmp_path, name, packed)))  # which packs it
    assert len(read(str(write(tmp_path, "q.json", as_json(ROWS))))) == len(ROWS)  # its size is there to be seen


def test_a_row_up_to_the_limit_is_read(tmp_path, monkeypatch) -> None:
    lines = [json.dumps(each).encode() + b"\n" for each in ROWS]
    monkeypatch.setattr(limits, "MAX_ROW", max(map(len, lines)))
    assert len(read(str(write(tmp_path, "q.jsonl", b"".join(lines))))) == len(ROWS)
    longer = lines[0][:-2] + b', "more": "' + b"x" * limits.MAX_ROW + b'"}\n'
    with pytest.raises(InputError, match=r"q\.jsonl line 5: longer than"):
        read(str(write(tmp_path, "q.jsonl", b"".join([*lines, longer]))))


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv"])
def test_empty_lines_are_passed_over_up_to_the_limit(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(limits, "MAX_BLANK", 3)
    lines = (as_lines if name == "q.jsonl" else as_table)(ROWS).splitlines(keepends=True)
    assert len(read(str(write(tmp_path, name, b"\n \n\n".join(lines))))) == len(ROWS)
    with pytest.raises(InputError, match=rf"{name} line 5: more than 3 empty lines come before this; remove them"):
        read(str(write(tmp_path, name, b"\n\n\n\n".join(lines))))


def test_real_text_is_far_from_the_ratio() -> None:
    text = as_json([row(id=str(number)) for number in range(2000)])  # far more alike than any questions
    assert len(text) / len(gzip.compress(text)) < MAX_RATIO / 4
