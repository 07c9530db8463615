"""The loop from questions through windows and logits to answers; reader, pipeline and files of questions all use it.

An `AnswerPolicy` holds some questions, all in memory at once: it cuts their windows, collects the logits and decides
the answers. `answer_all` runs the model. There are three policies:

* `BestAnswers`: one answer per question, as in validation: the best span, or "no answer" above the threshold. `Reader`
  uses it.
* `RankedAnswers`: the ``top_k`` answers of a pipeline call. Scores are probabilities, normalised over every span of
  every window and the null answer together, so scores of different windows compare, and those of one question sum to
  at most 1. With ``align_to_words`` an answer is a text: the probabilities of the spans that read alike are added up,
  if they are at least `MIN_ADDED` each, and the offsets are those of the likeliest span. So the answers of any
  ``top_k`` are the first ones of a larger one. Without it an answer is a span, with its own score. Whether "no answer"
  comes first is decided against the best span, as by the other policy; the sums below it count at most as much as it.
  A model with a `Calibrator` gives the first answer its score, and the others theirs by `calibrator.rescaled`.
* `v4.V4Answers`: the answers and scores of transformers 4.57.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from torch import Tensor

from qa_lightning.decoding.calibrator import rescaled
from qa_lightning.decoding.decoder import BestSpans, BrokenLogitsError, Decoder
from qa_lightning.decoding.predictions import Answer, Predictions, Rows
from qa_lightning.decoding.spans import Spans, WindowLogits, decode_spans
from qa_lightning.features.batching import Batch, PaddingCollator, window_batches
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower
from qa_lightning.inference.arguments import Item
from qa_lightning.inference.cutting import CutQuestions
from qa_lightning.inference.settings import CallSettings
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.progress import loop_progress

MIN_ADDED = 0.001  # probability; a thousand spans at most have it, and an answer of weaker ones has that of the best
CHUNK_FACTOR = 16  # times the batch size: the questions whose windows are cut and sorted by length together
AnswerDict = dict[str, Any]  # score, start, end, answer
Found = TypeVar("Found")


class AnswerPolicy(Protocol[Found]):
    """Some questions and the policy that answers them.

    Attributes:
        store: the windows of the questions.
    """

    store: FeatureStore

    def add(self, batch: Batch, start: Tensor, end: Tensor) -> None:
        """Collect the logits, [B, T] each, of a batch of `batching.PaddingCollator`."""

    def answers(self) -> list[Found]:
        """The result of each question all of whose windows were added, in order; call it once."""


def answer_all(
    policy: AnswerPolicy[Found],
    forward: Callable[[Batch], tuple[Tensor, Tensor]],
    collate: PaddingCollator,
    batch_size: int,
    what: str | None = None,
) -> list[Found]:
    """Answer the questions of a policy.

    Args:
        policy: the policy, with the questions.
        forward: returns the start and end logits, [B, T] each, of a batch.
        collate: pads the windows of a batch.
        batch_size: windows per forward pass.
        what: name of the loop in the lines about progress; None shows no progress.

    Raises:
        InputError: logits are not numbers.
    """
    with nullcontext() if what is None else loop_progress(len(policy.store), "window", what=what) as progress:
        for batch in window_batches(policy.store, collate, batch_size):
            policy.add(batch, *forward(batch))
            if progress is not None:
                progress.update(len(batch["input_ids"]))
    return policy.answers()


class BestAnswers:
    """The best span of each question, or "no answer"; an `AnswerPolicy`.

    Args:
        windower: cuts the windows.
        settings: how the model is asked.
        items: the questions.
        store: their windows, if they are cut already.
    """

    def __init__(
        self, windower: Windower, settings: AnswerSettings, items: Sequence[Item], store: FeatureStore | None = None
    ) -> None:
        self._settings = settings
        self._rows = Rows([{"id": str(number), **item} for number, item in enumerate(items)])
        if store is None:
            questions, contexts = [item["question"] for item in items], [item["context"] for item in items]
            store = FeatureStore.of_batch(windower(questions, contexts, [None] * len(items)))
        self.store = store
        self._decoder = Decoder(self.store, BestSpans(1, settings.max_answer_length, settings.scaling))

    def add(self, batch: Batch, start: Tensor, end: Tensor) -> None:
        """See `AnswerPolicy`."""
        self._decoder.add_batch(batch, start.float(), end.float())

    def answers(self) -> list[Answer]:
        """See `AnswerPolicy`.

        Raises:
            InputError: logits are not numbers.
        """
        index, spans = _decoded(self._decoder, self.store)
        own = self._settings
        threshold, calibrator = own.null_score_diff_threshold, own.scaling.calibrator
        predictions = Predictions(self._rows, index, spans, own.version_2, threshold, calibrator)
        return [answer for _, _, answer in predictions.rows()]


class RankedAnswers:
    """Up to ``top_k`` distinct answers to each question, best first, and at least one; an `AnswerPolicy`.

    Where a context has no possible answer, the one answer is "no answer", whether or not it may be one.

    Args:
        questions: with their windows.
        settings: of the call.
    """

    def __init__(self, questions: CutQuestions, settings: CallSettings) -> None:
        self._settings = settings
        self._items = questions.items
        self._encodings = questions.encodings
        self.store = questions.store
        self._decoder = Decoder(self.store, self._search)
        self._listed: dict[int, list[_Listed]] = {}  # question -> its answers, where the search had to count them

    def add(self, batch: Batch, start: Tensor, end: Tensor) -> None:
        """See `AnswerPolicy`."""
        self._decoder.add_batch(batch, start.float(), end.float())

    def answers(self) -> list[list[AnswerDict]]:
        """See `AnswerPolicy`.

        Raises:
            InputError: logits are not numbers.
        """
        index, spans = _decoded(self._decoder, self.store)
        null_wins = spans.null_score - spans.best_score > self._settings.scaling.threshold
        found: list[list[_Listed]] = []
        for number, question in enumerate(index.tolist()):
            answers = self._listed.pop(question, None) or self._distinct(spans, number, question)
            if self._settings.handle_impossible_answer or not answers:
                _insert_null(answers, float(spans.null_probability[number]), bool(null_wins[number]))
            found.append(answers[: self._settings.top_k])
        if (calibrator := self._settings.scaling.calibrator) is not None:
            chosen = np.array([answers[0].row for answers in found], np.int64)
            for answers, right in zip(found, spans.right(chosen, calibrator).tolist(), strict=True):
                scores = rescaled([answer.values["score"] for answer in answers], 0, right)
                for answer, score in zip(answers, scores.tolist(), strict=True):
                    answer.values["score"] = score
        return [[answer.values for answer in answers] for answers in found]

    def _search(self, index: NDArray[np.int64], windows: WindowLogits) -> Spans:
        """Decode enough spans of each question for ``top_k`` distinct answers, or all its spans if they have fewer.

        Several spans may be one answer, so questions with too few answers are decoded again with 4 times the spans.
        """
        settings = self._settings
        candidates = 2 * settings.top_k + 10 if settings.align_to_words else settings.top_k
        least = MIN_ADDED if settings.align_to_words else np.inf
        spans = decode_spans(windows, candidates, settings.max_answer_len, settings.scaling, least)
        rows = np.arange(len(index))  # questions that may still have too few answers
        found = spans
        while len(rows):
            lacking = [
                number
                for number, row in enumerate(rows.tolist())
                if found.count[number] >= candidates and self._count(found, number, int(index[row])) < settings.top_k
            ]
            rows = rows[lacking]
            for row in rows.tolist():
                del self._listed[int(index[row])]
            if len(rows):
                candidates *= 4
                rest = _of_examples(windows, rows)
                found = decode_spans(rest, candidates, settings.max_answer_len, settings.scaling, least)
                spans = _replaced(spans, rows, found)
        return spans

    def _count(self, spans: Spans, number: int, question: int) -> int:
        """The number of distinct answers; they are kept, because these spans are the result if there are enough."""
        self._listed[question] = self._distinct(spans, number, question)
        return len(self._listed[question])

    def _distinct(self, spans: Spans, number: int, question: int) -> list[_Listed]:
        """The distinct answers of example ``number`` of ``spans``, which is item ``question``, best first."""
        context = self._items[question]["context"]
        encoding = self._encodings[context]
        answers: dict[str | tuple[int, int], _Listed] = {}
        begins: dict[int, int] = {}  # many spans begin or end alike
        ends: dict[int, int] = {}
        begin = int(spans.offset[number])
        own = slice(begin, begin + int(spans.count[number]))
        listed = (values[own].tolist() for values in (spans.char_start, spans.char_end, spans.probability))
        for row, (start, end, score) in enumerate(zip(*listed, strict=True)):
            key: str | tuple[int, int] = (start, end)
            if self._settings.align_to_words:
                if start not in begins:
                    begins[start] = word_begin(encoding, context, start)
                if end not in ends:
                    ends[end] = word_end(encoding, context, end)
                start, end = begins[start], ends[end]
                key = context[start:end].lower()
            if key not in answers:
                values = {"score": score, "start": start, "end": end, "answer": context[start:end]}
                answers[key] = _Listed(row, values)
            elif score >= MIN_ADDED:
                answers[key].values["score"] += score
        return sorted(answers.values(), key=lambda answer: -answer.values["score"])


class _Listed(NamedTuple):
    row: int  # of the likeliest span that reads so, among the question's; -1 for "no answer"
    values: AnswerDict


def _decoded(decoder: Decoder, store: FeatureStore) -> tuple[NDArray[np.int64], Spans]:
    """The indices of the questions, in order, and the spans of each.

    Raises:
        BrokenLogitsError: logits are not numbers.
    """
    decoded = decoder.take()
    if len(decoded.broken):
        raise BrokenLogitsError(sorted({*store.example[decoded.broken].tolist()}))
    return decoded.index, decoded.spans


def _insert_null(answers: list[_Listed], score: float, wins: bool) -> None:
    """Insert "no answer": first if it wins against the best span, else by its score, after spans of the same score.

    Where it wins, other scores become at most its own, which sums of several spans may exceed.
    """
    null = _Listed(-1, {"score": score, "start": 0, "end": 0, "answer": ""})
    if wins or not answers:
        for answer in answers:
            answer.values["score"] = min(answer.values["score"], score)
        answers.insert(0, null)
        return
    best = answers[0].values
    null.values["score"] = min(score, best["score"])  # a rounding error apart, it is not more probable
    rank = next((at for at, other in enumerate(answers) if other.values["score"] < null.values["score"]), len(answers))
    answers.insert(rank, null)


def _of_examples(windows: WindowLogits, examples: NDArray[np.intp]) -> WindowLogits:
    """The windows of ``examples`` (ascending), with the examples renumbered from 0."""
    rows = np.isin(windows.example, examples)
    tokens = np.repeat(rows, windows.length)
    return WindowLogits(
        example=np.searchsorted(examples, windows.example[rows]),
        length=windows.length[rows],
        start=windows.start[tokens],
        end=windows.end[tokens],
        char_start=windows.char_start[tokens],
        char_end=windows.char_end[tokens],
        null=windows.null[rows],
    )


def _replaced(spans: Spans, rows: NDArray[np.intp], by: Spans) -> Spans:
    """``spans``, but those of the examples ``rows`` come from ``by``."""
    source = np.arange(len(spans.count))
    source[rows] = len(spans.count) + np.arange(len(rows))
    return Spans.concatenate([spans, by]).take(source)


def word_begin(encoding: Encoding, context: str, start: int) -> int:
    """Where the word of the character at ``start`` begins: the tokenizer's word, without white space at its edge.

    An offset in no word does not move.
    """
    word = _word(encoding, start)
    begin = min(start, word[0]) if word else start
    while begin < start and context[begin].isspace():
        begin += 1
    return begin


def word_end(encoding: Encoding, context: str, end: int) -> int:
    """Where the word of the character before ``end`` ends; see `word_begin`."""
    word = _word(encoding, end - 1)
    stop = max(end, word[1]) if word else end
    while stop > end and context[stop - 1].isspace():
        stop -= 1
    return stop


def _word(encoding: Encoding, offset: int) -> tuple[int, int] | None:
    number = encoding.char_to_word(offset)
    span: tuple[int, int] | None = None if number is None else encoding.word_to_chars(number)
    return span
