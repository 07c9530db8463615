"""Show answers in a notebook, marked in their contexts: also the plain dicts of a pipeline, which cannot do it alone.

A pipeline's answers stay plain dicts: what was written for transformers 4.57 checks, pickles and stores them as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qa_lightning.decoding.predictions import Answer
from qa_lightning.documents.answers import DocumentAnswer
from qa_lightning.errors import InputError
from qa_lightning.marking import answer_card
from qa_lightning.wording import shown, visible


class _Card(NamedTuple):
    """One answer: the arguments of `marking.answer_card`."""

    question: str
    context: str
    start: int
    end: int
    score: float
    place: str = ""


class ShownAnswers:
    """Answers that a notebook shows marked in their contexts; printed, they are lines of text."""

    def __init__(self, cards: Sequence[_Card]) -> None:
        self._cards = list(cards)

    def _repr_html_(self) -> str:
        """One card per answer."""
        return "".join(answer_card(*card) for card in self._cards)

    def __repr__(self) -> str:
        """One line per answer: score, and the text."""
        texts = (visible(" ".join(one.context[one.start : one.end].split())) for one in self._cards)
        return "\n".join(
            f"{one.score:.4f}  {text or '(no answer)'}" for one, text in zip(self._cards, texts, strict=True)
        )


def show(answers: Any, context: str = "", question: str = "") -> ShownAnswers:
    """Show one or several answers in a notebook, each marked in its context.

    Args:
        answers: what `Reader.answer`, `Reader.ask` or a pipeline returned: an answer or a list of answers.
        context: the text that a pipeline's answers are from; the others know it.
        question: what was asked, to be shown above a pipeline's answers.

    Raises:
        InputError: ``answers`` is something else, or an answer lies outside of the context.
    """
    several = [answers] if isinstance(answers, (Mapping, Answer, DocumentAnswer)) else answers
    if not isinstance(several, Sequence) or isinstance(several, str):
        raise InputError(f"answers is {shown(answers)}; pass an answer, or a list of answers")
    return ShownAnswers([_card(one, context, question) for one in several])


def _card(answer: Any, context: str, question: str) -> _Card:
    if isinstance(answer, Answer):
        return _Card(answer.question, answer.context or context, answer.start, answer.end, answer.score)
    if isinstance(answer, DocumentAnswer):
        begin = answer.context_start
        return _Card(
            answer.question, answer.context, answer.start - begin, answer.end - begin, answer.score, answer.place
        )
    if not isinstance(answer, Mapping) or not {"score", "start", "end", "answer"} <= set(answer):
        raise InputError(f"{shown(answer)} is no answer; pass what a reader or a pipeline returned")
    place, start, end = "", answer["start"], answer["end"]
    if isinstance(own := answer.get("context"), str):  # from documents
        context, place = own, answer["document"]["id"]
        start, end = (answer["context_offset"][name] for name in ("start", "end"))
    if start != end and context[start:end] != answer["answer"]:
        raise InputError(f"{shown(answer['answer'])} does not stand at {start}-{end} of the context; pass its context")
    return _Card(question, context, start, end, answer["score"], place)
