"""Logits of features -> answers of examples. Joined by feature id, never by position.

Shared by validation, evaluation and answering: which windows were seen, decoding over all of them, and the choice
between the best span and no answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qa_lightning.metrics import SquadMetric
from qa_lightning.spans import Floats, Ints, Spans, WindowLogits, decode_spans
from qa_lightning.store import FeatureStore

_ROWS = 1000  # examples read at a time


@dataclass(frozen=True)
class FeatureLogits:
    """What a forward pass says of F features: logits of context tokens alone, ragged rows end to end, float32.

    Attributes:
        feature: [F] indices of the features, in any order, repeats allowed.
        length: [F] context tokens.
        start, end: [sum(length)] logits.
        null: [F] start + end logit of the "no answer" token.
        loss: [F] loss against the label.
    """

    feature: Ints
    length: Ints
    start: Floats
    end: Floats
    null: Floats
    loss: Floats

    @classmethod
    def of_batch(
        cls, batch: Mapping[str, torch.Tensor], start: torch.Tensor, end: torch.Tensor, loss: torch.Tensor
    ) -> FeatureLogits:
        """Take what decoding needs from a batch.

        Args:
            batch: as `batching.PaddingCollator` makes it.
            start, end: [B, T] float32 logits.
            loss: [B].
        """
        place = torch.arange(start.shape[1], device=start.device)
        begin = batch["context_begin"][:, None]
        context = (place >= begin) & (place < begin + batch["context_length"][:, None])
        cls_column = batch["cls"][:, None]
        null = (start.gather(1, cls_column) + end.gather(1, cls_column))[:, 0]
        parts = (batch["feature"], batch["context_length"], start[context], end[context], null, loss)
        return cls(*(part.detach().cpu().numpy() for part in parts))

    @classmethod
    def concatenate(cls, parts: Sequence[FeatureLogits]) -> FeatureLogits:
        """Join the results of batches or processes."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def once_each(self) -> FeatureLogits:
        """Sort by feature and keep the first of repeats."""
        feature, order = np.unique(self.feature, return_index=True)
        tokens = _ragged(np.cumsum(self.length) - self.length, self.length, order)
        return FeatureLogits(
            feature,
            self.length[order],
            self.start[tokens],
            self.end[tokens],
            self.null[order],
            self.loss[order],
        )


def join_windows(logits: FeatureLogits, store: FeatureStore) -> tuple[NDArray[np.int64], WindowLogits]:
    """Find the examples whose every window was seen, and put their logits and offsets side by side.

    Args:
        logits: each feature once, sorted (`FeatureLogits.once_each`).
        store: the features.

    Returns:
        [N] indices of the complete examples, ascending, and their windows, numbered 0 to N - 1.
    """
    example = np.asarray(store.windows["example"])
    windows_of = np.bincount(example)
    seen = np.bincount(example[logits.feature], minlength=len(windows_of))
    complete = (seen == windows_of) & (windows_of > 0)
    rows = np.flatnonzero(complete[example[logits.feature]])
    feature, length = logits.feature[rows], logits.length[rows]
    if not np.array_equal(length, store.windows["context_length"][feature]):
        raise ValueError("the logits are not those of these features: context lengths differ")
    tokens = _ragged(np.cumsum(logits.length) - logits.length, logits.length, rows)
    places = _ragged(store.context_offset, store.windows["context_length"], feature)
    indices, number = np.unique(example[feature], return_inverse=True)
    return indices.astype(np.int64), WindowLogits(
        example=number,
        length=length,
        start=logits.start[tokens],
        end=logits.end[tokens],
        char_start=store.char_start[places],
        char_end=store.char_end[places],
        null=logits.null[rows],
    )


