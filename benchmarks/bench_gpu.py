"""Training on one GPU: steps at each batch size against two peers, and three epochs of SQuAD, in at most 9 minutes.

    python benchmarks/bench_gpu.py --output gpu.json

It needs nothing but torch, lightning and transformers (and accelerate, for the peer): models have random weights, and
windows have random tokens, in the shape of BERT and in the lengths of SQuAD's windows. Speed depends on neither.

- ``ours``: `Trainer.fit` with `QALightningModule` in bf16-mixed, batches of similar length, no read of the device;
  with PyTorch's attention (sdpa), as CUDA graphs (batches padded to multiples of 16 tokens), compiled (32), with eager
  attention, and FlashAttention where that package is installed.
- ``course``: the Hugging Face course's loop: windows padded to 384 tokens, fp16 with a scaler.
- ``trainer``: transformers' Trainer as a careful user sets it: grouped by length, padded to the longest, bf16.

Utilization is the work on real tokens over the peak of the device that a large bf16 product reaches here. The share of
time that the GPU waits for the host is 1 - (its busy time per token, from a profile of some steps) * (tokens/s).
"""

from __future__ import annotations

import argparse
import gc
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness
import material
import numpy as np
import peers
import torch
from random_windows import (
    TRAINING_WINDOWS,
    VALIDATION_WINDOWS,
    VOCABULARY,
    examples_of,
    loader_of,
    store_of,
    window_ids,
)

Figures = dict[str, Any]


@dataclass
class Case:
    """What is measured: a model of a shape, in batches of a size."""

    shape: str
    batch: int
    warm_up: int  # steps that are not timed
    steps: int
    folder: Path

    @property
    def counted(self) -> int:
        """Steps in all: warm-up, those timed, and those profiled."""
        return self.warm_up + self.steps + PROFILED


PROFILED = 6


