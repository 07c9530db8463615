"""A process of several that is lost is told with what is known of it, and how the run goes on."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qa_lightning.runs import failures
from qa_lightning.runs.failures import Launcher, connection_reason, end_with_parent
from tests.helpers.data import make_rows, write_json
from tests.helpers.processes import AT_A_MOMENT, TRAIN, Started, finished, short_run

REST = ("--ckpt_path", "last", "--trainer.max_steps", "3", "--save_every_minutes", "60")  # of a run that goes on
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def flags(tmp_path, model_folder) -> list[str]:
    data = write_json(tmp_path / "train.json", make_rows(80))
    return short_run(tmp_path / "runs", model_folder, data, "--trainer.devices", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "what", "known", "saved"),
    [
        ("loading", "SIGKILL", r"was killed by SIGKILL \(the system does so", "nothing is saved yet; begin it again"),
        ("training_step", "SIGKILL", "was killed by SIGKILL", r"step 1 is saved in \S*last.ckpt; resume"),
        (
            "training_step",
            "raise",
            r'ended with status 1; its last message: "\S* ?RuntimeError: something broke here"',
            r"step 1 is saved in \S*last.ckpt; resume",
        ),
    ],
)
def test_a_lost_process_is_told_with_what_is_known_and_the_run_is_resumed(flags, moment, what, known, saved) -> None:
    flags = [*flags, "--save_every_minutes", "0"]
    # One case with a second process that Python starts anew, as in real runs.
    words = [AT_A_MOMENT, moment, what, "1", "--", *flags]
    ended = finished(words, timeout=100, spare=moment != "loading")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert re.match(rf"error: process 1 of this run \(counted from 0\) {known}.*; {saved} .*--ckpt_path last$", last), (
        last
    )
    if what != "raise":
        assert "Traceback" not in ended.stderr
    if (moment, what) == ("training_step", "SIGKILL"):
        again = finished([TRAIN, *flags, *REST])
        assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_the_loss_of_the_first_process_is_told_by_the_other_which_does_not_stay(flags) -> None:
    command = [AT_A_MOMENT, "training_step", "SIGKILL", "0", "--", *flags]
    with Started(command, stdout=subprocess.PIPE, start_new_session=True) as first:
        said, _ = first.communicate(timeout=100)  # which waits for the other one too: it could still write
        assert first.returncode == -signal.SIGKILL
    assert "error: the first process of this run was killed, or broke down; nothing is saved yet" in said


@pytest.mark.slow
def test_a_lost_process_of_another_launcher_is_told_too(flags, tmp_path) -> None:
    """torchrun starts the processes, and ends the others when one fails."""
    script = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    flags = [*flags, "--save_every_minutes", "0"]
    ended = finished([*script, "localhost:0", AT_A_MOMENT, "training_step", "SIGKILL", "1", "--", *flags], timeout=100)
    assert ended.returncode != 0
    said = ended.stdout + ended.stderr
    # Either this run notices first, or torchrun, which then stops it.
    first = r"error: process 1 on \S+ ended without a word: killed, or out of memory;|stopped by SIGTERM after step 1:"
    saved = r"step 1 is saved in \S*last\.ckpt; resume with the same flags and --ckpt_path last"
    assert len(re.findall(rf"^(?:{first}) {saved}$", said, re.MULTILINE)) == 1, said
    again = finished([TRAIN, *flags, *REST])
    assert again.returncode == 0, again.stderr
    (run,) = (tmp_path / "runs" / "lightning_logs").iterdir()
    _, start = json.loads((run / "run.json").read_text())
    assert start["resumed_from"] == str(run / "checkpoints" / "last.ckpt")
    assert "finished" in start


def other_process(stuck: bool, ready: int) -> None:
    """Wait for ever, as for an answer from the others; stuck: in a call that no signal ends."""
    Launcher.seconds = Launcher.grace = 0.5
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    end_with_parent()
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    os.write(ready, b"!")
    if stuck:
        lock(mutex)
    time.sleep(60)


def asleep(process: int) -> bool:
    """Whether the process's first thread waits for something."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def first_process(tells: bool, stuck: bool, says: int) -> None:
    (stdin, its_stdin), (ready, is_ready) = os.pipe(), os.pipe()
    other = os.fork()
    if other == 0:
        os.dup2(stdin, 0)
        os.close(its_stdin)
        other_process(stuck, is_ready)
        os._exit(0)
    os.read(ready, 1)
    time.sleep(0.1)
    while not asleep(other):  # until it waits
        time.sleep(0.1)
    os.write(says, b"it waits")
    if not tells:
        os.kill(os.getpid(), signal.SIGKILL)
    os.write(its_stdin, failures._END)
    os.write(says, f", status {os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])}".encode())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("tells", "stuck", "expected"),
    [(False, False, b"it waits"), (True, False, b"it waits, status 7"), (True, True, b"it waits, status 143")],
    ids=["the first is killed", "told", "told while stuck"],
)
def test_a_process_does_not_outlive_the_first_and_ends_when_it_is_told_to(tells, stuck, expected) -> None:
    begun = time.monotonic()
    heard, says = os.pipe()
    first = os.fork()
    if first == 0:
        try:
            first_process(tells, stuck, says)
        finally:
            os._exit(0)
    os.close(says)
    with open(heard, "rb") as file:  # noqa: PTH123 - a handle
        assert file.read() == expected  # which ends when both have ended: each could still write
    assert time.monotonic() - begun < 50
    os.waitpid(first, 0)


def test_the_reason_of_a_broken_connection_is_free_of_the_librarys_places() -> None:
    error = RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:3754. This is "
        "typically caused by a remote worker crashing."
    )
    assert connection_reason(error) == "Connection closed by peer [10.0.0.2]:3754"
