"""Answers of several texts in one ranking: exact, and apart from each other, against plain searches of all spans."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from qa_lightning.decoding.spans import Scaling, decode_spans
from qa_lightning.documents.collection import Extract
from qa_lightning.documents.ranking import PassagePriors, Ranking, apart
from tests.helpers.decoding import random_windows


def greedy(spans: list[tuple[float, int, int]], top_k: int, overlap: float) -> list[tuple[int, int]]:
    """The plain search: of all spans, best first and in reading order, take what shares little with those taken."""
    taken: list[tuple[int, int]] = []
    for _, start, end in sorted(spans, key=lambda span: (-span[0], span[1], span[2])):
        if all(min(end, stop) - max(start, begin) <= overlap * min(end - start, stop - begin) for begin, stop in taken):
            taken.append((start, end))
    return taken[:top_k]


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_answers_apart_are_those_of_the_plain_search(seed, overlap) -> None:
    windows = random_windows(seed, 1, scale=3.0)
    ranking = Ranking(1 + seed % 7, overlap, 1 + seed % 5, Scaling(0.5 + seed / 10, 0.3))
    every = decode_spans(windows, 10**6, ranking.max_answer_length, ranking.scaling)
    spans = list(zip(every.score.tolist(), every.char_start.tolist(), every.char_end.tolist(), strict=True))
    found = apart(windows, ranking)
    pairs = list(zip(found.char_start.tolist(), found.char_end.tolist(), strict=True))
    assert pairs == greedy(spans, ranking.top_k, overlap)
    assert found.count.tolist() == [len(pairs)]
    of_span = {(start, end): score for (_, start, end), score in zip(spans, every.probability, strict=True)}
    np.testing.assert_allclose(found.probability, [of_span[pair] for pair in pairs])
    np.testing.assert_allclose(found.null_probability, every.null_probability)


def test_more_spans_are_decoded_until_there_are_enough_apart(monkeypatch) -> None:
    windows = random_windows(3, 1)
    windows.start[:], windows.end[:] = 0.0, 0.0
    windows.start[:8] = 5.0  # the spans that come first all overlap the best one
    windows.end[29] = 9.0
    decoded = []

    def counting(windows, count, *rest):
        decoded.append(count)
        return decode_spans(windows, count, *rest)

    monkeypatch.setattr("qa_lightning.documents.ranking.decode_spans", counting)
    found = apart(windows, Ranking(top_k=2, max_answer_length=30))
    assert decoded == [64, 256, 1024]
    pairs = sorted(zip(found.char_start.tolist(), found.char_end.tolist(), strict=True))
    assert all(end <= start for (_, end), (start, _) in pairwise(pairs))


def test_a_prior_holds_for_the_offsets_of_its_passage() -> None:
    extracts = [Extract(3, 10, 30, ((10, 2.0), (22, 5.0))), Extract(7, 100, 105, ((100, 1.0),))]
    priors = PassagePriors.of(extracts, weight=0.5)
    assert priors is not None
    assert priors.at(np.array([0, 11, 12, 19, 20, 24])).tolist() == [-1.5, -1.5, 0.0, 0.0, -2.0, -2.0]
    assert PassagePriors.of(extracts, weight=0) is None
    assert PassagePriors.of([Extract(3, 10, 30)], weight=0.5) is None  # not searched
