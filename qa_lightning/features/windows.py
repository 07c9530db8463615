"""Cut examples into features: windows of tokens, with labels and character offsets.

A feature is one window: the question and a range of the context's tokens. The question comes first, or last for
tokenizers that pad on the left. Windows of one example overlap by ``doc_stride`` tokens. The layout comes from the
tokenizer itself, never from a model's name.

Limits: only fast tokenizers work, as offsets come from the Rust library. An answer labels every window that holds it
whole; an answer longer than the overlap can fall between two windows and then labels none (see
`FeatureBatch.labelled`). Only an example's first answer is a label, unless the caller passes ``others`` to `Windower`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from qa_lightning.arrays import Ints, ragged
from qa_lightning.errors import InputError, Rules, broken_rules
from qa_lightning.features.defaults import DOC_STRIDE, MAX_LENGTH, MAX_QUESTION_LENGTH
from qa_lightning.features.labels import gold_tokens, held_spans, label_windows
from qa_lightning.features.offsets import offsets_without_space

WINDOW = np.dtype(
    [
        ("example", np.int64),  # index of the window's example
        ("length", np.int32),  # tokens, special ones included, without padding
        ("context_begin", np.int32),  # index of the first context token
        ("context_length", np.int32),  # context tokens
        ("cls", np.int32),  # index of the token that stands for "no answer in this window"
        ("start", np.int32),  # label: index of the first token of the first gold answer in the window, or cls
        ("end", np.int32),  # label: index of that answer's last token, or cls
    ]
)


WINDOW_RULES: Rules = {
    "max_length": (lambda length: length >= 1, "must be at least 1"),
    "doc_stride": (lambda stride: stride >= 0, "must be at least 0"),
    "max_question_length": (lambda length: length >= 1, "must be at least 1"),
}


@dataclass(frozen=True)
class WindowSettings:
    """How contexts are cut into windows; all lengths in tokens.

    Args:
        max_length: length of the longest feature, with question and special tokens.
        doc_stride: overlap: how many context tokens two neighbouring windows share.
        max_question_length: a longer question is cut to its first tokens, this many.
    """

    max_length: int = MAX_LENGTH
    doc_stride: int = DOC_STRIDE
    max_question_length: int = MAX_QUESTION_LENGTH

    def room(self, special_tokens: int) -> int:
        """The tokens that the longest question leaves for context in a window with so many special tokens."""
        return self.max_length - self.max_question_length - special_tokens

    def check(self, special_tokens: int) -> None:
        """Check that the longest question leaves more room for context than the overlap.

        Args:
            special_tokens: how many special tokens a pair has.

        Raises:
            InputError: a length is out of range, or there is too little room.
        """
        problems = broken_rules(asdict(self), WINDOW_RULES, "data")
        room = self.room(special_tokens)
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
    """The windows of some examples; arrays of tokens are flat, one window after the other.

    Attributes:
        windows: [W] records of `WINDOW`, in order of example, then of index in the context.
        input_ids, token_type_ids: flat, ``windows["length"].sum()`` values each.
        char_start, char_end: flat, ``windows["context_length"].sum()`` values each: the span of characters in the
            example's context that each context token covers, end exclusive. White space at its edges is left out.
            Accents and vowel signs after its last letter are included, if a normalizer dropped or composed them and no
            token covers them. start == end marks a token without characters; no answer starts or ends there.
            Empty if the `Windower` keeps no offsets.
        cut_questions: how many questions were longer than ``max_question_length``.
        labelled: for each example, how many of its windows hold a whole training answer.
        gold_window, gold_start, gold_end: [L] the labels of windows that hold several distinct gold spans: index of
            the window (ascending), and of the span's first and last token. The span in ``windows`` comes first.
            Windows with one span or none are not listed.
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
    """Cuts examples into features; the windows are those that the tokenizer itself gives for a pair with a stride.

    Each text is tokenized once. In SQuAD about five questions share a context; their windows are then assembled from
    flat arrays.

    Args:
        tokenizer: a fast transformers tokenizer; its padding side decides whether question or context comes first.
        settings: lengths in tokens.
        offsets: keep character offsets, which decoding needs and training does not.
        shorten: accept settings that leave no room next to the longest question. If a context does not fit into one
            window and the room for it is not larger than the overlap, the question is cut to at most half of a window,
            and the overlap to at most half of the room that is then left.

    Raises:
        InputError: the tokenizer is slow, or the settings leave no room for the context.
    """

    def __init__(self, tokenizer: Any, settings: WindowSettings, offsets: bool = True, shorten: bool = False) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise slow_tokenizer(tokenizer.name_or_path, tokenizer)
        self._tokenizer = plain_tokenizer(tokenizer)
        self._layout = PairLayout.of(self._tokenizer)
        if not shorten:
            settings.check(self._layout.special_tokens)
        self._context_first = tokenizer.padding_side == "left"
        self._settings = settings
        self.offsets = offsets
        self._cls = self._layout.null(tokenizer)

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
            questions: one per example.
            contexts: one per example.
            spans: the answer to train on, ``(start, end)`` in characters of the context, end exclusive; None for a
                question without an answer.
            first: index of the first of these examples in the whole dataset.
            encodings: the tokens of the contexts, from `encode_contexts`; None tokenizes them here.
            others: spans of further answers to train on, in order, for each example. A window is then labelled with
                the first answer that it holds whole, which can be another one than the example's first.
        """
        number_of = {text: number for number, text in enumerate(dict.fromkeys(contexts))}
        texts = list(number_of)
        known = self.encode_contexts(texts) if encodings is None else encodings
        encoded = [known[text] for text in texts]
        question_ids, cut_questions = self._encode_questions(questions)
        cuts: list[tuple[int, int, int, int]] = []  # of each window: example, distinct context, begin, end (in tokens)
        gold: list[list[tuple[int, int]]] = []  # of each example: first and last token of each answer
        for example, (ids, context, span) in enumerate(zip(question_ids, contexts, spans, strict=True)):
            number = number_of[context]
            room = self._settings.max_length - self._layout.special_tokens - len(ids)
            stride = self._settings.doc_stride
            if len(encoded[number]) > room and stride >= room:  # only if shorten: else `WindowSettings.check` refuses
                question_ids[example] = ids[: (self._settings.max_length - self._layout.special_tokens) // 2]
                room += len(ids) - len(question_ids[example])
                stride = min(stride, room // 2)
            cuts += [(example, number, *ends) for ends in cut(len(encoded[number]), room, stride)]
            gold.append(gold_tokens(encoded[number], context, [span, *(others[example] if others else ())]))
        example_of, context_of, begin, end = np.array(cuts, np.int64).reshape(-1, 4).T
        size = np.array([len(encoding) for encoding in encoded], np.int64)
        flat_begin = (size.cumsum() - size)[context_of] + begin  # index in the tokens of all contexts, end to end
        context_ids = list(chain.from_iterable(encoding.ids for encoding in encoded))
        windows, ids_, types = self._assemble(question_ids, context_ids, example_of, flat_begin, end - begin)
        held = held_spans(gold, example_of, begin, end)
        gold_window, gold_start, gold_end = label_windows(windows, held)
        windows["example"] = first + example_of
        char_start = char_end = np.zeros(0, np.int32)
        if self.offsets:
            flat = ragged(flat_begin, end - begin)
            char_start, char_end = (values[flat] for values in offsets_without_space(encoded, texts))
        return FeatureBatch(
            windows=windows,
            input_ids=ids_,
            token_type_ids=types,
            char_start=char_start,
            char_end=char_end,
            cut_questions=cut_questions,
            labelled=held.windows_of(example_of, len(question_ids)),
            gold_window=gold_window,
            gold_start=gold_start,
            gold_end=gold_end,
            several=held.examples_with_others(example_of),
        )

    def encode_contexts(self, contexts: Sequence[str]) -> dict[str, Encoding]:
        """Tokenize each distinct context, without special tokens: context -> its tokens."""
        texts = list(dict.fromkeys(contexts))
        return dict(zip(texts, self._tokenizer.encode_batch(texts, add_special_tokens=False), strict=True))

    def _encode_questions(self, questions: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each question, at most ``max_question_length`` of them; and how many questions were longer."""
        longest = self._settings.max_question_length
        stripped = [question.strip() for question in questions]
        ids = [tokens.ids for tokens in self._tokenizer.encode_batch_fast(stripped, add_special_tokens=False)]
        return [tokens[:longest] for tokens in ids], sum(len(tokens) > longest for tokens in ids)

    def _assemble(
        self, questions: list[list[int]], contexts: list[int], example: Ints, begin: Ints, length: Ints
    ) -> tuple[NDArray[np.void], NDArray[np.int32], NDArray[np.int8]]:
        """Assemble windows from the five parts of a pair.

        Args:
            questions: token ids of each question.
            contexts: token ids of all contexts, end to end.
            example: [W] index of the question of each window.
            begin: [W] index in ``contexts`` of the window's first context token.
            length: [W] number of its context tokens.

        Returns:
            Records without examples and labels; flat token ids; flat token types.
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
        question_begin = layout.special_tokens + len(contexts) + question_length.cumsum() - question_length
        texts = [(question_begin[example], question_length[example]), (layout.special_tokens + begin, length)]
        context_part = 1 if self._context_first else 3
        begins, lengths = np.empty((2, len(example), 5), np.int64)
        begins[:, ::2], lengths[:, ::2] = special_length.cumsum() - special_length, special_length
        begins[:, 4 - context_part], lengths[:, 4 - context_part] = texts[0]
        begins[:, context_part], lengths[:, context_part] = texts[1]
        part_begin = lengths.cumsum(1) - lengths  # [W, 5] index of each part's first token in its window
        windows = np.zeros(len(example), WINDOW)
        windows["length"] = lengths.sum(1)
        windows["context_length"] = length
        windows["context_begin"] = np.where(length > 0, part_begin[:, context_part], 0)
        if self._cls is not None:
            windows["cls"] = part_begin[:, self._cls[0]] + self._cls[1]
        else:  # a token of the question
            windows["cls"] = windows["length"] - 1 if self._context_first else 0
        flat = ragged(begins.ravel(), lengths.ravel())
        return windows, ids[flat], types[flat]


def slow_tokenizer(name: str, tokenizer: Any) -> InputError:
    """The error for a model whose tokenizer is not a fast one."""
    return InputError(
        f"the tokenizer of {name!r} ({type(tokenizer).__name__}) is a slow one and gives no character offsets; choose "
        "a model that has a fast tokenizer (a tokenizer.json)"
    )


def plain_tokenizer(tokenizer: Any) -> Tokenizer:
    """A copy of a fast tokenizer's backend that neither truncates nor pads, and splits special tokens if that does.

    All three are state of the backend: any call of the tokenizer changes it, and many models' tokenizer.json sets the
    first two.
    """
    plain = _plain(tokenizer.backend_tokenizer.to_str())
    plain.encode_special_tokens = _splits_special_tokens(tokenizer)  # which its JSON does not say
    return plain


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the highest id of a token; ids may have gaps."""
    return int(max(tokenizer.get_vocab().values(), default=-1)) + 1


