from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.decoding import spans
from qa_lightning.decoding.spans import Scaling, WindowLogits, decode_spans
from qa_lightning.metrics.calibration import TEMPERATURES
from tests.helpers.decoding import random_windows

PLAIN = Scaling()


def brute_force(
    logits: WindowLogits, n_best: int, max_answer_length: int, scaling: Scaling = PLAIN, min_probability=np.inf
):
    """Score every pair of tokens of every window, one by one; probabilities are over all pairs and null."""
    offsets = np.cumsum(logits.length) - logits.length
    results = []
    for example in range(int(logits.example.max()) + 1):
        places: dict[tuple[int, int], float] = {}
        scores, nulls = [], []
        for window in np.flatnonzero(logits.example == example):
            nulls.append(float(logits.null[window]))
            for s in range(logits.length[window]):
                for e in range(s, min(s + max_answer_length, logits.length[window])):
                    i, j = offsets[window] + s, offsets[window] + e
                    if any(logits.char_end[k] <= logits.char_start[k] for k in (i, j)):
                        continue
                    score = float(logits.start[i]) + float(logits.end[j])
                    if score == -np.inf:
                        continue
                    scores.append(score)
                    place = (int(logits.char_start[i]), int(logits.char_end[j]))
                    places[place] = max(places.get(place, -np.inf), score)
        null = min(nulls)
        heat = scaling.temperature
        own = (null - scaling.threshold) / heat
        total = np.logaddexp.reduce([*(score / heat for score in scores), own])
        every = sorted(places.items(), key=lambda item: (-item[1], item[0]))
        best = [(*place, score, np.exp(score / heat - total)) for place, score in every]
        results.append(
            (
                [row for rank, row in enumerate(best) if rank < n_best or row[-1] >= min_probability],
                null,
                np.exp(own - total),
                [np.logaddexp.reduce([-np.inf, *(score / each for score in scores)]) for each in scaling.temperatures],
            )
        )
    return results


def assert_equal_to_brute_force(
    logits: WindowLogits, n_best: int, max_answer_length: int, scaling: Scaling = PLAIN, min_probability=np.inf
) -> None:
    found = decode_spans(logits, n_best, max_answer_length, scaling, min_probability)
    expected = brute_force(logits, n_best, max_answer_length, scaling, min_probability)
    assert len(found.count) == len(expected)
    assert found.log_spans.shape == (len(expected), len(scaling.temperatures))
    for example, (best, null, null_probability, log_spans) in enumerate(expected):
        own = slice(int(found.offset[example]), int(found.offset[example] + found.count[example]))
        assert list(zip(found.char_start[own], found.char_end[own], strict=True)) == [row[:2] for row in best]
        np.testing.assert_allclose(found.score[own], [row[2] for row in best], rtol=1e-12)
        np.testing.assert_allclose(found.probability[own], [row[3] for row in best], rtol=1e-9, atol=1e-300)
        assert found.null_score[example] == null
        assert found.null_probability[example] == pytest.approx(null_probability, rel=1e-9)
        np.testing.assert_allclose(found.log_spans[example], log_spans, rtol=1e-9, atol=1e-9)


