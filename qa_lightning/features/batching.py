"""Decide which features form a batch, in what order and on which process, and pad them.

If all features of SQuAD are padded to 384 tokens, over half of the tokens are padding. Sorting by length within 50
batches leaves about 2% padding, and the order of batches stays random. Both samplers subclass ``DistributedSampler``,
so Lightning does not replace them and calls ``set_epoch``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from qa_lightning.arrays import Ints
from qa_lightning.errors import InputError
from qa_lightning.features.epochs import EpochWindows
from qa_lightning.features.store import FeatureStore

Batching = Literal["length", "random"]
Batch = dict[str, torch.Tensor]
More = Callable[[Mapping[str, NDArray[np.int64]]], Mapping[str, NDArray[Any]]]  # arrays of a batch -> further ones

_INDICES_AT_ONCE = 1 << 16  # indices converted to Python integers together: each takes about 40 bytes


class FeatureDataset(Dataset[dict[str, Any]]):
    """Features by index, for `PaddingCollator`; and their examples, for scoring.

    Args:
        store: the features, mapped from disk.
        examples: the examples that they are windows of (a ``datasets.Dataset``, or any sequence of `Example`).
        version_2: whether some question has no answer, so that "no answer" can be predicted (SQuAD v2.0).
    """

    def __init__(self, store: FeatureStore, examples: Any, version_2: bool) -> None:
        self.store = store
        self.examples = examples
        self.version_2 = version_2

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: Any) -> Any:
        """A feature; for a list of indices, as `token_batches.TokenSampler` yields them, a list of features."""
        return [self._feature(one) for one in index] if isinstance(index, list) else self._feature(index)

    def _feature(self, index: int) -> dict[str, Any]:
        window = self.store.windows[index]
        begin = int(self.store.token_offset[index])
        end = begin + int(window["length"])
        feature = {
            "feature": index,
            "window": window,
            "input_ids": self.store.input_ids[begin:end],
            "token_type_ids": self.store.token_type_ids[begin:end],
        }
        gold = self.store.gold(index)
        return feature if gold is None else feature | {"gold": gold}


class PaddingCollator:
    """Pads the features of a batch to the longest of them, on the tokenizer's padding side.

    Args:
        tokenizer: gives the padding side, the pad token and the model inputs.
        multiple: the length in tokens is rounded up to a multiple of this, as kernels are faster on such lengths.
        max_length: upper limit of the rounded length in tokens: the longest possible feature; None for no limit.
        more: gives further arrays for a batch, such as a teacher's soft targets.

    The batch holds int64 tensors, and what ``more`` adds:

    - ``input_ids, attention_mask`` and, if the tokenizer's models take them, ``token_type_ids``: [B, T].
    - ``feature, start_positions, end_positions, cls, context_begin, context_length``: [B]; token indices count the
      padding too.
    - ``gold_start, gold_end``: [B, A] the gold spans of each feature, -1 after the last one; only if some feature of
      the batch holds several distinct gold spans.
    """

    def __init__(
        self, tokenizer: Any, multiple: int = 1, max_length: int | None = None, more: More | None = None
    ) -> None:
        self.multiple = multiple
        self.max_length = max_length
        self.more = more
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.pad_type: int = tokenizer.pad_token_type_id
        self.left: bool = tokenizer.padding_side == "left"
        self.token_types: bool = "token_type_ids" in tokenizer.model_input_names

    def __call__(self, features: Sequence[dict[str, Any]]) -> Batch:
        """Collate features of `FeatureDataset`; the class describes the batch."""
        windows = np.array([feature["window"] for feature in features])
        lengths = windows["length"].astype(np.int64)
        width = -(-int(lengths.max()) // self.multiple) * self.multiple
        shape = (len(features), width if self.max_length is None else min(width, self.max_length))
        shift = shape[1] - lengths if self.left else np.zeros_like(lengths)
        ids = np.full(shape, self.pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        types = np.full(shape, self.pad_type, np.int64) if self.token_types else None
        for row, (feature, begin, length) in enumerate(zip(features, shift, lengths, strict=True)):
            ids[row, begin : begin + length] = feature["input_ids"]
            mask[row, begin : begin + length] = 1
            if types is not None:
                types[row, begin : begin + length] = feature["token_type_ids"]
        batch: dict[str, NDArray[np.int64]] = {"input_ids": ids, "attention_mask": mask}
        if types is not None:
            batch["token_type_ids"] = types
        batch["feature"] = np.array([feature["feature"] for feature in features], np.int64)
        batch["context_length"] = windows["context_length"].astype(np.int64)
        for name, field in (
            ("start_positions", "start"),
            ("end_positions", "end"),
            ("cls", "cls"),
            ("context_begin", "context_begin"),
        ):
            batch[name] = windows[field] + shift
        if any("gold" in feature for feature in features):
            batch |= _gold(features, windows, shift)
        further = {} if self.more is None else self.more(batch)
        return {name: torch.from_numpy(array) for name, array in (*batch.items(), *further.items())}


def _gold(features: Sequence[dict[str, Any]], windows: NDArray[np.void], shift: Ints) -> dict[str, NDArray[np.int64]]:
    """``gold_start, gold_end`` of a batch, as `PaddingCollator` describes them."""
    # A feature without "gold" has one label, that of its record.
    own = [([window["start"]], [window["end"]]) for window in windows]
    spans = [feature.get("gold", one) for feature, one in zip(features, own, strict=True)]
    gold = np.full((2, len(spans), max(len(starts) for starts, _ in spans)), -1, np.int64)
    for row, labels in enumerate(spans):
        gold[:, row, : len(labels[0])] = np.array(labels) + shift[row]
    return {"gold_start": gold[0], "gold_end": gold[1]}


class TrainingSampler(DistributedSampler[int]):
    """Yields every feature of an epoch once, in an order that depends only on ``seed`` and the epoch.

    For an optimizer step the W processes together take a group of ``batch_size * W * accumulated`` features; a process
    takes every W-th feature of it. So one process with batch size ``2 * B``, two with ``B``, and one that accumulates
    two batches of ``B`` see the same groups in the same order. The last, partial group is filled up to a multiple of W
    with repeated features, so that all processes take the same number of steps.

    Args:
        lengths: [F] tokens of each feature.
        batch_size: features per batch and process.
        batching: ``length`` sorts by length within 50 groups; ``random`` only shuffles.
        num_replicas: W, the number of processes.
        rank: index of this process.
        seed: decides the order together with the epoch.
        accumulated: batches per optimizer step.
        chosen: the features of each epoch; None: all.

    Attributes:
        per_epoch: features of an epoch, over all processes, without repeated ones.
        start: (epoch, batches): in that epoch, this many batches are already done and are left out.
    """

    groups_sorted_together = 50

    def __init__(
        self,
        lengths: NDArray[np.integer[Any]],
        batch_size: int,
        batching: Batching = "length",
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        accumulated: int = 1,
        chosen: EpochWindows | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.chosen = chosen
        self.per_epoch = len(self.lengths) if chosen is None else chosen.count
        self.batch_size = batch_size
        self.accumulated = accumulated
        self.group = batch_size * num_replicas * accumulated
        self.batching = batching
        self.num_replicas = num_replicas
        self.rank = rank
        self.seed = seed
        self.epoch = 0
        self.start = (0, 0)

    def __len__(self) -> int:
        return -(-self.per_epoch // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.per_epoch)
        if self.per_epoch < len(self.lengths):
            assert self.chosen is not None
            order = self.chosen.of_epoch(self.seed, self.epoch)[order]
        if self.batching == "length":
            order = self._group_by_length(order, random)
        missing = -len(order) % self.num_replicas
        partial = order[len(order) // self.group * self.group :] if missing else order[:0]
        order = np.concatenate([order, np.resize(partial, missing)])
        mine = order[self.rank :: self.num_replicas]
        epoch, batches = self.start
        rest = mine[batches * self.batch_size :] if epoch == self.epoch else mine
        for begin in range(0, len(rest), _INDICES_AT_ONCE):
            yield from rest[begin : begin + _INDICES_AT_ONCE].tolist()

    def weight(self, batch: int, batches: int | None = None) -> float:
        """The weight of each feature's loss in a batch, so that the optimizer step is the mean over all its features.

        Lightning averages over accumulated batches and DDP over processes. So the weight is 1 / batch_size, and larger
        in the last, partial step.

        Args:
            batch: index of this process's batch in the epoch.
            batches: the epoch ends after so many of this process's batches; None: after all of them.
        """
        step = batch // self.accumulated
        features = min(self.group, self.per_epoch - step * self.group)
        if batches is not None:
            features = min(features, (batches - step * self.accumulated) * self.batch_size * self.num_replicas)
        return self.group / self.batch_size / features

    def repeats(self, batch: int) -> int:
        """How many features at the end of a batch are repeated ones, whose loss must not count: 0 or 1.

        Args:
            batch: index of this process's batch in the epoch.
        """
        last = -(-len(self) // self.batch_size) - 1
        return int(batch == last and (len(self) - 1) * self.num_replicas + self.rank >= self.per_epoch)

    def _group_by_length(self, order: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        together = self.group * self.groups_sorted_together
        parts = [order[begin : begin + together] for begin in range(0, len(order), together)]
        # Longest first within a part. The sort is stable, so features of equal length stay in random order.
        parts = [part[np.argsort(-self.lengths[part], kind="stable")] for part in parts]
        ordered = np.concatenate(parts) if parts else order
        full = len(ordered) // self.group
        groups = ordered[: full * self.group].reshape(full, self.group)
        return np.concatenate([groups[random.permutation(full)].ravel(), ordered[full * self.group :]])


class LazyLoader(DataLoader[Any]):
    """A loader that asks its sampler and starts its workers only when the first batch is requested.

    The reason: Lightning creates the iterator before it tells the sampler the epoch of a resumed run.
    """

    def __iter__(self) -> Any:
        yield from super().__iter__()


class EvaluationSampler(DistributedSampler[int]):
    """Yields every feature in batches of similar length, which are the same for any number of processes.

    The processes take whole batches in turn, so a batch gives the same logits wherever it is computed. All processes
    take the same number of batches, because a wrapped forward may contain collectives: a process without a batch in
    the last turn repeats the first one. Results must be joined by feature index, so that a repeated feature counts
    once.

    Args:
        lengths: [F] tokens of each feature.
        batch_size: features per batch and process.
        num_replicas: number of processes.
        rank: index of this process.
        max_batches: take at most this many batches, over all processes; None takes all.
        examples: [F] the example of each feature, with ``max_batches``: whole examples are taken then, as far as they
            fit, always the same ones, drawn from all.

    Attributes:
        features: number of features that all processes take together, each counted once.

    Raises:
        InputError: no example fits into ``max_batches``.
    """

    def __init__(
        self,
        lengths: NDArray[np.integer[Any]],
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        max_batches: int | None = None,
        examples: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        order = longest_first(lengths)
        if max_batches is not None and examples is not None:
            order = order[_whole_examples(examples, max_batches * batch_size)[order]]
        batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)][:max_batches]
        # The longest first, so that a batch that is too large fails at once, then the shortest: a context's last window
        # waits for its full ones, which come together, and not they for it. A batch that is not full must be the last.
        full = len(order) // batch_size
        batches = batches[:num_replicas] + batches[num_replicas:full][::-1] + batches[max(full, num_replicas) :]
        self.features = sum(map(len, batches))
        rounds = -(-len(batches) // num_replicas)
        numbers = [(turn * num_replicas + rank) for turn in range(rounds)]
        mine = [batches[number if number < len(batches) else 0] for number in numbers]
        self.order = np.concatenate(mine) if mine else order[:0]
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        for begin in range(0, len(self.order), _INDICES_AT_ONCE):
            yield from self.order[begin : begin + _INDICES_AT_ONCE].tolist()


def _whole_examples(examples: NDArray[np.integer[Any]], features: int) -> NDArray[np.bool_]:
    """[F] whether to take each feature, for whole examples with at most so many features together.

    Args:
        examples: [F] the example of each feature.
        features: the most features.

    Raises:
        InputError: each example has more.
    """
    _, of, count = np.unique(examples, return_inverse=True, return_counts=True)
    taken, left = np.zeros(len(count), bool), features
    drawn = np.random.default_rng(0).permutation(len(count))
    while len(drawn := drawn[count[drawn] <= left]):
        fits = drawn[count[drawn].cumsum() <= left]  # all until the first one that is too long
        taken[fits] = True
        drawn, left = drawn[len(fits) :], left - int(count[fits].sum())
    if features and not taken.any():
        raise InputError(
            f"no question has so few windows as {features:,}, the fewest are {count.min():,}; allow more batches, or "
            "larger ones with --data.eval_batch_size"
        )
    return np.asarray(taken[of])


def longest_first(lengths: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Indices of features by their lengths in tokens; those of one length in order."""
    return np.argsort(-np.asarray(lengths), kind="stable")


def window_batches(store: FeatureStore, collate: PaddingCollator, batch_size: int) -> Iterator[Batch]:
    """Yield all windows in batches, longest first: little is padded, and a batch that is too large fails at once.

    Without a DataLoader, which would cost a tenth of a short question's time and draw from torch's random numbers.
    """
    features = FeatureDataset(store, None, False)
    order = longest_first(store.windows["length"])
    for begin in range(0, len(order), batch_size):
        yield collate([features[index] for index in order[begin : begin + batch_size].tolist()])
