"""Find where a misplaced answer is meant to be, or say why that is not certain.

A repair is certain or does not happen (`repaired`). Texts are *alike* if they differ only in upper and lower case,
white space, the form of their characters (NFC or NFD), quotes or dashes. All searches take time linear in the context.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

NEAR = 20  # characters that a repair moves an answer by, at most, if its text occurs several times
_UNITS = (("utf-8", 1, "bytes"), ("utf-16-le", 2, "UTF-16 units, as JavaScript and Java do"))
_MARKS = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u00b4`", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-"),
    }
)
# First words of the Unicode names of letters that are written without spaces between words.
_UNSPACED = {"CJK", "HIRAGANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "BOPOMOFO", "YI", "JAVANESE", "BALINESE"}


class Placed(NamedTuple):
    """An answer at its right offset: ``context[start : start + len(text)] == text``."""

    start: int
    text: str


def repaired(text: str, start: Any, context: str) -> Placed | None:
    """Where an answer must be meant to be; None if that is not certain.

    The first of these that holds decides:

    1. The text is at ``start``.
    2. A text alike is at ``start`` or behind the white space there, as whole words. The context's own text is then
       taken as the answer.
    3. The text occurs once in the context as whole words, whatever ``start`` is. If it does not occur at all, the same
       holds for texts alike.
    4. It occurs several times, and one occurrence is nearer to ``start`` than all others, and at most `NEAR` away.

    3 and 4 are not certain if ``start``, read as a count of bytes or of UTF-16 units, gives exactly another occurrence,
    or if a text alike is nearer to it.

    Args:
        text: the answer, not blank.
        start: its offset; anything but a whole number of at least 0 says nothing.
        context: the text to find it in.
    """
    offset = start if is_offset(start) else None
    if offset is not None:
        if context.startswith(text, offset):
            return Placed(offset, text)
        if here := _alike_at(text, offset, context):
            certain = _is_whole(*here, context) and (here[0] == offset or not _other_counts(text, offset, context))
            return _placed(here, context) if certain else None
    exact = [(one, one + len(text)) for one in occurrences(text, context)]
    spans = [span for span in exact or _alike(text, context) if _is_whole(*span, context)]
    meant = spans[0] if len(spans) == 1 else _nearest(spans, offset)
    if meant is None:
        return None
    if offset is not None:
        if any(other != meant[0] for other, _ in _other_counts(text, offset, context)):
            return None
        if exact and _alike_nearer(text, offset, context, abs(meant[0] - offset)):
            return None
    return _placed(meant, context)


def is_offset(start: Any) -> bool:
    """Whether ``start`` is a whole number of at least 0."""
    return isinstance(start, int) and not isinstance(start, bool) and start >= 0


def _placed(span: tuple[int, int], context: str) -> Placed:
    return Placed(span[0], context[slice(*span)])


def _nearest(spans: list[tuple[int, int]], offset: int | None) -> tuple[int, int] | None:
    """The span that begins nearest to ``offset``, at most `NEAR` away; None for a tie."""
    if offset is None:
        return None
    near = sorted((abs(span[0] - offset), span) for span in spans if abs(span[0] - offset) <= NEAR)
    return near[0][1] if near and (len(near) == 1 or near[0][0] < near[1][0]) else None


def _alike_nearer(text: str, offset: int, context: str, distance: int) -> bool:
    """Whether a text alike begins less than ``distance`` from ``offset``, and at most `NEAR`, as whole words."""
    begin, reach = max(0, offset - NEAR), min(NEAR + 1, distance)
    part = context[begin : offset + NEAR + 2 * len(text)]
    spans = [(begin + first, begin + last) for first, last in _alike(text, part)]
    return any(abs(span[0] - offset) < reach and _is_whole(*span, context) for span in spans)


# --- occurrences ---


def occurrences(text: str, context: str, limit: int | None = None) -> list[int]:
    """Offsets at which ``text`` occurs, ascending, overlapping ones included; at most the first ``limit``."""
    return list(islice(_occurrences(text, context), limit))


def _occurrences(text: str, context: str) -> Iterator[int]:
    """As `occurrences`, one after the other."""
    spent = 0  # each hit costs the length of the text; beyond some lengths of the context it would be quadratic
    offset = context.find(text)
    while offset >= 0:
        yield offset
        spent += len(text)
        if spent > 8 * len(context):
            yield from _overlapping(text, context, offset + 1)
            return
        offset = context.find(text, offset + 1)


def _overlapping(text: str, context: str, begin: int) -> Iterator[int]:
    """Occurrences that start at ``begin`` or later, by Knuth, Morris and Pratt: linear, but slower than ``find``."""
    border = [0] * len(text)  # border[i]: length of the longest proper prefix of text[: i + 1] that also ends it
    for index in range(1, len(text)):
        length = border[index - 1]
        while length and text[index] != text[length]:
            length = border[length - 1]
        border[index] = length + (text[index] == text[length])
    matched = 0
    for index in range(begin, len(context)):
        while matched and (matched == len(text) or context[index] != text[matched]):
            matched = border[matched - 1]
        matched += context[index] == text[matched]
        if matched == len(text):
            yield index + 1 - matched


# --- whole words ---


def _is_whole(begin: int, end: int, context: str) -> bool:
    """Whether a span neither begins nor ends within a word or a number; blanks at its edges are passed over."""
    while begin < end and context[begin].isspace():
        begin += 1
    while end > begin and context[end - 1].isspace():
        end -= 1
    before, after = context[begin - 1 : begin] if begin else "", context[end : end + 1]
    if after and _joined(context[end - 1], after) and not _is_hangul(after):  # Korean particles follow a word
        return False
    if before and _joined(before, context[begin]):
        return False
    left = context[begin - 2 : begin + 1] if begin > 1 else ""
    return not (_is_number(left) or _is_number(context[end - 1 : end + 2]))


def _joined(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    if unicodedata.category(right)[0] == "M":
        return True
    if any(unicodedata.category(letter)[0] not in "LNM" for letter in (left, right)):
        return False
    kinds = {_kind(left), _kind(right)}
    return not kinds & _UNSPACED and ("KATAKANA" not in kinds or len(kinds) == 1)


def _kind(letter: str) -> str:
    """The script of a letter, by its Unicode name."""
    name = unicodedata.name(letter, "").replace("-", " ").split()
    return "KATAKANA" if "KATAKANA" in name else name[0] if name else ""


def _is_hangul(letter: str) -> bool:
    return _kind(letter) == "HANGUL" and not unicodedata.name(letter).startswith("HANGUL J")  # a jamo ends no syllable


def _is_number(three: str) -> bool:
    """Whether three characters are a digit, a point or comma, and a digit, as within 3.5 and 1,200."""
    return len(three) == 3 and three[0].isdigit() and three[1] in ".," and three[2].isdigit()


# --- texts alike ---


def _folded(text: str) -> str:
    """A text without what texts alike differ in, and without blanks around it."""
    return " ".join(_folded_unit(text).split())


def _folded_unit(text: str) -> str:
    plain = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return plain.translate(_MARKS)


def _units(text: str, begin: int = 0) -> Iterator[tuple[int, int]]:
    """(begin, end) of the parts that are folded one by one: a run of white space, or a character with its accents."""
    while begin < len(text):
        continues: Callable[[str], Any] = str.isspace if text[begin].isspace() else unicodedata.combining
        end = begin + 1
        while end < len(text) and continues(text[end]):
            end += 1
        yield begin, end
        begin = end


def _alike_at(text: str, offset: int, context: str) -> tuple[int, int] | None:
    """The span of a text alike at ``offset``, or behind the white space there; None if there is none."""
    while offset < len(context) and context[offset].isspace():
        offset += 1
    if offset >= len(context) or unicodedata.combining(context[offset]):
        return None
    wanted, done = _folded(text), 0
    for begin, end in _units(context, offset):
        part = " " if context[begin].isspace() else _folded_unit(context[begin:end])
        if not wanted.startswith(part, done):
            return None
        done += len(part)
        if done == len(wanted):
            return offset, end
    return None


def _alike(text: str, context: str) -> Iterator[tuple[int, int]]:
    """Spans of the texts alike in ``context``, in order."""
    wanted = _folded(text)
    if wanted not in _folded(context):  # fast, and nearly always the end of it
        return
    parts, begins, ends = [], [], []
    for begin, end in _units(context):
        part = " " if context[begin].isspace() else _folded_unit(context[begin:end])
        parts.append(part)
        begins += [begin] * len(part)
        ends += [end] * len(part)
    for first in _occurrences(wanted, "".join(parts)):
        last = first + len(wanted) - 1
        cut = (first and begins[first] == begins[first - 1]) or (last + 1 < len(ends) and ends[last] == ends[last + 1])
        if not cut:
            yield begins[first], ends[last]


# --- messages ---

_DIFFERENCES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("upper and lower case", str.casefold),
    ("white space (around it, line ends, tabs, no-break spaces)", lambda text: " ".join(text.split())),
    ("the form of its characters (composed or not, NFC or NFD)", lambda text: unicodedata.normalize("NFD", text)),
    ("quotes or dashes", lambda text: text.translate(_MARKS)),
    ("several of case, white space, form of characters, quotes and dashes", _folded),
)


def where(text: str, context: str) -> str:
    """Say at which offsets a context holds ``text``, or how ``text`` differs from what the context holds."""
    offsets = occurrences(text, context, 4)
    if offsets:
        more = " and elsewhere" if len(offsets) > 3 else ""
        inside = not any(_is_whole(one, one + len(text), context) for one in offsets)
        return f"it occurs at {', '.join(map(str, offsets[:3]))}{more}{', inside of a word' if inside else ''}"
    for difference, same in _DIFFERENCES:
        if same(text) in same(context):
            return f"the context holds it except for {difference}"
    return "the context does not hold it"


def miscounted(text: str, start: int, context: str) -> str:
    """What a wrong offset counts instead of characters from 0, as the end of a sentence; empty if that is unknown."""
    for _, unit in _other_counts(text, start, context):
        return f"; answer_start seems to count {unit}, not characters"
    if start > 0 and context.startswith(text, start - 1):
        return "; answer_start is one too many, as if it counted from 1"
    if context.startswith(text, start + 1):
        return "; answer_start is one too few"
    return ""


def _other_counts(text: str, start: int, context: str) -> list[tuple[int, str]]:
    """Offsets at which ``text`` occurs if ``start`` counts other units than characters, each with the unit's name."""
    if context.isascii():
        return []  # each character is one unit
    found = []
    for encoding, size, unit in _UNITS:
        encoded = context.encode(encoding)
        if start * size <= len(encoded) and encoded.startswith(text.encode(encoding), start * size):
            found.append((len(encoded[: start * size].decode(encoding)), unit))
    return found