@st.composite
def windows(draw: st.DrawFn) -> WindowLogits:
    """Examples of 1 to 3 overlapping windows, with ties, masked tokens, and empty or identical character spans."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.0, 1.0, 30.0, 400.0]))
    ties = draw(st.booleans())
    example, length, char_start, char_end = [], [], [], []
    for number in range(draw(st.integers(1, 4))):
        tokens = int(random.integers(1, 12))
        starts = np.sort(random.integers(0, 15 if ties else 60, tokens))
        ends = starts + random.integers(0 if draw(st.booleans()) else 1, 5, tokens)
        begin = 0
        for _ in range(int(random.integers(1, 4))):
            size = int(random.integers(0, tokens - begin + 1))
            example.append(number)
            length.append(size)
            char_start.append(starts[begin : begin + size])
            char_end.append(ends[begin : begin + size])
            begin = int(random.integers(begin, begin + size + 1))
            begin = min(begin, tokens)
    total = sum(length)
    start, end = random.normal(size=(2, total)) * scale
    if ties:
        start, end = np.round(start), np.round(end)
    start[random.random(total) < 0.05] = -np.inf
    return WindowLogits(
        np.array(example),
        np.array(length),
        start.astype(np.float32),
        end.astype(np.float32),
        np.concatenate(char_start).astype(np.int32),
        np.concatenate(char_end).astype(np.int32),
        random.normal(size=len(example)).astype(np.float32) * np.float32(scale),
    )


heats = st.floats(0.2, 8.0)
halves = st.permutations([4.0, 2.0, 1.0, 0.5, 0.25, 3.0, 2.0])  # of each other, out of order, and one twice
scalings = st.builds(Scaling, heats, st.floats(-9, 9), st.one_of(st.lists(heats, max_size=3), halves).map(tuple))


@settings(max_examples=300, deadline=None)
@given(
    windows(),
    st.integers(1, 25),
    st.integers(1, 12),
    st.one_of(st.just(Scaling()), scalings),
    st.sampled_from([np.inf, 0.0517, 0.00317, 1e-9]),
)
def test_equals_brute_force(
    logits: WindowLogits, n_best: int, max_answer_length: int, scaling: Scaling, min_probability: float
) -> None:
    assert_equal_to_brute_force(logits, n_best, max_answer_length, scaling, min_probability)


@pytest.mark.parametrize("broken", [0.0, -1.0, np.inf, np.nan])
def test_temperatures_that_are_none_are_refused(broken: float) -> None:
    for scaling in (Scaling(temperature=broken), Scaling(temperatures=(1.0, broken))):
        with pytest.raises(ValueError, match="temperatures must be finite and above 0"):
            decode_spans(random_windows(0, 1), scaling=scaling)


@pytest.mark.parametrize("broken", [0.0, -1.0, np.nan])
def test_a_least_probability_that_is_none_is_refused(broken: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        decode_spans(random_windows(0, 1), min_probability=broken)


@pytest.mark.parametrize("scale", [1.0, 12.0])
@pytest.mark.parametrize("n_best", [1, 20])
def test_equals_brute_force_on_overlapping_windows(scale: float, n_best: int) -> None:
    assert_equal_to_brute_force(random_windows(1, 60, scale), n_best, 30)


@pytest.mark.parametrize("width", [1, 7, 30, 60])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_sums_at_the_temperatures_of_a_fit_equal_brute_force(width: int, scale: float) -> None:
    """They are squares of each other, up to six times over, which costs no digit that counts."""
    logits = random_windows(5, 12, scale)
    scaling = Scaling(temperatures=tuple(TEMPERATURES.tolist()))
    found, expected = decode_spans(logits, 1, width, scaling), brute_force(logits, 1, width, scaling)
    np.testing.assert_allclose(found.log_spans, [row[3] for row in expected], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tokens", [1, 100, 3000])
def test_an_example_gets_the_same_to_the_last_digit_whatever_is_decoded_with_it(
    monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    """So the number of processes, which decides that, changes nothing; one token a chunk decodes each alone."""
    logits = random_windows(2, 80)
    far = int(logits.length[: np.flatnonzero(logits.length == 40)[5]].sum())
    logits.end[far + 4], logits.start[far + 20] = 5e4, 5e4  # which pair with nothing: their example takes logarithms
    scaling = Scaling(temperatures=tuple(TEMPERATURES.tolist()))
    whole = decode_spans(logits, scaling=scaling)
    monkeypatch.setattr(spans, "_CHUNK_TOKENS", tokens)
    chunked = decode_spans(logits, scaling=scaling)
    for name in spans.Spans.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(whole, name), getattr(chunked, name))


def test_probabilities_of_all_spans_and_null_sum_to_one() -> None:
    found = decode_spans(random_windows(3, 10), n_best=10**6)
    # A character span in two windows is listed once, with its better score: the sum may be below 1, never above.
    for example in range(10):
        own = slice(int(found.offset[example]), int(found.offset[example] + found.count[example]))
        assert found.probability[own].sum() + found.null_probability[example] <= 1 + 1e-9
    single = WindowLogits(
        np.array([0]), np.array([3]), np.zeros(3), np.zeros(3), np.arange(3) * 2, np.arange(3) * 2 + 1, np.zeros(1)
    )
    found = decode_spans(single, n_best=10)
    assert found.count.tolist() == [6]
    assert found.probability.sum() + found.null_probability[0] == pytest.approx(1)


def test_best_span_outside_the_top_twenty_starts_and_ends_is_found() -> None:
    """25 high starts come after 25 high ends and cannot pair; the best pair uses neither, so top 20 by 20 misses it."""
    start, end = np.full(60, -5.0), np.full(60, -5.0)
    start[35:60], end[0:25] = 10.0, 10.0
    start[30], end[31] = 9.0, 9.0
    place = np.arange(60) * 3
    found = decode_spans(
        WindowLogits(np.array([0]), np.array([60]), start, end, place, place + 2, np.zeros(1)), n_best=1
    )
    assert (found.char_start[0], found.char_end[0], found.score[0]) == (90, 95, 18.0)


def test_ties_go_to_the_first_in_reading_order() -> None:
    place = np.arange(4) * 2
    flat = WindowLogits(np.array([0]), np.array([4]), np.zeros(4), np.zeros(4), place, place + 1, np.zeros(1))
    found = decode_spans(flat, n_best=5, max_answer_length=3)
    assert list(zip(found.char_start, found.char_end, strict=True)) == [(0, 1), (0, 3), (0, 5), (2, 3), (2, 5)]


@pytest.mark.parametrize(
    ("length", "char_end"), [([0], []), ([2], [0, 1])], ids=["no context token", "tokens that cover nothing"]
)
def test_window_without_a_valid_span_has_none(length: list[int], char_end: list[int]) -> None:
    tokens = sum(length)
    logits = WindowLogits(
        np.array([0]),
        np.array(length),
        np.ones(tokens),
        np.ones(tokens),
        np.arange(tokens),
        np.array(char_end, int),
        np.ones(1),
    )
    found = decode_spans(logits)
    assert found.count.tolist() == [0]
    assert found.best_score.tolist() == [-np.inf]
    assert found.null_probability.tolist() == [1.0]


def test_no_windows() -> None:
    none = np.zeros(0)
    assert (
        len(decode_spans(WindowLogits(*[none.astype(int)] * 2, none, none, *[none.astype(int)] * 2, none)).count) == 0
    )


def test_bad_arguments() -> None:
    logits = random_windows(4, 3)
    with pytest.raises(ValueError, match="n_best 0"):
        decode_spans(logits, n_best=0)
    logits.start[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        decode_spans(logits)
    with pytest.raises(ValueError, match="in order of example"):
        decode_spans(
            WindowLogits(
                logits.example[::-1],
                *(getattr(logits, name) for name in ("length", "start", "end", "char_start", "char_end", "null")),
            )
        )
