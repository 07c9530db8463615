"""Answers as they are given -> texts and places that slice the context; what is wrong with them; where they belong."""

from __future__ import annotations

import unicodedata
from typing import Any, TypedDict

from qa_lightning.data.formats import shown

NEAR = 20  # characters that a repair moves an answer at most, where its text stands in several places
_UNITS = (("utf-8", 1, "bytes"), ("utf-16-le", 2, "UTF-16 units, as JavaScript and Java do"))


class Problem(str):
    """What is wrong with a row, in a sentence that begins with its place.

    Args:
        kind: a short name, of those in `rows.ROW_FINDINGS`.
        text: the sentence.
    """

    kind: str

    def __new__(cls, kind: str, text: str) -> Problem:
        """Make a text that knows its kind."""
        problem = super().__new__(cls, text)
        problem.kind = kind
        return problem


class Answers(TypedDict):
    """Gold answers: equally long lists, empty for a question without an answer."""

    text: list[str]
    answer_start: list[int]


def check_answers(place: str, answers: Any, context: str, moved: list[str] | None) -> tuple[Answers, list[Problem]]:
    """Check both usual shapes: ``{"text": [...], "answer_start": [...]}`` and ``[{"text", "answer_start"}, ...]``."""
    result = Answers(text=[], answer_start=[])
    if answers is None:
        return result, []
    if isinstance(answers, dict):
        if not all(isinstance(answers.get(key), list) for key in ("text", "answer_start")):
            what = f"{place}: answers is {shown(answers)}; it needs the lists 'text' and 'answer_start'"
            return result, [Problem("answers", what)]
        if len(answers["text"]) != len(answers["answer_start"]):
            what = (
                f"{place}: {len(answers['text'])} answer texts but {len(answers['answer_start'])} answer_start values"
            )
            return result, [Problem("answers", f"{what}; they go in pairs")]
        pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
    elif isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in answers]
    else:
        what = f"{place}: answers is {shown(answers)}, not a list of answers"
        if isinstance(answers, str) or (isinstance(answers, list) and all(isinstance(one, str) for one in answers)):
            what += " with their places; name a column of texts alone with --data.columns.answer_text"
        return result, [Problem("answers", what)]
    problems: list[Problem] = []
    for text, start in pairs:
        right = _check_answer(place, text, start, context, moved)
        if isinstance(right, Problem):
            problems.append(right)
        else:
            result["text"].append(text)
            result["answer_start"].append(right)
    return result, problems


def _check_answer(place: str, text: Any, start: Any, context: str, moved: list[str] | None) -> int | Problem:
    """Where an answer begins, or what is wrong with it."""
    if not isinstance(text, str):
        return Problem("answers", f"{place}: answer text is {shown(text)}, not a text")
    if not text.strip():
        what = f"{place}: answer text is {shown(text)}; an unanswerable question has no answers at all"
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
        what = f"{place}: answer_start is {shown(start)}; it is a whole number, of characters from 0"
        return Problem("type", what)
    there = shown(context[start : start + len(text)])
    what = f"{place}: answer {shown(text)} is not at answer_start {shown(start)} (there: {there}); "
    return Problem("misplaced", what + where(text, context) + miscounted(text, start, context))


def has_surrogates(text: str) -> bool:
    """Whether ``text`` holds half of a surrogate pair, which no UTF-8 file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def occurrences(text: str, context: str, limit: int | None = None) -> list[int]:
    """All places of ``text``, overlapping ones too; with ``limit``, the first so many."""
    places: list[int] = []
    place = context.find(text)
    while place >= 0 and (limit is None or len(places) < limit):
        places.append(place)
        place = context.find(text, place + 1)
    return places


def repaired_start(text: str, start: Any, context: str) -> int | None:
    """Where an answer that is not at ``start`` can only be meant to be; None where that is not certain.

    It is certain if the context holds the text in one place, whatever ``start`` is; or in one that is nearer than all
    others and at most `NEAR` characters away, unless ``start`` read as a count of bytes or of UTF-16 units is exactly
    another.
    """
    places = occurrences(text, context, 2)
    if len(places) < 2:
        return places[0] if places else None
    if not _is_count(start) or context.startswith(text, start):
        return start if _is_count(start) else None
    for distance in range(1, NEAR + 1):
        near = {
            place for place in (start - distance, start + distance) if place >= 0 and context.startswith(text, place)
        }
        if near:
            meant = near | {place for place, _ in _other_counts(text, start, context)}
            return meant.pop() if len(meant) == 1 else None
    return None


def where(text: str, context: str) -> str:
    """Say where a context holds ``text``, or in what it differs from what the context holds."""
    places = occurrences(text, context, 4)
    if places:
        more = " and elsewhere" if len(places) > 3 else ""
        return f"it stands at {', '.join(map(str, places[:3]))}{more}"
    for difference, same in (
        ("upper and lower case", str.lower),
        ("white space (around it, line ends, tabs, no-break spaces)", lambda value: " ".join(value.split())),
        ("the form of its characters (composed or not, NFC or NFD)", _composed),
    ):
        if same(text) in same(context):
            return f"the context holds it but for {difference}"
    return "the context does not hold it"


def miscounted(text: str, start: int, context: str) -> str:
    """What else than characters from 0 a wrong place may count, if it does, as the end of a sentence."""
    for _, unit in _other_counts(text, start, context):
        return f"; answer_start counts {unit}, not characters"
    if start > 0 and context.startswith(text, start - 1):
        return "; answer_start counts from 1, not from 0"
    return ""


def _other_counts(text: str, start: int, context: str) -> list[tuple[int, str]]:
    """Places where ``text`` stands if ``start`` is a count of other units, and which."""
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
