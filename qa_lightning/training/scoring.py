"""Scores a trained model, or a file of predictions, on data with answers, and writes the result's files."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from qa_lightning.data.answers import has_surrogates
from qa_lightning.data.columns import ReadSettings, with_usual_columns
from qa_lightning.data.examples import ROW_LISTS, OnBadRows, changed_lines, read_examples
from qa_lightning.data.formats import counted
from qa_lightning.data.sources import count_rows, read_rows
from qa_lightning.decoding.predictions import Predictions
from qa_lightning.errors import InputError
from qa_lightning.features.defaults import EVAL_BATCH_SIZE
from qa_lightning.files import write_json
from qa_lightning.inference.bulk.saved import read_predictions
from qa_lightning.metrics.calibration import TEMPERATURES
from qa_lightning.metrics.confidence import Confidence, coverage_line, figures, fit_confidence, fitted_lines
from qa_lightning.metrics.squad import MixedScript, SquadMetric, answer_scores
from qa_lightning.metrics.thresholds import squad_v2_metrics
from qa_lightning.models.loading import lasting_name, load_answering_model, max_positions
from qa_lightning.models.onnx import is_onnx_folder
from qa_lightning.models.settings import AnswerSettings, Fitted
from qa_lightning.models.threshold_file import THRESHOLD_FILE, read_threshold_file, threshold_file
from qa_lightning.progress import tracked
from qa_lightning.runs.watching import ValidationProgress
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.module import QALightningModule
from qa_lightning.wording import command

log = logging.getLogger("qa_lightning")

_MAX_ODDS = 1e30  # in files, for infinity


@dataclass(frozen=True)
class ScoreResult:
    """The result of an evaluation.

    Attributes:
        metrics: name -> score, 0-100, or count; names as in the official scorers.
        predictions: id -> answer text.
        references: ``{"id", "answers"}`` of each question.
        version_2: whether the questions were scored as SQuAD v2.0.
        n_best: id -> candidates; empty for a predictions file.
        best_texts: id -> the best span's text, also if the prediction is "no answer"; empty for a predictions file
            without null odds.
        null_odds: id -> null score minus the best span's score, or the number from a file; can be empty.
        threshold: the prediction is "no answer" if the null odds are above it.
        confidence: how far the model's scores can be trusted; None for a predictions file.
        threshold_file: content that `threshold_file.read_threshold_file` reads; empty for a predictions file.
    """

    metrics: dict[str, float]
    predictions: dict[str, str]
    references: list[dict[str, Any]]
    version_2: bool
    n_best: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    best_texts: dict[str, str] = field(default_factory=dict)
    null_odds: dict[str, float] = field(default_factory=dict)
    threshold: float = 0.0
    confidence: Confidence | None = None
    threshold_file: dict[str, Any] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """How far the model's scores can be trusted, in sentences; empty for a predictions file."""
        found = self.confidence
        if found is None:
            return []
        return [
            coverage_line(found.coverage_before),
            *(f"refitted to this data: {line}" for line in fitted_lines(found)),
        ]

    @property
    def files(self) -> dict[str, Any]:
        """File name -> content, under the names that other tools read."""
        files: dict[str, Any] = {"metrics.json": self.metrics, "predictions.json": self.predictions}
        if self.version_2 and self.n_best:
            # a context without a token has infinite odds, which JSON cannot write
            files["null_odds.json"] = {key: min(odds, _MAX_ODDS) for key, odds in self.null_odds.items()}
        more = {"nbest_predictions.json": self.n_best, THRESHOLD_FILE: self.threshold_file}
        return files | {name: content for name, content in more.items() if content}


