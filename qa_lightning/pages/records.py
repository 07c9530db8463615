"""What the report's page holds of a question: texts to show, without control characters and not too long."""

from __future__ import annotations

import math
from typing import Any

from qa_lightning.metrics.errors import ErrorKind
from qa_lightning.pages.marks import cut_short, marked_pieces
from qa_lightning.pages.questions import ScoredQuestion

GOLD, ANSWER, OTHER, FIRST_CANDIDATE = 1, 2, 4, 8  # marks; the n-th best candidate has FIRST_CANDIDATE << n
_NAME, _QUESTION, _TEXT = 200, 1000, 300  # characters of an id or title, a question, an answer
_GOLDS = 10  # distinct gold answers, at most
_KINDS = {kind: number for number, kind in enumerate(ErrorKind)}


def shown_question(question: ScoredQuestion, other: ScoredQuestion | None, won: int) -> dict[str, Any]:
    """Plain values under short names, which ``report.js`` reads.

    Args:
        question: with the model's answer.
        other: the same with another model's answer; None without one.
        won: whether only the model is right (1), only the other one (-1), or neither is alone (0).
    """
    golds = question.golds[:_GOLDS]
    spans = [(gold.span, GOLD) for gold in golds]
    spans.append((question.span, ANSWER))
    spans += [(one.span, FIRST_CANDIDATE << rank) for rank, one in enumerate(question.n_best)]
    important = [gold.span for gold in golds] + [question.span]
    if other is not None:
        spans.append((other.span, OTHER))
        important.append(other.span)
    pieces = marked_pieces(question.context, spans, [span for span in important if span])
    record = {
        "i": cut_short(question.id, _NAME),
        "t": cut_short(question.title, _NAME),
        "q": cut_short(question.question, _QUESTION),
        "c": pieces,
        "l": len(question.context),
        "g": [[cut_short(gold.text, _TEXT), gold.annotators] for gold in golds],
        "m": len(question.golds) - len(golds),
        "b": [[cut_short(one.text, _TEXT), round(one.probability, 4)] for one in question.n_best],
        "d": round(question.doubt, 4),
        "n": question.number,
        **_answer(question),
    }
    return record if other is None else record | {"w": won, "r": _answer(other)}


def _answer(question: ScoredQuestion) -> dict[str, Any]:
    return {
        "a": cut_short(question.answer, _TEXT),
        "p": round(question.confidence, 4),
        "o": round(question.null_odds, 3) if math.isfinite(question.null_odds) else None,
        "e": question.exact,
        "f": round(question.f1, 4),
        "k": _KINDS[question.kind],
    }
