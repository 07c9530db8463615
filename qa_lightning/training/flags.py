"""The flags of a training run: checks them, all at once, and makes Trainer, module and data of them."""

from __future__ import annotations

import os
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse._typehints import ActionTypeHint
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from qa_lightning.checks.parser import TrainParser
from qa_lightning.checks.refusals import (
    callback_problems,
    lightning_refusals,
    trainer_problems,
)
from qa_lightning.data.division import ALL
from qa_lightning.distillation.teacher import lasting_teacher
from qa_lightning.errors import MOST, InputError, is_too_large, one_line
from qa_lightning.files import write_file
from qa_lightning.layout import LOGS
from qa_lightning.models.loading import lasting_name
from qa_lightning.paths import named_path, write_problem
from qa_lightning.progress import shows_bars
from qa_lightning.runs.checkpoints import AtomicCheckpointIO
from qa_lightning.runs.curves import CurveLogger
from qa_lightning.runs.failures import STARTED_BY, end_with_parent
from qa_lightning.runs.record import RunFolder, run_folder
from qa_lightning.runs.resume import Beginning, find_beginning
from qa_lightning.runs.signals import first_process, slurm_job
from qa_lightning.training.averages import BestWeights, RunningMean, averaging_problems
from qa_lightning.training.callbacks import default_callbacks
from qa_lightning.training.datamodule import AUTO, SquadDataModule, data_problems
from qa_lightning.training.module import LOGGED, LOGGED_WITH_UNANSWERABLE, QALightningModule, model_problems
from qa_lightning.training.steps.batch_size import AutoBatchSize
from qa_lightning.training.steps.graphs import graph_problems, shape_problems
from qa_lightning.training.steps.partial import partial_problems
from qa_lightning.wording import counted, shown, usage_name


