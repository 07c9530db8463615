"""What there is to say about each question of an evaluation: its answer, its score, how it is wrong, its properties.

Scores are those of `Outcomes`; nothing is scored again here. Probabilities are those of `Judged`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.checks.ceiling import LIMITS, ContextTokens
from qa_lightning.checks.tokens import unknown_spans
from qa_lightning.data.answers import UNPLACED
from qa_lightning.decoding.calibrator import rescaled
from qa_lightning.decoding.predictions import Predictions
from qa_lightning.decoding.spans import Scaling
from qa_lightning.features.store import FeatureStore
from qa_lightning.metrics.confidence import Judged
from qa_lightning.metrics.errors import ErrorKind, Span, agreement, doubt, kind_of
from qa_lightning.metrics.outcomes import Outcomes
from qa_lightning.metrics.squad import Scoring, SquadMetric

_IN_MEMORY = 20_000  # questions, with their contexts
N_BEST = 5  # candidates that a report shows of a question


@dataclass(frozen=True)
class Scored:
    """A model's answers to N questions with gold answers, and their scores.

    Args:
        model, data: their names, for people.
        predictions: the answers.
        outcomes: the scores of the same questions, in the same order.
        scaling: the threshold and temperature to answer with.
        scoring: how answers are scored.
        store: the windows of the questions.
        tokenizer: cut them.
        doc_stride: tokens that two neighbouring windows share.
        max_answer_length: the longest answer, in tokens.
        fitted: whether threshold and temperature were fitted to these questions; they then look better than they are.
    """

    model: str
    data: str
    predictions: Predictions
    outcomes: Outcomes
    scaling: Scaling
    scoring: Scoring
    store: FeatureStore
    tokenizer: Any
    doc_stride: int
    max_answer_length: int
    fitted: bool = False

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def version_2(self) -> bool:
        """Whether "no answer" is a possible answer."""
        return self.predictions.version_2

    @cached_property
    def judged(self) -> Judged:
        """The answers under the threshold, with their probabilities under the temperature."""
        return Judged(self.outcomes, self.scaling, self.version_2)

    @cached_property
    def scores(self) -> tuple[Float64s, Float64s]:
        """[N] exact match and F1, 0-1."""
        return self.outcomes.scores(self.scaling.threshold, self.version_2)

    @property
    def metrics(self) -> dict[str, float]:
        """The official scores, by their names, on 0-100."""
        metric = SquadMetric(self.version_2, self.scoring.mixed_script)
        metric.update_scores(*self.scores, self.outcomes.has_answer)
        return metric.compute()

    @cached_property
    def _log_total(self) -> Float64s:
        """[N] log of the sum of exp(score / T) over all spans and "no answer"."""
        temperature = self.scaling.temperature
        return self.judged.log_total(self.outcomes.log_spans_at(temperature)[:, None], temperature)[:, 0]

    @cached_property
    def _windows(self) -> NDArray[np.int64]:
        """[N, 2] index of the first window of each question, and the one behind its last."""
        example, index = self.store.example, self.predictions.index
        sides = [np.searchsorted(example, index), np.searchsorted(example, index, side="right")]
        return np.stack(sides, axis=1).astype(np.int64)

    def windows(self, number: int) -> range:
        """The windows of a question, as indices into the store."""
        return range(*self._windows[number].tolist())

    def questions(self, numbers: Sequence[int] | None = None) -> Iterator[ScoredQuestion]:
        """Yield the questions ``numbers``, all by default; up to `_IN_MEMORY` of them are worked out only once."""
        if len(self) > _IN_MEMORY:
            yield from self._worked_out(numbers)
        else:
            yield from self._kept if numbers is None else [self._kept[number] for number in numbers]

    @cached_property
    def _kept(self) -> list[ScoredQuestion]:
        return list(self._worked_out())

    @cached_property
    def sure(self) -> float:
        """The probability from which on the model counts as sure: it is surer than of half of its answers."""
        return float(np.median(self.judged.confidence)) if len(self) else 1.0

    def _worked_out(self, numbers: Sequence[int] | None = None) -> Iterator[ScoredQuestion]:
        exact, f1 = self.scores
        predictions = self.predictions.under(self.scaling.threshold)
        for number, example, answer in predictions.rows(numbers):
            context, texts = example["context"], example["answers"]["text"]
            placed = gold_spans(context, texts, example["answers"]["answer_start"])
            predicted = (answer.start, answer.end) if answer.text else None
            has_answer, right = bool(self.outcomes.has_answer[number]), bool(exact[number])
            fits = right or not has_answer or self._fits(number, texts, placed)
            kind = kind_of(right, has_answer, predicted, [span for span in placed if span], fits)
            confidence = float(self.judged.confidence[number])
            candidates = [self._candidate(number, one) for one in predictions.n_best(number, example)]
            if self.scaling.calibrator is not None:
                candidates = _rescaled(candidates, answer.text, confidence)
            agreed = agreement(texts, self.scoring) if kind is ErrorKind.BOUNDARY else 1.0
            yield ScoredQuestion(
                number=number,
                id=example["id"],
                title=example.get("title") or "",
                question=example["question"],
                context=context,
                golds=tuple(gold_counts(texts, placed)),
                answer=answer.text,
                span=predicted,
                confidence=confidence,
                null_odds=float(self.outcomes.null_odds[number]),
                exact=float(exact[number]),
                f1=float(f1[number]),
                kind=kind,
                doubt=doubt(kind, confidence, self.sure, agreed),
                n_best=tuple(sorted(candidates, key=lambda one: -one.probability)[:N_BEST]),  # under the threshold
            )

    def unknown(self, number: int) -> list[Span]:
        """The spans of a question's context that the tokenizer does not know."""
        return unknown_spans(self.store, self.windows(number), self.tokenizer.unk_token_id)

    def _fits(self, number: int, texts: Sequence[str], placed: Sequence[Span | None]) -> bool:
        """Whether some gold answer lies whole in a window and is not longer than answers may be; true if not known."""
        windows = self.windows(number)
        tokens = ContextTokens.of_windows(self.store, windows, self.doc_stride) if windows else None
        known = [(text, span[0]) for text, span in zip(texts, placed, strict=True) if span and text.strip()]
        if tokens is None or not known:
            return True
        held = [tokens.of_answer(*one) for one in known]
        return any(span and tokens.limits(*span, self.max_answer_length) == len(LIMITS) for span in held)

    def _candidate(self, number: int, found: Mapping[str, Any]) -> Candidate:
        is_null = not found["text"]
        score = found["score"] - (self.scaling.threshold if is_null else 0.0)
        probability = math.exp(min(score / self.scaling.temperature - float(self._log_total[number]), 0.0))
        return Candidate(found["text"], None if is_null else (found["start"], found["end"]), probability)


