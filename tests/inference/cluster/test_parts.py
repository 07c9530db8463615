"""Test how an input is cut for several machines: the rows, numbers and problems of one machine, in any order."""

from __future__ import annotations

import gzip
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qa_lightning.data.columns import ReadSettings
from qa_lightning.data.formats import remote_files
from qa_lightning.errors import InputError
from qa_lightning.inference.bulk.questions import BadRow, Question, read_questions
from qa_lightning.inference.cluster import parts
from tests.helpers.bulk import ROWS, bare, write
from tests.helpers.forms import as_lines, as_table

READING = ReadSettings()


def lines(rows) -> bytes:
    return as_lines([bare(row) for row in rows])


def write_parquet(path, rows, size=20):
    pq.write_table(pa.Table.from_pylist([bare(row) for row in rows]), path, row_group_size=size)
    return path


def pieces_of(source, size=8, done=(), reading=READING):
    """All pieces of an input, read as the machines of a cluster read them: the last part first."""
    files = parts.input_files(str(source))
    cut = parts.parts_of(files, [parts.row_counts(file, reading.encoding) for file in files])
    before = parts.first_usual(cut, reading, lambda line: None, None)
    found = []
    for part in pickle.loads(pickle.dumps(cut[::-1])):
        found += parts.read_pieces(part, size, reading, lambda first: first not in done, None, before)
    return sorted(found, key=lambda piece: piece.first)


def rows_of(pieces):
    return [row for piece in pieces for row in piece.rows]


def test_the_rows_of_all_pieces_are_those_of_one_machine(source):
    pieces = pieces_of(source)
    assert rows_of(pieces) == list(read_questions(str(source), READING))
    assert [(piece.first, piece.last) for piece in pieces] == [(row, min(row + 7, 75)) for row in range(1, 76, 8)]
    assert sum(isinstance(row, BadRow) for row in rows_of(pieces)) == 2


def test_files_and_groups_of_rows_are_parts_and_rows_keep_their_numbers(tmp_path):
    write(tmp_path / "a.jsonl", lines(ROWS[:10]))
    write_parquet(tmp_path / "b.parquet", ROWS[10:55])
    write(tmp_path / "c.jsonl.gz", lines(ROWS[55:60]))
    write(tmp_path / "d.csv", as_table([bare(row) for row in ROWS[60:]]))
    write(tmp_path / "_SUCCESS", b"")
    names = ",".join(str(tmp_path / name) for name in ("a.jsonl", "b.parquet", "c.jsonl.gz", "d.csv"))
    pieces = pieces_of(tmp_path)
    assert rows_of(pieces) == list(read_questions(names, READING))
    assert rows_of(pieces_of(names)) == rows_of(pieces)
    begins = [piece.first for piece in pieces]
    assert {1, 11, 31, 51, 56, 61} <= set(begins)  # a part begins a piece
    assert rows_of(pieces)[30].row == 31


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "q.parquet", "q.csv"])
def test_files_at_an_address_are_read_as_here(name, tmp_path):
    if name.endswith("parquet"):
        write_parquet(tmp_path / name, ROWS)
    else:
        write(tmp_path / name, as_table([bare(row) for row in ROWS]) if name.endswith("csv") else lines(ROWS))
    here = rows_of(pieces_of(tmp_path / name))
    for address in (f"file://{tmp_path}/{name}", f"file://{tmp_path}", f"file://{tmp_path}/q*"):
        assert rows_of(pieces_of(address)) == here
    assert [row.row for row in here] == list(range(1, 76))
    assert all(isinstance(row, Question) for row in here)


def test_a_file_in_a_folder_at_an_address_is_itself_whatever_its_name_would_mean(tmp_path):
    names = ["a%20b.jsonl", "q 1.jsonl", "q1.jsonl", "q?1.jsonl", "q[1].jsonl", "q\u00e9#.jsonl"]
    for number, name in enumerate(names):
        write(tmp_path / name, lines(ROWS[5 * number : 5 * number + 5]))
    assert rows_of(pieces_of(f"file://{tmp_path}")) == rows_of(pieces_of(tmp_path))
    assert len(rows_of(pieces_of(tmp_path))) == 30


def test_the_place_of_a_bad_row_is_its_place_in_the_file(tmp_path):
    rows = [bare(row) for row in ROWS]
    rows[42]["context"] = ""
    write_parquet(tmp_path / "q.parquet", rows)
    for source in (tmp_path / "q.parquet", f"file://{tmp_path}/q.parquet"):
        (bad,) = (row for row in rows_of(pieces_of(source)) if isinstance(row, BadRow))
        assert (bad.row, bad.place, bad.id) == (43, f"{source} row 43", rows[42]["id"])