class _SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's own folder, whatever logs."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write, on the first process alone; but a resumed run keeps its file until its checkpoint takes the flags."""
        if (folder := run_folder(trainer)) and not (folder / self.config_filename).exists():
            self._write(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the flags of a resumed run."""
        folder = run_folder(trainer)  # may communicate: every process must call it
        if folder and trainer.is_global_zero:
            self._write(folder)

    def _write(self, folder: Path) -> None:
        """Write the flags of the run; where this start of it began is in its record, and no flag of the next run."""
        config = self.config.clone()
        config.ckpt_path = None
        write_file(folder / self.config_filename, self.parser.dump(config, skip_none=False))


class TrainCLI(LightningCLI):
    """Flags, ``--config`` files and their defaults for `QALightningModule`, `SquadDataModule` and the Trainer.

    Args:
        args: flags; None takes those of the command line.
        launch: names this start by torchrun; see `Peers`.

    Attributes:
        beginning: where the run begins; of the first process alone, the others learn of it from `TrainingRun`.
        folder: the callback that knows the run's own folder, once that is claimed.
        started_by: the id of the process of ours that started this one, the run's first or a cross-validation; else
            None.

    Raises:
        InputError: the flags cannot work, or cannot with this model.
    """

    def __init__(self, args: list[str] | None = None, launch: str | None = None) -> None:
        self.launch = launch
        self.beginning = Beginning()
        self.folder = RunFolder()
        self.started_by: int | None = None
        if os.environ.get(STARTED_BY) == str(os.getppid()):
            self.started_by = os.getppid()
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
                "enable_progress_bar": None,  # a bar in a terminal; saved flags do not know where they are used next
                "callbacks": [],  # `default_callbacks`, once it is known whether there is to be a bar
            },
            parser_kwargs={
                "prog": usage_name("train"),
                "usage": f"{usage_name('train')} [--help_all] [--config NAME_OR_FILE] [--GROUP.FLAG VALUE ...]",
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
        parser.add_argument(
            "--average_best",
            type=int | None,
            default=None,
            help="When the run ends, average the weights of so many of its best checkpoints, by F1, and write the mean "
            "as the model if it scores at least as well as the best one. Keeps their weights on disk meanwhile; 3 is "
            "usual.",
        )
        parser.add_argument(
            "--keep_averaged",
            type=bool,
            default=False,
            help="Whether to keep the weights that --average_best has averaged, in best_weights/.",
        )
        parser.link_arguments("model.model_name", "data.model_name")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def _set_seed(self) -> None:
        """Seed, unless NumPy cannot take the seed: `problems` says that, together with all else that is wrong."""
        if 0 <= int(self.config.seed_everything) <= MOST:
            super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Refuse bad flags, all at once; then choose the precision, if it is open, and where the run begins."""
        trainer = self.config.trainer
        if problems := self.problems():
            raise InputError(problems)
        choose_precision(trainer)
        logs = self.logs
        if problem := write_problem(logs):
            raise InputError(f"runs go to {logs}, {problem}; choose another folder with --trainer.default_root_dir")
        if not first_process():
            return  # it learns from the first one where the run begins
        self.beginning = begun = find_beginning(self.config.ckpt_path, logs, slurm_job() or self.launch)
        epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
        if self.config.ckpt_path == "last" and begun.folder is None:
            ended = "--ckpt_path last: that run is finished, with {}; to train it further, pass --trainer.{} {} or more"
            if 0 <= epochs <= begun.epochs:
                count = counted(begun.epochs, "epoch")
                raise InputError(ended.format(count, "max_epochs", begun.epochs + 1))
            if 0 < trainer.max_steps <= begun.step:
                raise InputError(ended.format(counted(begun.step, "step"), "max_steps", begun.step + 1))

    def problems(self) -> list[str]:
        """A line for each flag that cannot work, before anything is loaded; names the model so that it lasts."""
        trainer, model, data = self.config.trainer, self.config.model, self.config.data
        problems = self._name_folder() + self._name_model()
        problems += data_problems(data) + model_problems(model) + trainer_problems(trainer)
        problems = [problem.replace("--data.seed ", "--seed_everything ", 1) for problem in problems]  # linked
        if (trainer.max_epochs, trainer.max_steps) == (-1, -1) and model.warmup_ratio > 0:
            problems.append(
                f"--model.warmup_ratio {model.warmup_ratio} is a part of the steps, and --trainer.max_epochs -1 has no "
                "number of them; pass --trainer.max_steps, or leave the ratio out"
            )
        if data.fold == ALL and trainer.limit_val_batches != 0:
            problems.append(
                f"--data.fold {ALL} leaves no questions to validate on; pass --trainer.limit_val_batches 0, too"
            )
        if trainer.overfit_batches and data.tokens_per_batch is not None:
            problems.append(
                f"--trainer.overfit_batches {trainer.overfit_batches} does not go together with "
                "--data.tokens_per_batch: Lightning replaces the sampler that fills the batches; leave one out"
            )
        if not self.config.save_every_minutes >= 0:
            problems.append(f"--save_every_minutes is {self.config.save_every_minutes}; it must not be negative")
        if self.config.ema_decay is not None and not 0 < self.config.ema_decay < 1:
            problems.append(f"--ema_decay is {self.config.ema_decay}; it must be between 0 and 1, 0.999 is usual")
        best = self.config.average_best
        if best is not None and best < 1:
            problems.append(f"--average_best is {best}; it must be at least 1, 3 is usual")
        if is_too_large(best):
            problems.append(f"--average_best is {shown(best)}; it must be at most {MOST}, 3 is usual")
        if self.config.keep_averaged and best is None:
            problems.append("--keep_averaged true keeps what --average_best averages; pass that too, or leave it out")
        return problems

    def _name_folder(self) -> list[str]:
        """Expand ``~`` in the flag that names the folder of the runs; returns a line if it cannot be one."""
        trainer = self.config.trainer
        try:
            if trainer.default_root_dir is not None:
                trainer.default_root_dir = str(named_path("--trainer.default_root_dir", trainer.default_root_dir))
        except InputError as error:
            return error.problems
        return []

    def _name_model(self) -> list[str]:
        """Write the lasting names of model and teacher into the flags, for checkpoints, ``config.yaml``, ``run.json``.

        Returns:
            A line for each reason why a name means no model.
        """
        model, problems = self.config.model, []
        try:
            model.model_name = self.config.data.model_name = lasting_name(model.model_name)
        except InputError as error:
            problems += [problem.replace("--model ", "--model.model_name ", 1) for problem in error.problems]
        try:
            model.teacher = lasting_teacher(model.teacher)
        except InputError as error:
            problems += error.problems
        return problems

    def instantiate_classes(self) -> None:
        """Make Trainer, module and data; refuse what cannot work together, all at once."""
        super().instantiate_classes()
        if problems := self._misfits():
            raise InputError(problems)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to TensorBoard, in the run's own folder, unless another logger is configured."""
        if self.config.trainer.logger in (None, True):
            kwargs["logger"] = CurveLogger(self.logs.parent, name=LOGS, default_hp_metric=False)
        bars = self.config.trainer.enable_progress_bar
        kwargs["enable_progress_bar"] = bool(bars) if bars is not None else self._has_bar or shows_bars()
        plugins = self.config_init.trainer.plugins or []
        checkpoints = AtomicCheckpointIO(background=True)
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), checkpoints]
        self.trainer_defaults["callbacks"] = self._default_callbacks(kwargs["enable_progress_bar"])
        trainer = super().instantiate_trainer(**kwargs)
        # Loggers that upload checkpoints look for the files as soon as they are saved.
        idle = (Logger.after_save_checkpoint, TensorBoardLogger.after_save_checkpoint)
        checkpoints.background = all(type(logger).after_save_checkpoint in idle for logger in trainer.loggers)
        if self.config.ema_decay is not None:
            trainer.callbacks.insert(0, RunningMean(self.config.ema_decay))  # type: ignore[attr-defined]
        if self._averaged:
            trainer.callbacks.insert(0, BestWeights(self._averaged))  # type: ignore[attr-defined]
        trainer.callbacks.insert(0, self.folder)  # type: ignore[attr-defined]
        return trainer

    @property
    def _has_bar(self) -> bool:
        """Whether a bar is among the callbacks of the flags."""
        chosen = self.config_init.trainer.callbacks or []
        return any(isinstance(one, ProgressBar) for one in (chosen if isinstance(chosen, list) else [chosen]))

    def _default_callbacks(self, bars: bool) -> list[Callback]:
        """Those of every run that go with the flags; without a bar lines in place of it."""
        callbacks = default_callbacks(interactive=bars)
        without: tuple[type[Callback], ...] = (ProgressBar,) if self._has_bar else ()
        if self.config.trainer.enable_checkpointing is False:
            without += (ModelCheckpoint,)
        return [callback for callback in callbacks if not isinstance(callback, without)]

    @property
    def _averaged(self) -> int | None:
        """How many of the best checkpoints are averaged; None for one alone, which is its own mean."""
        count: int | None = self.config.average_best
        return count if count is not None and count > 1 else None

    @property
    def logs(self) -> Path:
        """The folder that holds the runs."""
        return Path(self.config.trainer.default_root_dir or ".") / LOGS

    def _misfits(self) -> list[str]:
        """A line for each reason why the loaded model cannot be trained with these flags."""
        problems: list[str] = self.model.misfits(self.datamodule)
        problems += self.datamodule.batch_problems(self.trainer, self.model)
        return problems + self._trainer_misfits(self.trainer)

    def _trainer_misfits(self, trainer: Trainer) -> list[str]:
        """A line for each reason why a Trainer of these flags cannot train with them, whatever the model."""
        problems = graph_problems(trainer, self.config.model) + partial_problems(trainer, self.config.model)
        problems += callback_problems(
            trainer.callbacks,  # type: ignore[attr-defined]
            (*LOGGED, *LOGGED_WITH_UNANSWERABLE),
            trainer.limit_val_batches != 0,
            trainer.world_size,
            len(trainer.loggers),
        )
        problems += averaging_problems(trainer, self.config.ema_decay, self._averaged)
        averages = [one for one in trainer.callbacks if isinstance(one, WeightAveraging)]  # type: ignore[attr-defined]
        if self.beginning.averaged and not averages:
            problems.append(
                f"--ckpt_path: {self.beginning.checkpoint} holds a running mean of the weights beside them; pass the "
                "--ema_decay of its run's config.yaml, too"
            )
        for callback in averages:
            if callback._use_buffers:
                problems.append(
                    f"--trainer.callbacks {type(callback).__name__} averages buffers too, and averaged position ids "
                    "are wrong; pass --ema_decay instead, or --trainer.callbacks.use_buffers false"
                )
        return problems


