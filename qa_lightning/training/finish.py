"""Ends a run: writes its model first, then validates it, fits threshold and temperature, and writes scores and figures.

If the fit ended with the validation of the best checkpoint, its answers are in memory and it is not validated again.
With ``--average_best``, the mean of the best checkpoints is validated first, and becomes the model if it is as good.
If a part fails after the weights are written, that part alone is missing, and a line says so.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, WeightAveraging
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from safetensors import SafetensorError

from qa_lightning.decoding.saved import write_spans
from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import DivergedError, InputError, one_line
from qa_lightning.files import write_json
from qa_lightning.layout import CONFIDENCE, CONFIDENCE_FOLDER, FOLD_ANSWERS, MODEL_FOLDER, RECORD, REPORT
from qa_lightning.metrics.calibration import TEMPERATURES
from qa_lightning.metrics.confidence import Confidence, coverage_line, figures, fit_confidence, fitted_lines
from qa_lightning.models.folder import check_replaced, save_model, save_settings, weights_digest
from qa_lightning.models.settings import AnswerSettings, Fitted
from qa_lightning.pages.questions import N_BEST
from qa_lightning.paths import named_path
from qa_lightning.runs.curves import how_to_see, last_step, log_figures, log_result
from qa_lightning.runs.record import mark_finished, run_folder
from qa_lightning.runs.resume import Beginning, read_beginning
from qa_lightning.runs.throughput import peak_memory
from qa_lightning.training.averages import BestWeights, MeanOfBest, load_weights, score_of, write_mean
from qa_lightning.training.callbacks import BestCheckpoint, EpochLines, say_scores
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.ended import RESUMING, place_of, why_it_ended
from qa_lightning.training.module import QALightningModule
from qa_lightning.training.scored import scored_questions
from qa_lightning.wording import command, command_words, relative, visible

log = logging.getLogger("qa_lightning")


def finish(
    trainer: Trainer,
    module: QALightningModule,
    data: SquadDataModule,
    keep_averaged: bool = False,
    resuming: str = RESUMING,
) -> None:
    """Write the model; then validate it and, on the first process, write its confidence and the run's scores.

    Args:
        trainer, module, data: of the run.
        keep_averaged: leave the weights that ``--average_best`` averaged.
        resuming: how the run is resumed, for messages.

    Raises:
        InputError: the model cannot be written.
        DivergedError: the logits of some questions are not numbers.
    """
    first = trainer.is_global_zero
    if first:
        log.info(f"\ntraining ended: {why_it_ended(trainer)}")
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        if first:
            log.info("--trainer.fast_dev_run writes nothing: no checkpoint, no model, no scores")
        return
    run = run_folder(trainer)
    best, weights = _weights(trainer)
    assert data.validation_set is not None
    settings = module.answer_settings
    folder = run / MODEL_FOLDER if run is not None and first else None
    if folder is not None:
        _save(module, data, settings, folder, weights, resuming)
    mean = _mean(trainer, module, data, best)
    taken = mean is not None and mean.taken
    if mean is not None and taken and folder is not None:
        _save(module, data, settings, folder, load_weights(mean.path), resuming)
    scored = taken or _is_scored(trainer, module, data, best, weights)
    del weights
    if folder is None:
        return
    scores: dict[str, float] = {}
    if scored:
        settings = _rate(trainer, module, data, settings, folder)
        _write_report(module, data, settings, folder)
        if data.fold is not None:
            _keep_answers(module, folder.parent / FOLD_ANSWERS, resuming)
        names = [name for name in ("exact_match", "f1", "best_f1") if f"val/{name}" in trainer.callback_metrics]
        scores = {name: float(trainer.callback_metrics[f"val/{name}"]) for name in names}
    elif trainer.limit_val_batches == 0 and not data.trains_on_all:  # a cross-validation has scored the others
        log.info("--trainer.limit_val_batches 0: no validation, so no scores and no fitted threshold or temperature")
    _record(trainer, module, data, folder, best, scores, mean)
    _remove_averaged(trainer, mean, keep_averaged)
    shown = relative(folder)
    what = "the best checkpoint is" if best else f"the weights after step {trainer.global_step} are"
    if mean is not None and mean.taken:
        what = f"the mean of the {len(mean.steps)} best checkpoints is"
    log.info(f"\n{what} written as a model for transformers: {shown}")
    if (folder.parent / REPORT).is_file():
        log.info(f"report:    {relative(folder.parent / REPORT)}")
    for place in how_to_see(trainer.loggers, relative):
        log.info(f"curves:    {place}")
    with _optional("question to ask"):
        log.info(f"ask it:    {ask_command(shown, *_sample(data))}")


def _save(
    module: QALightningModule,
    data: SquadDataModule,
    settings: AnswerSettings,
    folder: Path,
    weights: dict[str, Any],
    resuming: str,
) -> None:
    try:
        save_model(module.model, data.tokenizer, settings, folder, weights, "model.")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"the model could not be written to {relative(folder)} ({error}); free some space or make the folder "
            f"writable, then resume {resuming} to write it"
        ) from None


def _record(
    trainer: Trainer,
    module: QALightningModule,
    data: SquadDataModule,
    folder: Path,
    best: str | None,
    scores: dict[str, float],
    mean: MeanOfBest | None,
) -> None:
    """Write the scores into the loggers' tables and into ``run.json``."""
    with _optional("table of this run's result"):
        result = (folder.parent.name, _result_settings(trainer, module, data), scores, last_step(trainer))
        begun = read_beginning(Path(best)) if best else None
        is_last = isinstance(begun, Beginning) and begun.step == trainer.global_step
        is_last = is_last and not (mean is not None and mean.taken)
        for logger in trainer.loggers:
            log_result(logger, *result, is_last)
    measured: dict[str, float] = {}
    with _optional("figures about speed and memory"):
        measured = _measured(trainer, best)
    with _optional("record of the end of the run"):
        recorded = {f"best/{name}": score for name, score in scores.items()}
        average = mean.as_json() if mean is not None else None
        mark_finished(folder.parent / RECORD, recorded, weights_digest(folder), measured, average, best is not None)


