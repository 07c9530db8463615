"""Ensembles against a brute force: plain loops over all spans, each model's softmax, the mean of the probabilities."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.decoding import pairs, spans
from qa_lightning.decoding.spans import Scaling, Spans, WindowLogits, decode_spans
from qa_lightning.metrics.calibration import TEMPERATURES
from tests.helpers.decoding import random_windows


def joined(models: list[WindowLogits]) -> WindowLogits:
    """The logits of several models for the same windows."""
    columns = {name: np.stack([getattr(one, name) for one in models], -1) for name in ("start", "end", "null")}
    return replace(models[0], **columns)


def softmax(scores: list[float]) -> list[float]:
    top = max(scores, default=0.0)
    weights = [math.exp(score - top) for score in scores]
    return [weight / sum(weights) for weight in weights]


def brute_force(logits: WindowLogits, scaling: Scaling, max_answer_length: int):
    """Of each example: span -> best mean probability, that of "no answer", and those of all pairs of tokens."""
    offsets = np.cumsum(logits.length) - logits.length
    for example in range(int(logits.example.max()) + 1):
        places, of_models = [], [[] for _ in scaling.of_models]
        nulls = [math.inf for _ in scaling.of_models]
        for window in np.flatnonzero(logits.example == example).tolist():
            nulls = [min(own, float(found)) for own, found in zip(nulls, logits.null[window], strict=True)]
            for i in range(offsets[window], offsets[window] + logits.length[window]):
                for j in range(i, min(i + max_answer_length, offsets[window] + logits.length[window])):
                    if all(logits.char_end[k] > logits.char_start[k] for k in (i, j)):
                        places.append((int(logits.char_start[i]), int(logits.char_end[j])))
                        for model, scores in enumerate(of_models):
                            scores.append(float(logits.start[i, model]) + float(logits.end[j, model]))
        each = [
            softmax([score / heat for score in [*scores, null]])
            for scores, null, heat in zip(of_models, nulls, scaling.of_models, strict=True)
        ]
        *means, null = [math.fsum(column) / len(each) for column in zip(*each, strict=True)]
        best: dict[tuple[int, int], float] = {}
        for place, mean in zip(places, means, strict=True):
            best[place] = max(best.get(place, 0.0), mean)
        yield best, null, means


def assert_equal_to_brute_force(
    logits: WindowLogits, scaling: Scaling, n_best: int, max_answer_length: int, least: float = np.inf
) -> None:
    found = decode_spans(logits, n_best, max_answer_length, scaling, least)
    unit = math.fsum(scaling.of_models) / len(scaling.of_models)
    for number, (best, null, means) in enumerate(brute_force(logits, scaling, max_answer_length)):
        own = slice(int(found.offset[number]), int(found.offset[number] + found.count[number]))
        power = unit / scaling.temperature
        weights = {place: mean**power for place, mean in best.items()}
        null_weight = null**power * math.exp(-scaling.threshold / scaling.temperature)
        total = math.fsum(mean**power for mean in means) + null_weight
        logs = {place: math.log(mean) if mean else -math.inf for place, mean in best.items()}
        ordered = sorted(weights, key=lambda place: (-logs[place], place))
        wanted = [place for rank, place in enumerate(ordered) if rank < n_best or weights[place] / total >= least]
        listed = list(zip(found.char_start[own].tolist(), found.char_end[own].tolist(), strict=True))
        if listed != wanted:  # sums in another order may rank those the other way whose logarithms differ by 1e-9
            assert len({*listed}) == len(listed) == len(wanted)
            np.testing.assert_allclose([logs[one] for one in listed], [logs[one] for one in wanted], atol=1e-9)
            assert all(one < other for one, other in pairwise(listed) if logs[one] == logs[other])
            wanted = listed
        np.testing.assert_allclose(found.probability[own], [weights[place] / total for place in wanted], rtol=1e-9)
        np.testing.assert_allclose(found.score[own], [unit * math.log(best[place]) for place in wanted], atol=1e-9)
        assert found.null_score[number] == pytest.approx(unit * math.log(null), abs=1e-9)
        assert found.null_probability[number] == pytest.approx(null_weight / total, rel=1e-9)
        for sums, heat in zip(found.log_spans[number], scaling.temperatures, strict=True):
            expected = math.fsum(mean ** (unit / heat) for mean in means)
            assert sums == pytest.approx(math.log(expected) if expected else -math.inf, abs=1e-9)


@st.composite
def ensembles(draw: st.DrawFn) -> tuple[WindowLogits, Scaling]:
    """1 to 4 examples of 1 to 3 ragged windows, read by 1 to 3 models; ties, tokens without characters."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    models, ties = draw(st.integers(1, 3)), draw(st.booleans())
    example, length, char_start, char_end = [], [], [], []
    for number in range(draw(st.integers(1, 4))):
        tokens = int(random.integers(1, 14))
        starts = np.sort(random.integers(0, 15 if ties else 60, tokens))
        ends = starts + random.integers(0 if draw(st.booleans()) else 1, 5, tokens)
        begin = 0
        for _ in range(int(random.integers(1, 4))):
            size = int(random.integers(0, tokens - begin + 1))
            example.append(number)
            length.append(size)
            char_start.append(starts[begin : begin + size])
            char_end.append(ends[begin : begin + size])
            begin = min(tokens, int(random.integers(begin, begin + size + 1)))
    scale = draw(st.sampled_from([0.0, 1.0, 6.0]))
    start, end = random.normal(size=(2, sum(length), models)) * scale
    null = random.normal(size=(len(example), models)) * scale
    if ties:
        start, end, null = np.round(start), np.round(end), np.round(null)
    heats = tuple(draw(st.lists(st.floats(0.5, 3.0), min_size=models, max_size=models)))
    mean = math.fsum(heats) / models
    temperature = draw(st.sampled_from([mean, 1.0, 0.7, 2.3]))
    scaling = Scaling(temperature, draw(st.sampled_from([0.0, -2.5, 1.25])), (mean, 0.5, 1.0, 1.7), heats)
    wide = (values.astype(np.float32) for values in (start, end))
    offsets = (np.concatenate(values).astype(np.int32) for values in (char_start, char_end))
    return WindowLogits(np.array(example), np.array(length), *wide, *offsets, null.astype(np.float32)), scaling


