"""Runs training: makes Trainer, module and data from flags and config files, fits, writes the best model."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    ProgressBar,
    WeightAveraging,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only

from qa_lightning.checks.refusals import (
    callback_problems,
    monitor_problems,
    refusal,
    trainer_problems,
    union_problem,
)
from qa_lightning.checks.report import check_prepared, short_lines
from qa_lightning.errors import DivergedError, InputError, LostProcessError
from qa_lightning.files import hold_folder, write_file, write_problem
from qa_lightning.models.loading import max_positions, tokenizer_problem
from qa_lightning.runs.checkpoints import AtomicCheckpointIO, LastCheckpoint
from qa_lightning.runs.curves import CurveLogger, use_run_folder
from qa_lightning.runs.failures import (
    STARTED_BY,
    Launcher,
    connection_reason,
    end_with_parent,
    explained_compiler_failure,
    explained_restore_failure,
    is_out_of_memory,
    keep_freed_memory,
    lost_a_process,
    out_of_memory_problems,
)
from qa_lightning.runs.record import (
    RECORD,
    RunFolder,
    append_run,
    claim_folder,
    describe_start,
    last_start,
    release_folder,
    run_folder,
)
from qa_lightning.runs.resume import Beginning, find_beginning
from qa_lightning.runs.signals import Stop, Stopped, StopSignals, first_process, requeue_job, slurm_job
from qa_lightning.training.callbacks import RunRecord, default_callbacks
from qa_lightning.training.datamodule import SquadDataModule, data_problems
from qa_lightning.training.finish import finish, only_validating, outliving_the_end, relative
from qa_lightning.training.module import (
    LOGGED,
    LOGGED_WITH_UNANSWERABLE,
    QALightningModule,
    model_problems,
)
from qa_lightning.wording import command, flag_problem, usage_name, visible

log = logging.getLogger("qa_lightning")

LOGS = "lightning_logs"
_SECONDS_TO_END = 20.0  # that the workers of a run which was killed take, at most, until they notice


class TrainParser(LightningArgumentParser):
    """A parser that reports a bad flag without a screen of usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong with the flags, and end the process with status 2."""
        if not self.exit_on_error:  # a parser within, of one of several classes that a value may be of
            super().error(message, ex)
        problem = union_problem(message) or flag_problem(message, self._option_string_actions)
        problem = refusal(problem) if problem.startswith("--trainer.") else problem
        print(f"error: {visible(problem, lines=True)}", file=sys.stderr)
        sys.exit(2)


class _SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's own folder, whatever logs."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write; called on the first process alone."""
        if folder := run_folder(trainer):
            write_file(folder / self.config_filename, self.parser.dump(self.config, skip_none=False))


