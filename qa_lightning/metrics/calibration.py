"""Computes calibration, risk-coverage curves and precision-recall curves, and fits the temperature.

Pure NumPy on arrays of N questions. ``confidence`` ranks the answers, the most confident highest; functions that read
it as a probability need values in 0-1. ``correct`` is 0, 1 or a score between, such as F1. Questions of equal
confidence stay together: every curve has one point for each distinct confidence, so that no result depends on the
order of the questions.

Sources: Guo et al., 2017 (expected calibration error over equal-width bins, temperature scaling); Nguyen and O'Connor,
2015 (bins of equal mass); Geifman and El-Yaniv, 2017 (risk and coverage).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qa_lightning.arrays import Float64s

# The log grid of `fit_temperature`, in steps of 19%; the parabola between grid points is exact to about 0.2%.
TEMPERATURES: Float64s = np.geomspace(0.25, 16.0, 25)
TEMPERATURES.flags.writeable = False

BINS = 15  # of a calibration error

# With fewer questions nothing is fitted: the standard error of the fit is 27% at 20 questions, 16% at 50 and 5% at 500
# (synthetic questions).
MIN_FOR_TEMPERATURE = 50


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in B bins; a bin holds ``lower edge < confidence <= upper edge``.

    Attributes:
        edges: [B + 1] from 0 to 1; the first bin also holds confidence 0.
        confidence, accuracy: [B] means over the questions of each bin; NaN for an empty bin.
        count: [B] number of questions.
    """

    edges: Float64s
    confidence: Float64s
    accuracy: Float64s
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error, 0-1: mean of the bins' ``|accuracy - confidence|``, weighted by ``count``.

        It is 0 without questions.
        """
        some = self.count > 0
        gaps = np.abs(self.accuracy[some] - self.confidence[some])
        return float(np.dot(gaps, self.count[some]) / max(self.count.sum(), 1))


@dataclass(frozen=True)
class RiskCoverage:
    """The share of wrong answers if only the most confident answers are given; K points, most confident first.

    Attributes:
        confidence: [K] the lowest confidence that is answered.
        coverage: [K] share of the questions that are answered, 0-1, increasing to 1.
        risk: [K] share of these answers that are wrong, 0-1.
    """

    confidence: Float64s
    coverage: Float64s
    risk: Float64s

    @property
    def area(self) -> float:
        """Area under the curve, 0-1, lower is better: the mean over all questions of the risk at their confidence."""
        return float(np.dot(self.risk, np.diff(self.coverage, prepend=0.0)))


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of the answers at or above a confidence; K points, most confident first.

    Attributes:
        confidence: [K] the lowest confidence that is answered.
        precision: [K] share of the given answers that are right, 0-1.
        recall: [K] right answers divided by the number of questions that have an answer, 0-1, never decreasing.
    """

    confidence: Float64s
    precision: Float64s
    recall: Float64s

    @property
    def average_precision(self) -> float:
        """Mean precision, weighted by the steps of recall, 0-1."""
        return float(np.dot(self.precision, np.diff(self.recall, prepend=0.0)))


def checked_columns(columns: Mapping[str, ArrayLike], within: tuple[str, ...] = ()) -> list[Float64s]:
    """Convert arrays of the same length N to float64; one error names everything that is wrong.

    Args:
        columns: name, for the message -> [N].
        within: names of the columns whose values must lie in 0-1.

    Raises:
        ValueError: other shapes, different lengths, NaN, or values outside 0-1.
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    problems = [f"{name} has the shape {values.shape}, not [N]" for name, values in arrays.items() if values.ndim != 1]
    if not problems and len({len(values) for values in arrays.values()}) > 1:
        problems.append("lengths differ: " + ", ".join(f"{name} {len(values)}" for name, values in arrays.items()))
    for name, values in arrays.items():
        rules = [(np.isnan(values), "NaN")]
        if name in within:
            rules.append(((values < 0) | (values > 1), "outside 0-1"))
        for broken, what in rules:
            if broken.any():
                first = int(np.flatnonzero(broken)[0])
                count = f"{broken.sum():,} value{'s are' if broken.sum() > 1 else ' is'}"
                problems.append(f"{name}: {count} {what}, the first is {values.flat[first]} at index {first}")
    if problems:
        raise ValueError("; ".join(problems))
    return list(arrays.values())


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS, adaptive: bool = False) -> Reliability:
    """Accuracy by bin of confidence.

    Args:
        confidence, correct: [N] 0-1; see the module.
        bins: number of bins, at least 1.
        adaptive: give each bin about the same number of questions instead of the same width. Equal confidences stay
            in one bin, so there may be fewer bins.

    Raises:
        ValueError: see `checked_columns`; or ``bins`` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins {bins} must be at least 1")
    sure, right = checked_columns({"confidence": confidence, "correct": correct}, ("confidence", "correct"))
    upper = np.linspace(0.0, 1.0, bins + 1)[1:]
    if adaptive and len(sure):
        last = np.ceil(np.arange(1, bins + 1) * len(sure) / bins).astype(int) - 1
        upper = np.unique(np.sort(sure)[last])
        upper[-1] = 1.0
    which = np.searchsorted(upper, sure, side="left")
    count = np.bincount(which, minlength=len(upper))
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(which, sure, len(upper)) / count
        accuracy = np.bincount(which, right, len(upper)) / count
    return Reliability(np.append(0.0, upper), mean_confidence, accuracy, count)


