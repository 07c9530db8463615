"""How a fit ended: why, in words that name the flag, and what is done about a fault when all was trained before."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from qa_lightning.errors import DivergedError, InputError, one_line
from qa_lightning.runs.checkpoints import time_is_up
from qa_lightning.training.callbacks import StopAfter
from qa_lightning.wording import counted, relative

log = logging.getLogger("qa_lightning")

RESUMING = "with the same flags and --ckpt_path last"


@dataclass
class Ending:
    """How a fit ended.

    Attributes:
        status: the exit status of the run: 1 if something failed when training was over.
    """

    status: int = 0


@contextmanager
def surviving_the_end(trainer: Trainer, resuming: str = RESUMING) -> Iterator[Ending]:
    """Go on after an error that comes when training is over, such as that of a callback at the end of the fit.

    Args:
        trainer: fits.
        resuming: how the run is resumed, for messages.
    """
    ending = Ending()
    try:
        yield ending
    except (InputError, DivergedError):
        raise
    except Exception as error:
        epoch: Any = trainer.fit_loop.epoch_progress.current
        if trainer.global_step == 0 or epoch.ready > epoch.processed or not trainer.fit_loop.done:
            raise  # also from the validation at the end of an epoch, which a resumed run repeats
        if trainer.world_size > 1:  # the others may wait for this one, or it for them
            log.warning(f"all was trained before this fault: resume {resuming} to write the model")
            raise
        reason = one_line(error)
        log.warning(
            f"\n{place_of(error)} failed ({type(error).__name__}: {reason}); all was trained before, and is written"
        )
        ending.status = 1


def place_of(error: BaseException) -> str:
    """Function, file and line where an error was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.name} ({relative(Path(frame.filename))}:{frame.lineno})"


def why_it_ended(trainer: Trainer) -> str:
    """Why a fit that came to its end did so, in words that name the flag."""
    loop: Any = trainer.fit_loop
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "--trainer.fast_dev_run is done"
    if trainer.limit_train_batches == 0 or (trainer.global_step == 0 and not trainer.should_stop):
        return "no step was trained"
    if 0 < trainer.max_steps <= trainer.global_step:
        return f"--trainer.max_steps {trainer.max_steps} reached"
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= loop.epoch_progress.current.processed:
        return f"--trainer.max_epochs {trainer.max_epochs} reached"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason is not EarlyStoppingReason.NOT_STOPPED:
            return f"early stopping: {_early_stopping(callback)}"
        if isinstance(callback, StopAfter) and callback.epochs <= loop.epoch_progress.current.processed:
            return f"{callback.epochs:,} of {trainer.max_epochs:,} epochs, as many as it was to train"
        if isinstance(callback, Timer) and time_is_up(callback):
            return f"--trainer.max_time {_days(callback._duration or 0)} is up"
    return "a callback asked to stop" if trainer.should_stop else "as planned"


def _early_stopping(callback: EarlyStopping) -> str:
    name, rising = callback.monitor, callback.mode == "max"
    if callback.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
        unit, count = "epoch" if callback._check_on_train_epoch_end else "validation", callback.wait_count
        return f"{name} has not {'risen' if rising else 'fallen'} for {counted(count, unit)}"
    if callback.stopping_reason is EarlyStoppingReason.STOPPING_THRESHOLD:
        return f"{name} is {'above' if rising else 'below'} its stopping_threshold {callback.stopping_threshold}"
    if callback.stopping_reason is EarlyStoppingReason.DIVERGENCE_THRESHOLD:
        return f"{name} is {'below' if rising else 'above'} its divergence_threshold {callback.divergence_threshold}"
    return f"{name} is not finite"


def _days(seconds: float) -> str:
    """A time as ``--trainer.max_time`` takes it: days, hours, minutes, seconds."""
    whole = timedelta(seconds=round(seconds))
    minutes, rest = divmod(whole.seconds, 60)
    return f"{whole.days:02d}:{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"
