"""Runs training: claims a folder, meets the other processes, fits, ends; says what stopped it and what is saved."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only

from qa_lightning.checks.refusals import monitor_problems
from qa_lightning.checks.report import check_prepared, short_lines
from qa_lightning.errors import DivergedError, InputError, LostProcessError
from qa_lightning.files import hold_folder
from qa_lightning.layout import MODEL_FOLDER, RECORD
from qa_lightning.models.computing.memory import is_out_of_memory
from qa_lightning.pages.questions import N_BEST
from qa_lightning.progress import showing_bars
from qa_lightning.runs.checkpoints import LastCheckpoint
from qa_lightning.runs.curves import cut_curves, survive_full_disks, use_run_folder
from qa_lightning.runs.failures import (
    TRIAL,
    Launcher,
    connection_reason,
    explained_compiler_failure,
    explained_restore_failure,
    lost_a_process,
    out_of_memory_problems,
)
from qa_lightning.runs.peers.agreement import compare_data, compare_settings, find_folder
from qa_lightning.runs.peers.preparing import prepare_together
from qa_lightning.runs.peers.processes import Peers
from qa_lightning.runs.record import append_run, claim_folder, describe_start, last_start, release_folder
from qa_lightning.runs.resume import as_it_is_now
from qa_lightning.runs.signals import Stop, Stopped, StopSignals, requeue_job
from qa_lightning.training.callbacks import RunRecord
from qa_lightning.training.ended import RESUMING, surviving_the_end
from qa_lightning.training.finish import finish, only_validating
from qa_lightning.training.flags import TrainCLI
from qa_lightning.training.module import LOGGED
from qa_lightning.training.steps.heap import LimitedHeap, allocator, keep_freed_memory
from qa_lightning.training.steps.partial import partial_lines
from qa_lightning.wording import command, counted, relative
from qa_lightning.workers import Elsewhere

log = logging.getLogger("qa_lightning")

_SECONDS_TO_END = 20.0  # that the workers of a run which was killed take, at most, until they notice


class TrainingRun:
    """One training run, in each of its processes.

    Args:
        cli: the flags, and what was made of them.
        signals: those that stop the run; a command listens to them from its first moment on.
        peers: the other processes, if torchrun or SLURM started them.
    """

    def __init__(self, cli: TrainCLI, signals: StopSignals, peers: Peers | None = None) -> None:
        self.config, self.trainer, self.module, self.data = cli.config, cli.trainer, cli.model, cli.datamodule
        self.logs, self.folder, self.beginning, self.signals = cli.logs, cli.folder, cli.beginning, signals
        self.last = LastCheckpoint(self.config.save_every_minutes, signals)
        self.last.writes = self.config.trainer.enable_checkpointing is not False
        self.trainer.callbacks += [RunRecord(), self.last]  # type: ignore[attr-defined]
        self.module.last_n_best = N_BEST  # so that `finish` need not validate again what is the best
        self._held: int | None = None  # see `hold_folder`
        self._peers = peers
        self._kept_on: str | None = None  # the host that has the run's folder, if it is not this one
        if peers is not None:
            peers.tell = self._tell_lost
        self._started_by = cli.started_by
        strategy = self.trainer.strategy
        if isinstance(strategy.launcher, _SubprocessScriptLauncher):
            strategy._launcher = Launcher(strategy.launcher, self._tell_lost)
        # Lightning's handlers act within a step; those of this run are the ones that count, before training too.
        self.trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def run(self) -> int:
        """Fit, validate the best checkpoint, write the model; returns the exit status.

        Raises:
            InputError: the data are bad, memory ran out, or the model cannot be written.
            DivergedError: a loss or logits are not finite.
        """
        self._announce()
        if self.trainer.strategy.root_device.type == "cpu":
            if keep_freed_memory():
                self.trainer.callbacks.append(LimitedHeap())  # type: ignore[attr-defined]
            if (found := allocator()) and self.trainer.is_global_zero:
                log.info(f"memory: allocated by {found}, with which this process was started")
        try:
            with showing_bars(self.config.trainer.enable_progress_bar):
                status = self._run()
        except InputError:
            if self.trainer.global_step in (0, self.beginning.step):
                self._unclaim()
            self._end_others()
            raise
        except BaseException:
            self._end_others()
            raise
        finally:
            if self._held is not None:
                os.close(self._held)
        if status:
            self._end_others()
        return status

    def _run(self) -> int:
        try:
            if self._peers is not None:
                compare_settings(self._peers, dict(self.config.items()), self.module.model.config.to_dict())
            if self.trainer.is_global_zero and not self.config.trainer.fast_dev_run:
                self._claim()
            self._prepare()
            self._meet()
            begun = self.beginning
            self.signals.check()
            with explained_compiler_failure():
                if self.config.validate_first and not begun.checkpoint:
                    with only_validating(self.trainer):
                        self.trainer.validate(self.module, datamodule=self.data, verbose=False)
                    self.signals.check()
                with (
                    surviving_the_end(self.trainer, self._resuming) as ending,
                    explained_restore_failure(begun.checkpoint),
                ):
                    self.trainer.fit(self.module, datamodule=self.data, ckpt_path=begun.checkpoint, weights_only=True)
                self.signals.check()
                finish(self.trainer, self.module, self.data, self.config.keep_averaged, self._resuming)
        except DivergedError as error:
            raise DivergedError(f"{error}; {self._saved()}") from None
        except LostProcessError:
            raise
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise InputError(self._out_of_memory_problems(error)) from None
            if "find_unused_parameters" in str(error):
                raise InputError(
                    f"{self.config.model.model_name} has weights that answering does not use, and training on several "
                    "devices must know that: pass --trainer.strategy ddp_find_unused_parameters_true"
                ) from None
            if self.trainer.world_size > 1 and lost_a_process(error):
                return self._lost(error)
            raise
        except Stopped as error:
            return self._stopped(error.stop, error.alone)
        except SystemExit:  # how Lightning ends on a second Ctrl-C
            return self._stopped(Stop.INTERRUPT)
        return ending.status

    def _claim(self) -> None:
        """Take the run's own folder, which nobody else writes to, and note the start in it; first process alone.

        Raises:
            InputError: the run that is to be resumed still runs, or nothing can be written.
        """
        begun = self.beginning
        kept = dict(self.module.hparams)
        if any(isinstance(one, LearningRateFinder) for one in self.trainer.callbacks):  # type: ignore[attr-defined]
            del kept["learning_rate"]  # it is found anew
        problems = begun.changed_parts(kept)
        if not problems and (problem := begun.misfit(self.config.model.model_name, self.module.state_dict())):
            problems = [problem]
        if problems:
            raise InputError([f"--ckpt_path {self.config.ckpt_path or 'last'}: {problem}" for problem in problems])
        launch = self._peers.launch if self._peers is not None else None
        if launch is not None and launch.run_before and begun.folder is None:
            raise InputError(
                f"torchrun has started this run again, which was trained in {launch.run_before} before; that is "
                f"finished, or not in {self.logs} here: let --trainer.default_root_dir name a folder that hosts share"
            )
        try:
            self.folder.path = folder = begun.folder or claim_folder(self.logs)
            self._held = _hold(folder)
            self.beginning = begun = as_it_is_now(begun)
            from_file = str(begun.checkpoint) if begun.checkpoint else None
            start = describe_start(int(self.config.seed_everything), from_file, launch.name if launch else None)
            append_run(folder / RECORD, start)
            if launch is not None:
                launch.note_run(f"{folder} on {socket.gethostname()}")
        except OSError as error:
            raise InputError(
                f"runs go to {self.logs}, where nothing can be written ({error.strerror}); free some space, or choose "
                "another folder with --trainer.default_root_dir"
            ) from None

    def _unclaim(self) -> None:
        """Take back a claim, where nothing was trained."""
        if self.folder.path and not self.beginning.folder and self.trainer.is_global_zero:
            release_folder(self.folder.path)
            if self._peers is not None and self._peers.launch is not None:
                self._peers.launch.note_run(None)

    def _meet(self) -> None:
        """Start the other processes, or wait for them, and agree on the run's folder and where it begins."""
        strategy: Any = self.trainer.strategy
        if self.trainer.world_size > 1 and isinstance(strategy.launcher, Launcher | None):
            if isinstance(strategy.launcher, Launcher):
                strategy.launcher.launch(lambda: None)
            strategy.setup_environment()
            self.beginning, self.folder.path = strategy.broadcast((self.beginning, self.folder.path))
            if self._peers is not None and self.folder.path is not None:
                begun = self.beginning
                self._kept_on = find_folder(self._peers, self.trainer, self.folder.path, begun.checkpoint)
        begun, folder = self.beginning, self.folder.path
        if begun.checkpoint:
            self.last.begin_at(begun.checkpoint, begun.step)
        if begun.folder and self.trainer.is_global_zero:
            cut_curves(begun.folder, begun.curves)
        for logger in self.trainer.loggers:
            if folder:
                resumed_at = begun.step if begun.folder else None
                use_run_folder(logger, folder, resumed_at, self.trainer.is_global_zero)
            survive_full_disks(logger)

    def _prepare(self) -> None:
        """Prepare the data: on all hosts, which compare it; before other processes start, where they are ours."""
        if self._peers is None:
            rank_zero_only(self._check_data)()  # so that bad data is one error
            return
        described = teacher = None
        one_of_host = self.trainer.local_rank == 0  # the others of its host map the same files
        prepare_together(self._peers, self.data.to_prepare() if one_of_host else None, self._prepare_with)
        if one_of_host:
            if self.trainer.is_global_zero:
                self._check_data()
            else:
                self.data.prepare_data()
                self.module.prepare_teacher(self.data, self.trainer)
            described = self.data.describe()
            teacher = self.module.teacher_key(self.data, self.trainer)
        compare_data(self._peers, described, teacher)

    def _prepare_with(self, others: Sequence[Elsewhere]) -> None:
        """Prepare the data with the help of others."""
        self.data.others = others
        try:
            self.data.prepare_data()
        finally:
            self.data.others = ()

    def _out_of_memory_problems(self, error: RuntimeError) -> list[str]:
        data, trainer = self.data, self.trainer
        return out_of_memory_problems(
            error,
            step=trainer.global_step,
            batch_size=data.batch_size,
            windows_per_step=data.windows_per_step,
            tokens_per_batch=data.tokens_per_batch,
            eval_batch_size=data.eval_batch_size,
            accumulated=data.accumulated,
            max_length=data.settings.max_length,
            precision=str(trainer.precision),
        )

    def _check_data(self) -> None:
        """Prepare the data, log what its check finds, and have the teacher read it."""
        self.data.prepare_data()
        self.data.setup("fit")
        self._check_monitors()
        self._note_unanswerable()
        lines = list(
            short_lines(
                check_prepared(self.data.splits(), self.module.max_answer_length, self.config.model.mixed_script)
            )
        )
        for line in lines:
            log.info(line)
        if lines:
            log.info(f"`{command('check-data')}` shows the rows")
        self.module.prepare_teacher(self.data, self.trainer)

    def _check_monitors(self) -> None:
        """Refuse callbacks that wait for what this data, now that it is known, has no values of."""
        data = self.data.validation_set
        if data is not None and not data.version_2:
            callbacks: Any = self.trainer.callbacks  # type: ignore[attr-defined]
            if problems := monitor_problems(callbacks, LOGGED, self.trainer.limit_val_batches != 0):
                raise InputError([f"{problem} (the others need questions without an answer)" for problem in problems])

    def _note_unanswerable(self) -> None:
        """Say so if questions without an answer are trained on, and there are none to validate on."""
        train, validation = self.data.train_set, self.data.validation_set
        if train is not None and validation is not None and train.version_2 and not validation.version_2:
            log.info(
                "note: some training questions have no answer, and none to validate on: the model is scored and "
                "written as one that always answers; name validation data with such questions, too (--data.validation)"
            )

    def _stopped(self, stop: Stop, alone: bool = False) -> int:
        """Say what stopped the run and how it goes on; returns the status that schedulers and shells expect.

        Args:
            stop: the signal.
            alone: whether the other processes know nothing of it yet.
        """
        if alone and self._peers is not None:
            self._peers.fail([f"stopped by {stop.cause}"])
        if not self.trainer.is_global_zero:
            # The first process says that all stopped; one that stops alone is a loss to it.
            return stop.status if alone and self._started_by is not None else 0
        if alone and stop is Stop.REQUEUE:
            requeue_job()
        when = f"after step {self.trainer.global_step}" if self.trainer.global_step else "before the first step"
        log.info(f"\nstopped by {stop.cause} {when}: {self._saved()}")
        return stop.status

    def _end_others(self) -> None:
        launcher = self.trainer.strategy.launcher
        if isinstance(launcher, Launcher):
            launcher.end()

    def _lost(self, error: RuntimeError) -> int:
        """Another process ended: say what is known of it, where nobody else does."""
        self.signals.hold()  # torchrun stops the others of a host as soon as it notices, too
        failure = self._peers.wait_for_failure() if self._peers is not None else None
        if failure is None and self.signals.asked:
            return self._stopped(self.signals.asked)
        launcher = self.trainer.strategy.launcher
        known = f"another process of this run ended, or the network to it ({connection_reason(error)})"
        if self._peers is not None:
            if not self._peers.speaks:
                return 1
            raise LostProcessError(f"{failure or known}; {self._saved()}") from None
        if isinstance(launcher, Launcher) and launcher.procs:
            known = launcher.wait_for_lost() or known
        elif self._started_by is not None:  # that one tells what is known, unless it is the one that is lost
            time.sleep(1)
            if os.getppid() == self._started_by:
                return 1
            known = "the first process of this run was killed, or broke down"
        if self.trainer.global_rank > 1:  # one that tells is enough; the first may be the one that is lost
            return 1
        if self._started_by is not None:  # what it says on stderr went through that process
            log.error(f"error: {known}; {self._saved()}")
            return 1
        raise LostProcessError(f"{known}; {self._saved()}") from None

    def _tell_lost(self, known: str) -> None:
        print(f"error: {known}; {self._saved()}", file=sys.stderr, flush=True)

    @property
    def _resuming(self) -> str:
        """How the run is resumed; that of a fold or a trial by the command that started it."""
        if self._started_by is not None and (self.data.fold is not None or TRIAL in os.environ):
            return "with the same command"
        return RESUMING

    def _saved(self) -> str:
        """What is saved, and how to resume from it, for a message."""
        folder = self.folder.path
        if self._kept_on:
            return f"what is saved is on {self._kept_on}; resume {self._resuming}"
        if folder and last_start(folder / RECORD).get("finished"):
            return f"the run is finished, its model is in {relative(folder / MODEL_FOLDER)}"
        if self.last.path is None:
            return "nothing is saved yet" + (f"; begin it again {self._resuming}" if folder else "")
        return f"step {self.last.step} is saved in {relative(self.last.path)}; resume {self._resuming}"

    def _announce(self) -> None:
        if not self.trainer.is_global_zero:
            return
        trainer, data = self.trainer, self.data
        kind = type(trainer.accelerator).__name__.removesuffix("Accelerator")
        parameters = sum(parameter.numel() for parameter in self.module.model.parameters())
        log.info(
            f"model: {self.config.model.model_name}, {parameters / 1e6:.1f} M parameters, "
            f"precision {trainer.precision} on {trainer.world_size} x {kind}"
        )
        for line in partial_lines(self.module.model, self.module.hparams):
            log.info(line)
        devices = counted(trainer.world_size, "device")
        if data.finds_batch_size:
            step = f"{devices}, {counted(data.step_size(trainer.world_size), 'window')} per step"
        else:
            accumulated = trainer.accumulate_grad_batches
            step = f"{devices} x {data.batch_limit()} x {accumulated} accumulated = "
            step += f"{data.batch_limit(trainer.world_size * accumulated)} per step"
        log.info(f"steps: {step}, {trainer.max_epochs} epoch{'s' * (trainer.max_epochs != 1)}")
        if self.beginning.checkpoint:
            log.info(f"resuming from {self.beginning.checkpoint}, after step {self.beginning.step}")


def _hold(folder: Path) -> int | None:
    """Hold a run's folder; a run that was killed a moment ago lets go of it soon."""
    deadline = time.monotonic() + _SECONDS_TO_END
    while True:
        try:
            return hold_folder(folder)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InputError(
                    f"--ckpt_path last: {folder} is being trained by another process; wait until that has ended, or "
                    "leave the flag out to start another run"
                ) from None
        time.sleep(0.2)
