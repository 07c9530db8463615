"""Fits the threshold for "no answer", the temperature and the calibrator to validation data, and measures their gains.

The threshold decides between the best span and "no answer"; the temperature turns the model's scores into
probabilities, and the calibrator these into the probability that an answer is right. All are fitted to all questions,
and measured on questions that they were not fitted to. For the threshold the articles are split into halves (see
`thresholds.tuned`). For the rest they are split into `FOLDS` folds, and the answers of each fold get the scores of what
was fitted to the other folds. A fit that gains nothing there is not kept: the threshold is then 0, the temperature the
model's own. Where no threshold can be fitted, as every question has an answer or all are about one article, the model's
own stays. A calibrator belongs to the threshold that it was fitted at: the model keeps its own if it keeps its
threshold too. Under another one there is none, unless a new one gains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.decoding.spans import Scaling
from qa_lightning.metrics.bootstrap import Interval, paired_bootstrap
from qa_lightning.metrics.calibrating import fit_calibrator, outcome_features
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
from qa_lightning.metrics.measures import measures
from qa_lightning.metrics.outcomes import Outcomes
from qa_lightning.metrics.thresholds import Tuned, best_threshold, folds_by_article, score_at, tuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRECISION = 0.9  # reports say what share of the questions can be answered at this precision
MIN_ANSWERED = 50  # questions at or above a score, for its precision to be known
FOLDS = 5  # of the articles
CLEARLY = 0.9  # a fit is kept that lowers the Brier score of held-out answers in this share of the bootstrap's samples
OWN, TEMPERATURE, CALIBRATOR = "own", "temperature", "calibrator"  # what scores may be made with
FIGURES = ("reliability", "precision_recall", "risk_coverage")  # names of their files, without the ending
PRECISIONS = (*(percent / 100 for percent in range(50, 95, 5)), 0.95, 0.96, 0.97, 0.98, 0.99)  # saved with a model


@dataclass(frozen=True)
class Judged:
    """The answers to N questions under a threshold, and their confidence under a temperature and a calibrator.

    Args:
        outcomes: the scored questions.
        scaling: threshold, temperature and calibrator.
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
        """[N] score of the chosen answer, 0-1: its probability, unless there is a calibrator."""
        outcomes, null = self.outcomes, self.unanswered
        raw = np.where(null, outcomes.null_probability(self.scaling), outcomes.span_probability(self.scaling))
        if self.scaling.calibrator is None:
            return raw
        calibrator = self.scaling.calibrator
        found = calibrator.of(outcome_features(outcomes, raw, calibrator.leads(outcomes.null_odds, null)), raw, null)
        return np.where(np.isfinite(outcomes.best_score), found, raw)


def fit_scaling(outcomes: Outcomes, threshold: float, version_2: bool) -> Scaling:
    """Fit the temperature to the answers under ``threshold``; return both."""
    judged = Judged(outcomes, Scaling(threshold=threshold), version_2)
    total = judged.log_total(outcomes.log_spans, TEMPERATURES)
    return Scaling(fit_temperature(judged.chosen, total, judged.correct), threshold)


