"""Examples -> features: windows of tokens with labels and flat character offsets.

A feature is one window: the question, then (or, for tokenizers that pad on the left, after) one stretch of the
context. Windows of one example overlap by ``doc_stride`` tokens. Everything follows from the tokenizer's own
description; no model name is looked at. Only fast tokenizers can do it: offsets come from the Rust library.

Limits: an answer is labelled in every window that holds it whole; one that is longer than the overlap can fall
between two windows and is then labelled nowhere (counted by `FeatureBatch.labelled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from qa_lightning.errors import InputError

IntArray = NDArray[np.integer[Any]]

WINDOW = np.dtype(
    [
        ("example", np.int64),  # index of the example that it is a window of
        ("length", np.int32),  # tokens, special ones included, without padding
        ("context_begin", np.int32),  # index of the first context token
        ("context_length", np.int32),  # context tokens
        ("cls", np.int32),  # index of the token that stands for "no answer in this window"
        ("start", np.int32),  # label: index of the answer's first token, or cls
        ("end", np.int32),  # label: index of the answer's last token, or cls
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
            example's context that a context token covers, without white space at its edges, end exclusive;
            start equals end for a token that covers none, which no answer may start or end at.
        cut_questions: how many questions were longer than ``max_question_length``.
        labelled: for each example, how many of its windows hold its first answer whole.
    """

    windows: NDArray[np.void]
    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int8]
    char_start: NDArray[np.int32]
    char_end: NDArray[np.int32]
    cut_questions: int
    labelled: NDArray[np.int32]


