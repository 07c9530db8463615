"""Reproduce the answers and scores of transformers 4.57's question-answering pipeline, faults included.

For users who stored thresholds on its scores. Its known faults: start and end probabilities are a softmax per window,
so scores of different windows do not compare; scores of equal texts are added up, so they can exceed 1; "no answer" is
read at the first token, and takes the smallest score over the windows; a long question is not cut; if there are fewer
spans than asked for, empty answers fill the list. Source: ``question_answering.py`` of transformers 4.57.6.

Two differences remain. In 4.57 the number of empty answers depended on the padding of the batch; with tokenizers that
pad on the left all answers did, and question tokens could be answers. Here padding changes nothing. Where a question
made the tokenizer's library panic in 4.57 because windows could not advance, a ValueError is raised here.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding

from qa_lightning.errors import InputError
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import WINDOW, FeatureBatch
from qa_lightning.inference.arguments import Item
from qa_lightning.inference.settings import V4_STRIDE, V4_WINDOW_LENGTH, V4Settings

_Float32s = NDArray[np.float32]
_OUT = -10000.0  # replaces the logit of a token at which no answer may start or end


@dataclass(frozen=True)
class _Window:
    item: int
    encoding: Encoding
    allowed: NDArray[np.bool_]  # [T] context tokens, and every token with the CLS token's id


@dataclass(frozen=True)
class V4Questions:
    """Some questions and their windows as 4.57 cut them.

    Attributes:
        items: the questions.
        store: their windows; the ``example`` of a window is the index of its question.
        windows: the same windows, as the tokenizer gave them.
        context_first: whether a window begins with the context.
    """

    items: Sequence[Item]
    store: FeatureStore
    windows: list[_Window]
    context_first: bool


class V4Windower:
    """Cuts windows with a tokenizer, as 4.57 did, but one of its own: truncation is state, which any thread changes.

    Copies and pickles make their own copy again.
    """

    def __init__(self) -> None:
        self._source: Any = None
        self._tokenizer: Any = None  # a copy of the source
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[V4Windower], tuple[()]]:
        return type(self), ()

    def cut(self, tokenizer: Any, settings: V4Settings, items: Sequence[Item]) -> V4Questions:
        """Cut the windows of some questions.

        Args:
            tokenizer: the pipeline's; it is copied, not used.
            settings: of the call.
            items: the questions.

        Raises:
            ValueError: ``doc_stride`` exceeds ``max_seq_len``, or windows cannot advance beside the question. If the
                question leaves no room at all, the tokenizer's own exception comes through.
        """
        left = tokenizer.padding_side == "left"
        windows = []
        for number, one in enumerate(items):
            with self._lock:
                if self._source is not tokenizer:
                    self._source, self._tokenizer = tokenizer, copy.deepcopy(tokenizer)
                encodings = self._cut(settings, one, left, tokenizer.model_max_length)
            allowed = (_allowed(encoding, tokenizer.cls_token_id, left) for encoding in encodings)
            windows += [_Window(number, *pair) for pair in zip(encodings, allowed, strict=True)]
        return V4Questions(items, _store(windows), windows, left)

    def _cut(self, settings: V4Settings, one: Item, left: bool, limit: int) -> Sequence[Encoding]:
        length = min(limit, V4_WINDOW_LENGTH) if settings.max_seq_len is None else settings.max_seq_len
        stride = min(length // 2, V4_STRIDE) if settings.doc_stride is None else settings.doc_stride
        if stride > length:
            raise ValueError(f"`doc_stride` ({stride}) is larger than `max_seq_len` ({length})")
        pair = (one["question"], one["context"])
        try:
            return _encoded(self._tokenizer, pair[::-1] if left else pair, left, length, stride)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # from the Rust library; not derived from Exception
                raise
        raise InputError(
            f"doc_stride {stride} is too large: beside the question {one['question'][:60]!r}, windows of {length} "
            "tokens cannot advance; lower doc_stride or raise max_seq_len"
        )


def _encoded(tokenizer: Any, pair: tuple[str, ...], left: bool, length: int, stride: int) -> Sequence[Encoding]:
    encoded = tokenizer(
        *pair,
        truncation="only_first" if left else "only_second",
        max_length=length,
        stride=stride,
        return_token_type_ids=True,
        return_overflowing_tokens=True,
    )
    encodings: Sequence[Encoding] = encoded.encodings
    return encodings


def _allowed(encoding: Encoding, cls: int | None, left: bool) -> NDArray[np.bool_]:
    context = 0 if left else 1
    allowed = np.array([owner == context for owner in encoding.sequence_ids])
    return allowed if cls is None else allowed | (np.array(encoding.ids) == cls)


class V4Answers:
    """Up to ``top_k`` answers to each question, as 4.57 returned them; an `engine.AnswerPolicy`.

    Args:
        questions: with their windows.
        settings: of the call.
    """

    def __init__(self, questions: V4Questions, settings: V4Settings) -> None:
        self._settings = settings
        self._questions = questions
        self._logits: dict[int, tuple[_Float32s, _Float32s]] = {}
        self.store = questions.store

    def add(self, batch: Mapping[str, torch.Tensor], start: torch.Tensor, end: torch.Tensor) -> None:
        """Collect the logits, [B, T] each, of a batch of windows."""
        start, end = start.float().cpu(), end.float().cpu()
        for row, number in enumerate(batch["feature"].tolist()):
            real = batch["attention_mask"][row].bool()
            self._logits[number] = (start[row][real].numpy(), end[row][real].numpy())

    def answers(self) -> list[list[dict[str, Any]]]:
        """Up to ``top_k`` answers to each question whose windows were added, best first."""
        found: dict[int, list[dict[str, Any]]] = {}
        null: dict[int, float] = {}
        for number in sorted(self._logits):
            window = self._questions.windows[number]
            start, end = (_softmax(logits, window.allowed) for logits in self._logits[number])
            null[window.item] = min(null.get(window.item, 1000000.0), float(start[0] * end[0]))
            start[0] = end[0] = 0.0
            self._add_spans(found.setdefault(window.item, []), window, start, end)
        for item, answers in found.items():
            if self._settings.handle_impossible_answer:
                answers.append({"score": null[item], "start": 0, "end": 0, "answer": ""})
            answers.sort(key=lambda answer: answer["score"], reverse=True)
            del answers[self._settings.top_k :]
        return list(found.values())

    def _add_spans(self, answers: list[dict[str, Any]], window: _Window, start: _Float32s, end: _Float32s) -> None:
        """Add the likeliest spans of a window; the score of a text that is already listed is added to its entry."""
        context = self._questions.items[window.item]["context"]
        count = self._settings.top_k * 2 + 10 if self._settings.align_to_words else self._settings.top_k
        # [T, T], 0 where the end is before the start or too far behind it: 4.57 ranked these pairs too.
        table = np.tril(np.triu(np.outer(start, end)), self._settings.max_answer_len - 1)
        for index in _largest(table.ravel(), count):
            first, last = divmod(int(index), len(end))
            if not (window.allowed[first] and window.allowed[last]):
                continue
            begin, stop = self._characters(window.encoding, first, last)
            text, score = context[begin:stop], float(table[first, last])
            same = next((answer for answer in answers if answer["answer"].lower() == text.lower()), None)
            if same:
                same["score"] += score
            else:
                answers.append({"score": score, "start": begin, "end": stop, "answer": text})

    def _characters(self, encoding: Encoding, first: int, last: int) -> tuple[int, int]:
        if self._settings.align_to_words:
            begin, stop = (self._word(encoding, token) for token in (first, last))
            if begin is not None and stop is not None:
                return begin[0], stop[1]
        return encoding.offsets[first][0], encoding.offsets[last][1]

    def _word(self, encoding: Encoding, token: int) -> tuple[int, int] | None:
        """Start and end offset of the word that a token is in; a word cut by the window's edge ends there."""
        word = encoding.token_to_word(token)
        return None if word is None else encoding.word_to_chars(word, 0 if self._questions.context_first else 1)


