"""Rank the answers of all windows of all extracts together: one example, one probability space, one "no answer".

Offsets are those of the extracts one after the other, so the decoder (`decoding/decoder.py`) sees one long context that
no window crosses.

Where passages were searched by words, each has a prior probability of holding the answer, proportional to
exp(weight x its score). It multiplies the probability of the spans that begin in the passage, before all are normalised
together; so there still is one probability space. "No answer" has the prior of the best passage. A reader that was
trained on texts with an answer alone is as certain in wrong passages as in the right one, and the prior says which is
which.

Answers that overlap too much are left out greedily: the best span is taken, then the best of the spans that overlap
none of those taken, and so on. The search is exact: it decodes more spans until enough are taken or there are no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qa_lightning.arrays import Ints
from qa_lightning.decoding.calibrator import BestSpan
from qa_lightning.decoding.decoder import BrokenLogitsError, Decoder
from qa_lightning.decoding.pairs import mean_of
from qa_lightning.decoding.spans import Scaling, Spans, WindowLogits, decode_spans
from qa_lightning.documents.collection import Extract
from qa_lightning.features.defaults import MAX_ANSWER_LENGTH
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower


@dataclass(frozen=True)
class Ranking:
    """How answers are ranked.

    Args:
        top_k: the maximum number of answers.
        overlap: how much of the shorter of two answers may also be in the other one, 0-1; at 1, none is left out.
        max_answer_length: the longest answer, in tokens.
        scaling: how scores become probabilities.
    """

    top_k: int = 1
    overlap: float = 0.0
    max_answer_length: int = MAX_ANSWER_LENGTH
    scaling: Scaling = field(default_factory=Scaling)


class Ranked(NamedTuple):
    """A span in one of the extracts.

    Attributes:
        extract: index of the extract.
        start, end: character offsets in the extract.
        score: probability over all spans of all extracts and "no answer".
    """

    extract: int
    start: int
    end: int
    score: float


class FoundInTexts(NamedTuple):
    """The answers to one question.

    Attributes:
        spans: best first.
        null_probability: of "no answer".
        best: what a calibrator reads of the best span; None without a span.
    """

    spans: list[Ranked]
    null_probability: float
    best: BestSpan | None


class RankedExtracts:
    """The answers to one question from several texts; an `engine.AnswerPolicy` with one result.

    Args:
        windower: cuts the windows.
        question: to answer.
        extracts: texts to find answers in, at least one.
        ranking: how.
        priors: of passages; None if all are alike.
    """

    def __init__(
        self,
        windower: Windower,
        question: str,
        extracts: Sequence[str],
        ranking: Ranking,
        priors: PassagePriors | None = None,
    ) -> None:
        self._ranking = ranking
        self._priors = priors
        self._begin = begins(extracts)
        self.store = joined_windows(windower, [question], [extracts])
        self._decoder = Decoder(self.store, self._search)

    def add(self, batch: Mapping[str, Tensor], start: Tensor, end: Tensor) -> None:
        """Collect the logits, [B, T] each, of a batch of windows."""
        self._decoder.add_batch(batch, start.float(), end.float())

    def answers(self) -> list[FoundInTexts]:
        """Up to ``top_k`` spans, and "no answer", with their probabilities.

        Raises:
            InputError: logits are not numbers.
        """
        decoded = self._decoder.take()
        if len(decoded.broken):
            raise BrokenLogitsError
        spans = decoded.spans
        extract = np.searchsorted(self._begin, spans.char_start, side="right") - 1
        begin = self._begin[extract]
        rows = zip(extract, spans.char_start - begin, spans.char_end - begin, spans.probability, strict=True)
        found = [Ranked(int(one), int(start), int(end), float(score)) for one, start, end, score in rows]
        return [FoundInTexts(found, float(spans.null_probability[0]), spans.best_span(0))]

    def windows(self) -> list[tuple[int, int, int]]:
        """Extract, start and end offset in it of what each window covers; windows without text are left out."""
        length = self.store.windows["context_length"].astype(np.int64)
        begin = self.store.context_offset[length > 0]
        if not len(begin):
            return []
        covers = self.store.char_end > self.store.char_start
        first = np.minimum.reduceat(np.where(covers, self.store.char_start, np.iinfo(np.int32).max), begin)
        last = np.maximum.reduceat(np.where(covers, self.store.char_end, -1), begin)
        extract = np.searchsorted(self._begin, first, side="right") - 1
        offset = self._begin[extract]
        rows = zip(extract.tolist(), (first - offset).tolist(), (last - offset).tolist(), strict=True)
        return [row for row in rows if row[1] < row[2]]

    def _search(self, index: NDArray[np.int64], windows: WindowLogits) -> Spans:
        if self._priors is not None:
            # Scores are divided by the temperature, which belongs to the reader alone.
            prior = self._ranking.scaling.temperature * self._priors.at(windows.char_start)
            if own := self._ranking.scaling.of_models:  # each model's scores, by its own temperature
                prior = np.multiply.outer(prior, np.array(own) / mean_of(own))
            windows = replace(windows, start=windows.start + prior)
        return apart(windows, self._ranking)


@dataclass(frozen=True)
class PassagePriors:
    """The prior of each of P passages.

    Attributes:
        begin: [P] the passage's offset, ascending, in the extracts one after the other.
        log_prior: [P] the prior's logarithm, not normalised; 0 for the best passage.
    """

    begin: NDArray[np.int64]
    log_prior: NDArray[np.float64]

    @classmethod
    def of(cls, extracts: Sequence[Extract], weight: float) -> PassagePriors | None:
        """The priors of the passages in ``extracts``; None if they were not searched, or weigh nothing."""
        scores = np.array([score for one in extracts for _, score in one.passages])
        if not len(scores) or weight == 0:
            return None
        lengths = np.array([one.end - one.start for one in extracts], np.int64)
        before = (np.cumsum(lengths) - lengths).tolist()
        begin = [at + start - one.start for at, one in zip(before, extracts, strict=True) for start, _ in one.passages]
        return cls(np.array(begin, np.int64), weight * (scores - scores.max()))

    def at(self, offset: Ints) -> NDArray[np.float64]:
        """The prior's logarithm at each offset."""
        return self.log_prior[np.searchsorted(self.begin, offset, side="right") - 1]


