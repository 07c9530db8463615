"""Prints the progress of training: the plan before the first step, then a bar in a terminal or lines elsewhere.

Lines are for output that goes to a file, a pipe or a scheduler's log. Only a line or a drawing waits for the device, to
read the losses.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

from qa_lightning.features.batching import TrainingSampler
from qa_lightning.layout import LAST, MODEL_FOLDER
from qa_lightning.models.computing.loss import StepLosses
from qa_lightning.progress import Pace, duration, loop_progress
from qa_lightning.runs.checkpoints import LastCheckpoint
from qa_lightning.runs.record import run_folder
from qa_lightning.runs.throughput import memory_used
from qa_lightning.wording import counted, visible

_BAR = "{desc} {percentage:3.0f}%|{bar}| "


class RunPlan(Callback):
    """Prints the plan before the first step: windows, batches, steps, when to validate, what is saved where."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the lines."""
        folder = run_folder(trainer)  # may communicate: every process must call it
        steps = planned_steps(trainer)  # may communicate too
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        train_set, validation_set = (getattr(data, f"{name}_set", None) for name in ("train", "validation"))
        windows = f"{_windows_ahead(trainer, len(train_set))} in " if train_set is not None else ""
        done = f", {trainer.global_step:,} of them done" if trainer.global_step else ""
        is_known = math.isfinite(steps)
        steps_in_all = f"{int(steps):,} steps of the optimizer in all{done}" if is_known else "no end is set"
        say(trainer, f"ahead:     {windows}{trainer.num_training_batches:,} batches an epoch, {steps_in_all}")
        if when := _when_validated(trainer):
            taken = f", {_windows_validated(trainer, len(validation_set))}" if validation_set is not None else ""
            say(trainer, f"validates: {when}{taken}")
        if folder is not None:
            say(trainer, f"saves:     {self._saved(trainer)}; all in {folder}")

    def _saved(self, trainer: Trainer) -> str:
        parts = []
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, LastCheckpoint):
                then = "validation" if trainer.limit_val_batches != 0 else "epoch"
                parts.append(f"{LAST} every {callback.minutes:g} minutes and after each {then}")
            elif isinstance(callback, ModelCheckpoint) and callback.monitor and trainer.limit_val_batches != 0:
                parts.append(f"{callback.filename}.ckpt by the best {callback.monitor}")
        return ", ".join([*parts, f"{MODEL_FOLDER}/ at the end"])


