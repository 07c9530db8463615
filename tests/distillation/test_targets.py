"""Soft targets of a batch: masses at the tokens that they belong to, wherever padding stands."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from qa_lightning.distillation.targets import SoftTargets
from qa_lightning.features.batching import FeatureDataset, PaddingCollator
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower, WindowSettings
from tests.helpers.windows import TEXTS, TOKENIZERS


def targets_of(store: FeatureStore, mapped: bool) -> SoftTargets:
    """A teacher that is certain: of a start at the first context token, of an end at CLS.

    If ``mapped``, it has two tokens of its own, CLS and one, which is mapped to that token of the student.
    """
    windows = store.windows
    count = np.full(len(windows), 2) if mapped else windows["context_length"].astype(np.int64) + 1
    offset = count.cumsum() - count
    start, end = np.full((2, count.sum()), -40, np.float32)
    start[offset + 1] = end[offset] = 40
    index = np.stack([windows["cls"], windows["context_begin"]], 1).ravel() if mapped else None
    return SoftTargets(offset, count, start, end, index, index, temperature=1.0)


def test_a_process_that_they_are_sent_to_maps_the_files(tmp_path: Path) -> None:
    path = tmp_path / "start.bin"
    np.arange(9000, dtype=np.float32).tofile(path)
    start = np.memmap(path, np.float32, mode="r")
    zero, part = np.zeros(1, np.int64), start[:10]  # what is no whole file is sent
    targets = SoftTargets(zero, zero, start, part, None, None, temperature=2.0)
    sent = pickle.dumps(targets)
    assert len(sent) < 2000
    received = pickle.loads(sent)
    assert isinstance(received.start, np.memmap)
    assert (received.start == start).all()
    assert (received.end == part).all()
    assert received.temperature == 2.0


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_masses_stand_at_their_tokens_in_any_order_of_features(name: str, mapped: bool) -> None:
    tokenizer = TOKENIZERS[name]()
    windower = Windower(tokenizer, WindowSettings(32, 4, 8))
    store = FeatureStore.of_batch(windower(["Who?"] * len(TEXTS), TEXTS, [None] * len(TEXTS)))
    features = FeatureDataset(store, None, False)
    collate = PaddingCollator(tokenizer, 8, 32, more=targets_of(store, mapped))
    order = np.random.default_rng(0).permutation(len(store)).tolist()
    batch = collate([features[index] for index in order])
    assert batch["feature"].tolist() == order
    assert len(set(batch["attention_mask"].sum(1).tolist())) > 1
    for row in range(len(order)):
        cls, begin, length = (int(batch[name][row]) for name in ("cls", "context_begin", "context_length"))
        for target, token in (("teacher_start", begin), ("teacher_end", cls)):
            found = batch[target][row]
            assert found.dtype == torch.float32
            assert set(torch.nonzero(found >= 0).flatten().tolist()) == {cls, *range(begin, begin + length)}
            assert found[token] == pytest.approx(1)