class TrainCLI(LightningCLI):
    """Flags, ``--config`` files and their defaults for `QALightningModule`, `SquadDataModule` and the Trainer.

    Args:
        args: flags; None takes those of the command line.
        signals: of a command that listens from its first moment on; None listens while the run trains.
    """

    def __init__(self, args: list[str] | None = None, signals: StopSignals | None = None) -> None:
        self.signals = signals or StopSignals()
        self.beginning = Beginning()
        self.folder = RunFolder()
        self._held: int | None = None  # see `hold_folder`
        self._started_by: int | None = None  # the first process's id, in those that it started
        if os.environ.get(STARTED_BY) == str(os.getppid()):
            self._started_by = os.getppid()
            end_with_parent()
        super().__init__(
            QALightningModule,
            SquadDataModule,
            args=args,
            run=False,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            parser_class=TrainParser,
            save_config_callback=_SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={
                "max_epochs": 3,
                "devices": 1,
                "gradient_clip_val": 1.0,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
                "enable_progress_bar": sys.stdout.isatty(),
                "callbacks": [],  # `default_callbacks`, once it is known whether there is to be a bar
            },
            parser_kwargs={
                "prog": usage_name("train"),
                "usage": f"{usage_name('train')} [--help] [--config NAME_OR_FILE] [--GROUP.FLAG VALUE ...]",
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own flags, and link those that must have the same value."""
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to resume from; `last` is that of the newest run here, resumed in its own folder.",
        )
        parser.add_argument(
            "--save_every_minutes",
            type=float,
            default=15.0,
            help="Minutes of training after which checkpoints/last.ckpt is written, in addition to after each epoch.",
        )
        parser.add_argument(
            "--validate_first",
            type=bool,
            default=False,
            help="Whether to validate before the first step, too.",
        )
        parser.add_argument(
            "--ema_decay",
            type=float | None,
            default=None,
            help="Validate a running mean of the weights, and write it as the model: in each step the mean keeps this "
            "part of itself, 0.999 is usual. If left out, the weights themselves are used.",
        )
        parser.link_arguments("model.model_name", "data.model_name")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def before_instantiate_classes(self) -> None:
        """Refuse bad flags, all at once; then choose the precision, if it is open, and where the run begins."""
        trainer, model, data = self.config.trainer, self.config.model, self.config.data
        problems = data_problems(data) + model_problems(model) + trainer_problems(trainer)
        if (trainer.max_epochs, trainer.max_steps) == (-1, -1) and model.warmup_ratio > 0:
            problems.append(
                f"--model.warmup_ratio {model.warmup_ratio} is a part of the steps, and --trainer.max_epochs -1 has no "
                "number of them; pass --trainer.max_steps, or leave the ratio out"
            )
        if not self.config.save_every_minutes >= 0:
            problems.append(f"--save_every_minutes is {self.config.save_every_minutes}; it must not be negative")
        if self.config.ema_decay is not None and not 0 < self.config.ema_decay < 1:
            problems.append(f"--ema_decay is {self.config.ema_decay}; it must be between 0 and 1, 0.999 is usual")
        if problems:
            raise InputError(problems)
        if trainer.precision is None:
            trainer.precision = default_precision(str(trainer.accelerator))
        logs = self._logs
        if problem := write_problem(logs):
            raise InputError(f"runs go to {logs}, {problem}; choose another folder with --trainer.default_root_dir")
        if not first_process():
            return  # it is told where the run begins, in `_meet`
        self.beginning = begun = find_beginning(self.config.ckpt_path, logs, slurm_job())
        epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
        if self.config.ckpt_path == "last" and begun.folder is None and 0 <= epochs <= begun.epochs:
            raise InputError(
                f"--ckpt_path last: that run is finished, with {begun.epochs} epoch{'s' * (begun.epochs != 1)}; to "
                f"train it further, pass --trainer.max_epochs {begun.epochs + 1} or more"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to TensorBoard, in the run's own folder, unless another logger is configured."""
        if self.config.trainer.logger in (None, True):
            kwargs["logger"] = CurveLogger(self._logs.parent, name=LOGS, default_hp_metric=False)
        plugins = self.config_init.trainer.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        self.trainer_defaults["callbacks"] = self._default_callbacks()
        trainer = super().instantiate_trainer(**kwargs)
        if self.config.ema_decay is not None:
            # Buffers are not averaged: a mean of position ids, made an integer again, is sometimes one too low.
            average = EMAWeightAveraging(decay=self.config.ema_decay, use_buffers=False)
            trainer.callbacks.insert(0, average)  # type: ignore[attr-defined]
        trainer.callbacks.insert(0, self.folder)  # type: ignore[attr-defined]
        strategy: Any = trainer.strategy
        if isinstance(strategy.launcher, _SubprocessScriptLauncher):
            strategy._launcher = Launcher(strategy.launcher, self._tell_lost)
        # Lightning's handlers act within a step; those of this run are the ones that count, before training too.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        return trainer

    def _default_callbacks(self) -> list[Callback]:
        """Those of every run that go with the flags; without a bar lines in place of it."""
        chosen = self.config_init.trainer.callbacks or []
        has_bar = any(isinstance(callback, ProgressBar) for callback in chosen)
        callbacks = default_callbacks(interactive=bool(self.config.trainer.enable_progress_bar))
        without: tuple[type[Callback], ...] = (ProgressBar,) if has_bar else ()
        if self.config.trainer.enable_checkpointing is False:
            without += (ModelCheckpoint,)
        return [callback for callback in callbacks if not isinstance(callback, without)]

    def run(self) -> int:
        """Fit, validate the best checkpoint, write the model; returns the exit status.

        Raises:
            InputError: the flags cannot work, the data are bad, memory ran out, or the model cannot be written.
            DivergedError: a loss or logits are not finite.
        """
        if problems := self._model_problems():
            raise InputError(problems)
        self._announce()
        self.last = LastCheckpoint(self.config.save_every_minutes, self.signals)
        self.last.writes = self.config.trainer.enable_checkpointing is not False
        self.trainer.callbacks += [RunRecord(), self.last]  # type: ignore[attr-defined]
        if self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        try:
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
            if self.trainer.is_global_zero and not self.config.trainer.fast_dev_run:
                self._claim()
            rank_zero_only(self._check_data)()  # before other processes start, so that bad data is one error
            self._meet()
            begun = self.beginning
            self.signals.check()
            with explained_compiler_failure():
                if self.config.validate_first and not begun.checkpoint:
                    with only_validating(self.trainer):
                        self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
                    self.signals.check()
                with outliving_the_end(self.trainer) as ending, explained_restore_failure(begun.checkpoint):
                    self.trainer.fit(
                        self.model, datamodule=self.datamodule, ckpt_path=begun.checkpoint, weights_only=True
                    )
                self.signals.check()
                finish(self.trainer, self.model, self.datamodule)
        except DivergedError as error:
            raise DivergedError(f"{error}; {self._saved()}") from None
        except ValueError as error:
            begun = self.beginning
            if begun.checkpoint and "parameter group" in str(error):
                raise InputError(
                    f"--ckpt_path: {relative(Path(begun.checkpoint))} was made with another --model.layer_decay than "
                    f"{self.model.layer_decay}; resume with the one in its run's config.yaml"
                ) from None
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

    @property
    def _logs(self) -> Path:
        """The folder that holds the runs."""
        return Path(self.config.trainer.default_root_dir or ".") / LOGS

    def _claim(self) -> None:
        """Take the run's own folder, which nobody else writes to, and note the start in it; first process alone.

        Raises:
            InputError: the run that is to be resumed still runs, or nothing can be written.
        """
        begun = self.beginning
        if problem := begun.misfit(self.config.model.model_name, self.model.state_dict()):
            raise InputError(f"--ckpt_path {self.config.ckpt_path or 'last'}: {problem}")
        try:
            self.folder.path = folder = begun.folder or claim_folder(self._logs)
            self._held = _hold(folder)
            from_file = str(begun.checkpoint) if begun.checkpoint else None
            start = describe_start(int(self.config.seed_everything), from_file)
            append_run(folder / RECORD, start)
        except OSError as error:
            raise InputError(
                f"runs go to {self._logs}, where nothing can be written ({error.strerror}); free some space, or choose "
                "another folder with --trainer.default_root_dir"
            ) from None

    def _unclaim(self) -> None:
        """Take back a claim, where nothing was trained."""
        if self.folder.path and not self.beginning.folder and self.trainer.is_global_zero:
            release_folder(self.folder.path)

    def _meet(self) -> None:
        """Start the other processes, or wait for them, and agree on the run's folder and where it begins."""
        strategy: Any = self.trainer.strategy
        if self.trainer.world_size > 1 and isinstance(strategy.launcher, Launcher | None):
            if isinstance(strategy.launcher, Launcher):
                strategy.launcher.launch(lambda: None)
            strategy.setup_environment()
            self.beginning, self.folder.path = strategy.broadcast((self.beginning, self.folder.path))
        begun, folder = self.beginning, self.folder.path
        if begun.checkpoint:
            self.last.path, self.last.step = begun.checkpoint, begun.step
        for logger in self.trainer.loggers:
            if folder and isinstance(logger, CurveLogger):
                # A TensorBoard that is open has read what is cut off before training: it is told to forget it.
                logger.write_to(folder, begun.step if begun.folder else None)
                rank_zero_only(begun.cut_curves)()
            elif folder and not begun.folder:
                use_run_folder(logger, folder)

    def _model_problems(self) -> list[str]:
        """A line for each reason why the loaded model cannot be trained with these flags."""
        length, limit = self.datamodule.settings.max_length, max_positions(self.model.model)
        problems = []
        if limit and length > limit:
            problems.append(
                f"--data.max_length {length} is more than the {limit} positions of {self.config.model.model_name}; "
                f"pass --data.max_length {limit} or less"
            )
        if problem := tokenizer_problem(self.model.model, self.datamodule.tokenizer):
            problems.append(f"--model.model_name: {problem}")
        problems += callback_problems(
            self.trainer.callbacks,  # type: ignore[attr-defined]
            (*LOGGED, *LOGGED_WITH_UNANSWERABLE),
            self._validates,
            self.trainer.world_size,
            self.trainer.accumulate_grad_batches,
            len(self.trainer.loggers),
        )
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) and callback._use_buffers:
                problems.append(
                    f"--trainer.callbacks {type(callback).__name__} averages buffers too, and averaged position ids "
                    "are wrong; pass --ema_decay instead, or --trainer.callbacks.use_buffers false"
                )
        return problems

    def _out_of_memory_problems(self, error: RuntimeError) -> list[str]:
        data, trainer = self.datamodule, self.trainer
        return out_of_memory_problems(
            error,
            step=trainer.global_step,
            batch_size=data.batch_size,
            eval_batch_size=data.eval_batch_size,
            accumulated=trainer.accumulate_grad_batches,
            max_length=data.settings.max_length,
            precision=str(trainer.precision),
        )

    def _check_data(self) -> None:
        """Prepare the data, and log what its check finds."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        self._check_monitors()
        lines = list(
            short_lines(
                check_prepared(self.datamodule.splits(), self.model.max_answer_length, self.config.model.mixed_script)
            )
        )
        for line in lines:
            log.info(line)
        if lines:
            log.info(f"`{command('check-data')}` shows the rows")

    @property
    def _validates(self) -> bool:
        return self.trainer.limit_val_batches != 0

    def _check_monitors(self) -> None:
        """Refuse callbacks that wait for what this data, now that it is known, has no values of."""
        data = self.datamodule.validation_set
        if data is not None and not data.version_2:
            callbacks: Any = self.trainer.callbacks  # type: ignore[attr-defined]
            if problems := monitor_problems(callbacks, LOGGED, self._validates):
                raise InputError([f"{problem} (the others need questions without an answer)" for problem in problems])

    def _stopped(self, stop: Stop, alone: bool = False) -> int:
        """Say what stopped the run and how it goes on; returns the status that schedulers and shells expect.

        Args:
            stop: the signal.
            alone: whether the other processes know nothing of it yet.
        """
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
        if self.signals.asked:
            return self._stopped(self.signals.asked)
        launcher = self.trainer.strategy.launcher
        known = f"another process of this run ended, or the network to it ({connection_reason(error)})"
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

    def _saved(self) -> str:
        """What is saved, and how to resume from it, for a message."""
        folder = self.folder.path
        if folder and last_start(folder / RECORD).get("finished"):
            return f"the run is finished, its model is in {relative(folder / 'model')}"
        if self.last.path is None:
            return "nothing is saved yet" + ("; begin it again with --ckpt_path last" if folder else "")
        return f"step {self.last.step} is saved in {relative(self.last.path)}; resume with --ckpt_path last"

    def _announce(self) -> None:
        if not self.trainer.is_global_zero:
            return
        trainer, data = self.trainer, self.datamodule
        kind = type(trainer.accelerator).__name__.removesuffix("Accelerator")
        parameters = sum(parameter.numel() for parameter in self.model.model.parameters())
        log.info(
            f"model: {self.config.model.model_name}, {parameters / 1e6:.1f} M parameters, "
            f"precision {trainer.precision} on {trainer.world_size} x {kind}"
        )
        log.info(
            f"steps: {trainer.world_size} device{'s' * (trainer.world_size != 1)} x {data.batch_size} windows x "
            f"{trainer.accumulate_grad_batches} accumulated = "
            f"{trainer.world_size * data.batch_size * trainer.accumulate_grad_batches} windows per step, "
            f"{trainer.max_epochs} epoch{'s' * (trainer.max_epochs != 1)}"
        )
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


def default_precision(accelerator: str) -> str:
    """bf16-mixed on GPUs that have it, fp16-mixed on older ones, float32 on a CPU."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