def _splits_special_tokens(tokenizer: Any) -> bool:
    """Whether a special token that stands in a text, such as ``[SEP]``, is text there; a setting of the tokenizer."""
    return bool(getattr(tokenizer, "split_special_tokens", False))


def windowing_key(tokenizer: Any) -> list[Any]:
    """A key of all that decides how a tokenizer cuts windows; calls of the tokenizer do not change it."""
    splits = ["split special tokens"] if _splits_special_tokens(tokenizer) else []
    if tokenizer.padding_side == "left" and PairLayout.of(plain_tokenizer(tokenizer)).null(tokenizer) is None:
        splits.append("null at the end")  # once it was at the begin
    if len(tokenizer) <= 2**16 < vocabulary_size(tokenizer):
        splits.append("wide ids")  # once they were cut to 16 bits
    return [_plain_text(tokenizer), tokenizer.padding_side, _null_token(tokenizer), *splits]


def _plain_text(tokenizer: Any) -> str:
    """The JSON of `plain_tokenizer`."""
    return _read_again(tokenizer.backend_tokenizer.to_str())


@lru_cache(maxsize=2)  # a vocabulary of 262,144 tokens takes seconds to read
def _read_again(text: str) -> str:
    """The JSON of a tokenizer that neither truncates nor pads.

    It is read and written again in any case: the scores of a Unigram model are rounded by that, and a tokenizer has one
    key, whether or not it truncates at the moment.
    """
    return _plain(text).to_str()


