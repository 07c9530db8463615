"""The processes of a run compare, wait, and hear of each other's failures."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.strategies import DDPStrategy

from qa_lightning.errors import InputError, LostProcessError
from qa_lightning.runs.checkpoints import AtomicCheckpointIO
from qa_lightning.runs.peers import processes as module
from qa_lightning.runs.peers.agreement import find_folder
from qa_lightning.runs.peers.joining import join
from qa_lightning.runs.peers.processes import Peers
from tests.helpers.peers import together

TOKEN = "known to all"


@pytest.fixture
def ended(monkeypatch) -> list[int]:
    """The statuses with which processes were ended that did not end by themselves."""
    statuses: list[int] = []
    monkeypatch.setattr(module.os, "_exit", statuses.append)
    monkeypatch.setattr(Peers, "seconds", 0.3)
    return statuses


@pytest.fixture
def three(ended) -> Iterator[list[Peers]]:
    """Three processes on two hosts, each in a thread of this one."""
    everyone = [Peers(rank, 3, max(rank - 1, 0), "b" if rank else "a") for rank in range(3)]
    port = everyone[0].serve(TOKEN)
    for one in everyone[1:]:
        one.connect("127.0.0.1", port, TOKEN)
    yield everyone
    for one in everyone[::-1]:
        one.leave()


def test_all_processes_get_the_values_of_all_by_rank(three, ended) -> None:
    assert together(three, lambda peers: peers.gather("first", peers.rank * 10)) == [[0, 10, 20]] * 3
    assert together(three, lambda peers: peers.gather("second", None)) == [[None] * 3] * 3
    assert three[2].hosts == {0: "a", 1: "b", 2: "b"}
    for one in three[::-1]:
        one.leave()
    time.sleep(0.6)
    assert [one.failure for one in three] == [None] * 3
    assert ended == []


def test_a_difference_ends_all_with_the_same_error(three) -> None:
    values = [{"numpy": "1"}, {"numpy": "2"}, None]
    described = [value and {"mend": value} for value in values]
    errors = together(three, lambda peers: peers.compare("versions", described[peers.rank]))
    assert [str(error) for error in errors] == ["numpy: 1 on a, 2 on b; mend"] * 3
    assert all(isinstance(error, InputError) for error in errors)
    assert [one.is_common and one.speaks for one in three] == [True, True, False]  # one for each host


def test_equal_processes_go_on(three) -> None:
    assert together(three, lambda peers: peers.compare("versions", {"mend": {"numpy": "1"}})) == [None] * 3


@pytest.mark.parametrize("who", [0, 1])
def test_bad_input_of_one_ends_the_others_that_wait_for_it(three, who) -> None:
    def run(peers: Peers) -> None:
        with peers.telling():
            if peers.rank == who:
                raise InputError(["row 3: no question", "row 7: no context"])
            peers.gather("data", 1)

    errors = together(three, run)
    host = "b" if who else "a"
    told = f"{host} (process {who}): row 3: no question\n{host} (process {who}): row 7: no context"
    assert [str(errors[rank]) for rank in range(3) if rank != who] == [told] * 2
    assert all(isinstance(error, InputError) for error in errors)
    assert not three[who].is_common  # it says it itself


def test_the_first_process_passes_a_failure_on_before_it_leaves(three, monkeypatch) -> None:
    """It may end before its reader has come to that: the others waited for ever."""
    send = three[0]._send_all

    def slow(message: Any) -> None:
        if "failed" in message and "_greet" in threading.current_thread().name:
            time.sleep(2)
        send(message)

    monkeypatch.setattr(three[0], "_send_all", slow)
    test_bad_input_of_one_ends_the_others_that_wait_for_it(three, 1)


def test_a_fault_of_one_is_told_as_a_loss(three) -> None:
    def run(peers: Peers) -> None:
        with peers.telling():
            if peers.rank == 2:
                raise ZeroDivisionError("by zero")
            peers.gather("data", 1)

    assert isinstance(together(three, run)[2], ZeroDivisionError)
    assert three[0].failure == three[1].failure == "b (process 2): ZeroDivisionError: by zero"
    assert isinstance(three[0].error(), LostProcessError)


def test_a_process_that_hangs_is_ended_and_says_why(three, ended) -> None:
    told: list[str] = []
    three[0].tell = told.append
    three[1].tell = told.append
    three[2].tell = told.append
    three[2].fail(["it broke"])
    deadline = time.monotonic() + 20
    while len(ended) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)  # the one that failed ends by itself
    assert told == ["b (process 2): it broke"] * 2
    assert ended == [1, 1]


def test_a_process_that_is_killed_is_noticed_at_once(ended) -> None:
    first = Peers(0, 2, 0, "a")
    port = first.serve(TOKEN)
    ready, is_ready = os.pipe()
    other = os.fork()
    if other == 0:
        try:
            Peers(1, 2, 0, "b").connect("127.0.0.1", port, TOKEN)
            os.write(is_ready, b"!")
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.read(ready, 1)
    threading.Timer(0.2, os.kill, (other, signal.SIGKILL)).start()
    begun = time.monotonic()
    with pytest.raises(LostProcessError, match="process 1 on b ended without a word"):
        first.gather("data", 1)
    assert time.monotonic() - begun < 30
    os.waitpid(other, 0)
    first.leave()


def test_who_notices_a_broken_connection_first_still_learns_whose_it_was(three) -> None:
    threading.Timer(0.1, three[2]._connections[0].end).start()  # as when that process is killed
    assert three[0].wait_for_failure() == "process 2 on b ended without a word: killed, or out of memory"


def test_checkouts_of_one_version_with_other_code_are_told_apart(three, monkeypatch) -> None:
    versions = iter(["0.1.0 (source 1)", "0.1.0 (source 2)", "0.1.0 (source 2)"])
    monkeypatch.setattr(module, "source_version", lambda: next(versions))

    def run(peers: Peers) -> None:
        with peers.telling():
            raise AssertionError("never reached")

    errors = together(three, run)
    assert len({str(error) for error in errors}) == 1
    assert re.fullmatch(r"qa-lightning: 0.1.0 \(source \d\) on .*, 0.1.0 .* on .*; install the same .*", str(errors[0]))


def test_one_that_never_comes_ends_the_first(monkeypatch, ended) -> None:
    monkeypatch.setattr(module, "JOIN_SECONDS", 0.1)
    first = Peers(0, 3, 0, "a")
    first.serve(TOKEN)
    with pytest.raises(LostProcessError, match="process 1 and 1 other of this run has not come"):
        first.gather("data", 1)


def test_a_process_of_another_start_is_not_let_in(three) -> None:
    port = three[0].serve("of another start")
    with pytest.raises(OSError, match="another start"):
        Peers(1, 3, 0, "b").connect("127.0.0.1", port, TOKEN)


def test_whatever_else_comes_to_the_port_changes_nothing(three) -> None:
    port = three[0].serve(TOKEN)
    for said in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]\n",
        b"\n",
        b'{"rank": 1}\n',
        b'{"rank": 7, "token": "known to all"}\n',
        b"",
    ):
        with socket.create_connection(("127.0.0.1", port)) as connected:
            connected.sendall(said)
            connected.shutdown(socket.SHUT_WR)
            assert connected.recv(100) == b""
    assert together(three, lambda peers: peers.gather("first", peers.rank)) == [[0, 1, 2]] * 3


def test_a_process_alone_has_no_peers(monkeypatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert join() is None


class LoadsByItself(DDPStrategy):
    """As FSDP's: it reads files on every process."""

    def load_checkpoint(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}


