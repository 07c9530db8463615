"""Minutes of training until a given F1: ours against the padded recipe; same machine, seed and hyper-parameters.

    python benchmarks/bench_time_to_quality.py --model MODEL --train train.json --validation validation.json

Both train MODEL with the same batch size, learning rate, warm-up and linear decay, in float32 on a CPU (bf16 against
fp16 on a GPU). Every ``--check-every`` features training pauses for a score, which the same exact code computes for
both; only training is timed. The run stops when it reaches ``--f1``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from typing import Any

import harness
import material
import peers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a pretrained encoder: a folder, or a name on the Hub")
    parser.add_argument("--train", required=True, help="SQuAD v1.1 JSON file")
    parser.add_argument("--validation", required=True, help="SQuAD v1.1 JSON file")
    parser.add_argument("--f1", type=float, default=60.0, help="stop at this F1")
    parser.add_argument("--epochs", type=int, default=2, help="length of the schedule")
    parser.add_argument("--check-every", type=int, default=500, help="features between two scores")
    parser.add_argument("--first-check", type=int, default=3000, help="features before the first score")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--warmup-ratio", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=42)


def _module(options: argparse.Namespace) -> tuple[Any, Any]:
    from lightning.pytorch import seed_everything

    from qa_lightning import QALightningModule, SquadDataModule
    from qa_lightning.cli.console import quiet_libraries

    quiet_libraries()
    logging.getLogger("qa_lightning").setLevel(logging.WARNING)
    seed_everything(options.seed, verbose=False)
    module = QALightningModule(options.model, learning_rate=options.learning_rate, warmup_ratio=options.warmup_ratio)
    data = SquadDataModule(
        options.train, options.validation, options.model, batch_size=options.batch_size, seed=options.seed
    )
    return module, data


def _due(options: argparse.Namespace, before: int, after: int) -> bool:
    """Whether a score is due after a step that raises the number of features from ``before`` to ``after``."""
    if after < options.first_check:
        return False
    steps = [(count - options.first_check) // options.check_every for count in (before, after)]
    return bool(before < options.first_check or steps[1] > steps[0])


def _report(name: str, seconds: float, features: int, f1: float) -> None:
    print(f"{name}: {features:,} features, {seconds / 60:.1f} min, F1 {f1:.2f}", file=sys.stderr, flush=True)


def ours(options: argparse.Namespace) -> harness.Figures:
    """`Trainer.fit`, stopped by a callback."""
    import torch
    from lightning.pytorch import Callback, Trainer

    from qa_lightning.training.steps.heap import LimitedHeap, keep_freed_memory

    limits = [LimitedHeap()] if not torch.cuda.is_available() and keep_freed_memory() else []
    module, data = _module(options)

    class Check(Callback):
        """Times the training steps, and scores the model when a score is due."""

        seconds, features, f1 = 0.0, 0, 0.0
        since: float | None = None

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if self.since is None:
                self.since = time.perf_counter()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            before = self.features
            self.features += len(batch["feature"])
            if _due(options, before, self.features):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                assert self.since is not None
                self.seconds += time.perf_counter() - self.since
                self.since = None
                self.f1 = _score(pl_module, data)
                _report("ours", self.seconds, self.features, self.f1)
                trainer.should_stop = self.f1 >= options.f1

    check = Check()
    trainer = Trainer(
        max_epochs=options.epochs,
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        gradient_clip_val=1.0,
        limit_val_batches=0,
        **material.BARE_TRAINER,
        callbacks=[check, *limits],
    )
    trainer.fit(module, data)
    return {"minutes": check.seconds / 60, "features": check.features, "f1": check.f1}


def padded(options: argparse.Namespace) -> harness.Figures:
    """The course's loop over batches padded to 384 tokens."""
    import torch
    from transformers import get_linear_schedule_with_warmup

    from qa_lightning.data.examples import read_examples
    from qa_lightning.data.sources import read_rows

    module, data = _module(options)
    data.prepare_data()
    data.setup("validate")
    model, device = module.model, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device)
    rows = list(read_examples(read_rows(options.train, "train"), "error"))
    columns = {name: [row[name] for row in rows] for name in rows[0]}  # type: ignore[literal-required]
    features = peers.padded_features(data.tokenizer, columns, training=True)
    tensors = {name: torch.tensor(values) for name, values in features.items()}
    count, size = len(tensors["input_ids"]), options.batch_size
    steps = options.epochs * -(-count // size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, int(steps * options.warmup_ratio), steps)
    half = device.type == "cuda"
    scaler = torch.amp.GradScaler(enabled=half)
    model.train()
    seconds, seen, f1 = 0.0, 0, 0.0
    for _ in range(options.epochs):
        order = torch.randperm(count)
        for begin in range(0, count, size):
            started = time.perf_counter()
            chosen = order[begin : begin + size]
            batch = {name: values[chosen].to(device) for name, values in tensors.items()}
            with torch.autocast(device.type, torch.float16, enabled=half):
                loss = model(**batch).loss
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            optimizer.zero_grad()
            loss.item()
            seconds += time.perf_counter() - started
            before, seen = seen, seen + len(chosen)
            if _due(options, before, seen):
                f1 = _score(module, data)
                _report("padded", seconds, seen, f1)
                if f1 >= options.f1:
                    return {"minutes": seconds / 60, "features": seen, "f1": f1}
    return {"minutes": seconds / 60, "features": seen, "f1": f1}


def _score(module: Any, data: Any) -> float:
    """F1 (0-100) of the module's present weights, computed as in validation; leaves it in training mode."""
    import torch

    from qa_lightning import SquadMetric
    from qa_lightning.decoding.decoder import LogitsCollector, LogitsCopy
    from qa_lightning.metrics.outcomes import judge
    from qa_lightning.models.computing.loss import span_loss

    if data.validation_set is None:
        data.setup("validate")
    device = next(module.parameters()).device
    module.eval()
    collected = LogitsCollector()
    with torch.inference_mode():
        for batch in data.val_dataloader():
            inputs = {name: values.to(device) for name, values in batch.items()}
            start, end = module(inputs)
            collected.add(LogitsCopy(inputs, start, end, span_loss(start, end, inputs)).logits())
    module.train()
    dataset = data.validation_set
    predictions = material.predictions_of(collected.take(), dataset.store, dataset.examples, dataset.version_2)
    metric = SquadMetric(dataset.version_2)
    outcomes = judge(predictions, metric.scoring)
    metric.update_scores(*outcomes.scores(0.0, dataset.version_2), outcomes.has_answer)
    return float(metric.compute()["f1"])


VARIANTS: dict[str, harness.Variant] = {"ours": ours, "padded-384": padded}

if __name__ == "__main__":
    harness.main(__doc__.split("\n")[0], VARIANTS, "minutes", add_arguments, rounds=1, baseline="padded-384")
