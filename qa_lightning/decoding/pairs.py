"""The scores of all pairs of context tokens in the windows of some examples: of one model, or of an ensemble.

A pair is a token that a span begins with and its reach: the span ends so many tokens later, 0 for a single token.

The score of an ensemble is the mean temperature of its models times log p. Here, p is the mean of the models'
probabilities of the pair; each model is normalised on its own, over all pairs of all windows of the example and "no
answer", at its own temperature and without a threshold. So differences of scores are in the unit of the models' logits,
and if all models are one and the same, they are those of its logits. At the mean temperature, and without a threshold,
the probabilities of the scores are the means themselves.

The score of one model is a start logit plus an end logit; the mean of several models' probabilities is no such sum. But
it is at most the highest of these probabilities, and at least that divided by their number. So sums bound the score
from both sides, and only the pairs that can be among the best are computed one by one. The sum over all pairs follows
from those of the models at the mean temperature; at other temperatures, each pair is computed: 2 ms for a window of 330
tokens, three models and answers of up to 30 tokens, against 0.2 ms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s, Ints
from qa_lightning.decoding.sums import SpanSums, halves

_BLOCK = 1 << 20  # pairs that are computed together: 8 MB for each model
_ROUNDING = 1e-6  # far above that of any score


class Pairs(Protocol):
    """The scores of the pairs.

    Attributes:
        row_best: [tokens] no pair that begins with the token scores higher, and one of them at most ``slack`` lower;
            -inf where no span begins.
        slack: see ``row_best``.
        null: [N] score of "no answer".
    """

    row_best: Float64s
    slack: float
    null: Float64s

    def of(self, token: Ints) -> Float64s:
        """[n, width] scores of the pairs that begin with n tokens; -inf where no span ends."""

    def log_sums(self, temperatures: Sequence[float]) -> Float64s:
        """[K, N] log of the sum of exp(score / T) over all pairs, at K temperatures; -inf without a pair."""


class ModelPairs:
    """The `Pairs` of one model, whose scores are start + end logit.

    Args:
        start, end: [tokens] logits of all windows, concatenated; -inf where no span starts or ends.
        null: [W] start + end logit of the windows' "no answer" token.
        example: [W] index of the example that a window belongs to; non-decreasing from 0, each at least once.
        length: [W] number of context tokens.
        width: the longest span, in tokens.
    """

    slack = 0.0

    def __init__(self, start: Float64s, end: Float64s, null: Float64s, example: Ints, length: Ints, width: int) -> None:
        # `width - 1` values of -inf follow the end logits of each window: no span crosses into the next one.
        index = np.arange(len(end)) + np.repeat(np.arange(len(length)) * (width - 1), length)
        ends = np.full(len(end) + len(length) * (width - 1), -np.inf)
        ends[index] = end
        self._start, self._ends, self._index = start, ends, index
        self.width = width
        self.row_best = start + _sliding_max(ends, width)[index]
        self.null = np.full(int(example[-1]) + 1, np.inf)
        np.minimum.at(self.null, example, null)
        self._sums = SpanSums(start, end, self.row_best, example, length, width)

    def of(self, token: Ints) -> Float64s:
        """See `Pairs`."""
        ends = self._ends[self._index[token][:, None] + np.arange(self.width)]
        return np.asarray(self._start[token][:, None] + ends)

    def log_sums(self, temperatures: Sequence[float]) -> Float64s:
        """See `Pairs`."""
        return self._sums.logs(temperatures)


class MeanPairs:
    """The `Pairs` of an ensemble; see the module.

    Args:
        models: the pairs of each model, all of the same windows.
        temperatures: that of each model.
        example: [tokens] index of each token's example.
    """

    def __init__(self, models: Sequence[ModelPairs], temperatures: Sequence[float], example: Ints) -> None:
        self._models, self._temperatures, self._example = models, temperatures, example
        self._mean = mean_of(temperatures)
        null = [model.null / heat for model, heat in zip(models, temperatures, strict=True)]
        spans = [model.log_sums((heat,))[0] for model, heat in zip(models, temperatures, strict=True)]
        totals = [np.logaddexp(*parts) for parts in zip(spans, null, strict=True)]
        self._totals = [np.where(total > -np.inf, total, 0.0) for total in totals]  # [N] of each model
        self.null = self._mean * self._log_mean_of(null)
        self._log_spans = self._log_mean_of(spans)
        own = zip(models, temperatures, self._totals, strict=True)
        highest = np.max([model.row_best / heat - total[example] for model, heat, total in own], axis=0)
        self.row_best: Float64s = self._mean * highest
        self.slack = self._mean * math.log(len(models)) + _ROUNDING

    def _log_mean_of(self, logs: Sequence[Float64s]) -> Float64s:
        """[N] log of the mean probability, given each model's logarithm before it is normalised."""
        return _log_mean([own - total for own, total in zip(logs, self._totals, strict=True)])

    def of(self, token: Ints) -> Float64s:
        """See `Pairs`."""
        own = zip(self._models, self._temperatures, self._totals, strict=True)
        example = self._example[token]
        return self._mean * _log_mean([model.of(token) / heat - total[example][:, None] for model, heat, total in own])

    def log_sums(self, temperatures: Sequence[float]) -> Float64s:
        """See `Pairs`."""
        found = np.tile(self._log_spans, (len(temperatures), 1))
        others = [number for number, each in enumerate(temperatures) if each != self._mean]
        if others:
            found[others] = self._log_sums([temperatures[number] for number in others])
        return found

    def _log_sums(self, temperatures: Sequence[float]) -> Float64s:
        """The same from each pair. All is added in the order of tokens, then reach: no split changes a digit."""
        sums = np.zeros((len(temperatures), len(self.null)))
        for token, scores in self._in_blocks(np.flatnonzero(self.row_best > -np.inf)):
            example = self._example[token]
            below = np.ascontiguousarray((scores - self._best[example][:, None]).T)  # [width, n]
            for chain in halves(temperatures):
                weights = np.exp(below / temperatures[chain[0]])
                for number in chain:
                    total = np.zeros(len(token))
                    for row in weights:
                        total += row
                    np.add.at(sums[number], example, total)
                    np.multiply(weights, weights, out=weights)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(sums) + self._best / np.reshape(temperatures, (-1, 1)))

    @cached_property
    def _best(self) -> Float64s:
        """[N] score of the best pair; 0 without one."""
        highest = np.full(len(self.null), -np.inf)
        np.maximum.at(highest, self._example, self.row_best)
        token = np.flatnonzero((self.row_best >= highest[self._example] - self.slack) & (self.row_best > -np.inf))
        best = np.full(len(self.null), -np.inf)
        for part, scores in self._in_blocks(token):
            np.maximum.at(best, self._example[part], scores.max(1))
        return np.where(best > -np.inf, best, 0.0)

    def _in_blocks(self, token: Ints) -> Iterator[tuple[Ints, Float64s]]:
        """The tokens in parts that bound the memory, and the scores of the pairs that begin with them."""
        together = max(1, _BLOCK // self._models[0].width)
        for first in range(0, len(token), together):
            part = token[first : first + together]
            yield part, self.of(part)


def mean_of(values: Sequence[float]) -> float:
    """The mean, which does not depend on the order."""
    return math.fsum(values) / len(values)


def _log_mean(logs: Sequence[Float64s]) -> Float64s:
    """The log of the mean of exponentials, element by element."""
    own = np.stack(logs)
    top = own.max(0)
    top = np.where(top > -np.inf, top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(top + np.log(np.exp(own - top).sum(0) / len(logs)))


def _sliding_max(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """``out[i] = max(values[i : i + width])``, computed in log2(width) passes."""
    out = values.copy()
    covered = 1
    while covered < width:
        shift = min(covered, width - covered)
        out[:-shift] = np.maximum(out[:-shift], out[shift:])
        covered += shift
    return out
