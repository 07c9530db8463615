"""Writes ``last.ckpt`` atomically, and only at safe points. A run that resumes there ends as if never stopped.

A file is written beside the old one, synced to disk, then renamed over it. The price: the disk needs room for both.
Where the best checkpoint is the last one too, ``best.ckpt`` and ``last.ckpt`` are two names of one file.

Safe points: after an optimizer step, around validation, at the end of an epoch. Three things decide how a run
continues: the loops' progress in the checkpoint (`between_batches`), the batches of the epoch that are done
(`SquadDataModule`), and a seed for each batch (`QALightningModule`). Curves are cut back to the checkpoint.

Limits: a checkpoint holds no half-accumulated gradients, so between the batches of one optimizer step there is no safe
point. It holds no measured speed either, which differs from run to run.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, Timer, WeightAveraging
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.trainer.states import TrainerFn

from qa_lightning.errors import one_line
from qa_lightning.files import share_file, write_file
from qa_lightning.layout import BEST, CHECKPOINT_FOLDER, LAST
from qa_lightning.runs.curves import curve_lengths
from qa_lightning.runs.record import own_folder
from qa_lightning.runs.resume import CURVES, Beginning, read_beginning
from qa_lightning.runs.signals import Stop, Stopped, StopSignals, requeue_job

log = logging.getLogger("qa_lightning")

_LOOP = "epoch_loop."  # prefix of the epoch loop's keys in the fit loop's state
# Keys in a checkpoint:
_DUE = "validation_due"  # whether it was written in a validation, before its end
_OVER = "training_over"  # whether training was to end, after that validation at the latest
_EARLY = "stopped_early"  # whether an EarlyStopping has asked to end it; what else ends a run is known from its flags


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every ``minutes``, after each validation and epoch, and when the run is asked to stop.

    Args:
        minutes: time after which the file is written again, at the next safe point.
        signals: handlers that the command has set; None sets handlers while the run trains.

    Attributes:
        path: the file; None until it is written or resumed from.
        step: optimizer steps that the file holds.
    """

    writes = True  # False: only stop at signals, because checkpoints are switched off
    every_validation_batches = 16  # validation batches between two checks for a signal

    def __init__(self, minutes: float = 15.0, signals: StopSignals | None = None) -> None:
        self.minutes = minutes
        self._path: Path | None = None
        self._step = 0
        self._coming: _Coming | None = None
        self._signals = signals or StopSignals()
        self._saved_at: tuple[int, int] | None = None  # see _progress
        self._saved_when = 0.0
        self._stopped_early = False  # whether this run was, before it was resumed

    @property
    def path(self) -> Path | None:
        """The file; waits for one that is being written."""
        self._settle()
        return self._path

    @property
    def step(self) -> int:
        """The steps in it; waits, too."""
        self._settle()
        return self._step

    def begin_at(self, path: str | Path, step: int) -> None:
        """Note the checkpoint that the run resumes from."""
        self._path, self._step = Path(path), step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a checkpoint that the run resumed from need not be written again."""
        self._signals.hold()  # not earlier: Lightning has just set its own handlers, which it removes at the end
        self._saved_when = time.monotonic()
        self._saved_at = _progress(trainer)
        if trainer.ckpt_path is not None:
            self.begin_at(Path(trainer.ckpt_path), trainer.global_step)
        if self._stopped_early:  # Lightning forgets it
            trainer.should_stop, self._stopped_early = True, False
        if isinstance(trainer.fit_loop, _ResumedLoop):
            trainer.fit_loop.force_validation()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before the first batch of an optimizer step: save if it is due, stop if asked."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        save, stop = self._agree(trainer)
        # At batch 0 there is nothing to save: the previous epoch was saved at its end.
        if (save or stop) and batch_idx > 0 and self._saved_at != _progress(trainer):
            self._save(trainer)
        self._stop_if_asked(trainer, stop)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation if it is due, because a validation may take long; stop if asked."""
        if isinstance(trainer.fit_loop, _ResumedLoop):
            trainer.fit_loop.begin_validation()
        if _in_fit(trainer) and _between_steps(trainer):
            save, stop = self._agree(trainer)
            if save or stop:
                self._save(trainer)
            self._stop_if_asked(trainer, stop)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop within a validation if asked; the resumed run repeats the validation from its start."""
        if batch_idx % self.every_validation_batches == 0 and _in_fit(trainer) and _between_steps(trainer):
            _, stop = self._agree(trainer)
            if stop:
                for callback in trainer.callbacks:  # type: ignore[attr-defined]
                    if isinstance(callback, WeightAveraging):  # puts the training weights back, to be saved
                        callback.on_validation_epoch_end(trainer, pl_module)
                self._save(trainer)
            self._stop_if_asked(trainer, stop)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a validation within an epoch; one at the end of an epoch is followed by `on_train_epoch_end`."""
        if _in_fit(trainer) and _between_steps(trainer) and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save: the end of an epoch is always a safe point."""
        self._save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make any checkpoint resumable: write the curves to disk, keep their sizes, set the loops to a safe point."""
        for logger in trainer.loggers:
            logger.save()
        run = own_folder(trainer)
        checkpoint[CURVES] = curve_lengths(run) if run and trainer.is_global_zero else {}
        if trainer.state.fn != TrainerFn.FITTING:
            return
        checkpoint[_OVER], checkpoint[_EARLY] = training_is_over(trainer), _has_stopped_early(trainer)
        loops = checkpoint["loops"]["fit_loop"]
        epoch = loops["epoch_progress"]["current"]
        if epoch["processed"] == epoch["ready"]:
            return
        seen = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.completed
        checkpoint[_DUE] = due = trainer.validating and seen < sum(trainer.num_val_batches)
        if due or not trainer.validating:
            between_batches(loops, trainer.global_step, due)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Resume a run that was to end as exactly as one that goes on."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        own = own_folder(trainer)
        resumes = (
            own is not None and Path(trainer.ckpt_path or "").parent.resolve() == (own / CHECKPOINT_FOLDER).resolve()
        )
        stops = any(isinstance(one, EarlyStopping) for one in trainer.callbacks)  # type: ignore[attr-defined]
        self._stopped_early = resumes and stops and checkpoint.get(_EARLY, False)  # not one that is trained further
        over = checkpoint.get(_OVER, False) or 0 < trainer.max_steps <= checkpoint["global_step"]
        due = checkpoint.get(_DUE, False) and over
        if due or trainer.max_steps > 0:
            loop: Any = trainer.fit_loop
            loop.__class__ = _ResumedLoop
            loop.is_due = due

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There are no more safe points."""
        self._signals.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """There are no more safe points."""
        self._signals.release()

    def _agree(self, trainer: Trainer) -> tuple[bool, Stop]:
        """Whether to save, and whether (and why) to stop.

        All processes get the same answer: the maximum of what they ask for, where stopping counts more than saving.
        """
        late = time.monotonic() - self._saved_when >= self.minutes * 60
        wishes = int(self._signals.asked) * 2 + late
        if trainer.world_size > 1:
            highest = torch.tensor(wishes, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
            wishes = int(highest)
        return bool(wishes % 2), Stop(wishes // 2)

    def _save(self, trainer: Trainer) -> None:
        if not self.writes or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._settle()
        path = self._folder(trainer) / LAST
        # Noted before: a process that is lost may keep this one in the barrier at the end of saving.
        self._coming = _Coming(trainer.strategy.checkpoint_io, path, trainer.global_step, _file_identity(path))
        trainer.save_checkpoint(path)
        self._saved_at, self._saved_when = _progress(trainer), time.monotonic()

    def _settle(self) -> None:
        """Wait for a file that is being written; a failed write has warned, and kept the previous file."""
        coming = self._coming
        if coming is None:
            return
        if isinstance(coming.io, AtomicCheckpointIO):
            coming.io.wait()
        self._coming = None  # not before: a second Ctrl-C may interrupt the wait
        if _file_identity(coming.path) != coming.before:
            begun = read_beginning(coming.path)  # only the first process knows which of its files this is
            self._path, self._step = coming.path, begun.step if isinstance(begun, Beginning) else coming.step

    def _folder(self, trainer: Trainer) -> Path:
        """``checkpoints`` in the run's folder; else the folder of the best checkpoint, or the Trainer's root."""
        if own := own_folder(trainer):
            return own / CHECKPOINT_FOLDER
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath:
                return Path(callback.dirpath)
        return Path(trainer.default_root_dir) / CHECKPOINT_FOLDER

    def _stop_if_asked(self, trainer: Trainer, stop: Stop) -> None:
        if not stop:
            return
        self._settle()  # SLURM may end the job as soon as it is requeued
        if stop is Stop.REQUEUE and trainer.is_global_zero:
            requeue_job()
        raise Stopped(stop)


@dataclass(frozen=True)
class _Coming:
    """A checkpoint that is being written: by what, where, its step, and the identity of the file that was there."""

    io: Any
    path: Path
    step: int
    before: tuple[int, int] | None


_INTERVALS = ("val_check_batch", "check_val_every_n_epoch", "_val_check_time_interval")  # of the Trainer


class _ResumedLoop(_FitLoop):
    """The loop of a run that goes on with a number of steps, or was to end: Lightning does two things wrong then.

    A run that was stopped in the validation after its last step would not repeat it. After a whole epoch, one with a
    number of steps would count an empty one.
    """

    is_due = False  # whether a validation comes first
    _usual: Sequence[Any] | None = None  # the Trainer's intervals of validation; whether training is over

    def _iteration_based_training(self) -> bool:
        return False

    @property
    def done(self) -> bool:
        """As of any fit, once the validation that is due has begun."""
        return not self.is_due and super().done

    def force_validation(self) -> None:
        """Have the epoch's loop go to the validation, wherever in the epoch it is; if this run is to have one."""
        trainer: Any = self.trainer
        self.is_due = self.is_due and trainer.enable_validation
        if self.is_due:
            over = trainer.should_stop or reached_limit(trainer)
            self._usual = *(getattr(trainer, name) for name in _INTERVALS), over
            trainer.val_check_batch, trainer.check_val_every_n_epoch, trainer._val_check_time_interval = 1, 1, None
            trainer.should_stop = False

    def begin_validation(self) -> None:
        """Go on as usual from here."""
        trainer: Any = self.trainer
        if self._usual is not None:
            for name, value in zip((*_INTERVALS, "should_stop"), self._usual, strict=True):
                setattr(trainer, name, value)
            self._usual, self.is_due = None, False


