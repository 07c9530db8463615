"""Check gold answers against their context, say what is wrong with them, and repair offsets.

An answer is right if its text is at its offset: ``context[start : start + len(text)] == text``. An offset is repaired
only if a single other one can be meant (`repaired_start`); all other wrong answers are problems for a person to solve.
"""

from __future__ import annotations

import unicodedata
from typing import Any, TypedDict

from qa_lightning.data.formats import counted, shown

NEAR = 20  # a repair moves an answer by at most this many characters if its text occurs several times
_UNITS = (("utf-8", 1, "bytes"), ("utf-16-le", 2, "UTF-16 units, as JavaScript and Java do"))


class Problem(str):
    """What is wrong with a row, in a sentence that begins with the row's place.

    Args:
        kind: a key of `bad_rows.ROW_FINDINGS`.
        text: the sentence.
    """

    kind: str

    def __new__(cls, kind: str, text: str) -> Problem:
        """Make the string and set its ``kind``."""
        problem = super().__new__(cls, text)
        problem.kind = kind
        return problem


class Answers(TypedDict):
    """Gold answers: two lists of the same length, empty for a question without an answer."""

    text: list[str]
    answer_start: list[int]


def check_answers(place: str, answers: Any, context: str, moved: list[str] | None) -> tuple[Answers, list[Problem]]:
    """Check the answers of a row.

    Args:
        place: where the row is in its source, for messages.
        answers: ``{"text": [...], "answer_start": [...]}`` or ``[{"text", "answer_start"}, ...]``; None for no answer.
        context: the text that ``answer_start`` counts characters of.
        moved: wrong offsets are repaired, and each repair is appended here as a line; None repairs nothing.

    Returns:
        The answers that are right, and the problems of the others.
    """
    result = Answers(text=[], answer_start=[])
    if answers is None:
        return result, []
    if isinstance(answers, dict):
        if not all(isinstance(answers.get(key), list) for key in ("text", "answer_start")):
            what = f"{place}: answers is {shown(answers)}; it needs the lists 'text' and 'answer_start'"
            return result, [Problem("answers", what)]
        if len(answers["text"]) != len(answers["answer_start"]):
            what = (
                f"{place}: {counted(len(answers['text']), 'answer text')} but "
                f"{counted(len(answers['answer_start']), 'answer_start value')}; give one answer_start for each text"
            )
            return result, [Problem("answers", what)]
        pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
    elif isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in answers]
    else:
        what = f"{place}: answers is {shown(answers)}, not a list of answers"
        if isinstance(answers, str) or (isinstance(answers, list) and all(isinstance(one, str) for one in answers)):
            what += " with their offsets; name a column that holds texts alone with --data.columns.answer_text"
        return result, [Problem("answers", what)]
    problems: list[Problem] = []
    for text, start in pairs:
        checked = _check_answer(place, text, start, context, moved)
        if isinstance(checked, Problem):
            problems.append(checked)
        else:
            result["text"].append(text)
            result["answer_start"].append(checked)
    return result, problems


def _check_answer(place: str, text: Any, start: Any, context: str, moved: list[str] | None) -> int | Problem:
    """The right offset of an answer, or what is wrong with it."""
    if not isinstance(text, str):
        return Problem("answers", f"{place}: answer text is {shown(text)}, not a text")
    if not text.strip():
        what = f"{place}: answer text is {shown(text)}; give an unanswerable question an empty list of answers"
        return Problem("answers", what)
    if has_surrogates(text):
        return Problem("text", f"{place}: answer text holds half of a surrogate pair; save the file as valid UTF-8")
    if _is_count(start) and context.startswith(text, start):
        return int(start)
    right = repaired_start(text, start, context) if moved is not None else None
    if right is not None and moved is not None:
        moved.append(f"{place}: answer {shown(text)} moved from answer_start {shown(start)} to {right}")
        return right
    if start is None:
        what = f"{place}: answer {shown(text)} has no answer_start, and {where(text, context)}"
        return Problem("unplaced", what)
    if not _is_count(start):
        what = f"{place}: answer_start is {shown(start)}; it must be a whole number of characters, counted from 0"
        return Problem("type", what)
    there = shown(context[start : start + len(text)])
    what = f"{place}: answer {shown(text)} is not at answer_start {shown(start)} (there: {there}); "
    return Problem("misplaced", what + where(text, context) + miscounted(text, start, context))


def has_surrogates(text: str) -> bool:
    """Whether ``text`` holds half of a surrogate pair, which UTF-8 cannot encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def occurrences(text: str, context: str, limit: int | None = None) -> list[int]:
    """Offsets at which ``text`` occurs, ascending, overlapping ones included; at most the first ``limit``."""
    offsets: list[int] = []
    offset = context.find(text)
    while offset >= 0 and (limit is None or len(offsets) < limit):
        offsets.append(offset)
        offset = context.find(text, offset + 1)
    return offsets


def repaired_start(text: str, start: Any, context: str) -> int | None:
    """The offset that a wrong ``start`` must mean; None if that is not certain.

    It is certain if the text occurs once in the context, whatever ``start`` is. It is also certain if one occurrence is
    nearer to ``start`` than all others and at most `NEAR` characters away; but not if ``start``, read as a count of
    bytes or of UTF-16 units, gives exactly another occurrence.
    """
    offsets = occurrences(text, context, 2)
    if len(offsets) < 2:
        return offsets[0] if offsets else None
    if not _is_count(start) or context.startswith(text, start):
        return start if _is_count(start) else None
    for distance in range(1, NEAR + 1):
        near = {
            offset
            for offset in (start - distance, start + distance)
            if offset >= 0 and context.startswith(text, offset)
        }
        if near:
            meant = near | {offset for offset, _ in _other_counts(text, start, context)}
            return meant.pop() if len(meant) == 1 else None
    return None


def where(text: str, context: str) -> str:
    """Say at which offsets a context holds ``text``, or how ``text`` differs from what the context holds."""
    offsets = occurrences(text, context, 4)
    if offsets:
        more = " and elsewhere" if len(offsets) > 3 else ""
        return f"it occurs at {', '.join(map(str, offsets[:3]))}{more}"
    for difference, same in (
        ("upper and lower case", str.lower),
        ("white space (around it, line ends, tabs, no-break spaces)", lambda value: " ".join(value.split())),
        ("the form of its characters (composed or not, NFC or NFD)", _composed),
    ):
        if same(text) in same(context):
            return f"the context holds it except for {difference}"
    return "the context does not hold it"


def miscounted(text: str, start: int, context: str) -> str:
    """What a wrong offset counts instead of characters from 0, as the end of a sentence; empty if that is unknown."""
    for _, unit in _other_counts(text, start, context):
        return f"; answer_start counts {unit}, not characters"
    if start > 0 and context.startswith(text, start - 1):
        return "; answer_start counts from 1, not from 0"
    return ""


def _other_counts(text: str, start: int, context: str) -> list[tuple[int, str]]:
    """Offsets at which ``text`` occurs if ``start`` counts other units than characters, each with the unit's name."""
    found = []
    for encoding, size, unit in _UNITS:
        encoded = context.encode(encoding)
        if start * size <= len(encoded) and encoded.startswith(text.encode(encoding), start * size):
            found.append((len(encoded[: start * size].decode(encoding)), unit))
    return found


def _is_count(start: Any) -> bool:
    return isinstance(start, int) and not isinstance(start, bool) and start >= 0


def _composed(text: str) -> str:
    return unicodedata.normalize("NFKC", text)
