"""Cuts a context into pieces, each with the spans that it belongs to, for a page that marks them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from qa_lightning.metrics.errors import Span
from qa_lightning.wording import visible

GAP = -1  # the marks of a piece that stands for text that is left out
_LONGEST = 4000  # characters of a context that are shown whole
_AROUND = 500  # characters that are shown before and after a span of a longer one
_SPAN = 1000  # characters of a span that are shown, at most

Piece = tuple[str, int]  # text to show; sum of the marks of the spans that it belongs to


def marked_pieces(context: str, spans: Sequence[tuple[Span | None, int]], shown: Sequence[Span] = ()) -> list[Piece]:
    """The pieces of a context, in order; joined, they are the context as it is shown.

    Control characters are escaped. Of a long context only the surroundings of some spans are shown.

    Args:
        context: the whole text.
        spans: characters, or None for a span that is nowhere, and its mark, a power of 2.
        shown: the spans whose surroundings are shown; without any, the beginning is.
    """
    placed = [(span, mark) for span, mark in spans if span is not None]
    pieces: list[Piece] = []
    end = 0
    for begin, stop in _parts(len(context), shown):
        if begin > end:
            pieces.append((_gap(begin - end), GAP))
        edges = {begin, stop, *(edge for span, _ in placed for edge in span if begin < edge < stop)}
        for start, last in pairwise(sorted(edges)):
            marks = sum({mark for (first, behind), mark in placed if first <= start and last <= behind})
            pieces.append((visible(context[start:last], lines=True), marks))
        end = stop
    if end < len(context):
        pieces.append((_gap(len(context) - end), GAP))
    return pieces


def _parts(length: int, shown: Sequence[Span]) -> list[Span]:
    """The parts of a text that are shown, in order and apart."""
    if length <= _LONGEST:
        return [(0, length)]
    wanted = sorted(
        (max(start - _AROUND, 0), min(min(end, start + _SPAN) + _AROUND, length)) for start, end in shown
    ) or [(0, 2 * _AROUND)]
    parts = [wanted[0]]
    for begin, end in wanted[1:]:
        if begin <= parts[-1][1]:
            parts[-1] = parts[-1][0], max(parts[-1][1], end)
        else:
            parts.append((begin, end))
    return parts


def _gap(count: int) -> str:
    return f" [… {count:,} characters …] "


def cut_short(text: str, limit: int) -> str:
    """A text for a page: without control characters, at most ``limit`` characters of it."""
    return visible(text[:limit], lines=True) + (" …" if len(text) > limit else "")