def _from_most_confident(confidence: Float64s, correct: Float64s) -> tuple[Float64s, NDArray[np.int64], Float64s]:
    """[K] distinct confidences, highest first; [K] questions and [K] right answers at or above each of them."""
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])  # last rank of each confidence
    return ranked[last], last + 1, np.cumsum(correct[order])[last]


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Risk at every coverage that a threshold on the confidence can reach.

    Args:
        confidence: [N] any numbers, infinite ones too.
        correct: [N] 0-1.

    Raises:
        ValueError: see `checked_columns`.
    """
    sure, right = checked_columns({"confidence": confidence, "correct": correct}, ("correct",))
    levels, answered, hits = _from_most_confident(sure, right)
    return RiskCoverage(levels, answered / max(len(sure), 1), 1.0 - hits / answered)


def coverage_at_precision(confidence: ArrayLike, correct: ArrayLike, precision: float = 0.9) -> tuple[float, float]:
    """The largest share of the questions that can be answered, most confident first, at this precision or better.

    Args:
        confidence: [N] any numbers, infinite ones too.
        correct: [N] 0-1.
        precision: the lowest allowed share of right answers, 0-1.

    Returns:
        The share, 0-1, and the threshold: answer if ``confidence >= threshold``. 0 and inf if even the most confident
        answers are less precise, or there are no questions.

    Raises:
        ValueError: see `checked_columns`; or ``precision`` is outside 0-1.
    """
    if not 0.0 <= precision <= 1.0:
        raise ValueError(f"precision {precision} must lie in 0-1")
    curve = risk_coverage(confidence, correct)
    enough = np.flatnonzero(1.0 - curve.risk >= precision - 1e-12)  # sums of scores such as 0.7 are not exact
    if not len(enough):
        return 0.0, math.inf
    return float(curve.coverage[enough[-1]]), float(curve.confidence[enough[-1]])


def precision_recall(confidence: ArrayLike, correct: ArrayLike, total_answerable: int) -> PrecisionRecall:
    """Precision and recall at every threshold on the confidence.

    Args:
        confidence: [N] any numbers, infinite ones too.
        correct: [N] 0-1; 0 for an answer to a question without a gold answer.
        total_answerable: number of questions with a gold answer. If it is 0, recall is 0.

    Raises:
        ValueError: see `checked_columns`; or there are fewer answerable questions than right answers.
    """
    sure, right = checked_columns({"confidence": confidence, "correct": correct}, ("correct",))
    if right.sum() > total_answerable + 1e-6:
        raise ValueError(f"total_answerable {total_answerable} is less than the {right.sum():g} right answers")
    levels, answered, hits = _from_most_confident(sure, right)
    return PrecisionRecall(levels, hits / answered, np.minimum(hits / max(total_answerable, 1), 1.0))


def fit_temperature(
    score: ArrayLike, log_total: ArrayLike, correct: ArrayLike, temperatures: ArrayLike = TEMPERATURES
) -> float:
    """The temperature T whose confidences ``exp(score / T - log_total_T)`` best predict which answers are right.

    It minimises the negative log likelihood of right and wrong answers over the grid. The result is the vertex of the
    parabola, in log T, through the best grid point and its two neighbours; or the best grid point itself if that is
    an end of the grid.

    Args:
        score: [N] score of the chosen answer, in logits.
        log_total: [N, K] log of the sum of ``exp(score / T_k)`` over all spans and "no answer".
        correct: [N] 0-1.
        temperatures: [K] the T_k, positive and increasing.

    Returns:
        The temperature; 1 if the questions do not determine it: fewer than `MIN_FOR_TEMPERATURE` questions, all
        answers right, all answers wrong, or confidences that no temperature changes.

    Raises:
        ValueError: see `checked_columns`; or other shapes, infinite numbers, or a grid that does not increase.
    """
    chosen, right = checked_columns({"score": score, "correct": correct}, ("correct",))
    grid, totals = np.asarray(temperatures, np.float64), np.asarray(log_total, np.float64)
    if grid.ndim != 1 or totals.shape != (len(chosen), len(grid)):
        raise ValueError(f"log_total has the shape {totals.shape}, not [{len(chosen)}, {grid.size}]")
    if not (len(grid) and grid[0] > 0 and (np.diff(grid) > 0).all() and np.isfinite(grid).all()):
        raise ValueError("temperatures must be positive, finite and increasing")
    if not (np.isfinite(chosen).all() and np.isfinite(totals).all()):
        raise ValueError("score and log_total must be finite")
    if len(chosen) < MIN_FOR_TEMPERATURE or right.min() == 1 or right.max() == 0:
        return 1.0
    loss = np.array([_log_loss(chosen / each - totals[:, k], right) for k, each in enumerate(grid)])
    if np.ptp(loss) <= 1e-12:
        return 1.0
    return _lowest(np.log(grid), loss)


def _log_loss(log_confidence: Float64s, correct: Float64s) -> float:
    """Mean negative log likelihood of right and wrong answers."""
    log_right = np.minimum(log_confidence, -1e-15)  # a wrong answer at confidence 1 costs much, but not infinity
    log_wrong = np.log(-np.expm1(log_right))
    return float(-(correct * log_right + (1.0 - correct) * log_wrong).mean())


def _lowest(log_temperature: Float64s, loss: Float64s) -> float:
    """The temperature at the vertex of the parabola through the lowest loss and its two neighbours."""
    best = int(np.argmin(loss))
    if 0 < best < len(loss) - 1:
        left, middle, right = log_temperature[best - 1 : best + 2]
        down, up = (loss[best] - loss[best - 1]) / (middle - left), (loss[best + 1] - loss[best]) / (right - middle)
        if up > down:
            vertex = (left + middle) / 2 - down * (right - left) / 2 / (up - down)
            return float(np.exp(vertex))
    return float(np.exp(log_temperature[best]))
