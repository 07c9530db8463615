"""Predictions against gold answers -> for each question what a threshold and a temperature are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.decoding.predictions import Predictions
from qa_lightning.metrics.calibration import TEMPERATURES
from qa_lightning.metrics.squad import Scoring, answer_scores


@dataclass(frozen=True)
class Outcomes:
    """What came of N questions, in order of the dataset.

    Attributes:
        index: [N] place of each in the dataset.
        exact, f1: [N] scores, 0-1, of the best span's text, whether or not it is given; 0 without any span.
        has_answer: [N] whether the question has one.
        best_score: [N] the best span's start + end logit; -inf without any.
        null_score: [N] start + end logit of "no answer".
        log_spans: [N, K] log of the sum of exp(score / T) over all spans, at K temperatures; see `spans.Spans`.
        article: [N] the title of the question's article or, where it has none, a digest of its context.
        null_exact: [N] whether "no answer" matches a gold answer exactly.
    """

    index: NDArray[np.int64]
    exact: Float64s
    f1: Float64s
    has_answer: NDArray[np.bool_]
    best_score: Float64s
    null_score: Float64s
    log_spans: Float64s
    article: NDArray[np.object_]
    null_exact: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def null_odds(self) -> Float64s:
        """[N] null score minus the best span's: inf without any span."""
        return self.null_score - self.best_score

    @property
    def decision(self) -> tuple[Float64s, Float64s, Float64s, NDArray[np.bool_]]:
        """Null odds, exact match, F1 and whether there is an answer, as `thresholds` takes them."""
        return self.null_odds, self.exact, self.f1, self.has_answer

    def silent(self, threshold: float, version_2: bool) -> NDArray[np.bool_]:
        """[N] which questions get no answer: those without any span and, in v2.0, those above the threshold."""
        without_span = self.best_score == -np.inf
        return np.asarray(without_span | (version_2 & (self.null_odds > threshold)))

    def scores(self, threshold: float, version_2: bool) -> tuple[Float64s, Float64s]:
        """[N] exact match and F1, 0-1, of the answers that are given under ``threshold``."""
        silent = self.silent(threshold, version_2)
        # The v1.1 scorer gives F1 0 to two empty texts.
        null_f1 = self.null_exact if version_2 else np.zeros(len(self))
        return np.where(silent, self.null_exact, self.exact), np.where(silent, null_f1, self.f1)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Outcomes:
        """Some of the questions."""
        return Outcomes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """The shares of several processes as one, in order of the dataset."""
        some = [part for part in parts if len(part)] or parts[:1]
        every = cls(*(np.concatenate([getattr(part, field.name) for part in some]) for field in fields(cls)))
        return every.take(np.argsort(every.index, kind="stable"))

    def log_spans_at(self, temperature: float) -> Float64s:
        """[N] ``log_spans`` at a temperature between those of `calibration.TEMPERATURES`, which it was made for.

        By the parabola through the three nearest in log T. What is interpolated is the log of how much all spans
        outweigh the best one, which bends little: wrong by less than 0.001.
        """
        place = np.log(TEMPERATURES)
        at = float(np.clip(np.log(temperature), place[0], place[-1]))
        middle = int(np.clip(np.argmin(np.abs(place - at)), 1, len(place) - 2))
        near = slice(middle - 1, middle + 2)
        best = np.where(np.isfinite(self.best_score), self.best_score, 0.0)
        excess = self.log_spans[:, near] - best[:, None] / TEMPERATURES[near]
        points = place[near]
        weights = [np.prod([(at - points[j]) / (points[i] - points[j]) for j in range(3) if j != i]) for i in range(3)]
        with np.errstate(invalid="ignore"):  # without any span: -inf stays
            between = excess @ np.array(weights)
        return np.where(np.isfinite(self.best_score), between + best / np.exp(at), -np.inf)


def judge(predictions: Predictions, scoring: Scoring, share: tuple[int, int] = (0, 1)) -> Outcomes:
    """Score the best span of every ``share[1]``-th question from ``share[0]`` on: one process's share.

    Args:
        predictions: of questions with gold answers.
        scoring: how their answers are counted.
        share: which of them.
    """
    spans = predictions.spans
    numbers = np.arange(share[0], len(predictions), share[1])
    exact, f1 = np.zeros(len(numbers)), np.zeros(len(numbers))
    has_answer = np.zeros(len(numbers), bool)
    article = np.empty(len(numbers), object)
    null_exact = np.zeros(len(numbers), bool)
    for row, (number, example, _) in enumerate(predictions.rows(numbers.tolist())):
        golds = example["answers"]["text"]
        text = predictions.best_text(number, example)
        exact[row], f1[row] = answer_scores(text, golds, scoring) if text else (0, 0.0)
        null_exact[row] = bool(answer_scores("", golds, scoring)[0])
        has_answer[row] = bool(golds)
        article[row] = _article(example)
    return Outcomes(
        predictions.index[numbers],
        exact,
        f1,
        has_answer,
        spans.best_score[numbers],
        spans.null_score[numbers],
        spans.log_spans[numbers],
        article,
        null_exact,
    )


def _article(example: dict[str, Any]) -> str:
    title = example.get("title")
    if title:
        return f"title {title}"
    return blake2b(example["context"].encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
