"""Test a run of the predict command: its flags, its progress, when it may resume, and constant memory."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from pathlib import Path

import pytest
import torch

from qa_lightning import progress
from qa_lightning.decoding.predictions import Answer
from qa_lightning.errors import InputError
from qa_lightning.inference.bulk import output as answer_files
from qa_lightning.inference.bulk.run import model_fingerprint
from qa_lightning.inference.reader import Reader
from tests.helpers import commands
from tests.helpers.bulk import BARE, write, written
from tests.helpers.forms import as_lines


@pytest.mark.parametrize(
    ("flags", "changed", "words"),
    [
        (["--batch-size", "2"], {}, ["--batch_size 2, was 1"]),
        (["--dtype", "bfloat16"], {}, ["--dtype bfloat16, was float32"]),
        (["--columns.question", "question"], {}, ["--columns {'question': 'question'}, was {}"]),
        (["--encoding", "utf-8"], {}, ["--encoding utf-8, was None"]),
        (["--answer_separator", "|"], {}, ["--answer_separator |, was None"]),
        ([], {"input"}, ["--input", "has changed since then"]),
        ([], {"model"}, ["--model", "has changed since then"]),
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
    for word in [*words, f"--output {output} was started with other values", "--overwrite", "another --output"]:
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
        (["--input", "q", "--output", "a", "--dtype", "int8"], "is 'int8'; it must be one of"),
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


@pytest.mark.parametrize("text", ["Zo\u00eb", "\u0141ukasz", "\U0001f600", "\u202e\x9b31m", "\udcff"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "cp1252"])
def test_an_answer_is_json_in_whatever_encoding_and_acts_on_no_terminal(model_folder, monkeypatch, encoding, text):
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(Reader, "answer", lambda *_: [Answer("1", text, 0, len(text), 0.5, 0.0)])
    commands.predict(["--model", model_folder, "--question", "Who?", "--context", "A.", "--json"])
    stream.flush()
    printed = stream.buffer.getvalue().decode(encoding)
    assert json.loads(printed)["answer"] == text
    assert printed.rstrip("\n").isprintable()
    if (encoding, text) == ("utf-8", "Zo\u00eb"):
        assert text in printed


def test_one_question_of_an_ensemble_prints_json_alone(model_folder, monkeypatch, capsys):
    def load(*_, **__):
        logging.getLogger("qa_lightning").info("ensemble: a note")
        return reader

    reader = Reader.load(model_folder)
    commands.quiet_libraries()
    monkeypatch.setattr(Reader, "from_pretrained", load)
    commands.predict(["--model", model_folder, "--question", "Who?", "--context", "A.", "--json"])
    said = capsys.readouterr()
    assert json.loads(said.out)
    assert "ensemble: a note" in said.err


def interrupted(files, answers, errors, append=answer_files.AnswerFiles.append):
    """Write chunks until row 17, and end as with Ctrl-C."""
    append(files, answers, errors)
    if b'{"row": 17,' in answers:
        raise KeyboardInterrupt


def test_ctrl_c_keeps_what_is_written_and_says_how_to_go_on(source, whole, ask, tmp_path, monkeypatch, capsys):
    output = tmp_path / "answers.jsonl"
    monkeypatch.setattr(answer_files.AnswerFiles, "append", interrupted)
    with pytest.raises(SystemExit) as caught:
        commands.run_command(lambda: ask(source, output))
    assert caught.value.code == 130
    assert (
        f"stopped by Ctrl-C: 16 rows of {output} are done and kept; the same command resumes" in capsys.readouterr().out
    )
    monkeypatch.undo()
    assert ask(source, output) == 0
    assert "with other" not in capsys.readouterr().out
    assert written(output) == whole


@pytest.mark.parametrize("device", ["Another CPU, 1 thread a process", "NVIDIA H100"])
def test_other_hardware_is_told_and_the_run_resumes(source, whole, ask, tmp_path, monkeypatch, capsys, device):
    output = tmp_path / "answers.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(answer_files.AnswerFiles, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(source, output)
    record = json.loads((path := Path(f"{output}.run.json")).read_text())
    assert record["device"].endswith(", 1 thread a process")
    path.write_text(json.dumps(record | {"device": device}))
    assert ask(source, output) == 0
    assert "(with other device: scores may differ in their last digits)" in capsys.readouterr().out
    assert written(output) == whole


def test_progress_is_told_now_and_then(source, ask, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "MIN_SECONDS", 0.0)
    assert ask(source, tmp_path / "a.jsonl") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("row ")]
    assert [line.split()[1:4] for line in lines] == [[str(row), "of", "75"] for row in (16, 32, 48, 64, 75)]
    assert all(line.split()[6] == "rows/s" for line in lines)


def test_memory_does_not_grow_with_the_file(tmp_path, model_folder, ask):
    """Ten times the rows take at most 12 MB more: a chunk takes 1 MB, the whole file 30 MB."""

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