def _plain(text: str) -> Tokenizer:
    plain = Tokenizer.from_str(text)
    plain.no_padding()
    plain.no_truncation()
    return plain


def _null_token(tokenizer: Any) -> int | None:
    """The id of the token for "no answer": CLS, or else BOS; None if there is neither.

    Then it is a token of the question: the first token, or the last one where the context comes first.
    """
    found: int | None = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    return found


def _int32(values: Iterable[int]) -> NDArray[np.int32]:
    return np.fromiter(values, np.int32)


@dataclass(frozen=True)
class PairLayout:
    """The five parts of a pair: special tokens, first text, special tokens, second text, special tokens.

    Attributes:
        special: ids of the special tokens before, between and after the two texts.
        special_types: the token types of these special tokens.
        text_types: the token type of each of the two texts.
    """

    special: tuple[list[int], list[int], list[int]]
    special_types: tuple[list[int], list[int], list[int]]
    text_types: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PairLayout:
        """Read the layout from a pair that the tokenizer encodes; the tokenizer must not truncate."""
        pair = tokenizer.encode("a", "a")
        owner = pair.sequence_ids
        first, second = owner.index(0), owner.index(1)
        cuts = slice(0, first), slice(first + owner.count(0), second), slice(second + owner.count(1), None)
        return cls(
            special=(pair.ids[cuts[0]], pair.ids[cuts[1]], pair.ids[cuts[2]]),
            special_types=(pair.type_ids[cuts[0]], pair.type_ids[cuts[1]], pair.type_ids[cuts[2]]),
            text_types=(pair.type_ids[first], pair.type_ids[second]),
        )

    @property
    def special_tokens(self) -> int:
        """How many special tokens a pair has."""
        return sum(map(len, self.special))

    def null(self, tokenizer: Any) -> tuple[int, int] | None:
        """Part (0, 2 or 4) of the special token for "no answer", and its index there; None if there is none.

        It is the last token of a pair if that is CLS, as for XLNet and decoders; else the first CLS or BOS.
        """
        token = _null_token(tokenizer)
        if self.ends_with(tokenizer.cls_token_id):
            return 4, len(self.special[2]) - 1
        for part, ids in enumerate(self.special):
            if token in ids:
                return 2 * part, ids.index(token)
        return None

    def ends_with(self, token: int | None) -> bool:
        """Whether a pair's last token is the special token ``token``."""
        return self.special[2][-1:] == [token]


def cut(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Cut ``length`` tokens into ranges [begin, end) of at most ``room``; neighbours share ``stride`` (< room)."""
    if length <= room:
        return [(0, length)]
    begins = range(0, length - stride, room - stride)
    return [(begin, min(begin + room, length)) for begin in begins]
