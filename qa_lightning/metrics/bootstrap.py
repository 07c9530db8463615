"""Confidence intervals of means by the bootstrap: units are drawn with replacement, and the mean is taken each time.

Questions about one article resemble each other, so whole articles are drawn, not questions: intervals over questions
would be too narrow. A mean whose questions come from fewer than `MIN_ARTICLES` articles is resampled by question, as so
few articles say nothing of how articles differ; `Interval.unit` says which was done. More than `_MAX_UNITS` units are
joined to as many groups, which bounds time and memory and leaves the width as it is.

Sources: Efron and Tibshirani, 1993 (percentile intervals); Field and Welsh, 2007 (clusters); Koehn, 2004 (paired).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qa_lightning.arrays import Float64s

MIN_ARTICLES = 5
SAMPLES = 1000
LEVEL = 0.95  # of the intervals
_MAX_UNITS = 500
_WEIGHTS = 1 << 21  # of questions in samples, at once: 16 MB


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval at `LEVEL`, in the units of the values.

    Attributes:
        mean: over all questions; NaN without any.
        low, high: ends of the interval; NaN for fewer than two questions.
        count: number of questions.
        unit: what was drawn, ``articles`` or ``questions``.
        units: how many of them there are.
    """

    mean: float
    low: float
    high: float
    count: int
    unit: str
    units: int

    @property
    def is_known(self) -> bool:
        """Whether there are enough questions for an interval."""
        return self.low == self.low  # not NaN


def bootstrap(values: ArrayLike, articles: Sequence[str] | NDArray[np.object_], seed: int = 0) -> list[Interval]:
    """Intervals of the means of several columns; each sample draws the same units for all of them.

    Args:
        values: [N, K] a row for each question.
        articles: [N] the article of each question.
        seed: of the draws.

    Returns:
        One interval for each of the K columns.
    """
    table = np.asarray(values, np.float64)
    count, columns = table.shape
    number, unit, units = _units(articles, count)
    if count == 0:
        return [Interval(np.nan, np.nan, np.nan, 0, unit, 0)] * columns
    means = _resampled(table, number, seed)
    low, high = _ends(means) if count > 1 else np.full((2, columns), np.nan)
    return [
        Interval(float(mean), float(low[column]), float(high[column]), count, unit, units)
        for column, mean in enumerate(table.mean(axis=0))
    ]


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same questions.

    Attributes:
        gain: interval of the mean difference, first minus second.
        better: share of the samples, 0-1, in which the first is better; a tie counts as a half.
    """

    gain: Interval
    better: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.gain.low > 0 or self.gain.high < 0


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, articles: Sequence[str] | NDArray[np.object_], seed: int = 0
) -> Difference:
    """Compare two models on the same N questions; each sample draws the same units for both.

    Args:
        first, second: [N] scores of each question.
        articles: [N] the article of each question.
        seed: of the draws.

    Raises:
        ValueError: arrays of different lengths.
    """
    ours, theirs = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"first has the shape {ours.shape}, second {theirs.shape}; both must score the same questions")
    difference = (ours - theirs)[:, None]
    (gain,) = bootstrap(difference, articles, seed)
    if not len(ours):
        return Difference(gain, 0.5)
    means = _resampled(difference, _units(articles, len(ours))[0], seed)[:, 0]
    return Difference(gain, float((means > 0).mean() + (means == 0).mean() / 2))


def _units(articles: Sequence[str] | NDArray[np.object_], count: int) -> tuple[NDArray[np.int64], str, int]:
    """[N] the unit of each question, what units are, and how many there are."""
    names: dict[str, int] = {}
    number = np.array([names.setdefault(name, len(names)) for name in articles], np.int64)
    if len(names) < MIN_ARTICLES:
        return np.arange(count), "questions", count
    return number, "articles", len(names)


def _resampled(table: Float64s, number: NDArray[np.int64], seed: int) -> Float64s:
    """[SAMPLES, K] means of each sample of units: the sum over its questions divided by their number."""
    group, drawn = _draws(number, seed)
    sums = np.stack([np.bincount(group, column, drawn.shape[1]) for column in table.T], axis=1)
    sizes = np.bincount(group, minlength=drawn.shape[1])
    return np.asarray((drawn @ sums) / (drawn @ sizes)[:, None])


def _draws(number: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[N] the group of units of each question; [SAMPLES, U] how often each sample draws each group."""
    group = number % _MAX_UNITS
    units = int(group.max()) + 1
    return group, np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), SAMPLES)


def bootstrap_statistics(
    statistics: Callable[[Float64s], Float64s], articles: Sequence[str] | NDArray[np.object_], seed: int = 0
) -> list[Interval]:
    """Intervals of figures that are no means, such as an area under a curve; samples are those of `bootstrap`.

    A sum of gaps, such as a calibration error, is higher in most samples than over the questions, as drawing adds gaps
    by chance. An interval that would not hold the value is extended to it.

    Args:
        statistics: gives the K figures, [S, K], of questions that count with weights, [S, N], whole numbers. Samples
            in which a figure is NaN do not count for its interval.
        articles: [N] the article of each question, N at least 1.
        seed: of the draws.
    """
    count = len(articles)
    number, unit, units = _units(articles, count)
    whole = statistics(np.ones((1, count)))[0]
    group, drawn = _draws(number, seed)
    at_once = max(1, _WEIGHTS // count)  # samples
    parts = [
        statistics(drawn[begin : begin + at_once, group].astype(np.float64)) for begin in range(0, SAMPLES, at_once)
    ]
    found = []
    for value, drawn_values in zip(whole.tolist(), np.concatenate(parts).T, strict=True):
        known = np.asarray(drawn_values[~np.isnan(drawn_values)], np.float64)
        low, high = _ends(known) if count > 1 and len(known) else (np.nan, np.nan)
        found.append(Interval(value, min(float(low), value), max(float(high), value), count, unit, units))
    return found


def _ends(means: Float64s) -> tuple[Float64s, Float64s]:
    outside = (1 - LEVEL) / 2
    low, high = np.quantile(means, [outside, 1 - outside], axis=0)
    return low, high