@dataclass(frozen=True)
class Confidence:
    """The threshold, temperature and calibrator to use, and the answers before and after the fit.

    Attributes:
        scaling: to use: what was fitted, as far as it gains on held-out questions.
        fitted: the temperature that was fitted; None if the questions, or those outside of a fold, determine none.
        tuned: how the threshold was chosen; None if it could not be: the threshold is then the model's own.
        before: answers under the model's own threshold, temperature and calibrator.
        after: answers under ``scaling``, on all questions.
        choices: the folds of the articles, each under the threshold that was fitted to the other folds, with the scores
            of the model's own temperature, and of its own calibrator if it keeps its threshold (`OWN`); those of the
            temperature that was fitted to the other folds (`TEMPERATURE`); and those of the calibrator that was, at the
            model's own temperature (`CALIBRATOR`).
            What the questions do not determine is left out; empty if there is only one article.
        kept: which of them `scaling` is.
    """

    scaling: Scaling
    fitted: float | None
    tuned: Tuned | None
    before: Judged
    after: Judged
    choices: Mapping[str, tuple[Judged, ...]]
    kept: str

    @property
    def held_out(self) -> tuple[Judged, ...] | None:
        """The folds as they are scored with what is used; None if nothing can be held out."""
        return self.choices.get(self.kept)

    @property
    def reliability(self) -> tuple[Reliability, Reliability]:
        """Calibration with the scores of `OWN` and with those to use, under the same thresholds.

        On held-out questions, if there are any. The two are equal if no fit is kept.
        """
        before = _columns(self.choices.get(OWN) or (self.before,))
        return reliability(*before), reliability(*self.held_out_columns)

    @property
    def held_out_columns(self) -> tuple[Float64s, Float64s]:
        """[N] confidence and correctness after the fit, on held-out questions if there are any."""
        return _columns(self.held_out or (self.after,))

    def brier(self, choice: str) -> float:
        """100 times the mean of (confidence - correct)^2 of the held-out questions under a choice."""
        return 100 * float(_losses(self.choices[choice]).mean())

    @cached_property
    def as_given(self) -> Mapping[str, Interval]:
        """The measures of the model's answers and scores as it gives them, under its own threshold."""
        return measures(self.before.confidence, self.before.correct, self.before.outcomes.article)

    @cached_property
    def measured(self) -> Mapping[str, Mapping[str, Interval]]:
        """The measures of each of ``choices``, on held-out questions; see `measures.measures`."""
        return {
            choice: measures(*_columns(parts), np.concatenate([part.outcomes.article for part in parts]))
            for choice, parts in self.choices.items()
        }

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
            "scores_from": self.kept,
            "calibrator": self.scaling.calibrator_as_json,
            "measures_as_given": _as_json(self.as_given),
            "measures": {choice: _as_json(found) for choice, found in self.measured.items()},
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
    """Fit threshold, temperature and calibrator, and measure them on held-out folds; see the module.

    Args:
        outcomes: the scored questions, with ``log_spans`` at `calibration.TEMPERATURES`.
        version_2: whether some questions have no answer; if not, the threshold stays the model's own.
        own: the model's threshold, temperature and calibrator before the fit. Temperature and calibrator are kept if
            fitted ones do not lower the Brier score of held-out answers, or if nothing can be held out; the calibrator
            only with its threshold.
        seed: another seed splits the articles in other ways.
    """
    articles = outcomes.article.tolist()
    fold = folds_by_article(articles, FOLDS, seed)
    tuning = tuned(*outcomes.decision, articles, seed) if version_2 and fold.any() else None
    threshold = tuning.threshold if tuning else own.threshold
    # A calibrator belongs to its threshold, which its features depend on: under another one it is not even measured.
    scaling = Scaling(own.temperature, threshold, calibrator=own.calibrator if threshold == own.threshold else None)
    heat = fit_scaling(outcomes, threshold, version_2).temperature
    choices, kept = {}, OWN
    if fold.any():
        folds = [(outcomes.take(fold != each), outcomes.take(fold == each)) for each in range(fold.max() + 1)]
        # If no tuned threshold is kept, neither are those of the folds: reports show the settings in use.
        is_tuned = tuning is not None and tuning.threshold != 0
        thresholds = [best_threshold(*one.decision).threshold if is_tuned else threshold for one, _ in folds]

        def held_out(fits: Sequence[Scaling]) -> tuple[Judged, ...]:
            return tuple(Judged(side, fit, version_2) for (_, side), fit in zip(folds, fits, strict=True))

        bases = [replace(scaling, threshold=each) for each in thresholds]
        choices[OWN] = held_out(bases)
        fits = [fit_scaling(one, each, version_2) for (one, _), each in zip(folds, thresholds, strict=True)]
        if 1.0 in (heat, *(fit.temperature for fit in fits)):
            heat = 1.0  # the questions do not determine one
        else:
            choices[TEMPERATURE] = held_out(fits)
            if _helps(choices[TEMPERATURE], choices[OWN], seed):
                kept, scaling = TEMPERATURE, Scaling(heat, threshold)
        # Always at the model's own temperature: a choice between the two would let a fold have a say in its own scores.
        plain = Scaling(own.temperature, threshold)
        found = [
            fit_calibrator(one, replace(base, calibrator=None), version_2)
            for (one, _), base in zip(folds, bases, strict=True)
        ]
        calibrator = fit_calibrator(outcomes, plain, version_2)
        if calibrator is not None and None not in found:
            fits = [replace(base, calibrator=each) for base, each in zip(bases, found, strict=True)]
            choices[CALIBRATOR] = held_out(fits)
            if _helps(choices[CALIBRATOR], choices[kept], seed):
                if not version_2 and own.calibrator is not None:  # such questions say nothing of "no answer"
                    calibrator = replace(calibrator, no_answer=own.calibrator.no_answer)
                kept, scaling = CALIBRATOR, replace(plain, calibrator=calibrator)
    return Confidence(
        scaling,
        None if heat == 1.0 else heat,
        tuning,
        Judged(outcomes, own, version_2),
        Judged(outcomes, scaling, version_2),
        choices,
        kept,
    )


