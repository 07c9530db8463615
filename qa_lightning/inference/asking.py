"""Ask several documents one question: one ranking of all answers, and none below a score that the caller names."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import Tensor

from qa_lightning.decoding.calibrator import BestSpan, rescaled
from qa_lightning.decoding.predictions import Answer
from qa_lightning.documents.answers import DocumentAnswer
from qa_lightning.documents.collection import Collection, Extract
from qa_lightning.documents.ranking import PassagePriors, RankedExtracts, Ranking, joined_windows
from qa_lightning.documents.sources import OnBad, unaskable
from qa_lightning.errors import MOST, InputError, is_too_large
from qa_lightning.features.batching import Batch, PaddingCollator
from qa_lightning.features.windows import Windower
from qa_lightning.inference.engine import BestAnswers, answer_all
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.wording import shown

log = logging.getLogger("qa_lightning")

TOP_K = 3
CANDIDATES = 20  # passages
PRIOR = 1.0  # of a passage: the weight of its score by words in the logarithm


@dataclass(frozen=True)
class AskSettings:
    """How documents are asked.

    Args:
        top_k: the maximum number of answers.
        candidates: passages that the model reads, at most; those that share most words with the question. With at most
            this many passages, the model reads whole documents, and the search is exact.
        prior: how much a passage's score by words (BM25) counts in the ranking: the prior probability of a passage is
            proportional to exp(prior x score). 0 leaves the ranking to the model alone. Where all passages are
            read, there is no prior.
        overlap: False for answers that do not overlap, True for any, or the share of the shorter of two answers, 0-1,
            that may be in the other one too.
        min_score: the lowest score of an answer, 0-1. Where no answer reaches it, none is returned.
        precision: takes the ``min_score`` at which, on the model's validation data, this share of the answers, 0-1, was
            right.
        batch_size: windows per forward pass; None takes the caller's usual one.
        on_bad: what a document that cannot be read does: ``error``, or ``skip`` with a line in the log.
    """

    top_k: int = TOP_K
    candidates: int = CANDIDATES
    prior: float = PRIOR
    overlap: bool | float = False
    min_score: float | None = None
    precision: float | None = None
    batch_size: int | None = None
    on_bad: OnBad = "error"

    def check(self) -> None:
        """Check the values.

        Raises:
            InputError: some are out of range or of the wrong type.
        """
        if problems := self._problems():
            raise InputError(problems)

    def _problems(self) -> list[str]:
        problems = []
        for name in ("top_k", "candidates", "batch_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                problems.append(f"--{name} is {value!r}; pass a whole number of at least 1")
            elif is_too_large(value):
                problems.append(f"--{name} is {shown(value)}; pass at most {MOST}")
        for name in ("overlap", "min_score", "precision"):
            value = getattr(self, name)
            is_switch = isinstance(value, bool)
            if value is None or (is_switch and name == "overlap"):
                continue
            if is_switch or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                problems.append(f"--{name} is {value!r}; pass a number from 0 to 1")
        is_number = isinstance(self.prior, (int, float)) and not isinstance(self.prior, bool)
        if not is_number or not 0 <= self.prior < math.inf:
            problems.append(f"--prior is {self.prior!r}; pass a number of at least 0")
        if self.min_score is not None and self.precision is not None:
            problems.append("--min_score and --precision both say which answers are left out; pass one of them")
        return problems


@dataclass(frozen=True)
class Reading:
    """What a model found in documents.

    Attributes:
        question: what was asked.
        answers: spans, best first, with their probabilities; "no answer" is not among them.
        null_probability: of "no answer", normalised together with the spans.
        windows: the part of a document that each window covers, in the order in which the model's input has them.
        best: what a calibrator reads of the best span; None without a span.
    """

    question: str
    answers: list[DocumentAnswer]
    null_probability: float
    windows: list[Extract]
    best: BestSpan | None


@dataclass(frozen=True)
class AskedModel:
    """A model as documents need it.

    Attributes:
        windower: cuts the windows.
        settings: how the model is asked.
        forward: returns the start and end logits, [B, T] each, of a batch.
        collate: pads the windows of a batch.
        batch_size: windows per forward pass, unless a call says otherwise.
    """

    windower: Windower
    settings: AnswerSettings
    forward: Callable[[Batch], tuple[Tensor, Tensor]]
    collate: PaddingCollator
    batch_size: int

    def ask(self, question: Any, documents: Any, asked: AskSettings) -> list[DocumentAnswer]:
        """Up to ``top_k`` answers, best first; see `reader.Reader.ask`."""
        asked.check()
        min_score = self._min_score(asked)
        found = self._read(question, documents, asked)
        answers = found.answers
        if self.settings.version_2 or not answers:
            rank = next((rank for rank, one in enumerate(answers) if one.score < found.null_probability), len(answers))
            answers.insert(rank, DocumentAnswer(found.question, "", found.null_probability))
        if (calibrator := self.settings.scaling.calibrator) is not None and found.best is not None:
            right = found.best.right(answers[0].score, answers[0].document is None, calibrator)
            scores = rescaled([answer.score for answer in answers], 0, right).tolist()
            answers = [replace(answer, score=score) for answer, score in zip(answers, scores, strict=True)]
        return [answer for answer in answers[: asked.top_k] if answer.score >= min_score]

    def read(self, question: Any, documents: Any, asked: AskSettings) -> Reading:
        """All that the model found: up to ``top_k`` spans, whatever their score; see `reader.Reader.ask`."""
        asked.check()
        return self._read(question, documents, asked)

    def _read(self, question: Any, documents: Any, asked: AskSettings) -> Reading:
        if problem := unaskable(question):
            raise InputError(f"the question {problem}")
        collection = Collection.read(documents, asked.on_bad)
        extracts = collection.extracts(question, asked.candidates)
        texts = [collection.documents[one.document].text[one.start : one.end] for one in extracts]
        ranking = Ranking(asked.top_k, float(asked.overlap), self.settings.max_answer_length, self.settings.scaling)
        policy = RankedExtracts(self.windower, question, texts, ranking, PassagePriors.of(extracts, asked.prior))
        batch_size = asked.batch_size or self.batch_size
        (found,) = answer_all(policy, self.forward, self.collate, batch_size)
        places = [extracts[one.extract].within(one.start, one.end) for one in found.spans]
        answers = [
            DocumentAnswer.at(question, one.score, collection, place.document, place.start, place.end)
            for one, place in zip(found.spans, places, strict=True)
        ]
        windows = [extracts[extract].within(start, end) for extract, start, end in policy.windows()]
        return Reading(question, answers, found.null_probability, windows, found.best)

    def answer_each(self, questions: Sequence[str], texts: Sequence[Sequence[str]], batch_size: int) -> list[Answer]:
        """The best answer to each question from its own texts, by the rule of `engine.BestAnswers`.

        Args:
            questions: N questions.
            texts: of each question, at least one.
            batch_size: windows per forward pass.

        Returns:
            N answers; their offsets are those of the question's texts one after the other.

        Raises:
            InputError: logits are not numbers.
        """
        items = [{"question": one, "context": "".join(own)} for one, own in zip(questions, texts, strict=True)]
        policy = BestAnswers(self.windower, self.settings, items, joined_windows(self.windower, questions, texts))
        return answer_all(policy, self.forward, self.collate, batch_size)

    def _min_score(self, asked: AskSettings) -> float:
        if asked.min_score is None and asked.precision is None:
            return 0.0
        if not self.settings.version_2:
            _say_once(
                'this model was trained on questions that all have an answer, so it knows no "no answer": its scores '
                "compare the spans of the documents, and can be high where no document has the answer"
            )
        if asked.precision is None:
            return float(asked.min_score or 0.0)
        return self.settings.score_at(asked.precision)


def pipeline_answers(answers: list[DocumentAnswer], top_k: int) -> Any:
    """The answers to one question as a pipeline returns them: a dict if ``top_k`` is 1, else a list of dicts."""
    found = [
        {"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text, **answer.about()}
        for answer in answers
    ]
    if top_k > 1:
        return found
    return (
        found[0] if found else {"score": 0.0, "start": 0, "end": 0, "answer": "", **DocumentAnswer("", "", 0).about()}
    )


@cache
def _say_once(message: str) -> None:
    log.warning(message)
