"""Fits the threshold for "no answer" and the temperature to validation data, and measures what the fit gains.

The threshold decides between the best span and "no answer"; the temperature turns scores into probabilities. Both are
fitted to all questions. Their gain is measured on questions that they were not fitted to: the articles are split into
halves, and each half is scored with the threshold and temperature fitted to the other half. A fit that gains nothing
there is not kept: the threshold is then 0, the temperature the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.decoding.spans import Scaling
from qa_lightning.metrics.calibration import (
    MIN_FOR_TEMPERATURE,
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
MIN_ANSWERED = 50  # questions at or above a score, for its precision to be known
PRECISIONS = (*(percent / 100 for percent in range(50, 95, 5)), 0.95, 0.96, 0.97, 0.98, 0.99)  # saved with a model


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
    """The threshold and temperature to use, and the answers before and after the fit.

    Attributes:
        scaling: threshold and temperature to use: the fitted ones, if they gain on held-out questions.
        fitted: the temperature that was fitted; None if the questions, or those of a half, do not determine one.
        tuned: how the threshold was chosen; None if every question has an answer.
        before: answers under the model's own threshold and temperature.
        after: answers under ``scaling``, on all questions.
        held_out: the two halves of the articles, each under the fit to the other half; None if there is only one
            article. A threshold or temperature that is not kept is not applied here either.
        with_own: the same halves under the same thresholds and the model's own temperature.
        fitted_error: expected calibration error, 0-1, of the halves if each has the temperature fitted to the other
            half, kept or not; NaN if none was fitted.
    """

    scaling: Scaling
    fitted: float | None
    tuned: Tuned | None
    before: Judged
    after: Judged
    held_out: tuple[Judged, Judged] | None
    with_own: tuple[Judged, Judged] | None
    fitted_error: float

    @property
    def reliability(self) -> tuple[Reliability, Reliability]:
        """Calibration with the model's own temperature and with the one to use, under the same thresholds.

        On held-out questions, if there are any. The two are equal if a fitted temperature is not kept.
        """
        before = _columns(self.with_own or (self.before,))
        return reliability(*before), reliability(*self.held_out_columns)

    @property
    def held_out_columns(self) -> tuple[Float64s, Float64s]:
        """[N] confidence and correctness after the fit, on held-out questions if there are any."""
        return _columns(self.held_out or (self.after,))

    @property
    def risk_coverage(self) -> RiskCoverage:
        """Risk and coverage after the fit; "no answer" counts as an answer."""
        return risk_coverage(*self.held_out_columns)

    @property
    def coverage(self) -> float:
        """Share of the questions, 0-1, that can be answered at `PRECISION` after the fit."""
        return coverage_at_precision(*self.held_out_columns, PRECISION)[0]

    @property
    def scores_at_precision(self) -> dict[str, float]:
        """For each of `PRECISIONS`, the lowest score at which it is reached, by `MIN_ANSWERED` questions or more."""
        sure, right = self.held_out_columns
        found = {each: coverage_at_precision(sure, right, each) for each in PRECISIONS}
        enough = MIN_ANSWERED / max(len(sure), 1) - 1e-9
        return {f"{each:g}": threshold for each, (share, threshold) in found.items() if share >= enough}

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
            "temperature_fitted": self.fitted,
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
        own: the model's threshold and temperature before the fit. Its temperature is kept if a fitted one does not
            lower the calibration error of held-out questions, or if nothing can be held out.
        seed: another seed splits the articles into other halves.
    """
    first = split_by_article(outcomes.article.tolist(), seed)
    tuning = tuned(*outcomes.decision, outcomes.article.tolist(), seed) if version_2 else None
    threshold = tuning.threshold if tuning else 0.0
    fitted = fit_scaling(outcomes, threshold, version_2).temperature
    temperature, held_out, with_own, error = own.temperature, None, None, math.nan
    if first.any() and not first.all():
        sides = [outcomes.take(side) for side in (first, ~first)]
        # If the tuned threshold is not kept, neither are those of the halves: reports show the settings in use.
        thresholds = [half[0].at_tuned.threshold for half in tuning.halves] if tuning and threshold else [0.0, 0.0]
        fits = [fit_scaling(side, each, version_2) for side, each in zip(sides, thresholds, strict=True)]
        kept = [Scaling(own.temperature, each) for each in thresholds]
        held_out = with_own = Judged(sides[0], kept[1], version_2), Judged(sides[1], kept[0], version_2)
        if 1.0 in (fitted, *(fit.temperature for fit in fits)):
            fitted = 1.0  # the questions do not determine one
        else:
            with_fit = Judged(sides[0], fits[1], version_2), Judged(sides[1], fits[0], version_2)
            error = reliability(*_columns(with_fit)).error
            if error < reliability(*_columns(with_own)).error:
                temperature, held_out = fitted, with_fit
    scaling = Scaling(temperature, threshold)
    return Confidence(
        scaling,
        None if fitted == 1.0 else fitted,
        tuning,
        Judged(outcomes, own, version_2),
        Judged(outcomes, scaling, version_2),
        held_out,
        with_own,
        error,
    )


