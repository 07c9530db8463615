"""Measures of scores, against their definitions; intervals hold the value."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from qa_lightning.metrics.bootstrap import bootstrap
from qa_lightning.metrics.calibration import coverage_at_precision, reliability
from qa_lightning.metrics.measures import AT_PRECISIONS, MEASURES, _weighted, measures


def drawn(count: int = 300, seed: int = 0):
    random = np.random.default_rng(seed)
    sure = np.round(random.random(count), 2)  # with ties
    return sure, (random.random(count) < sure) * 1.0, [f"a{number % 12}" for number in range(count)]


def by_definition(sure: np.ndarray, right: np.ndarray) -> list[float]:
    good, bad = sure[right == 1], sure[right == 0]
    pairs = (good[:, None] > bad).mean() + (good[:, None] == bad).mean() / 2
    macro = ((1 - good).mean() + bad.mean()) / 2
    coverage = [coverage_at_precision(sure, right, each)[0] for each in AT_PRECISIONS]
    edges = np.linspace(0, 1, 16)
    bins = [(sure > low) & (sure <= high) for low, high in pairwise(edges)]
    bins[0] |= sure == 0
    by_chance = sum(np.sqrt(2 / np.pi * (sure[one] * (1 - sure[one])).sum()) for one in bins) / len(sure)
    return [reliability(sure, right).error, by_chance, macro, ((sure - right) ** 2).mean(), pairs, *coverage]


@pytest.mark.parametrize("seed", range(5))
def test_measures_are_as_defined(seed: int) -> None:
    sure, right, articles = drawn(seed=seed)
    found = measures(sure, right, articles)
    assert tuple(found) == MEASURES
    np.testing.assert_allclose([one.mean for one in found.values()], by_definition(sure, right), atol=1e-12)
    assert all(one.low <= one.mean <= one.high for name, one in found.items() if "error" not in name)
    assert {(one.unit, one.units, one.count) for one in found.values()} == {("articles", 12, 300)}


def test_a_question_of_weight_2_counts_as_two_questions() -> None:
    sure, right, _ = drawn(60)
    weights = np.random.default_rng(1).integers(0, 4, 60)
    twice = np.repeat(np.arange(60), weights)
    np.testing.assert_allclose(
        _weighted(sure, right)(weights[None] * 1.0)[0], by_definition(sure[twice], right[twice]), atol=1e-12
    )


def test_the_interval_of_a_mean_is_that_of_the_bootstrap_of_means() -> None:
    sure, right, articles = drawn()
    found = measures(sure, right, articles)["brier"]
    (wanted,) = bootstrap(((sure - right) ** 2)[:, None], articles)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@pytest.mark.parametrize("count", [100, 1000, 10_000])
def test_the_error_by_chance_is_that_of_answers_that_are_right_as_often_as_their_scores_say(count: int) -> None:
    random = np.random.default_rng(count)
    sure = random.beta(1.2, 1.0, count)
    errors = [reliability(sure, random.random(count) < sure).error for _ in range(300)]
    found = measures(sure, random.random(count) < sure, ["a"] * count)["expected_calibration_error_by_chance"]
    assert found.mean == pytest.approx(np.mean(errors), rel=0.08)


def test_what_is_not_known_is_not_a_number() -> None:
    found = measures([0.5, 0.7, 0.9], [1, 1, 1], ["a", "b", "c"])
    assert np.isnan(found["auroc"].mean)
    assert np.isnan(found["macro_calibration_error"].low)
    assert found["answered_at_90_precision"].mean == 1.0
    (single,) = {one.is_known for one in measures([0.5], [1.0], ["a"]).values()}
    assert not single
