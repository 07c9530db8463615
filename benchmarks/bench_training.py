"""Real tokens per second of training, against transformers' Trainer and against batches padded to 384 tokens.

    python benchmarks/bench_training.py --data dev-v1.1.json --vocab bert-base-uncased-vocab.txt

Ours is `Trainer.fit` as ``scripts/train.py`` runs it. There are two peers: ``trainer`` is transformers' Trainer as a
careful user sets it (grouped by length, padded to the longest), ``padded-384`` the course's plain loop (torch's AdamW
with its defaults, linear schedule; fp16 with a scaler on a GPU). The first steps are not timed. ``tokens_per_second``
counts real tokens, without padding; ``utilization`` is shown if the peak of the device is known.
"""

from __future__ import annotations

import argparse
import logging
import time
from typing import Any

import harness
import material
import peers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    material.add_data_flags(parser, 400)
    material.add_shape_flag(parser)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--peer-batch-size", type=int, default=8)
    parser.add_argument("--warmup-steps", type=int, default=3, help="first steps, not timed")
    parser.add_argument("--peer-steps", type=int, default=10, help="steps of the peer; each costs the same")
    parser.add_argument("--attn-implementation", help="sdpa, flash_attention_2 or eager")


def padded(options: argparse.Namespace) -> harness.Figures:
    """The peer: shuffled batches of windows padded to 384 tokens."""
    import torch
    from transformers import BertForQuestionAnswering, get_linear_schedule_with_warmup

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    rows = material.questions(options)
    columns = {name: [row[name] for row in rows] for name in rows[0]}  # type: ignore[literal-required]
    features = peers.padded_features(material.load_tokenizer(options), columns, training=True)
    tensors = {name: torch.tensor(values) for name, values in features.items()}
    order = torch.randperm(len(tensors["input_ids"]))
    model = BertForQuestionAnswering.from_pretrained(material.model_folder(options)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, 1000)
    half = device.type == "cuda"
    scaler = torch.amp.GradScaler(enabled=half)
    size, seconds, counted, tokens = options.peer_batch_size, 0.0, 0, 0
    for step in range(options.warmup_steps + options.peer_steps):
        chosen = order[torch.arange(step * size, (step + 1) * size) % len(order)]
        batch = {name: values[chosen].to(device) for name, values in tensors.items()}
        started = time.perf_counter()
        with torch.autocast(device.type, torch.float16, enabled=half):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        optimizer.zero_grad()
        loss.item()
        if step >= options.warmup_steps:
            seconds += time.perf_counter() - started
            counted += size
            tokens += int(batch["attention_mask"].sum())
    return {
        "features_per_second": counted / seconds,
        "tokens_per_second": tokens / seconds,
        "padding_share": 1 - tokens / (counted * peers.MAX_LENGTH),
        "mean_tokens": tokens / counted,
    } | _utilization(model, tokens, counted * (tokens / counted) ** 2, seconds, device, "16-mixed")


def careful(options: argparse.Namespace, bf16: bool, attention_dropout: float = 0.1) -> harness.Figures:
    """The peer: transformers' Trainer over all windows of the sample."""
    rows = material.questions(options)
    columns = {name: [row[name] for row in rows] for name in rows[0]}  # type: ignore[literal-required]
    features = peers.padded_features(material.load_tokenizer(options), columns, training=True, pad=False)
    wanted = ("input_ids", "token_type_ids", "start_positions", "end_positions")
    windows = [dict(zip(wanted, values, strict=True)) for values in zip(*(features[n] for n in wanted), strict=True)]
    masks: list[Any] = []
    clock = {"begun": 0.0, "ended": 0.0}

    def on_step(mask: Any) -> None:
        masks.append(mask)
        clock["begun" if len(masks) <= options.warmup_steps else "ended"] = time.perf_counter()

    model = peers.train_grouped(
        material.model_folder(options),
        [row | {"length": len(row["input_ids"])} for row in windows],
        options.batch_size,
        len(windows) // options.batch_size,
        bf16,
        on_step,
        attention_probs_dropout_prob=attention_dropout,
        **({"attn_implementation": options.attn_implementation} if options.attn_implementation else {}),
    )
    lengths = [mask.sum(1) for mask in masks[options.warmup_steps :]]
    tokens = sum(int(one.sum()) for one in lengths)
    counted, squared = sum(map(len, lengths)), sum(int(one.square().sum()) for one in lengths)
    seconds = clock["ended"] - clock["begun"]
    return {
        "features_per_second": counted / seconds,
        "tokens_per_second": tokens / seconds,
        "padding_share": 1 - tokens / sum(mask.numel() for mask in masks[options.warmup_steps :]),
        "mean_tokens": tokens / counted,
    } | _utilization(model, tokens, squared, seconds, model.device, "bf16-mixed" if bf16 else "32-true")


