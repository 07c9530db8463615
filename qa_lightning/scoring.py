"""Scores of a trained model, or of a predictions file, on a dataset with answers; and the files that hold them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from qa_lightning.answers import has_surrogates
from qa_lightning.columns import Columns, with_usual_columns
from qa_lightning.datamodule import SquadDataModule
from qa_lightning.errors import InputError
from qa_lightning.evaluation import Predictions
from qa_lightning.examples import read_examples
from qa_lightning.metrics import SquadMetric
from qa_lightning.models import load_model
from qa_lightning.module import QALightningModule
from qa_lightning.reader import AnswerSettings
from qa_lightning.sources import read_rows

log = logging.getLogger("qa_lightning")


@dataclass(frozen=True)
class ScoreResult:
    """What an evaluation found.

    Attributes:
        metrics: by the official scorers' names.
        predictions: id -> answer text.
        references: ``{"id", "answers"}`` of each question.
        version_2: whether it was scored as SQuAD v2.0.
        n_best: id -> candidates; empty for a predictions file.
    """

    metrics: dict[str, float]
    predictions: dict[str, str]
    references: list[dict[str, Any]]
    version_2: bool
    n_best: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Any]:
        """File name -> content, by the names that other tools read."""
        files: dict[str, Any] = {"metrics.json": self.metrics, "predictions.json": self.predictions}
        return files | ({"nbest_predictions.json": self.n_best} if self.n_best else {})


def score_file(
    path: Path,
    data: str,
    most: int | None = None,
    mixed_script: bool = False,
    columns: Columns = Columns(),  # noqa: B008 - frozen
) -> ScoreResult:
    """Score ``{"id": "answer"}`` of a JSON file as the official scripts do; for the rest see `score_model`.

    Raises:
        InputError: no such file, another layout, or ids of ``data`` that it lacks.
    """
    try:
        predictions = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--predictions {path}: cannot be read as JSON ({error})") from None
    if not isinstance(predictions, dict) or not all(isinstance(text, str) for text in predictions.values()):
        raise InputError(f'--predictions {path}: expected one object {{"id": "answer", ...}} with texts as answers')
    broken = [key for key, text in predictions.items() if has_surrogates(key + text)]
    if broken:
        raise InputError(f"--predictions {path}: {broken[0]!r} holds half of a surrogate pair; save it as valid UTF-8")
    rows = read_examples(
        with_usual_columns(read_rows(data, "validation"), columns, log.info),
        "error",
        [],
        most=most,
        cure="correct them",
    )
    references: list[dict[str, Any]] = [{"id": row["id"], "answers": row["answers"]} for row in rows]
    missing = [row["id"] for row in references if row["id"] not in predictions]
    if missing:
        raise InputError(
            f"--predictions {path}: no answer for {len(missing):,} of the {len(references):,} questions of {data}, "
            f"the first: {', '.join(missing[:5])}; add them (an empty text for no answer)"
        )
    return _result({row["id"]: predictions[row["id"]] for row in references}, references, mixed_script=mixed_script)


def score_model(
    name: str,
    data: str,
    batch_size: int = 32,
    most: int | None = None,
    mixed_script: bool = False,
    columns: Columns = Columns(),  # noqa: B008 - frozen
) -> ScoreResult:
    """Answer the questions of ``data`` by the validation path of training, and score the answers.

    Args:
        name: folder of a trained model, or its name on the Hub.
        data: file or dataset.
        batch_size: windows a step.
        most: only the first so many questions.
        mixed_script: see `metrics`.
        columns: names of the data's columns, where they are not to be guessed.
    """
    settings = AnswerSettings.of_model(load_model(name))
    datamodule = SquadDataModule(
        dataset=None,
        validation=data,
        model_name=name,
        max_length=settings.max_length,
        doc_stride=settings.doc_stride,
        max_question_length=settings.max_question_length,
        eval_batch_size=batch_size,
        max_validation_examples=most,
        columns=columns,
    )
    module = QALightningModule(
        name,
        max_answer_length=settings.max_answer_length,
        n_best=20,
        null_score_diff_threshold=settings.null_score_diff_threshold,
    )
    trainer = Trainer(
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(module, datamodule=datamodule, verbose=False)
    predictions = module.predictions
    assert isinstance(predictions, Predictions)
    texts, references, n_best = {}, [], {}
    for number, example, answer in predictions.rows():
        texts[answer.id] = answer.text
        references.append({"id": example["id"], "answers": example["answers"]})
        n_best[answer.id] = predictions.n_best(number, example)
    if predictions.version_2 and not settings.version_2:
        log.info(f"note: {name} was not trained to say that there is no answer, and {data} has such questions")
    return _result(texts, references, n_best, mixed_script)


def _result(
    predictions: dict[str, str],
    references: list[dict[str, Any]],
    n_best: dict[str, list[dict[str, Any]]] | None = None,
    mixed_script: bool = False,
) -> ScoreResult:
    version_2 = any(not row["answers"]["text"] for row in references)
    metric = SquadMetric(version_2, mixed_script)
    metric.update([{"id": key, "prediction_text": text} for key, text in predictions.items()], references)
    return ScoreResult(metric.compute(), predictions, references, version_2, n_best or {})


def write(result: ScoreResult, folder: Path) -> None:
    """Write the result's files into ``folder``, made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in result.files.items():
            (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--output-dir {folder}: cannot be written ({error})") from None


def compare_with_official(result: ScoreResult, tolerance: float = 1e-6) -> int:
    """Run the published scorer through ``evaluate`` and compare; returns the exit status, 1 where the two disagree.

    Where the scorer cannot be reached, a line says so and nothing is compared.
    """
    name = "squad_v2" if result.version_2 else "squad"
    try:
        import evaluate

        scorer = evaluate.load(name)  # type: ignore[attr-defined]
    except Exception as error:  # evaluate raises whatever its download met
        log.info(f"official   evaluate.load('{name}') cannot be reached ({type(error).__name__}); nothing compared")
        return 0
    extra = {"no_answer_probability": 0.0} if result.version_2 else {}
    official: Mapping[str, float] = scorer.compute(
        predictions=[{"id": key, "prediction_text": text, **extra} for key, text in result.predictions.items()],
        references=result.references,
    )
    differing = [
        f"{key}: here {value}, there {official.get(key, 'nothing')}"
        for key, value in result.metrics.items()
        if not abs(official.get(key, math.nan) - value) <= tolerance  # so that NaN, too, differs
    ]
    if differing:
        log.info(f"official   evaluate.load('{name}') DISAGREES: {'; '.join(differing)}")
        return 1
    log.info(f"official   evaluate.load('{name}') agrees on {', '.join(result.metrics)}")
    return 0
