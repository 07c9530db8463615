"""Examples -> features: windows of tokens with labels and flat character offsets.

A feature is one window: the question, then (or, for tokenizers that pad on the left, after) one stretch of the
context. Windows of one example overlap by ``doc_stride`` tokens. Everything follows from the tokenizer's own
description; no model name is looked at. Only fast tokenizers can do it: offsets come from the Rust library.

Limits: an answer is labelled in every window that holds it whole; one that is longer than the overlap can fall
between two windows and is then labelled nowhere (counted by `FeatureBatch.labelled`). Of several answers the first is
the label, unless a caller asks for all (`Windower`, ``others``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from qa_lightning.errors import InputError
from qa_lightning.features.labels import HeldSpans, gold_tokens, held_spans
from qa_lightning.features.pairs import IntArray, PairLayout, cut, ragged

WINDOW = np.dtype(
    [
        ("example", np.int64),  # index of the example that it is a window of
        ("length", np.int32),  # tokens, special ones included, without padding
        ("context_begin", np.int32),  # index of the first context token
        ("context_length", np.int32),  # context tokens
        ("cls", np.int32),  # index of the token that stands for "no answer in this window"
        ("start", np.int32),  # label: index of the first token of the first gold answer in the window, or cls
        ("end", np.int32),  # label: index of that answer's last token, or cls
    ]
)

# str.isspace for every code point up to the last one for which it holds
_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])


@dataclass(frozen=True)
class WindowSettings:
    """How contexts are cut into windows; all in tokens.

    Args:
        max_length: the longest feature, question and special tokens included.
        doc_stride: how many context tokens two neighbouring windows share.
        max_question_length: a longer question is cut to its first so many tokens.
    """

    max_length: int = 384
    doc_stride: int = 128
    max_question_length: int = 64

    def check(self, special_tokens: int) -> None:
        """Raise `InputError` unless the longest question leaves room for the context to move on."""
        problems = [
            f"--data.{name} is {value}; it must be at least {least}"
            for name, value, least in (
                ("max_length", self.max_length, 1),
                ("doc_stride", self.doc_stride, 0),
                ("max_question_length", self.max_question_length, 1),
            )
            if value < least
        ]
        room = self.max_length - self.max_question_length - special_tokens
        if not problems and self.doc_stride >= room:
            problems.append(
                f"--data.doc_stride {self.doc_stride} must be smaller than the room for context, {room} tokens "
                f"(--data.max_length {self.max_length} - --data.max_question_length {self.max_question_length} - "
                f"{special_tokens} special tokens); lower doc_stride or max_question_length, or raise max_length"
            )
        if problems:
            raise InputError(problems)


@dataclass(frozen=True)
class FeatureBatch:
    """The windows of some examples, ragged rows end to end.

    Attributes:
        windows: records of `WINDOW`, one a feature, in order of example, then of place in the context.
        input_ids, token_type_ids: flat, ``windows["length"].sum()`` values each.
        char_start, char_end: flat, ``windows["context_length"].sum()`` values each: the characters of the
            example's context that a context token covers, without white space at its edges, end exclusive, with the
            accents and vowel signs behind its last letter that normalizers dropped or composed, which no token
            covers; start equals end for a token that covers none, which no answer may start or end at.
        cut_questions: how many questions were longer than ``max_question_length``.
        labelled: for each example, how many of its windows hold an answer that it is trained on whole.
        gold_window, gold_start, gold_end: flat, the labels of windows that hold several distinct gold spans, the one
            in ``windows`` first: index of the window, ascending, and of the span's first and last token. Nothing for
            windows with one span or none.
        several: how many examples have a window that holds another answer than the first one.
    """

    windows: NDArray[np.void]
    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int8]
    char_start: NDArray[np.int32]
    char_end: NDArray[np.int32]
    cut_questions: int
    labelled: NDArray[np.int32]
    gold_window: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    gold_start: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    gold_end: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    several: int = 0


class Windower:
    """Cuts examples into features: the same windows as the tokenizer's own of a pair with stride.

    Each text is tokenized once: in SQuAD five questions share a context, whose windows are then put together from
    flat arrays.

    Args:
        tokenizer: a fast transformers tokenizer; its padding side decides whether question or context comes first.
        settings: lengths in tokens.
        offsets: keep character offsets, which decoding needs and training does not.
        yielding: take settings that leave no room beside the longest question. Where a question, and its context
            does not fit into one window, takes more than half of a window it is cut to that, and where the rest
            is no more than the overlap the overlap is half of the rest.

    Raises:
        InputError: slow tokenizer, or settings that leave no room for the context.
    """

    def __init__(self, tokenizer: Any, settings: WindowSettings, offsets: bool = True, yielding: bool = False) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path!r} ({type(tokenizer).__name__}) is a slow one and gives no "
                "character offsets; choose a model that has a fast tokenizer (a tokenizer.json)"
            )
        self._tokenizer = Tokenizer.from_str(backend.to_str())  # a copy: truncation is state of the tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._layout = PairLayout.of(self._tokenizer)
        if not yielding:
            settings.check(self._layout.special_tokens)
        self._context_first = tokenizer.padding_side == "left"
        self._settings = settings
        self._offsets = offsets
        # Not every family has a CLS token; the first token of a window is then the usual place for "no answer".
        cls_id = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        self._cls = self._layout.find(cls_id)

    def __call__(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        spans: Sequence[tuple[int, int] | None],
        first: int = 0,
        encodings: Mapping[str, Encoding] | None = None,
        others: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> FeatureBatch:
        """Cut examples into features.

        Args:
            questions, contexts: one each an example.
            spans: where the answer to train on stands in the context, ``(start, end)`` in characters, end
                exclusive; None for a question without an answer.
            first: the index of the first of these examples in the whole dataset.
            encodings: of the contexts, from `encode_contexts`, where a caller has them.
            others: where further answers to train on stand, in order; None for none. A window is then labelled with
                the first answer that it holds whole, which need not be the example's first.
        """
        number_of = {text: number for number, text in enumerate(dict.fromkeys(contexts))}
        texts = list(number_of)
        known = self.encode_contexts(texts) if encodings is None else encodings
        encoded = [known[text] for text in texts]
        question_ids, cut_questions = self._encode_questions(questions)
        cuts: list[tuple[int, int, int, int]] = []  # example, number of its context, first token, end of the tokens
        gold: list[list[tuple[int, int]]] = []  # of each example, first and last token in the context
        for example, (ids, context, span) in enumerate(zip(question_ids, contexts, spans, strict=True)):
            number = number_of[context]
            room = self._settings.max_length - self._layout.special_tokens - len(ids)
            stride = self._settings.doc_stride
            if len(encoded[number]) > room and stride >= room:  # only where yielding
                question_ids[example] = ids[: (self._settings.max_length - self._layout.special_tokens) // 2]
                room += len(ids) - len(question_ids[example])
                stride = min(stride, room // 2)
            cuts += [(example, number, *ends) for ends in cut(len(encoded[number]), room, stride)]
            gold.append(gold_tokens(encoded[number], context, [span, *(others[example] if others else ())]))
        example_of, context_of, begin, end = np.array(cuts, np.int64).reshape(-1, 4).T
        size = np.array([len(encoding) for encoding in encoded], np.int64)
        stretch = (np.cumsum(size) - size)[context_of] + begin  # of all contexts' tokens end to end
        context_ids = list(chain.from_iterable(encoding.ids for encoding in encoded))
        windows, ids_, types = self._assemble(question_ids, context_ids, example_of, stretch, end - begin)
        held = held_spans(gold, example_of, begin, end)
        gold_window, gold_start, gold_end = _label(windows, held)
        windows["example"] = first + example_of
        char_start = char_end = np.zeros(0, np.int32)
        if self._offsets:
            places = ragged(stretch, end - begin)
            char_start, char_end = (values[places] for values in _offsets_without_space(encoded, texts))
        return FeatureBatch(
            windows=windows,
            input_ids=ids_,
            token_type_ids=types,
            char_start=char_start,
            char_end=char_end,
            cut_questions=cut_questions,
            labelled=np.bincount(example_of[np.unique(held.window)], minlength=len(question_ids)).astype(np.int32),
            gold_window=gold_window,
            gold_start=gold_start,
            gold_end=gold_end,
            several=len(np.unique(example_of[held.window[held.answer > 0]])),
        )

    def encode_contexts(self, contexts: Sequence[str]) -> dict[str, Encoding]:
        """Tokens of each distinct context, without special ones."""
        texts = list(dict.fromkeys(contexts))
        return dict(zip(texts, self._tokenizer.encode_batch(texts, add_special_tokens=False), strict=True))

    def _encode_questions(self, questions: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each question, at most ``max_question_length``; and how many questions were longer."""
        most = self._settings.max_question_length
        stripped = [question.strip() for question in questions]
        ids = [tokens.ids for tokens in self._tokenizer.encode_batch_fast(stripped, add_special_tokens=False)]
        return [tokens[:most] for tokens in ids], sum(len(tokens) > most for tokens in ids)

    def _assemble(
        self, questions: list[list[int]], contexts: list[int], example: IntArray, begin: IntArray, length: IntArray
    ) -> tuple[NDArray[np.void], NDArray[np.int32], NDArray[np.int8]]:
        """Put windows together from the five parts of a pair.

        Args:
            questions: token ids of each question.
            contexts: token ids of all contexts, end to end.
            example: [W] whose question each window has.
            begin, length: [W] which stretch of ``contexts`` it has.

        Returns:
            Records without examples and labels; flat token ids and token types.
        """
        layout = self._layout
        context_type, question_type = layout.text_types if self._context_first else layout.text_types[::-1]
        flat_questions = list(chain.from_iterable(questions))
        ids = _int32(chain(*layout.special, contexts, flat_questions))
        types = np.concatenate(
            [
                _int32(chain(*layout.special_types)),
                np.full(len(contexts), context_type),
                np.full(len(flat_questions), question_type),
            ]
        ).astype(np.int8)
        special_length = np.array([len(part) for part in layout.special])
        question_length = np.array([len(part) for part in questions])
        question_begin = layout.special_tokens + len(contexts) + np.cumsum(question_length) - question_length
        texts = [(question_begin[example], question_length[example]), (layout.special_tokens + begin, length)]
        context_part = 1 if self._context_first else 3
        begins, lengths = np.empty((2, len(example), 5), np.int64)
        begins[:, ::2], lengths[:, ::2] = np.cumsum(special_length) - special_length, special_length
        begins[:, 4 - context_part], lengths[:, 4 - context_part] = texts[0]
        begins[:, context_part], lengths[:, context_part] = texts[1]
        place = np.cumsum(lengths, 1) - lengths  # of each part in its window
        windows = np.zeros(len(example), WINDOW)
        windows["length"] = lengths.sum(1)
        windows["context_length"] = length
        windows["context_begin"] = np.where(length > 0, place[:, context_part], 0)
        windows["cls"] = 0 if self._cls is None else place[:, self._cls[0]] + self._cls[1]
        flat = ragged(begins.ravel(), lengths.ravel())
        return windows, ids[flat], types[flat]


