"""Time from logits to answers: the exact search over all windows against the top 20 starts by the top 20 ends.

    python benchmarks/bench_decoding.py --data dev-v1.1.json --vocab bert-base-cased-vocab.txt

Logits are noise (the hardest case: the best spans may be anywhere) or, with ``--logits peaked``, noise with a clear
answer. Run it with one thread. Ours reads features that are memory-mapped from disk; the peer reads its own from an
Arrow file, as ``run_qa.py`` does, and runs only its search, without writing the n-best file. ``missed`` counts the
questions for which the returned span is not the best one, which brute force over all pairs of all windows finds.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import harness
import material
import numpy as np
import peers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    material.add_data_flags(parser, None)
    parser.add_argument("--logits", choices=["noise", "peaked"], default="noise")
    parser.add_argument("--n-best", type=int, default=20)


def _features(options: argparse.Namespace) -> tuple[list[Any], Any, Any]:
    """Examples, their features, and random logits of each context token."""
    from qa_lightning.decoding.decoder import FeatureLogits
    from qa_lightning.features.store import FeatureStore, write_features
    from qa_lightning.features.windows import Windower, WindowSettings

    rows = material.questions(options)
    windower = Windower(material.load_tokenizer(options), WindowSettings(peers.MAX_LENGTH, peers.DOC_STRIDE))
    batch = windower([row["question"] for row in rows], [row["context"] for row in rows], [None] * len(rows))
    store = FeatureStore.of_batch(batch)
    random = np.random.default_rng(0)
    length = store.windows["context_length"]
    start, end = (random.standard_normal(int(length.sum()), np.float32) for _ in range(2))
    if options.logits == "peaked":
        peak = store.context_offset + (random.random(len(store)) * np.maximum(length - 5, 1)).astype(int)
        start[peak] += 8
        end[np.minimum(peak + random.integers(0, 5, len(store)), store.context_offset + length - 1)] += 8
    null = random.standard_normal(len(store), np.float32)
    folder = options.scratch / "features"
    if not folder.exists():
        folder.mkdir()
        write_features([batch], folder, 30522)
    store = FeatureStore.open(folder)
    return rows, store, FeatureLogits(np.arange(len(store)), length, start, end, null, null)


def ours(options: argparse.Namespace) -> harness.Figures:
    """Join the windows, decode, and take the texts of the answers."""
    from qa_lightning.decoding.predictions import Rows

    rows, store, logits = _features(options)
    started = time.perf_counter()
    predictions = material.predictions_of(logits, store, Rows(rows), False, options.n_best)
    seconds = time.perf_counter() - started
    found = {example["id"]: predictions.spans.best_score[number] for number, example, _ in predictions.rows()}
    return {"seconds": seconds, "windows": len(store), "missed": _missed(found, rows, store, logits)}


def top_20(options: argparse.Namespace) -> harness.Figures:
    """The peer, with features in an Arrow file and logits in memory, as in ``run_qa.py``."""
    import datasets

    datasets.disable_progress_bars()
    rows, store, logits = _features(options)
    tokenizer = material.load_tokenizer(options)
    path = options.scratch / "padded.arrow"
    examples = datasets.Dataset.from_list(rows)
    features = examples.map(
        lambda columns: peers.padded_features(tokenizer, columns, training=False),
        batched=True,
        remove_columns=examples.column_names,
        cache_file_name=str(path),
    )
    starts, ends = np.full((2, len(store), peers.MAX_LENGTH), -10.0, np.float32)
    for number, window in enumerate(store.windows):
        begin, length = int(window["context_begin"]), int(window["context_length"])
        part = slice(int(store.context_offset[number]), int(store.context_offset[number]) + length)
        starts[number, begin : begin + length] = logits.start[part]
        ends[number, begin : begin + length] = logits.end[part]
    started = time.perf_counter()
    answers = peers.top_20_answers(rows, features, starts, ends, options.n_best)
    seconds = time.perf_counter() - started
    found = {key: score for key, (_, score) in answers.items()}
    return {"seconds": seconds, "windows": len(store), "missed": _missed(found, rows, store, logits)}


def _missed(found: dict[str, Any], rows: list[Any], store: Any, logits: Any) -> int:
    best = np.full(len(rows), -np.inf)
    for number, window in enumerate(store.windows):
        begin, length = int(store.context_offset[number]), int(window["context_length"])
        start, end = (values[begin : begin + length].astype(np.float64) for values in (logits.start, logits.end))
        pairs = start[:, None] + end[None, :]
        allowed = np.tri(length, length, 29, dtype=bool) & ~np.tri(length, length, -1, dtype=bool)
        best[window["example"]] = max(best[window["example"]], pairs[allowed].max())
    return sum(bool(abs(found[row["id"]] - score) > 1e-5) for row, score in zip(rows, best, strict=True))


VARIANTS: dict[str, harness.Variant] = {"top-20-by-top-20": top_20, "ours": ours}

if __name__ == "__main__":
    harness.main(__doc__.split("\n")[0], VARIANTS, "seconds", add_arguments, rounds=5)
