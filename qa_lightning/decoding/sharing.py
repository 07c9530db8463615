"""Divides what several processes decoded between them, so that each example is one process's and counts once.

Each process decodes the logits that it computed. Sent are: one bit for each feature and example, from each process to
all; the logits of examples whose windows several processes have; and to the first process alone, in pieces, what it
needs of all examples. So the memory of the others does not grow with what they have not computed themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from qa_lightning.arrays import Ints
from qa_lightning.decoding.decoder import Decoded, Decoder, in_order
from qa_lightning.decoding.spans import Spans

T = TypeVar("T")
_PIECE = 1 << 16  # rows of each process that are sent at a time: some 10 MB


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them. Every process must call the same methods in the same order.

    Args:
        rank: index of this process.
        count: number of processes.
        device: what is sent between them lies there.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reports."""
        return self.rank == 0

    def all(self, part: T) -> list[T]:
        """``part`` of each process, by rank, on all processes; for what is small."""
        if self.count == 1:
            return [part]
        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, part)
        return parts

    def in_turn(self, part: T) -> Iterator[T]:
        """``part`` of each process, by rank, one after the other: one of them is in memory at a time."""
        for rank in range(self.count):
            yield self.from_one(part, rank)

    def from_one(self, part: T, rank: int = 0) -> T:
        """``part`` of one process, on all of them."""
        if self.count == 1:
            return part
        parts: list[Any] = [part if rank == self.rank else None]
        torch.distributed.broadcast_object_list(parts, rank, device=self.device)
        found: T = parts[0]
        return found

    def at_first(self, rows: int, piece: Callable[[slice], T]) -> list[T]:
        """The rows of all processes on the first one, in pieces; on the others an empty list.

        Args:
            rows: number of this process's rows.
            piece: gives some of them.
        """
        if self.count == 1:
            return [piece(slice(None))]
        found: list[T] = []
        for begin in range(0, max(self.all(rows)), _PIECE):
            parts: list[Any] | None = [None] * self.count if self.is_first else None
            torch.distributed.gather_object(piece(slice(begin, begin + _PIECE)), parts, 0)
            found += parts or []
        return found

    def seen(self, mine: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Of N things, which this process has: those that a process before it has, and those that any process has."""
        earlier, anywhere = np.zeros_like(mine), mine.copy()
        for rank in range(self.count if self.count > 1 else 0):
            bits = torch.from_numpy(np.packbits(mine)).to(self.device)
            torch.distributed.broadcast(bits, rank)
            theirs = np.unpackbits(bits.cpu().numpy(), count=len(mine)).astype(bool)
            anywhere |= theirs
            if rank < self.rank:
                earlier |= theirs
        return earlier, anywhere


def own_share(decoder: Decoder, decoded: Decoded, processes: Processes) -> Decoded:
    """The examples and features that are this process's alone: those that several have are the first one's.

    Examples of which several processes have windows are decoded here, each by one process.

    Args:
        decoder: with which this process has decoded.
        decoded: all of it.
        processes: all of them.

    Returns:
        What counts as this process's; ``broken`` is that of all processes.
    """
    if processes.count == 1:
        return decoded
    store = decoder.store.example
    earlier, _ = processes.seen(_marked(decoded.feature, len(store)))
    before, whole = processes.seen(_marked(decoded.index, int(store[-1]) + 1))
    for rest in processes.in_turn(decoded.rest):
        example = store[rest.feature]
        decoder.add_incomplete(rest.without(whole[example] | (example % processes.count != processes.rank)))
    found, first = decoder.take(), ~earlier[decoded.feature]
    rows = np.flatnonzero(~before[decoded.index])
    index, spans = in_order([decoded.index[rows], found.index], [decoded.spans.take(rows), found.spans])
    broken = np.concatenate(processes.all(decoded.broken))
    return Decoded(index, spans, decoded.feature[first], decoded.loss[first], found.rest, broken)


def all_at_first(index: NDArray[np.int64], spans: Spans, processes: Processes) -> tuple[NDArray[np.int64], Spans]:
    """The examples of all processes and their spans, in dataset order, on the first one; on the others their own."""
    if processes.count == 1:
        return index, spans
    rows = np.arange(len(index))
    parts = processes.at_first(len(index), lambda part: (index[part], spans.take(rows[part])))
    if not parts:
        return index, spans
    return in_order([part[0] for part in parts], [part[1] for part in parts])


def _marked(indices: Ints, count: int) -> NDArray[np.bool_]:
    """[count] whether each index is among ``indices``."""
    marked = np.zeros(count, bool)
    marked[indices] = True
    return marked