def _store(cut: Sequence[_Window]) -> FeatureStore:
    """The windows as a `FeatureStore`; context offsets stay empty because nothing here reads them."""
    encodings = [window.encoding for window in cut]
    windows = np.zeros(len(encodings), WINDOW)
    windows["example"] = [window.item for window in cut]
    windows["length"] = [len(encoding) for encoding in encodings]
    nothing = np.zeros(0, np.int32)
    ids, types = (
        np.concatenate([nothing, *(np.array(getattr(encoding, name), np.int32) for encoding in encodings)])
        for name in ("ids", "type_ids")
    )
    return FeatureStore.of_batch(FeatureBatch(windows, ids, types.astype(np.int8), nothing, nothing, 0, nothing))


def _softmax(logits: _Float32s, allowed: NDArray[np.bool_]) -> _Float32s:
    shifted = np.where(allowed, logits, np.float32(_OUT))
    weights = np.exp(shifted - shifted.max())
    result: _Float32s = weights / weights.sum()
    return result


def _largest(scores: _Float32s, count: int) -> NDArray[np.intp]:
    """Indices of the largest scores, largest first; the order of equal scores is undefined (NumPy's)."""
    if count == 1:
        return np.array([np.argmax(scores)])
    if len(scores) < count:
        return np.argsort(-scores)
    some = np.argpartition(-scores, count)[:count]  # as in 4.57, this raises if there are exactly ``count`` scores
    return some[np.argsort(-scores[some])]