def test_pieces_that_are_done_are_left_out(source):
    done = {1, 17, 73}
    pieces = pieces_of(source, done=done)
    assert {piece.first for piece in pieces} == {*range(1, 76, 8)} - done
    assert rows_of(pieces) == [row for row in rows_of(pieces_of(source)) if (row.row - 1) // 8 * 8 + 1 not in done]


def test_a_part_of_broken_rows_alone_is_a_part_of_bad_rows(tmp_path):
    """Its columns would be an error, if nobody had seen better rows."""
    write(tmp_path / "a.jsonl", lines(ROWS[:3]))
    write(tmp_path / "b.jsonl", b'{"nothing": 1}\n' * 150)
    found = rows_of(pieces_of(tmp_path))
    assert [isinstance(row, BadRow) for row in found] == [False] * 3 + [True] * 150
    assert "no column" in found[3].problem


def test_unknown_columns_are_an_error(tmp_path):
    write(tmp_path / "a.jsonl", b'{"nothing": 1}\n' * 3)
    with pytest.raises(InputError, match="no column 'question'"):
        pieces_of(tmp_path / "a.jsonl")


@pytest.mark.parametrize("then", [8, 9, 11, 20])
def test_a_file_that_changes_meanwhile_is_an_error(then, tmp_path):
    write(tmp_path / "a.jsonl", lines(ROWS[:10]))
    files = parts.input_files(str(tmp_path / "a.jsonl"))
    (part,) = parts.parts_of(files, [parts.row_counts(files[0], None)])
    before = parts.input_fingerprint(files)
    write(tmp_path / "a.jsonl", lines(ROWS[:then]))
    with pytest.raises(InputError, match="changed while it was read"):
        list(parts.read_pieces(part, 8, READING, lambda first: True, None, None))
    assert parts.input_fingerprint(files) != before


@pytest.mark.parametrize(("chunks", "wanted"), [(0, 1), (1, 1), (63, 1), (128, 2), (2000, 16), (100_000, 16)])
def test_pieces_are_whole_chunks_and_enough_for_many_processes(chunks, wanted):
    assert parts.rows_of_piece(chunks * 512, 512) == wanted * 512


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.jsonl", "no such file"),
        ("*.parquet", "no file matches this pattern"),
        ("q.json", "--engine ray reads .parquet, .jsonl,"),
        ("file:///missing/q.jsonl", "file:///missing/q.jsonl: no such file"),
        ("file:///missing/*.jsonl", "no file matches this pattern"),
        ("nowhere://a/q.jsonl", "Arrow cannot open this address"),
    ],
)
def test_what_cannot_be_read_is_said(name, words, tmp_path):
    write(tmp_path / "q.json", b"[]")
    with pytest.raises(InputError) as caught:
        parts.input_files(name if "://" in name else str(tmp_path / name))
    assert words in str(caught.value)


def test_every_name_without_a_file_is_said(tmp_path):
    write(tmp_path / "a.jsonl", lines(ROWS[:1]))
    write(tmp_path / "c.json", b"[]")
    (tmp_path / "notes").mkdir()
    write(tmp_path / "notes" / "n.txt", b"mine")
    names = ["a.jsonl", "b.jsonl", "p*.parquet", "notes", "c.json"]
    with pytest.raises(InputError) as caught:
        parts.input_files(",".join([*(f"{tmp_path}/{name}" for name in names), f"file://{tmp_path}/notes"]))
    kinds = ".parquet, .jsonl, .ndjson, .jsonlines, .csv, .tsv"
    assert caught.value.problems[:-1] == [
        f"--input {tmp_path}/b.jsonl: no such file",
        f"--input {tmp_path}/p*.parquet: no file matches this pattern",
        f"--input {tmp_path}/notes: this folder has no file that ends with {kinds}",
        f"file://{tmp_path}/notes: this folder has no file that ends with {kinds}",
    ]
    assert caught.value.problems[-1].startswith(f"{tmp_path}/c.json: --engine ray reads {kinds}")
    with pytest.raises(InputError, match="--input ' , ' names no file"):
        parts.input_files(" , ")


def test_a_comma_is_a_part_of_the_name_of_what_is_there(tmp_path):
    (tmp_path / "a,b").mkdir()
    file = write(tmp_path / "a,b" / "q,1.jsonl", lines(ROWS[:3]))
    assert [parts.input_files(str(name)) for name in (file, file.parent)] == [[str(file)]] * 2


def test_settings_of_a_filesystem_stay_with_each_address(monkeypatch, tmp_path):
    from qa_lightning.data.formats import remote

    asked = []

    def noting(address):
        asked.append(address)
        return remote.fs.LocalFileSystem(), str(tmp_path)

    monkeypatch.setattr(remote, "filesystem_of", noting)
    write(tmp_path / "a.jsonl", lines(ROWS[:1]))
    write(tmp_path / "b.txt", b"")
    (file,) = remote_files("s3://bucket/q?region=eu", (".jsonl",))
    assert (str(file), file.suffix, file.name) == ("s3://bucket/q/a.jsonl?region=eu", ".jsonl", "a.jsonl")
    remote_files("s3://bucket/q/*.jsonl?region=eu", ())
    assert asked == ["s3://bucket/q?region=eu"] * 2


def test_a_damaged_file_is_an_error(tmp_path):
    write(tmp_path / "q.parquet", b"PAR1 and no more")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        parts.row_counts(str(tmp_path / "q.parquet"), None)
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(lines(ROWS))[:-40])
    with pytest.raises(InputError, match="cut off or damaged"):
        parts.row_counts(f"file://{tmp_path}/q.jsonl.gz", None)
