"""Check gold answers against their context, and say what is wrong with them.

An answer is right if its text is at its offset: ``context[start : start + len(text)] == text``. `repair` knows which
wrong offsets are certain. "No answer" may be spelled in many ways: nothing, an empty list, a blank or missing text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

from qa_lightning.data.cells import NoSpan, is_nothing, unplaced_hint, whole_number
from qa_lightning.data.formats import Accepted
from qa_lightning.data.repair import is_offset, miscounted, repaired, where
from qa_lightning.wording import counted, listed, shown

UNPLACED = -1  # the ``answer_start`` of a gold answer of which only the text is known


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

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """What a copy in another process is made of."""
        return self.kind, str(self)


class Answers(TypedDict):
    """Gold answers: two lists of the same length, empty for a question without an answer."""

    text: list[str]
    answer_start: list[int]


class OffsetPolicy(NamedTuple):
    """What is done with an answer whose offset is wrong.

    Attributes:
        repair: repair offsets, where that is certain.
        texts_alone: take answers whose text is not at their offset, with the offset `UNPLACED`: EM and F1 need no more.
    """

    repair: bool = False
    texts_alone: bool = False


@dataclass
class CheckedAnswers:
    """The answers of a row after their check.

    Attributes:
        good: the answers that can be used.
        problems: what is wrong with the others.
        repaired: a line for each repair.
        unplaced: with ``texts_alone``, what is wrong with the offsets of the answers that have none now.
    """

    good: Answers = field(default_factory=lambda: Answers(text=[], answer_start=[]))
    problems: list[Problem] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    unplaced: list[Problem] = field(default_factory=list)


def check_answers(
    place: str,
    answers: Any,
    context: str,
    policy: OffsetPolicy = OffsetPolicy(),  # noqa: B008 - immutable
    impossible: bool = False,
) -> CheckedAnswers:
    """Check the answers of a row.

    Args:
        place: where the row is in its source, for messages.
        answers: ``{"text": [...], "answer_start": [...]}`` or ``[{"text", "answer_start"}, ...]``; None or NaN for no
            answer, as for each text. An offset may be a number in quotes.
        context: the text that ``answer_start`` counts characters of.
        policy: what to do with wrong offsets.
        impossible: the row says that there is no answer; then the offset of a blank text means nothing.
    """
    checked = CheckedAnswers()
    pairs = _pairs(place, answers)
    if isinstance(pairs, Problem):
        checked.problems.append(pairs)
        return checked
    for pair in pairs:
        if isinstance(pair, Problem):
            checked.problems.append(pair)
            continue
        text, given = pair
        start = whole_number(given)
        if is_nothing(text):
            if is_offset(start) and start > 0 and not impossible:
                what = (
                    f"{place}: answer text is {shown(text)}, yet answer_start is {shown(given)}; give the text, or no"
                )
                checked.problems.append(Problem("answers", f"{what} answer_start for a question without an answer"))
            continue
        if isinstance(text, NoSpan) and impossible:
            continue
        problem = _text_problem(place, text, context) or _offset_problem(place, text, start, context)
        if problem is None:
            _add(checked, text, start)
        elif isinstance(text, Accepted):
            if policy.texts_alone:
                _add(checked, text, UNPLACED)
        elif policy.repair and problem.kind in _OFFSET_KINDS and (found := repaired(text, start, context)):
            _add(checked, found.text, found.start)
            checked.repaired.append(_repair_line(place, text, start, context, found.text, found.start))
        elif policy.texts_alone and problem.kind in _OFFSET_KINDS:
            _add(checked, text, UNPLACED)
            checked.unplaced.append(problem)
        else:
            checked.problems.append(problem)
    return checked


def has_surrogates(text: str) -> bool:
    """Whether ``text`` holds half of a surrogate pair, which UTF-8 cannot encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


_OFFSET_KINDS = ("misplaced", "unplaced", "type")  # kinds of problems that `_offset_problem` finds


