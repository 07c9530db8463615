"""Processes that do jobs, here or elsewhere, and give the results back in order.

A pool of `concurrent.futures` would not do: it keeps the writing end of its processes' pipe open. If a process is
killed while it sends more than the pipe holds (64 KiB on Linux), the pool waits for the rest for ever.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from queue import SimpleQueue
from typing import Any, Literal, Protocol, TypeVar
from weakref import WeakSet

from qa_lightning.errors import InputError

MOST_PROCESSES = 1024  # that a flag may ask for on one machine
Key = TypeVar("Key")
Job = TypeVar("Job")
Reply = TypeVar("Reply")
_STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # go to a whole group of processes; the first one decides
_starting = threading.Lock()
_ours: WeakSet[Connection] = WeakSet()  # our ends of the connections to workers


class DoesJobs(Protocol):
    """What does jobs, one at a time, wherever it is."""

    def ask(self, job: Any) -> Any:
        """Do a job, and return its result."""


class Elsewhere(DoesJobs, Protocol):
    """What does jobs on another machine."""

    def stop(self) -> None:
        """Do none any more; who waits for an answer gets an error."""


@dataclass(frozen=True)
class Packed:
    """Has jobs done elsewhere, each packed with what is needed there.

    Args:
        other: does them.
        pack: makes what is sent for a job, in the thread that then waits for the answer.
    """

    other: Elsewhere
    pack: Callable[[Any], Any]

    def ask(self, job: Any) -> Any:
        """Do a job, and return its result."""
        return self.other.ask(self.pack(job))

    def stop(self) -> None:
        """See `Elsewhere`."""
        self.other.stop()


class LostWorkerError(InputError):
    """A process that does jobs has ended; nothing is known to be wrong with its input."""


class Worker:
    """A process that does jobs; it is killed when the ``with`` statement ends, or this process.

    Args:
        what: the process, for the message that it has ended.
        main: its main function, which calls `do_jobs`: gets the connection, then ``given``.
        given: what the function needs; if ``method`` is "spawn", it must be possible to pickle it.
        method: "fork" starts at once, with all that is in memory, and only on Linux; "spawn" starts a new Python.
    """

    def __init__(
        self, what: str, main: Callable[..., None], *given: Any, method: Literal["spawn", "fork"] = "spawn"
    ) -> None:
        self._what = what
        context: Any = multiprocessing.get_context(method)
        with _starting, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: what runs there needs none
            self._connection, theirs = context.Pipe()
            _ours.add(self._connection)
            self._process = context.Process(target=main, args=(theirs, *given), daemon=True)
            self._process.start()
            theirs.close()  # so that the connection closes when the process ends
        # At the end of Python, multiprocessing would wait for ever for a process that ignores its SIGTERM.
        self._kill = Finalize(self, self._process.kill, exitpriority=0)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process; a thread that waits for its answer gets an error."""
        self._kill()
        self._process.join()

    def ask(self, job: Any) -> Any:
        """Send a job, and return its result."""
        with suppress(OSError):  # the process has died: `receive` raises the error
            self._connection.send(job)
        return self.receive()

    def receive(self) -> Any:
        """Wait for the next message of the process.

        Raises:
            InputError: the process sent one.
            LostWorkerError: it has died.
        """
        try:
            reply = self._connection.recv()
        except (EOFError, OSError):
            raise LostWorkerError(self._cause_of_death()) from None
        if isinstance(reply, InputError):
            raise reply
        return reply

    def _cause_of_death(self) -> str:
        self._process.join(5)
        status = self._process.exitcode or 0
        how = f"with status {status}; its own messages are above"
        if status < 0:
            how = f"of {signal.Signals(-status).name}"
            how += "; the system ends processes so when memory runs out" if status == -signal.SIGKILL else ""
        return f"{self._what} ended {how}"


