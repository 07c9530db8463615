"""Intervals by the bootstrap: against theory, over articles, paired."""

from __future__ import annotations

import numpy as np
import pytest

from qa_lightning.metrics.bootstrap import MIN_ARTICLES, bootstrap, paired_bootstrap


def test_over_independent_questions_it_is_the_interval_of_theory() -> None:
    right = (np.random.default_rng(1).random(2000) < 0.6).astype(float)
    (found,) = bootstrap(right[:, None], [f"own {number}" for number in range(2000)])
    error = 1.96 * np.sqrt(found.mean * (1 - found.mean) / 2000)
    assert found.mean == right.mean()
    assert found.low == pytest.approx(found.mean - error, abs=0.15 * error)
    assert found.high == pytest.approx(found.mean + error, abs=0.15 * error)
    assert (found.unit, found.units, found.count) == ("articles", 2000, 2000)


def test_articles_whose_questions_are_alike_widen_it() -> None:
    """Ten articles, each all right or all wrong: the questions say no more than ten do."""
    article = np.repeat([str(number) for number in range(10)], 100).astype(object)
    right = np.repeat([1.0, 0, 1, 1, 0, 1, 0, 1, 1, 0], 100)
    (clustered,) = bootstrap(right[:, None], article)
    error = 1.96 * np.sqrt(0.6 * 0.4 / 10)
    assert clustered.high - clustered.low == pytest.approx(2 * error, rel=0.15)


def test_of_few_articles_questions_are_drawn() -> None:
    values = np.tile([1.0, 0.0], 100)[:, None]
    (few,) = bootstrap(values, ["a", "b"] * 100)
    assert (few.unit, few.units) == ("questions", 200)
    (enough,) = bootstrap(values, [str(number % MIN_ARTICLES) for number in range(200)])
    assert (enough.unit, enough.units) == ("articles", MIN_ARTICLES)


def test_columns_have_intervals_of_their_own_and_draws_are_repeated() -> None:
    values = np.random.default_rng(2).random((300, 2))
    article = [str(number % 30) for number in range(300)]
    found = bootstrap(values, article)
    assert [one.mean for one in found] == pytest.approx(values.mean(axis=0))
    assert found == bootstrap(values, article)
    assert found != bootstrap(values, article, seed=1)


def test_none_and_one_question_have_no_interval() -> None:
    (none,), (one,) = bootstrap(np.zeros((0, 1)), []), bootstrap(np.ones((1, 1)), ["a"])
    assert np.isnan([none.mean, none.low, none.high]).all()
    assert one.mean == 1
    assert np.isnan([one.low, one.high]).all()


def test_paired_it_sees_a_small_difference_that_single_intervals_hide() -> None:
    draw = np.random.default_rng(3)
    theirs = draw.random(1000)
    ours = theirs + 0.01 + 0.01 * draw.standard_normal(1000)
    article = [str(number % 40) for number in range(1000)]
    found = paired_bootstrap(ours, theirs, article)
    assert found.gain.low < 0.01 < found.gain.high
    assert found.is_clear
    assert found.better == 1
    alone = [bootstrap(one[:, None], article)[0] for one in (ours, theirs)]
    assert alone[0].low < alone[1].mean < alone[0].high
    turned = paired_bootstrap(theirs, ours, article)
    assert (turned.gain.low, turned.gain.high) == pytest.approx((-found.gain.high, -found.gain.low), abs=1e-3)
    assert turned.better == 0


def test_equal_models_do_not_differ() -> None:
    values = np.random.default_rng(4).random(100)
    found = paired_bootstrap(values, values, [str(number) for number in range(100)])
    assert (found.gain.mean, found.better, found.is_clear) == (0, 0.5, False)


def test_different_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="both must score the same questions"):
        paired_bootstrap([1.0, 0.0], [1.0], ["a", "b"])