def _pairs(place: str, answers: Any) -> list[tuple[Any, Any] | Problem] | Problem:
    """(text, offset) of each answer, or why it cannot be told; or why none can be."""
    if answers == {} or is_nothing(answers):
        return []
    if isinstance(answers, dict):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if "text" in answers and is_nothing(texts) and not isinstance(starts, list):
            return [(texts, starts)]
        if not isinstance(texts, list) or not isinstance(starts, list):
            what = f"{place}: answers is {shown(answers)}; it needs the lists 'text' and 'answer_start'"
            return Problem("answers", what)
        if len(texts) != len(starts):
            what = (
                f"{place}: {counted(len(texts), 'answer text')} but {counted(len(starts), 'answer_start value')}; give "
                "one answer_start for each text"
            )
            return Problem("answers", what)
        return list(zip(texts, starts, strict=True))
    if isinstance(answers, list) and all(isinstance(one, dict) or is_nothing(one) for one in answers):
        return [_pair(place, one) if isinstance(one, dict) else (None, None) for one in answers]
    what = f"{place}: answers is {shown(answers)}, not a list of answers"
    if isinstance(answers, str):
        what += "; it begins like JSON or a list, and cannot be read as one"
    return Problem("answers", what)


def _pair(place: str, answer: dict[Any, Any]) -> tuple[Any, Any] | Problem:
    """(text, offset) of an answer, or why they cannot be told."""
    if "text" in answer or all(map(is_nothing, answer.values())):
        return answer.get("text"), answer.get("answer_start")
    what = f"{place}: answer {shown(answer)} has no text under a known name, only {listed(map(str, answer))}; name its "
    count = "; offsets count characters, not bytes" if any("byte" in str(name).lower() for name in answer) else ""
    return Problem("answers", f"{what}parts text and answer_start, or start and end{count}")


def _text_problem(place: str, text: Any, context: str) -> Problem | None:
    """What is wrong with an answer's text."""
    if isinstance(text, NoSpan):
        what = f"{place}: no answer stands from {shown(text.start)} to before {shown(text.end)} in a context of "
        return Problem("answers", f"{what}{counted(len(context), 'character')}; for no answer leave both out")
    if not isinstance(text, str):
        return Problem("answers", f"{place}: answer text is {shown(text)}, not a text")
    if has_surrogates(text):
        return Problem("text", f"{place}: answer text holds half of a surrogate pair; save the file as valid UTF-8")
    return None


def _offset_problem(place: str, text: str, start: Any, context: str) -> Problem | None:
    """What is wrong with an answer's offset."""
    if start is None:
        hint = unplaced_hint(text, context)
        return Problem(
            "unplaced", f"{place}: answer {shown(text)} has no answer_start, and {where(text, context)}{hint}"
        )
    if not is_offset(start):
        what = f"{place}: answer_start is {shown(start)}; it must be a whole number of characters, counted from 0"
        return Problem("type", what)
    if context.startswith(text, start):
        return None
    what = (
        f"{place}: answer {shown(text)} is not at answer_start {shown(start)} (there: {_there(text, start, context)}); "
    )
    return Problem("misplaced", what + where(text, context) + miscounted(text, start, context))


def _repair_line(place: str, text: str, start: Any, context: str, new: str, offset: int) -> str:
    """A line that says what a repair changed, with both texts."""
    if start == offset:
        return (
            f"{place}: answer {shown(text)} at answer_start {offset} replaced by {shown(new)}, the context's own text"
        )
    there = f" (there: {_there(text, start, context)})" if is_offset(start) else ""
    replaced = f", and replaced by {shown(new)}, the context's own text" if new != text else ""
    return f"{place}: answer {shown(text)} moved from answer_start {shown(start)}{there} to {offset}{replaced}"


def _there(text: str, start: int, context: str) -> str:
    return shown(context[start : start + len(text)])


def _add(checked: CheckedAnswers, text: str, start: int) -> None:
    checked.good["text"].append(text)
    checked.good["answer_start"].append(start)