def _columns(parts: Sequence[Judged]) -> tuple[Float64s, Float64s]:
    """[N] confidence and correctness of several sets of questions together."""
    return np.concatenate([part.confidence for part in parts]), np.concatenate([part.correct for part in parts])


def fitted_lines(found: Confidence) -> Iterator[str]:
    """Describe the fit in one or two lines: what is kept, what it gains on held-out questions, and why."""
    how = "each half of the articles scored with the other half's fit"
    alone = "all questions are about one article, so that nothing can be held out to measure one"
    if found.tuned:
        name, at_zero, tuned = 'threshold {:.2f} for "no answer"', found.tuned.at_zero.f1, found.tuned.held_out_f1
        if found.held_out is None:
            yield f"{name.format(0)}: F1 {at_zero:.2f}; it is not tuned: {alone}"
        elif found.scaling.threshold:
            yield f"{name.format(found.scaling.threshold)}: F1 {tuned:.2f}, against {at_zero:.2f} at 0 ({how})"
        else:
            yield f"{name.format(0)}, as tuning does not help: F1 {at_zero:.2f}, against {tuned:.2f} if tuned ({how})"
    kept, own = f"temperature {found.scaling.temperature:.2f}", found.before.scaling.temperature
    with_own, with_fit = 100 * found.reliability[0].error, 100 * found.fitted_error
    if found.held_out is None:
        yield f"{kept}; it is not fitted: {alone}"
    elif found.fitted is None:
        yield (
            f"{kept}: expected calibration error {with_own:.1f}%; it is not fitted: that takes {MIN_FOR_TEMPERATURE} "
            "questions in each half of the articles, with right answers and wrong ones"
        )
    elif with_fit < with_own:
        yield f"{kept}: expected calibration error {with_fit:.1f}%, against {with_own:.1f}% at {own:.2f} ({how})"
    else:
        yield (
            f"{kept}, as a fitted one does not help: expected calibration error {with_own:.1f}%, against "
            f"{with_fit:.1f}% if fitted, to {found.fitted:.2f} ({how})"
        )


def coverage_line(share: float) -> str:
    """Say what share of the questions, 0-1, the model answers at `PRECISION`."""
    return f"At {100 * PRECISION:.0f}% precision this model answers {100 * share:.1f}% of the questions"


def figures(found: Confidence) -> dict[str, Figure]:
    """The figures by file name: reliability before and after the fit, precision and recall, risk and coverage."""
    from qa_lightning.metrics import plots  # matplotlib takes a second to import

    (before, after), kept = found.reliability, found.scaling.temperature != found.before.scaling.temperature
    return {
        "reliability": plots.reliability_diagram(before, after if kept else None, found.scaling.temperature),
        "precision_recall": plots.precision_recall_curves(found.precision_recall),
        "risk_coverage": plots.risk_coverage_curves(
            {"before": found.risk_coverage_before, "after": found.risk_coverage}, PRECISION
        ),
    }
