"""Logits of features -> answers of examples. Joined by feature id, never by position.

Shared by validation, evaluation and answering: which windows were seen, decoding over all of them, and the choice
between the best span and no answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qa_lightning.metrics import SquadMetric
from qa_lightning.pairs import ragged
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
    def join(cls, parts: list[FeatureLogits]) -> FeatureLogits:
        """Put the results of batches or processes end to end.

        Empties ``parts``, field by field, so that the logits never stand in memory twice.
        """
        fields = {name: [getattr(part, name) for part in parts] for name in cls.__dataclass_fields__}
        parts.clear()
        return cls(**{name: np.concatenate(fields.pop(name)) for name in tuple(fields)})

    @property
    def mean_loss(self) -> float:
        """Mean over the features, each counted once."""
        return float(self.loss[_once_each(self.feature)].astype(np.float64).mean())


class LogitsCollector:
    """Takes in the logits of batch after batch; small arrays are merged on the way, for they tear memory to pieces."""

    batches_merged = 64

    def __init__(self) -> None:
        self._recent: list[FeatureLogits] = []
        self._merged: list[FeatureLogits] = []

    def add(self, logits: FeatureLogits) -> None:
        """Take in a batch."""
        self._recent.append(logits)
        if len(self._recent) == self.batches_merged:
            self._merged.append(FeatureLogits.join(self._recent))

    def take(self) -> FeatureLogits:
        """All that was taken in since the last call."""
        parts, self._merged, self._recent = self._merged + self._recent, [], []
        return FeatureLogits.join(parts)


def _once_each(feature: Ints) -> NDArray[np.intp]:
    """Rows that hold each feature once, ascending by feature; of repeats the first."""
    rows: NDArray[np.intp] = np.unique(feature, return_index=True)[1]
    return rows


def complete_rows(logits: FeatureLogits, store: FeatureStore) -> NDArray[np.intp]:
    """Rows of ``logits`` of the examples whose every window was seen: each feature once, in order of ``store``.

    Raises:
        ValueError: the logits are of other features.
    """
    once = _once_each(logits.feature)
    example = np.asarray(store.windows["example"])
    windows_of = np.bincount(example)
    seen = np.bincount(example[logits.feature[once]], minlength=len(windows_of))
    whole: NDArray[np.bool_] = seen == windows_of
    rows: NDArray[np.intp] = once[whole[example[logits.feature[once]]]]
    if not np.array_equal(logits.length[rows], store.windows["context_length"][logits.feature[rows]]):
        raise ValueError("the logits are not those of these features: context lengths differ")
    return rows


def join_windows(
    logits: FeatureLogits, store: FeatureStore, rows: NDArray[np.intp], most_tokens: int = 1 << 20
) -> Iterator[tuple[NDArray[np.int64], WindowLogits]]:
    """Put logits and offsets of whole examples side by side, some at a time, so that memory is bounded.

    Args:
        logits, store, rows: see `complete_rows`, which gives the rows.
        most_tokens: context tokens at a time; more only where one example has more.

    Yields:
        [N] indices of the examples, ascending, and their windows, numbered 0 to N - 1.
    """
    token_offset = np.cumsum(logits.length, dtype=np.int64) - logits.length
    examples = store.windows["example"][logits.feature[rows]]
    tokens_until = np.cumsum(logits.length[rows], dtype=np.int64)
    first = 0
    while first < len(rows):
        done = tokens_until[first - 1] if first else 0
        stop = max(int(np.searchsorted(tokens_until, done + most_tokens, side="right")), first + 1)
        if stop < len(rows):  # not within an example: back to where it begins, or else on to its end
            begin = int(np.searchsorted(examples, examples[stop]))
            stop = begin if begin > first else int(np.searchsorted(examples, examples[first], side="right"))
        part = rows[first:stop]
        feature, length = logits.feature[part], logits.length[part]
        tokens = ragged(token_offset[part], length)
        places = ragged(store.context_offset[feature], length)
        indices, number = np.unique(examples[first:stop], return_inverse=True)
        yield (
            indices.astype(np.int64),
            WindowLogits(
                example=number,
                length=length,
                start=logits.start[tokens],
                end=logits.end[tokens],
                char_start=store.char_start[places],
                char_end=store.char_end[places],
                null=logits.null[part],
            ),
        )
        first = stop


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

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, dict[str, Any], Answer]]:
        """Number, example and answer, in order of the dataset; read a thousand examples at a time.

        Args:
            numbers: which of the N to give; None for all.
        """
        wanted = range(len(self)) if numbers is None else numbers
        null_odds = self.spans.null_score - self.spans.best_score
        no_answer = self.spans.count == 0
        if self.version_2:
            no_answer |= null_odds > self.threshold
        offset = self.spans.offset
        for first in range(0, len(wanted), _ROWS):
            part = wanted[first : first + _ROWS]
            columns = self.examples[self.index[list(part)].tolist()]
            for row, number in enumerate(part):
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
    index: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    spans = []
    for indices, windows in join_windows(logits, store, complete_rows(logits, store)):
        index.append(indices)
        spans.append(decode_spans(windows, n_best, max_answer_length))
    return Predictions(examples, np.concatenate(index), Spans.concatenate(spans), version_2, threshold)


def score(predictions: Predictions, metric: SquadMetric, share: tuple[int, int] = (0, 1)) -> None:
    """Update ``metric`` with every ``share[1]``-th prediction from ``share[0]`` on: one process's share."""
    rows = predictions.rows(range(share[0], len(predictions), share[1]))
    metric.update([], [])  # a share may be empty, and a metric wants to have been asked
    while some := list(islice(rows, _ROWS)):
        metric.update(
            [{"id": answer.id, "prediction_text": answer.text} for _, _, answer in some],
            [{"id": example["id"], "answers": example["answers"]} for _, example, _ in some],
        )
