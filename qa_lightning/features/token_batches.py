"""Batches of as many windows as a number of tokens allows, padding included, in place of a fixed number of windows.

A GPU is then as full with short windows as with long ones, and memory is that of the largest batch from the first on.
Windows are sorted by length over the whole dataset, those of one padded length in another order each epoch. So all
epochs have the same batch sizes, and a scheduler knows how many steps there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Ints
from qa_lightning.features.batching import TrainingSampler


class TokenSampler(TrainingSampler):
    """Yields batches, lists of features, with every feature once per epoch; the order is that of ``seed`` and epoch.

    P is the number of parts of an optimizer step: processes times accumulated batches. A step takes a group of windows
    of similar length, of P * ``tokens`` tokens at most, and each part every P-th of them. Groups depend on that product
    alone, as long as P is 1, 2, 4 or 8 and P * ``tokens`` is at least 32 times the longest window. So two processes
    with N tokens, and one with 2 * N, take the same steps.

    Args:
        lengths: [F] tokens of each feature.
        tokens: tokens of a batch and process, at most, padding included; at least the longest window's.
        multiple: lengths are padded to a multiple of this many tokens ...
        max_length: ... and to this many at most.
        num_replicas, rank, seed, accumulated: as for `TrainingSampler`.
    """

    def __init__(
        self,
        lengths: NDArray[np.integer[Any]],
        tokens: int,
        multiple: int = 1,
        max_length: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        accumulated: int = 1,
    ) -> None:
        super().__init__(lengths, 1, "length", num_replicas, rank, seed, accumulated)
        padded = -(-self.lengths.astype(np.int64) // multiple) * multiple
        self._padded = padded if max_length is None else np.minimum(padded, max_length)
        self._parts = num_replicas * accumulated
        sizes = _group_sizes(np.sort(self._padded)[::-1], tokens, self._parts)
        self._sizes = np.array(sizes, np.int64)
        self._begins = self._sizes.cumsum() - self._sizes
        self._drawn: tuple[int, NDArray[np.int64]] | None = None  # epoch, and the order of its groups

    def __len__(self) -> int:
        return len(self._sizes) * self.accumulated

    def __iter__(self) -> Iterator[Any]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self._padded))
        order = order[np.argsort(-self._padded[order], kind="stable")]
        groups = self._groups()
        epoch, done = self.start
        for number in range(done if epoch == self.epoch else 0, len(self)):
            step, batch = divmod(number, self.accumulated)
            group = groups[step]
            begin, size = int(self._begins[group]), int(self._sizes[group])
            part = batch * self.num_replicas + self.rank
            own = order[begin : begin + size][part :: self._parts]
            yield (own if len(own) else order[begin : begin + 1]).tolist()

    def weight(self, batch: int, batches: int | None = None) -> float:
        """See `TrainingSampler.weight`."""
        size, taken = self._size_of(batch), self._parts
        if batches is not None:
            taken = min(taken, (batches - batch // self.accumulated * self.accumulated) * self.num_replicas)
        whole, rest = divmod(size, self._parts)  # the features are dealt out to the parts in turn
        return self._parts / (whole * taken + min(rest, taken))

    def repeats(self, batch: int) -> int:
        """See `TrainingSampler.repeats`."""
        part = batch % self.accumulated * self.num_replicas + self.rank
        return int(part >= self._size_of(batch))

    def _size_of(self, batch: int) -> int:
        """The number of features in the step of a batch of this epoch."""
        return int(self._sizes[self._groups()[batch // self.accumulated]])

    def _groups(self) -> NDArray[np.int64]:
        """The groups in the order of this epoch."""
        if self._drawn is None or self._drawn[0] != self.epoch:
            self._drawn = (self.epoch, np.random.default_rng([self.seed, self.epoch, 1]).permutation(len(self._sizes)))
        return self._drawn[1]


def _group_sizes(longest_first: Ints, tokens: int, parts: int) -> list[int]:
    """How many windows each step takes, in order of length; see `TokenSampler`."""
    sizes, begin = [], 0
    while begin < len(longest_first):
        length = int(longest_first[begin])
        fitting = parts * tokens // length
        unit = 8 if fitting >= 32 else 4 if fitting >= 16 else 2 if fitting >= 8 else 1
        size = min(fitting // unit * unit, parts * (tokens // length))  # the second where parts do not divide it
        sizes.append(min(size, len(longest_first) - begin))
        begin += size
    return sizes
