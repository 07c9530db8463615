"""Fits the threshold for "no answer" and the temperature to validation data, and measures what the fit gains.

The threshold decides between the best span and "no answer"; the temperature turns scores into probabilities. Both are
fitted to all questions. Their gain is measured on questions that they were not fitted to: the articles are split into
halves, and each half is scored with the threshold and temperature fitted to the other half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.decoding.spans import Scaling
from qa_lightning.metrics.calibration import (
    TEMPERATURES,
    PrecisionRecall,
    Reliability,
    RiskCoverage,
    coverage_at_precision,
    fit_temperature,
    precision_recall,
    reliability,
    risk_coverage,
)
from qa_lightning.metrics.outcomes import Outcomes
from qa_lightning.metrics.thresholds import Tuned, split_by_article, tuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRECISION = 0.9  # reports say what share of the questions can be answered at this precision


@dataclass(frozen=True)
class Judged:
    """The answers to N questions under a threshold, and their confidence under a temperature.

    Args:
        outcomes: the scored questions.
        scaling: threshold and temperature.
        version_2: whether "no answer" is a possible answer.
    """

    outcomes: Outcomes
    scaling: Scaling
    version_2: bool

    @cached_property
    def unanswered(self) -> NDArray[np.bool_]:
        """[N] whether the question gets "no answer"."""
        return self.outcomes.unanswered(self.scaling.threshold, self.version_2)

    @cached_property
    def correct(self) -> Float64s:
        """[N] 1 for an exact match or a right "no answer", else 0."""
        return np.where(self.unanswered, ~self.outcomes.has_answer & self.version_2, self.outcomes.exact)

    @cached_property
    def chosen(self) -> Float64s:
        """[N] score of the chosen answer; for "no answer", the null score minus the threshold."""
        null = self.outcomes.null_score - self.scaling.threshold
        return np.where(self.unanswered, null, self.outcomes.best_score)

    def log_total(self, log_spans: Float64s, temperature: float | Float64s) -> Float64s:
        """[N, K] log of the sum of exp(score / T) over all spans and "no answer", at K temperatures."""
        null = self.outcomes.null_score - self.scaling.threshold
        return np.asarray(np.logaddexp(log_spans.T, null / np.reshape(temperature, (-1, 1))).T)

    @cached_property
    def confidence(self) -> Float64s:
        """[N] probability of the chosen answer, 0-1."""
        temperature = self.scaling.temperature
        total = self.log_total(self.outcomes.log_spans_at(temperature)[:, None], temperature)[:, 0]
        return np.asarray(np.minimum(np.exp(self.chosen / temperature - total), 1.0))


def fit_scaling(outcomes: Outcomes, threshold: float, version_2: bool) -> Scaling:
    """Fit the temperature to the answers under ``threshold``; return both."""
    judged = Judged(outcomes, Scaling(threshold=threshold), version_2)
    total = judged.log_total(outcomes.log_spans, TEMPERATURES)
    return Scaling(fit_temperature(judged.chosen, total, judged.correct), threshold)


@dataclass(frozen=True)
class Confidence:
    """The fitted threshold and temperature, and the answers before and after the fit.

    Attributes:
        scaling: fitted threshold and temperature.
        tuned: how the threshold was chosen; None if every question has an answer.
        before: answers under the model's own threshold and temperature.
        after: answers under the fitted ones, on the same questions that they were fitted to.
        held_out: the two halves of the articles, each under the fit to the other half; None if there is only one
            article.
    """

    scaling: Scaling
    tuned: Tuned | None
    before: Judged
    after: Judged
    held_out: tuple[Judged, Judged] | None

    @property
    def reliability(self) -> tuple[Reliability, Reliability]:
        """Calibration before and after the fit; after it on held-out questions, if there are any."""
        sure, right = self.held_out_columns
        return reliability(self.before.confidence, self.before.correct), reliability(sure, right)

    @property
    def held_out_columns(self) -> tuple[Float64s, Float64s]:
        """[N] confidence and correctness after the fit, on held-out questions if there are any."""
        parts = self.held_out or (self.after,)
        return np.concatenate([part.confidence for part in parts]), np.concatenate([part.correct for part in parts])

    @property
    def risk_coverage(self) -> RiskCoverage:
        """Risk and coverage after the fit; "no answer" counts as an answer."""
        return risk_coverage(*self.held_out_columns)

    @property
    def coverage(self) -> float:
        """Share of the questions, 0-1, that can be answered at `PRECISION` after the fit."""
        return coverage_at_precision(*self.held_out_columns, PRECISION)[0]

    @property
    def risk_coverage_before(self) -> RiskCoverage:
        """``risk_coverage`` before the fit."""
        return risk_coverage(self.before.confidence, self.before.correct)

    @property
    def coverage_before(self) -> float:
        """``coverage`` before the fit."""
        return coverage_at_precision(self.before.confidence, self.before.correct, PRECISION)[0]

    @property
    def precision_recall(self) -> dict[str, PrecisionRecall]:
        """Precision and recall of spans, by exact match and by F1, as the threshold for "no answer" rises."""
        outcomes = self.after.outcomes
        has = outcomes.has_answer
        curves = {"exact match": outcomes.exact * has, "F1": outcomes.f1 * has}
        return {name: precision_recall(-outcomes.null_odds, right, int(has.sum())) for name, right in curves.items()}

    def as_json(self) -> dict[str, Any]:
        """The figures by name, for ``confidence.json``; rates are on 0-100."""
        before, after = self.reliability
        figures: dict[str, Any] = {
            "null_score_diff_threshold": self.scaling.threshold,
            "temperature": self.scaling.temperature,
            "expected_calibration_error_before": 100 * before.error,
            "expected_calibration_error_after": 100 * after.error,
            f"answered_at_{100 * PRECISION:.0f}_precision_before": 100 * self.coverage_before,
            f"answered_at_{100 * PRECISION:.0f}_precision_after": 100 * self.coverage,
            "held_out": self.held_out is not None,
        }
        if self.tuned:
            figures |= {
                "f1_at_threshold_0": self.tuned.at_zero.f1,
                "exact_at_threshold_0": self.tuned.at_zero.exact,
                "f1_held_out": self.tuned.held_out_f1,
                "exact_held_out": self.tuned.held_out_exact,
            }
        return figures


def fit_confidence(
    outcomes: Outcomes,
    version_2: bool,
    own: Scaling = Scaling(),  # noqa: B008 - frozen
    seed: int = 0,
) -> Confidence:
    """Fit threshold and temperature, and measure them on held-out halves; see the module.

    Args:
        outcomes: the scored questions, with ``log_spans`` at `calibration.TEMPERATURES`.
        version_2: whether some questions have no answer; if not, the threshold stays 0.
        own: the model's threshold and temperature before the fit.
        seed: another seed splits the articles into other halves.
    """
    first = split_by_article(outcomes.article.tolist(), seed)
    tuning = tuned(*outcomes.decision, outcomes.article.tolist(), seed) if version_2 else None
    scaling = fit_scaling(outcomes, tuning.threshold if tuning else 0.0, version_2)
    held_out = None
    if first.any() and not first.all():
        sides = [outcomes.take(side) for side in (first, ~first)]
        thresholds = [half[0].at_tuned.threshold for half in tuning.halves] if tuning else [0.0, 0.0]
        fits = [fit_scaling(side, threshold, version_2) for side, threshold in zip(sides, thresholds, strict=True)]
        held_out = Judged(sides[0], fits[1], version_2), Judged(sides[1], fits[0], version_2)
    return Confidence(
        scaling,
        tuning,
        Judged(outcomes, own, version_2),
        Judged(outcomes, scaling, version_2),
        held_out,
    )


def fitted_lines(found: Confidence) -> Iterator[str]:
    """Describe the fit in one or two lines."""
    how = "each half of the articles scored with the other half's fit" if found.held_out else "on the fitted questions"
    if found.tuned:
        tuned, at_zero = found.tuned.held_out_f1, found.tuned.at_zero.f1
        if tuned > at_zero:
            yield (
                f'threshold {found.scaling.threshold:.2f} for "no answer": F1 {tuned:.2f}, against {at_zero:.2f} at 0 '
                f"({how})"
            )
        else:
            yield f'threshold 0 for "no answer": F1 {at_zero:.2f}, against {tuned:.2f} at a tuned one ({how})'
    before, after = found.reliability
    yield (
        f"temperature {found.scaling.temperature:.2f}: expected calibration error {100 * before.error:.1f}% before, "
        f"{100 * after.error:.1f}% after ({how})"
    )


def coverage_line(share: float) -> str:
    """Say what share of the questions, 0-1, the model answers at `PRECISION`."""
    return f"At {100 * PRECISION:.0f}% precision this model answers {100 * share:.1f}% of the questions"


def figures(found: Confidence) -> dict[str, Figure]:
    """The figures by file name: reliability before and after the fit, precision and recall, risk and coverage."""
    from qa_lightning.metrics import plots  # matplotlib takes a second to import

    return {
        "reliability": plots.reliability_diagram(*found.reliability, found.scaling.temperature),
        "precision_recall": plots.precision_recall_curves(found.precision_recall),
        "risk_coverage": plots.risk_coverage_curves(
            {"before": found.risk_coverage_before, "after": found.risk_coverage}, PRECISION
        ),
    }