def _int32(values: Iterable[int]) -> NDArray[np.int32]:
    return np.fromiter(values, np.int32)


def _label(
    windows: NDArray[np.void], held: HeldSpans
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Label each window with the first span that it holds, or its CLS token; the arrays of those that hold several."""
    labels = [(windows["context_begin"][held.window] + token).astype(np.int32) for token in (held.first, held.last)]
    labelled, place, count = np.unique(held.window, return_index=True, return_counts=True)
    for name, tokens in zip(("start", "end"), labels, strict=True):
        windows[name] = windows["cls"]
        windows[name][labelled] = tokens[place]
    several = np.repeat(count > 1, count)
    return held.window[several], labels[0][several], labels[1][several]


def _offsets_without_space(
    encodings: Sequence[Encoding], texts: Sequence[str]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Characters that each token covers, without white space at the edges, end exclusive.

    Args:
        encodings, texts: of the contexts; the result has the tokens of all of them, end to end.
    """
    parts = [np.fromiter(chain.from_iterable(encoding.offsets), np.int32, 2 * len(encoding)) for encoding in encodings]
    flat = np.concatenate([*parts, np.zeros(0, np.int32)])
    starts, ends = flat[::2].copy(), flat[1::2].copy()
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)  # all texts end to end
    sizes = np.array([len(text) for text in texts], np.int64)
    shift = np.repeat(np.cumsum(sizes) - sizes, [len(encoding) for encoding in encodings])
    space = _SPACE[np.minimum(codes, len(_SPACE) - 1)]
    first, last = shift + starts, shift + ends - 1
    covers = ends > starts
    if space[first[covers]].any() or space[last[covers]].any():  # SentencePiece and byte-level tokenizers
        place = np.arange(len(codes))
        next_start = np.minimum.accumulate(np.where(space, len(codes), place)[::-1])[::-1]
        previous_end = np.maximum.accumulate(np.where(space, 0, place + 1))
        # A token of white space alone finds no character of its own: its start moves up to its end.
        starts[covers] = np.minimum(next_start[first[covers]] - shift[covers], ends[covers])
        ends[covers] = np.maximum(previous_end[last[covers]] - shift[covers], starts[covers])
    loose = _marks(codes)
    if loose.any():
        edges = np.zeros(len(codes) + 1, np.int64)
        np.add.at(edges, first[covers], 1)
        np.add.at(edges, last[covers] + 1, -1)
        loose &= np.cumsum(edges[:-1]) == 0  # and what no token covers
        loose[(np.cumsum(sizes) - sizes)[sizes > 0]] = False  # the first of a text stands behind no letter
        kept = np.minimum.accumulate(np.where(np.append(loose, False), len(codes), np.arange(len(codes) + 1))[::-1])
        covers = ends > starts
        ends[covers] = kept[::-1][(shift + ends)[covers]] - shift[covers]
    return starts, ends


def _marks(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Where a code point is a combining mark: an accent, a vowel sign, a variation selector."""
    found = np.zeros(len(codes), bool)
    if len(codes) and codes.max() >= 0x300:  # the first of them
        distinct = np.unique(codes[codes >= 0x300])
        marks = [code for code in distinct.tolist() if unicodedata.category(chr(code)).startswith("M")]
        if marks:
            found = np.isin(codes, marks)
    return found
