"""Outcomes of decoded windows, with labels that are drawn unless they are given."""

from __future__ import annotations

import numpy as np

from qa_lightning.decoding.spans import Scaling, decode_spans
from qa_lightning.metrics.calibration import TEMPERATURES
from qa_lightning.metrics.outcomes import Outcomes

GRID = Scaling(temperatures=tuple(TEMPERATURES))


def outcomes_of(windows, exact=None, has_answer=None, articles: int = 10) -> Outcomes:
    """The best spans of windows as outcomes; questions belong to ``articles`` articles in turn."""
    spans = decode_spans(windows, 1, 30, GRID)
    count = len(spans.count)
    random = np.random.default_rng(0)
    has = random.random(count) < 0.7 if has_answer is None else has_answer
    right = (random.random(count) < 0.6) * has * 1.0 if exact is None else exact
    article = np.array([f"article {number % articles}" for number in range(count)], object)
    return Outcomes(
        np.arange(count),
        right,
        right,
        has,
        spans.best_score,
        spans.null_score,
        spans.log_spans,
        article,
        ~has,
        spans.second_score,
        np.ones(count, np.int64),
    )
