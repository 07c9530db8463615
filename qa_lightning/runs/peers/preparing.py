"""The hosts of a run prepare its data together: each does a share of the work, and all have the same bytes.

The first process of the run reads the rows and writes the files, as it does alone. The other hosts check rows and cut
windows for it, each with as many processes as it prepares with. A host that does not see the finished folders, as it
has a cache of its own, is sent them.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from qa_lightning.caching import MANIFEST, build_once, damage
from qa_lightning.data.chunks import CheckJob
from qa_lightning.errors import InputError, LostProcessError
from qa_lightning.features.cache import WORKER, PreparedSplit
from qa_lightning.features.windows import Windower
from qa_lightning.runs.peers.connection import SILENCE, Connection, is_token, listening
from qa_lightning.runs.peers.processes import JOIN_SECONDS, Peers
from qa_lightning.workers import Asked, can_fork, fork

log = logging.getLogger("qa_lightning")

_JOBS = "jobs"  # what a connection is for, if not for a folder
_BLOCK = 1 << 20  # bytes of a file that are sent at a time


def prepare_together(
    peers: Peers, splits: Sequence[PreparedSplit] | None, prepare: Callable[[Sequence[Asked]], None]
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
    with ExitStack() as closing:
        own = None
        if splits is not None:
            count = splits[0].workers if can_fork() else 1
            own = {"folders": list(folders), "lacks": _lacking(folders), "workers": count}
        server = None
        if peers.rank == 0:
            server = closing.enter_context(_Server(peers, folders))
            own = {**(own or {}), "port": server.port, "token": server.token}
        told = peers.gather("preparing", own)
        first = told[0]
        helpers = {rank: one for rank, one in enumerate(told) if rank and one is not None}
        same = all(one["folders"] == first["folders"] for one in helpers.values())
        if not (helpers and same and any(one["lacks"] for one in (first, *helpers.values()))):
            return  # each host sees to its own
        if server is not None:
            if first["lacks"]:
                names = ", ".join(dict.fromkeys(peers.hosts[rank] for rank in helpers))
                log.info(f"data: prepared together with {names}")
                prepare(server.wait_for(sum(one["workers"] for one in helpers.values())))
            peers.gather("prepared", None)
        elif splits is not None and first["lacks"]:
            with ExitStack() as ending:
                _help(ending, peers, first, splits, told[peers.rank]["workers"])
                peers.gather("prepared", None)
        else:
            peers.gather("prepared", None)
        if server is None and splits is not None:
            _fetch_missing(peers, first, folders)
        peers.gather("fetched", None)  # the server stays until then


def _folders(splits: Sequence[PreparedSplit]) -> dict[str, Path]:
    """The folders of prepared splits, by names that are equal on all hosts with the same data and settings."""
    all_folders = [folder for split in splits for folder in (split.examples_folder, split.features_folder)]
    return {f"{folder.parent.name}/{folder.name}": folder for folder in all_folders}


def _lacking(folders: Mapping[str, Path]) -> list[str]:
    """The names of folders that are missing or damaged."""
    return [name for name, folder in folders.items() if damage(folder) is not None]


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
        self._arrived: SimpleQueue[_Elsewhere] = SimpleQueue()
        self._connections: list[Connection] = []
        self._listener = listening()
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for the next one
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def wait_for(self, count: int) -> list[Asked]:
        """So many processes on other hosts, when all have come.

        Raises:
            InputError, LostProcessError: see `Peers.gather`.
        """
        deadline = time.monotonic() + JOIN_SECONDS
        found: list[Asked] = []
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
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:  # it is over
                return
            threading.Thread(target=self._greet, args=(Connection(connected),), daemon=True).start()

    def _greet(self, connection: Connection) -> None:
        try:
            hello = connection.receive(4096) or {}
            wants = hello.get("wants")
            if not is_token(hello.get("token"), self.token):
                connection.close()
            elif wants == _JOBS:
                self._connections.append(connection)
                self._arrived.put(_Elsewhere(self._peers, connection))
            else:
                _send_folder(connection, self._folders[str(wants)])
                connection.close()
        except (OSError, ValueError, TypeError, KeyError):  # not one of ours, or it has ended
            connection.close()


class _Elsewhere:
    """A process on another host that does jobs."""

    def __init__(self, peers: Peers, connection: Connection) -> None:
        self._peers, self._connection = peers, connection

    def ask(self, job: Any) -> Any:
        """Send a job, and return its result.

        Raises:
            InputError: the process sent one.
            LostProcessError: it is gone.
        """
        reply = None
        with suppress(OSError):
            self._connection.send_block(pickle.dumps(job, pickle.HIGHEST_PROTOCOL))
            reply = self._connection.receive_block()
        if reply is None:
            raise _lost(self._peers)
        found = pickle.loads(reply)
        if isinstance(found, InputError):
            raise found
        return found


def _lost(
    peers: Peers, else_: str = "the connection to another host was lost while the data was prepared"
) -> InputError | LostProcessError:
    """Why a connection has ended, or there is none, as far as it is known."""
    return LostProcessError(else_) if peers.wait_for_failure() is None else peers.error()


def _connected(peers: Peers, first: Mapping[str, Any], wants: str) -> Connection:
    """A connection to the first process's server."""
    try:
        connection = Connection(socket.create_connection((peers.address, first["port"]), SILENCE))
        connection.send({"token": first["token"], "wants": wants})
    except OSError as error:
        known = f"{peers.address}:{first['port']}, cannot be reached ({error.strerror or error})"
        raise _lost(
            peers, f"the first process of this run, at {known}; hosts must be able to connect to each other"
        ) from None
    return connection


