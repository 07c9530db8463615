"""Hosts of a run prepare data together: each does some of it, all have the bytes of one that works alone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qa_lightning.caching import MANIFEST
from qa_lightning.data.columns import ReadSettings
from qa_lightning.errors import InputError, LostProcessError
from qa_lightning.features import cache
from qa_lightning.features.cache import PreparedSplit
from qa_lightning.features.windows import WindowSettings
from qa_lightning.runs.peers import preparing, processes
from qa_lightning.runs.peers.connection import Connection
from qa_lightning.runs.peers.preparing import prepare_together
from qa_lightning.runs.peers.processes import Peers
from qa_lightning.workers import DoesJobs, Elsewhere, LostWorkerError
from tests.helpers.data import make_rows, write_json
from tests.helpers.models import small_tokenizer
from tests.helpers.paths import SHARED
from tests.helpers.peers import together

HOSTS = ("a", "b", "c")


@pytest.fixture
def peers(monkeypatch) -> Iterator[list[Peers]]:
    """The processes of four hosts' run: one on each of three, and a second one on the last; threads of this one."""
    monkeypatch.setattr(processes.os, "_exit", lambda status: None)
    monkeypatch.setattr(Peers, "seconds", 0.3)
    everyone = [Peers(rank, 4, int(rank == 3), HOSTS[min(rank, 2)]) for rank in range(4)]
    port = everyone[0].serve("known")
    for one in everyone[1:]:
        one.connect("127.0.0.1", port, "known")
    yield everyone
    for one in everyone[::-1]:
        one.leave()


@pytest.fixture
def small_jobs(monkeypatch) -> None:
    """Makes many jobs of few rows."""
    monkeypatch.setattr(cache, "_ROWS", 20)
    monkeypatch.setattr("qa_lightning.data.chunks._ROWS", 20)


def splits(path: Path, folder: Path, workers: int = 1, **changes: Any) -> list[PreparedSplit]:
    """Training and validation on a part of a file, with the cache of a host."""
    settings = WindowSettings(max_length=64, doc_stride=16, max_question_length=16)
    train = PreparedSplit(
        *("train", str(path), (0.2, 42), None, "error", ReadSettings(), small_tokenizer(), settings, folder),
        answers="all",
        workers=workers,
    )
    return [replace(one, **changes) for one in (train, replace(train, split="validation", answers="first"))]


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def prepared(everyone: Sequence[Peers], own: Sequence[list[PreparedSplit] | None]) -> list[Any]:
    """What preparing together returns or raises in each process."""

    def one(peers: Peers) -> None:
        mine = own[peers.rank]

        def prepare(others: Sequence[Elsewhere]) -> None:
            for each in mine or []:
                replace(each, others=others).prepare()

        with peers.telling():
            prepare_together(peers, mine, prepare)
            peers.gather("end", None)

    return together(everyone, one, 60)


@pytest.fixture
def jobs(monkeypatch) -> Counter[tuple[str, str]]:
    """How often each host did a job of each kind for the first one."""
    done: Counter[tuple[str, str]] = Counter()
    do_jobs = preparing._do_jobs

    def counting(connection: Connection, worker: DoesJobs, host: str) -> None:
        class Counting:
            def ask(self, job: Any) -> Any:
                done[host, "check" if b"CheckJob" in job[:200] else "cut"] += 1
                return worker.ask(job)

        do_jobs(connection, Counting(), host)

    monkeypatch.setattr(preparing, "_do_jobs", counting)
    return done


def real_or_made(kind: str, folder: Path) -> Path:
    if kind == "made":
        return write_json(folder / "rows.json", make_rows(600, unanswerable=30, long=5))
    path = SHARED / "squad" / "validation-v2-articles.json"
    if not path.exists():
        pytest.skip("needs the shared data")
    return path


