"""Small training runs: their flags and sizes, a callback that crashes them, and one that records their gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from transformers import PreTrainedModel

from qa_lightning.training import flags as training_flags
from tests.helpers import commands

SMALL = {"max_length": 48, "doc_stride": 12, "max_question_length": 12, "batch_size": 4, "eval_batch_size": 4}
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
AVERAGED = ("--ema_decay", "0.9")


def train_flags(folder: Path, model: str, train: str, validation: str) -> list[str]:
    """The command line of a run of three epochs on windows of 48 tokens."""
    return [
        *("--data.dataset", train, "--data.validation", validation, "--model.model_name", model),
        *("--data.max_length", "48", "--data.doc_stride", "12", "--data.max_question_length", "12"),
        *("--data.batch_size", "8", "--model.learning_rate", "2e-3", "--trainer.max_epochs", "3"),
        *("--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "2"),
        *("--trainer.default_root_dir", str(folder)),
    ]


class CrashError(Exception):
    """Stands for any failure that ends a process: the run saves nothing because of it."""


class Crash(Callback):
    """Raises `CrashError` at one point of training.

    Args:
        hook: ``step`` (before an optimizer step), ``batch`` (after a training batch), ``validation`` (after a
            validation batch) or ``epoch`` (at the end of an epoch, with batch 0).
        epoch, batch: indices at which to raise.
    """

    def __init__(self, hook: str, epoch: int, batch: int) -> None:
        self.point = (hook, epoch, batch)

    def _check(self, trainer: Trainer, hook: str, batch: int) -> None:
        if not trainer.sanity_checking and self.point == (hook, trainer.current_epoch, batch):
            raise CrashError

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self._check(trainer, "step", trainer.fit_loop.epoch_loop.batch_idx)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._check(trainer, "batch", batch_idx)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._check(trainer, "validation", batch_idx)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self._check(trainer, "epoch", 0)


def add_callbacks(monkeypatch, *callbacks: Callback) -> None:
    """Have every run from now on, in this process, take these callbacks too, after its own."""
    default = training_flags.default_callbacks
    monkeypatch.setattr(training_flags, "default_callbacks", lambda interactive: [*default(interactive), *callbacks])


def crash(monkeypatch, callback: Callback, given: list[str]) -> None:
    """Train with the flags ``given`` until ``callback`` raises `CrashError`."""
    with monkeypatch.context() as patch:
        add_callbacks(patch, callback)
        with pytest.raises(CrashError):
            commands.train(given)


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Turn gradient checkpointing on; transformers has renamed the method."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


class Gradients(Callback):
    """Records the gradients of every optimizer step, before clipping."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.seen.append(torch.cat([parameter.grad.flatten() for parameter in pl_module.parameters()]))