def _help(
    ending: ExitStack, peers: Peers, first: Mapping[str, Any], splits: Sequence[PreparedSplit], count: int
) -> None:
    """Have processes of this host do jobs of the first process, until ``ending`` is left."""
    tokenizer, settings = splits[0].tokenizer, splits[0].settings
    windowers = {offsets: Windower(tokenizer, settings, offsets=offsets) for offsets in (False, True)}

    def do(block: bytes) -> bytes:
        job = pickle.loads(block)
        found = job.done() if isinstance(job, CheckJob) else job.done(windowers[job.offsets])
        return pickle.dumps(found, pickle.HIGHEST_PROTOCOL)

    log.info(f"data: helping {peers.hosts[0]} to prepare it")
    workers: list[Asked] = [_Here(do)]
    if can_fork():
        forks = [ending.enter_context(fork(do, WORKER)) for _ in range(count)]
        for one in forks:
            one.receive()  # it is ready
        workers = list(forks)
    for worker in workers:
        connection = _connected(peers, first, _JOBS)
        ending.callback(connection.end)
        threading.Thread(target=_do_jobs, args=(connection, worker, peers.hosts[peers.rank]), daemon=True).start()


class _Here:
    """Does jobs in this process, one at a time."""

    def __init__(self, do: Callable[[bytes], bytes]) -> None:
        self._do = do

    def ask(self, job: Any) -> Any:
        """Do a job, and return its result."""
        return self._do(job)


def _do_jobs(connection: Connection, worker: Asked, host: str) -> None:
    """Pass jobs on to a process of this host, until the connection ends."""
    with suppress(OSError):
        while (job := connection.receive_block()) is not None:
            try:
                found = worker.ask(job)
            except InputError as error:
                found = pickle.dumps(InputError([f"{host}: {problem}" for problem in error.problems]))
            connection.send_block(found)
    connection.close()


def _fetch_missing(peers: Peers, first: Mapping[str, Any], folders: Mapping[str, Path]) -> None:
    """Get the folders from the first process that this host does not see."""
    lacks = _lacking(folders)
    for name in lacks:
        cache = folders[name].parent.parent
        manifests: list[bytes] = []
        build_once(folders[name], partial(_receive_folder, peers, first, name, manifests))
        if manifests and manifests[0] != (folders[name] / MANIFEST).read_bytes():
            raise LostProcessError(f"{folders[name]} has other bytes than {peers.hosts[0]} sent; start the run again")
    if lacks:
        log.info(f"data: the prepared files came from {peers.hosts[0]}, as {cache} is not shared")


def _send_folder(connection: Connection, folder: Path) -> None:
    """Send the files of a folder that `build_once` has built."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = [[path.relative_to(folder).as_posix(), path.stat().st_size] for path in paths]
    connection.send({"files": files, "manifest": (folder / MANIFEST).read_bytes().decode()})
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                connection.send_block(block)


def _receive_folder(peers: Peers, first: Mapping[str, Any], name: str, manifests: list[bytes], folder: Path) -> None:
    """Write the files of a folder of the first process; ``manifests`` gets the list of what they hold there."""
    connection = _connected(peers, first, name)
    blocks = _blocks(peers, connection)
    try:
        listing = connection.receive()
    except OSError:
        listing = None
    if listing is None:
        raise _lost(peers)
    manifests.append(listing["manifest"].encode())
    for relative, size in listing["files"]:
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        with (folder / relative).open("wb") as file:
            while file.tell() < size:
                file.write(next(blocks))
    connection.close()


def _blocks(peers: Peers, connection: Connection) -> Iterator[bytes]:
    """The blocks that come over a connection.

    Raises:
        InputError, LostProcessError: the next one does not come.
    """
    while True:
        block = None
        with suppress(OSError):
            block = connection.receive_block()
        if block is None:
            raise _lost(peers)
        yield block
