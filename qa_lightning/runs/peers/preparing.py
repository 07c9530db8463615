"""The hosts of a run prepare its data together: each does a share of the work, and all have the same bytes.

The first process of the run reads the rows and writes the files, as it does alone. Processes of the other hosts check
rows and cut windows for it. A host that does not see the finished folders, as it has a cache of its own, is sent them.

Jobs and results are pickles, which can run code where they are read: they are taken only from processes that know the
run's token, as a run's processes trust each other anyway (torch sends them pickles, too).
"""

from __future__ import annotations

import logging
import pickle
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from qa_lightning.caching import build_once, damage, files_of
from qa_lightning.data.chunks import CheckJob
from qa_lightning.errors import InputError, LostProcessError, one_line
from qa_lightning.features.cache import WORKER, PreparedSplit
from qa_lightning.features.windows import Windower
from qa_lightning.runs.peers.connection import SILENCE, Connection, is_token, listening
from qa_lightning.runs.peers.processes import JOIN_SECONDS, Peers
from qa_lightning.workers import DoesJobs, Elsewhere, LostWorkerError, can_fork, fork

log = logging.getLogger("qa_lightning")

_JOBS = "jobs"  # what a connection is for, if not for a folder
_BLOCK = 1 << 20  # bytes of a file that are sent at a time
_MOST = 16  # processes of all other hosts together that help: the first process alone reads, and keeps some 5 busy


def prepare_together(
    peers: Peers, splits: Sequence[PreparedSplit] | None, prepare: Callable[[Sequence[Elsewhere]], None]
) -> None:
    """Prepare data on all hosts, if there are several with the same data, and some lack prepared files.

    Args:
        peers: all processes of the run; each calls this.
        splits: what to prepare, on one process of each host; None on the others.
        prepare: prepares it, with those that do jobs elsewhere; called on the first process, unless it lacks nothing.

    Raises:
        InputError: of ``prepare``, here or there; or a folder cannot be written.
        LostProcessError: another process was lost.
    """
    folders = {} if splits is None else _folders(splits)
    with ExitStack() as stack:
        server = stack.enter_context(_Server(peers, folders)) if peers.rank == 0 else None
        own = None
        if splits is not None:
            own = {"folders": list(folders), "lacks": _lacking(folders), "workers": splits[0].workers}
        if server is not None:
            own = {**(own or {}), "helped": can_fork(), "port": server.port, "token": server.token}
        told = peers.gather("preparing", own)
        first, others = told[0], {rank: one for rank, one in enumerate(told) if rank and one is not None}
        same = all(one["folders"] == first["folders"] for one in others.values())
        if not (others and same and any(one["lacks"] for one in (first, *others.values()))):
            return  # each host sees to its own
        helpers = _helpers(peers, told) if first["lacks"] and first["helped"] else {}
        if server is not None and first["lacks"]:
            if helpers:
                log.info(f"data: prepared together with {', '.join(peers.hosts[rank] for rank in helpers)}")
            prepare(server.wait_for(sum(helpers.values())))
        with ExitStack() as until_prepared:
            if splits is not None and peers.rank in helpers:
                _help(until_prepared, peers, first, splits, helpers[peers.rank])
            peers.gather("prepared", None, says=peers.rank not in helpers)
        if server is None and splits is not None:
            _fetch_missing(peers, first, folders)
        peers.gather("fetched", None)  # the server stays until then


def _folders(splits: Sequence[PreparedSplit]) -> dict[str, Path]:
    """The folders of prepared splits, by names that are equal on all hosts with the same data and settings."""
    all_folders = [folder for split in splits for folder in (split.examples_folder, split.features_folder)]
    return {f"{folder.parent.name}/{folder.name}": folder for folder in all_folders}


def _lacking(folders: Mapping[str, Path]) -> list[str]:
    """The names of folders that are missing or damaged. One that cannot be read counts; preparing it then says why."""

    def lacks(folder: Path) -> bool:
        try:
            return damage(folder) is not None
        except OSError:
            return True

    return [name for name, folder in folders.items() if lacks(folder)]


