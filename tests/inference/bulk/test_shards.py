"""Test that several tasks share a file: their files, one after the other, are the file of one run."""

from __future__ import annotations

import json

import pytest

from qa_lightning.errors import InputError
from qa_lightning.inference.bulk import output as answer_files
from qa_lightning.inference.bulk.shards import Shard
from tests.helpers import commands
from tests.helpers.bulk import ROWS, bare, lines_of, write, written
from tests.helpers.forms import as_lines, as_table


def joined(outputs):
    parts = [written(output) for output in outputs]
    return {name: b"".join(part[name] for part in parts) for name in ("answers", "errors")}


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 75, 1000])
@pytest.mark.parametrize("of", [1, 2, 3, 5, 8, 100])
def test_the_parts_are_whole_chunks_that_cover_all_rows_once(rows, of):
    spans = [Shard(number, of).span(rows, 16) for number in range(1, of + 1)]
    covered = [row for span in spans for row in range(span.first, span.last + 1)]
    assert covered == list(range(1, rows + 1))
    assert all((span.first - 1) % 16 == 0 for span in spans)
    assert [span.to_the_end for span in spans] == [False] * (of - 1) + [True]
    chunks = [-(-span.rows // 16) for span in spans]
    assert max(chunks) - min(chunks) <= 1


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_the_files_of_all_shards_are_the_file_of_one_run(of, source, whole, ask, tmp_path, capsys):
    outputs = [tmp_path / f"{number}.jsonl" for number in range(1, of + 1)]
    for number, output in enumerate(outputs, 1):
        assert ask(source, output, "--shard", f"{number}/{of}") == 0
    assert joined(outputs) == whole
    said = capsys.readouterr().out
    assert f"answering shard {of}/{of} of {source} on cpu, 16 rows at a time" in said
    assert said.count("there are fewer chunks of 16 rows than shards") == max(of - 5, 0)


def test_rows_that_must_be_read_to_be_counted_are(ask, tmp_path):
    source = write(tmp_path / "q.csv", as_table([bare(row) for row in ROWS[:40]]))
    assert ask(source, tmp_path / "whole.jsonl") == 0
    outputs = [tmp_path / f"{number}.jsonl" for number in (1, 2)]
    for number, output in enumerate(outputs, 1):
        assert ask(source, output, "--shard", f"{number}/2") == 0
    assert joined(outputs) == written(tmp_path / "whole.jsonl")
    assert [line["row"] for line in lines_of(outputs[1])] == list(range(17, 41))


def test_lines_that_hold_several_rows_are_divided_by_rows(ask, tmp_path):
    paragraphs = [{"context": row["context"], "qas": [{"id": row["id"], "question": row["question"]}]} for row in ROWS]
    articles = [{"title": "t", "paragraphs": paragraphs[begin : begin + 3]} for begin in range(0, 60, 3)]
    source = write(tmp_path / "q.jsonl", as_lines(articles))
    assert ask(source, tmp_path / "whole.jsonl") == 0
    outputs = [tmp_path / f"{number}.jsonl" for number in (1, 2)]
    for number, output in enumerate(outputs, 1):
        assert ask(source, output, "--shard", f"{number}/2") == 0
    assert joined(outputs) == written(tmp_path / "whole.jsonl")
    assert [len(lines_of(output)) for output in outputs] == [32, 28]


@pytest.mark.parametrize(("begun", "after"), [(0, 16), (14, 16), (15, 32), (20, 32)])  # row 21 is a bad one
def test_a_shard_that_was_stopped_goes_on(begun, after, source, whole, ask, tmp_path, capsys):
    output = tmp_path / "b.jsonl"
    assert ask(source, output, "--shard", "2/3") == 0
    before = written(output)
    assert b'{"row": 17,' in before["answers"]
    assert lines_of(output)[0]["row"] == 17
    output.write_bytes(b"".join(before["answers"].splitlines(keepends=True)[:begun]) + b'{"row": 3')
    assert ask(source, output, "--shard", "2/3") == 0
    assert written(output) == before
    assert f"resuming {output} after row {after}" in capsys.readouterr().out


def test_two_shards_refuse_the_same_file(source, ask, tmp_path):
    output = tmp_path / "a.jsonl"
    assert ask(source, output, "--shard", "1/2") == 0
    before = written(output)
    for flags, said in ((["--shard", "2/2"], "--shard 2/2, was 1/2"), ([], "--shard None, was 1/2")):
        with pytest.raises(InputError, match=said):
            ask(source, output, *flags)
    assert written(output) == before


def test_a_shard_whose_rows_are_all_bad_says_which_it_is(ask, tmp_path):
    rows = [bare(row) for row in ROWS[:32]]
    for row in rows[16:]:
        row["context"] = ""
    source = write(tmp_path / "q.jsonl", as_lines(rows))
    with pytest.raises(InputError, match=r"shard 2/2 of .*: none of its 16 rows can be asked"):
        ask(source, tmp_path / "b.jsonl", "--shard", "2/2")
    assert len(lines_of(tmp_path / "b.jsonl.errors.jsonl")) == 16


def test_a_record_from_before_there_were_shards_is_still_one(source, whole, ask, tmp_path):
    output = tmp_path / "a.jsonl"
    assert ask(source, output) == 0
    files = answer_files.AnswerFiles(output)
    record = json.loads(files.record.read_text())
    del record["settings"]["shard"]
    files.record.write_text(json.dumps(record))
    assert ask(source, output) == 0
    assert written(output) == whole


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0/8", "0/8 is no shard: shards are counted from 1; pass 1/8 to 8/8"),
        ("9/8", "9/8 is no shard: there are 8; pass 1/8 to 8/8"),
        ("-1/8", "-1/8 is no shard: there are 8; pass 1/8 to 8/8"),
        ("1/0", "1/0 is no shard: there must be at least 1"),
        ("x", "'x' is no shard; pass I/N, such as 3/8 for the third of 8"),
        ("1.5/8", "'1.5/8' is no shard; pass I/N"),
        ("/8", "'/8' is no shard; pass I/N"),  # a variable of the scheduler that is not set
    ],
)
def test_what_is_no_shard_is_one_line(given, said, capsys):
    with pytest.raises(SystemExit) as caught:
        commands.predict(["--model", "m", "--input", "q.jsonl", "--output", "a.jsonl", f"--shard={given}"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert f"error: --shard: {said}" in told
    assert told.count("\n") == 1


def test_a_shard_goes_with_a_file(capsys):
    with pytest.raises(SystemExit):
        commands.predict(["--model", "m", "--question", "Who?", "--context", "Anna.", "--shard", "1/2"])
    assert "give either" in capsys.readouterr().err
