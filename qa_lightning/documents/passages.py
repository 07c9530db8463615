"""Cut a text into passages, which are searched by words, and find the sentence around an answer.

Passages follow each other without a gap. A passage is a paragraph, or several short ones up to 1,000 characters; a
longer paragraph is cut after a sentence, else at white space. No passage crosses a page.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from qa_lightning.documents.markup import PAGE_END

MAX_PASSAGE = 1000  # characters
MAX_SENTENCE = 400  # characters to either side of an answer

_PARAGRAPH_END = re.compile(rf"\n[ \t]*\n\s*|{PAGE_END}+\s*")
# A sentence ends with its mark, closing quotes and white space; CJK marks need no space after them. A line that begins
# as an item of a list, a heading or a row of a table does not belong to the sentence before it.
_SENTENCE_END = re.compile(
    r"""[.!?…]["'”’»)\]]*\s+(?=["'“‘«(\[]*[^\W\d_a-z]|["'“‘«(\[]*\d)|[。！？][”’」』）]*\s*"""
    rf"""|\n[ \t]*\n\s*|\n(?=\s*(?:[-*+#>|•]|\d+[.)])\s)|{PAGE_END}\s*"""
)
_ABBREVIATION = re.compile(r"(?:\b(?:[A-Z]|Dr|Mr|Mrs|Ms|Prof|St|No|vs|Jr|Sr|cf|ca|etc)|\b[a-z]\.[a-z])\.\s+$")


def passages(text: str) -> list[tuple[int, int]]:
    """Start and end offset of each passage, in order; together they are the whole text."""
    found: list[tuple[int, int]] = []
    for start, end in _pieces(text):
        joins = found and end - found[-1][0] <= MAX_PASSAGE and PAGE_END not in text[found[-1][0] : start]
        if joins:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _pieces(text: str) -> list[tuple[int, int]]:
    """Paragraphs, and parts of long ones, each with the white space behind it."""
    ends = [*(match.end() for match in _PARAGRAPH_END.finditer(text) if match.end() < len(text)), len(text)]
    pieces = []
    start = 0
    for end in ends:
        while end - start > MAX_PASSAGE:
            cut = _cut(text, start, start + MAX_PASSAGE)
            pieces.append((start, cut))
            start = cut
        pieces.append((start, end))
        start = end
    return pieces


def _cut(text: str, start: int, limit: int) -> int:
    """The best offset in ``start < offset <= limit`` to cut a long paragraph at."""
    sentences = [match.end() for match in _SENTENCE_END.finditer(text, start, limit) if match.end() > start]
    if sentences and sentences[-1] - start > MAX_PASSAGE // 4:
        return sentences[-1]
    space = max(text.rfind(" ", start + 1, limit), text.rfind("\n", start + 1, limit))
    return space + 1 if space > start else limit


def passages_around(found: list[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Start and end offset of the passages that hold a span."""
    begins = [begin for begin, _ in found]
    first, last = bisect_right(begins, start) - 1, bisect_right(begins, max(start, end - 1)) - 1
    return found[first][0], found[last][1]


def sentence_around(text: str, start: int, end: int) -> tuple[int, int]:
    """Start and end offset of the sentence, or the sentences, that hold a span, without white space at the edges.

    Limit: rules for punctuation, not for languages; some abbreviations end a sentence. At most 400 characters to either
    side of the span.
    """
    left, right = max(0, start - MAX_SENTENCE), min(len(text), end + MAX_SENTENCE)
    ends = [match.end() for match in _SENTENCE_END.finditer(text, left, right)]
    ends = [one for one in ends if not _ABBREVIATION.search(text, max(left, one - 12), one)]
    first = max((one for one in ends if one <= start), default=None)
    last = min((one for one in ends if one >= end), default=None)
    if first is None:  # the limit of length may cut a word
        first = left if left == 0 else max(left, text.find(" ", left, start))
    if last is None:
        last = right if right == len(text) else max(end, text.rfind(" ", end, right))
    while first < start and text[first].isspace():
        first += 1
    while last > end and text[last - 1].isspace():
        last -= 1
    return first, last
