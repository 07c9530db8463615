"""Decoding batch by batch gives the same result as decoding all logits at once, in any order and split."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qa_lightning.decoding.decoder import (
    BestSpans,
    Decoded,
    Decoder,
    FeatureLogits,
    LogitsCopy,
    LossSum,
    complete_rows,
    join_windows,
)
from qa_lightning.decoding.predictions import Predictions, Rows
from qa_lightning.decoding.sharing import Processes, all_at_first, own_share
from qa_lightning.decoding.spans import Spans, WindowLogits, decode_spans
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower, WindowSettings
from tests.helpers.data import make_rows
from tests.helpers.decoding import predict
from tests.helpers.models import small_tokenizer
from tests.helpers.wires import as_processes


@cache
def dataset() -> tuple[list[dict], FeatureStore]:
    rows = make_rows(17, long=6)
    windower = Windower(small_tokenizer(), WindowSettings(48, 12, 12))
    return rows, FeatureStore.of_batch(
        windower([row["question"] for row in rows], [row["context"] for row in rows], [None] * len(rows))
    )


def logits_of(store: FeatureStore, features: list[int]) -> FeatureLogits:
    """Random logits, always the same ones for a feature."""
    parts = []
    for feature in features:
        random = np.random.default_rng(feature)
        length = int(store.windows["context_length"][feature])
        one = np.array([feature])
        start, end = random.standard_normal((2, length), np.float32)
        parts.append(FeatureLogits(one, np.array([length]), start, end, one * 0.5, one * 1.0))
    return FeatureLogits.join(parts)


def same(one, other) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    parts=st.integers(1, 4),
    together=st.integers(1, 5),
    size=st.integers(1, 7),
    repeated=st.integers(0, 8),
    missing=st.integers(0, 3),
)
def test_any_dealing_gives_the_same(seed, parts, together, size, repeated, missing) -> None:
    rows, store = dataset()
    random = np.random.default_rng(seed)
    order = random.permutation(len(store))
    order = order[: len(order) - missing]
    order = np.concatenate([order, random.choice(order, repeated)])
    decoders = [Decoder(store, BestSpans(3, 10)) for _ in range(parts)]
    for number, begin in enumerate(range(0, len(order), size)):
        decoder = decoders[number % parts]
        decoder.batches_together = together
        decoder.add(logits_of(store, order[begin : begin + size].tolist()))

    def divide(processes: Processes) -> tuple[Decoded, NDArray[np.int64], Spans]:
        decoder = decoders[processes.rank]
        own = own_share(decoder, decoder.take(), processes)
        return own, *all_at_first(own.index, own.spans, processes)

    (own, index, spans), *others = as_processes(parts, divide)
    whole = predict(logits_of(store, order.tolist()), store, Rows(rows), False, 3, 10)
    assert np.array_equal(index, whole.index)
    assert same(spans, whole.spans)
    every = [own, *(each for each, _, _ in others)]
    assert sorted(np.concatenate([each.index for each in every]).tolist()) == index.tolist()  # each is one process's
    for each, its_index, its_spans in others:
        assert np.array_equal(its_index, each.index)
        assert same(its_spans, whole.spans.take(np.searchsorted(index, its_index)))
    assert LossSum.mean([each.loss_sum for each in every]) == np.mean(sorted(set(order.tolist())))
    seen = {*order.tolist()}
    complete = [
        example
        for example in range(len(rows))
        if all(feature in seen for feature in np.flatnonzero(store.example == example).tolist())
    ]
    assert index.tolist() == complete


def test_an_example_that_one_process_has_whole_and_others_in_parts_is_that_ones() -> None:
    _, store = dataset()
    example = int(np.bincount(store.example).argmax())
    every = np.flatnonzero(store.example == example).tolist()
    decoders = [Decoder(store, BestSpans(1, 10)) for _ in range(3)]
    for decoder, features in zip(decoders, (every[:1], every, every[1:]), strict=True):
        decoder.add(logits_of(store, features))
    shares = as_processes(3, lambda one: own_share(decoders[one.rank], decoders[one.rank].take(), one))
    assert [share.index.tolist() for share in shares] == [[], [example], []]
    assert [len(share.feature) for share in shares] == [1, len(every) - 1, 0]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.integers(0, 10))
def test_a_mean_of_losses_is_exact_however_they_are_cut(losses, cut) -> None:
    array = np.array(losses, np.float32)
    parts = [LossSum.of(array[:cut]), LossSum.of(array[cut:])]
    assert LossSum.mean(parts) == float(sum(map(Fraction, losses)) / len(losses))
    for other in (np.inf, np.nan):
        array[0] = other
        np.testing.assert_equal(LossSum.mean([LossSum.of(array[:cut]), LossSum.of(array[cut:])]), other)


def test_logits_are_let_go_once_an_example_is_decoded() -> None:
    _, store = dataset()
    decoder = Decoder(store, BestSpans(1, 10))
    decoder.batches_together = 1
    waiting = []
    for feature in range(len(store)):
        decoder.add(logits_of(store, [feature]))
        waiting.append(sum(len(rest.feature) for rest in decoder._rest))
    assert max(waiting) <= max(np.bincount(store.example))
    assert waiting[-1] == 0


def test_features_without_numbers_are_named_and_spoil_no_others() -> None:
    _, store = dataset()
    logits = logits_of(store, list(range(len(store))))
    broken = int(store.windows["context_length"][:3].sum())  # the first token of the fourth feature
    logits.end[broken] = np.nan
    decoder = Decoder(store, BestSpans(1, 10))
    decoder.add(logits)
    decoded = decoder.take()
    assert decoded.broken.tolist() == [3]
    assert store.example[3] not in decoded.index
    assert len(decoded.index) == 16


def test_features_without_numbers_are_named_whichever_process_saw_them() -> None:
    _, store = dataset()
    decoders = [Decoder(store, BestSpans(1, 10)) for _ in range(3)]
    half = len(store) // 2
    for decoder, features in zip(decoders, (range(half), range(half, len(store)), ()), strict=True):
        logits = logits_of(store, list(features)) if features else FeatureLogits.join([])
        if features:
            logits.start[0] = np.nan
        decoder.add(logits)
    shares = as_processes(3, lambda one: own_share(decoders[one.rank], decoders[one.rank].take(), one))
    for share in shares:
        assert share.broken.tolist() == [0, half]
        assert not {store.example[0], store.example[half]} & {*share.index.tolist()}
    assert sum(len(share.index) for share in shares) == 15


def test_no_example_is_cut_across_chunks_the_last_neither() -> None:
    rows = make_rows(3, long=1)[::-1]  # the last example has many windows
    store = FeatureStore.of_batch(
        Windower(small_tokenizer(), WindowSettings(48, 12, 12))(
            [row["question"] for row in rows], [row["context"] for row in rows], [None] * len(rows)
        )
    )
    windows_of = np.bincount(store.example)
    assert windows_of.tolist()[:2] == [1, 1]
    assert windows_of[2] > 3
    logits = logits_of(store, list(range(len(store))))
    complete = complete_rows(logits, store)
    for most_tokens in range(1, len(logits.start) + 2):
        chunks = list(join_windows(logits, store, complete, most_tokens))
        assert np.concatenate([index for index, _ in chunks]).tolist() == [0, 1, 2]
        for index, windows in chunks:
            assert np.bincount(windows.example).tolist() == windows_of[index].tolist()
            assert len(windows.start) <= most_tokens or len(index) == 1


@pytest.mark.parametrize("threshold", [0.0, 2.5, -1.0])
def test_no_answer_is_given_above_the_threshold_and_not_at_it(threshold: float) -> None:
    odds = np.array([threshold, np.nextafter(threshold, np.inf), threshold - 1])
    windows = WindowLogits(
        np.arange(3), np.ones(3, int), np.zeros(3), np.zeros(3), np.zeros(3, int), np.full(3, 4), odds
    )
    rows = Rows([{"id": f"q{number}", "context": "Anna lives."} for number in range(3)])
    spans = decode_spans(windows, 1, 10)
    assert (spans.null_score - spans.best_score).tolist() == odds.tolist()
    texts = [answer.text for _, _, answer in Predictions(rows, np.arange(3), spans, True, threshold).rows()]
    assert texts == ["Anna", "", "Anna"]
    certain = Predictions(rows, np.arange(3), spans, False, threshold).rows()
    assert [answer.text for _, _, answer in certain] == ["Anna"] * 3


def test_taking_some_spans_takes_theirs() -> None:
    rows, store = dataset()
    spans = predict(logits_of(store, list(range(len(store)))), store, Rows(rows), False, 4, 10).spans
    order = np.array([5, 0, 11])
    taken = spans.take(order)
    for place, row in enumerate(order):
        begin, now = int(spans.offset[row]), int(taken.offset[place])
        count = int(spans.count[row])
        assert taken.count[place] == count
        assert taken.char_start[now : now + count].tolist() == spans.char_start[begin : begin + count].tolist()
        assert taken.null_probability[place] == spans.null_probability[row]


def batch_of(store: FeatureStore, features: list[int], left: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A batch padded by ``left`` tokens on the left and some on the right; logits [2, B, T], each of another value."""
    windows = store.windows[features]
    width = left + int(windows["length"].max()) + 3
    columns = {
        name: torch.from_numpy(windows[name].astype(np.int64)) for name in ("context_begin", "context_length", "cls")
    }
    columns["context_begin"] += left
    columns["cls"] += left
    logits = torch.arange(2.0 * len(features) * width).reshape(2, len(features), width)
    return {"feature": torch.tensor(features), **columns}, logits


