"""Processes that do jobs end with the one that started them, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from qa_lightning.workers import forked
from tests.helpers.processes import Started

SCRIPT = """
import os, sys, time
from pathlib import Path
from qa_lightning.workers import forked

folder = Path(sys.argv[1])

def do(job):
    (folder / str(os.getpid())).touch()
    time.sleep(job)
    return bytes(1 << 20)  # more than a pipe holds

def results():
    with forked(do, 3, "a worker") as work:
        yield from work((number, float(sys.argv[2])) for number in range(1000))

kept = results()
for _ in range(4):
    next(kept)
(folder / "begun").touch()
if sys.argv[3] == "wait":
    time.sleep(600)
raise ValueError("an error, in whose traceback the generator stays")
"""


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(true, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path):
    def start(seconds: float, then: str) -> Started:
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)
        (tmp_path / "seen").mkdir()
        words = [script, tmp_path / "seen", seconds, then]
        return Started(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, spare=False)

    return start


def workers(folder: Path) -> list[int]:
    return [int(path.name) for path in (folder / "seen").iterdir() if path.name.isdigit()]


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_they_end_when_their_parent_is_killed(tmp_path, start, seconds) -> None:
    """While they wait for a job, or for room in the pipe, and while they do one; so nothing of it stays locked."""
    parent = start(seconds, "wait")
    wait_until((tmp_path / "seen" / "begun").exists)
    found = workers(tmp_path)
    assert len(found) == 3
    assert all(map(is_alive, found))
    parent.kill()
    assert parent.communicate(30)[0] == ""  # nobody holds the other end
    wait_until(lambda: not any(map(is_alive, found)))


def test_a_program_ends_though_an_error_left_them_running(tmp_path, start) -> None:
    parent = start(0.0, "fail")
    assert "ValueError: an error" in (parent.communicate(60)[1] or "")
    assert parent.wait() == 1
    assert len(workers(tmp_path)) == 3
    wait_until(lambda: not any(map(is_alive, workers(tmp_path))))


def _sum(queue) -> None:
    with forked(abs, 4, "a worker") as work:
        queue.put([value for _, value in work([(1, -1), (2, -2)])])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_where_processes_cannot_be_started_the_jobs_are_done_here() -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_sum, args=(queue := context.SimpleQueue(),), daemon=True)
    process.start()
    assert queue.get() == [1, 2]
    process.join(30)
    assert process.exitcode == 0


def test_signals_to_the_group_are_for_the_first_process(tmp_path, start) -> None:
    parent = start(0.2, "wait")
    wait_until((tmp_path / "seen" / "begun").exists)
    for process in workers(tmp_path):
        os.kill(process, signal.SIGTERM)
    time.sleep(0.3)
    assert all(map(is_alive, workers(tmp_path)))
    parent.kill()
    parent.communicate(30)
