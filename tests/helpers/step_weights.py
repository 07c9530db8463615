"""A callback that notes the weights after each step, and those that are validated, on each process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer


class StepWeights(Callback):
    """Writes ``seen-RANK-STEP.pt`` into the Trainer's root when the fit ends or stops; STEP is where it began.

    Args:
        stop_at: the step after which the first process gets SIGTERM; 0 for none.
    """

    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at = stop_at
        self.begun: int | None = None
        self.steps: dict[int, torch.Tensor] = {}
        self.validated: dict[int, torch.Tensor] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.begun is None:
            self.begun = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        step = trainer.global_step
        if step > self.begun and step not in self.steps:  # a step may have several batches
            self.steps[step] = _flat(pl_module)
            if step == self.stop_at and trainer.is_global_zero:
                os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if trainer.training or (trainer.validating and not trainer.sanity_checking and self.begun is not None):
            self.validated.setdefault(trainer.global_step, _flat(pl_module))

    def on_fit_end(self, trainer, pl_module) -> None:
        self._write(trainer)

    def on_exception(self, trainer, pl_module, exception) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        seen = {"steps": self.steps, "validated": self.validated}
        torch.save(seen, Path(trainer.default_root_dir) / f"seen-{trainer.global_rank}-{self.begun}.pt")


def seen(root: Path, rank: int) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Of all starts of a run: step -> the weights after it; step -> the weights that were validated after it."""
    steps: dict[int, torch.Tensor] = {}
    validated: dict[int, torch.Tensor] = {}
    for path in sorted(root.glob(f"seen-{rank}-*.pt"), key=lambda path: int(path.stem.rpartition("-")[2])):
        one = torch.load(path, weights_only=True)
        steps |= one["steps"]
        validated |= one["validated"]
    return steps, validated


def _flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()
