"""`Peers`: the processes of a run compare what must be equal, wait for each other, and hear of failures.

The first process listens on a port of its own, and all others connect to it. A process that fails says why. The
connection of one that dies is closed; that of one whose host is gone is silent, see `connection`.

Limits: only the first process sees the others. If two others lose each other alone, the library that connects them
notices it, after its own time limit of many minutes.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from qa_lightning.checks.hosts import host_differences
from qa_lightning.errors import InputError, LostProcessError, one_line
from qa_lightning.runs.peers.connection import SILENCE, Connection, Launch, is_silent, is_token, listening
from qa_lightning.runs.record import source_version
from qa_lightning.runs.signals import Stopped
from qa_lightning.wording import counted

log = logging.getLogger("qa_lightning")

JOIN_SECONDS = 600.0  # for all processes to start: libraries on a network's disk may take minutes to load
_SAY_SECONDS = 10.0  # after which a process says that it waits


class Peers:
    """The processes of one run, as one of them sees them.

    Args:
        rank, world_size: this one's, and how many there are.
        local_rank: among those on its host.
        host: the name of its host; None asks the system.

    Attributes:
        hosts: rank -> host, of the processes that have come.
        failure: what the first process that failed said, or what is known of its loss; None while all is well.
        is_common: whether all processes know why the run ends: one for each host says it.
        address: of the first process; empty there.
        launch: what torchrun knows of this run from one restart to the next; None elsewhere.
        tell: prints what is known, if a failure ends this process while it hangs.
    """

    seconds = 5.0  # for this process to notice a failure by itself, and to end

    def __init__(self, rank: int, world_size: int, local_rank: int, host: str | None = None) -> None:
        self.rank, self.world_size, self.local_rank = rank, world_size, local_rank
        self.hosts = {rank: host or socket.gethostname()}
        self.failure: str | None = None
        self.is_common = False
        self.address = ""
        self.launch: Launch | None = None
        self.tell: Callable[[str], None] = _print_error
        self._failed = -1  # the rank of the process that failed first
        self._is_input_error = False
        self._changed = threading.Condition()  # holds all that follows
        self._values: dict[str, dict[int, Any]] = {}  # on the first process: what has come, by topic
        self._answers: dict[str, list[Any]] = {}
        self._connections: dict[int, Connection] = {}  # the first process's to all others; theirs to it
        self._has_left: set[int] = set()
        self._is_over = False  # whether this process ends by itself
        self.store: Any = None  # what the processes meet at; it lives in the first one

    def serve(self, token: str) -> int:
        """Take the connections of the others; returns the port. The first process alone.

        Args:
            token: what they must know.
        """
        listener = listening()
        threading.Thread(target=self._accept, args=(listener, token), daemon=True).start()
        return int(listener.getsockname()[1])

    def connect(self, address: str, port: int, token: str) -> None:
        """Connect to the first process.

        Raises:
            OSError: it is not there, or is that of another start.
        """
        connection = Connection(socket.create_connection((address, port), SILENCE))
        try:
            connection.send({"rank": self.rank, "host": self.hosts[self.rank], "token": token})
            greeting = connection.receive()
            if greeting is None:
                raise ConnectionError("it is the first process of another start")
        except OSError:
            connection.close()
            raise
        self.hosts[0], self.address = greeting["host"], address
        self._connections[0] = connection
        threading.Thread(target=self._read, args=(0,), daemon=True).start()

    def gather(self, topic: str, value: Any, says: bool = True) -> list[Any]:
        """The values of all processes, by rank; waits for as long as all are there.

        Args:
            topic: a name; all processes gather the same topics in the same order.
            value: this one's, of JSON.
            says: whether to log that it waits, if it does so for long.

        Raises:
            InputError: another process failed because of its input.
            LostProcessError: another one failed otherwise, or was lost, or has not come in ten minutes.
        """
        if self.rank == 0:
            self._take(0, topic, value)
        else:
            self._send(0, {"topic": topic, "value": value})
        begun, has_said = time.monotonic(), False
        with self._changed:
            while topic not in self._answers and self.failure is None:
                self._changed.wait(1.0)
                waited = time.monotonic() - begun
                missing = self._missing()
                if missing and waited > JOIN_SECONDS:
                    raise LostProcessError(f"{missing} of this run has not come in {JOIN_SECONDS / 60:.0f} minutes")
                if says and waited > _SAY_SECONDS and not has_said and self.local_rank == 0:
                    log.info(f"waiting for {missing or 'the other processes'}")
                    has_said = True
            if topic in self._answers:
                return self._answers[topic]
        raise self.error()

    def compare(self, topic: str, parts: Mapping[str, Mapping[str, str]] | None) -> None:
        """Refuse to go on where processes differ in what must be equal.

        Args:
            topic: see `gather`.
            parts: fix -> name -> value in words; None if this process has nothing to tell.

        Raises:
            InputError: they differ; all processes raise it.
        """
        described = self.gather(topic, parts)
        hosts = [self.hosts[rank] for rank in range(self.world_size)]
        problems: list[str] = []
        for fix in dict.fromkeys(fix for one in described if one is not None for fix in one):
            problems += host_differences(hosts, [None if one is None else one[fix] for one in described], fix)
        if problems:
            raise self.common(problems)

    def common(self, problems: Sequence[str]) -> InputError:
        """An error that all processes raise at this moment."""
        self.is_common = True
        return InputError(problems)

    def error(self) -> InputError | LostProcessError:
        """The failure of another process, to be raised here."""
        assert self.failure is not None
        self.is_common = True
        return InputError(self.failure.split("\n")) if self._is_input_error else LostProcessError(self.failure)

    def wait_for_failure(self) -> str | None:
        """`failure`, but wait for news: this process may notice first that a connection is broken."""
        with self._changed:
            self._is_over = True  # this process has noticed
            self._changed.wait_for(lambda: self.failure is not None, self.seconds)
            return self.failure

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Within, an error of this process ends all others, with its message; at the end this one leaves them.

        All processes have come, with the same version of this package, when this begins.

        Raises:
            InputError: the versions differ.
            LostProcessError: some process has not come.
        """
        try:
            self.compare("version", {"install the same version on all hosts": {"qa-lightning": source_version()}})
            yield
        except InputError as error:
            self.fail(str(error).splitlines(), is_input_error=True)
            raise
        except Stopped as error:
            self.fail([f"stopped by {error.stop.cause}"])
            raise
        except SystemExit as error:
            if error.code:
                self.fail([f"ended with status {error.code}"])
            raise
        except BaseException as error:
            self.fail([one_line(error) if isinstance(error, LostProcessError) else _in_words(error)])
            raise
        finally:
            self.leave()

    def fail(self, problems: Sequence[str], is_input_error: bool = False) -> None:
        """Tell the others that this process failed, unless they know why the run ends.

        Args:
            problems: why, a line for each.
            is_input_error: something is wrong with its input.
        """
        if self.is_common or self.failure is not None:
            return
        self._is_over = True
        lines = [f"{self.hosts[self.rank]} (process {self.rank}): {problem}" for problem in problems]
        self._send_all({"failed": "\n".join(lines), "rank": self.rank, "is_input_error": is_input_error})

    def leave(self) -> None:
        """Tell the others that this process ends as it should."""
        self._is_over = True
        self._has_left.add(self.rank)
        if self.rank == 0:
            self._pass_on()  # its reader may come to that too late: after "left", the others expect no more news
        self._send_all({"left": True})
        for connection in list(self._connections.values()):
            connection.end()

    @property
    def speaks(self) -> bool:
        """Whether this process says what all know: one on each host, that is still there."""
        return self.local_rank == 0 or (self.local_rank == 1 and self._failed == self.rank - 1)

    def _accept(self, listener: socket.socket, token: str) -> None:
        while True:
            try:
                connection = Connection(listener.accept()[0])
            except OSError:  # one that came and went
                time.sleep(0.1)
                continue
            threading.Thread(target=self._greet, args=(connection, token), daemon=True).start()

    def _greet(self, connection: Connection, token: str) -> None:
        """Let one of the others in, and read what it says."""
        try:
            hello = connection.receive(4096) or {}
            rank: Any = hello.get("rank")
            if not is_token(hello.get("token"), token) or rank not in range(1, self.world_size):
                connection.close()
                return
            connection.send({"host": self.hosts[0]})
        except (OSError, ValueError, TypeError, RecursionError):  # not one of ours
            connection.close()
            return
        with self._changed:
            self.hosts[rank] = str(hello.get("host"))
            self._connections[rank] = connection
        self._read(rank)

    def _read(self, rank: int) -> None:
        """Act on what a process says, until it ends."""
        connection, how = self._connections[rank], "ended without a word: killed, or out of memory"
        try:
            while (said := connection.receive()) is not None:
                self._act(rank, said)
        except OSError as error:
            if is_silent(error):
                how = f"does not answer: its host is off, or the network to it ({one_line(error)})"
        connection.close()
        if not {rank, self.rank} & self._has_left:
            self._note(rank, f"{self._name(rank)} {how}", False)

    def _act(self, rank: int, said: Mapping[str, Any]) -> None:
        if "left" in said:
            self._has_left.add(rank)
        elif "failed" in said:
            self._has_left.add(rank)
            self._note(int(said["rank"]), str(said["failed"]), bool(said["is_input_error"]))
        elif "values" in said:
            with self._changed:
                self.hosts = dict(enumerate(said["hosts"]))
                self._answers[said["topic"]] = said["values"]
                self._changed.notify_all()
        else:
            self._take(rank, said["topic"], said["value"])

    def _take(self, rank: int, topic: str, value: Any) -> None:
        """Keep a value; with the last one, answer to all. The first process alone."""
        with self._changed:
            values = self._values.setdefault(topic, {})
            values[rank] = value
            if len(values) < self.world_size:
                return
            ranks = range(self.world_size)
            self._answers[topic] = [values[one] for one in ranks]
            answer = {"topic": topic, "values": self._answers[topic], "hosts": [self.hosts[one] for one in ranks]}
            self._changed.notify_all()
        self._send_all(answer)

    def _note(self, rank: int, failure: str, is_input_error: bool) -> None:
        """Keep the first failure, pass it on, and end this process if it does not end by itself."""
        with self._changed:
            if self.failure is not None:
                return
            self.failure, self._failed, self._is_input_error = failure, rank, is_input_error
            self._changed.notify_all()
        if self.rank == 0:
            self._pass_on()
        time.sleep(self.seconds)
        if not self._is_over:
            if self.speaks:
                self.tell(failure)
            os._exit(1)

    def _pass_on(self) -> None:
        """Tell the others the failure of one of them, if there is one; they keep the first that they hear."""
        with self._changed:
            told = {"failed": self.failure, "rank": self._failed, "is_input_error": self._is_input_error}
        if told["failed"] is not None:
            self._send_all(told)

    def _send_all(self, message: Mapping[str, Any]) -> None:
        for rank in list(self._connections):
            self._send(rank, message)

    def _send(self, rank: int, message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # its reader notices, too
            self._connections[rank].send(message)

    def _name(self, rank: int) -> str:
        return f"process {rank} on {self.hosts[rank]}" if rank in self.hosts else f"process {rank}"

    def _missing(self) -> str:
        """The processes that have not come, for a message; empty if all have, and where that is not known."""
        if self.rank != 0:
            return ""
        ranks = [rank for rank in range(self.world_size) if rank not in self.hosts]
        others = f" and {counted(len(ranks) - 1, 'other')}" if len(ranks) > 1 else ""
        return f"process {ranks[0]}{others}" if ranks else ""


def _print_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
