"""Cut the windows that a teacher with another tokenizer reads, and find the student's token for each of its tokens.

For each window of the student, the teacher reads the question and the text from the window's first to its last
character, as one window. Tokens are mapped by characters: a start to the student's token that covers the first
character of the teacher's token, an end to the one that covers its last character, and CLS to CLS. Where several tokens
cover a character, as those of byte-level tokenizers can, it is the first one, as for labels. Where none does, it is the
next one for a start, the one before for an end.

Limit: the teacher reads a text that may begin or end within a word, as the student's window does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Ints
from qa_lightning.features.store import write_features
from qa_lightning.features.windows import FeatureBatch, Windower, WindowSettings, vocabulary_size

INDICES = ("start_index", "end_index")
_EXAMPLES = 1000  # cut at a time
_ENDLESS = 1 << 30  # tokens: a window of the teacher is not cut; whether it fits is checked when it is read
_APART = 1 << 32  # characters between the windows of a chunk, put end to end


@dataclass(frozen=True)
class PairedWindows:
    """Windows of the student, as the teacher reads them.

    Attributes:
        read: the teacher's windows, one for each of the student's; its examples are those windows.
        start_index, end_index: flat, ``context_length + 1`` values for each window: index, in the student's window,
            of the token that a start or an end at the teacher's CLS token, then at each of its context tokens, is
            mapped to.
    """

    read: FeatureBatch
    start_index: NDArray[np.int32]
    end_index: NDArray[np.int32]


def pair_windows(
    questions: Sequence[str], contexts: Sequence[str], student: Windower, teacher: Windower
) -> PairedWindows:
    """Cut examples into the student's windows, and those into the teacher's.

    Args:
        questions, contexts: one per example.
        student: keeps offsets.
        teacher: from `whole_windower`.
    """
    own = student(questions, contexts, [None] * len(questions))
    window = np.repeat(np.arange(len(own.windows)), own.windows["context_length"])
    within = np.arange(len(window)) - _begins(own.windows["context_length"])[window]
    covers = own.char_end > own.char_start
    spans = _Spans(
        window=window[covers],
        index=(own.windows["context_begin"][window] + within)[covers],
        start=own.char_start[covers].astype(np.int64),
        end=own.char_end[covers].astype(np.int64),
        count=np.bincount(window[covers], minlength=len(own.windows)),
    )
    example = own.windows["example"].tolist()
    begin, end = spans.edges()
    texts = [contexts[one][first:last] for one, first, last in zip(example, begin.tolist(), end.tolist(), strict=True)]
    read = teacher([questions[one] for one in example], texts, [None] * len(texts))
    length = read.windows["context_length"].astype(np.int64)
    of = np.repeat(np.arange(len(length)), length)
    mapped = (
        spans.of_start(of, read.char_start + begin[of]),
        spans.of_end(of, read.char_end + begin[of] - 1),
    )
    first = _begins(length + 1)
    is_cls = np.zeros(len(of) + len(length), bool)
    is_cls[first] = True
    indices = []
    for found in mapped:
        flat = np.empty(len(is_cls), np.int32)
        flat[is_cls] = own.windows["cls"]
        flat[~is_cls] = np.where(spans.count[of] > 0, found, own.windows["cls"][of])
        indices.append(flat)
    return PairedWindows(read, *indices)


@dataclass(frozen=True)
class _Spans:
    """The student's context tokens that cover characters, in order: [S] each, of W windows.

    Attributes:
        window: index of the window.
        index: index of the token in its window.
        start, end: its characters in the context, end exclusive.
        count: [W] how many of them a window has.
    """

    window: NDArray[np.int64]
    index: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    count: NDArray[np.int64]

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[W] first and last character, end exclusive, of each window's text; both 0 without any."""
        begin, end = np.zeros((2, len(self.count)), np.int64)
        some = self.count > 0
        first = _begins(self.count)[some]
        begin[some] = self.start[first]
        end[some] = self.end[first + self.count[some] - 1]
        return begin, end

    def of_start(self, window: Ints, character: Ints) -> NDArray[np.int64]:
        """Index of the token, in each ``window``, that covers a character; else of the next one, or the last."""
        return self._index(window, self._reaching(window, character))

    def of_end(self, window: Ints, character: Ints) -> NDArray[np.int64]:
        """Index of the token, in each ``window``, that covers a character; else of the one before, or the first."""
        found = self._reaching(window, character)
        inside = np.minimum(found, max(len(self.start) - 1, 0))
        beyond = (self.window[inside] != window) | (self.start[inside] > character) | (found == len(self.start))
        return self._index(window, found - beyond)

    def _reaching(self, window: Ints, character: Ints) -> NDArray[np.int64]:
        """The first token, counted over all windows, that reaches beyond a character."""
        ends = np.maximum.accumulate(self.window * _APART + self.end)
        return np.searchsorted(ends, window * _APART + character, side="right")

    def _index(self, window: Ints, found: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index in its window of the token that was found, or of the window's nearest; 0 without any token."""
        if not len(self.index):
            return np.zeros(len(found), np.int64)
        first = _begins(self.count)[window]
        last = np.maximum(first + self.count[window] - 1, 0)
        return self.index[np.minimum(np.clip(found, first, last), len(self.index) - 1)]


def whole_windower(tokenizer: Any, settings: WindowSettings) -> Windower:
    """A windower for a teacher, which makes one window of each text.

    Args:
        tokenizer: the teacher's.
        settings: the student's, of which the longest question counts.
    """
    return Windower(tokenizer, WindowSettings(_ENDLESS, 0, settings.max_question_length))


def write_paired(examples: Any, student: Any, teacher: Any, settings: WindowSettings, folder: Path) -> None:
    """Write the teacher's windows of all examples, and the maps of their tokens, as `store` writes features.

    Args:
        examples: a ``datasets.Dataset`` of examples.
        student, teacher: their tokenizers.
        settings: of the student's windows.
        folder: exists and is empty. Besides the features, ``start_index.bin`` and ``end_index.bin`` come into it.
    """
    cutters = Windower(student, settings), whole_windower(teacher, settings)
    starts_file, ends_file = (folder / f"{name}.bin" for name in INDICES)
    with starts_file.open("wb") as starts, ends_file.open("wb") as ends:

        def batches() -> Iterator[FeatureBatch]:
            for first in range(0, len(examples), _EXAMPLES):
                rows = examples[first : first + _EXAMPLES]
                paired = pair_windows(rows["question"], rows["context"], *cutters)
                starts.write(paired.start_index.data)
                ends.write(paired.end_index.data)
                none = np.zeros(0, np.int32)  # once mapped, the characters are needed no more
                yield replace(paired.read, char_start=none, char_end=none)

        write_features(batches(), folder, vocabulary_size(teacher))


def _begins(count: Ints) -> NDArray[np.int64]:
    wide = count.astype(np.int64)
    return wide.cumsum() - wide
