"""Measures of how far scores tell right answers from wrong ones, with intervals by the bootstrap over articles.

* expected calibration error (Guo et al., 2017): over bins of equal width, the mean distance of a bin's score from its
  share of right answers. It is low, too, for a model that gives every answer the same score.
* the same by chance: the error to be expected of as many answers if each score is the probability that the answer is
  right, by the normal approximation of their number in a bin. The fewer answers, the higher it is. An error near it
  is as good as can be seen with these answers.
* macro calibration error (Si et al., 2022): the mean of 1 - score over right answers and of score over wrong ones, each
  kind with half the weight. Scores that do not tell the two apart get 0.5 or more.
* Brier score: the mean of (score - right)^2.
* AUROC: the probability that a right answer scores higher than a wrong one; equal scores count half.
* coverage at a precision: the largest share of questions that can be answered, the surest first, at this precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qa_lightning.arrays import Float64s, begins_run
from qa_lightning.metrics.bootstrap import Interval, bootstrap_statistics
from qa_lightning.metrics.calibration import BINS, checked_columns

AT_PRECISIONS = (0.8, 0.9, 0.95)
MEASURES = (
    "expected_calibration_error",
    "expected_calibration_error_by_chance",
    "macro_calibration_error",
    "brier",
    "auroc",
    *(f"answered_at_{100 * each:.0f}_precision" for each in AT_PRECISIONS),
)


def measures(
    confidence: ArrayLike, correct: ArrayLike, articles: Sequence[str] | NDArray[np.object_], seed: int = 0
) -> Mapping[str, Interval]:
    """The `MEASURES` of N answers, at least one, by name, 0-1; NaN where answers are all right, or all wrong.

    Args:
        confidence: [N] scores, 0-1.
        correct: [N] 0 or 1.
        articles: [N] the article of each question.
        seed: of the bootstrap's draws.

    Raises:
        ValueError: see `checked_columns`.
    """
    sure, right = checked_columns({"confidence": confidence, "correct": correct}, ("confidence", "correct"))
    return dict(zip(MEASURES, bootstrap_statistics(_weighted(sure, right), articles, seed), strict=True))


def _weighted(sure: Float64s, right: Float64s) -> Callable[[Float64s], Float64s]:
    """The figures, [S, K], of answers that count with weights, [S, N]."""
    order = np.argsort(-sure, kind="stable")
    last = np.append(np.flatnonzero(begins_run(sure[order]))[1:], len(sure)) - 1  # rank of the last of each score
    which = np.searchsorted(np.linspace(0.0, 1.0, BINS + 1)[1:], sure, side="left")  # as `reliability` does
    gaps, variance = np.zeros((2, len(sure), BINS))
    gaps[np.arange(len(sure)), which] = right - sure
    variance[np.arange(len(sure)), which] = sure * (1 - sure)
    columns = np.column_stack([right, right * (1 - sure), (1 - right) * sure, (sure - right) ** 2])

    def figures(weights: Float64s) -> Float64s:
        total = weights.sum(axis=1)
        rights, of_right, of_wrong, squares = (weights @ columns).T
        answered = np.cumsum(weights[:, order], axis=1)[:, last]
        hits = np.cumsum((weights * right)[:, order], axis=1)[:, last]
        with np.errstate(invalid="ignore", divide="ignore"):
            macro = (of_right / rights + of_wrong / (total - rights)) / 2
            area = _area(hits, answered - hits) / (rights * (total - rights))
            precision = np.nan_to_num(hits / answered)
        error = np.abs(weights @ gaps).sum(axis=1) / total
        by_chance = np.sqrt(2 / np.pi * (weights @ variance)).sum(axis=1) / total
        found = [error, by_chance, macro, squares / total, area]
        for wanted in AT_PRECISIONS:
            found.append(np.where(precision >= wanted - 1e-12, answered, 0.0).max(axis=1) / total)
        return np.column_stack(found)

    return figures


def _area(hits: Float64s, misses: Float64s) -> Float64s:
    """[S] pairs of a right and a wrong answer in which the right one scores higher, and half of those of equal score.

    Args:
        hits, misses: [S, L] right and wrong answers at or above each of L distinct scores, the highest first.
    """
    before = np.concatenate([np.zeros((len(misses), 1)), misses[:, :-1]], axis=1)
    own = np.diff(hits, axis=1, prepend=0.0)
    return np.asarray((own * (misses[:, -1:] - (before + misses) / 2)).sum(axis=1))
