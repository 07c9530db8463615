"""Fits a `Calibrator` to outcomes: two logistic regressions, pulled towards leaving probabilities as they are.

The penalty keeps weights that few questions determine near those that change nothing: 1 for the log odds of the
answer's probability, 0 for the rest (a calibrator of log odds alone is Platt's scaling). Both regressions learn from
every question: the one for spans from its best span, also where "no answer" wins, the other from "no answer". The
feature `leads` tells the two cases apart: answers that win are right more or less often than their odds alone say.

Source: Kamath et al., 2020 (features of extractive answers predict which are right).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.decoding.calibrator import FEATURES, Calibrator, features, sigmoid
from qa_lightning.decoding.spans import Scaling
from qa_lightning.metrics.calibration import MIN_FOR_TEMPERATURE, checked_columns
from qa_lightning.metrics.outcomes import Outcomes

PENALTY = 10.0  # a weight that is one standard deviation away from its centre costs as much as 5 nats of likelihood
# With questions that have no answer, the other features made scores of other articles worse (docs/unanswerable.md).
WITH_UNANSWERABLE = ("log_odds", "leads")
_STEPS = 50  # of Newton's method, which needs about 6


def fit_logistic(columns: ArrayLike, right: ArrayLike, centre: ArrayLike, penalty: float = PENALTY) -> Float64s:
    """[F + 1] bias and weights that minimise the log loss of ``right`` plus a penalty.

    The penalty is ``penalty / 2`` times the sum of squares of (weight - centre) x standard deviation of the feature.
    Newton's method, with halved steps where a whole one does not lower the objective, which is convex.

    Args:
        columns: [N, F] finite features.
        right: [N] 0-1, some right and some wrong.
        centre: [F] weights that cost nothing.
        penalty: above 0.

    Raises:
        ValueError: other shapes, or values that are not finite or not 0-1; or all of ``right`` are 0, or all 1.
    """
    found, target = np.asarray(columns, np.float64), checked_columns({"right": right}, ("right",))[0]
    if found.ndim != 2 or len(found) != len(target) or not np.isfinite(found).all():
        raise ValueError(f"columns must be [{len(target)}, F] finite numbers; their shape is {found.shape}")
    if not (len(target) and target.min() < target.max()):
        raise ValueError("right answers and wrong ones are needed, to tell them apart")
    mean, deviation = found.mean(axis=0), found.std(axis=0)
    scale = np.where(deviation > 1e-12 * np.maximum(np.abs(mean), 1), deviation, 1.0)  # a constant one stays at 0
    design = np.column_stack([np.ones(len(target)), (found - mean) / scale])
    start = np.append(0.0, np.asarray(centre, np.float64) * scale)
    price = np.append(0.0, np.full(found.shape[1], penalty))  # the bias costs nothing

    def objective(weights: Float64s) -> float:
        logits = design @ weights
        return float((np.logaddexp(0, logits) - target * logits).sum() + (price * (weights - start) ** 2).sum() / 2)

    weights, value = start.copy(), objective(start)
    for _ in range(_STEPS):
        sure = sigmoid(design @ weights)
        slope = design.T @ (sure - target) + price * (weights - start)
        curvature = (design.T * (sure * (1 - sure))) @ design + np.diag(price)
        curvature[0, 0] += 1e-12 * len(target)  # where all are sure, the bias alone would have no curvature
        step = np.linalg.solve(curvature, slope)
        size = 1.0
        while objective(weights - size * step) > value and size > 1e-9:
            size /= 2
        weights, before = weights - size * step, value
        value = objective(weights)
        if before - value <= 1e-13 * max(abs(value), 1.0) and np.abs(size * step).max() < 1e-9:
            break
    slopes = weights[1:] / scale
    return np.append(weights[0] - slopes @ mean, slopes)


def outcome_features(outcomes: Outcomes, probability: Float64s, leads: ArrayLike) -> NDArray[np.float64]:
    """[N, F] `features` of the best span of each question, or of "no answer", by whose probability is given.

    Args:
        outcomes: the scored questions.
        probability: [N] of the span, or of "no answer".
        leads: [N] whether it wins; see `Calibrator.leads`.
    """
    with np.errstate(invalid="ignore"):  # without any span, -inf - -inf
        margin = outcomes.best_score - outcomes.second_score
    some = np.isfinite(outcomes.best_score)
    return features(probability, np.where(some, margin, 0.0), outcomes.length, outcomes.null_odds, leads)


def fit_calibrator(outcomes: Outcomes, scaling: Scaling, version_2: bool) -> Calibrator | None:
    """Fit a calibrator to the answers of N questions; None where they do not determine one for spans.

    It takes `MIN_FOR_TEMPERATURE` questions, with right answers and wrong ones; for "no answer", with and without one.

    Args:
        outcomes: the scored questions.
        scaling: under which they are answered, without a calibrator.
        version_2: whether "no answer" is a possible answer; all but `WITH_UNANSWERABLE` have the weight 0 then.
    """
    names = WITH_UNANSWERABLE if version_2 else FEATURES
    rows = outcomes.take(np.isfinite(outcomes.best_score))
    null_wins = rows.unanswered(scaling.threshold, version_2)
    kinds = [
        (rows.exact, rows.span_probability(scaling), ~null_wins),
        (rows.null_exact, rows.null_probability(scaling), null_wins),
    ]
    used = [FEATURES.index(name) for name in names]
    centre = [1.0 if name == "log_odds" else 0.0 for name in names]  # these leave a probability as it is
    fits: list[tuple[float, ...] | None] = []
    for right, probability, leads in kinds[: 1 + version_2]:
        if len(rows) < MIN_FOR_TEMPERATURE or right.min() == right.max():
            fits.append(None)
        else:
            found = outcome_features(rows, probability, leads)
            weights = np.zeros(1 + len(FEATURES))
            weights[[0, *(1 + each for each in used)]] = fit_logistic(found[:, used], right, centre)
            fits.append(tuple(weights.tolist()))
    spans, nulls = [*fits, None][:2]
    return Calibrator(spans, nulls, scaling.threshold) if spans else None
