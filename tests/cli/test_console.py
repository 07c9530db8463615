"""What is printed may have no reader any more: the command goes on as if it had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qa_lightning.cli.console import print_json, use_cache_without_network
from tests.helpers.data import make_rows, write_json
from tests.helpers.paths import ROOT
from tests.helpers.processes import TRAIN, Started, environment, short_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, terminals and signals of POSIX")

# A command that prints many lines, and at its end writes a file.
TALKER = """
import sys
from qa_lightning.cli.console import run_command
def talk():
    import os, time
    from tqdm import tqdm
    for number in tqdm(range(2000), file=sys.stderr):
        print("line", number, "x" * 80, flush=number % 7 == 0)
        print("line", number, file=sys.stderr)
    os.system("echo from a child")
    open(sys.argv[1], "w").write("done")
    return 7
run_command(talk)
"""


def talk(tmp_path, redirection: str) -> tuple[int, str]:
    """Run the talker in a shell; its own exit status, and what stderr showed."""
    done = tmp_path / "done"
    script = tmp_path / "talker.py"
    script.write_text(TALKER)
    line = f"(cd {ROOT}; {sys.executable} {script} {done}; echo $? > {tmp_path}/status) {redirection}"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment(), timeout=100)
    assert done.read_text() == "done"
    return int((tmp_path / "status").read_text()), ended.stderr


@pytest.mark.parametrize(
    "redirection", ["| head -1", "| true", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>&1 | head -1"]
)
def test_a_stream_that_nobody_reads_does_not_end_a_command(tmp_path, redirection) -> None:
    status, said = talk(tmp_path, redirection)
    assert status == 7
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


def test_a_full_device_does_not_either(tmp_path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    status, said = talk(tmp_path, "> /dev/full")
    assert status == 7
    assert "Traceback" not in said


def test_a_closed_streams_number_is_given_to_no_file(tmp_path) -> None:
    """What a library prints on stderr would else land in whatever file is opened first."""
    script = tmp_path / "writer.py"
    script.write_text(
        "import os, sys\n"
        "from qa_lightning.cli.console import outlive_readers\n"
        "outlive_readers()\n"
        "file = open(sys.argv[1], 'w')\n"
        "assert file.fileno() > 2\n"
        "os.write(2, b'printed by a library')\n"
        "print('text', file=sys.stderr)\n"
    )
    target = tmp_path / "target"
    line = f"cd {ROOT}; {sys.executable} {script} {target} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", line], env=environment()).returncode == 0
    assert target.read_text() == ""


@pytest.fixture
def flags(tmp_path, model_folder) -> list[str]:
    data = write_json(tmp_path / "train.json", make_rows(40))
    return short_run(tmp_path / "runs", model_folder, data)


def finished_run(tmp_path) -> bool:
    return (tmp_path / "runs" / "lightning_logs" / "version_0" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_training_goes_on_when_the_reader_of_its_lines_has_ended(tmp_path, flags) -> None:
    with Started([TRAIN, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait() == 0, said
    assert "Traceback" not in said
    assert finished_run(tmp_path)


# What nohup does before it runs a command.
IGNORING = f"""
import runpy, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
runpy.run_path({str(TRAIN)!r}, run_name="__main__")
"""


def in_a_terminal(command: list[object], until: bytes) -> int:
    """Run a command in a terminal that goes away once it has said something; its exit status."""
    import pty

    terminal, theirs = pty.openpty()
    process = Started(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    said = b""
    while until not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    try:
        return process.wait(100)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it did not end; it had said {said.decode()}") from None


@pytest.mark.slow
def test_a_terminal_that_goes_away_stops_a_run_which_saves_and_under_nohup_does_not(tmp_path, flags) -> None:
    assert in_a_terminal([TRAIN, *flags, "--trainer.max_epochs", "100000"], b"epoch 1/") == 129
    run = tmp_path / "runs" / "lightning_logs" / "version_0"
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert not (run / "model").exists()
    ignoring = tmp_path / "ignoring.py"
    ignoring.write_text(IGNORING)
    more = ["--trainer.max_epochs", "3", "--ckpt_path", run / "checkpoints" / "best.ckpt"]
    assert in_a_terminal([ignoring, *flags, *more], b"steps:") == 0
    assert (run.with_name("version_1") / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "a" * 64])
def test_a_hub_that_is_nowhere_is_its_cache(monkeypatch, host) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setenv("HF_ENDPOINT", f"https://{host}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that it is set back
    monkeypatch.delenv("HF_HUB_OFFLINE")
    use_cache_without_network()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_json_shows_letters_and_escapes_what_cannot_be_seen(capsys) -> None:
    print_json({"text": "caf\u00e9\u00a0au lait \u200d\x1b"}, indent=1)
    said = capsys.readouterr().out
    assert "caf\u00e9\\u00a0au lait \\u200d\\u001b" in said
    assert json.loads(said) == {"text": "caf\u00e9\u00a0au lait \u200d\x1b"}