def _helps(fitted: Sequence[Judged], before: Sequence[Judged], seed: int) -> bool:
    """Whether a fit lowers the Brier score of the same answers, and clearly so; see `CLEARLY`."""
    articles = np.concatenate([part.outcomes.article for part in before])
    return paired_bootstrap(_losses(before), _losses(fitted), articles, seed).better >= CLEARLY


def _losses(parts: Sequence[Judged]) -> Float64s:
    """[N] (confidence - correct)^2."""
    sure, right = _columns(parts)
    return np.asarray((sure - right) ** 2)


def _columns(parts: Sequence[Judged]) -> tuple[Float64s, Float64s]:
    """[N] confidence and correctness of several sets of questions together."""
    return np.concatenate([part.confidence for part in parts]), np.concatenate([part.correct for part in parts])


def _as_json(found: Mapping[str, Interval]) -> dict[str, list[float | None]]:
    """Value of each measure, and lower and upper end of its interval, on 0-100; None where it is not known."""
    each = {name: (interval.mean, interval.low, interval.high) for name, interval in found.items()}
    return {name: [100 * value if value == value else None for value in values] for name, values in each.items()}


def fitted_lines(found: Confidence) -> Iterator[str]:
    """Describe the fit in some lines: what is kept, what it gains on held-out questions, and why; and measure it."""
    alone = "all questions are about one article, so that nothing can be held out to measure one"
    threshold = f'threshold {found.scaling.threshold:.2f} for "no answer"'
    if found.tuned:
        how = "each half of the articles scored with the other half's fit"
        at_zero, tuned = found.tuned.at_zero.f1, found.tuned.held_out_f1
        if found.scaling.threshold:
            yield f"{threshold}: F1 {tuned:.2f}, against {at_zero:.2f} at 0 ({how})"
        else:
            yield f"{threshold}, as tuning does not help: F1 {at_zero:.2f}, against {tuned:.2f} if tuned ({how})"
    elif found.after.version_2:
        f1 = score_at(found.scaling.threshold, *found.after.outcomes.decision).f1
        yield f"{threshold}: F1 {f1:.2f}; it is not tuned: {alone}"
    elif found.scaling.threshold:
        yield f"{threshold}: it is not tuned, as every question has an answer"
    kept, own = f"temperature {found.scaling.temperature:.2f}", found.before.scaling.temperature
    has_own = OWN in found.choices and found.choices[OWN][0].scaling.calibrator is not None
    if found.held_out is None:
        yield f"{kept}; it is not fitted: {alone}"
        return
    how = f"each of {len(found.held_out)} folds of the articles scored with the fit to the others"
    score = {choice: f"{found.brier(choice):.2f}" for choice in found.choices}
    if found.kept == CALIBRATOR:
        fitted = f" and {score[TEMPERATURE]} at {found.fitted:.2f}, which was fitted" if TEMPERATURE in score else ""
        before = "the model's own" if has_own else f"none at temperature {own:.2f}"
        yield (
            f"calibrator of scores: Brier score {score[CALIBRATOR]}, against {score[OWN]} with {before}{fitted} ({how})"
        )
    elif TEMPERATURE not in score:
        yield (
            f"{kept}: Brier score {score[OWN]}; it is not fitted: that takes {MIN_FOR_TEMPERATURE} questions outside "
            "of each fold of the articles, with right answers and wrong ones"
        )
    elif found.kept == TEMPERATURE:
        yield f"{kept}: Brier score {score[TEMPERATURE]}, against {score[OWN]} at {own:.2f} ({how})"
    else:
        yield (
            f"{kept}, as a fitted one does not clearly help: Brier score {score[OWN]}, against {score[TEMPERATURE]} "
            f"if fitted, to {found.fitted:.2f} ({how})"
        )
    if CALIBRATOR in score and found.kept != CALIBRATOR:
        stays = found.scaling.calibrator is not None
        which = "the model's own calibrator stays, as a new one" if stays else "no calibrator of scores, as one"
        yield (
            f"{which} does not clearly help: Brier score {score[found.kept]}, against {score[CALIBRATOR]} with it "
            f"({how})"
        )
    if found.before.scaling.calibrator is not None and not has_own:
        yield f"the model's own calibrator is left out: it belongs to threshold {found.before.scaling.threshold:.2f}"
    yield measures_line("scores of held-out answers", found.measured[found.kept])


