"""Logits of features, from forward passes to windows side by side for decoding; joined by id, never by position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qa_lightning.arrays import Floats, Ints, ragged
from qa_lightning.decoding.spans import WindowLogits
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


def once_each(feature: Ints) -> NDArray[np.intp]:
    """Rows that hold each feature once, ascending by feature; of repeats the first."""
    rows: NDArray[np.intp] = np.unique(feature, return_index=True)[1]
    return rows


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