def _helpers(peers: Peers, told: Sequence[Mapping[str, Any] | None]) -> dict[int, int]:
    """Rank -> number of processes that help, one rank on each host other than the first process's."""
    ranks: dict[str, int] = {}
    for rank, one in enumerate(told):
        if one is not None and peers.hosts[rank] != peers.hosts[0]:
            ranks.setdefault(peers.hosts[rank], rank)
    shares = {rank: (_MOST - 1 - index) // len(ranks) + 1 for index, rank in enumerate(ranks.values())}
    counts = {rank: min(share, (told[rank] or {})["workers"]) for rank, share in shares.items()}
    return {rank: count for rank, count in counts.items() if count}


class _Server:
    """Takes the connections of other hosts on the first process, until the ``with`` statement ends.

    Args:
        peers: as the first process sees them.
        folders: name -> folder, which can be fetched once they are whole.

    Attributes:
        port, token: how it is found, and what one has to know.
    """

    def __init__(self, peers: Peers, folders: Mapping[str, Path]) -> None:
        self.token = secrets.token_hex(16)
        self._peers, self._folders = peers, folders
        self._arrived: SimpleQueue[_Helper] = SimpleQueue()
        self._helpers: list[_Helper] = []
        self._is_over = False
        self._listener = listening()
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for the next one
        self._listener.close()
        for helper in self._helpers:
            helper.stop()

    def wait_for(self, count: int) -> list[Elsewhere]:
        """So many processes on other hosts, when all have come.

        Raises:
            InputError, LostProcessError: see `Peers.gather`.
        """
        deadline = time.monotonic() + JOIN_SECONDS
        found: list[Elsewhere] = []
        while len(found) < count:
            with suppress(Empty):
                found.append(self._arrived.get(timeout=1.0))
            if self._peers.failure is not None:
                raise self._peers.error()
            if time.monotonic() > deadline:
                raise LostProcessError(
                    f"of {count} processes on other hosts that help to prepare the data, {len(found)} have come in "
                    f"{JOIN_SECONDS / 60:.0f} minutes; hosts must be able to connect to each other"
                )
        return found

    def _accept(self) -> None:
        while not self._is_over:
            try:
                connection = Connection(self._listener.accept()[0], of_blocks=True)
            except OSError:  # one that came and went, or it is over
                time.sleep(0.1)
                continue
            threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: Connection) -> None:
        try:
            hello = connection.receive(4096) or {}
            if not is_token(hello.get("token"), self.token):
                connection.close()
            elif hello["wants"] == _JOBS:
                connection.send({"welcome": True})
                helper = _Helper(self._peers, connection, int(hello["rank"]))
                self._helpers.append(helper)
                self._arrived.put(helper)
            else:
                with closing(connection):
                    _send_folder(connection, self._folders[hello["wants"]])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):  # not one of ours, or it has ended
            connection.close()


class _Helper:
    """A process on another host, as the first process of the run sees it."""

    def __init__(self, peers: Peers, connection: Connection, rank: int) -> None:
        self._peers, self._connection, self._rank = peers, connection, rank
        self._is_stopped = False

    def ask(self, job: Any) -> Any:
        """Send a job, and return its result.

        Raises:
            InputError: the process sent one.
            LostProcessError: it is gone.
        """
        reply = None
        with suppress(OSError, ValueError):  # the latter: closed meanwhile
            self._connection.send_block(pickle.dumps(job, pickle.HIGHEST_PROTOCOL))
            reply = self._connection.receive_block()
        if self._is_stopped:
            raise LostProcessError("nothing more is asked of other hosts")
        if reply is None:
            raise _lost(self._peers, self._rank)
        found = pickle.loads(reply)
        if isinstance(found, InputError):
            raise found
        return found

    def stop(self) -> None:
        """Let go of it; who waits for its answer gets an error at once."""
        self._is_stopped = True
        self._connection.close()


def _lost(peers: Peers, rank: int) -> InputError | LostProcessError:
    """Why the connection to another host has ended, as far as it is known."""
    if peers.wait_for_failure() is not None:
        return peers.error()
    return LostProcessError(f"the connection to {peers.hosts[rank]} was lost while the data was prepared")


def _connected(peers: Peers, first: Mapping[str, Any], wants: str) -> tuple[Connection, dict[str, Any]]:
    """A connection to the first process's server, and its first message.

    Raises:
        InputError, LostProcessError: there is none.
    """
    try:
        connection = Connection(socket.create_connection((peers.address, first["port"]), SILENCE), of_blocks=True)
    except OSError as error:
        if peers.wait_for_failure() is not None:
            raise peers.error() from None
        raise LostProcessError(
            f"the first process of this run, at {peers.address}:{first['port']}, cannot be reached "
            f"({one_line(error)}); hosts must be able to connect to each other"
        ) from None
    greeting = None
    with suppress(OSError):
        connection.send({"token": first["token"], "wants": wants, "rank": peers.rank})
        greeting = connection.receive()
    if greeting is None:
        connection.close()
        raise _lost(peers, 0)
    return connection, greeting


