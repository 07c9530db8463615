"""Sums exp(score / T) over all spans of all windows of each example, at several temperatures T.

The tokens of a window are cut into blocks as wide as the longest span. A span begins in one block and ends there or in
the next one. So the ends for a start are the rest of its block and the beginning of the next: two running sums, which
only add, so that nothing cancels. Their time does not depend on the longest span.

exp(x / T) is the square of exp(x / 2T). Of temperatures that are each half of another, such as every fourth of
`calibration.TEMPERATURES`, only the highest takes exponentials; rounding then costs 2^n * 1e-16 after n squares.

Each sum is taken in the order of the tokens. So it does not depend, to the last digit, on what else is decoded with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s, Ints, begins_run

_FEW_COLUMNS = 100  # of a matrix: NumPy then adds its rows faster than a loop does
_NATS = 600  # exp(-600 - 100) is not 0 yet


class SpanSums:
    """The sums for N examples.

    Args:
        start, end: [tokens] logits of all windows, concatenated; -inf where no span starts or ends.
        row_best: [tokens] the best score by start token.
        example, length: [W] of the windows; see `spans.WindowLogits`.
        width: the longest span, in tokens.
    """

    def __init__(
        self, start: Float64s, end: Float64s, row_best: Float64s, example: Ints, length: Ints, width: int
    ) -> None:
        self._start, self._end, self._length, self._width = start, end, length, width
        self._example, self._examples = np.repeat(example, length), int(example[-1]) + 1
        top_start, top_end, self._best = (self._highest(values) for values in (start, end, row_best))
        self._top = _finite(top_start) + _finite(top_end)
        blocks = -(-length // width)  # [W] of each window
        padding = blocks * width - length
        self._place = np.arange(len(start)) + np.repeat(np.cumsum(padding) - padding, length)
        self._block_example = np.repeat(example, blocks)
        self._goes_on = ~begins_run(np.repeat(np.arange(len(blocks)), blocks))[1:]  # into the next block
        self._below = [
            self._in_blocks(values - _finite(top)[self._example])
            for values, top in ((start, top_start), (end, top_end))
        ]

    def _highest(self, values: Float64s) -> Float64s:
        """[N] of each example; -inf without tokens."""
        if self._examples == 1:
            return np.array([values.max(initial=-np.inf)])
        highest = np.full(self._examples, -np.inf)
        np.maximum.at(highest, self._example, values)
        return highest

    def _in_blocks(self, values: Float64s) -> Float64s:
        """[width, blocks + 1] of [tokens]; -inf where there is no token, as in the last block."""
        matrix = np.full((len(self._block_example) + 1, self._width), -np.inf)
        matrix.reshape(-1)[self._place] = values
        return np.ascontiguousarray(matrix.T)

    def logs(self, temperatures: Sequence[float]) -> Float64s:
        """[K, N] logarithms of the sums at K temperatures; -inf for an example without a span."""
        found = np.empty((len(temperatures), self._examples))
        for chain in halves(temperatures):
            start, end = (np.exp(values / temperatures[chain[0]]) for values in self._below)
            for number in chain:
                found[number] = self._logs(start, end, temperatures[number])
                for values in (start, end):
                    np.multiply(values, values, out=values)
        return found

    def _logs(self, start: Float64s, end: Float64s, temperature: float) -> Float64s:
        """[N] from exp((logit - the example's highest) / temperature), [width, blocks + 1] each."""
        same = (start * _accumulated(end[::-1])[::-1]).sum(0)[:-1]
        next_one = (start[1:, :-1] * _accumulated(end[:-1])[:, 1:]).sum(0)
        same[:-1] += np.where(self._goes_on, next_one[:-1], 0.0)
        logs = _log(np.bincount(self._block_example, same, minlength=self._examples)) + self._top / temperature
        # Where the best start and the best end score hundreds of nats above every valid pair, all pairs underflow.
        apart = (self._best > -np.inf) & (self._best < self._top - _NATS * temperature)
        return np.where(apart, self._sum_of_logs(temperature), logs) if apart.any() else logs

    def _sum_of_logs(self, temperature: float) -> Float64s:
        """[N] the same without underflow, much slower."""
        index = np.arange(len(self._end)) + np.repeat(np.arange(len(self._length)) * (self._width - 1), self._length)
        ends = np.full(len(self._end) + len(self._length) * (self._width - 1), -np.inf)
        ends[index] = self._end / temperature
        rows = self._start / temperature + _sliding_log_sum(ends, self._width)[index]
        top = _finite(self._highest(rows))
        return _log(np.bincount(self._example, np.exp(rows - top[self._example]), minlength=self._examples)) + top


def halves(temperatures: Sequence[float]) -> Iterator[list[int]]:
    """Indices of temperatures in groups, in which each is half of the one before; every index is in one of them."""
    left = sorted(range(len(temperatures)), key=lambda number: -temperatures[number])
    while left:
        chain: list[int] = []
        for number in left:
            if not chain or abs(2 * temperatures[number] / temperatures[chain[-1]] - 1) < 1e-14:
                chain.append(number)
        left = [number for number in left if number not in chain]
        yield chain


def _accumulated(values: Float64s) -> Float64s:
    """Running sums over the rows of a matrix."""
    if values.shape[1] < _FEW_COLUMNS:
        return np.add.accumulate(values, axis=0)
    out = values.copy()
    for row in range(1, len(out)):
        out[row] += out[row - 1]
    return out


def _sliding_log_sum(values: Float64s, width: int) -> Float64s:
    """``out[i] = log(sum(exp(values[i : i + width])))``, computed in log2(width) passes."""
    out = np.full_like(values, -np.inf)
    power = values.copy()  # log sums of 1, 2, 4, ... values
    size, done = 1, 0
    while size <= width:
        if width & size:
            rest = max(0, len(out) - done)
            out[:rest] = np.logaddexp(out[:rest], power[done:])
            done += size
        grown = power.copy()
        rest = max(0, len(power) - size)
        grown[:rest] = np.logaddexp(power[:rest], power[size:])
        power, size = grown, size * 2
    return out


def _finite(values: Float64s) -> Float64s:
    return np.where(np.isfinite(values), values, 0.0)


def _log(sums: NDArray[Any]) -> Float64s:
    """The logarithm; -inf for 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(sums))