def begins(texts: Sequence[str]) -> NDArray[np.int64]:
    """Offset of each text, if the texts follow each other."""
    lengths = np.array([len(text) for text in texts], np.int64)
    return np.cumsum(lengths) - lengths


def joined_windows(windower: Windower, questions: Sequence[str], texts: Sequence[Sequence[str]]) -> FeatureStore:
    """The windows of all texts of a question as those of one example, so that the decoder compares all of them.

    Offsets are those of the texts one after the other; no window crosses from one text into the next.

    Args:
        windower: cuts the windows.
        questions: N questions.
        texts: of each question, at least one.
    """
    flat = [text for own in texts for text in own]
    question = np.repeat(np.arange(len(questions)), [len(own) for own in texts])
    begin = np.concatenate([begins(own) for own in texts])
    features = windower([questions[number] for number in question.tolist()], flat, [None] * len(flat))
    of_token = np.repeat(begin[features.windows["example"]], features.windows["context_length"])
    for offsets in (features.char_start, features.char_end):
        offsets += of_token.astype(offsets.dtype)
    features.windows["example"] = question[features.windows["example"]]
    return FeatureStore.of_batch(features)


def apart(windows: WindowLogits, ranking: Ranking) -> Spans:
    """The best spans of one example, no two of which overlap by more than ``ranking.overlap``; greedy and exact."""
    count = ranking.top_k if ranking.overlap >= 1 else 32 * ranking.top_k
    while True:
        spans = decode_spans(windows, count, ranking.max_answer_length, ranking.scaling)
        rows = _greedy(spans.char_start, spans.char_end, ranking)
        if len(rows) == ranking.top_k or len(spans.score) < count:
            return _only(spans, rows)
        count *= 4


def _greedy(start: Ints, end: Ints, ranking: Ranking) -> NDArray[np.intp]:
    """Rows of the spans that are taken, of spans that come best first."""
    if ranking.overlap >= 1:
        return np.arange(len(start))[: ranking.top_k]
    rest = np.arange(len(start))
    taken: list[int] = []
    while len(rest) and len(taken) < ranking.top_k:
        best = rest[0]
        taken.append(int(best))
        shared = np.minimum(end[rest], end[best]) - np.maximum(start[rest], start[best])
        shorter = np.minimum(end[rest] - start[rest], end[best] - start[best])
        free = shared <= ranking.overlap * shorter
        free[0] = False
        rest = rest[free]
    return np.array(taken, np.intp)


def _only(spans: Spans, rows: NDArray[np.intp]) -> Spans:
    """Some of the spans of one example."""
    return Spans(
        np.array([len(rows)], spans.count.dtype),
        spans.char_start[rows],
        spans.char_end[rows],
        spans.score[rows],
        spans.probability[rows],
        spans.null_score,
        spans.null_probability,
        spans.log_spans,
        spans.second_score,
    )
