"""Time of a validation epoch against its forward passes alone.

    python benchmarks/bench_validation.py --data dev-v1.1.json --vocab bert-base-uncased-vocab.txt

The forward passes run over the same batches, already in memory. The epoch also loads, pads, computes the loss, keeps
logits, decodes and scores. ``padded-384-forward`` are the forward passes of batches padded to 384 tokens.
"""

from __future__ import annotations

import argparse
import logging
import time
from typing import Any

import harness
import material


def add_arguments(parser: argparse.ArgumentParser) -> None:
    material.add_data_flags(parser, 400)
    material.add_shape_flag(parser)
    parser.add_argument("--batch-size", type=int, default=32)


def _parts(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    import torch
    from lightning.pytorch import Trainer

    from qa_lightning import QALightningModule, SquadDataModule
    from qa_lightning.cli.console import quiet_libraries

    quiet_libraries()
    logging.getLogger("qa_lightning").setLevel(logging.WARNING)
    torch.manual_seed(0)
    folder, path = material.model_folder(options), material.question_file(options)
    data = SquadDataModule(None, path, folder, eval_batch_size=options.batch_size)
    data.prepare_data()
    data.setup("validate")
    return QALightningModule(folder), data, Trainer(**material.BARE_TRAINER)


def _forward(module: Any, batches: list[Any]) -> float:
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device).eval()
    with torch.inference_mode():
        module({name: values.to(device) for name, values in batches[-1].items()})
        started = time.perf_counter()
        for batch in batches:
            start, _ = module({name: values.to(device) for name, values in batch.items()})
        start.cpu()
        return time.perf_counter() - started


def forward(options: argparse.Namespace) -> harness.Figures:
    """The lower bound: the forward passes alone."""
    module, data, _ = _parts(options)
    batches = list(data.val_dataloader())
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    padded = sum(batch["attention_mask"].numel() for batch in batches)
    windows = sum(len(batch["feature"]) for batch in batches)
    return {"seconds": _forward(module, batches), "windows": windows, "padding_share": 1 - tokens / padded}


def epoch(options: argparse.Namespace) -> harness.Figures:
    """The whole epoch, run by `Trainer.validate`."""
    from lightning.pytorch import Callback

    module, data, trainer = _parts(options)
    times: list[float] = []

    class Clock(Callback):
        def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            times.append(time.perf_counter())

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            times.append(time.perf_counter())

    trainer.callbacks.append(Clock())
    trainer.validate(module, data, verbose=False)
    return {"seconds": times[1] - times[0], "windows": len(data.validation_set)}


def padded(options: argparse.Namespace) -> harness.Figures:
    """The peer: forward passes of batches padded to 384 tokens."""
    from qa_lightning.features.batching import PaddingCollator

    module, data, _ = _parts(options)
    collate = PaddingCollator(data.tokenizer, 384)
    features = [data.validation_set[index] for index in range(len(data.validation_set))]
    batches = [
        collate(features[begin : begin + options.batch_size]) for begin in range(0, len(features), options.batch_size)
    ]
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    whole = sum(batch["attention_mask"].numel() for batch in batches)
    return {"seconds": _forward(module, batches), "windows": len(features), "padding_share": 1 - tokens / whole}


VARIANTS: dict[str, harness.Variant] = {"forward": forward, "epoch": epoch, "padded-384-forward": padded}

if __name__ == "__main__":
    harness.main(__doc__.split("\n")[0], VARIANTS, "seconds", add_arguments, rounds=3)