def _measured(trainer: Trainer, best: str | None) -> dict[str, float]:
    """What the run measured of itself, for its record; without what is not known."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    begun = read_beginning(Path(best)) if best else None
    epoch = begun.epoch + 1 if isinstance(begun, Beginning) and begun.step else 0
    measured = {
        "best_epoch": epoch,
        "windows_per_second": sum(one.windows_per_second for one in callbacks if isinstance(one, EpochLines)),
        "peak_memory_bytes": peak_memory(trainer.strategy.root_device),
    }
    return {name: value for name, value in measured.items() if value}


def save_checkpoint_as_model(path: Path, output: Path | None = None, overwrite: bool = False) -> Path:
    """Write the weights of a checkpoint as a model for transformers; returns the folder.

    Args:
        path: a checkpoint of a run. It brings how the model is asked; the threshold and temperature that a run fits at
            its end are not in it.
        output: the folder to write; None: the checkpoint's name without its ending, beside it.
        overwrite: replace a folder that is there.

    Raises:
        InputError: the checkpoint cannot be read, or the folder cannot be written or is there.
    """
    path = named_path("--model", path)
    folder = named_path("--output", output or path.with_suffix(""))
    if os.path.lexists(folder):
        if not overwrite:
            raise InputError(f"--output {folder} is there; pass --overwrite to replace it, or another folder")
        check_replaced(folder, path, "the checkpoint itself")
    begun = read_beginning(path, resumes=False)
    if isinstance(begun, str):
        raise InputError(f"--model {path}: {begun}")
    QALightningModule.load_from_checkpoint(path, map_location="cpu", weights_only=True).save(folder)
    log.info(f"written to {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    log.info(
        "its threshold and temperature are not fitted, as a run does at its end: "
        f"`{command('evaluate')} --model {folder} --data FILE --output_dir scores` fits them"
    )
    return folder


def _weights(trainer: Trainer) -> tuple[str | None, dict[str, Any]]:
    """The file of the best checkpoint, None without one, and the weights to write: its own, or the current ones.

    Every process must call it, and gets the same file; weights are of use on the first process alone.
    """
    found = next((one for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint)), None)
    path = found.best_model_path if found is not None and Path(found.best_model_path).is_file() else None
    weights: dict[str, Any] = {}
    if path and trainer.is_global_zero:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        except Exception as error:  # a damaged file can raise anything in the zip and pickle readers
            log.warning(f"{relative(Path(path))} cannot be read ({type(error).__name__}: {error})")
            path = None
    path = trainer.strategy.broadcast(path)
    if path:
        return path, weights
    if trainer.is_global_zero and trainer.limit_val_batches != 0:
        log.warning("there is no best checkpoint: the current weights are written instead")
    return None, trainer.strategy.lightning_module_state_dict()


def _mean(trainer: Trainer, module: QALightningModule, data: SquadDataModule, best: str | None) -> MeanOfBest | None:
    """Average the best checkpoints, if that was asked for, and validate the mean.

    Every process must call it, and gets the same; None if there is no mean, or it could not be validated.
    """
    mean: MeanOfBest | str | None = None
    if best is not None and trainer.is_global_zero:
        with _optional("mean of the best checkpoints"):
            mean = write_mean(trainer, module, Path(best))
    mean = trainer.strategy.broadcast(mean)
    if isinstance(mean, str) and trainer.is_global_zero:
        log.info(mean)
    if not isinstance(mean, MeanOfBest) or not _validate(trainer, module, data, str(mean.path)):
        return None
    mean = replace(mean, score=score_of(trainer))
    if trainer.is_global_zero:
        log.info(mean.line(trainer))
    return mean


def _remove_averaged(trainer: Trainer, mean: MeanOfBest | None, keep: bool) -> None:
    """Remove the mean's checkpoint, and the weights that it is of unless they are to be kept."""
    with _optional("removal of averaged weights"):
        if mean is not None:
            mean.path.unlink(missing_ok=True)
        for one in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(one, BestWeights) and not keep:
                one.remove()


