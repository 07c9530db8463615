"""Small training runs: their flags and sizes, what ends them at a chosen moment, and what looks at their gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from qa_lightning.training import run as training
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
    """Stands for whatever ends a process: nothing is saved on its account."""


class Crash(Callback):
    """Fails at a moment.

    Args:
        hook: by which the moment comes.
        epoch, batch: of it.
    """

    def __init__(self, hook: str, epoch: int, batch: int) -> None:
        self.moment = (hook, epoch, batch)

    def _look(self, trainer: Trainer, hook: str, batch: int) -> None:
        if not trainer.sanity_checking and self.moment == (hook, trainer.current_epoch, batch):
            raise CrashError

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self._look(trainer, "step", trainer.fit_loop.epoch_loop.batch_idx)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._look(trainer, "batch", batch_idx)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._look(trainer, "validation", batch_idx)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self._look(trainer, "epoch", 0)


def crash(monkeypatch, callback: Callback, given: list[str]) -> None:
    """Train until ``callback`` ends the run."""
    with monkeypatch.context() as patch:
        default = training.default_callbacks
        patch.setattr(training, "default_callbacks", lambda interactive: [*default(interactive), callback])
        with pytest.raises(CrashError):
            commands.train(given)


class Gradients(Callback):
    """Keeps the gradients of every step, before they are clipped."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.seen.append(torch.cat([parameter.grad.flatten() for parameter in pl_module.parameters()]))
