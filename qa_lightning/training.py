"""The training run: flags and config to Trainer, module and data; fit; the best model written out."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from qa_lightning.callbacks import RunRecord, default_callbacks
from qa_lightning.checkpoints import AtomicCheckpointIO, resolve_checkpoint
from qa_lightning.cli import ask_command
from qa_lightning.datamodule import SquadDataModule, data_problems
from qa_lightning.errors import DivergedError, InputError
from qa_lightning.export import save_model
from qa_lightning.memory import keep_freed_memory
from qa_lightning.models import max_positions
from qa_lightning.module import QALightningModule, model_problems
from qa_lightning.pipeline import AnswerSettings
from qa_lightning.signals import StopSignals

log = logging.getLogger("qa_lightning")

LOGS = "lightning_logs"
COMPILED_MULTIPLE = 8  # lengths that compiled kernels need no second version for


class TrainCLI(LightningCLI):
    """Flags, ``--config`` files and their defaults for `QALightningModule`, `SquadDataModule` and the Trainer.

    Args:
        args: flags; None takes the command line's.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(
            QALightningModule,
            SquadDataModule,
            args=args,
            run=False,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "max_epochs": 3,
                "devices": 1,
                "gradient_clip_val": 1.0,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
                "enable_progress_bar": sys.stdout.isatty(),
                "callbacks": default_callbacks(interactive=sys.stdout.isatty()),
            },
            parser_kwargs={
                "prog": "train.py",
                "usage": "train.py [--help] [--config FILE] [--GROUP.FLAG VALUE ...]",
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the flags of the run itself, and tie those that must agree."""
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to go on from; `last` is that of the newest run here, which then goes on in its folder.",
        )
        parser.add_argument(
            "--validate_first",
            type=bool,
            default=False,
            help="Whether to validate before the first step too.",
        )
        parser.link_arguments("model.model_name", "data.model_name")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def before_instantiate_classes(self) -> None:
        """Refuse bad flags, all at once; choose what was left open: precision, checkpoint, the folder to log to."""
        trainer, model, data = self.config.trainer, self.config.model, self.config.data
        counts = (
            "batch_size",
            "eval_batch_size",
            "pad_to_multiple_of",
            "max_train_examples",
            "max_validation_examples",
        )
        problems = data_problems(
            data.dataset, data.validation, data.validation_fraction, {name: data[name] for name in counts}
        )
        problems += model_problems(
            model.learning_rate, model.weight_decay, model.warmup_ratio, model.max_answer_length, model.n_best
        )
        if problems:
            raise InputError(problems)
        if model.compile and data.pad_to_multiple_of == 1:
            data.pad_to_multiple_of = COMPILED_MULTIPLE
        if trainer.precision is None:
            trainer.precision = default_precision(str(trainer.accelerator))
        root = Path(trainer.default_root_dir or ".")
        self.ckpt_path = resolve_checkpoint(self.config.ckpt_path, root / LOGS)
        self._version = (
            self.ckpt_path.parent.parent.name if self.config.ckpt_path == "last" and self.ckpt_path else None
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to TensorBoard, in the resumed run's own folder, unless another logger is configured."""
        root = Path(self.config.trainer.default_root_dir or ".")
        if self.config.trainer.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(root, name=LOGS, version=self._version, default_hp_metric=False)
        plugins = self.config_init.trainer.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def run(self) -> int:
        """Fit, validate the best checkpoint, write the model. Returns the exit status."""
        limit = max_positions(self.model.model)
        if limit and self.datamodule.settings.max_length > limit:
            raise InputError(
                f"--data.max_length {self.datamodule.settings.max_length} is more than the {limit} positions of "
                f"{self.config.model.model_name}; pass --data.max_length {limit} or less"
            )
        self._announce()
        seed = int(self.config.seed_everything)
        self.trainer.callbacks.append(RunRecord(seed, self.ckpt_path))  # type: ignore[attr-defined]
        if self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        try:
            with _explained_compiler_failure():
                if self.config.validate_first and not self.ckpt_path:
                    self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
                self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.ckpt_path, weights_only=True)
                self._finish()
        except DivergedError as error:
            last = self._checkpoint(monitor=None).best_model_path
            where = f"the weights before this step are in {_relative(Path(last))}" if last else "nothing is saved yet"
            raise DivergedError(f"{error}; {where}") from None
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            raise InputError(self._out_of_memory(error)) from None
        except SystemExit:  # how Lightning ends on a signal; its own status would read as success
            return self._stopped()
        return 0

    def _out_of_memory(self, error: RuntimeError) -> list[str]:
        """What ran out, and the flags that help, with values."""
        batch, accumulated = self.datamodule.batch_size, self.trainer.accumulate_grad_batches
        half = max(1, batch // 2)
        problems = [
            f"out of memory at step {self.trainer.global_step} with --data.batch_size {batch}, --data.max_length "
            f"{self.datamodule.settings.max_length}, --data.eval_batch_size {self.datamodule.eval_batch_size} "
            f"({' '.join(str(error).split())[:200]}). What helps:"
        ]
        if batch > 1:
            problems.append(
                f"--data.batch_size {half} --trainer.accumulate_grad_batches {accumulated * -(-batch // half)}: the "
                "same number of windows a step, in smaller pieces"
            )
        if str(self.trainer.precision).startswith("32"):
            problems.append("--trainer.precision bf16-mixed: activations take half the memory")
        if self.datamodule.settings.max_length > 256:
            problems.append("--data.max_length 256 --data.doc_stride 64: shorter windows")
        if self.datamodule.eval_batch_size > batch:
            problems.append(f"--data.eval_batch_size {batch}: if it happened in validation")
        return problems

    def _stopped(self) -> int:
        """Say what stopped the run and how it goes on; returns the status that schedulers and shells expect."""
        stops = (callback for callback in self.trainer.callbacks if isinstance(callback, StopSignals))  # type: ignore[attr-defined]
        interrupted = any(callback.interrupted for callback in stops) or not self.trainer.received_sigterm
        if self.trainer.is_global_zero:
            last = self._checkpoint(monitor=None).best_model_path
            saved = f"saved to {_relative(Path(last))}; go on with --ckpt_path last" if last else "nothing is saved yet"
            cause = "Ctrl-C" if interrupted else "SIGTERM"
            log.info(f"\nstopped by {cause} after step {self.trainer.global_step}: {saved}")
        return 128 + (signal.SIGINT if interrupted else signal.SIGTERM)

    def _checkpoint(self, monitor: str | None) -> ModelCheckpoint:
        """The callback that keeps the checkpoint which is best by ``monitor``, or the last one."""
        return next(
            callback
            for callback in self.trainer.checkpoint_callbacks
            if isinstance(callback, ModelCheckpoint) and callback.monitor == monitor
        )

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
            f"steps: {trainer.world_size} devices x {data.batch_size} windows x {trainer.accumulate_grad_batches} "
            f"accumulated = {trainer.world_size * data.batch_size * trainer.accumulate_grad_batches} windows a step, "
            f"{trainer.max_epochs} epochs"
        )
        if self.ckpt_path:
            log.info(f"going on from {self.ckpt_path}")

    def _finish(self) -> None:
        trainer = self.trainer
        best = self._checkpoint("val/f1")
        loggers = trainer.loggers
        trainer.loggers = []  # the curves hold the best checkpoint's point already
        path: str | None = best.best_model_path
        if not trainer.strategy.broadcast(Path(best.best_model_path).is_file()):
            log.warning("there is no best checkpoint: the model as it is now is written")
            path = None
        trainer.validate(self.model, self.datamodule, ckpt_path=path, verbose=False, weights_only=True)
        trainer.loggers = loggers
        log_dir = trainer.log_dir  # asks the other processes too, so all must come by here
        if not trainer.is_global_zero or log_dir is None:
            return
        folder = Path(log_dir) / "model"
        version_2 = self.datamodule.validation_set.version_2
        settings = AnswerSettings(
            **asdict(self.datamodule.settings),
            max_answer_length=self.model.max_answer_length,
            version_2=version_2,
            null_score_diff_threshold=self.model.threshold,
        )
        save_model(self.model.model, self.datamodule.tokenizer, settings, folder)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                scores = {
                    f"best/{name}": float(trainer.callback_metrics[f"val/{name}"]) for name in ("exact_match", "f1")
                }
                logger.log_hyperparams(dict(self.model.hparams) | dict(self.datamodule.hparams), scores)
        shown = _relative(folder)
        log.info(f"\nthe best checkpoint is written as a model for transformers: {shown}")
        log.info(f"curves:    tensorboard --logdir {_relative(Path(log_dir).parent)}")
        question, context = self._sample()
        log.info(f"ask it:    {ask_command(shown, question, context)}")

    def _sample(self) -> tuple[str, str]:
        """The validation question whose context is shortest, among the first hundred."""
        examples = self.datamodule.validation_set.examples
        rows = [examples[row] for row in range(min(100, len(examples)))]
        row = min(
            (row for row in rows if row["answers"]["text"]),
            key=lambda row: len(row["context"]),
            default=rows[0],
        )
        return row["question"].strip(), row["context"]


@contextmanager
def _explained_compiler_failure() -> Iterator[None]:
    from torch._dynamo.exc import BackendCompilerFailed  # imported late: --help does not wait for it

    try:
        yield
    except BackendCompilerFailed as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--model.compile true: torch.compile does not work here ({reason}); it needs a C++ compiler, and Triton "
            "on a GPU. Install what is missing, or leave the flag out"
        ) from None


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def default_precision(accelerator: str) -> str:
    """bf16-mixed on GPUs that have it, fp16-mixed on older ones, float32 on a CPU."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _relative(path: Path) -> Path:
    absolute = path.resolve()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute
