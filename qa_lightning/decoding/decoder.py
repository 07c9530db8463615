"""Decodes the logits of features into the best spans of examples, while batches arrive.

Logits are joined to features and examples by index, never by their position in a batch. Every 64 batches, the examples
whose windows have all arrived are decoded and their logits are freed. So memory holds the logits of up to 64 batches,
the logits of examples with missing windows, and the best spans of all other examples: about 100 bytes a question, 300
where a temperature is fitted; the logits of one question take about 1,200.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qa_lightning.arrays import Floats, Ints, begins_run, ragged
from qa_lightning.decoding.spans import Scaling, Spans, WindowLogits, are_no_numbers, decode_spans
from qa_lightning.errors import InputError
from qa_lightning.features.store import FeatureStore
from qa_lightning.wording import listed


class BrokenLogitsError(InputError):
    """The logits of some questions are not numbers.

    Args:
        numbers: of these questions in a call, from 0; empty if there is but one.
        what: the word for them.
    """

    def __init__(self, numbers: Sequence[int] = (), what: str = "questions") -> None:
        which = f" ({what} {listed(numbers)})" if numbers else ""
        super().__init__(
            f"the model's logits are not numbers{which}: its weights are broken or its dtype is too narrow; use "
            "another model, or float32"
        )
        self.numbers = numbers


@dataclass(frozen=True)
class FeatureLogits:
    """The logits of F features, of their context tokens only: ragged rows, concatenated, float32.

    Attributes:
        feature: [F] indices of the features, in any order, repeats allowed.
        length: [F] number of context tokens.
        start, end: [sum(length)] logits; [sum(length), M] of an ensemble of M models.
        null: [F] start + end logit of the "no answer" token; [F, M] of an ensemble.
        loss: [F] loss against the label; 0 if none was computed.
    """

    feature: Ints
    length: Ints
    start: Floats
    end: Floats
    null: Floats
    loss: Floats

    @classmethod
    def join(cls, parts: list[FeatureLogits]) -> FeatureLogits:
        """Concatenate the logits of several batches or processes.

        This empties ``parts``, and frees each field once it is joined: memory never holds all logits twice.
        """
        some = [part for part in parts if len(part.feature)]  # an empty one may be of another number of models
        parts.clear()
        if len(some) <= 1:
            return some[0] if some else cls(**_EMPTY_FIELDS)
        fields = {name: [getattr(part, name) for part in some] for name in cls.__dataclass_fields__}
        some.clear()
        return cls(**{name: np.concatenate(fields.pop(name)) for name in _EMPTY_FIELDS})

    def broken_rows(self) -> NDArray[np.bool_]:
        """[F] whether a logit of the feature is no number: NaN or inf. A model may mask tokens with -inf."""
        if not any(are_no_numbers(values).any() for values in (self.start, self.end, self.null)):
            return np.zeros(len(self.feature), bool)
        owner = np.repeat(np.arange(len(self.feature)), self.length)
        broken = _of_any_model(are_no_numbers(self.null))
        broken[owner[_of_any_model(are_no_numbers(self.start) | are_no_numbers(self.end))]] = True
        return broken

    def without(self, rows: NDArray[np.bool_]) -> FeatureLogits:
        """The features for which ``rows``, [F], is false."""
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


def _of_any_model(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[n] of [n], or of [n, M]: whether it is so for one of the models."""
    return values if values.ndim == 1 else np.asarray(values.any(1))