class Meter:
    """Times the steps after the warm-up, then profiles some more: call `step` after each."""

    def __init__(self, case: Case) -> None:
        self.case, self.done = case, 0
        self.tokens = self.padded = self.squared = self.windows = 0
        self.profiled_tokens = 0
        self.seconds = self.busy = 0.0
        self._profiler: Any = None

    def step(self, mask: torch.Tensor) -> None:
        """Count a step, given its attention mask, [B, T]; only the first and last timed step wait for the device."""
        self.done += 1
        timed = self.case.warm_up < self.done <= self.case.warm_up + self.case.steps
        if timed:
            self._masks.append(mask)
        elif self.done > self.case.warm_up:
            self.profiled_tokens += mask.numel()
        if self.done == self.case.warm_up:
            _wait()
            self._masks: list[torch.Tensor] = []
            self._began = time.perf_counter()
        elif self.done == self.case.warm_up + self.case.steps:
            _wait()
            self.seconds = time.perf_counter() - self._began
            self._count()
            if torch.cuda.is_available():
                self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
                self._profiler.__enter__()
        elif self.done == self.case.counted and self._profiler is not None:
            _wait()
            self._profiler.__exit__(None, None, None)
            kernels = [event for event in self._profiler.events() if "cuda" in str(event.device_type).lower()]
            self.busy = sum(event.time_range.elapsed_us() for event in kernels) / 1e6
            self._profiler = None

    def _count(self) -> None:
        for mask in self._masks:
            lengths = mask.sum(1)
            self.windows += len(lengths)
            self.tokens += int(lengths.sum())
            self.padded += mask.numel()
            self.squared += int(lengths.square().sum())

    def figures(self, model: Any, peak: float) -> Figures:
        """The figures of the run."""
        from qa_lightning.runs.throughput import computing_weights, training_flops

        flops = training_flops(model.config, computing_weights(model), self.tokens, self.squared)
        per_token = self.busy / self.profiled_tokens if self.profiled_tokens else 0.0
        found: Figures = {
            "windows_per_second": self.windows / self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "step_ms": 1000 * self.seconds / self.case.steps,
            "padding_share": 1 - self.tokens / self.padded,
            "utilization": flops / self.seconds / peak,
        }
        if torch.cuda.is_available():
            found["host_wait_share"] = max(0.0, 1 - per_token * self.padded / self.seconds)
            found["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return found


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ours(
    case: Case, peak: float, attention: str = "sdpa", compile: bool = False, multiple: int = 8, graphs: bool = False
) -> Figures:
    """Lightning's Trainer with `QALightningModule`."""
    from lightning.pytorch import Callback, Trainer

    from qa_lightning import QALightningModule

    class Clock(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            meter.step(batch["attention_mask"])

    module = QALightningModule(str(case.folder), attn_implementation=attention, compile=compile, cuda_graphs=graphs)
    meter = Meter(case)
    trainer = Trainer(
        max_steps=case.counted,
        max_epochs=-1,
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        gradient_clip_val=1.0,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=Clock(),
        **material.BARE_TRAINER,
    )
    windows = store_of(max(2000, case.batch * case.counted))
    trainer.fit(module, loader_of(windows, None, case.batch, multiple))
    return meter.figures(module.model, peak)


def course(case: Case, peak: float) -> Figures:
    """The course's loop: windows padded to 384 tokens, fp16."""
    from transformers import BertForQuestionAnswering, get_linear_schedule_with_warmup

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = BertForQuestionAnswering.from_pretrained(case.folder).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, 1000)
    half = device.type == "cuda"
    scaler = torch.amp.GradScaler(enabled=half)
    store, meter = store_of(case.batch * case.counted), Meter(case)
    for batch in _padded(store, case):
        moved = {name: values.to(device) for name, values in batch.items()}
        with torch.autocast(device.type, torch.float16, enabled=half):
            loss = model(**moved).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        optimizer.zero_grad()
        meter.step(moved["attention_mask"])
    return meter.figures(model, peak)


def _padded(store: Any, case: Case) -> Iterator[dict[str, torch.Tensor]]:
    for step in range(case.counted):
        rows = range(step * case.batch, (step + 1) * case.batch)
        ids = np.zeros((case.batch, peers.MAX_LENGTH), np.int64)
        for row, number in enumerate(rows):
            window = window_ids(store, number)
            ids[row, : len(window)] = window
        chosen = store.windows[rows.start : rows.stop]
        yield {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy((ids > 0).astype(np.int64)),
            "start_positions": torch.from_numpy(chosen["start"].astype(np.int64)),
            "end_positions": torch.from_numpy(chosen["end"].astype(np.int64)),
        }


def trainer(case: Case, peak: float) -> Figures:
    """transformers' Trainer: grouped by length, padded to the longest, bf16."""
    store, meter = store_of(max(2000, case.batch * case.counted)), Meter(case)
    rows = [
        {
            "input_ids": window_ids(store, number).astype(np.int64),
            "length": int(window["length"]),
            "start_positions": int(window["start"]),
            "end_positions": int(window["end"]),
        }
        for number, window in enumerate(store.windows)
    ]
    bf16 = torch.cuda.is_available()
    model = peers.train_grouped(str(case.folder), rows, case.batch, case.counted, bf16, meter.step)
    return meter.figures(model, peak)


def epochs(folder: Path, batch: int, windows: int, validation: int, compile: bool, graphs: bool) -> Figures:
    """Three epochs with a validation and both checkpoints after each, and the model's export, as a run does them."""
    from lightning.pytorch import Callback, Trainer

    from qa_lightning import QALightningModule
    from qa_lightning.runs.checkpoints import AtomicCheckpointIO, LastCheckpoint
    from qa_lightning.training.callbacks import BestCheckpoint, EpochLines

    spent = {"validating": 0.0, "saving": 0.0}

    class Clock(Callback):
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            _wait()
            self.since = time.perf_counter()

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            spent["validating"] += time.perf_counter() - self.since

    class TimedIO(AtomicCheckpointIO):
        def save_checkpoint(self, *args: Any, **options: Any) -> None:
            began = time.perf_counter()
            super().save_checkpoint(*args, **options)
            spent["saving"] += time.perf_counter() - began

    module = QALightningModule(str(folder), attn_implementation="sdpa", compile=compile, cuda_graphs=graphs)
    held_out = store_of(validation, seed=1)
    with TemporaryDirectory() as scratch:
        trainer = Trainer(
            max_epochs=3,
            precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            callbacks=[EpochLines(), BestCheckpoint(), LastCheckpoint(), Clock()],
            plugins=[TimedIO(background=True)],
            default_root_dir=scratch,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            devices=1,
        )
        began = time.perf_counter()
        trainer.fit(
            module,
            loader_of(store_of(windows), None, batch, 16 if graphs else 8),
            loader_of(held_out, examples_of(held_out), 64, 8, training=False),
        )
        _wait()
        seconds = time.perf_counter() - began
    training_seconds = seconds - spent["validating"] - spent["saving"]
    scale = TRAINING_WINDOWS / windows
    return {
        "seconds": seconds,
        "training_windows": windows,
        "validation_windows": validation,
        "training_seconds": training_seconds,
        **{f"{name}_seconds": value for name, value in spent.items()},
        "seconds_for_squad": training_seconds * scale
        + spent["validating"] * VALIDATION_WINDOWS / validation
        + spent["saving"],
    }


def ceilings() -> Figures:
    """What the device reaches: a large bf16 product, and a large copy."""
    if not torch.cuda.is_available():
        return {"flops_per_second": 1e12}
    size = 8192
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = _seconds(lambda: left @ right)
    big = torch.randn(1 << 29, device="cuda")
    other = torch.empty_like(big)
    return {
        "flops_per_second": 2 * size**3 / product,
        "bytes_per_second": 2 * big.numel() * 4 / _seconds(lambda: other.copy_(big)),
    }


def _seconds(work: Callable[[], Any]) -> float:
    for _ in range(3):
        work()
    _wait()
    began = time.perf_counter()
    for _ in range(10):
        work()
    _wait()
    return (time.perf_counter() - began) / 10


VARIANTS: dict[str, Callable[[Case, float], Figures]] = {
    "ours": ours,
    "ours-eager": lambda case, peak: ours(case, peak, attention="eager"),
    "ours-flash": lambda case, peak: ours(case, peak, attention="flash_attention_2"),
    "ours-compiled": lambda case, peak: ours(case, peak, compile=True, multiple=32),
    "ours-graphs": lambda case, peak: ours(case, peak, multiple=16, graphs=True),
    "course": course,
    "trainer": trainer,
}
# What is run, by importance: (variant, shape, batch sizes).
PLAN: list[tuple[str, str, tuple[int, ...]]] = [
    ("ours-graphs", "bert-base", (8, 32, 64, 128, 256)),
    ("course", "bert-base", (8, 32)),
    ("trainer", "bert-base", (8, 32, 128)),
    ("ours-graphs", "bert-large", (8, 32, 64, 128)),
    ("ours", "bert-base", (8, 32, 128)),
    ("course", "bert-large", (32,)),
    ("trainer", "bert-large", (32,)),
    ("ours", "bert-large", (32, 64)),
    ("ours-eager", "bert-base", (32,)),
    ("ours-flash", "bert-base", (32,)),
    ("ours", "bert-base", (64, 256)),
    ("ours-compiled", "bert-base", (128, 32)),
]


def main() -> None:
    parser = harness.parser_of(__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="no measurement is begun after this many")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="only these variants")
    parser.add_argument("--shapes", nargs="+", choices=list(material.SHAPES), help="only these shapes")
    parser.add_argument("--batches", nargs="+", type=int, help="only these batch sizes")
    parser.add_argument(
        "--warm-up", type=int, help="steps before them; None: 20 to 80, so that most lengths have come twice"
    )
    parser.add_argument("--steps", type=int, help="timed steps of each; None: more for small batches")
    parser.add_argument(
        "--epochs", nargs="*", default=["128-graphs"], help="the whole run, such as 64 64-compiled 64-graphs"
    )
    parser.add_argument("--windows", type=int, default=TRAINING_WINDOWS, help="windows of an epoch of the whole run")
    options = parser.parse_args()
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """Measure all that there is time for, the most important first; print a table."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_float32_matmul_precision("high")
    began = time.perf_counter()
    reached = ceilings()
    record = harness.Record(options.output)
    record.add("ceilings", reached)
    print(f"{harness.machine()}; {harness.shown(reached)}", flush=True)
    peak = reached["flops_per_second"]
    steps: list[Figures] = []
    with TemporaryDirectory() as scratch:
        for kind in options.epochs:
            batch, *how = kind.split("-")
            _begin()
            shape = options.shapes[0] if options.shapes else "bert-base"
            folder = _model_folder(Path(scratch), shape)
            validation = max(64, VALIDATION_WINDOWS * options.windows // TRAINING_WINDOWS)
            whole = epochs(folder, int(batch), options.windows, validation, "compiled" in how, "graphs" in how)
            record.add(f"epochs {shape} {kind}", whole)
            print(f"three epochs, {shape}, {kind}: {harness.shown(whole)}", flush=True)
        for variant, shape, batches in _plan(options):
            for batch in batches:
                if time.perf_counter() - began > options.minutes * 60:
                    print(f"no time left for {variant} {shape} {batch}")
                    continue
                _begin()
                counted = options.steps or max(20, min(60, 3200 // batch))
                warm_up = options.warm_up or max(20, min(80, 3000 // batch))
                case = Case(shape, batch, warm_up, counted, _model_folder(Path(scratch), shape))
                figures = _tried(VARIANTS[variant], case, peak)
                steps.append({"variant": variant, "shape": shape, "batch": batch, **figures})
                record.add(f"{variant} {shape} {batch}", figures)
                print(f"{variant} {shape} {batch}: {harness.shown(figures)}", flush=True)
    print(table(steps))


def _plan(options: argparse.Namespace) -> list[tuple[str, str, tuple[int, ...]]]:
    chosen = [case for case in PLAN if not options.only or case[0] in options.only]
    if options.shapes:  # also those that are not in the plan
        chosen = [
            (variant, shape, PLAN[0][2]) for shape in options.shapes for variant in {case[0]: 1 for case in chosen}
        ]
    return [(variant, shape, tuple(options.batches or batches)) for variant, shape, batches in chosen]


def _begin() -> None:
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)


def _tried(variant: Callable[[Case, float], Figures], case: Case, peak: float) -> Figures:
    try:
        return variant(case, peak)
    except torch.cuda.OutOfMemoryError:
        return {"failed": "out of memory"}
    except Exception as error:  # a package that is not installed, say: the others are measured all the same
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]:.200}"}


def _model_folder(scratch: Path, shape: str) -> Path:
    from transformers import BertConfig, BertForQuestionAnswering

    folder = scratch / shape
    if not folder.exists():
        config = BertConfig(vocab_size=VOCABULARY, **material.SHAPES[shape])
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = BertForQuestionAnswering(config)
        model.cpu().save_pretrained(folder)
    return folder


def table(steps: list[Figures]) -> str:
    """A Markdown table of the measured steps."""
    columns = (
        "windows_per_second",
        "tokens_per_second",
        "utilization",
        "host_wait_share",
        "padding_share",
        "memory_gib",
    )
    lines = [f"| variant | shape | batch | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
    for row in steps:
        cells = [f"{row[name]:,.4g}" if name in row else row.get("failed", "") for name in columns]
        lines.append(f"| {row['variant']} | {row['shape']} | {row['batch']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