def _rescaled(candidates: list[Candidate], answer: str, confidence: float) -> list[Candidate]:
    """Candidates with the scores that a calibrator gives them, if that of the answer, empty for none, is as given."""
    chosen = next(number for number, one in enumerate(candidates) if bool(one.text) == bool(answer))
    scores = rescaled([one.probability for one in candidates], chosen, confidence).tolist()
    return [replace(one, probability=score) for one, score in zip(candidates, scores, strict=True)]


@dataclass(frozen=True)
class Gold:
    """A gold answer.

    Attributes:
        text: the answer.
        span: its characters in the context; None if it is not there.
        annotators: how many of them gave it.
    """

    text: str
    span: Span | None
    annotators: int


@dataclass(frozen=True)
class Candidate:
    """One of the best answers to a question; empty text and no span for "no answer"."""

    text: str
    span: Span | None
    probability: float


@dataclass(frozen=True)
class ScoredQuestion:
    """A question, its gold answers, and a model's answer to it.

    Attributes:
        number: index among the scored questions.
        answer, span: the model's answer; empty and None for "no answer".
        confidence: its probability.
        null_odds: null score minus the best span's score; inf without a possible span.
        exact, f1: its scores, 0-1.
        doubt: how much the gold answer looks wrong; see `errors.doubt`.
        n_best: the best candidates, at most `N_BEST`.
    """

    number: int
    id: str
    title: str
    question: str
    context: str
    golds: tuple[Gold, ...]
    answer: str
    span: Span | None
    confidence: float
    null_odds: float
    exact: float
    f1: float
    kind: ErrorKind
    doubt: float
    n_best: tuple[Candidate, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a line of a JSON lines file."""
        start, end = self.span or (0, 0)
        golds = [gold for gold in self.golds for _ in range(gold.annotators)]
        return {
            "id": self.id,
            "title": self.title,
            "question": self.question,
            "context": self.context,
            "answers": {
                "text": [gold.text for gold in golds],
                "answer_start": [gold.span[0] if gold.span else UNPLACED for gold in golds],
            },
            "prediction": {"answer": self.answer, "start": start, "end": end},
            "score": self.confidence,
            "null_odds": self.null_odds if math.isfinite(self.null_odds) else None,
            "exact": self.exact,
            "f1": self.f1,
            "kind": self.kind.value,
            "doubt": self.doubt,
            "n_best": [{"text": one.text, "probability": one.probability} for one in self.n_best],
        }


def gold_spans(context: str, texts: Sequence[str], starts: Sequence[int]) -> list[Span | None]:
    """The characters of each gold answer: at its offset or, where it is not there, at its first occurrence, if any."""
    spans: list[Span | None] = []
    for text, offset in zip(texts, starts, strict=True):
        is_there = text and offset >= 0 and context.startswith(text, offset)
        start = offset if is_there else context.find(text) if text else -1
        spans.append((start, start + len(text)) if start >= 0 else None)
    return spans


def gold_counts(texts: Sequence[str], spans: Sequence[Span | None]) -> Iterator[Gold]:
    """Each distinct gold answer, with the number of annotators who gave it; the most frequent first."""
    for (text, span), count in Counter(zip(texts, spans, strict=True)).most_common():
        yield Gold(text, span, count)