def _is_scored(
    trainer: Trainer, module: QALightningModule, data: SquadDataModule, best: str | None, weights: dict[str, Any]
) -> bool:
    """Have the scores of the best checkpoint, or of the current weights, in memory; returns whether that was possible.

    Args:
        trainer, module, data: of the run.
        best, weights: see `_weights`.
    """
    if _is_in_memory(trainer, module, best, weights):
        say_scores(trainer, "best checkpoint")
        return True
    return _validate(trainer, module, data, best)


def _is_in_memory(trainer: Trainer, module: QALightningModule, best: str | None, weights: dict[str, Any]) -> bool:
    """Whether the fit's last validation was that of the best checkpoint, with all that its report and fit need.

    Every process gets the same answer. Sharded weights are always validated, and averages that are taken at the end of
    an epoch: they are taken between the validation and the checkpoint.

    Args:
        trainer, module: of the run.
        best, weights: see `_weights`.
    """
    strategy, callbacks = trainer.strategy, trainer.callbacks  # type: ignore[attr-defined]
    plain = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)
    epoch = trainer.current_epoch - 1  # the last one
    averaged = any(isinstance(one, WeightAveraging) and one.should_update(epoch_idx=epoch) for one in callbacks)
    if best is None or not plain or averaged or module.last_step != trainer.global_step:
        return False
    same = False
    if trainer.is_global_zero:
        begun, own = read_beginning(Path(best)), module.state_dict()
        same = isinstance(begun, Beginning) and begun.step == module.last_step and own.keys() == weights.keys()
        same = same and all(torch.equal(own[name].cpu(), weights[name]) for name in own)
    return bool(strategy.broadcast(same))


def _validate(trainer: Trainer, module: QALightningModule, data: SquadDataModule, best: str | None) -> bool:
    """Validate the best checkpoint, or the current weights; returns whether that came to its end."""
    loggers, kept = trainer.loggers, module.n_best
    trainer.loggers = []  # the curves already hold these scores
    module.n_best = max(kept, N_BEST)  # the report shows them
    module.temperatures = tuple(TEMPERATURES.tolist())
    done = False
    try:
        with _optional("validation of the model", among=trainer.world_size), only_validating(trainer):
            trainer.validate(module, data, ckpt_path=best, verbose=False, weights_only=True)
            done = module.outcomes is not None
    finally:
        trainer.loggers, module.n_best = loggers, kept
    return done


def _rate(
    trainer: Trainer, module: QALightningModule, data: SquadDataModule, settings: AnswerSettings, folder: Path
) -> AnswerSettings:
    """Fit threshold and temperature, and write them into the model's settings; log, draw and write what they gain.

    Returns:
        The settings that the model has now: those that it had, if the fit failed.
    """
    assert module.outcomes is not None
    assert data.validation_set is not None
    seen, there = len(module.outcomes), len(data.validation_set.examples)
    if seen < there:
        log.info(f"scores, threshold and temperature are those of {seen:,} of {there:,} questions, for the limits")
    with _optional("threshold and temperature"):
        found = fit_confidence(module.outcomes, settings.version_2, Scaling(threshold=module.threshold))
        fitted = Fitted(found.scaling, settings.version_2, data.fingerprint("validation"), found.scores_at_precision)
        save_settings(settings.fitted(fitted), folder)
        settings = settings.fitted(fitted)
        for line in (*fitted_lines(found), coverage_line(found)):
            log.info(line)
        _draw(trainer, found, folder.parent / CONFIDENCE_FOLDER)
    return settings


