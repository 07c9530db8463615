"""Random logits of windows, and predictions from collected logits in one call."""

from __future__ import annotations

from typing import Any

import numpy as np

from qa_lightning.decoding.decoder import BestSpans, Decoder, FeatureLogits
from qa_lightning.decoding.predictions import Predictions
from qa_lightning.decoding.spans import WindowLogits
from qa_lightning.features.store import FeatureStore


def predict(
    logits: FeatureLogits, store: FeatureStore, examples: Any, version_2: bool, n_best: int, max_answer_length: int
) -> Predictions:
    """Decode all logits in one call; the package itself decodes while logits arrive."""
    decoder = Decoder(store, BestSpans(n_best, max_answer_length))
    decoder.add(logits)
    decoded = decoder.take()
    return Predictions(examples, decoded.index, decoded.spans, version_2)


def random_windows(seed: int, examples: int, scale: float = 1.0) -> WindowLogits:
    """Random logits of ``examples`` contexts, each cut into overlapping windows of at most 40 tokens."""
    random = np.random.default_rng(seed)
    example, length, char_start = [], [], []
    for number in range(examples):
        tokens, begin = int(random.integers(5, 90)), 0
        while True:
            example.append(number)
            length.append(min(40, tokens - begin))
            char_start.append(np.arange(begin, begin + length[-1]) * 6)
            if begin + 40 >= tokens:
                break
            begin += 25
    starts = np.concatenate(char_start)
    start, end = random.normal(size=(2, len(starts))) * scale
    return WindowLogits(
        np.array(example), np.array(length), start, end, starts, starts + 5, random.normal(size=len(example))
    )
