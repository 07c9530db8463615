"""Test that questions are read from every format, and that bad rows are listed and do not stop a run."""

from __future__ import annotations

import json

import pytest

from qa_lightning.data.columns import ReadSettings
from qa_lightning.data.sources import count_rows
from qa_lightning.errors import InputError
from qa_lightning.inference.bulk.questions import read_questions
from qa_lightning.inference.reader import Reader
from tests.helpers.bulk import BARE, BATCH, ROWS, lines_of, write
from tests.helpers.forms import as_lines, as_parquet, as_table, nested

FORMS = {
    "lines.jsonl": as_lines(BARE),
    "packed.ndjson.gz": as_lines(BARE),
    "table.csv": as_table(BARE),
    "table.tsv": as_table(BARE, "\t"),
    "packed.csv.gz": as_table(BARE),
    "table.parquet": as_parquet(BARE),
    "squad.json": json.dumps(nested(ROWS[:7])).encode(),
    "list.json": json.dumps(BARE).encode(),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_format_gives_the_readers_answers_a_line_each(name, ask, model_folder, tmp_path, capsys):
    source, output = write(tmp_path / name, FORMS[name]), tmp_path / "answers.jsonl"
    assert ask(source, output) == 0
    reader = Reader.load(model_folder)
    answers = reader.answer([row["question"] for row in BARE], [row["context"] for row in BARE], BATCH)
    assert lines_of(output) == [
        {
            **{"row": number, "id": row["id"], "answer": answer.text},
            **{"start": answer.start, "end": answer.end, "score": answer.score},
        }
        for number, (row, answer) in enumerate(zip(BARE, answers, strict=True), 1)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {*(name, "answers.jsonl", "answers.jsonl.run.json")}
    assert "7 questions of 7 rows answered in" in capsys.readouterr().out


def test_columns_are_guessed_or_named_ids_are_made_and_answers_are_not_looked_at(tmp_path, ask, model_folder):
    rows = [
        {"Frage": row["question"], "passage": row["context"], "answers": "[{'text': broken", "is_impossible": "?"}
        for row in BARE
    ]
    source = write(tmp_path / "q.csv", as_table(rows))
    assert ask(source, tmp_path / "a.jsonl", "--columns.question", "Frage") == 0
    found = lines_of(tmp_path / "a.jsonl")
    assert len({line["id"] for line in found}) == 7
    mixed = [{"q": "Who?", "text": "Anna."}, {"qid": 5, "q": "Who?", "text": "Ben."}]
    mixed += [{"q": "Who?", "text": "Carl.", "answer": "nobody"}, {"qid": None, "q": "Who?", "text": "Dora."}]
    questions = list(read_questions(str(write(tmp_path / "m.jsonl", as_lines(mixed))), ReadSettings()))
    assert [type(question).__name__ for question in questions] == ["Question"] * 4
    assert questions[1].id == "5"
    assert len({question.id for question in questions}) == 4


def test_rows_are_counted_where_that_is_cheap(tmp_path):
    lines = write(tmp_path / "a.jsonl", as_lines(BARE) + b"\n\n \n")
    parquet = write(tmp_path / "a.parquet", as_parquet(BARE))
    assert count_rows(f"{lines},{parquet}", "validation") == 14
    assert count_rows(str(write(tmp_path / "a.csv", as_table(BARE))), "validation") is None
    assert count_rows(str(write(tmp_path / "b.parquet", b"PAR1 no")), "validation") is None
    assert (count_rows("synthetic", "train"), count_rows("synthetic", "validation")) == (10_000, 500)


def test_bad_rows_are_listed_by_number_and_end_nothing(tmp_path, ask, capsys):
    good = BARE[0]
    lines = [
        as_lines([good]),
        b'{"id": "x", "question": "half',
        b"[1, 2]",
        b"\xff\xfe is no UTF-8",
        as_lines(
            [good | {"question": ""}, good | {"context": " \n"}, good | {"context": None}, good | {"question": 7}]
        ),
        json.dumps(good | {"context": "half \ud83d of a pair"}).encode(),
        as_lines([{"id": "x", "question": "Who?"}]),
        as_lines([good | {"id": ["x"]}, good | {"id": "last"}]),
    ]
    source = write(tmp_path / "q.jsonl", b"\n".join(lines))
    assert ask(source, tmp_path / "a.jsonl") == 0
    assert [line["row"] for line in lines_of(tmp_path / "a.jsonl")] == [1, 12]
    errors = lines_of(tmp_path / "a.jsonl.errors.jsonl")
    assert [line["row"] for line in errors] == list(range(2, 12))
    assert all(line["place"] == f"{source} line {line['row']}" for line in errors)
    expected = ["not one JSON object", "[1, 2] is not a JSON object", "byte 0 is 0xff", "question is empty"]
    expected += ["context is empty", "context is None, not a text", "question is 7, not a text", "surrogate pair"]
    expected += ["no column 'context'", "id is ['x']"]
    for line, words in zip(errors, expected, strict=True):
        assert words in line["problem"]
    said = capsys.readouterr().out
    assert "2 questions of 12 rows answered" in said
    assert f"10 of the rows could not be asked; they are listed in {tmp_path / 'a.jsonl.errors.jsonl'}" in said


def test_a_row_of_a_table_with_other_fields_is_bad_alone(tmp_path, ask):
    table = as_table(BARE).replace(b"q2,", b"q2,one too many,")
    assert ask(write(tmp_path / "q.csv", table), tmp_path / "a.jsonl") == 0
    (error,) = lines_of(tmp_path / "a.jsonl.errors.jsonl")
    assert error["row"] == 3
    assert "4 fields where the header has 3" in error["problem"]


def test_nothing_but_bad_rows_or_no_rows_is_an_error(tmp_path, ask):
    with pytest.raises(InputError, match=r"none of its 2 rows can be asked; see .*a\.jsonl\.errors\.jsonl"):
        ask(write(tmp_path / "q.jsonl", b"{\n{"), tmp_path / "a.jsonl")
    assert len(lines_of(tmp_path / "a.jsonl.errors.jsonl")) == 2
    with pytest.raises(InputError, match="has no rows"):
        ask(write(tmp_path / "q.jsonl", b""), tmp_path / "b.jsonl")
    assert not (tmp_path / "b.jsonl").exists()


def test_columns_that_are_not_there_are_said_before_a_model_is_loaded_and_leave_nothing(tmp_path, ask, monkeypatch):
    monkeypatch.setattr(Reader, "load", None)
    source = write(tmp_path / "q.csv", as_table([{"frage": "Who?", "context": "Anna."}]))
    with pytest.raises(InputError) as caught:
        ask(source, tmp_path / "a.jsonl")
    assert str(caught.value) == (
        f"{source} row 2: no column 'question'; it has 'frage', 'context'. Say which it is with --columns.question NAME"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"q.csv"}