@settings(max_examples=300, deadline=None)
@given(ensembles(), st.integers(1, 25), st.integers(1, 12), st.sampled_from([np.inf, 0.0517, 0.00317]))
def test_equals_brute_force(
    asked: tuple[WindowLogits, Scaling], n_best: int, max_answer_length: int, least: float
) -> None:
    assert_equal_to_brute_force(*asked, n_best, max_answer_length, least)


@pytest.mark.parametrize("models", [1, 2, 3])
def test_equals_brute_force_on_longer_windows(models: int) -> None:
    logits = joined([random_windows(9, 4, scale=2.0), *(_like(random_windows(9, 4), seed) for seed in range(models))])
    heats = (1.0, 0.8, 1.7, 1.2)[: models + 1]
    for temperature in (math.fsum(heats) / len(heats), 1.3):
        assert_equal_to_brute_force(logits, Scaling(temperature, 0.5, (0.5, 2.0), heats), 20, 30)


def _like(windows: WindowLogits, seed: int) -> WindowLogits:
    """Other logits for the same windows."""
    random = np.random.default_rng(seed)
    start, end = random.normal(size=(2, len(windows.start))) * 3
    return replace(windows, start=start, end=end, null=random.normal(size=len(windows.null)))


def assert_alike(one: Spans, other: Spans, tolerance: float) -> None:
    for name in ("count", "char_start", "char_end"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("probability", "null_probability"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        one.null_score - one.best_score, other.null_score - other.best_score, rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("scale", [1.0, 12.0, 200.0])
@pytest.mark.parametrize(("temperature", "threshold"), [(1.0, 0.0), (1.7, -2.0), (0.3, 4.0)])
def test_the_same_model_twice_answers_as_it_does_alone(scale: float, temperature: float, threshold: float) -> None:
    """At the model's own temperature, and at one that was fitted to the ensemble, or to the model."""
    alone = random_windows(4, 60, scale)
    twice = joined([alone, alone])
    for own in (temperature, 1.0):
        wanted = decode_spans(alone, 20, 30, Scaling(temperature, threshold))
        assert_alike(decode_spans(twice, 20, 30, Scaling(temperature, threshold, (), (own, own))), wanted, 1e-9)


def test_what_is_far_below_the_best_is_still_told_apart() -> None:
    """Where one model is sure, probabilities below 1e-300 are those of the other, or of neither."""
    one = random_windows(4, 20, 2000.0)
    two = _like(one, 3)
    found = decode_spans(joined([one, two]), 50, 30, Scaling(of_models=(1.0, 1.0)))
    assert np.isfinite(found.score).all()
    assert len(np.unique(found.score)) > 0.9 * len(found.score)
    assert (found.probability <= 1 + 1e-9).all()
    assert not np.isnan(found.null_score).any()


def test_the_order_of_models_changes_nothing_but_the_last_digits() -> None:
    models = [_like(random_windows(2, 40), seed) for seed in range(3)]
    heats = (0.6, 1.0, 1.9)
    whole = None
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        scaling = Scaling(1.4, 0.2, tuple(TEMPERATURES.tolist()), tuple(heats[number] for number in order))
        found = decode_spans(joined([models[number] for number in order]), scaling=scaling)
        whole = whole or found
        for name in Spans.__dataclass_fields__:
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-12)


@pytest.mark.parametrize("tokens", [3, 300])
def test_an_example_gets_the_same_to_the_last_digit_whatever_is_decoded_with_it(monkeypatch, tokens: int) -> None:
    logits = joined([_like(random_windows(2, 60), seed) for seed in range(3)])
    scaling = Scaling(1.4, 0.2, tuple(TEMPERATURES.tolist()), (0.6, 1.0, 1.9))
    whole = decode_spans(logits, scaling=scaling)
    monkeypatch.setattr(spans, "_CHUNK_TOKENS", tokens)
    monkeypatch.setattr(pairs, "_BLOCK", 100)
    chunked = decode_spans(logits, scaling=scaling)
    for name in Spans.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(whole, name), getattr(chunked, name))