@contextmanager
def working(
    starts: Sequence[Callable[[], Worker]],
    others: Sequence[Elsewhere] = (),
) -> Iterator[Callable[[Iterable[tuple[Key, Job]]], Iterator[tuple[Key, Any]]]]:
    """Yield a function that has jobs done, each with a key, and yields keys and results in the order of the jobs.

    At most two jobs per process are in flight. All processes that are started end with the ``with`` statement.

    Args:
        starts: each starts a process.
        others: do jobs, too; an error stops them, and nothing else does.

    Raises:
        InputError: see `Worker.receive`.
    """
    idle: SimpleQueue[DoesJobs] = SimpleQueue()
    count = len(starts) + len(others)
    with ExitStack() as running:
        waiters = ThreadPoolExecutor(count)  # each thread waits for one process
        running.callback(waiters.shutdown, cancel_futures=True)  # runs after the processes have ended
        for worker in [running.enter_context(start()) for start in starts]:
            worker.receive()  # it is ready
            idle.put(worker)
        for other in others:
            idle.put(other)
        try:
            yield partial(_in_order, lambda job: waiters.submit(_ask, idle, job), 2 * count)
        except BaseException:
            for other in others:
                other.stop()
            raise


def _ask(idle: SimpleQueue[DoesJobs], job: Any) -> Any:
    worker = idle.get()
    try:
        return worker.ask(job)
    finally:
        idle.put(worker)


def _in_order(
    ask: Callable[[Job], Future[Reply]], max_in_flight: int, jobs: Iterable[tuple[Key, Job]]
) -> Iterator[tuple[Key, Reply]]:
    in_flight: deque[tuple[Key, Future[Reply]]] = deque()
    for key, job in jobs:
        in_flight.append((key, ask(job)))
        if len(in_flight) == max_in_flight:
            first, reply = in_flight.popleft()
            yield first, reply.result()
    for first, reply in in_flight:
        yield first, reply.result()


def do_jobs(connection: Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """Do jobs until the connection closes; what a process calls in its main function.

    Args:
        connection: the jobs come from it, and the results, or the first `InputError`, go to it.
        make: makes the function that does a job.
    """
    for name in _STOPS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with suppress(EOFError, ConnectionError):
        try:
            do = make()
            connection.send(b"")
            while True:
                connection.send(do(connection.recv()))
        except InputError as error:
            connection.send(error)


@contextmanager
def forked(
    do: Callable[[Job], Reply], count: int, what: str, others: Sequence[Elsewhere] = ()
) -> Iterator[Callable[[Iterable[tuple[Key, Job]]], Iterator[tuple[Key, Reply]]]]:
    """As `working`, with ``count`` forks of this process that do jobs by ``do``; one does them here, without a fork.

    Args:
        do: does a job; it may use all that is in memory now.
        count: number of processes; one where this process cannot fork.
        what: one of them, for the message that it has ended.
        others: do jobs, too, unless this process cannot fork; with them, one process is a fork as well.
    """
    if not can_fork() or (count <= 1 and not others):
        yield lambda jobs: ((key, do(job)) for key, job in jobs)
        return
    with working([partial(fork, do, what)] * count, others) as work:
        yield work


def fork(do: Callable[[Any], Any], what: str) -> Worker:
    """A fork of this process that does jobs by ``do``, which may use all that is in memory now; Linux alone."""
    return Worker(what, _serve_fork, do, method="fork")


def _serve_fork(connection: Connection, do: Callable[[Any], Any]) -> None:
    for inherited in list(_ours):
        inherited.close()  # so that all connections close when the process that has forked is killed
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the tokenizer's threads were not forked
    gc.freeze()  # what was there before need not be looked through, which would copy its pages
    do_jobs(connection, lambda: do)


def usable_cores() -> int:
    """The cores that `forked` may use: all that the system gives this process; 1 where it cannot fork."""
    return len(os.sched_getaffinity(0)) if can_fork() else 1


def can_fork() -> bool:
    """Whether this is Linux, and a process that may start others."""
    return hasattr(os, "sched_getaffinity") and not multiprocessing.current_process().daemon
