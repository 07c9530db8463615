"""Threads in place of processes, which exchange values as torch.distributed does."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from qa_lightning.decoding import sharing
from qa_lightning.decoding.sharing import Processes


class Wires:
    """Stands for ``torch.distributed`` in each of ``count`` threads; `as_processes` starts them."""

    def __init__(self, count: int) -> None:
        self._meeting, self._board, self._own = threading.Barrier(count, timeout=20), [b""] * count, threading.local()

    def _exchange(self, value: Any) -> list[Any]:
        self._board[self._own.rank] = pickle.dumps(value)
        self._meeting.wait()
        found = list(map(pickle.loads, self._board))
        self._meeting.wait()
        return found

    def all_gather_object(self, parts: list[Any], part: Any) -> None:
        parts[:] = self._exchange(part)

    def broadcast_object_list(self, parts: list[Any], rank: int, device: Any) -> None:
        parts[:] = self._exchange(parts)[rank]

    def gather_object(self, part: Any, parts: list[Any] | None, rank: int) -> None:
        assert (parts is not None) is (self._own.rank == rank)
        found = self._exchange(part)
        if parts is not None:
            parts[:] = found

    def broadcast(self, tensor: torch.Tensor, rank: int) -> None:
        tensor.copy_(self._exchange(tensor)[rank])


@contextmanager
def wired(count: int) -> Iterator[Wires]:
    """Within, the package's processes exchange values through the wires that this yields, three rows at a time."""
    wires = Wires(count)
    stand_in = SimpleNamespace(distributed=wires, from_numpy=torch.from_numpy, device=torch.device)
    with mock.patch.object(sharing, "torch", stand_in), mock.patch.object(sharing, "_PIECE", 3):
        yield wires


def as_processes(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """Do some work in each of ``count`` threads, as if each were a process; returns the results by rank."""
    with wired(count) as wires:

        def as_one(rank: int) -> Any:
            wires._own.rank = rank
            try:
                return work(Processes(rank, count))
            except BaseException:
                wires._meeting.abort()  # the others need not wait
                raise

        with ThreadPoolExecutor(count) as threads:
            return [one.result() for one in [threads.submit(as_one, rank) for rank in range(count)]]