def trainer(rank: int, kind: type) -> SimpleNamespace:
    strategy = object.__new__(kind)
    strategy._checkpoint_io = AtomicCheckpointIO()
    return SimpleNamespace(strategy=strategy, is_global_zero=rank == 0)


def folders(root: Path, shared: bool) -> list[Path]:
    """The run's folder as each of three processes sees it: the second host has another one under the same name."""
    written = [root / name / "version_0" for name in ("a", "b")]
    for number, folder in enumerate(written):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "run.json").write_text("[{}]")
        (folder / "checkpoints" / "last.ckpt").write_text(f"weights {number}")
    return [written[0], written[not shared], written[not shared]]


@pytest.mark.parametrize("shared", [True, False])
def test_hosts_without_the_runs_folder_are_sent_checkpoints(three, tmp_path, said, shared) -> None:
    seen = folders(tmp_path, shared)
    trainers = [trainer(rank, DDPStrategy) for rank in range(3)]
    found = together(
        three,
        lambda peers: find_folder(
            peers, trainers[peers.rank], seen[peers.rank], seen[peers.rank] / "checkpoints" / "last.ckpt"
        ),
    )
    assert found == ([None] * 3 if shared else [None, "a", "a"])
    assert [one.strategy.checkpoint_io.sends for one in trainers] == [not shared] * 3
    line = f"all hosts share {tmp_path / 'a'}" if shared else f"{tmp_path / 'a'} is not shared: checkpoints, records"
    assert said.messages[-1].startswith(line)


def test_a_strategy_that_reads_files_on_every_host_needs_them_there(three, tmp_path) -> None:
    seen = folders(tmp_path, shared=False)
    seen[1] = seen[2] = tmp_path / "nowhere"
    errors = together(
        three, lambda peers: find_folder(peers, trainer(peers.rank, LoadsByItself), seen[peers.rank], None)
    )
    assert all("on b is not that on a, and this --trainer.strategy needs it on all hosts" in str(one) for one in errors)
