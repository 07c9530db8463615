"""Soft targets: for a batch of the student's windows, the teacher's probability of a start and an end at each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Floats, Ints, as_files, mapped, ragged
from qa_lightning.models.computing.loss import SOFT_TARGETS


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's logits for the student's windows, joined with batches by the index of the feature.

    The temperature is applied to the teacher's own logits, before they are mapped, so one file of logits serves all
    temperatures; and probabilities are mapped, not logits, so that they sum to 1.

    Attributes:
        offset: [F] index of each window's first value in the flat arrays.
        count: [F] number of its values: the teacher's CLS token, then its context tokens.
        start, end: flat logits, float32.
        start_index, end_index: flat: index of the token in the student's window that each value belongs to; None where
            both have the same tokens.
        temperature: above 0; the logits are divided by it.
    """

    offset: Ints
    count: Ints
    start: Floats
    end: Floats
    start_index: Ints | None
    end_index: Ints | None
    temperature: float

    def __getstate__(self) -> dict[str, Any]:
        """A process that it is sent to maps the files itself; see `FeatureStore`."""
        return as_files(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files; see `__getstate__`."""
        self.__dict__.update(mapped(state))

    def __call__(self, batch: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float32]]:
        """The arrays that a batch of `batching.PaddingCollator` gets, before they are tensors.

        Returns:
            ``teacher_start, teacher_end``: [B, T] probabilities, and -1 for tokens that no answer starts or ends at:
            the question, special tokens other than CLS, padding.
        """
        feature, shape = batch["feature"], batch["attention_mask"].shape
        row, column = answerable(batch["cls"], batch["context_begin"], batch["context_length"])
        base = np.full(shape, -1.0)
        base[row, column] = 0.0
        count = self.count[feature].astype(np.int64)
        flat = ragged(self.offset[feature], count)
        first = count.cumsum() - count
        row = np.repeat(np.arange(len(feature)), count)
        padding = batch["attention_mask"].argmax(1)[row]  # tokens before the window, where a tokenizer pads on the left
        targets = {}
        ends = ((self.start, self.start_index), (self.end, self.end_index))
        for name, (logits, index) in zip(SOFT_TARGETS, ends, strict=True):
            weight = logits[flat].astype(np.float64)
            weight = np.exp((weight - np.maximum.reduceat(weight, first)[row]) / self.temperature)
            weight /= np.add.reduceat(weight, first)[row]
            at = row * shape[1] + (column if index is None else padding + index[flat])
            mass = np.bincount(at, weight, minlength=base.size).reshape(shape)
            targets[name] = (base + mass).astype(np.float32)
        return targets


def answerable(cls: Ints, begin: Ints, length: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the tokens of a batch that an answer can start or end at: CLS, then the context's, [S] each.

    Args:
        cls, begin: [B] index of the CLS token, and of the first context token.
        length: [B] number of context tokens.
    """
    count = np.asarray(length, np.int64) + 1
    column = ragged(np.asarray(begin, np.int64) - 1, count)
    column[count.cumsum() - count] = cls
    return np.repeat(np.arange(len(count)), count), column