def ours(
    options: argparse.Namespace,
    precision: str,
    batching: Any = "length",
    compile: bool = False,
    multiple: int = 4,
    attention_dropout: float | None = None,
    fast_dropout: bool = True,
) -> harness.Figures:
    """One `Trainer.fit` over the sample."""
    import torch
    from lightning.pytorch import Callback, Trainer

    from qa_lightning import QALightningModule, SquadDataModule
    from qa_lightning.cli.console import quiet_libraries
    from qa_lightning.runs.throughput import StepCounter
    from qa_lightning.training.steps.heap import LimitedHeap, keep_freed_memory

    limits = [LimitedHeap()] if not torch.cuda.is_available() and keep_freed_memory() else []
    quiet_libraries()
    logging.getLogger("qa_lightning").setLevel(logging.WARNING)

    class Clock(Callback):
        """Times the steps after the warm-up."""

        def __init__(self) -> None:
            self.counter = StepCounter()
            self.seconds = self.started = 0.0

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if torch.cuda.is_available() and batch_idx % 10 == options.warmup_steps % 10:
                torch.cuda.synchronize()
            if batch_idx >= options.warmup_steps:
                self.counter.add(batch["attention_mask"])
                self.seconds = time.perf_counter() - self.started
            elif batch_idx == options.warmup_steps - 1:
                self.started = time.perf_counter()

    torch.manual_seed(0)
    folder, path = material.model_folder(options), material.question_file(options)
    warm = options.warmup_steps if not compile else 2 * options.warmup_steps
    options.warmup_steps = warm
    data = SquadDataModule(
        path,
        path,
        folder,
        batch_size=options.batch_size,
        batching=batching,
        max_validation_examples=1,
        pad_to_multiple_of=multiple,
    )
    module = QALightningModule(
        folder,
        attn_implementation=options.attn_implementation,
        attention_dropout=attention_dropout,
        fast_dropout=fast_dropout,
        compile=compile,
    )
    clock = Clock()
    trainer = Trainer(
        max_epochs=1,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        limit_val_batches=0,
        **material.BARE_TRAINER,
        callbacks=[clock, *limits],
    )
    trainer.fit(module, data)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        clock.seconds = time.perf_counter() - clock.started
    device = trainer.strategy.root_device
    features, tokens, padded_tokens, squared = (float(value) for value in clock.counter.take(device))
    return {
        "features_per_second": features / clock.seconds,
        "tokens_per_second": tokens / clock.seconds,
        "padding_share": 1 - tokens / padded_tokens,
        "mean_tokens": tokens / features,
    } | _utilization(module.model, tokens, squared, clock.seconds, device, precision)


def _utilization(
    model: Any, tokens: float, squared: float, seconds: float, device: Any, precision: str
) -> harness.Figures:
    from qa_lightning.runs.throughput import computing_weights, peak_flops, training_flops

    peak = peak_flops(device, precision)
    return (
        {"utilization": training_flops(model.config, computing_weights(model), tokens, squared) / seconds / peak}
        if peak
        else {}
    )


VARIANTS: dict[str, harness.Variant] = {
    "trainer-bf16": lambda options: careful(options, bf16=True),
    "trainer-no-attention-dropout-bf16": lambda options: careful(options, bf16=True, attention_dropout=0.0),
    "trainer-float32": lambda options: careful(options, bf16=False),
    "padded-384": padded,
    "ours-float32": lambda options: ours(options, "32-true"),
    "ours-bf16": lambda options: ours(options, "bf16-mixed"),
    "ours-no-attention-dropout-float32": lambda options: ours(options, "32-true", attention_dropout=0.0),
    "ours-no-attention-dropout-bf16": lambda options: ours(options, "bf16-mixed", attention_dropout=0.0),
    "ours-pytorch-dropout-float32": lambda options: ours(options, "32-true", fast_dropout=False),
    "ours-pytorch-dropout-bf16": lambda options: ours(options, "bf16-mixed", fast_dropout=False),
    "ours-unrounded-float32": lambda options: ours(options, "32-true", multiple=1),
    "ours-unrounded-bf16": lambda options: ours(options, "bf16-mixed", multiple=1),
    "ours-random-float32": lambda options: ours(options, "32-true", batching="random"),
    "ours-compiled-float32": lambda options: ours(options, "32-true", compile=True),
    "ours-compiled-bf16": lambda options: ours(options, "bf16-mixed", compile=True),
}

if __name__ == "__main__":
    harness.main(__doc__.split("\n")[0], VARIANTS, "tokens_per_second", add_arguments, rounds=3, more_is_better=True)