class ParsedFlags(TrainCLI):
    """The flags of a training run, parsed and checked, for a command that has other processes train with them.

    Nothing is refused and nothing made here that takes the model.
    """

    def before_instantiate_classes(self) -> None:
        """Leave the problems to `problems`, which the command shows together with its own."""

    def instantiate_classes(self) -> None:
        """Make nothing."""

    def misfits(self) -> list[str]:
        """A line for each reason why there can be no Trainer of these flags, or why it cannot train with them.

        It is for flags that `problems` finds nothing wrong with. What depends on the model shows when it is loaded.
        Loggers are left out, as some begin an experiment when they are made.
        """
        config = self.config.clone()
        if config.trainer.logger is not False:
            config.trainer.logger = None
        choose_precision(config.trainer)
        try:
            with lightning_refusals(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what each run says anyway
                self.config_init = self.parser.instantiate_classes(config, instantiate_groups=False)
                trainer = self.instantiate_trainer()
        except InputError as error:
            return error.problems
        finds_batch_size = config.data.batch_size == AUTO
        problems = shape_problems(config.model, finds_batch_size) + self._trainer_misfits(trainer)
        if finds_batch_size:
            problems += AutoBatchSize(config.data.windows_per_step).problems(trainer, None)
        return problems

    def misfits_with(self, name: str, value: Any) -> list[str]:
        """The `misfits` where a flag, without dashes, has another value."""
        with self._given(name, value):
            return self.misfits()

    @contextmanager
    def _given(self, name: str, value: Any) -> Iterator[None]:
        config = self.config
        try:
            self.config = config.clone()
            self.config[name] = value
            yield
        finally:
            self.config = config

    def as_yaml(self) -> str:
        """All flags, as ``--config`` reads them."""
        text: str = self.parser.dump(self.config, skip_none=False)
        return text

    @property
    def names(self) -> list[str]:
        """The flags that take a value of their own, without dashes; ``callbacks+`` adds to those of another."""
        actions = self.parser._option_string_actions
        hints = [flag for flag, action in actions.items() if isinstance(action, ActionTypeHint)]
        return [flag[2:] for flag in hints if flag.startswith("--") and not flag.endswith("+")]

    def with_value(self, name: str, word: str) -> tuple[Any, list[str]]:
        """What a flag is with another value, and a line for each problem that the value brings.

        Args:
            name: the flag, without dashes.
            word: its value, as on the command line.
        """
        self.parser.exit_on_error = False
        try:
            value = self.parser.parse_args([f"--{name}={word}"])[name]
        except ArgumentError as error:
            problem = one_line(self.parser.problem(str(error)), 300)
            return None, [problem if name in problem else f"--{name}: {problem}"]
        finally:
            self.parser.exit_on_error = True
        before = self.problems()
        with self._given(name, value):
            return value, [problem for problem in self.problems() if problem not in before]


def choose_precision(trainer: Any) -> None:
    """Set the Trainer's flag of the precision, if it is open.

    Studies do so at their start, so that they write it down, and go on elsewhere in the same one.
    """
    if trainer.precision is None:
        trainer.precision = default_precision(str(trainer.accelerator))


def default_precision(accelerator: str) -> str:
    """bf16-mixed on GPUs that have it, fp16-mixed on older ones, float32 on a CPU."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
