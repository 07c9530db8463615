"""Test the files of answers: what is written and when it is durable, resuming after a kill, and what is refused."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import stat
from collections.abc import Sequence

import pytest
import torch
from filelock import FileLock

from qa_lightning.data.sources import source_fingerprint
from qa_lightning.errors import InputError
from qa_lightning.evaluation.file import score_file
from qa_lightning.files import lock
from qa_lightning.inference.bulk import output as answer_files
from qa_lightning.inference.bulk import run as answering
from qa_lightning.inference.bulk import workers
from qa_lightning.inference.bulk.run import AskedRows
from qa_lightning.inference.bulk.workers import PredictSettings
from qa_lightning.inference.reader import Reader
from tests.helpers.bulk import BARE, BATCH, ROWS, lines_of, write, written
from tests.helpers.forms import as_lines, as_table


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


def test_the_written_file_is_scored_as_predictions_are(tmp_path, ask):
    table = [row | {"answers": json.dumps(row["answers"])} for row in ROWS[:9]]
    for row in table:
        del row["id"]  # made ids are the same when answering and when scoring
    source = write(tmp_path / "gold.csv", as_table(table))
    assert ask(source, tmp_path / "a.jsonl") == 0
    found = lines_of(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text(json.dumps({line["id"]: line["answer"] for line in found}))
    scores = [score_file(tmp_path / name, str(source)) for name in ("a.jsonl", "a.json")]
    assert scores[0].metrics == scores[1].metrics
    assert scores[0].predictions == scores[1].predictions
    content = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(content[:-5])
    with pytest.raises(InputError, match=r"line 9: cannot be read as JSON .* is the file whole\?"):
        score_file(tmp_path / "a.jsonl", str(source))
    (tmp_path / "a.jsonl").write_bytes(
        content + b'{"row": 10, "id": "%s", "answer": "other"}\n' % found[0]["id"].encode()
    )
    with pytest.raises(InputError, match=r"line 10: id .* has another answer in a row before"):
        score_file(tmp_path / "a.jsonl", str(source))


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
        ((20, 3), (2, 0), 16),  # only an edit by hand cuts the files like this
    ],
)
def test_a_run_that_was_cut_off_anywhere_ends_as_one_that_was_not(
    answers, errors, left, source, whole, ask, tmp_path, capsys, model_folder
):
    output = tmp_path / "answers.jsonl"
    record = tmp_path / "answers.jsonl.run.json"
    files = answer_files.AnswerFiles(output)
    asked = PredictSettings(model_folder, "float32", BATCH)
    fingerprint = source_fingerprint(str(source), "validation")
    files.begin(answering.record_of(asked, AskedRows(str(source)), fingerprint, "CPU"))
    output.write_bytes(cut_at(whole["answers"], *answers))
    files.errors.write_bytes(cut_at(whole["errors"], *errors))
    assert ask(source, output) == 0
    assert written(output) == whole
    assert json.loads(record.read_text())["finished"] == {
        **{"rows": 75, "answered": 73, "bad_rows": 2, "bytes": [len(whole["answers"]), len(whole["errors"])]}
    }
    said = capsys.readouterr().out
    assert (f"resuming {output} after row {left}" in said) == any(answers)
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
    assert disk_calls.hold_in_order([("replaced", record), *done])  # the record is written at the start and at the end


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
    """After a power cut some file systems leave NULs for it, which a line end may follow."""
    output = tmp_path / "answers.jsonl"
    files = answer_files.AnswerFiles(output)
    asked = PredictSettings(model_folder, "float32", BATCH)
    fingerprint = source_fingerprint(str(source), "validation")
    files.begin(answering.record_of(asked, AskedRows(str(source)), fingerprint, "CPU"))
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


def test_one_without_bad_rows_gets_its_end_again_too(ask, tmp_path, capsys):
    source, output = tmp_path / "good.jsonl", tmp_path / "answers.jsonl"
    source.write_text(
        "".join(json.dumps({"question": "Who ?", "context": f"Anna {row} ."}) + "\n" for row in range(40))
    )
    assert ask(source, output) == 0
    whole = output.read_bytes()
    output.write_bytes(b"".join(whole.splitlines(keepends=True)[:21]))
    assert ask(source, output) == 0
    assert output.read_bytes() == whole


def test_a_finished_output_that_somebody_changed_stays_as_it_is(source, whole, ask, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    assert ask(source, output) == 0
    lines = whole["answers"].splitlines(keepends=True)
    changed = {
        "a line more": whole["answers"] + b"mine\n",
        "an answer by hand": lines[0].replace(b'"answer": "', b'"answer": "not ') + b"".join(lines[1:]),
        "without the newline at the end": whole["answers"][:-1],
        "some rows alone": b"".join(lines[3:9]),
        "the first rows alone, and the last": b"".join([*lines[:9], lines[-1]]),
        "another layout": b"[" + b",".join(lines) + b"]",
    }
    capsys.readouterr()
    for content in changed.values():
        output.write_bytes(content)
        assert ask(source, output) == 0
        assert output.read_bytes() == content
        assert f"note: {output} is not what that run wrote; the answers stay as they are" in capsys.readouterr().out
    assert ask(source, output, "--overwrite") == 0
    assert written(output) == whole


def test_a_finished_output_whose_list_of_bad_rows_is_gone_stays_as_it_is(source, whole, ask, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    assert ask(source, output) == 0
    (tmp_path / "answers.jsonl.errors.jsonl").unlink()
    assert ask(source, output) == 0
    assert output.read_bytes() == whole["answers"]
    assert "answers.jsonl.errors.jsonl is not what that run wrote; the answers stay" in capsys.readouterr().out


def test_starting_over_removes_nothing_before_rows_and_model_are_known_to_work(source, whole, ask, tmp_path):
    output = tmp_path / "answers.jsonl"
    assert ask(source, output) == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    for words in (["--columns.question", "qq"], ["--model", empty]):
        with pytest.raises(InputError):
            ask(source, output, "--overwrite", *words)
        assert written(output) == whole
    assert ask(source, output, "--overwrite", "--batch_size", "2") == 0
    assert len(lines_of(output)) == len(whole["answers"].splitlines())


def test_answers_go_to_what_a_link_leads_to(source, whole, ask, tmp_path):
    link, target = tmp_path / "link.jsonl", tmp_path / "far" / "answers.jsonl"
    link.symlink_to(target)  # which is not there yet
    for more in ([], ["--overwrite"], []):
        assert ask(source, link, *more) == 0
        assert link.readlink() == target
        assert written(target) == whole
    assert ask(source, target) == 0
    assert not list(tmp_path.glob("link.jsonl.*"))


def test_what_answers_cannot_be_appended_to_is_refused_and_stays(source, ask, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(tmp_path / "socket"))
    (tmp_path / "loop").symlink_to("loop")
    read, write_to = os.pipe()
    for name, target in (("null", "/dev/null"), ("as stdout", f"/proc/self/fd/{write_to}")):
        (tmp_path / name).symlink_to(target)
    there = sorted(tmp_path.iterdir())
    for name, words in {
        "pipe": "is a pipe or a device, and not a file",
        "socket": "is a pipe or a device, and not a file",
        "null": "is a pipe or a device, and not a file",
        "as stdout": "is a pipe or a device, and not a file",
        "loop": r"cannot be a path \(Too many levels of symbolic links\)",
        "x" * 300: r"cannot be a path \(File name too long\)",
        "-": "is no name of a file",
        "a.jsonl.GZ": "name it without .GZ, and pack it at the end",
        "a.jsonl.zst": "name it without .zst",
        "a.csv": "is named as a table, and answers are JSON lines; name it .jsonl",
    }.items():
        for more in ([], ["--overwrite"]):
            with pytest.raises(InputError, match=words):
                ask(source, tmp_path / name, *more)
    assert sorted(tmp_path.iterdir()) == there
    os.close(read)
    os.close(write_to)


@pytest.mark.parametrize(("name", "told"), [("a.json", True), ("a.JSON", True), ("a.jsonl", False), ("json", False)])
def test_lines_in_a_file_that_is_named_as_one_json_value_are_told(name, told, source, ask, tmp_path, capsys):
    ask(source, tmp_path / name)
    assert (f"note: {tmp_path / name} holds JSON lines, an object on each" in capsys.readouterr().out) is told


def test_messages_and_answers_are_not_in_one_file(source, ask, tmp_path, capfd):
    (tmp_path / "as stdout").symlink_to("/proc/self/fd/1")
    with pytest.raises(InputError, match="is where messages are printed to"):
        ask(source, tmp_path / "as stdout")


def test_a_pipe_is_not_read(ask, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jsonl")
    monkeypatch.chdir(tmp_path)
    for name in ("pipe.jsonl", f"{tmp_path}/pipe.jsonl"):
        with pytest.raises(InputError, match="is a pipe or a device, and data are read sev"):
            ask(name, tmp_path / "answers.jsonl")


def test_nothing_that_is_read_is_written(source, ask, tmp_path, model_folder):
    documents = write(tmp_path / "docs.jsonl", as_lines([{"id": "1", "text": "Anna lives in Rome."}]))
    with pytest.raises(InputError, match=r"docs.jsonl is part of --documents"):
        ask(source, documents, "--documents", documents, "--overwrite")
    assert documents.read_bytes()
    copy = shutil.copytree(model_folder, tmp_path / "model")
    with pytest.raises(InputError, match=r"is in the folder of --model; name a file outside of it"):
        ask(source, copy / "answers.jsonl", "--model", copy)
    (tmp_path / "link.jsonl").symlink_to(copy / "answers.jsonl")
    with pytest.raises(InputError, match=r"is in the folder of --model; name a file outside of it"):
        ask(source, tmp_path / "link.jsonl", "--model", copy)


@pytest.mark.parametrize("name", ["./**.jsonl", "~nobody-of-this-name/q.jsonl", "x" * 300 + ".jsonl"])
def test_a_path_that_cannot_be_one_is_one_line(name, ask, tmp_path):
    with pytest.raises(InputError, match=r"not a usable path|no such file|no file matches"):
        ask(name, tmp_path / "answers.jsonl")


def test_a_run_killed_at_any_durable_write_ends_as_one_that_was_not(source, whole, ask, tmp_path):
    """Forks one run after another, kills each when bytes are written but not yet durable, then finishes the file."""
    output = tmp_path / "answers.jsonl"
    sizes = []
    # Killed at: the record; chunk 1; the answers of chunk 2; its errors; the errors of chunk 3; the last record.
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
    assert sizes == sorted(sizes)  # each resumed where the previous one was killed
    assert len(set(sizes)) >= 4
    assert ask(source, output) == 0
    assert written(output) == whole


def die_at_write(moment: int) -> None:
    """Kill this process at its ``moment``-th call to make a file durable, before the call takes effect."""
    numbers = itertools.count(1)
    fsync = os.fsync

    def dying(handle) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode) and next(numbers) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    os.fsync = dying


def test_files_that_are_not_ours_or_are_read_are_not_written(tmp_path, ask, monkeypatch):
    source = write(tmp_path / "q.jsonl", as_lines(BARE))
    (tmp_path / "link.jsonl").symlink_to(source)
    for output in (source, tmp_path / "link.jsonl"):
        with pytest.raises(InputError, match="is part of --input"):
            ask(source, output)
    with monkeypatch.context() as nothing_loads:
        nothing_loads.setattr(PredictSettings, "load", None)
        for pattern, output in (("q*.jsonl", "q-answers.jsonl"), ("**/*.jsonl", "new/a.txt")):
            with pytest.raises(InputError, match="is part of --input"):
                ask(f"{tmp_path}/{pattern}", tmp_path / output)
            assert not (tmp_path / output).exists()
    foreign = write(tmp_path / "mine.jsonl", b"mine\n")
    with pytest.raises(InputError, match=r"already exists, .* pass --overwrite to start over, or another --output"):
        ask(source, foreign)
    assert foreign.read_bytes() == b"mine\n"
    with pytest.raises(InputError, match="is not a file"):
        ask(source, tmp_path)
    with FileLock(tmp_path / ".busy.jsonl.lock"), pytest.raises(InputError, match="another run is writing it"):
        ask(source, tmp_path / "busy.jsonl")
    write(tmp_path / "a.jsonl", b"{")
    write(tmp_path / "a.jsonl.run.json", b"[]")
    with pytest.raises(InputError, match=r"a\.jsonl\.run\.json cannot be read as the record of a run"):
        ask(source, tmp_path / "a.jsonl")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="--devices 3: there are 2 GPUs here; pass 2 or less"):
        ask(source, tmp_path / "b.jsonl", "--devices", 3)
    assert workers.choose_devices(2) == ["cuda:0", "cuda:1"]


def _take_turns(path, rounds: int, queue) -> None:
    """Take a lock again and again; how often it was free, and how often somebody else held it too."""
    held = both = 0
    while held < rounds:
        with lock(path) as free:
            if not free:
                continue
            held += 1
            marker = path.with_name("held")
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                both += 1
            else:
                marker.unlink()
    queue.put((held, both))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_lock_that_is_removed_at_its_end_is_never_held_by_two(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_take_turns, args=(tmp_path / "file", 300, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [(300, 0)] * 4
    for process in processes:
        process.join()
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_one_error(source, ask, tmp_path, monkeypatch) -> None:
    def unsupported(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.raises(InputError, match="its file system has no locks; name a file on another one"):
        ask(source, tmp_path / "answers.jsonl")


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
    assert f"32 rows of {output} are done and kept; the same command resumes after them" in str(caught.value)
    assert ask(source, output) == 0
    assert written(output) == whole