class LogitsCopy:
    """The logits of a batch on their way from the device to the CPU, in one copy that nothing waits for.

    Args:
        batch: made by `batching.PaddingCollator`, on the CPU or on the device of the logits.
        start, end: [B, T] float32 logits; [B, T, M] of an ensemble of M models.
        loss: [B]; None for 0, where there are no labels.
    """

    _COLUMNS = ("feature", "context_begin", "context_length", "cls")

    def __init__(
        self,
        batch: Mapping[str, torch.Tensor],
        start: torch.Tensor,
        end: torch.Tensor,
        loss: torch.Tensor | None = None,
    ) -> None:
        columns = torch.stack([batch[name] for name in self._COLUMNS])
        losses = start.new_zeros(len(start)) if loss is None else loss
        self._parts = [part.detach() for part in (columns, losses, start, end)]
        self._arrived: torch.cuda.Event | None = None
        if start.is_cuda:
            self._parts = _together_to_cpu(self._parts)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def logits(self) -> FeatureLogits:
        """What decoding needs of it; waits for the copy."""
        if self._arrived is not None:
            self._arrived.synchronize()
        (feature, begin, length, cls), losses, start, end = (part.cpu().numpy() for part in self._parts)
        column = np.arange(start.shape[1])
        context = (column >= begin[:, None]) & (column < (begin + length)[:, None])  # [B, T]
        row = np.arange(len(start))
        null = start[row, cls] + end[row, cls]
        # Copies, because views would keep the logits of the question and of padding in memory too.
        return FeatureLogits(feature.copy(), length.copy(), start[context], end[context], null, losses.copy())


