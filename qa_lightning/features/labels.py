"""Gold answers -> tokens, and the windows that hold them whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from qa_lightning.arrays import Ints, ragged

NOWHERE = (-1, -1)  # the tokens of an answer that no token covers; no window holds them


@dataclass(frozen=True)
class HeldSpans:
    """Which windows hold which gold spans whole: [G] each, in order of window, then of answer.

    Attributes:
        window: index of the window.
        first, last: tokens, counted from the window's first context token.
        answer: index of the span among its example's.
    """

    window: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    answer: NDArray[np.int64]


def gold_tokens(encoding: Encoding, context: str, spans: Iterable[tuple[int, int] | None]) -> list[tuple[int, int]]:
    """First and last token in the context of each gold answer; those of the same tokens once, `NOWHERE` for none.

    Args:
        encoding: of the context.
        context: its text.
        spans: characters, end exclusive; None for no answer.
    """
    tokens = (_answer_tokens(encoding, context, span) if span is not None else None for span in spans)
    return list(dict.fromkeys(one or NOWHERE for one in tokens))


def held_spans(spans: Sequence[Sequence[tuple[int, int]]], example: Ints, begin: Ints, end: Ints) -> HeldSpans:
    """Find the windows that hold spans whole.

    Args:
        spans: of each example, from `gold_tokens`.
        example, begin, end: [W] which example each window is of, and which tokens of its context it has.
    """
    flat = np.array(list(chain.from_iterable(spans)), np.int64).reshape(-1, 2)
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
    """Tokens that cover the first and the last character of ``span``, white space at its edges left out.

    Characters that no token covers (control characters, some accents) are stepped over, as is white space, also
    where it follows on such; None if nothing is left.
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
    """Label each window with the first span that it holds, or its CLS token; the arrays of those that hold several."""
    labels = [(windows["context_begin"][held.window] + token).astype(np.int32) for token in (held.first, held.last)]
    labelled, place, count = np.unique(held.window, return_index=True, return_counts=True)
    for name, tokens in zip(("start", "end"), labels, strict=True):
        windows[name] = windows["cls"]
        windows[name][labelled] = tokens[place]
    several = np.repeat(count > 1, count)
    return held.window[several], labels[0][several], labels[1][several]
