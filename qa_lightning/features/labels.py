"""Find the tokens of gold answers, and label each window with the answers that it holds whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from qa_lightning.arrays import Ints, begins_run, ragged

NOWHERE = (-1, -1)  # stands for an answer without tokens, and for "no answer"; no window holds this span


@dataclass(frozen=True)
class HeldSpans:
    """Pairs of a window and a gold span that it holds whole: [G] each, in order of window, then of answer.

    Attributes:
        window: index of the window.
        first: index of the span's first token, counted from the window's first context token.
        last: index of the span's last token, counted in the same way.
        answer: index of the span among its example's spans.
    """

    window: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    answer: NDArray[np.int64]

    def windows_of(self, example: Ints, examples: int) -> NDArray[np.int32]:
        """[N] how many windows of each example hold a span; ``example``, [W], is that of each window."""
        if not len(self.window):
            return np.zeros(examples, np.int32)
        return np.bincount(example[self.window[begins_run(self.window)]], minlength=examples).astype(np.int32)

    def examples_with_others(self, example: Ints) -> int:
        """How many examples have a window that holds another answer than the first one."""
        return int(begins_run(example[self.window[self.answer > 0]]).sum()) if len(self.window) else 0


def gold_tokens(encoding: Encoding, context: str, spans: Iterable[tuple[int, int] | None]) -> list[tuple[int, int]]:
    """Find the first and last context token of each gold answer.

    Args:
        encoding: the tokens of the context.
        context: its text.
        spans: (start, end) of each answer in characters, end exclusive; None for no answer.

    Returns:
        Distinct (first, last) token indices, last inclusive, in order of the answers; `NOWHERE` for an answer without
        tokens.
    """
    tokens = (_answer_tokens(encoding, context, span) if span is not None else None for span in spans)
    return list(dict.fromkeys(one or NOWHERE for one in tokens))


def held_spans(spans: Sequence[Sequence[tuple[int, int]]], example: Ints, begin: Ints, end: Ints) -> HeldSpans:
    """Find the windows that hold gold spans whole.

    Args:
        spans: the spans of each example, from `gold_tokens`.
        example: [W] index of each window's example.
        begin: [W] index of the window's first token in the context.
        end: [W] index of the window's last token in the context, plus one.
    """
    flat = np.array(list(chain.from_iterable(spans)), np.int64).reshape(-1, 2)
    if (flat < 0).all():  # no example has an answer, as in a call of a pipeline
        return HeldSpans(*np.zeros((4, 0), np.int64))
    count = np.array([len(own) for own in spans], np.int64)
    before = np.cumsum(count) - count  # spans of the examples before
    pick = ragged(before[example], count[example])
    window = np.repeat(np.arange(len(example)), count[example])
    first, last = flat[pick].T
    whole = (first >= begin[window]) & (last < end[window])
    window = window[whole]
    return HeldSpans(
        window=window,
        first=first[whole] - begin[window],
        last=last[whole] - begin[window],
        answer=pick[whole] - before[example[window]],
    )


def _answer_tokens(encoding: Encoding, context: str, span: tuple[int, int]) -> tuple[int, int] | None:
    """The tokens that cover the first and the last character of ``span``; None if no character is left.

    At both edges, white space and characters that no token covers (control characters, some accents) are skipped, in
    any order.
    """
    start, end = span
    first = last = None
    while start < end and (context[start].isspace() or (first := encoding.char_to_token(start)) is None):
        start += 1
    while end > start and (context[end - 1].isspace() or (last := encoding.char_to_token(end - 1)) is None):
        end -= 1
    return None if first is None or last is None else (first, last)


def label_windows(
    windows: NDArray[np.void], held: HeldSpans
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Write each window's label: the first span that it holds, or else its CLS token.

    Args:
        windows: [W] records of `windows.WINDOW`; ``start`` and ``end`` are written.
        held: the spans that they hold.

    Returns:
        The labels of windows that hold several spans: window, first token and last token, [L] each.
    """
    if not len(held.window):
        windows["start"] = windows["end"] = windows["cls"]
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32)
    labels = [(windows["context_begin"][held.window] + token).astype(np.int32) for token in (held.first, held.last)]
    first_pair = np.flatnonzero(begins_run(held.window))
    labelled, count = held.window[first_pair], np.diff(first_pair, append=len(held.window))
    for name, tokens in zip(("start", "end"), labels, strict=True):
        windows[name] = windows["cls"]
        windows[name][labelled] = tokens[first_pair]
    several = np.repeat(count > 1, count)
    return held.window[several], labels[0][several], labels[1][several]


def hold_answers(windows: NDArray[np.void]) -> NDArray[np.bool_]:
    """[W] whether each window holds an answer that it is trained on, whichever that is: see `label_windows`."""
    found: NDArray[np.bool_] = (windows["start"] != windows["cls"]) | (windows["end"] != windows["cls"])
    return found