def score_file(
    path: Path,
    data: str,
    max_examples: int | None = None,
    mixed_script: bool | MixedScript = False,
    reading: ReadSettings = ReadSettings(),  # noqa: B008 - frozen
    on_bad_rows: OnBadRows = "error",
    null_odds: Path | None = None,
) -> ScoreResult:
    """Score the answers in a file as the official scripts do.

    A question without an answer in the file counts as wrong, and answers to other questions count for nothing; log
    lines say so. The texts of gold answers are enough: their offsets may be wrong.

    Args:
        path: answers, in a layout that `saved.read_predictions` reads.
        null_odds: a JSON object ``{"id": number}``; a higher number makes "no answer" more likely (the v2.0 scorer's
            ``--na-prob-file``). The scores then include best thresholds and average precisions.
        data, max_examples, mixed_script, reading, on_bad_rows: see `score_model`.

    Raises:
        InputError: a file is missing or has another layout, or answers are not texts.
    """
    predictions = read_predictions(path)
    broken = [key for key, text in predictions.items() if has_surrogates(key + text)]
    if broken:
        raise InputError(f"--predictions {path}: {broken[0]!r} holds half of a surrogate pair; save it as valid UTF-8")
    references = _references(data, max_examples, reading, on_bad_rows)
    texts = {row["id"]: predictions[row["id"]] for row in references if row["id"] in predictions}
    for line in _id_lines(predictions, [row["id"] for row in references], data, max_examples is not None):
        log.info(f"note: {line}")
    has_answer = [bool(row["answers"]["text"]) for row in references]
    version_2 = not all(has_answer)
    if null_odds and not version_2:
        raise InputError(f"--null_odds {null_odds}: every question of {data} has an answer; leave the flag out")
    metric = SquadMetric(version_2, mixed_script)
    scores = [
        answer_scores(texts[row["id"]], row["answers"]["text"], metric.scoring) if row["id"] in texts else (0, 0.0)
        for row in references
    ]
    exact, f1 = np.array(scores, float).reshape(-1, 2).T
    metric.update_scores(exact, f1, has_answer)
    result = ScoreResult(metric.compute(), texts, references, version_2)
    if null_odds is None:
        return result
    odds = read_null_odds(null_odds, list(texts))
    ids = [row["id"] for row in references]
    # No threshold makes "no answer" of a question that was not answered at all: it is wrong.
    each, empty = [odds.get(key, -math.inf) for key in ids], [texts.get(key) == "" for key in ids]
    more = squad_v2_metrics(exact, f1, has_answer, each, math.inf, empty)
    return replace(result, metrics=more, null_odds=odds, best_texts=texts, threshold=math.inf)


def _references(
    data: str, max_examples: int | None, reading: ReadSettings, on_bad_rows: OnBadRows
) -> list[dict[str, Any]]:
    """Ids and gold answers of a source, and log lines about what was repaired, left out or has a wrong offset."""
    lines: dict[str, list[str]] = {name: [] for name in ROW_LISTS}
    total = None if max_examples else count_rows(data, "validation")
    rows = with_usual_columns(tracked(read_rows(data, "validation", reading), total, what=data), reading, log.info)
    examples = read_examples(
        rows,
        on_bad_rows,
        lines["skipped"],
        max_examples=max_examples,
        repairs=lines["repaired"],
        left_out=lines["left_out"],
        unplaced=lines["unplaced"],
    )
    references = [{"id": row["id"], "answers": row["answers"]} for row in examples]
    for line in changed_lines(lines):
        log.info(line)
    return references


