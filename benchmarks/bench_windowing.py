"""Time to cut all questions into windows with labels on disk, against bare `Tokenizer.encode_batch` of the same pairs.

    python benchmarks/bench_windowing.py --data dev-v1.1.json --vocab bert-base-cased-vocab.txt

Ours ends with flat files on disk, memory-mapped and ready to use. ``course`` is the preprocessing of the Hugging Face
course, cached by `datasets.map`. ``encode_batch`` discards its results.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import material
import peers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    material.add_data_flags(parser, None)


def _examples(options: argparse.Namespace) -> Any:
    from datasets import Dataset

    from qa_lightning.data.examples import write_examples

    path = options.scratch / "examples.arrow"
    if not path.exists():
        write_examples(material.questions(options), path)
    return Dataset.from_file(str(path))


def encode_batch(options: argparse.Namespace) -> harness.Figures:
    """The baseline: the Rust tokenizer alone."""
    from tokenizers import Tokenizer

    examples = _examples(options)
    tokenizer = Tokenizer.from_str(material.load_tokenizer(options).backend_tokenizer.to_str())
    tokenizer.enable_truncation(peers.MAX_LENGTH, stride=peers.DOC_STRIDE, strategy="only_second")
    pairs = list(zip(examples["question"], examples["context"], strict=True))
    tokenizer.encode_batch(pairs[:100])
    started = time.perf_counter()
    count = 0
    for first in range(0, len(pairs), 1000):
        count += sum(1 + len(encoding.overflowing) for encoding in tokenizer.encode_batch(pairs[first : first + 1000]))
    return {"seconds": time.perf_counter() - started, "windows": count, "questions": len(pairs)}


def ours(options: argparse.Namespace, training: bool) -> harness.Figures:
    """Ours: from examples on disk to features on disk."""
    from qa_lightning.features.cache import cut_examples
    from qa_lightning.features.store import FeatureStore, write_features
    from qa_lightning.features.windows import Windower, WindowSettings, vocabulary_size

    examples = _examples(options)
    tokenizer = material.load_tokenizer(options)
    windower = Windower(tokenizer, WindowSettings(peers.MAX_LENGTH, peers.DOC_STRIDE), offsets=not training)
    list(cut_examples(examples.select(range(100)), windower))
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        started = time.perf_counter()
        write_features(cut_examples(examples, windower), Path(folder), vocabulary_size(tokenizer))
        store = FeatureStore.open(Path(folder))
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        return {
            "seconds": seconds,
            "questions": len(examples),
            "windows": len(store),
            "bytes_per_window": size / len(store),
        }


def course(options: argparse.Namespace, training: bool) -> harness.Figures:
    """The peer: the course's `map`."""
    import datasets

    datasets.disable_progress_bars()
    examples = _examples(options)
    tokenizer = material.load_tokenizer(options)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        started = time.perf_counter()
        features = examples.map(
            lambda rows: peers.padded_features(tokenizer, rows, training),
            batched=True,
            remove_columns=examples.column_names,
            cache_file_name=str(Path(folder) / "features.arrow"),
            load_from_cache_file=False,
        )
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        return {
            "seconds": seconds,
            "questions": len(examples),
            "windows": len(features),
            "bytes_per_window": size / len(features),
        }


VARIANTS: dict[str, harness.Variant] = {
    "encode_batch": encode_batch,
    "ours-training": lambda options: ours(options, True),
    "ours-validation": lambda options: ours(options, False),
    "course-training": lambda options: course(options, True),
    "course-validation": lambda options: course(options, False),
}

if __name__ == "__main__":
    harness.main(__doc__.split("\n")[0], VARIANTS, "seconds", add_arguments, rounds=5)