def between_batches(loops: dict[str, Any], steps: int, validation_due: bool) -> None:
    """Set the fit loop's state to "every started batch is done", from which Lightning resumes exactly.

    Args:
        loops: ``fit_loop.state_dict()``; changed in place.
        steps: optimizer steps that are done.
        validation_due: whether a validation comes next, from its first batch.
    """
    progress = loops[f"{_LOOP}batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update(ready=counts["processed"], started=counts["processed"], completed=counts["processed"])
    progress["is_last_batch"] = False
    if not validation_due:
        loops[f"{_LOOP}state_dict"]["_batches_that_stepped"] = steps
    else:  # Lightning re-enters a validation with a started, unfinished batch, and counts the step after it
        validation = loops[f"{_LOOP}val_loop.batch_progress"]
        for name in ("total", "current"):
            validation[name] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        validation["is_last_batch"] = False


def time_is_up(timer: Timer) -> bool:
    """Whether the time that a run may train is over."""
    left = timer.time_remaining()
    return left is not None and left <= 0


def reached_limit(trainer: Trainer) -> bool:
    """Whether the last step of a fit is made, by ``max_steps`` or ``max_epochs``; a validation may follow."""
    return 0 < trainer.max_steps <= trainer.global_step or 0 < (trainer.max_epochs or 0) <= epochs_trained(trainer)


def training_is_over(trainer: Trainer) -> bool:
    """Whether no step of a fit follows: a limit is reached, or a callback has asked to stop and may."""
    return reached_limit(trainer) or (trainer.should_stop and trainer.fit_loop._can_stop_early)


def epochs_trained(trainer: Trainer) -> int:
    """The number of epochs whose batches are done; the validation at the end of the last one may follow."""
    epoch: Any = trainer.fit_loop.epoch_progress.current
    return int(epoch.processed + (epoch.ready > epoch.processed and _is_epoch_trained(trainer)))


def _is_epoch_trained(trainer: Trainer) -> bool:
    """Whether all batches of the epoch are done, also where a run goes on from there."""
    return trainer.is_last_batch or _progress(trainer)[1] >= trainer.num_training_batches


def _has_stopped_early(trainer: Trainer) -> bool:
    """Whether it is an EarlyStopping that has asked a fit to stop, and no limit."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if not trainer.should_stop or reached_limit(trainer):
        return False
    if any(isinstance(one, Timer) and time_is_up(one) for one in callbacks):
        return False
    stopping = (one.stopping_reason for one in callbacks if isinstance(one, EarlyStopping))
    return any(reason is not EarlyStoppingReason.NOT_STOPPED for reason in stopping)


def _file_identity(path: Path) -> tuple[int, int] | None:
    """Inode and time of a file; None without one. A write of other content gives ``path`` another one."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def _in_fit(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _between_steps(trainer: Trainer) -> bool:
    """Whether a validation runs between two optimizer steps, with no half-accumulated gradients."""
    return _progress(trainer)[1] % trainer.accumulate_grad_batches == 0 or _is_epoch_trained(trainer)


def _progress(trainer: Trainer) -> tuple[int, int]:
    """Index of the epoch, and how many of its batches are done."""
    loop: Any = trainer.fit_loop
    return loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.processed


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically; a failed write is a warning and does not end the run.

    Lightning's own class stages the file in ``$TMPDIR`` and then moves it: a full disk can interrupt the move half
    way, and that ends the run. Here the new file is written in the checkpoint's own folder and renamed over the old
    one after ``fsync``: after any crash there is the old file or the new one, whole.

    Args:
        background: write ``best.ckpt`` and ``last.ckpt`` while training goes on, from copies in the CPU's memory; at
            most two of them wait. Lightning looks at others as soon as they are saved.

    Attributes:
        sends: whether the first process reads for all, because some hosts do not have its files. All processes must
            then load together, as Lightning does.
        failed: the files whose last write failed; `wait` first.
    """

    most_waiting = 2

    def __init__(self, background: bool = False) -> None:
        self.background = background
        self.sends = False
        self.failed: set[Path] = set()
        self._writer = ThreadPoolExecutor(1, "writer of checkpoints")  # starts with its first file
        self._waiting: list[Future[None]] = []

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write ``checkpoint``; if that fails, warn and keep the file that is there.

        Args:
            checkpoint: as Lightning's Trainer makes it.
            path: the file to write.
            storage_options: ignored.
        """
        target = Path(path)
        self._wait_for(self.most_waiting - 1)
        if self.background and target.name in (BEST, LAST):
            with suppress(RuntimeError, MemoryError):  # no room for a copy
                self._waiting.append(self._writer.submit(self._write_or_warn, _copied(checkpoint), target))
                return
        self.wait()
        self._write_or_warn(checkpoint, target)

    def _write_or_warn(self, checkpoint: dict[str, Any], target: Path) -> None:
        self.failed.discard(target)
        try:
            _write(checkpoint, target)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
            self.failed.add(target)
            cause = error if isinstance(error, OSError) else error.__context__  # the error that stopped the zip writer
            reason = one_line(cause or error)
            kept = "the previous one is kept" if target.exists() else "there is no previous one"
            log.warning(
                f"checkpoint {target} could not be written, {kept} and training continues; free some space or make "
                f"the folder writable ({reason})"
            )

    def wait(self) -> None:
        """Return when everything is written."""
        self._wait_for(0)

    def _wait_for(self, most: int) -> None:
        """Wait until at most so many files are not written yet."""
        while len(self._waiting) > most:
            self._waiting[0].result()
            del self._waiting[0]  # not before: a second Ctrl-C may interrupt the wait

    def load_checkpoint(self, *args: Any, **keywords: Any) -> dict[str, Any]:
        """As Lightning's, when everything is written; from the first process, if it sends."""
        self.wait()
        if not self.sends:
            return dict(super().load_checkpoint(*args, **keywords))
        loaded: list[Any] = [None]
        if torch.distributed.get_rank() == 0:
            try:
                loaded = [super().load_checkpoint(*args, **keywords)]
            except Exception as error:  # a damaged file can raise anything in the zip and pickle readers
                loaded = [error]  # or the others would wait for ever
        in_memory = torch.distributed.new_group(backend="gloo")  # not through a GPU, which may be full
        torch.distributed.broadcast_object_list(loaded, 0, in_memory)
        torch.distributed.destroy_process_group(in_memory)
        if isinstance(loaded[0], Exception):
            raise loaded[0]
        return dict(loaded[0])

    def remove_checkpoint(self, path: str | Path) -> None:
        """As Lightning's, when everything is written."""
        self.wait()
        super().remove_checkpoint(path)

    def teardown(self) -> None:
        """End with all files written."""
        self.wait()


def _copied(value: Any) -> Any:
    """A copy with tensors of its own, on the CPU: training goes on to change the others. Tied weights stay one."""
    seen: dict[tuple[Any, ...], torch.Tensor] = {}

    def copy(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
            if place not in seen:
                seen[place] = value.detach().to("cpu", copy=True)
            return seen[place]
        if type(value) in (dict, OrderedDict):
            return type(value)((key, copy(one)) for key, one in value.items())
        if type(value) in (list, tuple):
            return type(value)(copy(one) for one in value)
        return deepcopy(value)

    return copy(value)


def _write(checkpoint: dict[str, Any], target: Path) -> None:
    twin = target.with_name({BEST: LAST, LAST: BEST}.get(target.name, target.name))
    if twin == target or not (_holds(twin, checkpoint) and share_file(twin, target)):
        write_file(target, lambda file: torch.save(checkpoint, file))


def _holds(path: Path, checkpoint: dict[str, Any]) -> bool:
    """Whether a file holds just this checkpoint; False for one that cannot be read."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # none is there; or a damaged one, which can raise anything in the zip and pickle readers
        return False
    return _alike(found, checkpoint)


def _alike(one: Any, other: Any) -> bool:
    """Whether two values of checkpoints are equal, to the bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        same_kind = (one.dtype, one.shape) == (other.dtype, other.shape)
        return same_kind and torch.equal(*(value.cpu().flatten().view(torch.uint8) for value in (one, other)))
    if isinstance(one, dict):
        return list(one) == list(other) and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return repr(one) == repr(other)  # tells 0.0 from -0.0; NaN is like NaN
