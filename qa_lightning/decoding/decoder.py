"""Logits -> spans while they come in: an example is decoded, and its logits let go, once all its windows were seen.

So memory holds some batches' logits, those of examples with windows still to come, and of every other example its
few best spans: some 100 bytes a question, where the logits of one take about 1,200.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Floats, Ints
from qa_lightning.decoding.logits import FeatureLogits, LogitsCollector, complete_rows, join_windows, once_each
from qa_lightning.decoding.spans import Scaling, Spans, WindowLogits, decode_spans
from qa_lightning.features.store import FeatureStore


@dataclass(frozen=True)
class Decoded:
    """What came of some features' logits.

    Attributes:
        index: [N] examples whose every window was seen.
        spans: the best of each.
        feature: [F] all features, in any order, repeats allowed.
        loss: [F] loss of each against its label.
        rest: logits of the examples of which a window is missing.
        broken: features whose logits are not numbers; they are in none of the others but ``feature``.
    """

    index: NDArray[np.int64]
    spans: Spans
    feature: Ints
    loss: Floats
    rest: FeatureLogits
    broken: Ints

    @property
    def mean_loss(self) -> float:
        """Mean over the features, each counted once."""
        return float(self.loss[once_each(self.feature)].astype(np.float64).mean())


@dataclass(frozen=True)
class BestSpans:
    """The search of validation and of the reader: the best spans, as they stand.

    Args:
        n_best: spans to keep of each example.
        max_answer_length: the longest span, in tokens.
        scaling: of the probabilities.
    """

    n_best: int
    max_answer_length: int
    scaling: Scaling = field(default_factory=Scaling)

    def __call__(self, index: NDArray[np.int64], windows: WindowLogits) -> Spans:
        """Search; see `Decoder`."""
        return decode_spans(windows, self.n_best, self.max_answer_length, self.scaling)


class Decoder:
    """Decodes as soon as it can.

    Args:
        store: the features that logits are of.
        search: finds the spans of whole examples: given their indices, [N], and the logits of all their windows.
    """

    batches_together = 64  # are decoded at once

    def __init__(self, store: FeatureStore, search: Callable[[NDArray[np.int64], WindowLogits], Spans]) -> None:
        self._store = store
        self._search = search
        self._clear()

    def _clear(self) -> None:
        self._waiting = LogitsCollector()
        self._batches = 0
        self._rest: list[FeatureLogits] = []
        self._index: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self._spans: list[Spans] = []
        self._features: list[tuple[Ints, Floats]] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))]
        self._broken: list[Ints] = [np.zeros(0, np.int64)]

    def add(self, logits: FeatureLogits) -> None:
        """Take in a batch, or what another one left over."""
        whole = logits.without(broken := logits.broken_rows())
        self._broken.append(logits.feature[broken])
        self._features.append((logits.feature, logits.loss))
        self._waiting.add(whole)
        self._batches += 1
        if self._batches % self.batches_together == 0:
            self._decode()

    def _decode(self) -> None:
        logits = FeatureLogits.join([*self._rest, self._waiting.take()])
        rows = complete_rows(logits, self._store)
        for index, windows in join_windows(logits, self._store, rows):
            self._index.append(index)
            self._spans.append(self._search(index, windows))
        seen = np.zeros(len(logits.feature), bool)
        seen[np.isin(logits.feature, logits.feature[rows])] = True
        self._rest = [logits.without(seen)]

    def take(self) -> Decoded:
        """What came of all that was added since the last call."""
        self._decode()
        features, losses = zip(*self._features, strict=True)
        decoded = Decoded(
            np.concatenate(self._index),
            Spans.concatenate(self._spans),
            np.concatenate(features),
            np.concatenate(losses),
            self._rest[0],
            np.concatenate(self._broken),
        )
        self._clear()
        return decoded

    def join(self, parts: Sequence[Decoded]) -> Decoded:
        """What came of all of several parts, of which one may hold windows that another lacks.

        The examples are in order of the dataset, each once.
        """
        for part in parts:
            self._waiting.add(part.rest)
        rest = self.take()
        every = [*parts, rest]
        index, first = np.unique(np.concatenate([part.index for part in every]), return_index=True)
        return Decoded(
            index,
            Spans.concatenate([part.spans for part in every]).take(first),
            np.concatenate([part.feature for part in parts]),
            np.concatenate([part.loss for part in parts]),
            rest.rest,
            np.concatenate([part.broken for part in parts]),
        )
