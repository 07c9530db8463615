"""Files of questions: every format, kills and resumes, bad rows, devices, what is refused, constant memory."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import logging
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from qa_lightning.data.columns import Columns
from qa_lightning.errors import InputError
from qa_lightning.inference.bulk import output as answer_files
from qa_lightning.inference.bulk import run as answering
from qa_lightning.inference.bulk import workers
from qa_lightning.inference.bulk.questions import count_rows, read_questions
from qa_lightning.inference.bulk.run import answer_file, model_fingerprint
from qa_lightning.inference.bulk.workers import PredictSettings
from qa_lightning.inference.reader import Reader
from qa_lightning.training.evaluate import score_file
from tests.helpers import commands, dying
from tests.helpers.data import make_rows
from tests.helpers.forms import as_lines, as_parquet, as_table, nested

SCRIPT = Path(__file__).parents[3] / "scripts" / "predict.py"
ROWS = make_rows(75, long=3)
BATCH = 1  # 16 rows a chunk


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch):
    """A command sets the log up on the standard output of the moment; leave nothing of it to the next test."""
    logger = logging.getLogger("qa_lightning")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def ask(model_folder):
    """Run the command within this process; its exit status."""

    def run(source, output, *flags, batch_size=BATCH):
        given = ["--model", model_folder, "--input", str(source), "--output", str(output)]
        return commands.predict([*given, "--batch-size", str(batch_size), *map(str, flags)])

    return run


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Questions without answers, as JSON lines, with two bad rows."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [bare(row) for row in ROWS]
    rows[20]["context"] = " "
    lines = as_lines(rows).split(b"\n")
    lines[40] = b'{"id": "torn", "quest'
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.fixture(scope="module")
def whole(source, model_folder, tmp_path_factory) -> dict[str, bytes]:
    """What a run that was never stopped writes: answers and errors."""
    output = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    assert answer_file(PredictSettings(model_folder, "float32", BATCH), str(source), output) == 0
    return written(output)


def bare(row: dict) -> dict:
    return {name: row[name] for name in ("id", "question", "context")}


def written(output: Path) -> dict[str, bytes]:
    errors = output.with_name(f"{output.name}.errors.jsonl")
    return {"answers": output.read_bytes(), "errors": errors.read_bytes() if errors.exists() else b""}


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


# --- what is read and written ---

BARE = [bare(row) for row in ROWS[:7]]
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
    assert {path.name for path in tmp_path.iterdir()} == {
        *(name, "answers.jsonl", "answers.jsonl.run.json", ".answers.jsonl.lock")
    }
    assert "7 questions of 7 rows answered in" in capsys.readouterr().out


def test_null_odds_are_written_where_the_model_may_say_that_there_is_no_answer(tmp_path, model_folder, ask):
    reader = Reader.load(model_folder)
    reader.model.config.qa_lightning = {
        "max_length": 64,
        "doc_stride": 16,
        "max_question_length": 16,
        "version_2": True,
    }
    reader.model.save_pretrained(tmp_path / "model")
    reader.tokenizer.save_pretrained(tmp_path / "model")
    rows = [*BARE, {"id": "nothing in it", "question": "What?", "context": "\u200b"}]
    source = write(tmp_path / "q.jsonl", as_lines(rows))
    assert ask(source, tmp_path / "a.jsonl", "--model", tmp_path / "model") == 0
    found = lines_of(tmp_path / "a.jsonl")
    assert all(isinstance(line["null_odds"], float) for line in found[:-1])
    assert {name: found[-1][name] for name in ("answer", "score", "null_odds")} == {
        **{"answer": "", "score": 1.0, "null_odds": None}
    }


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
    questions = list(read_questions(str(write(tmp_path / "m.jsonl", as_lines(mixed))), Columns()))
    assert [type(question).__name__ for question in questions] == ["Question"] * 4
    assert questions[1].id == "5"
    assert len({question.id for question in questions}) == 4


def test_rows_are_counted_where_that_is_cheap(tmp_path):
    lines = write(tmp_path / "a.jsonl", as_lines(BARE) + b"\n\n \n")
    parquet = write(tmp_path / "a.parquet", as_parquet(BARE))
    assert count_rows(f"{lines},{parquet}") == 14
    assert count_rows(str(write(tmp_path / "a.csv", as_table(BARE)))) is None
    assert count_rows(str(write(tmp_path / "b.parquet", b"PAR1 no"))) is None


def test_the_written_file_is_scored_as_predictions_are(tmp_path, ask):
    table = [row | {"answers": json.dumps(row["answers"])} for row in ROWS[:9]]
    for row in table:
        del row["id"]  # ids are made, the same ones in both
    source = write(tmp_path / "gold.csv", as_table(table))
    assert ask(source, tmp_path / "a.jsonl") == 0
    found = lines_of(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text(json.dumps({line["id"]: line["answer"] for line in found}))
    scores = [score_file(tmp_path / name, str(source)) for name in ("a.jsonl", "a.json")]
    assert scores[0].metrics == scores[1].metrics
    assert scores[0].predictions == scores[1].predictions
    content = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(content[:-5])
    with pytest.raises(InputError, match=r"line 9: no JSON object with id and answer .* is the file whole\?"):
        score_file(tmp_path / "a.jsonl", str(source))
    (tmp_path / "a.jsonl").write_bytes(
        content + b'{"row": 10, "id": "%s", "answer": "other"}\n' % found[0]["id"].encode()
    )
    with pytest.raises(InputError, match=r"line 10: id .* has another answer in a line before"):
        score_file(tmp_path / "a.jsonl", str(source))


# --- bad rows ---


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
    assert "no column 'question'" in str(caught.value)
    assert "'answers'; it" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"q.csv", ".a.jsonl.lock"}


# --- gone on with ---


def cut_at(content: bytes, line: int, more: int = 0) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:line]) + b'{"row": 99, "id": "'[:more]


@pytest.mark.parametrize(
    ("answers", "errors", "left"),
    [
        ((0, 0), (0, 0), 0),
        ((0, 5), (0, 0), 0),
        ((3, 10), (0, 0), 0),
        ((15, 0), (0, 0), 0),
        ((16, 0), (0, 0), 16),
        ((16, 1), (0, 0), 16),
        ((31, 0), (0, 0), 16),
        ((31, 0), (1, 0), 32),
        ((31, 0), (0, 15), 16),
        ((40, 19), (2, 3), 32),
        ((73, 0), (2, 0), 64),
        ((70, 3), (2, 0), 64),
        ((20, 3), (2, 0), 16),  # what nobody but a hand would cut
    ],
)
def test_a_run_that_was_cut_off_anywhere_ends_as_one_that_was_not(
    answers, errors, left, source, whole, ask, tmp_path, capsys, model_folder
):
    output = tmp_path / "answers.jsonl"
    record = tmp_path / "answers.jsonl.run.json"
    files = answer_files.AnswerFiles(output)
    asked = PredictSettings(model_folder, "float32", BATCH)
    files.begin(answering._made_with(asked, str(source), Columns(), "cpu"), overwrite=False)
    output.write_bytes(cut_at(whole["answers"], *answers))
    files.errors.write_bytes(cut_at(whole["errors"], *errors))
    assert ask(source, output) == 0
    assert written(output) == whole
    assert json.loads(record.read_text())["finished"] == {
        **{"rows": 75, "answered": 73, "bad_rows": 2, "bytes": [len(whole["answers"]), len(whole["errors"])]}
    }
    said = capsys.readouterr().out
    assert (f"going on with {output} after row {left}" in said) == any(answers)
    assert "73 questions of 75 rows answered" in said


def test_every_chunk_is_durable_before_the_next_one_and_the_record_before_it_takes_its_place(
    source, whole, ask, tmp_path, disk_calls
):
    output = tmp_path / "answers.jsonl"
    assert ask(source, output) == 0
    assert disk_calls.sizes_synced(output) == sizes_after_chunks(whole["answers"], (16, 32, 48, 64, 75))
    errors = output.with_name("answers.jsonl.errors.jsonl")
    assert disk_calls.sizes_synced(errors) == sizes_after_chunks(whole["errors"], (32, 48))
    record = output.with_name("answers.jsonl.run.json")
    done = [disk_calls.synced(output), disk_calls.synced(record), ("replaced", record)]
    assert disk_calls.hold_in_order([("replaced", record), *done])  # one at the beginning, and one at the end


def sizes_after_chunks(content: bytes, last_rows: Sequence[int]) -> list[int]:
    lines = content.splitlines(keepends=True)
    return [sum(len(line) for line in lines if json.loads(line)["row"] <= last) for last in last_rows]


NULS = b"\0" * 20


@pytest.mark.parametrize(
    "torn",
    [NULS, NULS + b"\n", b'{"row": 33, "id": "' + NULS + b"\n"],
    ids=["end of the file", "a line", "end of a line"],
)
def test_what_was_not_written_to_the_disk_is_written_again(torn, source, whole, ask, tmp_path, model_folder):
    """Some file systems leave NULs for it after a power cut, and there may be a line end behind them."""
    output = tmp_path / "answers.jsonl"
    files = answer_files.AnswerFiles(output)
    asked = PredictSettings(model_folder, "float32", BATCH)
    files.begin(answering._made_with(asked, str(source), Columns(), "cpu"), overwrite=False)
    output.write_bytes(cut_at(whole["answers"], 31) + torn)
    files.errors.write_bytes(cut_at(whole["errors"], 1))
    assert ask(source, output) == 0
    assert written(output) == whole


def test_a_finished_output_is_left_alone_and_one_that_lost_its_end_gets_it_again(source, whole, ask, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    assert ask(source, output) == 0
    before = output.stat().st_mtime_ns
    assert ask(source, output) == 0
    assert output.stat().st_mtime_ns == before
    assert f"{output} is finished, 73 questions of 75 rows answered" in capsys.readouterr().out
    output.write_bytes(whole["answers"][:-30] + b"\0" * 20)
    assert ask(source, output) == 0
    assert written(output) == whole
    content = whole["answers"] + b"mine\n"
    output.write_bytes(content)
    with pytest.raises(InputError, match=r"line 74: was not written by this command; pass --overwrite"):
        ask(source, output)
    assert output.read_bytes() == content
    assert ask(source, output, "--overwrite") == 0
    assert written(output) == whole


def test_a_run_killed_at_any_durable_write_ends_as_one_that_was_not(source, whole, ask, tmp_path):
    """One after the other, forked, each killed when bytes are written and not yet made durable; then the end."""
    output = tmp_path / "answers.jsonl"
    sizes = []
    # At the record; the first chunk; answers of the second one; its errors; the third one's errors; the last record.
    for moment in (1, 2, 1, 2, 2, 3):
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                die_at_write(moment)
                ask(source, output)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        left = output.read_bytes() if output.exists() else b""
        assert whole["answers"].startswith(left)
        sizes.append(len(left))
    assert sizes == sorted(sizes)  # each went on where the one before was stopped
    assert len(set(sizes)) >= 4
    assert ask(source, output) == 0
    assert written(output) == whole


def die_at_write(moment: int) -> None:
    """Have this process killed when it makes a file durable for the ``moment``-th time, before that is done."""
    numbers = itertools.count(1)
    fsync = os.fsync

    def dying(handle) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode) and next(numbers) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    os.fsync = dying


@pytest.mark.parametrize(
    ("flags", "changed", "words"),
    [
        (["--batch-size", "2"], {}, ["--batch-size 2, then 1"]),
        (["--dtype", "bfloat16"], {}, ["--dtype bfloat16, then float32"]),
        (["--columns.question", "question"], {}, ["--columns {'question': 'question'}, then {}"]),
        ([], {"input"}, ["--input", "has changed since"]),
        ([], {"model"}, ["--model", "has changed since"]),
    ],
)
def test_other_input_model_or_settings_are_refused_with_what_differs(
    flags, changed, words, tmp_path, model_folder, ask
):
    reader = Reader.load(model_folder)
    reader.model.save_pretrained(tmp_path / "model")
    reader.tokenizer.save_pretrained(tmp_path / "model")
    source, output = write(tmp_path / "q.jsonl", as_lines(BARE)), tmp_path / "a.jsonl"
    assert ask(source, output, "--model", tmp_path / "model") == 0
    before = written(output)
    if "input" in changed:
        write(source, as_lines(BARE[1:]))
    if "model" in changed:
        with torch.no_grad():
            next(reader.model.parameters()).add_(1)
        reader.model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError) as caught:
        ask(source, output, "--model", tmp_path / "model", *flags)
    for word in [*words, f"--output {output} was begun with something else", "--overwrite", "another --output"]:
        assert word in str(caught.value)
    assert written(output) == before
    assert ask(source, output, "--model", tmp_path / "model", *flags, "--overwrite") == 0


def test_a_model_is_known_by_its_content(tmp_path, model_folder):
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in Path(model_folder).iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    (moved / "README.md").write_text("about it")
    assert model_fingerprint(str(moved)) == model_fingerprint(model_folder)
    with pytest.raises(InputError, match="cannot be loaded"):
        model_fingerprint("nobody/has-this")


# --- what is refused ---


def test_files_that_are_not_ours_or_are_read_are_not_written(tmp_path, ask, monkeypatch):
    source = write(tmp_path / "q.jsonl", as_lines(BARE))
    (tmp_path / "link.jsonl").symlink_to(source)
    for output in (source, tmp_path / "link.jsonl"):
        with pytest.raises(InputError, match="is a part of --input"):
            ask(source, output)
    with pytest.raises(InputError, match="is a part of --input"):
        ask(f"{tmp_path}/q*.jsonl", tmp_path / "q-answers.jsonl")
    assert not (tmp_path / "q-answers.jsonl").exists()
    foreign = write(tmp_path / "mine.jsonl", b"mine\n")
    with pytest.raises(InputError, match=r"is there already .* pass --overwrite to begin anew, or another --output"):
        ask(source, foreign)
    assert foreign.read_bytes() == b"mine\n"
    with pytest.raises(InputError, match="is no file"):
        ask(source, tmp_path)
    with FileLock(tmp_path / ".busy.jsonl.lock"), pytest.raises(InputError, match="another run writes it"):
        ask(source, tmp_path / "busy.jsonl")
    write(tmp_path / "a.jsonl", b"{")
    write(tmp_path / "a.jsonl.run.json", b"[]")
    with pytest.raises(InputError, match=r"a\.jsonl\.run\.json: cannot be read as what a run left"):
        ask(source, tmp_path / "a.jsonl")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="--devices 3: there are 2 GPUs here; pass 2 or less"):
        ask(source, tmp_path / "b.jsonl", "--devices", 3)
    assert workers.choose_devices(2) == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--question", "Who?", "--context", "Anna.", "--input", "q.jsonl", "--output", "a.jsonl"], "give either"),
        (["--question", "Who?", "--context", "Anna.", "--devices", "2"], "give either"),
        (["--input", "q.jsonl", "--output", "a.jsonl", "--json"], "give either"),
        ([], "give either"),
        (["--question", "Who?"], "--question goes with --context"),
        (["--input", "q.jsonl"], "--input with --output"),
        (["--overwrite"], "give --question and --context, or --input and --output, too"),
        (["--input", "q", "--output", "a", "--dtype", "int8"], "invalid choice"),
        (["--input", "q", "--output", "a", "--devices", "0"], "0 is less than 1"),
    ],
)
def test_flags_of_the_two_forms_exclude_each_other(flags, words, capsys):
    with pytest.raises(SystemExit) as caught:
        commands.predict(["--model", "m", *flags])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_one_question_is_asked_as_before(model_folder, capsys):
    given = ["--model", model_folder, "--question", "Who?", "--context", "Anna lives in Rome."]
    assert commands.predict([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"answer", "start", "end", "score"}


# --- what goes wrong on the way ---


def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(source, whole, ask, tmp_path):
    output = tmp_path / "answers.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole["answers"]) // 2, before[1]))
    try:
        with pytest.raises(InputError) as caught:
            ask(source, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be written (File too large); free some space" in str(caught.value)
    assert f"32 rows of {output} are done and stay; the same command goes on after them" in str(caught.value)
    assert ask(source, output) == 0
    assert written(output) == whole


def test_logits_that_are_no_numbers_end_the_run_and_name_rows_and_model(tmp_path, model_folder, ask):
    reader = Reader.load(model_folder)
    torch.nn.init.constant_(reader.model.qa_outputs.bias, float("nan"))
    reader.model.save_pretrained(tmp_path / "model")
    reader.tokenizer.save_pretrained(tmp_path / "model")
    source = write(tmp_path / "q.jsonl", as_lines(BARE))
    with pytest.raises(InputError, match=r"--model .*model, at rows 1 to 7: the model's logits are not numbers"):
        ask(source, tmp_path / "a.jsonl", "--model", tmp_path / "model")
    assert not (tmp_path / "a.jsonl").exists()


def test_running_out_of_memory_names_what_helps(source, tmp_path, ask, monkeypatch):
    def answer(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Reader, "answer", answer)
    with pytest.raises(InputError, match=r"out of memory on cpu at rows 1 to 75 .* what helps: --batch-size 4 "):
        ask(source, tmp_path / "a.jsonl", batch_size=8)


def test_very_long_contexts_are_not_cut_into_windows_together(source, ask, whole, tmp_path, monkeypatch):
    sizes = []
    answer = Reader.answer

    def counted(self, questions, contexts, batch_size):
        sizes.append((len(contexts), sum(map(len, contexts))))
        return answer(self, questions, contexts, batch_size)

    monkeypatch.setattr(Reader, "answer", counted)
    monkeypatch.setattr(workers, "_CHARACTERS_TOGETHER", 700)
    assert ask(source, tmp_path / "a.jsonl") == 0
    assert sum(count for count, _ in sizes) == 73
    assert all(total <= 700 or count == 1 for count, total in sizes)
    assert written(tmp_path / "a.jsonl")["errors"] == whole["errors"]


def test_ctrl_c_keeps_what_is_written_and_says_how_to_go_on(source, whole, ask, tmp_path, monkeypatch, capsys):
    output = tmp_path / "answers.jsonl"
    append = answer_files.AnswerFiles.append

    def interrupted(files, answers, errors):
        append(files, answers, errors)
        if b'{"row": 17,' in answers:
            raise KeyboardInterrupt

    monkeypatch.setattr(answer_files.AnswerFiles, "append", interrupted)
    with pytest.raises(SystemExit) as caught:
        commands.run_command(lambda: ask(source, output))
    assert caught.value.code == 130
    assert (
        f"stopped by Ctrl-C: 16 rows of {output} are done and stay; the same command goes on" in capsys.readouterr().out
    )
    monkeypatch.undo()
    assert ask(source, output) == 0
    assert written(output) == whole


def test_progress_is_told_now_and_then(source, ask, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(answering, "_SECONDS", 0.0)
    assert ask(source, tmp_path / "a.jsonl") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("row ")]
    assert [line.split()[1:4] for line in lines] == [[str(row), "of", "75"] for row in (16, 32, 48, 64, 75)]
    assert all(line.split()[6] == "rows/s" for line in lines)


# --- several processes ---


def test_two_devices_write_the_same_bytes_and_one_that_dies_is_one_error(source, whole, ask, tmp_path, monkeypatch):
    output = tmp_path / "answers.jsonl"
    append = answer_files.AnswerFiles.append

    def killing(files, answers, errors):
        append(files, answers, errors)
        for process in multiprocessing.active_children():
            process.kill()

    monkeypatch.setattr(answer_files.AnswerFiles, "append", killing)
    with pytest.raises(InputError) as caught:
        ask(source, output, "--devices", 2)
    assert "the process that answers on cpu ended of SIGKILL" in str(caught.value)
    assert "are done and stay; the same command goes on after them" in str(caught.value)
    assert not multiprocessing.active_children()
    begun = written(output)
    assert begun["answers"]
    assert whole["answers"].startswith(begun["answers"])
    monkeypatch.undo()
    assert ask(source, output) == 0
    assert written(output) == whole


def test_what_is_wrong_with_a_model_is_said_by_the_first_process(tmp_path, model_folder, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    for path in Path(model_folder).glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ours, theirs = multiprocessing.Pipe()
    workers._serve(theirs, PredictSettings(str(tmp_path), "float32", BATCH), "cpu", torch.get_num_threads())
    error = ours.recv()
    assert isinstance(error, InputError)
    assert "cannot be loaded: the folder needs" in str(error)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit 7", "with status 7; what it said stands above"),
        ("SIGKILL", "of SIGKILL; the system ends processes so when memory runs out"),
        ("SIGTERM", "of SIGTERM"),
        ("SIGSEGV", "of SIGSEGV"),
        ("torn", "of SIGKILL; the system ends processes so when memory runs out"),
    ],
)
def test_a_process_that_dies_is_named_with_its_device_and_the_cause(how, words, monkeypatch):
    monkeypatch.setattr(workers, "_serve", dying.serve)
    given = []
    with pytest.raises(InputError) as caught:
        given.extend(lines_of_processes(how, ["cuda:0", "cuda:1"]))
    assert all(line == (number, b"cuda:0") for number, line in enumerate(given))
    assert str(caught.value) == f"--devices: the process that answers on cuda:1 ended {words}"
    assert not multiprocessing.active_children()


def lines_of_processes(how, devices, meanwhile=lambda: None):
    with workers.answering(how, devices) as answers:
        threading.Timer(0.2, meanwhile).start()
        yield from answers((number, []) for number in range(100))


def test_ctrl_c_ends_processes_that_hang(monkeypatch):
    monkeypatch.setattr(workers, "_serve", dying.serve)
    lines = lines_of_processes("hang", ["cpu", "cpu"], lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        next(lines)
    assert not multiprocessing.active_children()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def test_chunks_come_back_in_order_and_at_most_two_a_process_are_in_flight(monkeypatch):
    monkeypatch.setattr(workers, "_serve", dying.serve)
    taken = 0

    def chunks():
        nonlocal taken
        for number in range(20):
            taken += 1
            yield number, []

    with workers.answering("", ["cpu", "cuda:0"]) as answers:
        for number, (key, line) in enumerate(answers(chunks())):
            assert key == number
            assert line in (b"cpu", b"cuda:0")
            assert taken == min(number + 4, 20)
    assert number == 19


@pytest.mark.slow
def test_the_script_killed_or_interrupted_on_two_devices_leaves_no_process_and_goes_on(tmp_path, model_folder, ask):
    source = write(tmp_path / "q.jsonl", as_lines([bare(row) for row in make_rows(2000)]))
    assert ask(source, tmp_path / "whole.jsonl", batch_size=2) == 0
    output = tmp_path / "a.jsonl"
    words = [sys.executable, str(SCRIPT), "--model", model_folder, "--input", str(source), "--output", str(output)]
    words += ["--batch-size", "2", "--devices", "2"]
    for number in (signal.SIGKILL, signal.SIGINT):
        before = output.stat().st_size if output.exists() else 0
        process = subprocess.Popen(
            words,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )
        while not output.exists() or output.stat().st_size <= before:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.005)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert ("the same command goes on after them" in said) == (number == signal.SIGINT)
        assert "Traceback" not in said
        while any(Path(f"/proc/{child}").exists() for child in children):  # the test's own timeout ends it
            time.sleep(0.05)
    assert ask(source, output, batch_size=2) == 0
    assert written(output) == written(tmp_path / "whole.jsonl")


def test_memory_does_not_grow_with_the_file(tmp_path, model_folder, ask):
    """Ten times the rows, at most some MB more: a chunk of these takes 1 MB, the whole file 30."""

    def peak(count: int) -> int:
        source, output = tmp_path / f"{count}.csv", tmp_path / f"{count}.jsonl"
        row = "Who?,{}" + " Anna lives in Rome ." * 10 + " lalala" * 2000 + "\n"
        with source.open("w") as file:
            file.write("question,context\n")
            file.writelines(row.format(number) for number in range(count))
        child = os.fork()
        if not child:
            status = 1
            with contextlib.suppress(BaseException):
                Reader.answer = quick
                status = ask(source, output, batch_size=4)
            os._exit(status)
        _, status, usage = os.wait4(child, 0)
        assert status == 0
        assert len(output.read_bytes().splitlines()) == count
        return usage.ru_maxrss

    answer = Reader.answer

    def quick(reader, questions, contexts, batch_size):
        return answer(reader, questions, [context[:100] for context in contexts], batch_size)

    small, large = peak(200), peak(2000)
    assert large - small < 12_000, (small, large)  # KiB
