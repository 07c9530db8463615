"""Spans of a text, marked in HTML: for pages and notebooks. No text means anything in what these functions return.

A text is escaped for the content of elements and for quoted attributes, and control characters are shown as escapes
(`wording.visible`). What template languages read (`$`, `{`, `}`, backticks, backslashes) becomes character references,
too, as frameworks may evaluate what they are given.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import NamedTuple

from qa_lightning.wording import visible

_TEMPLATES = re.compile(r"[$`{}\\]")
_AROUND = 300  # characters of context to either side of an answer in a notebook

# For notebooks, which have no style sheet of ours: colours that are read on light and on dark.
_CARD = "font:14px/1.6 system-ui,sans-serif;max-width:46em;border-left:3px solid #d99a00;padding:2px 0 2px 14px"
_MARK = "background:rgba(255,184,0,.38);color:inherit;border-radius:3px;padding:1px 2px;font-weight:600"
_QUIET = "opacity:.72;font-size:12px"
_TEXT = "margin:4px 0;white-space:pre-wrap;overflow-wrap:anywhere"


class Tag(NamedTuple):
    """Where HTML goes into a text.

    Attributes:
        offset: the character that it comes before.
        html: elements, or the start or end of one; inserted as it is.
    """

    offset: int
    html: str


def inert(text: str) -> str:
    """A text as HTML that shows it, line ends included, and does nothing else."""
    escaped = html.escape(visible(text, lines=True))
    return _TEMPLATES.sub(lambda found: f"&#{ord(found[0])};", escaped)


def tagged(text: str, tags: Sequence[Tag]) -> str:
    """A text as HTML with elements in it.

    Args:
        text: any text.
        tags: in the order in which they are to stand, offsets not decreasing.
    """
    parts, done = [], 0
    for tag in tags:
        parts += [inert(text[done : tag.offset]), tag.html]
        done = tag.offset
    return "".join([*parts, inert(text[done:])])


def answer_card(question: str, context: str, start: int, end: int, score: float, place: str = "") -> str:
    """An answer for a notebook: the question, the context around the answer with the answer marked, and its score.

    Args:
        question: may be empty.
        context: may be empty, if the answer is none.
        start, end: character offsets in the context, end exclusive; equal for "no answer".
        score: probability.
        place: where the context is from.
    """
    first, last = _around(context, start, end)
    if end > start:
        body = tagged(context[first:last], [Tag(start - first, f'<mark style="{_MARK}">'), Tag(end - first, "</mark>")])
    else:
        body = f"<em>no answer</em>{' in: ' if context else ''}{inert(context[first:last])}"
    before, after = "…" if first else "", "…" if last < len(context) else ""
    asked = f"<strong>{inert(question)}</strong>" if question else ""
    about = " · ".join([f"score {score:.3f}", *([inert(place)] if place else [])])
    return (
        f'<div style="{_CARD}">{asked}<div dir="auto" style="{_TEXT}">{before}{body}{after}</div>'
        f'<div style="{_QUIET}">{about}</div></div>'
    )


def _around(context: str, start: int, end: int) -> tuple[int, int]:
    """Start and end offset of what is shown of a context: some words to either side of an answer."""
    first, last = max(0, start - _AROUND), min(len(context), end + _AROUND)
    if first and (space := context.find(" ", first, start)) >= 0:
        first = space + 1
    if last < len(context) and (space := context.rfind(" ", end, last)) >= 0:
        last = space
    return first, last
