"""Ends a run: validates the best checkpoint, fits its threshold and temperature, and writes it as a model."""

from __future__ import annotations

import logging
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors import SafetensorError

from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import InputError
from qa_lightning.files import write_json
from qa_lightning.metrics.calibration import TEMPERATURES
from qa_lightning.metrics.confidence import Confidence, coverage_line, figures, fit_confidence, fitted_lines
from qa_lightning.models.folder import save_model, weights_digest
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.runs.record import mark_finished
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.module import QALightningModule
from qa_lightning.wording import command_words

log = logging.getLogger("qa_lightning")


def finish(trainer: Trainer, module: QALightningModule, data: SquadDataModule) -> None:
    """Validate the best checkpoint; on the first process, write the model, its confidence and the run's scores.

    Raises:
        InputError: the model cannot be written.
    """
    _validate_best(trainer, module, data)
    # Both are collective calls: every process makes them, and only then the others return.
    log_dir, weights = trainer.log_dir, trainer.strategy.lightning_module_state_dict()
    if not trainer.is_global_zero or log_dir is None:
        return
    assert module.outcomes is not None
    assert data.validation_set is not None
    version_2 = data.validation_set.version_2
    found = fit_confidence(module.outcomes, version_2, Scaling(threshold=module.threshold))
    folder = Path(log_dir) / "model"
    settings = AnswerSettings(
        **asdict(data.settings),
        max_answer_length=module.max_answer_length,
        version_2=version_2,
        null_score_diff_threshold=found.scaling.threshold,
        temperature=found.scaling.temperature,
        fitted_to=data.fingerprint("validation"),
    )
    try:
        save_model(module.model, data.tokenizer, settings, folder, weights, "model.")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"the model could not be written to {relative(folder)} ({error}); free some space or make the folder "
            "writable, then resume with --ckpt_path last to write it"
        ) from None
    _report(trainer, found, Path(log_dir) / "confidence")
    names = [name for name in ("exact_match", "f1", "best_f1") if f"val/{name}" in trainer.callback_metrics]
    scores = {f"best/{name}": float(trainer.callback_metrics[f"val/{name}"]) for name in names}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(module.hparams) | dict(data.hparams), scores)
            logger.experiment.flush()  # so that a finished run's files never change again
    mark_finished(Path(log_dir) / "run.json", scores, weights_digest(folder))
    shown = relative(folder)
    log.info(f"\nthe best checkpoint is written as a model for transformers: {shown}")
    log.info(f"curves:    tensorboard --logdir {relative(Path(log_dir).parent)}")
    log.info(f"ask it:    {ask_command(shown, *_sample(data))}")


def _validate_best(trainer: Trainer, module: QALightningModule, data: SquadDataModule) -> None:
    best = next(one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint))
    loggers = trainer.loggers
    trainer.loggers = []  # the curves already hold the best checkpoint's scores
    path: str | None = best.best_model_path
    if not trainer.strategy.broadcast(Path(best.best_model_path).is_file()):
        log.warning("there is no best checkpoint: the current weights are written instead")
        path = None
    module.temperatures = tuple(TEMPERATURES.tolist())
    trainer.validate(module, data, ckpt_path=path, verbose=False, weights_only=True)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        # After validating it put the training weights back; this copies the averaged ones in again.
        if isinstance(callback, WeightAveraging):
            callback.on_train_end(trainer, module)
    trainer.loggers = loggers


def _report(trainer: Trainer, found: Confidence, folder: Path) -> None:
    """Log, draw and write how far the model's scores can be trusted; a failed write is only a warning."""
    for line in (*fitted_lines(found), coverage_line(found.coverage)):
        log.info(line)
    from qa_lightning.metrics import plots  # matplotlib takes a second to import

    drawn = figures(found)
    try:
        plots.save(drawn, folder)
        write_json(folder / "confidence.json", found.as_json())
    except (InputError, OSError) as error:
        log.warning(f"the figures were not written: {error}")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, figure in drawn.items():
                logger.experiment.add_figure(f"confidence/{name}", figure, trainer.global_step, close=False)


def _sample(data: SquadDataModule) -> tuple[str, str]:
    """Question and context of an answerable example: the shortest context among the first 100 for validation."""
    assert data.validation_set is not None
    examples: Any = data.validation_set.examples
    rows = [examples[row] for row in range(min(100, len(examples)))]
    row = min(
        (row for row in rows if row["answers"]["text"]),
        key=lambda row: len(row["context"]),
        default=rows[0],
    )
    return row["question"].strip(), row["context"]


def relative(path: Path) -> Path:
    """``path`` relative to the current folder if it is below it, else absolute."""
    absolute = path.resolve()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def ask_command(model: Path, question: str, context: str) -> str:
    """The command that asks a model a question, quoted for a shell."""
    return shlex.join([*command_words("predict"), "--model", str(model), "--question", question, "--context", context])