@pytest.mark.parametrize("kind", ["made", "SQuAD v2.0"])
def test_each_host_does_some_of_it_and_all_have_the_bytes_of_one_alone(kind, peers, jobs, small_jobs, tmp_path) -> None:
    path = real_or_made(kind, tmp_path)
    for one in splits(path, tmp_path / "alone"):
        one.prepare()
    own = [splits(path, tmp_path / host) for host in HOSTS]
    assert prepared(peers, [*own, None]) == [None] * 4
    wanted = content(tmp_path / "alone")
    assert len([name for name in wanted if name.endswith(MANIFEST)]) == 4
    for host in HOSTS:
        assert content(tmp_path / host) == wanted
    assert set(jobs) == {(host, what) for host in "bc" for what in ("check", "cut")}
    assert not list(tmp_path.rglob("*.tmp*"))


def test_hosts_that_share_a_cache_send_no_files(peers, jobs, small_jobs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preparing, "_send_folder", lambda *_: pytest.fail("sent"))
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / "shared", workers=2) for _ in HOSTS]
    assert prepared(peers, [*own, None]) == [None] * 4
    assert jobs.total() > 10
    assert preparing._lacking(preparing._folders(own[0])) == []


def test_what_is_there_is_not_prepared_again_and_goes_to_the_host_that_lacks_it(peers, jobs, tmp_path) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    for host in "ac":
        for one in splits(path, tmp_path / host):
            one.prepare()
    before = {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in content(tmp_path / "a")}
    damaged = own[2][0].features_folder / "windows.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert prepared(peers, [*own, None]) == [None] * 4
    assert not jobs
    assert content(tmp_path / "b") == content(tmp_path / "c") == content(tmp_path / "a")
    assert {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in before} == before


def test_where_all_is_there_nothing_is_opened(peers, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / "shared") for _ in HOSTS]
    for one in own[0]:
        one.prepare()
    monkeypatch.setattr(preparing, "_connected", lambda *_: pytest.fail("connected"))
    assert prepared(peers, [*own, None]) == [None] * 4


def test_hosts_with_other_data_each_see_to_their_own(peers, tmp_path) -> None:
    """They are refused when all is prepared, with what differs."""
    own = [
        splits(write_json(tmp_path / f"{host}.json", make_rows(40 + number)), tmp_path / host)
        for number, host in enumerate(HOSTS)
    ]
    assert prepared(peers, [*own, None]) == [None] * 4
    assert not any((tmp_path / host).exists() for host in HOSTS)


def test_bad_rows_are_the_error_of_one_alone(peers, small_jobs, tmp_path) -> None:
    rows = make_rows(200)
    for number in (5, 60, 61, 199):
        rows[number]["answers"] = {"text": ["nowhere"], "answer_start": [0]}
    del rows[100]["question"]
    path = write_json(tmp_path / "rows.json", rows)
    with pytest.raises(InputError) as alone:
        splits(path, tmp_path / "alone")[0].prepare()
    own = [splits(path, tmp_path / host) for host in HOSTS]
    found = prepared(peers, [*own, None])
    assert found[0].problems == alone.value.problems
    assert len(found[0].problems) == 1 + 5
    for error in found[1:]:
        assert isinstance(error, InputError)
        assert error.problems == [f"a (process 0): {problem}" for problem in alone.value.problems]
    assert not any(list((tmp_path / host).rglob(MANIFEST)) for host in HOSTS)


