"""Bit-exact resume: ``last.ckpt`` is only ever written where a run can go on as if it had never stopped.

Such places lie between two batches, when the optimizer has just stepped and all that was measured is logged; before
a validation; after one; and at the end of an epoch. Where a run goes on is settled by three things: the loops'
progress in the checkpoint (`between_batches`), the batches of the epoch that are done (`SquadDataModule`), and a
seed for each batch (`QALightningModule`). Curves are cut back to where they were. Not in a checkpoint are measured
speed, and half accumulated gradients, for which there is no such place.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from qa_lightning.runs.checkpoints import CURVES
from qa_lightning.runs.curves import curve_lengths
from qa_lightning.runs.signals import Stop, StopSignals, slurm_job

_LOOP = "epoch_loop."  # prefix of the training epoch's state in the fit loop's


class Stopped(SystemExit):
    """A run that was asked to stop and did.

    Args:
        stop: why.
    """

    def __init__(self, stop: Stop) -> None:
        super().__init__(int(stop.status))
        self.stop = stop


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``: every ``minutes``, after each validation and epoch, and when a run is asked to stop.

    Args:
        minutes: of training after which it is written again, between two steps.

    Attributes:
        path: of the file; None before it was written or gone on from.
        step: steps of the optimizer that it holds.
    """

    every_validation_batches = 16  # between two looks for signals

    def __init__(self, minutes: float = 15.0) -> None:
        self.minutes = minutes
        self.path: Path | None = None
        self.step = 0
        self._signals = StopSignals()
        self._saved_at: tuple[int, int] | None = None  # epoch and batch
        self._saved_when = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a checkpoint that is gone on from need not be written again."""
        self._signals.listen()  # Lightning has set handlers of its own by now, which it takes back in the end
        self._saved_when = time.monotonic()
        self._saved_at = _place(trainer)
        if trainer.ckpt_path is not None:
            self.path, self.step = Path(trainer.ckpt_path), trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save, or stop, if it is time and this is the first batch of a step."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        save, stop = self._agree(trainer)
        # No batch of this epoch is done: the epoch before was saved at its end.
        if (save or stop) and batch_idx > 0 and self._saved_at != _place(trainer):
            self._save(trainer)
        self._obey(trainer, stop)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation, if it is time: it may take long."""
        if _in_fit(trainer) and _between_steps(trainer):
            save, stop = self._agree(trainer)
            if save or stop:
                self._save(trainer)
            self._obey(trainer, stop)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop in a validation, which is then begun again."""
        if batch_idx % self.every_validation_batches == 0 and _in_fit(trainer) and _between_steps(trainer):
            _, stop = self._agree(trainer)
            if stop:
                for callback in trainer.callbacks:  # type: ignore[attr-defined]
                    if isinstance(callback, WeightAveraging):  # puts the weights of training back, to be saved
                        callback.on_validation_epoch_end(trainer, pl_module)
                self._save(trainer)
            self._obey(trainer, stop)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a validation within an epoch."""
        if _in_fit(trainer) and _between_steps(trainer) and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch."""
        self._save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make any checkpoint one to go on from; with the curves on disk as far as it, and their lengths."""
        checkpoint[CURVES] = {}
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                checkpoint[CURVES] |= curve_lengths(logger)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        loops = checkpoint["loops"]["fit_loop"]
        epoch = loops["epoch_progress"]["current"]
        if epoch["processed"] == epoch["ready"]:
            return
        seen = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.completed
        due = trainer.validating and seen < sum(trainer.num_val_batches)
        if due or not trainer.validating:
            between_batches(loops, trainer.global_step, due)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen no more."""
        self._signals.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        self._signals.restore()

    def _agree(self, trainer: Trainer) -> tuple[bool, Stop]:
        """Whether it is time to save, and to stop: the same on all processes, at the latest wish of any of them."""
        late = time.monotonic() - self._saved_when >= self.minutes * 60
        wishes = int(self._signals.asked) * 2 + late
        if trainer.world_size > 1:
            highest = torch.tensor(wishes, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
            wishes = int(highest)
        return bool(wishes % 2), Stop(wishes // 2)

    def _save(self, trainer: Trainer) -> None:
        path = self._folder(trainer) / "last.ckpt"
        before = _written(path)
        trainer.save_checkpoint(path)
        if _written(path) != before:  # a full disk is told by whoever writes, and the one before stays
            self.path, self.step = path, trainer.global_step
        self._saved_at, self._saved_when = _place(trainer), time.monotonic()

    def _folder(self, trainer: Trainer) -> Path:
        """Where the best checkpoint goes too."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath:
                return Path(callback.dirpath)
        return Path(trainer.default_root_dir) / "checkpoints"

    def _obey(self, trainer: Trainer, stop: Stop) -> None:
        if not stop:
            return
        if stop is Stop.REQUEUE and trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", str(slurm_job())], check=False)
        raise Stopped(stop)


def between_batches(loops: dict[str, Any], steps: int, validation_due: bool) -> None:
    """Set the fit loop's state to "all batches that were begun are done", which Lightning goes on from exactly.

    Args:
        loops: as ``fit_loop.state_dict()`` gives it; changed in place.
        steps: of the optimizer that are done.
        validation_due: the next thing to do is a validation, from its beginning.
    """
    progress = loops[f"{_LOOP}batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update(ready=counts["processed"], started=counts["processed"], completed=counts["processed"])
    progress["is_last_batch"] = False
    if not validation_due:
        loops[f"{_LOOP}state_dict"]["_batches_that_stepped"] = steps
    else:  # Lightning goes back to a validation of which a batch was begun and not ended, and counts the step after it
        validation = loops[f"{_LOOP}val_loop.batch_progress"]
        for name in ("total", "current"):
            validation[name] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        validation["is_last_batch"] = False


def _written(path: Path) -> tuple[int, int] | None:
    """Which file stands there: another after every write, since each is put in the place of the one before."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def _in_fit(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _between_steps(trainer: Trainer) -> bool:
    """Whether, in a validation, no gradients are half accumulated."""
    return _place(trainer)[1] % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


def _place(trainer: Trainer) -> tuple[int, int]:
    """Epoch, and batches of it that are done."""
    loop: Any = trainer.fit_loop
    return loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.processed