def test_ties_go_to_the_first_in_reading_order() -> None:
    place = np.arange(4) * 2
    flat = np.zeros((4, 3))
    logits = WindowLogits(np.array([0]), np.array([4]), flat, flat, place, place + 1, np.zeros((1, 3)))
    found = decode_spans(logits, 5, 3, Scaling(of_models=(1.0, 2.0, 3.0)))
    assert list(zip(found.char_start, found.char_end, strict=True)) == [(0, 1), (0, 3), (0, 5), (2, 3), (2, 5)]


def test_the_best_span_need_not_be_that_of_any_start_and_end() -> None:
    """Two models agree on no start and no end but on one span, which neither puts first."""
    start, end = np.full((3, 2), -9.0), np.full((3, 2), -9.0)
    start[0, 0] = end[0, 0] = start[2, 1] = end[2, 1] = 5.0  # each is sure of a span of its own
    start[1] = end[1] = 4.9  # and nearly as sure of the same one
    place = np.arange(3) * 2
    logits = WindowLogits(np.array([0]), np.array([3]), start, end, place, place + 1, np.full((1, 2), -9.0))
    alone = [replace(logits, start=start[:, k], end=end[:, k], null=np.full(1, -9.0)) for k in (0, 1)]
    assert [int(decode_spans(one, 1).char_start[0]) for one in alone] == [0, 4]
    found = decode_spans(logits, 1, scaling=Scaling(of_models=(1.0, 1.0)))
    assert (found.char_start[0], found.char_end[0]) == (2, 3)


def test_a_window_without_a_valid_span_has_none() -> None:
    logits = WindowLogits(
        np.array([0]), np.array([1]), *[np.ones((1, 2))] * 2, *[np.zeros(1, int)] * 2, np.ones((1, 2))
    )
    found = decode_spans(logits, scaling=Scaling(2.0, temperatures=(1.0,), of_models=(1.0, 1.0)))
    assert found.count.tolist() == [0]
    assert found.null_probability.tolist() == [1.0]
    assert found.log_spans.tolist() == [[-np.inf]]


def test_logits_of_another_number_of_models_are_refused() -> None:
    with pytest.raises(ValueError, match="not those of the models"):
        decode_spans(random_windows(1, 2), scaling=Scaling(of_models=(1.0, 1.0)))
    with pytest.raises(ValueError, match="not those of the models"):
        decode_spans(joined([random_windows(1, 2)] * 2), scaling=Scaling(of_models=(1.0,)))
    with pytest.raises(ValueError, match="finite and above 0"):
        decode_spans(joined([random_windows(1, 2)] * 2), scaling=Scaling(of_models=(1.0, 0.0)))