class _Watch(Callback):
    """Counts the batches, losses and seconds of a fit, for the lines and bars of its subclasses.

    The speed does not include the time of validations; the remaining time does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._scores = ""
        self._seconds_validating: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._losses = step_losses(pl_module)
        self._steps = planned_steps(trainer)
        self._batches = self._windows = 0
        self._seconds = 0.0  # of training, up to the last validation
        self._began: float | None = None  # start of training since then; None during a validation
        self._forget()

    def _forget(self) -> None:
        """Start new sums: the figures of a line are those since the line before."""
        self._read = (self._losses.total, self._losses.count)
        self._told = (self._windows, self._training_seconds())

    def _training_seconds(self) -> float:
        return self._seconds + (time.monotonic() - self._began if self._began is not None else 0.0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock, if it does not run."""
        self._learning_rate = learning_rate(trainer)  # of this step: after it, the schedule has moved on
        if self._began is None:
            self._began = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch."""
        self._batches += 1
        self._windows += len(batch["attention_mask"]) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of training, and start that of the validation."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._seconds, self._began = self._training_seconds(), None
            self._validating_since = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how long it took, and what it found."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._seconds_validating = time.monotonic() - self._validating_since
        found = [("EM", "val/exact_match"), ("F1", "val/f1")]
        known = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._scores = " ".join(f"{name} {known[tag]:.2f}" for name, tag in found if tag in known)

    def _mean_loss(self) -> float:
        """Mean loss since the last line, over all processes."""
        self._losses.read()
        total, count = self._read
        read = self._losses.count - count
        return (self._losses.total - total) / read if read else math.nan

    def _speed(self) -> float:
        """Windows per second since the last line, over all processes."""
        windows, seconds = self._told
        return (self._windows - windows) / max(self._training_seconds() - seconds, 1e-9)

    def _left(self, trainer: Trainer) -> tuple[float | None, float | None]:
        """Seconds until the end of the epoch and of the run, validations included.

        None if it is not known, or if the run ends before its epoch does.
        """
        batch = self._training_seconds() / max(self._batches, 1)
        validation = self._seconds_validating
        if validation is None:  # an estimate: a window takes a third of the time that it takes in training
            dataset = getattr(trainer.val_dataloaders, "dataset", None)
            per_window = self._training_seconds() / max(self._windows, 1)
            validation = per_window / 3 * len(dataset) if dataset is not None else 0.0
        loop: Any = trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.processed
        in_epoch = trainer.num_training_batches
        if not math.isfinite(in_epoch):
            return None, None
        epoch = (in_epoch - done) * batch + validation * _validations(trainer, done, in_epoch)
        steps = self._steps
        if not math.isfinite(steps):
            return epoch, None
        batches = max((steps - trainer.global_step) * trainer.accumulate_grad_batches, 0)
        validations = _validations(trainer, done, done + batches) + 1  # of the best checkpoint at the end, at most
        ends_first = batches < in_epoch - done  # by --trainer.max_steps
        return None if ends_first else epoch, batches * batch + validation * validations


class StepLines(_Watch):
    """Prints a line of progress after every 2% of an epoch or 5 minutes, at most every 10 seconds; see `Pace`.

    For output that is not a terminal: a file, a pipe, a scheduler's log.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        super().on_train_start(trainer, pl_module)
        in_epoch = trainer.num_training_batches
        self._pace = Pace(in_epoch if math.isfinite(in_epoch) else None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, and print the line if it is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.is_global_zero and self._pace.is_due(self._batches):
            say(trainer, self._line(trainer, pl_module, batch_idx))
            self._forget()

    def _line(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> str:
        steps, in_epoch = self._steps, trainer.num_training_batches
        of_steps = f" of {int(steps):,}" if math.isfinite(steps) else ""
        share = f" {(batch_idx + 1) / in_epoch:.1%}" if math.isfinite(in_epoch) else ""
        times = zip(("epoch", "run"), self._left(trainer), strict=True)
        left = ", ".join(f"{name} {duration(seconds)}" for name, seconds in times if seconds is not None)
        return "  ".join(
            [
                f"step {trainer.global_step:,}{of_steps}",
                f"{_epoch(trainer)}{share}",
                f"loss {self._mean_loss():.3f}",
                f"learning rate {self._learning_rate:.2e}",
                f"{self._speed():,.1f} windows/s",
                *([f"left: {left}"] if left else []),
                memory_used(pl_module.device),
            ]
        )


class RunBar(_Watch, ProgressBar):
    """A bar for a terminal: progress of the epoch, remaining time of the run, learning rate, last EM and F1.

    These fit into 80 columns; a wider terminal also shows loss, speed and step.
    """

    seconds = 0.5  # between two drawings

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._enabled = True

    def disable(self) -> None:
        """Draw nothing; Lightning calls this on all processes except the first."""
        self._enabled = False

    def enable(self) -> None:
        """Draw again."""
        self._enabled = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Create the bar."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._bar is None and self._enabled:
            in_epoch = trainer.num_training_batches
            self._drawn = -math.inf
            self._bar = tqdm(
                total=in_epoch if math.isfinite(in_epoch) else None,
                initial=batch_idx,
                desc=_epoch(trainer),
                file=sys.stdout,
                dynamic_ncols=True,
                leave=False,
                bar_format=_BAR,
                delay=1e-9,  # do not draw before the first figures are known
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, and draw the bar if it is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._bar is None:
            return
        self._bar.n = batch_idx + 1
        if time.monotonic() - self._drawn >= self.seconds:
            self._drawn = time.monotonic()
            columns = (self._bar.dynamic_ncols and self._bar.dynamic_ncols(sys.stdout)[0]) or 80
            room = columns - len(self._bar.desc) - len(" 100%|12345678| ")
            self._bar.bar_format = _BAR + self._told_in(room, trainer)
            self._bar.refresh()
            self._forget()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar: the validation has its own."""
        super().on_validation_start(trainer, pl_module)
        self._take_down()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar: the next epoch has its own."""
        self._take_down()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self._take_down()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the bar."""
        self._take_down()

    def _take_down(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _told_in(self, room: int, trainer: Trainer) -> str:
        """The text beside the bar, at most ``room`` columns; the last parts are left out if they do not fit."""
        _, run = self._left(trainer)
        told = [
            f"{duration(run)} left" if run is not None else "",
            f"lr {self._learning_rate:.1e}",
            self._scores,
            f"loss {self._mean_loss():.2f}",
            f"{self._speed():,.0f} windows/s",
            f"step {trainer.global_step:,}",
        ]
        line = ""
        for part in filter(None, told):
            if line and len(line) + 1 + len(part) > room:
                break
            line = f"{line} {part}" if line else part
        return line


class ValidationProgress(Callback):
    """Shows the progress of a validation; see `loop_progress`."""

    def __init__(self) -> None:
        self._loop: tqdm | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        sampler: Any = getattr(trainer.val_dataloaders, "sampler", None)
        total = len(sampler) if hasattr(sampler, "__len__") else None
        self._loop = loop_progress(total, "window", what="validation")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        if self._loop is not None:
            self._loop.update(len(batch["attention_mask"]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End."""
        self._close()

    def _close(self) -> None:
        if self._loop is not None:
            self._loop.close()
            self._loop = None


def learning_rate(trainer: Trainer) -> float:
    """The highest current learning rate of the optimizer's groups: the head's, if lower layers learn more slowly."""
    return max((group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups), default=0.0)


def planned_steps(trainer: Trainer) -> float:
    """Steps of the optimizer of the whole run, at its start; infinite if no end is set. It may communicate.

    Lightning counts as if all epochs were as long as those to come. A run that goes on may have other batches than
    before, or epochs that ended early: these are the steps that were made up to the current epoch, and those from its
    beginning to the end. So they are the same wherever in the epoch the run is.
    """
    steps = float(trainer.estimated_stepping_batches)
    in_epoch, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    if not trainer.max_epochs or trainer.max_epochs < 0 or not math.isfinite(steps + in_epoch):
        return steps
    loop: Any = trainer.fit_loop
    epoch, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
    begun = batches.processed if epoch.ready > epoch.processed else 0
    made = trainer.global_step - math.ceil(begun / accumulated)
    steps = made + max(trainer.max_epochs - epoch.processed, 0) * math.ceil(in_epoch / accumulated)
    return float(steps if trainer.max_steps == -1 else min(steps, trainer.max_steps))


def _epoch(trainer: Trainer) -> str:
    """The current epoch, counted from 1."""
    of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
    return f"epoch {trainer.current_epoch + 1}{of}"


def step_losses(pl_module: LightningModule) -> StepLosses:
    """The losses that a `QALightningModule` keeps."""
    losses: StepLosses = pl_module.losses  # type: ignore[assignment]
    return losses


def _windows_ahead(trainer: Trainer, count: int) -> str:
    """How many of ``count`` training windows an epoch takes, in words."""
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    taken = sampler.per_epoch if isinstance(sampler, TrainingSampler) else count
    return counted(count, "window") if taken == count else f"{taken:,} of {counted(count, 'window')}"


def _windows_validated(trainer: Trainer, count: int) -> str:
    """How many of ``count`` windows a validation takes, in words."""
    taken = getattr(getattr(trainer.val_dataloaders, "sampler", None), "features", count)
    return counted(count, "window") if taken == count else f"{taken:,} of {counted(count, 'window')}"


def _when_validated(trainer: Trainer) -> str:
    """When the run validates, in words; empty if it does not."""
    every = trainer.val_check_batch
    if not every or not math.isfinite(every) or not sum(trainer.num_val_batches):
        return ""
    epochs: int | None = trainer.check_val_every_n_epoch
    in_epoch, last = trainer.num_training_batches, max(trainer.max_epochs or 0, 0)
    if epochs is None:
        when, rest = f"after every {int(every):,} batches", last * in_epoch % every
    else:
        when, rest = "every epoch" if epochs == 1 else f"every {epochs} epochs", last % epochs or in_epoch % every
        when = f"after {when}" if every >= in_epoch else f"after every {int(every):,} batches of {when}"
    return f"{when}, and at the end" if trainer.max_steps > 0 or (last and rest) else when


def _validations(trainer: Trainer, first: float, last: float) -> int:
    """Number of validations between two batches; batches count from the start of the current epoch."""
    every, epochs, in_epoch = trainer.val_check_batch, trainer.check_val_every_n_epoch, trainer.num_training_batches
    if not every or not math.isfinite(every) or not sum(trainer.num_val_batches):
        return 0
    if epochs is None:
        before = trainer.current_epoch * in_epoch
        return int((before + last) // every) - int((before + first) // every)
    in_each = int(in_epoch) // int(every)

    def until(batch: float) -> int:
        whole, rest = divmod(int(batch), int(in_epoch))
        validated = sum((trainer.current_epoch + epoch + 1) % epochs == 0 for epoch in range(whole))
        is_validated = (trainer.current_epoch + whole + 1) % epochs == 0
        return validated * in_each + (rest // int(every) if is_validated else 0)

    return until(last) - until(first)


def say(trainer: Trainer, line: str) -> None:
    """Print a line above a progress bar, if there is one; only on the first process."""
    if trainer.is_global_zero:
        tqdm.write(visible(line))  # removes a progress bar, prints, and draws the bar again below
        sys.stdout.flush()  # so that it appears at once in a file or a pipe too
