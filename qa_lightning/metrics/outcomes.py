"""Scores the best span of each question against the gold answers: the data for threshold and temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.data.division import article_of
from qa_lightning.decoding.predictions import Predictions
from qa_lightning.decoding.spans import Scaling
from qa_lightning.metrics.calibration import TEMPERATURES
from qa_lightning.metrics.squad import Scoring, answer_scores


@dataclass(frozen=True)
class Outcomes:
    """The scored best spans of N questions, in dataset order.

    Attributes:
        index: [N] index of each question in the dataset.
        exact, f1: [N] scores, 0-1, of the best span's text, even where "no answer" wins; 0 without a valid span.
        has_answer: [N] whether the question has a gold answer.
        best_score: [N] start + end logit of the best span; -inf without a valid span.
        null_score: [N] start + end logit of "no answer".
        log_spans: [N, K] log of the sum of exp(score / T) over all spans, at K temperatures; see `spans.Spans`.
        article: [N] the title of the question's article or, without a title, a digest of the context.
        null_exact: [N] whether "no answer" is an exact match. In v2.0 it is one if there is no gold answer, as in the
            official scorer under a threshold (``--na-prob-file``); without one, that counts an empty text as right
            where all gold answers normalise to nothing, too.
        second_score: [N] score of the second-best span; -inf without one.
        length: [N] characters of the best span; 0 without one.
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
    second_score: Float64s
    length: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def null_odds(self) -> Float64s:
        """[N] null score minus the best span's score; inf without a valid span."""
        return self.null_score - self.best_score

    @property
    def decision(self) -> tuple[Float64s, Float64s, Float64s, NDArray[np.bool_]]:
        """[N] each: null odds, exact match, F1 and ``has_answer``, the arguments of `best_threshold` and `tuned`."""
        return self.null_odds, self.exact, self.f1, self.has_answer

    def unanswered(self, threshold: float, version_2: bool) -> NDArray[np.bool_]:
        """[N] whether the question gets "no answer": it has no valid span or, in v2.0, odds above the threshold."""
        without_span = self.best_score == -np.inf
        return np.asarray(without_span | (version_2 & (self.null_odds > threshold)))

    def scores(self, threshold: float, version_2: bool) -> tuple[Float64s, Float64s]:
        """[N] exact match and F1, 0-1, of the answers under ``threshold``."""
        unanswered = self.unanswered(threshold, version_2)
        # The v1.1 scorer gives F1 0 to two empty texts.
        null_f1 = self.null_exact if version_2 else np.zeros(len(self))
        return np.where(unanswered, self.null_exact, self.exact), np.where(unanswered, null_f1, self.f1)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Outcomes:
        """The questions ``rows``: a mask or indices, [N], or a slice."""
        return Outcomes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """Join the shares of several processes, in dataset order."""
        some = [part for part in parts if len(part)] or parts[:1]
        index = np.concatenate([part.index for part in some])
        if len(some) == 1 and (np.diff(index) > 0).all():
            return some[0]  # it may be a million questions
        order = np.argsort(index, kind="stable")
        # One field after the other, so that no more than one is in memory three times.
        return cls(*(np.concatenate([getattr(part, field.name) for part in some])[order] for field in fields(cls)))

    def log_spans_at(self, temperature: float) -> Float64s:
        """[N] ``log_spans`` at any temperature, interpolated; they must be those of `calibration.TEMPERATURES`.

        A parabola in log T through the three nearest grid points interpolates ``log_spans - best_score / T``, which
        is nearly straight: the error is below 0.001. Temperatures outside the grid get the value at its end.
        """
        grid = np.log(TEMPERATURES)
        at = float(np.clip(np.log(temperature), grid[0], grid[-1]))
        middle = int(np.clip(np.argmin(np.abs(grid - at)), 1, len(grid) - 2))
        near = slice(middle - 1, middle + 2)
        best = np.where(np.isfinite(self.best_score), self.best_score, 0.0)
        excess = self.log_spans[:, near] - best[:, None] / TEMPERATURES[near]
        points = grid[near]
        weights = [np.prod([(at - points[j]) / (points[i] - points[j]) for j in range(3) if j != i]) for i in range(3)]
        with np.errstate(invalid="ignore"):  # without a valid span, -inf stays
            between = excess @ np.array(weights)
        return np.where(np.isfinite(self.best_score), between + best / np.exp(at), -np.inf)

    def log_total(self, scaling: Scaling) -> Float64s:
        """[N] log of the sum of exp(score / T) over all spans and "no answer", whose score is less the threshold."""
        null = (self.null_score - scaling.threshold) / scaling.temperature
        return np.asarray(np.logaddexp(self.log_spans_at(scaling.temperature), null))

    def span_probability(self, scaling: Scaling) -> Float64s:
        """[N] probability of the best span, 0-1."""
        return np.minimum(np.exp(self.best_score / scaling.temperature - self.log_total(scaling)), 1.0)

    def null_probability(self, scaling: Scaling) -> Float64s:
        """[N] probability of "no answer", 0-1."""
        null = (self.null_score - scaling.threshold) / scaling.temperature
        return np.minimum(np.exp(null - self.log_total(scaling)), 1.0)


def judge(predictions: Predictions, scoring: Scoring) -> Outcomes:
    """Score the best spans of questions.

    Args:
        predictions: decoded answers of N questions with gold answers.
        scoring: how answers are scored.
    """
    spans, count = predictions.spans, len(predictions)
    exact, f1 = np.zeros(count), np.zeros(count)
    has_answer, null_exact, length = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count, np.int64)
    article = np.empty(count, object)
    articles: dict[str, str] = {}  # equal names are one object, which many questions share
    for number, example, _ in predictions.rows():
        golds = example["answers"]["text"]
        text = predictions.best_text(number, example)
        exact[number], f1[number] = answer_scores(text, golds, scoring) if text else (0, 0.0)
        null_exact[number] = not golds if scoring.version_2 else answer_scores("", golds, scoring)[0]
        has_answer[number] = bool(golds)
        length[number] = len(text)
        name = article_of(example)
        article[number] = articles.setdefault(name, name)
    return Outcomes(
        predictions.index,
        exact,
        f1,
        has_answer,
        spans.best_score,
        spans.null_score,
        spans.log_spans,
        article,
        null_exact,
        spans.second_score,
        length,
    )
