"""Questions of one call -> windows -> logits -> answers, as `QuestionAnsweringPipeline` gives them.

Scores are probabilities: normalised over every span of every window and the null answer together, so scores of windows
compare and those of one question never add up to more than 1. Where answers are widened to whole words, an answer is a
text: the probabilities of the candidates that read alike, wherever they stand, are added up, and its place is that of
the likeliest. Where they are not, an answer is a place, and its score that of its span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from tokenizers import Encoding

from qa_lightning.decoding.logits import FeatureLogits, LogitsCollector, complete_rows, join_windows
from qa_lightning.decoding.spans import Scaling, Spans, WindowLogits, decode_spans
from qa_lightning.errors import InputError
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower
from qa_lightning.inference.arguments import Asked

AnswerDict = dict[str, Any]  # score, start, end, answer


class Reading(Protocol):
    """Some questions on their way from windows to answers.

    Attributes:
        store: their windows.
    """

    store: FeatureStore

    def add(self, batch: Mapping[str, torch.Tensor], start: torch.Tensor, end: torch.Tensor) -> None:
        """Take in a batch of `batching.PaddingCollator` and its logits, [B, T] each."""

    def answers(self) -> list[list[AnswerDict]]:
        """The answers to each question, best first, once all windows were added."""


@dataclass(frozen=True)
class CallSettings:
    """How one call is answered.

    Args:
        top_k: answers to give, at most.
        max_answer_len: the longest answer, in tokens, before it is widened to whole words.
        handle_impossible_answer: whether "no answer" is one.
        align_to_words: widen answers to whole words, and give each text once.
        scaling: how scores become probabilities, with the threshold above which "no answer" comes first.
    """

    top_k: int = 1
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    scaling: Scaling = field(default_factory=Scaling)


class ExactReading:
    """Answers by exact decoding over all windows; see the module and `Reading`.

    Args:
        windower: cuts the windows.
        settings: of the call.
        asked: the questions.
    """

    def __init__(self, windower: Windower, settings: CallSettings, asked: Sequence[Asked]) -> None:
        self._settings = settings
        self._asked = asked
        contexts = [one["context"] for one in asked]
        self._encodings = windower.encode_contexts(contexts)
        questions = [one["question"] for one in asked]
        self.store = FeatureStore.of_batch(
            windower(questions, contexts, [None] * len(asked), encodings=self._encodings)
        )
        self._logits = LogitsCollector()

    def add(self, batch: Mapping[str, torch.Tensor], start: torch.Tensor, end: torch.Tensor) -> None:
        """See `Reading`.

        Raises:
            InputError: logits that are not numbers.
        """
        logits = FeatureLogits.of_batch(batch, start.float(), end.float(), torch.zeros(len(start)))
        if logits.broken_rows().any():
            raise InputError("the model's logits are not numbers: its weights are broken, or its dtype is too narrow")
        self._logits.add(logits)

    def answers(self) -> list[list[AnswerDict]]:
        """See `Reading`."""
        logits = self._logits.take()
        found: list[list[AnswerDict]] = []
        for _, windows in join_windows(logits, self.store, complete_rows(logits, self.store)):
            found += self._of_windows(windows, len(found))
        return found

    def _of_windows(self, windows: WindowLogits, first: int) -> list[list[AnswerDict]]:
        """Answers to the questions of some windows, of which ``first`` is the first; as many candidates as needed."""
        wanted = self._settings.top_k
        candidates = 2 * wanted + 10 if self._settings.align_to_words else wanted
        spans = decode_spans(windows, candidates, self._settings.max_answer_len, self._settings.scaling)
        found = [self._distinct(spans, number, first + number) for number in range(len(spans.count))]
        short = [row for row, answers in enumerate(found) if len(answers) < wanted and spans.count[row] == candidates]
        while short:
            candidates *= 4
            part = _of_examples(windows, short)
            more = decode_spans(part, candidates, self._settings.max_answer_len, self._settings.scaling)
            for number, row in enumerate(short):
                found[row] = self._distinct(more, number, first + row)
            short = [
                row for number, row in enumerate(short) if len(found[row]) < wanted and more.count[number] == candidates
            ]
        for number, answers in enumerate(found):
            if self._settings.handle_impossible_answer:
                _insert_null(answers, float(spans.null_probability[number]))
            del answers[wanted:]
        return found

    def _distinct(self, spans: Spans, number: int, asked: int) -> list[AnswerDict]:
        """The distinct answers of example ``number`` of ``spans``, which is question ``asked``, best first."""
        context = self._asked[asked]["context"]
        encoding = self._encodings[context]
        answers: dict[str | tuple[int, int], AnswerDict] = {}
        begin = int(spans.offset[number])
        for span in range(begin, begin + int(spans.count[number])):
            start, end = int(spans.char_start[span]), int(spans.char_end[span])
            key: str | tuple[int, int] = (start, end)
            if self._settings.align_to_words:
                start, end = whole_words(encoding, context, start, end)
                key = context[start:end].lower()
            score = float(spans.probability[span])
            if key in answers:
                answers[key]["score"] += score
            else:
                answers[key] = {"score": score, "start": start, "end": end, "answer": context[start:end]}
        return sorted(answers.values(), key=lambda answer: -answer["score"])


def _insert_null(answers: list[AnswerDict], score: float) -> None:
    """Put "no answer" at its place, behind spans that are as likely."""
    place = next((at for at, answer in enumerate(answers) if answer["score"] < score), len(answers))
    answers.insert(place, {"score": score, "start": 0, "end": 0, "answer": ""})


def _of_examples(windows: WindowLogits, examples: Sequence[int]) -> WindowLogits:
    """The windows of some examples, ascending, numbered anew."""
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


def whole_words(encoding: Encoding, context: str, start: int, end: int) -> tuple[int, int]:
    """Widen a place to the words, as the tokenizer parts them, that its first and last character are in.

    White space at a word's edges stays out. A place whose edge is in no word stays as it is there.
    """
    first, last = (_word(encoding, place) for place in (start, end - 1))
    begin = min(start, first[0]) if first else start
    stop = max(end, last[1]) if last else end
    while begin < start and context[begin].isspace():
        begin += 1
    while stop > end and context[stop - 1].isspace():
        stop -= 1
    return begin, stop


def _word(encoding: Encoding, place: int) -> tuple[int, int] | None:
    number = encoding.char_to_word(place)
    span: tuple[int, int] | None = None if number is None else encoding.word_to_chars(number)
    return span
