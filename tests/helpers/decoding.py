"""Logits that were collected -> predictions, at once; the product decodes while they come in."""

from __future__ import annotations

from typing import Any

from qa_lightning.decoding.decoder import BestSpans, Decoder, FeatureLogits
from qa_lightning.decoding.predictions import Predictions
from qa_lightning.features.store import FeatureStore


def predict(
    logits: FeatureLogits, store: FeatureStore, examples: Any, version_2: bool, n_best: int, max_answer_length: int
) -> Predictions:
    decoder = Decoder(store, BestSpans(n_best, max_answer_length))
    decoder.add(logits)
    decoded = decoder.take()
    return Predictions(examples, decoded.index, decoded.spans, version_2)