def _ragged(offset: Ints, length: Ints, rows: Ints) -> NDArray[np.int64]:
    """Flat indices of the values of ``rows``, in their order, where row i holds ``length[i]`` from ``offset[i]`` on."""
    lengths = length[rows].astype(np.int64)
    ends = np.cumsum(lengths)
    places: NDArray[np.int64] = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
        offset[rows] - (ends - lengths), lengths
    )
    return places


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        id: the example's.
        text: the answer, exactly ``context[start:end]``; empty for "no answer".
        start, end: characters in the context, end exclusive; both 0 for "no answer".
        score: probability, normalised over all spans of all windows and the null answer.
        null_odds: null score minus the best span's score; above the threshold there is no answer.
    """

    id: str
    text: str
    start: int
    end: int
    score: float
    null_odds: float


@dataclass(frozen=True)
class Predictions:
    """Decoded answers of some examples of a dataset.

    Args:
        examples: the dataset.
        index: [N] which of its examples.
        spans: the best spans of each.
        version_2: whether "no answer" is an answer.
        threshold: the ``null_odds`` above which it is given.
    """

    examples: Any
    index: NDArray[np.int64]
    spans: Spans
    version_2: bool
    threshold: float = 0.0

    def rows(self) -> Iterator[tuple[int, dict[str, Any], Answer]]:
        """Number, example and answer, in order of the dataset; read a thousand examples at a time."""
        null_odds = self.spans.null_score - self.spans.best_score
        no_answer = self.spans.count == 0
        if self.version_2:
            no_answer |= null_odds > self.threshold
        offset = self.spans.offset
        for first in range(0, len(self.index), _ROWS):
            columns = self.examples[self.index[first : first + _ROWS].tolist()]
            for row in range(len(columns["id"])):
                number = first + row
                example = {name: values[row] for name, values in columns.items()}
                yield (
                    number,
                    example,
                    self._answer(number, example, no_answer, null_odds, int(offset[number])),
                )

    def _answer(
        self, number: int, example: dict[str, Any], no_answer: NDArray[np.bool_], null_odds: Floats, span: int
    ) -> Answer:
        odds = float(null_odds[number])
        if no_answer[number]:
            return Answer(example["id"], "", 0, 0, float(self.spans.null_probability[number]), odds)
        start, end = int(self.spans.char_start[span]), int(self.spans.char_end[span])
        text = example["context"][start:end]
        return Answer(example["id"], text, start, end, float(self.spans.probability[span]), odds)

    def n_best(self, number: int, example: dict[str, Any]) -> list[dict[str, Any]]:
        """All candidates for example ``number``, likeliest first, as ``nbest_predictions.json`` holds them."""
        first = int(self.spans.offset[number])
        candidates = []
        for span in range(first, first + int(self.spans.count[number])):
            start, end = int(self.spans.char_start[span]), int(self.spans.char_end[span])
            candidates.append(
                {
                    "text": example["context"][start:end],
                    "start": start,
                    "end": end,
                    "probability": float(self.spans.probability[span]),
                    "score": float(self.spans.score[span]),
                }
            )
        if self.version_2 or not candidates:
            null = {
                "text": "",
                "start": 0,
                "end": 0,
                "probability": float(self.spans.null_probability[number]),
                "score": float(self.spans.null_score[number]),
            }
            place = next(
                (place for place, other in enumerate(candidates) if other["score"] < null["score"]),
                len(candidates),
            )
            candidates.insert(place, null)
        return candidates


def predict(
    logits: FeatureLogits,
    store: FeatureStore,
    examples: Any,
    version_2: bool,
    n_best: int,
    max_answer_length: int,
    threshold: float = 0.0,
) -> Predictions:
    """Decode collected logits; examples of which a window is missing are left out.

    Args:
        logits: of any features of ``store``, in any order.
        store, examples: the features and the examples that they are windows of.
        version_2, threshold: see `Predictions`.
        n_best, max_answer_length: see `spans.decode_spans`.
    """
    index, windows = join_windows(logits.once_each(), store)
    return Predictions(examples, index, decode_spans(windows, n_best, max_answer_length), version_2, threshold)


def score(predictions: Predictions, metric: SquadMetric, share: tuple[int, int] = (0, 1)) -> None:
    """Update ``metric`` with every ``share[1]``-th prediction from ``share[0]`` on: one process's share."""
    answers, references = [], []
    for number, example, answer in predictions.rows():
        if number % share[1] == share[0]:
            answers.append({"id": answer.id, "prediction_text": answer.text})
            references.append({"id": example["id"], "answers": example["answers"]})
    metric.update(answers, references)