class Windower:
    """Cuts examples into features.

    Args:
        tokenizer: a fast transformers tokenizer; its padding side decides whether question or context comes first.
        settings: lengths in tokens.
        offsets: keep character offsets, which decoding needs and training does not.

    Raises:
        InputError: slow tokenizer, or settings that leave no room for the context.
    """

    def __init__(self, tokenizer: Any, settings: WindowSettings, offsets: bool = True) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path!r} ({type(tokenizer).__name__}) is a slow one and gives no "
                "character offsets; choose a model that has a fast tokenizer (a tokenizer.json)"
            )
        settings.check(backend.num_special_tokens_to_add(True))
        self._questions = Tokenizer.from_str(backend.to_str())  # a copy: truncation is state of the tokenizer
        self._questions.no_padding()
        self._questions.no_truncation()
        self._pairs = Tokenizer.from_str(self._questions.to_str())
        self._context_first = tokenizer.padding_side == "left"
        self._pairs.enable_truncation(
            settings.max_length,
            stride=settings.doc_stride,
            strategy="only_first" if self._context_first else "only_second",
            direction="right",
        )
        self._settings = settings
        self._offsets = offsets
        # Not every family has a CLS token; the first token of a window is then the usual place for "no answer".
        self._cls_id = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id

    def __call__(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        spans: Sequence[tuple[int, int] | None],
        first: int = 0,
    ) -> FeatureBatch:
        """Cut examples into features.

        Args:
            questions, contexts: one each an example.
            spans: where the answer to train on stands in the context, ``(start, end)`` in characters, end
                exclusive; None for a question without an answer.
            first: the index of the first of these examples in the whole dataset.
        """
        asked = [question.strip() for question in questions]
        wanted = [span and _without_space(context, *span) for context, span in zip(contexts, spans, strict=True)]
        cut = self._cut_questions(asked)
        pairs = list(zip(contexts, asked, strict=True) if self._context_first else zip(asked, contexts, strict=True))
        windows: list[tuple[int, ...]] = []
        ids: list[list[int]] = []
        types: list[list[int]] = []
        char_start: list[NDArray[np.int32]] = []
        char_end: list[NDArray[np.int32]] = []
        labelled = np.zeros(len(asked), np.int32)
        for index, encoding in enumerate(self._pairs.encode_batch(pairs)):
            parts = [encoding, *encoding.overflowing]
            for number, part in enumerate(parts):
                begin, length = self._context_range(part)
                cls = self._cls_index(part.ids)
                edges = (number == 0, number == len(parts) - 1)
                label = self._label(part, begin, length, wanted[index], len(contexts[index]), edges)
                labelled[index] += label is not None
                windows.append((first + index, len(part.ids), begin, length, cls, *(label or (cls, cls))))
                ids.append(part.ids)
                types.append(part.type_ids)
                if self._offsets:
                    starts, ends = _context_offsets(part, begin, length, contexts[index])
                    char_start.append(starts)
                    char_end.append(ends)
        none = [np.zeros(0, np.int32)]
        return FeatureBatch(
            windows=np.array(windows, WINDOW),
            input_ids=np.fromiter(chain.from_iterable(ids), np.int32),
            token_type_ids=np.fromiter(chain.from_iterable(types), np.int8),
            char_start=np.concatenate(char_start or none),
            char_end=np.concatenate(char_end or none),
            cut_questions=cut,
            labelled=labelled,
        )

    def _cut_questions(self, questions: list[str]) -> int:
        """Cut each question in place to at most ``max_question_length`` tokens; return how many were longer."""
        most = self._settings.max_question_length
        lengths = [len(tokens.ids) for tokens in self._questions.encode_batch_fast(questions, add_special_tokens=False)]
        long = [index for index, length in enumerate(lengths) if length > most]
        for index in long:
            tokens = self._questions.encode(questions[index], add_special_tokens=False)
            keep = most
            # Text that ends early may split into more tokens than it had before; then one token more goes.
            while len(tokens.ids) > most:
                questions[index] = questions[index][: tokens.offsets[keep - 1][1]] if keep else ""
                keep -= 1
                tokens = self._questions.encode(questions[index], add_special_tokens=False)
        return len(long)

    def _context_range(self, encoding: Encoding) -> tuple[int, int]:
        """Index of the first context token and the number of them; (0, 0) when the window has none."""
        sequence = 0 if self._context_first else 1
        sequences = encoding.sequence_ids
        length = sequences.count(sequence)
        return (sequences.index(sequence), length) if length else (0, 0)

    def _cls_index(self, ids: list[int]) -> int:
        return ids.index(self._cls_id) if self._cls_id in ids else 0

    def _label(
        self,
        encoding: Encoding,
        begin: int,
        length: int,
        span: tuple[int, int] | None,
        context_length: int,
        edges: tuple[bool, bool],
    ) -> tuple[int, int] | None:
        """Tokens that cover the first and the last character of ``span``, or None where it is not whole."""
        if span is None or length == 0:
            return None
        start, end = span
        # The outer windows reach to the context's edges, whatever characters the tokenizer drops there.
        first_chars = encoding.token_to_chars(begin)
        last_chars = encoding.token_to_chars(begin + length - 1)
        window_start = 0 if edges[0] or first_chars is None else first_chars[0]
        window_end = context_length if edges[1] or last_chars is None else last_chars[1]
        if start < window_start or end > window_end:
            return None
        sequence = 0 if self._context_first else 1
        # Characters that no token covers (control characters, some accents) are stepped over.
        first = last = None
        while start < end and (first := encoding.char_to_token(start, sequence)) is None:
            start += 1
        while end > start and (last := encoding.char_to_token(end - 1, sequence)) is None:
            end -= 1
        return None if first is None or last is None else (first, last)


def _without_space(context: str, start: int, end: int) -> tuple[int, int]:
    """Shrink a span to begin and end at characters that are not white space, which no token points at."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def _context_offsets(
    encoding: Encoding, begin: int, length: int, context: str
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Characters that each context token covers, without white space at the edges, end exclusive."""
    pairs = encoding.offsets[begin : begin + length]
    flat = np.fromiter(chain.from_iterable(pairs), np.int32, 2 * length).reshape(length, 2)
    starts, ends = flat[:, 0].copy(), flat[:, 1].copy()
    codes = np.frombuffer(context.encode("utf-32-le"), np.uint32)
    space = _SPACE[np.minimum(codes, len(_SPACE) - 1)]
    covers = ends > starts
    if space[starts[covers]].any() or space[ends[covers] - 1].any():  # SentencePiece and byte-level tokenizers
        place = np.arange(len(codes), dtype=np.int32)
        next_start = np.minimum.accumulate(np.where(space, len(codes), place)[::-1])[::-1]
        previous_end = np.maximum.accumulate(np.where(space, 0, place + 1))
        starts[covers] = next_start[starts[covers]]
        ends[covers] = previous_end[ends[covers] - 1]
        ends = np.maximum(starts, ends)  # a token of white space alone now covers nothing
    return starts, ends