def measures_line(what: str, found: Mapping[str, Interval]) -> str:
    """The measures of some scores that people ask for first, with their intervals."""
    error, area = found["expected_calibration_error"], found["auroc"]
    by_chance = f"by chance alone {100 * found['expected_calibration_error_by_chance'].mean:.1f}%"
    parts = [f"expected calibration error {100 * error.mean:.1f}%{_ends(error)}, {by_chance}"]
    if area.mean == area.mean:  # some answers are right, some wrong
        parts.append(f"AUROC {100 * area.mean:.1f}%{_ends(area)}")
    return f"{what}: {'; '.join(parts)}"


def _ends(found: Interval) -> str:
    """The ends of an interval, in percent, in brackets; nothing if they are unknown, or equal."""
    low, high = (f"{100 * end:.1f}" for end in (found.low, found.high))
    return f" ({low} to {high})" if found.is_known and low != high else ""


def coverage_line(found: Confidence, fitted: bool = True) -> str:
    """Say what share of the questions the model answers at `PRECISION`, after the fit or before it."""
    percent = f"{100 * PRECISION:.0f}"
    if fitted:
        share, measured = found.coverage, found.measured.get(found.kept)
    else:
        share, measured = found.coverage_before, found.as_given
    ends = "" if measured is None else _ends(measured[f"answered_at_{percent}_precision"])
    return f"At {percent}% precision this model answers {100 * share:.1f}% of the questions{ends}"


def figures(found: Confidence) -> dict[str, Figure]:
    """The figures by file name: reliability before and after the fit, precision and recall, risk and coverage."""
    from qa_lightning.metrics import plots  # matplotlib takes a second to import

    (before, after), how = found.reliability, f"T = {found.scaling.temperature:.2f}"
    if found.scaling.calibrator is not None:
        how += ", calibrator"
    drawn = (
        plots.reliability_diagram(before, None if found.kept == OWN else after, how),
        plots.precision_recall_curves(found.precision_recall),
        plots.risk_coverage_curves({"before": found.risk_coverage_before, "after": found.risk_coverage}, PRECISION),
    )
    return dict(zip(FIGURES, drawn, strict=True))
