"""Score a trained model on data with answers, as a validation in training does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from qa_lightning.data.columns import ReadSettings
from qa_lightning.data.examples import OnBadRows
from qa_lightning.decoding.predictions import Predictions
from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import InputError
from qa_lightning.evaluation.result import ScoreResult
from qa_lightning.features.batching import Batch
from qa_lightning.features.defaults import DTYPES, EVAL_BATCH_SIZE
from qa_lightning.metrics.calibration import TEMPERATURES
from qa_lightning.metrics.confidence import fit_confidence
from qa_lightning.metrics.outcomes import Outcomes
from qa_lightning.metrics.squad import MixedScript
from qa_lightning.metrics.thresholds import squad_v2_metrics
from qa_lightning.models.computing.attention import without_reads
from qa_lightning.models.computing.loss import span_loss
from qa_lightning.models.computing.memory import is_out_of_memory
from qa_lightning.models.ensemble import Ensemble, load_asked, models_of, settings_of
from qa_lightning.models.loading import lasting_names, max_positions, model_names
from qa_lightning.models.onnx import is_onnx_folder
from qa_lightning.models.settings import AnswerSettings, Fitted
from qa_lightning.models.threshold_file import read_threshold_file, threshold_file
from qa_lightning.runs.watching import ValidationProgress
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.module import QALightningModule
from qa_lightning.training.scored import scored_questions
from qa_lightning.wording import command, wrong_choice

log = logging.getLogger("qa_lightning")

_N_BEST = 20  # candidates of a question in nbest_predictions.json, as the official scripts write them


def score_model(
    name: str,
    data: str,
    batch_size: int = EVAL_BATCH_SIZE,
    max_examples: int | None = None,
    mixed_script: bool | MixedScript = False,
    reading: ReadSettings = ReadSettings(),  # noqa: B008 - frozen
    on_bad_rows: OnBadRows = "error",
    thresholds: Path | None = None,
    lengths: Mapping[str, int] | None = None,
    dtype: str = DTYPES[0],
) -> ScoreResult:
    """Answer the questions of ``data`` as a validation in training does, and score the answers.

    Args:
        name: folder of a trained model, or its name on the Hub; several, with commas between them, answer together.
        data: file or dataset.
        batch_size: windows per step.
        max_examples: score only this many questions, the first ones.
        mixed_script: see `squad.Scoring`.
        reading: names of the data's columns, if they are not the usual ones; encoding, separator of answers.
        on_bad_rows: see `SquadDataModule`; but an answer with a wrong offset is not a bad one, because EM and F1
            compare texts.
        thresholds: a file with threshold and temperature, which replace the model's own.
        lengths: ``max_length``, ``doc_stride``, ``max_question_length`` or ``max_answer_length`` -> tokens, in place of
            the model's own.
        dtype: one of `DTYPES`, the number type that the model computes in; losses and scores have float32 or more.

    Raises:
        InputError: the model is an ONNX export, or the model, the data or ``thresholds`` cannot be read; or several
            models do not read the same windows.
    """
    if dtype not in DTYPES:
        raise InputError(wrong_choice("--dtype", dtype, DTYPES))
    name = _scorable(name, data)
    model, tokenizer, saved, settings = _loaded(name, thresholds, lengths or {}, dtype)
    datamodule = SquadDataModule(
        dataset=None,
        validation=data,
        model_name=model_names(name)[0],
        **{field: getattr(settings, field) for field in ("max_length", "doc_stride", "max_question_length")},
        eval_batch_size=batch_size,
        max_validation_examples=max_examples,
        on_bad_rows=on_bad_rows,
        columns=reading.columns,
        encoding=reading.encoding,
        answer_separator=reading.answer_separator or "",
    )
    if isinstance(model, Ensemble):
        datamodule.tokenizer = tokenizer  # has what each of its models takes
    fingerprint = datamodule.fingerprint("validation")  # as in training, where offsets matter
    fitted_here = settings.is_fitted_to(*datamodule.fingerprints("validation"))
    datamodule.texts_alone = True
    module = _validated(model_names(name)[0], model, datamodule, settings, mixed_script)
    assert module.predictions is not None
    if module.predictions.version_2 and not saved.version_2:
        log.info(f"note: {name} was not trained to say that there is no answer, but {data} has questions without one")
    if saved.version_2 and not module.predictions.version_2:
        log.info(
            f"note: every question of {data} has an answer, so that {name} is scored as a model that always answers; "
            '`predict` may say "no answer" to some of them'
        )
    if fitted_here:
        log.info(
            f"note: threshold and temperature were fitted to {data} itself, so the scores, the coverage and the "
            "calibration error before refitting are better here than on other questions"
        )
    scored = scored_questions(name, data, module, datamodule, settings, fitted_here)
    assert module.outcomes is not None
    result = result_of(module.predictions, module.outcomes, module.scores, settings.scaling)
    result = replace(result, scored=scored)
    assert result.confidence is not None
    found = result.confidence
    version_2 = settings.version_2 or module.predictions.version_2
    fitted = Fitted(found.scaling, version_2, fingerprint, found.scores_at_precision)
    return replace(result, threshold_file=threshold_file(fitted, name, data))


def check_model(name: str, data: str) -> None:
    """Refuse a model that `score_model` could not score, before another one is scored for minutes.

    Args:
        name, data: see `score_model`.

    Raises:
        InputError: see `score_model`.
    """
    _loaded(_scorable(name, data), None, {})


def _scorable(name: str, data: str) -> str:
    """The lasting name of a model, or of several, none of which is an ONNX export."""
    name = lasting_names(name)
    if exports := [one for one in model_names(name) if is_onnx_folder(one)]:
        raise InputError(
            f"--model {exports[0]} is an ONNX export, which validation cannot run; answer the questions with "
            f"`{command('predict')} --model {name} --input {data} --output answers.jsonl`, and score the answers with "
            f"`{command('evaluate')} --predictions answers.jsonl --data {data}`"
        )
    return name


def _loaded(
    name: str, thresholds: Path | None, lengths: Mapping[str, int], dtype: str = DTYPES[0]
) -> tuple[Any, Any, AnswerSettings, AnswerSettings]:
    """A model or an ensemble, tokenizer, the settings that it was saved with, and those that it is asked with here.

    It is loaded as `Reader` loads it, and a head that was never trained is refused. What stays in float32 is decided by
    transformers: Lightning would round the frequencies of rotary embeddings, too.

    Raises:
        InputError: the model or the file of thresholds cannot be read, or windows are longer than the model takes.
    """
    model, tokenizer = load_asked(name, getattr(torch, dtype), lengths=lengths)
    saved = settings_of(model, tokenizer)
    changed: Any = lengths
    settings = replace(saved.fitted(read_threshold_file(thresholds, name)) if thresholds else saved, **changed)
    if (positions := max_positions(model)) and settings.max_length > positions:
        raise InputError(f"--data.max_length {settings.max_length}: the model has {positions} positions")
    return model, tokenizer, saved, settings


class _EnsembleModule(QALightningModule):
    """Validates an ensemble, which must be put into ``model``."""

    def setup(self, stage: str) -> None:
        """As for one model."""
        super().setup(stage)
        if self.trainer.strategy.root_device.type == "cuda":
            for model in models_of(self.model):
                without_reads(model)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """As for one model; the loss is the mean of those of the models."""
        start, end = self(batch)
        losses = [span_loss(*logits, batch) for logits in zip(start.unbind(-1), end.unbind(-1), strict=True)]
        assert self._decoder is not None
        self._decoder.add_batch(batch, start, end, torch.stack(losses).mean(0))


def _validated(
    name: str,
    model: Any,
    datamodule: SquadDataModule,
    settings: AnswerSettings,
    mixed_script: bool | MixedScript,
) -> QALightningModule:
    """Validate a model; its module then holds predictions, outcomes and scores.

    Args:
        name: of the model, or of the first one of an ensemble.
        model: as it is loaded.
        datamodule, settings, mixed_script: see `score_model`.
    """
    kind = _EnsembleModule if isinstance(model, Ensemble) else QALightningModule
    module = kind(
        name,
        max_answer_length=settings.max_answer_length,
        n_best=_N_BEST,
        null_score_diff_threshold=settings.null_score_diff_threshold,
        mixed_script=mixed_script,
    )
    module.model = model
    if isinstance(model, Ensemble):
        module.temperatures_of_models = settings.scaling.of_models
    module.temperature, module.temperatures = settings.temperature, tuple(TEMPERATURES)
    module.calibrator = settings.scaling.calibrator
    trainer = Trainer(
        callbacks=[ValidationProgress()],
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.validate(module, datamodule=datamodule, verbose=False)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = datamodule.eval_batch_size
        fixes = [*([f"--batch_size {size // 2}"] if size > 1 else []), "another --dtype, or a device with more memory"]
        raise InputError(f"--model {name}: out of memory with --batch_size {size}; pass {' or '.join(fixes)}") from None
    return module


def result_of(
    predictions: Predictions, outcomes: Outcomes, scores: Mapping[str, float], scaling: Scaling
) -> ScoreResult:
    """The result of an evaluation, without a threshold file.

    Args:
        predictions, outcomes: of the same N questions, in the same order.
        scores: of all, under the official scorers' names.
        scaling: the threshold and temperature that were answered with.
    """
    texts, best_texts, odds = {}, {}, {}
    references, n_best = [], {}
    for number, example, answer in predictions.rows():
        texts[answer.id], odds[answer.id] = answer.text, answer.null_odds
        best_texts[answer.id] = predictions.best_text(number, example)
        references.append({"id": example["id"], "answers": example["answers"]})
        n_best[answer.id] = predictions.n_best(number, example)
    metrics, threshold = dict(scores), scaling.threshold
    if predictions.version_2:
        odds_of, exact, f1, has_answer = outcomes.decision
        metrics = squad_v2_metrics(exact, f1, has_answer, odds_of, threshold, np.isposinf(odds_of)) | metrics
    return ScoreResult(
        metrics,
        texts,
        references,
        predictions.version_2,
        n_best,
        best_texts,
        odds,
        threshold,
        fit_confidence(outcomes, predictions.version_2, scaling),
    )
