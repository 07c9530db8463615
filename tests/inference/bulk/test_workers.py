"""Test the processes that answer: one and several, how they fail, and how much text they process at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import BertForQuestionAnswering

from qa_lightning.errors import InputError, Voice
from qa_lightning.inference.bulk import output as answer_files
from qa_lightning.inference.bulk import workers
from qa_lightning.inference.bulk.questions import Question
from qa_lightning.inference.bulk.workers import PredictSettings
from qa_lightning.inference.reader import Reader
from tests.helpers import dying
from tests.helpers.bulk import BARE, BATCH, bare, write, written
from tests.helpers.data import make_rows
from tests.helpers.forms import as_lines
from tests.helpers.paths import ROOT
from tests.helpers.processes import Started

SCRIPT = ROOT / "scripts" / "predict.py"


def test_logits_that_are_no_numbers_end_the_run_and_name_rows_and_model(tmp_path, model_folder, ask):
    reader = Reader.load(model_folder)
    torch.nn.init.constant_(reader.model.qa_outputs.bias, float("nan"))
    reader.model.save_pretrained(tmp_path / "model")
    reader.tokenizer.save_pretrained(tmp_path / "model")
    source = write(tmp_path / "q.jsonl", as_lines([BARE[0], {**BARE[1], "context": " "}, *BARE[2:]]))
    rows = ", ".join(str(row) for row in range(1, len(BARE) + 1) if row != 2)
    words = rf"--model .*model: the model's logits are not numbers \(rows {rows}\): its weights are broken"
    with pytest.raises(InputError, match=words):
        ask(source, tmp_path / "a.jsonl", "--model", tmp_path / "model")
    assert not (tmp_path / "a.jsonl").exists()


def test_running_out_of_memory_names_what_helps(source, tmp_path, ask, monkeypatch):
    def answer(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Reader, "answer", answer)
    with pytest.raises(
        InputError,
        match=r"out of memory on cpu at rows 1 to 75 .* helps: --batch_size 4, with --overwrite or another --output$",
    ):
        ask(source, tmp_path / "a.jsonl", batch_size=8)


def test_one_of_several_processes_that_runs_out_of_memory_names_fewer_devices(model_folder, monkeypatch):
    def answer(*_, **__):
        raise MemoryError

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    monkeypatch.setattr(Reader, "answer", answer)
    ours, theirs = multiprocessing.Pipe()
    ours.send([Question(1, "a", "Who?", "Ann.")])
    workers._serve(theirs, PredictSettings(model_folder, "bfloat16", 1), "cpu", torch.get_num_threads(), Voice(True))
    assert ours.recv() == b""  # it is ready
    assert "what helps: fewer --devices, with --overwrite" in str(ours.recv())


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
    assert "are done and kept; the same command resumes after them" in str(caught.value)
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
    workers._serve(theirs, PredictSettings(str(tmp_path), "float32", BATCH), "cpu", torch.get_num_threads(), Voice())
    error = ours.recv()
    assert isinstance(error, InputError)
    assert "cannot be loaded: the folder needs" in str(error)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit 7", "with status 7; its own messages are above"),
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
    source = write(tmp_path / "q.jsonl", as_lines([bare(row) for row in make_rows(800)]))
    assert ask(source, tmp_path / "whole.jsonl", batch_size=2) == 0
    output = tmp_path / "a.jsonl"
    words = [SCRIPT, "--model", model_folder, "--input", source, "--output", output]
    words += ["--batch-size", "2", "--devices", "2"]
    for number in (signal.SIGKILL, signal.SIGINT):
        before = output.stat().st_size if output.exists() else 0
        process = Started(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while not output.exists() or output.stat().st_size <= before:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.005)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert ("the same command resumes after them" in said) == (number == signal.SIGINT)
        assert "Traceback" not in said
        while any(Path(f"/proc/{child}").exists() for child in children):  # the timeout of the test ends this loop
            time.sleep(0.05)
    assert ask(source, output, batch_size=2) == 0
    assert written(output) == written(tmp_path / "whole.jsonl")


def test_a_model_that_does_not_fit_into_memory_is_one_line(monkeypatch, model_folder) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BertForQuestionAnswering, "to", full)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    asked = PredictSettings(model_folder, "float32", 8)
    words = rf"--model {model_folder} does not fit into the memory of cuda:0; what helps: --dtype bf"
    with pytest.raises(InputError, match=words):
        asked.load("cuda:0")
