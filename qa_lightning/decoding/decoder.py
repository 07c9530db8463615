"""Logits of features -> spans of examples, while they come in; joined by id, never by position.

An example is decoded, and its logits let go, once all its windows were seen. So memory holds some batches' logits,
those of examples with windows still to come, and of every other example its few best spans: some 100 bytes a question,
where the logits of one take about 1,200.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qa_lightning.arrays import Floats, Ints, ragged
from qa_lightning.decoding.spans import Scaling, Spans, WindowLogits, decode_spans
from qa_lightning.features.store import FeatureStore


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
        cls,
        batch: Mapping[str, torch.Tensor],
        start: torch.Tensor,
        end: torch.Tensor,
        loss: torch.Tensor | None = None,
    ) -> FeatureLogits:
        """Take what decoding needs from a batch.

        Args:
            batch: as `batching.PaddingCollator` makes it.
            start, end: [B, T] float32 logits.
            loss: [B]; None where nothing is trained or validated.
        """
        place = torch.arange(start.shape[1], device=start.device)
        begin = batch["context_begin"][:, None]
        context = (place >= begin) & (place < begin + batch["context_length"][:, None])
        cls_column = batch["cls"][:, None]
        null = (start.gather(1, cls_column) + end.gather(1, cls_column))[:, 0]
        parts = (batch["feature"], batch["context_length"], start[context], end[context], null)
        losses = null.new_zeros(len(null)) if loss is None else loss
        return cls(*(part.detach().cpu().numpy() for part in (*parts, losses)))

    @classmethod
    def join(cls, parts: list[FeatureLogits]) -> FeatureLogits:
        """Put the results of batches or processes end to end.

        Empties ``parts``, field by field, so that the logits never stand in memory twice.
        """
        if len(parts) == 1:
            return parts.pop()
        fields = {name: [getattr(part, name) for part in parts] for name in cls.__dataclass_fields__}
        parts.clear()
        return cls(**{name: np.concatenate([empty, *fields.pop(name)]) for name, empty in _NOTHING.items()})

    def broken_rows(self) -> NDArray[np.bool_]:
        """[F] where some logit is not a number."""
        if not (np.isnan(self.start).any() or np.isnan(self.end).any() or np.isnan(self.null).any()):
            return np.zeros(len(self.feature), bool)
        owner = np.repeat(np.arange(len(self.feature)), self.length)
        broken = np.isnan(self.null)
        broken[owner[np.isnan(self.start) | np.isnan(self.end)]] = True
        return broken

    def without(self, rows: NDArray[np.bool_]) -> FeatureLogits:
        """All features but those where ``rows``, [F], is true."""
        if not rows.any():
            return self
        kept = ~rows
        tokens = np.repeat(kept, self.length)
        return FeatureLogits(
            self.feature[kept],
            self.length[kept],
            self.start[tokens],
            self.end[tokens],
            self.null[kept],
            self.loss[kept],
        )


_NOTHING: dict[str, NDArray[Any]] = {
    "feature": np.zeros(0, np.int64),
    "length": np.zeros(0, np.int64),
    **{name: np.zeros(0, np.float32) for name in ("start", "end", "null", "loss")},
}


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
        """What came of all that was added since the last call; examples are in order of the dataset, each once."""
        self._decode()
        features, losses = zip(*self._features, strict=True)
        index, first = np.unique(np.concatenate(self._index), return_index=True)  # repeats may complete one twice
        decoded = Decoded(
            index,
            Spans.concatenate(self._spans).take(first),
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
        if len(parts) == 1:
            return parts[0]
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


def complete_rows(logits: FeatureLogits, store: FeatureStore) -> NDArray[np.intp]:
    """Rows of ``logits`` of the examples whose every window was seen: each feature once, in order of ``store``.

    Raises:
        ValueError: the logits are of other features.
    """
    once = once_each(logits.feature)
    every = store.example
    example, place, seen = np.unique(every[logits.feature[once]], return_inverse=True, return_counts=True)
    windows_of = np.searchsorted(every, example, side="right") - np.searchsorted(every, example)
    rows: NDArray[np.intp] = once[(seen == windows_of)[place]]
    if not np.array_equal(logits.length[rows], store.windows["context_length"][logits.feature[rows]]):
        raise ValueError("the logits are not those of these features: context lengths differ")
    return rows


def join_windows(
    logits: FeatureLogits, store: FeatureStore, rows: NDArray[np.intp], max_tokens: int = 1 << 20
) -> Iterator[tuple[NDArray[np.int64], WindowLogits]]:
    """Put logits and offsets of whole examples side by side, some at a time, so that memory is bounded.

    Args:
        logits, store, rows: see `complete_rows`, which gives the rows.
        max_tokens: context tokens at a time; more only where one example has more.

    Yields:
        [N] indices of the examples, ascending, and their windows, numbered 0 to N - 1.
    """
    token_offset = np.cumsum(logits.length, dtype=np.int64) - logits.length
    examples = store.windows["example"][logits.feature[rows]]
    tokens_until = np.cumsum(logits.length[rows], dtype=np.int64)
    first = 0
    while first < len(rows):
        done = tokens_until[first - 1] if first else 0
        stop = max(int(np.searchsorted(tokens_until, done + max_tokens, side="right")), first + 1)
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


def once_each(feature: Ints) -> NDArray[np.intp]:
    """Rows that hold each feature once, ascending by feature; of repeats the first."""
    rows: NDArray[np.intp] = np.unique(feature, return_index=True)[1]
    return rows