def _help(
    until_prepared: ExitStack, peers: Peers, first: Mapping[str, Any], splits: Sequence[PreparedSplit], count: int
) -> None:
    """Have processes of this host do jobs of the first process, until all is prepared."""
    tokenizer, settings = splits[0].tokenizer, splits[0].settings
    windowers = {offsets: Windower(tokenizer, settings, offsets=offsets) for offsets in (False, True)}

    def do(block: bytes) -> bytes:
        job = pickle.loads(block)
        found = job.done() if isinstance(job, CheckJob) else job.done(windowers[job.offsets])
        return pickle.dumps(found, pickle.HIGHEST_PROTOCOL)

    log.info(f"data: helping {peers.hosts[0]} to prepare it")
    workers: list[DoesJobs] = [_Here(do)] * count
    if can_fork():
        forks = [until_prepared.enter_context(fork(do, WORKER)) for _ in range(count)]
        for one in forks:
            one.receive()  # it is ready
        workers = list(forks)
    for worker in workers:
        connection, _ = _connected(peers, first, _JOBS)
        until_prepared.callback(connection.end)
        threading.Thread(target=_do_jobs, args=(connection, worker, peers.hosts[peers.rank]), daemon=True).start()


class _Here:
    """Does jobs in this process, one at a time."""

    def __init__(self, do: Callable[[bytes], bytes]) -> None:
        self._do, self._lock = do, threading.Lock()

    def ask(self, job: Any) -> Any:
        """Do a job, and return its result."""
        with self._lock:
            return self._do(job)


def _do_jobs(connection: Connection, worker: DoesJobs, host: str) -> None:
    """Pass jobs on to a process of this host, until the connection ends; errors are passed back."""
    with closing(connection), suppress(OSError):
        while (job := connection.receive_block()) is not None:
            try:
                found = worker.ask(job)
            except InputError as error:
                found = pickle.dumps(type(error)([f"{host}: {problem}" for problem in error.problems]))
            except Exception as error:  # it would end this thread alone, and the other end wait
                found = pickle.dumps(LostWorkerError(f"{host}: {type(error).__name__}: {one_line(error)}"))
            connection.send_block(found)


def _fetch_missing(peers: Peers, first: Mapping[str, Any], folders: Mapping[str, Path]) -> None:
    """Get the folders from the first process that this host does not see."""
    fetched = [
        folders[name]
        for name in _lacking(folders)
        if build_once(folders[name], partial(_receive_folder, peers, first, name))
    ]
    if fetched:
        cache = fetched[0].parent.parent
        log.info(f"data: the prepared files came from {peers.hosts[0]}, as {cache} is not shared")


def _send_folder(connection: Connection, folder: Path) -> None:
    """Send the files of a folder that `build_once` has built; or say why they cannot be read."""
    with ExitStack() as opened:
        try:
            listed = files_of(folder)
            files = [opened.enter_context((folder / name).open("rb")) for name, _, _ in listed]
        except (OSError, ValueError) as error:
            connection.send({"failed": f"{folder} cannot be read ({one_line(error) or 'its list is damaged'})"})
            return
        connection.send({"files": listed})
        for file in files:
            while block := file.read(_BLOCK):
                connection.send_block(block)


def _receive_folder(peers: Peers, first: Mapping[str, Any], name: str, folder: Path) -> None:
    """Write the files of a folder of the first process.

    Raises:
        InputError: they cannot be read there.
        LostProcessError: they did not come, or not as they were written.
    """
    connection, listing = _connected(peers, first, name)
    with closing(connection):
        if "failed" in listing:
            raise InputError([f"{peers.hosts[0]}: {listing['failed']}"])
        for relative, checksum, size in listing["files"]:
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            found = 0
            with (folder / relative).open("wb") as file:
                while file.tell() < size:
                    block = None
                    with suppress(OSError):
                        block = connection.receive_block()
                    if block is None:
                        raise _lost(peers, 0)
                    file.write(block)
                    found = zlib.crc32(block, found)
            if found != checksum:
                raise LostProcessError(f"{relative} of {name} came from {peers.hosts[0]} with other bytes than it has")