def _write_report(module: QALightningModule, data: SquadDataModule, settings: AnswerSettings, folder: Path) -> None:
    """Write the report of the model's errors beside it."""
    with _optional("report of errors"):
        from qa_lightning.pages.report import ErrorReport

        source = str(data.prepared("validation").source)
        fitted = settings.is_fitted_to(data.fingerprint("validation"))
        scored = scored_questions(str(relative(folder)), source, module, data, settings, fitted)
        ErrorReport(scored).write(folder.parent / REPORT)


def _keep_answers(module: QALightningModule, path: Path, resuming: str) -> None:
    """Write the answers to the fold that was held out, which a cross-validation joins with those to the others."""
    assert module.predictions is not None
    ids = [answer.id for _, _, answer in module.predictions.rows()]
    try:
        write_spans(path, ids, module.predictions.spans)
    except OSError as error:
        raise InputError(
            f"the answers to the fold could not be written to {relative(path)} ({error}); free some space, then resume "
            f"{resuming} to write them"
        ) from None


def _draw(trainer: Trainer, found: Confidence, folder: Path) -> None:
    """Draw and write how far the model's scores can be trusted."""
    with _optional("figures about confidence"):
        write_json(folder / CONFIDENCE, found.as_json())
    with _optional("figures"):
        from qa_lightning.metrics import plots  # matplotlib takes a second to import

        drawn = plots.draw(figures(found))
        plots.save(drawn, folder)
        for logger in trainer.loggers:
            log_figures(logger, "val_confidence", drawn, last_step(trainer))


def _result_settings(trainer: Trainer, module: QALightningModule, data: SquadDataModule) -> dict[str, Any]:
    """The settings in a table of runs; TensorBoard shows the first five by name, which are those that matter most."""
    return {
        **_step_size(data, trainer.world_size * data.accumulated),
        "epochs": trainer.current_epoch,
        **{name: module.hparams[name] for name in ("layer_decay", "learning_rate")},
        "model": str(module.hparams["model_name"]),
        "seed": data.seed,
        "tokens_a_window": data.settings.max_length,
        **{name: module.hparams[name] for name in ("warmup_ratio", "weight_decay")},
    }


def _step_size(data: SquadDataModule, parts: int) -> dict[str, int]:
    """Windows, or the most tokens, of an optimizer step of so many batches."""
    tokens = data.tokens_per_batch
    return {"batch_size": parts * data.batch_size} if tokens is None else {"batch_tokens": parts * tokens}


@contextmanager
def _optional(what: str, among: int = 1) -> Iterator[None]:
    """A part of the end that may fail: a log line says that it is missing, and the run goes on.

    Args:
        what: the part, for the line.
        among: number of processes that do this part together; if there are several, the failure is raised too, because
            the others would wait for this one without end.
    """
    try:
        yield
    except DivergedError:
        raise
    except Exception as error:
        reason = one_line(error)
        if not isinstance(error, (InputError, OSError)):
            reason = f"{type(error).__name__}: {reason}, in {place_of(error)}"
        log.warning(f"no {what}: {reason}; the model is written all the same")
        if among > 1:
            raise


@contextmanager
def only_validating(trainer: Trainer) -> Iterator[None]:
    """Within, ``trainer.validate`` does that alone: what belongs to training is not done again.

    Lightning's finder of batch sizes looks for one before every validation of its own, and a profiler would report
    twice.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    profiler = trainer.profiler  # type: ignore[attr-defined]
    trainer.callbacks = [one for one in callbacks if not isinstance(one, BatchSizeFinder)]  # type: ignore[attr-defined]
    trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        trainer.callbacks, trainer.profiler = callbacks, profiler  # type: ignore[attr-defined]


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


def ask_command(model: Path, question: str, context: str) -> str:
    """The command that asks a model a question, quoted for a shell, on one line."""
    question, context = (visible(" ".join(text.split())) for text in (question, context))
    return shlex.join([*command_words("predict"), "--model", str(model), "--question", question, "--context", context])