def _id_lines(predictions: Mapping[str, str], ids: Sequence[str], data: str, cut: bool) -> Iterator[str]:
    """Lines about questions without a prediction, and predictions without a question.

    Args:
        cut: whether only the first questions are scored; then predictions for others are to be expected.
    """
    missing, known = [key for key in ids if key not in predictions], set(ids)
    if missing:
        counts = "it counts" if len(missing) == 1 else "they count"
        also = "; do the two files belong together?" if len(missing) == len(ids) else ""
        yield (
            f"no answer for {len(missing):,} of the {counted(len(ids), 'question')} of {data}; {counts} as wrong; the "
            f"first: {', '.join(missing[:5])}{also}"
        )
    extra = [key for key in predictions if key not in known]
    if extra and not cut:
        yield (
            f"{counted(len(extra), 'answer')} to no question of {data} {'is' if len(extra) == 1 else 'are'} left out; "
            f"the first: {', '.join(extra[:5])}"
        )


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
) -> ScoreResult:
    """Answer the questions of ``data`` as a validation in training does, and score the answers.

    Args:
        name: folder of a trained model, or its name on the Hub.
        data: file or dataset.
        batch_size: windows per step.
        max_examples: score only this many questions, the first ones.
        mixed_script: see `squad.Scoring`.
        reading: names of the data's columns, if they are not the usual ones; encoding, separator of answers.
        on_bad_rows: see `SquadDataModule`; but answers with wrong offsets are no bad ones, for EM and F1 compare texts.
        thresholds: a file with threshold and temperature, which replace the model's own.
        lengths: ``max_length``, ``doc_stride``, ``max_question_length`` or ``max_answer_length`` -> tokens, in place of
            the model's own.

    Raises:
        InputError: the model is an ONNX export, or the model, the data or ``thresholds`` cannot be read.
    """
    name = lasting_name(name)
    if is_onnx_folder(name):
        raise InputError(
            f"--model {name} is an ONNX export, which validation cannot run; answer the questions with "
            f"`{command('predict')} --model {name} --input {data} --output answers.jsonl`, and score the answers with "
            f"`{command('evaluate')} --predictions answers.jsonl --data {data}`"
        )
    model, tokenizer = load_answering_model(name)  # refuses a head that was never trained
    trained = AnswerSettings.of_model(model, tokenizer)
    settings = trained.fitted(read_threshold_file(thresholds, name)) if thresholds else trained
    changed: Any = lengths or {}
    settings = replace(settings, **changed)
    if (positions := max_positions(model)) and settings.max_length > positions:
        raise InputError(f"--data.max_length {settings.max_length}: the model has {positions} positions")
    own = settings.scaling
    datamodule = SquadDataModule(
        dataset=None,
        validation=data,
        model_name=name,
        max_length=settings.max_length,
        doc_stride=settings.doc_stride,
        max_question_length=settings.max_question_length,
        eval_batch_size=batch_size,
        max_validation_examples=max_examples,
        on_bad_rows=on_bad_rows,
        columns=reading.columns,
        encoding=reading.encoding,
        answer_separator=reading.answer_separator or "",
    )
    fingerprint = datamodule.fingerprint("validation")
    datamodule.texts_alone = True
    module = QALightningModule(
        name,
        max_answer_length=settings.max_answer_length,
        n_best=20,
        null_score_diff_threshold=own.threshold,
        mixed_script=mixed_script,
    )
    module.temperature, module.temperatures = own.temperature, tuple(TEMPERATURES)
    trainer = Trainer(
        callbacks=[ValidationProgress()],
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(module, datamodule=datamodule, verbose=False)
    predictions = module.predictions
    assert isinstance(predictions, Predictions)
    texts, best_texts, odds = {}, {}, {}
    references, n_best = [], {}
    for number, example, answer in predictions.rows():
        texts[answer.id], odds[answer.id] = answer.text, answer.null_odds
        best_texts[answer.id] = predictions.best_text(number, example)
        references.append({"id": example["id"], "answers": example["answers"]})
        n_best[answer.id] = predictions.n_best(number, example)
    if predictions.version_2 and not trained.version_2:
        log.info(f"note: {name} was not trained to say that there is no answer, but {data} has questions without one")
    if fingerprint == settings.fitted_to:
        log.info(
            f"note: threshold and temperature were fitted to {data} itself, so the scores, the coverage and the "
            "calibration error before refitting are better here than on other questions"
        )
    assert module.outcomes is not None
    found = fit_confidence(module.outcomes, predictions.version_2, own)
    metrics = module.scores
    if predictions.version_2:
        odds_of, exact, f1, has_answer = module.outcomes.decision
        metrics = squad_v2_metrics(exact, f1, has_answer, odds_of, own.threshold, np.isposinf(odds_of)) | metrics
    return ScoreResult(
        metrics,
        texts,
        references,
        predictions.version_2,
        n_best,
        best_texts,
        odds,
        own.threshold,
        found,
        threshold_file(Fitted(found.scaling, found.tuned is not None, fingerprint), name, data),
    )


def write(result: ScoreResult, folder: Path) -> list[str]:
    """Write the result's files and figures into ``folder``, which is made if it is missing; returns their names.

    Raises:
        InputError: they cannot be written.
    """
    from qa_lightning.metrics import plots

    drawn: list[Path] = []
    try:
        for name, content in result.files.items():
            write_json(folder / name, content)
        if result.confidence:
            drawn = plots.save(figures(result.confidence), folder)
    except OSError as error:
        raise InputError(
            f"--output_dir {folder}: cannot be written ({error.strerror or error}); free some space, or name another "
            "folder"
        ) from None
    return sorted([*result.files, *(path.name for path in drawn)])


def compare_with_official(result: ScoreResult, tolerance: float = 1e-6) -> int:
    """Run the published scorer through ``evaluate`` and compare; returns the exit status, 1 if the two disagree.

    If the scorer cannot be reached, nothing is compared: a log line says so and the status is 0.
    """
    name = "squad_v2" if result.version_2 else "squad"
    try:
        import evaluate

        scorer = evaluate.load(name)  # type: ignore[attr-defined]
    except Exception as error:  # a failed download can raise anything
        log.info(f"official   evaluate.load('{name}') cannot be reached ({type(error).__name__}); nothing compared")
        return 0
    # Both scorers want a prediction for each question; this one is no answer of anybody.
    missing = {row["id"]: "\ue000" for row in result.references if row["id"] not in result.predictions}
    texts, settings = {**result.predictions, **missing}, {}
    if result.null_odds:  # then it finds the best thresholds, too
        texts, settings = {**result.best_texts, **missing}, {"no_answer_threshold": result.threshold}
    official: Mapping[str, float] = scorer.compute(
        predictions=[
            {"id": key, "prediction_text": text}
            | (
                {"no_answer_probability": result.null_odds.get(key, -_MAX_ODDS if key in missing else 0.0)}
                if result.version_2
                else {}
            )
            for key, text in texts.items()
        ],
        references=result.references,
        **settings,
    )
    # the official scorer has no pr_ scores
    compared = {name: value for name, value in result.metrics.items() if not name.startswith("pr_")}
    differing = [
        f"{key}: here {value}, there {official.get(key, 'nothing')}"
        for key, value in compared.items()
        if not abs(official.get(key, math.nan) - value) <= tolerance  # not >, so that NaN differs, too
    ]
    if differing:
        log.info(f"official   evaluate.load('{name}') DISAGREES: {'; '.join(differing)}")
        return 1
    log.info(f"official   evaluate.load('{name}') agrees on {', '.join(compared)}")
    return 0


def read_null_odds(path: Path, wanted: Sequence[str]) -> dict[str, float]:
    """Id -> number, for the ``wanted`` ids, from a JSON object ``{"id": number}``.

    Raises:
        InputError: the file cannot be read, or one of the ids has no number; one line per id.
    """
    try:
        odds = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--null_odds {path}: cannot be read as JSON ({error})") from None
    if not isinstance(odds, dict):
        raise InputError(f'--null_odds {path}: expected one object {{"id": number, ...}}')
    bad = [
        f"--null_odds {path}: {key!r} has {repr(odds[key]) if key in odds else 'no number'}; a number is wanted"
        for key in wanted
        if isinstance(odds.get(key), bool) or not isinstance(odds.get(key), (int, float)) or math.isnan(odds[key])
    ]
    if bad:
        raise InputError(bad)
    return {key: float(odds[key]) for key in wanted}
