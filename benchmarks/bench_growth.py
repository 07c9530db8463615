"""Time and memory of preparing, loading training batches and validating, for 10 thousand to a million questions.

    python benchmarks/bench_growth.py --data dev-v1.1.json --vocab bert-base-cased-vocab.txt

The questions are repeated under new ids. Training batches are loaded without a model, and the validation epoch uses
random logits in place of one, so only our own code is measured. ``memory_mb`` is the peak growth of the process's
anonymous memory: files that it maps, which the system may drop at any time, do not count. ``peak_rss_mb``, added by
the harness, includes them and the libraries. ``logits_mb`` is the size of the logits of all context tokens. Linux only.
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import harness
import material


def add_arguments(parser: argparse.ArgumentParser) -> None:
    material.add_data_flags(parser, None)
    parser.set_defaults(shape="minilm-l6")


def _file(options: argparse.Namespace, times: int) -> str:
    path = options.scratch / f"times-{times}.jsonl"
    if not path.exists():
        rows = material.questions(options)
        with path.open("w", encoding="utf-8") as file:
            for number in range(times):
                file.writelines(json.dumps({**row, "id": f"{number}-{row['id']}"}) + "\n" for row in rows)
    return str(path)


def _data(options: argparse.Namespace, times: int) -> Any:
    from qa_lightning import SquadDataModule
    from qa_lightning.cli.console import quiet_libraries

    quiet_libraries()
    logging.getLogger("qa_lightning").setLevel(logging.WARNING)
    return SquadDataModule(None, _file(options, times), material.model_folder(options), eval_batch_size=32)


class Memory(threading.Thread):
    """Samples the process's anonymous memory 50 times per second while the block runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.begin = self.peak = self._now()
        self._stop_it = threading.Event()

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_it.set()
        self.join()

    def run(self) -> None:
        while not self._stop_it.wait(0.02):
            self.peak = max(self.peak, self._now())

    @property
    def grown(self) -> float:
        """Growth at the peak, in MB."""
        return self.peak - self.begin

    @staticmethod
    def _now() -> float:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def preparing(options: argparse.Namespace, times: int) -> harness.Figures:
    """Read and check the rows, cut the windows and write them."""
    _data(options, times)
    data = _data(options, times)
    data.cache_dir = options.scratch / f"cache-{time.time_ns()}"
    with Memory() as memory:
        started = time.perf_counter()
        data.prepare_data()
        seconds = time.perf_counter() - started
    data.setup("validate")
    return {"seconds": seconds, "questions": len(data.validation_set.examples), "memory_mb": memory.grown}


def decoding(options: argparse.Namespace, times: int) -> harness.Figures:
    """Join the windows and decode all logits in one call."""
    import numpy as np

    from qa_lightning.decoding.decoder import FeatureLogits

    data = _data(options, times)
    data.prepare_data()
    data.setup("validate")
    store = data.validation_set.store
    random = np.random.default_rng(0)
    length = np.asarray(store.windows["context_length"])
    start, end = (random.standard_normal(length.sum(), np.float32) for _ in range(2))
    null = random.standard_normal(len(store), np.float32)
    logits = FeatureLogits(np.arange(len(store)), length, start, end, null, null)
    with Memory() as memory:
        started = time.perf_counter()
        material.predictions_of(logits, store, data.validation_set.examples, False)
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "questions": len(data.validation_set.examples),
        "memory_mb": memory.grown,
        "logits_mb": (start.nbytes + end.nbytes) / 2**20,
    }


def training(options: argparse.Namespace, times: int) -> harness.Figures:
    """Load the first 200 batches of an epoch, whose order is drawn over all windows; no model runs."""
    from qa_lightning import SquadDataModule

    data = SquadDataModule(_file(options, times), _file(options, 1), material.model_folder(options), batch_size=8)
    data.prepare_data()
    with Memory() as memory:
        started = time.perf_counter()
        data.setup("fit")
        batches = iter(data.train_dataloader())
        for _ in range(200):
            next(batches)
        seconds = time.perf_counter() - started
    assert data.train_set is not None
    return {"seconds": seconds, "questions": len(data.train_set.examples), "memory_mb": memory.grown}


def epoch(options: argparse.Namespace, times: int) -> harness.Figures:
    """A validation epoch with random logits in place of a model."""
    import torch
    from lightning.pytorch import Callback, Trainer

    from qa_lightning import QALightningModule

    class Random(QALightningModule):
        def forward(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
            start, end = torch.randn(2, *batch["input_ids"].shape)
            return start, end

    marks: list[float] = []

    class Clock(Callback):
        def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            marks.append(time.perf_counter())

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            marks.append(time.perf_counter())

    data = _data(options, times)
    data.prepare_data()
    module = Random(material.model_folder(options))
    trainer = Trainer(
        accelerator="cpu",
        **material.BARE_TRAINER,
        callbacks=Clock(),
    )
    with Memory() as memory:
        trainer.validate(module, data, verbose=False)
    tokens = int(data.validation_set.store.windows["context_length"].sum())
    return {
        "seconds": marks[1] - marks[0],
        "questions": len(data.validation_set.examples),
        "memory_mb": memory.grown,
        "logits_mb": 8 * tokens / 2**20,
    }


def _at(measure: Any, times: int) -> harness.Variant:
    return lambda options: measure(options, times)


VARIANTS: dict[str, harness.Variant] = {
    f"{measure.__name__}-x{times}": _at(measure, times)
    for measure in (preparing, decoding, training, epoch)
    for times in (1, 10, 95)
}

if __name__ == "__main__":
    harness.main(__doc__.split("\n")[0], VARIANTS, "seconds", add_arguments, rounds=3)
