"""A calibrator keeps the order of a question's answers, and reads the same of an answer wherever it is decoded."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qa_lightning.decoding.calibrator import FEATURES, Calibrator, features, is_calibrator, rescaled
from qa_lightning.decoding.predictions import Predictions, Rows
from qa_lightning.decoding.spans import decode_spans
from tests.helpers.decoding import random_windows

MADE = Calibrator((0.3, 0.7, 0.1, -0.2, -0.05, 0.2), (-0.5, 1.2, 0.0, 0.1, 0.3, -0.4), 0.5)


def cases(random: np.random.Generator):
    """Raw probabilities and the probability that the best one is right: plain ones, and the edges."""
    for _ in range(3000):
        count = int(random.integers(1, 8))
        weights = random.exponential(size=count) ** random.choice([0.2, 1.0, 5.0, 40.0])
        raw = weights / weights.sum() * random.choice([1.0, 0.9, 1e-3, 1e-300, random.random()])
        if count > 2 and random.random() < 0.3:
            raw[1] = raw[2] = min(raw[1], raw[2])  # ties
        right = float(random.choice([0.0, 1.0, 1e-12, 1 - 1e-12, random.random(), raw.max()]))
        yield raw, right
    yield np.array([1.0, 0.0]), 0.2
    yield np.array([1.0, 0.0]), 1.0
    yield np.array([0.5, 0.5]), 0.3
    yield np.array([0.5, 0.5]), 0.7
    yield np.zeros(3), 0.5
    yield np.full(3, 5e-324), 0.5


def test_the_order_stays_and_the_sum_is_at_most_1_whatever_the_best_answer_gets() -> None:
    for raw, right in cases(np.random.default_rng(0)):
        best = int(np.argmax(raw))
        found = rescaled(raw, best, right)
        assert found[best] == right
        assert ((found >= 0) & (found <= right)).all(), (raw, right, found)
        assert found.sum() <= 1 + 1e-12, (raw, right, found)
        ranked = np.argsort(-raw, kind="stable")
        assert (np.diff(found[ranked]) <= 0).all(), (raw, right, found)  # no pair changes places
        others = np.delete(np.arange(len(raw)), best)
        if right > 1e-9 and right < 1 - 1e-9 and raw.min() > 1e-200:
            np.testing.assert_allclose(found[others] * raw[others].sum(), raw[others] * found[others].sum(), rtol=1e-9)


def test_a_calibrator_that_changes_nothing_gives_probabilities_and_rescales_to_them() -> None:
    unchanged = Calibrator((0.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    raw = np.array([0.002, 0.2, 0.5, 0.998])
    found = features(raw, 3.0, 5, -2.0, 1.0)
    np.testing.assert_allclose(unchanged.of(found, raw, np.zeros(4, bool)), raw, atol=1e-12)
    np.testing.assert_allclose(rescaled([0.5, 0.3, 0.1], 0, 0.5), [0.5, 0.3, 0.1], atol=1e-15)


def test_features_are_finite_whatever_an_answer_is() -> None:
    found = features([0.0, 1.0, 0.5], [np.inf, -np.inf, 0.0], [0, 1, 10**6], [np.inf, -np.inf, 0.0], 1)
    assert np.isfinite(found).all()
    assert found.shape == (3, len(FEATURES))


def test_a_kind_without_weights_keeps_its_probabilities() -> None:
    raw, null = np.array([0.4, 0.6]), np.array([False, True])
    found = replace(MADE, no_answer=None).of(features(raw, 1.0, 5, 0.0, 1.0), raw, null)
    assert found[1] == 0.6
    assert found[0] != 0.4


def test_weights_are_the_same_after_json() -> None:
    random = np.random.default_rng(1)
    for no_answer in (True, False):
        weights = [tuple(random.normal(size=1 + len(FEATURES)).tolist()) for _ in range(2)]
        made = Calibrator(weights[0], weights[1], float(random.normal())) if no_answer else Calibrator(weights[0])
        saved = json.loads(json.dumps(made.as_json()))
        assert is_calibrator(saved)
        assert Calibrator.of_json(saved) == made
    assert Calibrator.of_json({}) is None


def test_one_of_an_older_version_does_as_it_did() -> None:
    weights = {"bias": 0.3, "log_odds": 0.7, "margin": 0.1, "log_length": -0.2, "null_odds": -0.05}
    saved = {"span": weights, "no_answer": weights}
    assert is_calibrator(saved)
    found = Calibrator.of_json(saved)
    assert found == Calibrator((*weights.values(), 0.0), (*weights.values(), 0.0))


def test_an_answer_leads_on_its_side_of_the_threshold_and_always_without_a_rival() -> None:
    odds, null = np.array([-3.0, 0.4, 0.6, 7.0] * 2), np.array([False] * 4 + [True] * 4)
    assert MADE.leads(odds, null).tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    assert Calibrator(MADE.span).leads(odds, null).tolist() == [1] * 8
    raw = np.full(8, 0.4)
    plain = replace(MADE, span=(*MADE.span[:-1], 0.0), no_answer=(*MADE.no_answer[:-1], 0.0))
    found = features(raw, 1.0, 5, odds, MADE.leads(odds, null))
    of = [np.log(one / (1 - one)) for one in (made.of(found, raw, null) for made in (MADE, plain))]
    np.testing.assert_allclose(of[0] - of[1], [0.2, 0.2, 0, 0, 0, 0, -0.4, -0.4], atol=1e-12)


GIVEN = MADE.as_json()["span"]


@pytest.mark.parametrize(
    "broken",
    [{"span": {}}, {"span": 1}, {"spans": GIVEN}, {"span": GIVEN | {"x": 1.0}}, {"span": GIVEN | {"bias": np.nan}}],
)
def test_what_is_no_calibrator_is_seen(broken) -> None:
    assert not is_calibrator(broken)


@pytest.mark.parametrize("n_best", [1, 2, 20])
def test_the_second_best_span_is_known_however_many_are_listed(n_best: int) -> None:
    windows = random_windows(3, 30, 2.0)
    whole = decode_spans(windows, 50, 30)
    found = decode_spans(windows, n_best, 30)
    listed = zip(whole.offset, whole.count, strict=True)
    wanted = [whole.score[begin + 1] if count > 1 else -np.inf for begin, count in listed]
    assert found.second_score.tolist() == wanted
    assert (found.count == np.minimum(whole.count, n_best)).all()


@pytest.mark.parametrize("version_2", [False, True])
def test_one_span_is_read_as_each_of_many_is(version_2: bool) -> None:
    spans = decode_spans(random_windows(4, 40, 2.0), 5, 30)
    for chosen in (0, -1):
        right = spans.right(np.full(40, chosen), MADE)
        for number in range(40):
            own = spans.probability[spans.offset[number]] if chosen == 0 else spans.null_probability[number]
            best = spans.best_span(number)
            assert best.right(float(own), chosen < 0, MADE) == pytest.approx(right[number], abs=1e-12)
    assert (spans.right(np.zeros(40, int), None) == spans.probability[spans.offset]).all()


@pytest.mark.parametrize("version_2", [False, True])
def test_answers_and_candidates_have_calibrated_scores_in_the_same_order(version_2: bool) -> None:
    spans = decode_spans(random_windows(5, 40, 1.0), 5, 30)
    rows = Rows([{"id": str(number), "question": "?", "context": "x" * 500} for number in range(40)])
    raw = Predictions(rows, np.arange(40), spans, version_2)
    made = replace(raw, calibrator=MADE)
    changed = 0
    for (number, example, before), (_, _, answer) in zip(raw.rows(), made.rows(), strict=True):
        assert replace(answer, score=0) == replace(before, score=0)
        changed += answer.score != before.score
        plain, candidates = raw.n_best(number, example), made.n_best(number, example)
        assert [one["text"] for one in candidates] == [one["text"] for one in plain]
        order = np.argsort([-one["probability"] for one in plain], kind="stable")
        found = np.array([one["probability"] for one in candidates])[order]
        assert (np.diff(found) <= 0).all()
        assert found[0] == answer.score
    assert changed == 40
