"""Says in which way an answer is wrong, and whether the gold answer is what looks wrong.

A wrong answer is one without an exact match, as the official scorers count it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import combinations

from qa_lightning.metrics.squad import Scoring, normalize_answer, squad_f1

Span = tuple[int, int]  # characters of a context, end exclusive


class ErrorKind(Enum):
    """In which way an answer is wrong; the value is its name for people."""

    RIGHT = "right"
    WRONG_PLACE = "wrong place"
    BOUNDARY = "boundary only"
    MISSED_NONE = "missed none"
    SAID_NONE = "said none"
    TOO_LONG = "too long for a window"

    @property
    def meaning(self) -> str:
        """What it means, in a sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    ErrorKind.RIGHT: "The answer is an exact match.",
    ErrorKind.WRONG_PLACE: "The answer and the gold answers do not overlap.",
    ErrorKind.BOUNDARY: "The answer overlaps a gold answer, but begins or ends elsewhere.",
    ErrorKind.MISSED_NONE: "The model answers a question that has no answer.",
    ErrorKind.SAID_NONE: "The model says that there is no answer, but there is one.",
    ErrorKind.TOO_LONG: "No gold answer fits whole into a window and the longest answer: no prediction can match.",
}


def kind_of(right: bool, has_answer: bool, predicted: Span | None, golds: Sequence[Span], fits: bool) -> ErrorKind:
    """In which way an answer is wrong.

    Args:
        right: whether it is an exact match.
        has_answer: whether the question has a gold answer.
        predicted: the answer's characters; None for "no answer".
        golds: the characters of the gold answers, as far as their offsets are known.
        fits: whether some gold answer lies whole in a window and is not longer than answers may be.
    """
    if right:
        return ErrorKind.RIGHT
    if not has_answer:
        return ErrorKind.MISSED_NONE
    if not fits:
        return ErrorKind.TOO_LONG
    if predicted is None:
        return ErrorKind.SAID_NONE
    start, end = predicted
    return ErrorKind.BOUNDARY if any(begin < end and start < stop for begin, stop in golds) else ErrorKind.WRONG_PLACE


def agreement(texts: Sequence[str], scoring: Scoring) -> float:
    """Mean F1, 0-1, between the answers of each two annotators; 1 for fewer than two."""
    normalized = [normalize_answer(text, scoring.mixed_script) for text in texts]
    pairs = [
        1.0 if one == other else squad_f1(one, other, scoring.version_2, scoring.mixed_script)
        for one, other in combinations(normalized, 2)
    ]
    return sum(pairs) / len(pairs) if pairs else 1.0


def doubt(kind: ErrorKind, confidence: float, sure: float, agreed: float) -> float:
    """How much a gold answer looks wrong, 0-1; 0 if there is no reason to doubt it.

    There is one where the model is sure and close (it overlaps a gold answer), and the annotators disagree among
    themselves.

    Args:
        kind: of the model's answer.
        confidence: the answer's probability.
        sure: the probability from which on the model counts as sure.
        agreed: the annotators' `agreement`.
    """
    return confidence * (1 - agreed) if kind is ErrorKind.BOUNDARY and confidence >= sure else 0.0