@pytest.mark.parametrize("which", ["the first", "the others"])
def test_hosts_that_cannot_fork_prepare_alike(which, peers, jobs, small_jobs, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    first = threading.local()
    prepare_all = preparing.prepare_together

    def noting(one: Peers, *given: Any) -> None:
        first.is_first = one.rank == 0
        prepare_all(one, *given)

    monkeypatch.setitem(globals(), "prepare_together", noting)
    monkeypatch.setattr(preparing, "can_fork", lambda: getattr(first, "is_first", False) is not (which == "the first"))
    assert prepared(peers, [*own, None]) == [None] * 4
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert bool(jobs) is (which == "the others")


@pytest.mark.parametrize("kind", ["CheckJob", "CutJob"])
@pytest.mark.parametrize("how", ["dies", "fails"])
def test_a_helper_whose_process_ends_is_named(kind, how, peers, small_jobs, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    fork, test = preparing.fork, os.getpid()

    def fatal(do: Callable[[bytes], bytes], what: str) -> Any:
        def dying(job: bytes) -> bytes:
            if kind.encode() in job[:200] and os.getpid() != test:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(job)

        return fork(dying, what)

    do_jobs = preparing._do_jobs

    def failing(connection: Connection, worker: DoesJobs, host: str) -> None:
        class Failing:
            def ask(self, job: Any) -> Any:
                if kind.encode() in job[:200]:
                    raise MemoryError("no room for it")
                return worker.ask(job)

        do_jobs(connection, Failing(), host)

    monkeypatch.setattr(preparing, *(("fork", fatal) if how == "dies" else ("_do_jobs", failing)))
    found = prepared(peers, [*own, None])
    assert isinstance(found[0], LostWorkerError)  # the file is not to blame
    (problem,) = found[0].problems
    assert problem[:3] in ("b: ", "c: ")
    said = "--data.prepare_workers: a process that prepares data ended of SIGKILL"
    assert (said if how == "dies" else "MemoryError: no room for it") in problem
    assert all(problem in str(error) for error in found[1:])


def test_a_helper_may_wait_for_a_job_for_long(peers, small_jobs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("qa_lightning.runs.peers.connection.SILENCE", 0.5)
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    wait_for = preparing._Server.wait_for

    def slowly(self: Any, count: int) -> Any:
        found = wait_for(self, count)
        time.sleep(1.5)
        return found

    monkeypatch.setattr(preparing._Server, "wait_for", slowly)
    assert prepared(peers, [*own, None]) == [None] * 4


def test_an_error_of_the_first_does_not_wait_for_the_jobs_of_others(peers, small_jobs, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    do_jobs, asked = preparing._do_jobs, threading.Event()

    def endless(connection: Connection, worker: DoesJobs, host: str) -> None:
        class Endless:
            def ask(self, job: Any) -> Any:
                asked.set()
                time.sleep(20)
                return worker.ask(job)

        do_jobs(connection, Endless(), host)

    def interrupted(*_: Any) -> Any:
        assert asked.wait(20)
        raise InputError(["stopped"])

    monkeypatch.setattr(preparing, "_do_jobs", endless)
    monkeypatch.setattr("qa_lightning.data.chunks._merge", interrupted)
    begun = time.monotonic()
    found = prepared(peers, [*own, None])
    assert time.monotonic() - begun < 15
    assert "stopped" in str(found[0])


def test_what_came_with_other_bytes_is_not_kept(peers, small_jobs, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    for one in own[0]:
        one.prepare()
    (own[0][0].features_folder / ".DS_Store").write_text("of somebody")  # is not sent
    send = Connection.send_block

    def flipping(self: Connection, block: bytes) -> None:
        send(self, bytes([block[0] ^ 1]) + block[1:])

    monkeypatch.setattr(Connection, "send_block", flipping)
    found = prepared(peers, [*own, None])
    assert isinstance(found[1], LostProcessError)
    assert "came from a with other bytes than it has" in str(found[1])
    assert not list((tmp_path / "b").rglob("*.bin"))
    monkeypatch.undo()


def test_a_folder_that_the_first_cannot_read_any_more_is_told(peers, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    for one in own[0]:
        one.prepare()
    lacking = preparing._lacking

    def losing(folders: Any) -> list[str]:
        found = lacking(folders)
        (own[0][0].features_folder / "windows.bin").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(preparing, "_lacking", losing)
    found = prepared(peers, [*own[:2], None, None])
    assert re.fullmatch(r"a: .*features/\w+ cannot be read \(.*No such file or directory.*\)", str(found[1]))


def test_a_cache_that_may_not_be_read_is_told_as_alone(peers, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    is_dir = Path.is_dir

    def refused(self: Path) -> bool:
        if (tmp_path / "b") in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        return is_dir(self)

    monkeypatch.setattr(Path, "is_dir", refused)
    found = prepared(peers, [*own, None])
    assert isinstance(found[1], InputError)
    assert "cannot be made (Permission denied)" in str(found[1])


@pytest.mark.parametrize(
    ("hosts", "workers", "expected"),
    [
        ("abc", 4, {1: 4, 2: 4}),
        ("abc", 64, {1: 8, 2: 8}),
        ("ab", 64, {1: 16}),
        ("aa", 4, {}),
        ("aab", 4, {2: 4}),
        ("abbc", 1, {1: 1, 3: 1}),
    ],
)
def test_few_processes_help_and_none_on_the_first_host(hosts, workers, expected) -> None:
    one = Peers(0, len(hosts), 0, "a")
    one.hosts = dict(enumerate(hosts))
    assert preparing._helpers(one, [{"workers": workers}] * len(hosts)) == expected
    one.hosts = {rank: str(rank) for rank in range(100)}
    assert sum(preparing._helpers(one, [{"workers": workers}] * 100).values()) == 16


def test_a_host_that_is_lost_ends_all(peers, small_jobs, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]

    def lost(connection: Connection, worker: DoesJobs, host: str) -> None:
        connection.receive_block()
        if host == "b":
            peers[1].fail(["off"])
            connection.close()
            connection.end()
            return
        do_jobs(connection, worker, host)

    do_jobs = preparing._do_jobs
    monkeypatch.setattr(preparing, "_do_jobs", lost)
    found = prepared(peers, [*own, None])
    assert all(isinstance(error, LostProcessError) for error in found)
    assert {str(error) for error in (found[0], *found[2:])} == {"b (process 1): off"}


def test_a_stranger_gets_nothing(peers, small_jobs, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    answers: list[bytes] = []
    serve = preparing._Server.wait_for

    def wait_for(self: Any, count: int) -> list[DoesJobs]:
        hellos = [
            {"token": "guessed", "wants": "jobs"},
            {"token": "guessed", "wants": next(iter(self._folders))},
            {"token": self.token, "wants": "../etc"},
            {"token": self.token},
        ]
        for hello in [
            *(json.dumps(one).encode() + b"\n" for one in hellos),
            b"GET / HTTP/1.1\n\n",
            b"[]\n",
            b"\0" * 9000,
        ]:
            answer = b""
            with socket.create_connection(("127.0.0.1", self.port), 5) as stranger:
                try:
                    stranger.sendall(hello)
                    stranger.shutdown(socket.SHUT_WR)
                    answer = stranger.recv(100)
                except TimeoutError:
                    answer = b"kept waiting"
                except OSError:  # hung up on
                    pass
            answers.append(answer)
        return serve(self, count)

    monkeypatch.setattr(preparing._Server, "wait_for", wait_for)
    assert prepared(peers, [*own, None]) == [None] * 4
    assert answers == [b""] * 7


def test_a_disk_that_is_full_on_one_host_is_its_error(peers, small_jobs, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    receive = preparing._receive_folder

    def full(one: Peers, *given: Any) -> None:
        if one.rank == 2:
            raise OSError(28, "No space left on device")
        receive(one, *given)

    monkeypatch.setattr(preparing, "_receive_folder", full)
    found = prepared(peers, [*own, None])
    assert isinstance(found[2], InputError)
    assert "cannot be made (No space left on device)" in str(found[2])
    told = {str(error) for error in (found[0], found[1], found[3])}
    assert told == {f"c (process 2): {found[2]}"}


def test_a_helper_that_does_not_come_for_a_reason_is_not_waited_for(peers, small_jobs, tmp_path, monkeypatch) -> None:
    path = real_or_made("made", tmp_path)
    own = [splits(path, tmp_path / host) for host in HOSTS]
    help_first = preparing._help

    def unable(ending: Any, one: Peers, *given: Any) -> None:
        if one.rank == 2:
            raise InputError(["no room for another process"])
        help_first(ending, one, *given)

    monkeypatch.setattr(preparing, "_help", unable)
    found = prepared(peers, [*own, None])
    assert str(found[2]) == "no room for another process"
    assert {str(error) for error in (*found[:2], found[3])} == {"c (process 2): no room for another process"}
