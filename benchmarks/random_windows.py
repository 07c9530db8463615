"""Windows of random tokens in SQuAD's lengths, for benchmarks that need neither its texts nor a tokenizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import peers
import torch

# Quantiles, in equal steps, of 18,452 windows of SQuAD v1.1 (bert-base-cased, 384 tokens, stride 128).
LENGTHS = [42, 74, 92, 107, 114, 119, 123, 127, 130, 133, 136, 139, 142, 145, 148, 151, 154, 157, 161, 164, 168]
LENGTHS += [171, 175, 179, 183, 187, 191, 196, 202, 207, 212, 219, 226, 235, 247, 258, 273, 290, 316, 381, 384]
TRAINING_WINDOWS, VALIDATION_WINDOWS = 88_524, 10_784  # of SQuAD v1.1
VOCABULARY = 28_996
QUESTION = 15  # tokens before the context

TOKENIZER: Any = SimpleNamespace(
    pad_token_id=0,
    pad_token_type_id=0,
    padding_side="right",
    model_input_names=["input_ids", "token_type_ids", "attention_mask"],
)


def store_of(windows: int, seed: int = 0) -> Any:
    """A `FeatureStore` of random windows, one per example, in SQuAD's lengths; a token covers 4 of 5 characters."""
    from qa_lightning.features.store import FeatureStore
    from qa_lightning.features.windows import WINDOW, FeatureBatch

    random = np.random.default_rng(seed)
    lengths = np.interp(random.random(windows), np.linspace(0, 1, len(LENGTHS)), LENGTHS).astype(np.int64)
    context = lengths - QUESTION - 1
    records = np.zeros(windows, WINDOW)
    records["example"], records["length"], records["context_length"] = np.arange(windows), lengths, context
    records["context_begin"] = QUESTION
    records["start"] = QUESTION + (random.random(windows) * (context - 4)).astype(np.int64)
    records["end"] = records["start"] + 2
    token = np.arange(context.sum()) - np.repeat(np.cumsum(context) - context, context)
    ids = random.integers(1000, VOCABULARY, lengths.sum()).astype(np.uint16)
    nothing: Any = np.zeros(0, np.int64)
    batch = FeatureBatch(
        records,
        ids,
        np.zeros(len(ids), np.int8),
        (token * 5).astype(np.int32),
        (token * 5 + 4).astype(np.int32),
        0,
        nothing,
    )
    return FeatureStore.of_batch(batch)


def examples_of(store: Any) -> Any:
    """The examples of the store: contexts of words of 4 letters."""
    from qa_lightning.decoding.predictions import Rows

    random = np.random.default_rng(1)
    words = ["".join(chr(97 + letter) for letter in random.integers(0, 26, 4)) for _ in range(5000)]
    rows = []
    for number, window in enumerate(store.windows):
        chosen = random.integers(0, len(words), int(window["context_length"]))
        context = " ".join(words[one] for one in chosen)
        begin = 5 * int(window["start"] - QUESTION)
        answers = {"text": [context[begin : begin + 14]], "answer_start": [begin]}
        rows.append({"id": f"q{number}", "question": "who", "context": context, "answers": answers})
    return Rows(rows)


def loader_of(store: Any, examples: Any, batch: int, multiple: int, training: bool = True) -> Any:
    """The loader that `SquadDataModule` makes."""
    from qa_lightning.features.batching import (
        EvaluationSampler,
        FeatureDataset,
        LazyLoader,
        PaddingCollator,
        TrainingSampler,
    )

    lengths = store.windows["length"]
    sampler = TrainingSampler(lengths, batch) if training else EvaluationSampler(lengths, batch)
    return LazyLoader(
        FeatureDataset(store, examples, False),
        batch_size=batch,
        sampler=sampler,
        collate_fn=PaddingCollator(TOKENIZER, multiple, peers.MAX_LENGTH),
        pin_memory=torch.cuda.is_available(),
    )


def window_ids(store: Any, number: int) -> Any:
    """The token ids of a window."""
    begin = int(store.token_offset[number])
    return store.input_ids[begin : begin + int(store.windows["length"][number])]
