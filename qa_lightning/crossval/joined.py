"""Joins the answers to all folds, scores them, and measures how much the scores vary: by fold, and by the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.data.division import Groups
from qa_lightning.decoding.predictions import Predictions
from qa_lightning.decoding.saved import read_spans
from qa_lightning.decoding.spans import Scaling, Spans
from qa_lightning.errors import InputError
from qa_lightning.evaluation.model import result_of
from qa_lightning.evaluation.result import ScoreResult
from qa_lightning.metrics.bootstrap import LEVEL, Interval, bootstrap
from qa_lightning.metrics.outcomes import judge
from qa_lightning.metrics.squad import MixedScript, SquadMetric
from qa_lightning.pages.questions import Scored
from qa_lightning.training.datamodule import SquadDataModule

SCORES = ("exact_match", "f1")


@dataclass(frozen=True)
class Joined:
    """The out-of-fold answers to N questions, each by the model that was not trained on it, and their scores.

    Attributes:
        result: scores and files, as those of an evaluation.
        fold: [N] the fold of each question, from 1.
        groups: what was kept in one fold.
        values: [N, 2] exact match and F1 of each question, 0-100.
    """

    result: ScoreResult
    fold: NDArray[np.int64]
    groups: Groups
    values: Float64s

    @property
    def sizes(self) -> list[int]:
        """The number of questions of each fold."""
        return [int(size) for size in np.bincount(self.fold)[1:]]

    @property
    def by_fold(self) -> Float64s:
        """[folds, 2] exact match and F1 of each fold, 0-100."""
        return np.stack([self.values[self.fold == 1 + number].mean(axis=0) for number in range(len(self.sizes))])

    @property
    def spread(self) -> Float64s:
        """[2] standard deviation of the folds' scores (by n - 1)."""
        return np.asarray(self.by_fold.std(axis=0, ddof=1))

    @cached_property
    def intervals(self) -> list[Interval]:
        """Exact match and F1 of all questions with their intervals; groups are drawn, the folds' models stay."""
        return bootstrap(self.values, self.groups.names)

    def as_json(self) -> dict[str, Any]:
        """All of it by name, as JSON values."""
        intervals, unit = self.intervals, self._unit(self.intervals[0])
        folds = [
            {"fold": number, "questions": size, **dict(zip(SCORES, scores.tolist(), strict=True))}
            for number, (size, scores) in enumerate(zip(self.sizes, self.by_fold, strict=True), 1)
        ]
        return {
            "folds": folds,
            "mean_over_folds": dict(zip(SCORES, self.by_fold.mean(axis=0).tolist(), strict=True)),
            "standard_deviation_over_folds": dict(zip(SCORES, self.spread.tolist(), strict=True)),
            "all_questions": {
                name: {"score": one.mean, "low": _known(one.low), "high": _known(one.high)}
                for name, one in zip(SCORES, intervals, strict=True)
            },
            "interval": {"level": LEVEL, "resampled": unit, "units": intervals[0].units},
        }

    def lines(self) -> list[str]:
        """The same in sentences."""
        lines = [
            f"fold {number:<3} EM {exact:>6.2f}  F1 {f1:>6.2f}  {size:,} questions"
            for number, (size, (exact, f1)) in enumerate(zip(self.sizes, self.by_fold, strict=True), 1)
        ]
        exact, f1 = self.by_fold.mean(axis=0)
        lines.append(
            f"mean     EM {exact:>6.2f}  F1 {f1:>6.2f}  over {len(self.sizes)} folds; standard deviation EM "
            f"{self.spread[0]:.2f}, F1 {self.spread[1]:.2f}"
        )
        first, second = self.intervals
        how = f"{100 * LEVEL:.0f}% intervals, resampling {first.units:,} {self._unit(first)}"
        lines.append(
            f"all      EM {first.mean:>6.2f}  F1 {second.mean:>6.2f}  of {first.count:,} questions; EM "
            f"{first.low:.1f} to {first.high:.1f}, F1 {second.low:.1f} to {second.high:.1f} ({how})"
        )
        return lines

    def _unit(self, interval: Interval) -> str:
        return f"{self.groups.by}s" if interval.unit == "articles" else interval.unit


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def join_folds(
    data: SquadDataModule,
    files: Sequence[Path],
    model: str,
    scaling: Scaling,
    mixed_script: bool | MixedScript,
    max_answer_length: int,
) -> Joined:
    """Join the answers that the folds' runs left.

    Args:
        data: all questions; set up.
        files: those of the folds, in order; see `decoding.saved`.
        model: name of the models, for people.
        scaling: the threshold of the answers, and the temperature of their probabilities.
        mixed_script: see `Scoring`.
        max_answer_length: the longest answer, in tokens.

    Raises:
        InputError: a file cannot be read, or they do not answer each question once.
    """
    split = data.validation_set
    assert split is not None
    examples, groups = split.examples, Groups.of(split.examples)
    spans, fold = _in_order(examples["id"], files)
    predictions = Predictions(examples, np.arange(len(fold)), spans, split.version_2, scaling.threshold)
    metric = SquadMetric(split.version_2, mixed_script)
    outcomes = replace(judge(predictions, metric.scoring), article=groups.names)
    exact, f1 = outcomes.scores(scaling.threshold, split.version_2)
    metric.update_scores(exact, f1, outcomes.has_answer)
    result = result_of(predictions, outcomes, metric.compute(), scaling)
    assert result.confidence is not None
    scored = Scored(
        model,
        str(data.dataset),
        predictions,
        outcomes,
        result.confidence.scaling,
        metric.scoring,
        split.store,
        data.tokenizer,
        data.settings.doc_stride,
        max_answer_length,
        fitted=True,
    )
    return Joined(replace(result, scored=scored), fold, groups, 100 * np.stack([exact, f1], axis=1))


def _in_order(ids: Sequence[str], files: Sequence[Path]) -> tuple[Spans, NDArray[np.int64]]:
    """The spans of the questions ``ids``, and the fold of each.

    Raises:
        InputError: a file cannot be read, or a question is missing, there twice or unknown.
    """
    row_of = {name: row for row, name in enumerate(ids)}
    parts, rows, fold = [], [], []
    for number, path in enumerate(files, 1):
        own, spans = read_spans(path)
        parts.append(spans)
        rows += [row_of.get(name, -1) for name in own]
        fold += [number] * len(own)
    if sorted(rows) != list(range(len(ids))):
        raise InputError(
            f"the folds answer {len(rows):,} questions, and not each of the {len(ids):,} of the data once; name "
            "another folder with --study, to train them again"
        )
    order = np.argsort(np.array(rows, np.int64), kind="stable")
    return Spans.concatenate(parts).take(order), np.array(fold, np.int64)[order]