@pytest.mark.parametrize("left", [0, 4])
def test_what_is_copied_of_a_batch_is_the_context_and_no_answer(left) -> None:
    _, store = dataset()
    batch, (start, end) = batch_of(store, [7, 0, 3], left)
    found = LogitsCopy(batch, start, end, torch.tensor([0.5, 1.5, 2.5])).logits()
    assert found.feature.tolist() == [7, 0, 3]
    assert found.loss.tolist() == [0.5, 1.5, 2.5]
    begin = 0
    for row, feature in enumerate([7, 0, 3]):
        first, length = (
            left + int(store.windows["context_begin"][feature]),
            int(store.windows["context_length"][feature]),
        )
        assert found.length[row] == length
        assert found.start[begin : begin + length].tolist() == start[row, first : first + length].tolist()
        assert found.end[begin : begin + length].tolist() == end[row, first : first + length].tolist()
        cls = left + int(store.windows["cls"][feature])
        assert found.null[row] == start[row, cls] + end[row, cls]
        begin += length
    assert begin == len(found.start) == len(found.end)


def test_batches_are_decoded_one_behind_and_none_is_lost() -> None:
    """A decoder that is given batches ends as one that is given their logits, also when it is asked twice."""
    _, store = dataset()
    search = BestSpans(2, 30)
    behind, at_once = Decoder(store, search), Decoder(store, search)
    for turn in range(2):
        for features in ([0, 1, 2, 3], list(range(4, len(store)))):
            batch, (start, end) = batch_of(store, features, turn)
            behind.add_batch(batch, start, end)
            at_once.add(LogitsCopy(batch, start, end).logits())
        one, other = behind.take(), at_once.take()
        assert len(one.index) == len(dataset()[0])
        assert same(one.spans, other.spans)
        assert np.array_equal(one.index, other.index)
