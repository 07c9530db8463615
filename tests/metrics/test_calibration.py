"""Calibration equals its definitions, written as loops, and torchmetrics; the temperature of known models is found."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error

from qa_lightning.metrics.calibration import (
    MIN_FOR_TEMPERATURE,
    TEMPERATURES,
    coverage_at_precision,
    fit_temperature,
    precision_recall,
    reliability,
    risk_coverage,
)

EXACTLY = {"abs": 1e-9, "rel": 0}
confidences = st.one_of(st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 0.9, 1.0]), st.floats(0, 1))
answers = st.lists(st.tuples(confidences, st.sampled_from([0.0, 0.4, 1.0])), max_size=20)


def error_of(*arguments, **options) -> float:
    return reliability(*arguments, **options).error


def columns(some):
    return [row[0] for row in some], [row[1] for row in some]


# --- reliability ---


@given(answers, st.integers(1, 20))
@settings(deadline=None)
@example([(0.0, 1.0), (1.0, 0.0)], 10)
def test_equal_width_error_is_the_definition(some, bins):
    total = 0.0
    for number in range(bins):
        low, high = np.linspace(0, 1, bins + 1)[number : number + 2]
        inside = [(c, r) for c, r in some if low < c <= high or (number == 0 and c == 0)]
        if inside:
            c, r = np.mean(inside, axis=0)
            total += len(inside) * abs(c - r)
    expected = total / len(some) if some else 0.0
    assert error_of(*columns(some), bins) == pytest.approx(expected, **EXACTLY)


@given(st.lists(st.tuples(st.integers(0, 14), st.floats(0.001, 0.999), st.sampled_from([0, 1])), min_size=1))
@settings(deadline=None)
def test_equal_width_error_is_that_of_torchmetrics(some):
    """Off the edges of bins: torchmetrics counts a confidence there to the upper bin, this package to the lower."""
    confidence = [(number + offset) / 15 for number, offset, _ in some]
    correct = [right for _, _, right in some]
    expected = binary_calibration_error(
        torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct), n_bins=15, norm="l1"
    )
    assert error_of(confidence, correct, 15) == pytest.approx(float(expected), **EXACTLY)


@given(answers, st.integers(1, 20), st.booleans(), st.randoms())
@settings(deadline=None)
def test_bins_hold_every_question_once_in_any_order(some, bins, adaptive, rng):
    found = reliability(*columns(some), bins, adaptive)
    assert found.count.sum() == len(some)
    assert (found.edges[0], found.edges[-1]) == (0.0, 1.0)
    assert len(found.edges) - 1 == len(found.count) == len(found.confidence) == len(found.accuracy) <= bins
    assert np.isnan(found.accuracy).tolist() == (found.count == 0).tolist()
    filled = found.count > 0
    assert (found.confidence[filled] <= found.edges[1:][filled] + 1e-12).all()
    assert (found.confidence[filled] >= found.edges[:-1][filled] - 1e-12).all()
    shuffled = list(some)
    rng.shuffle(shuffled)
    assert reliability(*columns(shuffled), bins, adaptive).count.tolist() == found.count.tolist()


def test_adaptive_bins_have_equal_mass():
    rng = np.random.default_rng(0)
    found = reliability(rng.random(1500) ** 8, rng.random(1500) < 0.5, 15, adaptive=True)
    assert found.count.tolist() == [100] * 15


def test_a_calibrated_model_has_little_error_and_an_overconfident_one_much():
    rng = np.random.default_rng(1)
    chance = rng.random(20_000)
    right = rng.random(20_000) < chance
    for adaptive in (False, True):
        assert error_of(chance, right, adaptive=adaptive) < 0.02
        assert error_of(np.sqrt(chance), right, adaptive=adaptive) == pytest.approx(1 / 6, abs=0.02)


# --- curves ---


@given(answers)
@settings(deadline=None)
@example([])
def test_curves_are_what_each_threshold_gives(some):
    sure, right = columns(some)
    levels = sorted(set(sure), reverse=True)
    risks, recalls = risk_coverage(sure, right), precision_recall(sure, right, 30)
    assert risks.confidence.tolist() == recalls.confidence.tolist() == levels
    for k, level in enumerate(levels):
        given_ = [r for c, r in some if c >= level]
        assert risks.coverage[k] == pytest.approx(len(given_) / len(some), **EXACTLY)
        assert risks.risk[k] == pytest.approx(1 - sum(given_) / len(given_), **EXACTLY)
        assert recalls.precision[k] == pytest.approx(sum(given_) / len(given_), **EXACTLY)
        assert recalls.recall[k] == pytest.approx(sum(given_) / 30, **EXACTLY)
    shares = np.diff(risks.coverage, prepend=0)
    assert risks.area == pytest.approx(sum(shares * risks.risk), **EXACTLY)


def test_area_is_the_mean_risk_over_ranks():
    rng = np.random.default_rng(2)
    sure, right = rng.random(50), rng.random(50) < 0.6
    ranked = right[np.argsort(-sure)]
    risks = [1 - ranked[: k + 1].mean() for k in range(50)]
    assert risk_coverage(sure, right).area == pytest.approx(np.mean(risks), **EXACTLY)


@given(answers, st.sampled_from([0.0, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0]))
@settings(deadline=None)
def test_no_threshold_answers_more_at_this_precision(some, precision):
    coverage, threshold = coverage_at_precision(*columns(some), precision)
    reached = {}
    for level in {c for c, _ in some}:
        given_ = [r for c, r in some if c >= level]
        if np.mean(given_) >= precision - 1e-12:
            reached[len(given_) / len(some)] = level
    assert coverage == pytest.approx(max(reached, default=0.0), **EXACTLY)
    assert threshold == (reached[max(reached)] if reached else math.inf)


def test_precision_is_reached_exactly():
    right = [1] * 55 + [0] * 45
    assert coverage_at_precision(np.linspace(1, 0, 100), right, 0.55)[0] == 1.0
    assert coverage_at_precision(np.linspace(1, 0, 100), right, 0.5501)[0] == 0.99
    assert coverage_at_precision([0.5] * 100, right, 0.9) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("right", "precision"), [([0.3, 0.1], 0.2), ([0.55, 0.1, 0.3], 0.95 / 3), ([0.55, 0.1], 0.325)]
)
def test_a_precision_that_scores_reach_but_for_rounding_is_reached(right, precision):
    confidence = np.linspace(1, 0, len(right))
    assert coverage_at_precision(confidence, right, precision) == (1.0, 0.0)
    assert coverage_at_precision(confidence, right, precision + 1e-9)[0] < 1.0


def test_confidences_that_only_rank_may_be_infinite():
    curve = risk_coverage([math.inf, 3.0, -math.inf, -math.inf], [1, 0, 0, 1])
    assert curve.coverage.tolist() == [0.25, 0.5, 1.0]
    assert curve.risk.tolist() == [0.0, 0.5, 0.5]


def test_recall_without_answerable_questions_is_zero():
    curve = precision_recall([0.2, 0.4], [0, 0], 0)
    assert curve.recall.tolist() == [0.0, 0.0]
    assert curve.average_precision == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reliability([1.5, 0.5], [1, 0]), "confidence: 1 value is outside 0-1, the first is 1.5 at index 0"),
        (lambda: reliability([0.5], [1], bins=0), "bins 0 must be at least 1"),
        (lambda: risk_coverage([math.nan], [1]), "confidence: 1 value is NaN, the first is nan at index 0"),
        (lambda: coverage_at_precision([0.5], [1], 90), "precision 90 must lie in 0-1"),
        (lambda: precision_recall([0.5, 0.5], [1, 1], 1), "total_answerable 1 is less than the 2 right answers"),
        (lambda: fit_temperature([1.0], [1.0], [1]), r"log_total has the shape \(1,\), not \[1, 25\]"),
        (lambda: fit_temperature([1.0], [[1.0, 1.0]], [1], [2, 1]), "positive, finite and increasing"),
        (lambda: fit_temperature([math.inf], [[1.0]], [1], [1]), "must be finite"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- temperature ---


def made_scores(count, temperature, seed=0, temperatures=TEMPERATURES):
    """Random scores of 30 spans, calibrated at ``temperature``: best score, log totals, whether the best is right."""
    rng = np.random.default_rng(seed)
    scores = rng.gumbel(size=(count, 30)) * 2.0 * temperature
    chances = np.exp(scores / temperature)
    share = chances.cumsum(1) / chances.sum(1, keepdims=True)
    truth = (share > rng.random((count, 1))).argmax(1)
    totals = np.stack([np.logaddexp.reduce(scores / each, axis=1) for each in temperatures], axis=1)
    return scores.max(1), totals, scores.argmax(1) == truth


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_a_known_temperature_is_found(temperature):
    score, totals, right = made_scores(4000, temperature)
    found = fit_temperature(score, totals, right)
    assert found == pytest.approx(temperature, rel=0.06)


def test_the_parabola_agrees_with_a_fine_grid():
    fine = np.geomspace(0.25, 16, 801)
    coarse = fit_temperature(*made_scores(2000, 2.2))
    assert coarse == pytest.approx(fit_temperature(*made_scores(2000, 2.2, temperatures=fine), fine), rel=0.005)


def test_the_found_temperature_mends_the_calibration():
    fine = np.geomspace(0.5, 8, 200)
    score, totals, right = made_scores(4000, 3.0, temperatures=fine)
    found = fit_temperature(score, totals, right, fine)
    errors = [
        error_of(np.exp(score / fine[k] - totals[:, k]), right)
        for k in (int(np.argmin(np.abs(fine - each))) for each in (1.0, found))
    ]
    assert errors[0] > 0.15
    assert errors[1] < 0.03


@pytest.mark.parametrize("right", [0, 1])
def test_answers_all_right_or_all_wrong_say_nothing(right):
    score, totals, _ = made_scores(200, 2.0)
    assert fit_temperature(score, totals, np.full(200, right)) == 1.0


def test_few_questions_say_nothing():
    score, totals, right = made_scores(MIN_FOR_TEMPERATURE, 2.0)
    assert fit_temperature(score, totals, right) != 1.0
    assert fit_temperature(score[1:], totals[1:], right[1:]) == 1.0
    assert fit_temperature([], np.zeros((0, len(TEMPERATURES))), []) == 1.0


def test_confidences_that_no_temperature_changes_say_nothing():
    totals = np.full((100, len(TEMPERATURES)), math.log(4))
    assert fit_temperature(np.zeros(100), totals, np.arange(100) % 4 == 0) == 1.0


def test_the_best_at_an_end_of_the_grid_is_that_end():
    temperatures = [0.5, 0.7, 1.0]
    assert fit_temperature(*made_scores(1000, 4.0, temperatures=temperatures), temperatures) == 1.0
    temperatures = [6.0, 8.0]
    assert fit_temperature(*made_scores(1000, 1.0, temperatures=temperatures), temperatures) == pytest.approx(6.0)


def test_a_wrong_answer_at_confidence_one_costs_but_breaks_nothing():
    score, totals, right = made_scores(500, 1.0)
    sure = np.append(score, 1000.0), np.vstack([totals, 1000.0 / TEMPERATURES]), np.append(right, False)
    assert 0.5 < fit_temperature(*sure) < 2.0