def _together_to_cpu(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors on the CPU, by one copy for all that are on a GPU; it may not have arrived yet."""
    away = [tensor.contiguous() for tensor in tensors if tensor.is_cuda]
    sent = torch.cat([tensor.view(torch.uint8).flatten() for tensor in away])  # bytes, of whatever they are
    received = torch.empty(sent.shape, dtype=sent.dtype, pin_memory=True)
    received.copy_(sent, non_blocking=True)
    sizes = [tensor.numel() * tensor.element_size() for tensor in away]
    parts = torch.split(received, sizes)
    own = iter([part.view(like.dtype).view(like.shape) for part, like in zip(parts, away, strict=True)])
    return [next(own) if tensor.is_cuda else tensor for tensor in tensors]


_EMPTY_FIELDS: dict[str, NDArray[Any]] = {
    "feature": np.zeros(0, np.int64),
    "length": np.zeros(0, np.int64),
    **{name: np.zeros(0, np.float32) for name in ("start", "end", "null", "loss")},
}


@dataclass(frozen=True)
class BestSpans:
    """The search for `Decoder` that validation and the reader use: `decode_spans` with fixed settings.

    Args:
        n_best: spans to keep for each example.
        max_answer_length: the longest span, in tokens.
        scaling: how scores become probabilities.
    """

    n_best: int
    max_answer_length: int
    scaling: Scaling = field(default_factory=Scaling)

    def __call__(self, index: NDArray[np.int64], windows: WindowLogits) -> Spans:
        """Find the spans; see ``search`` of `Decoder`."""
        return decode_spans(windows, self.n_best, self.max_answer_length, self.scaling)


@dataclass(frozen=True)
class LossSum:
    """An exact sum of losses, float32 each: several sums give the same mean, to the last digit, however they were cut.

    Args:
        units: the finite losses, in units of 2^-173.
        count: how many losses there are, those that are not finite included.
        others: sum of those.
    """

    units: int
    count: int
    others: float

    @classmethod
    def of(cls, losses: Floats) -> LossSum:
        """Sum [F] losses."""
        finite = np.isfinite(losses)
        fraction, exponent = np.frexp(losses[finite].astype(np.float32).astype(np.float64))
        whole = (fraction * 2**24).astype(np.int64)  # exact: a float32 has 24 binary digits
        units = sum(int(whole[exponent == each].sum()) << (int(each) + 149) for each in np.unique(exponent))
        return cls(units, len(losses), float(losses[~finite].sum()))

    @classmethod
    def mean(cls, parts: Sequence[LossSum]) -> float:
        """The mean over all losses of several sums; NaN without losses."""
        count, others = sum(part.count for part in parts), sum(part.others for part in parts)
        if others:  # infinite, or NaN
            return others
        return sum(part.units for part in parts) / (count << 173) if count else math.nan


@dataclass(frozen=True)
class Decoded:
    """The result of decoding the logits of some features.

    Attributes:
        index: [N] the complete examples: all of their windows have arrived.
        spans: the best spans of these N examples.
        feature: [F] all features, in any order, repeats allowed.
        loss: [F] loss of each against its label.
        rest: logits of the examples with missing windows.
        broken: features with NaN logits. They are in ``feature`` and ``loss``, but their logits are not used.
    """

    index: NDArray[np.int64]
    spans: Spans
    feature: Ints
    loss: Floats
    rest: FeatureLogits
    broken: Ints

    @property
    def loss_sum(self) -> LossSum:
        """The losses of the features; a repeated feature counts once."""
        return LossSum.of(self.loss[once_each(self.feature)])


class Decoder:
    """Collects logits and decodes each example once all of its windows have arrived.

    Args:
        store: the features that the logits belong to.
        search: finds the spans of N complete examples, given their indices, [N], and the logits of all their windows.
    """

    batches_together = 64  # batches between two decoding passes

    def __init__(self, store: FeatureStore, search: Callable[[NDArray[np.int64], WindowLogits], Spans]) -> None:
        self._store = store
        self._search = search
        self._clear()

    @property
    def store(self) -> FeatureStore:
        """The features that the logits belong to."""
        return self._store

    def _clear(self) -> None:
        self._coming: LogitsCopy | None = None
        self._waiting = LogitsCollector()
        self._batches = 0
        self._rest: list[FeatureLogits] = []
        self._index: list[NDArray[np.int64]] = []
        self._spans: list[Spans] = []
        self._features: list[tuple[Ints, Floats]] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))]
        self._broken: list[Ints] = [np.zeros(0, np.int64)]

    def add_batch(
        self,
        batch: Mapping[str, torch.Tensor],
        start: torch.Tensor,
        end: torch.Tensor,
        loss: torch.Tensor | None = None,
    ) -> None:
        """Add the logits of a batch; see `LogitsCopy`.

        They are looked at when the next batch comes: the device then computes that one and need not wait.
        """
        before, self._coming = self._coming, LogitsCopy(batch, start, end, loss)
        if before is not None:
            self.add(before.logits())

    def add(self, logits: FeatureLogits) -> None:
        """Add the logits of some features."""
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
        if len(rows) == len(logits.feature):
            self._rest = [FeatureLogits(**_EMPTY_FIELDS)]
        else:
            self._rest = [logits.without(np.isin(logits.feature, logits.feature[rows]))]

    def take(self) -> Decoded:
        """Return the result for all logits added since the last call: each example once, in dataset order."""
        if self._coming is not None:
            self.add(self._coming.logits())
        self._decode()
        features, losses = zip(*self._features, strict=True)
        decoded = Decoded(
            *in_order(self._index, self._spans),
            np.concatenate(features),
            np.concatenate(losses),
            self._rest[0],
            np.concatenate(self._broken),
        )
        self._clear()
        return decoded

    def add_incomplete(self, logits: FeatureLogits) -> None:
        """Add logits of features that were added before, here or in another process: ``rest`` of what `take` gave."""
        self._waiting.add(logits)


def in_order(index: Sequence[NDArray[np.int64]], spans: Sequence[Spans]) -> tuple[NDArray[np.int64], Spans]:
    """The examples of several decoding passes and their spans, ascending; repeated features can complete one twice."""
    numbers, found = np.concatenate([np.zeros(0, np.int64), *index]), Spans.concatenate(spans)
    rows = once_each(numbers)
    return numbers[rows], found if len(spans) == 1 else found.take(rows)


class LogitsCollector:
    """Collects the logits of batches, and merges every 64 of them: many small arrays would fragment memory."""

    batches_merged = 64

    def __init__(self) -> None:
        self._recent: list[FeatureLogits] = []
        self._merged: list[FeatureLogits] = []

    def add(self, logits: FeatureLogits) -> None:
        """Add the logits of a batch."""
        self._recent.append(logits)
        if len(self._recent) == self.batches_merged:
            self._merged.append(FeatureLogits.join(self._recent))

    def take(self) -> FeatureLogits:
        """Return all logits added since the last call, concatenated."""
        parts, self._merged, self._recent = self._merged + self._recent, [], []
        return FeatureLogits.join(parts)


def complete_rows(logits: FeatureLogits, store: FeatureStore) -> NDArray[np.intp]:
    """Rows of ``logits`` that belong to complete examples: each feature once, in the order of ``store``.

    An example is complete if ``logits`` holds all of its windows.

    Raises:
        ValueError: the logits belong to other features: context lengths differ.
    """
    rows: NDArray[np.intp]
    if _is_whole(logits, store):
        rows = np.arange(len(store))
    else:
        once = once_each(logits.feature)
        every = store.example
        owner = every[logits.feature[once]]
        number = begins_run(owner).cumsum() - 1
        windows_of = np.searchsorted(every, owner, side="right") - np.searchsorted(every, owner)
        rows = once[np.bincount(number)[number] == windows_of]
    if not np.array_equal(logits.length[rows], store.windows["context_length"][logits.feature[rows]]):
        raise ValueError("the logits belong to other features: context lengths differ")
    return rows


def join_windows(
    logits: FeatureLogits, store: FeatureStore, rows: NDArray[np.intp], max_tokens: int = 1 << 20
) -> Iterator[tuple[NDArray[np.int64], WindowLogits]]:
    """Join logits and character offsets of complete examples, in chunks, so that memory is bounded.

    Args:
        logits, store: as for `complete_rows`.
        rows: the rows that `complete_rows` returns.
        max_tokens: context tokens in a chunk; only a single example may exceed it.

    Yields:
        [N] indices of the examples, ascending; and their windows, whose ``example`` counts from 0 to N - 1.
    """
    if len(rows) == len(store) and _is_whole(logits, store) and len(logits.start) <= max_tokens:
        begins = begins_run(store.example)
        number = begins.cumsum() - 1
        spans = logits.start, logits.end, store.char_start, store.char_end
        yield store.example[begins].astype(np.int64), WindowLogits(number, logits.length, *spans, logits.null)
        return
    token_offset = logits.length.cumsum(dtype=np.int64) - logits.length
    examples = store.windows["example"][logits.feature[rows]]
    tokens_until = logits.length[rows].cumsum(dtype=np.int64)
    first = 0
    while first < len(rows):
        done = tokens_until[first - 1] if first else 0
        stop = max(int(np.searchsorted(tokens_until, done + max_tokens, side="right")), first + 1)
        if stop < len(rows):  # do not cut an example: go back to its first window, or else on to its end
            begin = int(np.searchsorted(examples, examples[stop]))
            stop = begin if begin > first else int(np.searchsorted(examples, examples[first], side="right"))
        part = rows[first:stop]
        feature, length = logits.feature[part], logits.length[part]
        tokens = ragged(token_offset[part], length)
        store_tokens = ragged(store.context_offset[feature], length)
        begins = begins_run(examples[first:stop])
        yield (
            examples[first:stop][begins],
            WindowLogits(
                example=begins.cumsum() - 1,
                length=length,
                start=logits.start[tokens],
                end=logits.end[tokens],
                char_start=store.char_start[store_tokens],
                char_end=store.char_end[store_tokens],
                null=logits.null[part],
            ),
        )
        first = stop


def _is_whole(logits: FeatureLogits, store: FeatureStore) -> bool:
    """Whether the logits are those of all features, in order, as of a question with one window."""
    return len(logits.feature) == len(store) and bool((logits.feature == np.arange(len(store))).all())


def once_each(feature: Ints) -> NDArray[np.intp]:
    """Rows that hold each feature once, ascending by feature; the first row of a repeated feature."""
    if (feature[1:] > feature[:-1]).all():
        return np.arange(len(feature))
    rows: NDArray[np.intp] = np.unique(feature, return_index=True)[1]
    return rows
