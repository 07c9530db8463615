"""The fit of a calibrator: its minimum, its honesty about held-out questions, and when it is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qa_lightning.decoding.calibrator import FEATURES, Calibrator, sigmoid
from qa_lightning.decoding.spans import Scaling, decode_spans
from qa_lightning.metrics.calibrating import fit_calibrator, fit_logistic, outcome_features
from qa_lightning.metrics.confidence import CALIBRATOR, OWN, fit_confidence, fitted_lines
from qa_lightning.metrics.outcomes import Outcomes
from tests.helpers.decoding import random_windows
from tests.helpers.outcomes import outcomes_of


def objective(weights, columns, right, centre, penalty) -> float:
    """What `fit_logistic` minimises, written down again, in the units of the features."""
    logits = weights[0] + columns @ weights[1:]
    spread = (weights[1:] - centre) * columns.std(axis=0)
    return (np.logaddexp(0, logits) - right * logits).sum() + penalty / 2 * (spread**2).sum()


@pytest.mark.parametrize("seed", range(8))
def test_a_fit_is_the_minimum(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(20, 400))
    columns = random.normal(random.normal(0, 5, 4), random.exponential(3, 4) + 0.1, (count, 4))
    centre = np.array([1.0, 0.0, 0.0, -0.5])
    right = (random.random(count) < sigmoid(columns @ random.normal(0, 1, 4))) * 1.0
    right[:2] = 0, 1
    if seed == 7:
        right = (columns[:, 0] > np.median(columns[:, 0])) * 1.0  # separable: the penalty alone bounds the weights
    penalty = float(random.choice([0.1, 10.0]))
    found = fit_logistic(columns, right, centre, penalty)
    least = objective(found, columns, right, centre, penalty)
    for axis in range(5):  # the slope, by differences of the objective, is 0
        step = np.zeros(5)
        step[axis] = 1e-4 / (1 if axis == 0 else columns[:, axis - 1].std() + abs(columns[:, axis - 1].mean()))
        ends = [objective(found + sign * step, columns, right, centre, penalty) for sign in (1, -1)]
        assert min(ends) >= least - 1e-9
        assert abs(ends[0] - ends[1]) < 1e-7 * max(least, 1)
    for _ in range(200):  # it is convex: nothing near is lower
        near = found + random.normal(0, 1, 5) * random.choice([1e-3, 0.1, 1.0])
        assert objective(near, columns, right, centre, penalty) >= least


def test_a_fit_equals_that_of_scipy() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(1)
    columns = random.normal([0, 3, 0, -1], 2, (300, 4))
    right = (random.random(300) < sigmoid(columns @ [0.8, -0.3, 0.1, 0.0])) * 1.0
    centre = np.array([1.0, 0.0, 0.0, 0.0])
    wanted = optimize.minimize(objective, np.zeros(5), (columns, right, centre, 10.0), "BFGS", tol=1e-10).x
    np.testing.assert_allclose(fit_logistic(columns, right, centre, 10.0), wanted, atol=1e-4)


def test_a_constant_feature_keeps_its_centre_and_bad_input_is_refused() -> None:
    random = np.random.default_rng(2)
    columns = np.column_stack([random.normal(size=60), np.full(60, 7.0)])
    right = (random.random(60) < 0.5) * 1.0
    found = fit_logistic(columns, right, [1.0, 0.0])
    assert found[2] == 0
    for bad in (columns[:, 0], columns[:5], np.where(columns == 7, np.nan, columns)):
        with pytest.raises(ValueError, match="columns must be"):
            fit_logistic(bad, right, [1.0, 0.0])
    with pytest.raises(ValueError, match="right answers and wrong ones"):
        fit_logistic(columns, np.ones(60), [1.0, 0.0])


def made(questions: int, second_feature: float, seed: int = 3) -> Outcomes:
    """Answers that are right with their probability, moved by the length of the answer: by 0 it is noise."""
    windows = random_windows(seed, questions, 3.0)
    outcomes = outcomes_of(windows, np.ones(questions), has_answer=np.ones(questions, bool))
    random = np.random.default_rng(seed)
    length = random.integers(1, 60, questions)
    probability = np.clip(decode_spans(windows, 1, 30).probability, 1e-6, 1 - 1e-6)
    logits = np.log(probability / (1 - probability)) - second_feature * (np.log(length) - 3)
    right = (random.random(questions) < sigmoid(logits)) * 1.0
    return replace(outcomes, exact=right, f1=right, length=length)


def test_a_calibrator_that_sees_what_decides_is_kept_and_mends_the_scores() -> None:
    found = fit_confidence(made(1500, 1.5), version_2=False)
    assert found.kept == CALIBRATOR
    weights = found.scaling.calibrator.as_json()["span"]
    assert weights["log_length"] == pytest.approx(-1.5, rel=0.15)
    assert weights["log_odds"] == pytest.approx(1.0, rel=0.2)
    measured = found.measured
    for name, better in (("expected_calibration_error", -1), ("brier", -1), ("auroc", 1)):
        before, after = measured[OWN][name], measured[CALIBRATOR][name]
        assert better * (after.mean - before.mean) > 0
        assert after.low <= after.mean <= after.high
    assert any(line.startswith("calibrator of scores: Brier score") for line in fitted_lines(found))
    record = found.as_json()
    assert record["scores_from"] == CALIBRATOR
    assert record["calibrator"]["span"] == weights
    assert record["measures"][CALIBRATOR]["auroc"][0] == pytest.approx(100 * measured[CALIBRATOR]["auroc"].mean)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_calibrator_of_noise_is_not_kept(seed: int) -> None:
    found = fit_confidence(made(1500, 0.0, seed), version_2=False)
    assert found.scaling.calibrator is None
    assert CALIBRATOR in found.choices  # it was tried
    sure, right = found.held_out_columns
    assert len(sure) == len(right) == 1500


def test_a_calibrator_of_another_threshold_is_left_out_and_no_line_compares_with_it() -> None:
    """The figures beside it are those of scores without a calibrator."""
    outcomes = replace(made(1500, 0.0), has_answer=np.arange(1500) % 3 > 0)
    odds = np.where(outcomes.has_answer, -5.0, 0.0) + np.random.default_rng(1).normal(0, 2, 1500)
    outcomes = replace(outcomes, null_score=outcomes.best_score + odds)
    own = Calibrator((0.5, 2.0, 0.0, 0.0, 0.0, 0.0), None, 7.0)
    found = fit_confidence(outcomes, version_2=True, own=Scaling(1.0, 7.0, calibrator=own))
    assert found.scaling.threshold not in (0.0, 7.0)
    assert all(part.scaling.calibrator is None for part in found.choices[OWN])
    lines = list(fitted_lines(found))
    assert "the model's own calibrator is left out: it belongs to threshold 7.00" in lines
    assert not any("with the model's own" in line or "own calibrator stays" in line for line in lines)
    without = fit_confidence(outcomes, version_2=True)
    assert lines != list(fitted_lines(without)) == [line for line in lines if "left out" not in line]


def test_no_article_has_a_say_in_its_own_scores() -> None:
    """Other labels of one article change the scores of all others, and not its own."""
    outcomes = made(800, 1.5)
    own = outcomes.article == outcomes.article[0]
    turned = replace(outcomes, exact=np.where(own, 1 - outcomes.exact, outcomes.exact))
    before, after = (scores_by_question(one) for one in (outcomes, turned))
    assert (before[own] == after[own]).all()
    fold = fold_mates(outcomes, own)
    assert (before[fold] == after[fold]).all()
    assert (before[~fold] != after[~fold]).mean() > 0.9


def scores_by_question(outcomes: Outcomes) -> np.ndarray:
    """[N] held-out scores of the calibrator, kept or not."""
    scores = np.full(len(outcomes), np.nan)
    for part in fit_confidence(outcomes, version_2=False).choices[CALIBRATOR]:
        scores[part.outcomes.index] = part.confidence
    return scores


def fold_mates(outcomes: Outcomes, own: np.ndarray) -> np.ndarray:
    parts = fit_confidence(outcomes, version_2=False).choices[CALIBRATOR]
    (mates,) = [part.outcomes.index for part in parts if np.isin(np.flatnonzero(own), part.outcomes.index).all()]
    return np.isin(outcomes.index, mates)


def test_answers_that_win_have_a_bias_of_their_own() -> None:
    """Spans and "no answer" are right more often where they win than their probability says, and less where not."""
    windows = random_windows(6, 3000, 3.0)
    spans = decode_spans(windows, 1, 30)
    threshold = float(np.median(spans.null_score - spans.best_score))
    scaling = Scaling(threshold=threshold)
    nulls = decode_spans(windows, 1, 30, scaling).null_probability
    wins = spans.null_score - spans.best_score > threshold
    none = np.random.default_rng(7).random(3000) < np.where(wins, 0.75, 0.3)
    right = (np.random.default_rng(8).random(3000) < np.where(wins, 0.2, 0.7)) * ~none * 1.0
    outcomes = outcomes_of(windows, right, has_answer=~none)
    found = fit_calibrator(outcomes, scaling, version_2=True)
    for kind, weights in found.as_json().items():
        assert weights["leads"] > 1, kind
        assert weights["margin"] == weights["log_length"] == weights["null_odds"] == 0
    assert found.threshold == threshold
    is_null = wins.copy()
    probability = np.where(is_null, nulls, decode_spans(windows, 1, 30, scaling).probability)
    leads = found.leads(outcomes.null_odds, is_null)
    assert leads.all()
    scores = found.of(outcome_features(outcomes, probability, leads), probability, is_null)
    assert scores[is_null].mean() == pytest.approx(none[is_null].mean(), abs=0.02)
    assert scores[~is_null].mean() == pytest.approx(right[~is_null].mean(), abs=0.02)


def test_no_answer_has_weights_of_its_own() -> None:
    """Spans are right as their probability says; "no answer" is right half as often as its probability says."""
    windows = random_windows(6, 3000, 3.0)
    spans = decode_spans(windows, 1, 30)
    random = np.random.default_rng(6)
    scaling = Scaling(threshold=float(np.median(spans.null_score - spans.best_score)))
    probability = decode_spans(windows, 1, 30, scaling).null_probability
    none = random.random(3000) < probability / 2
    right = (random.random(3000) < 0.6) * ~none * 1.0
    outcomes = outcomes_of(windows, right, has_answer=~none)
    found = fit_calibrator(outcomes, scaling, version_2=True)
    every = np.ones(3000, bool)
    leads = found.leads(outcomes.null_odds, every)
    scores = found.of(outcome_features(outcomes, probability, leads), probability, every)
    assert probability.mean() > 1.8 * none.mean()
    assert scores.mean() == pytest.approx(none.mean(), rel=0.01)
    assert found.span != found.no_answer
    assert fit_calibrator(outcomes, Scaling(), version_2=False).no_answer is None
    assert fit_calibrator(outcomes.take(slice(49)), Scaling(), version_2=True) is None  # too few
    assert fit_calibrator(replace(outcomes, exact=np.zeros(3000)), Scaling(), version_2=True) is None
    assert set(found.as_json()["no_answer"]) == {"bias", "threshold", *FEATURES}


def test_the_fit_is_the_same_in_any_order_of_the_questions() -> None:
    outcomes = made(600, 1.5)
    order = np.random.default_rng(0).permutation(600)
    one, other = (fit_confidence(each, version_2=False).scaling for each in (outcomes, outcomes.take(order)))
    np.testing.assert_allclose(one.calibrator.span, other.calibrator.span, rtol=1e-9)
    assert fit_confidence(outcomes, version_2=False).scaling == one
