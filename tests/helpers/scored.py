"""Scored questions made by hand: contexts, gold answers, and the spans that a model is to have found."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qa_lightning.decoding.predictions import Predictions, Rows
from qa_lightning.decoding.spans import Scaling, Spans
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.metrics.calibration import TEMPERATURES
from qa_lightning.metrics.outcomes import judge
from qa_lightning.metrics.squad import Scoring
from qa_lightning.pages.questions import Scored
from tests.helpers.models import small_tokenizer

Found = tuple[str, float]  # the text of a span, at its first occurrence in the context, and its score


@dataclass
class Asked:
    """A question for a report.

    Args:
        context: the text.
        golds: annotators' answers, each at its first occurrence; empty for a question without an answer.
        found: the spans that the model finds, best first.
        null: score of "no answer".
    """

    context: str
    golds: tuple[str, ...]
    found: tuple[Found, ...]
    null: float = -5.0
    title: str = "Cities"
    question: str = "Where lives Anna ?"
    id: str = ""


def scored(
    asked: list[Asked],
    model: str = "model-a",
    max_length: int = 64,
    threshold: float = 0.0,
    max_answer_length: int = 30,
) -> Scored:
    """Score the questions; in SQuAD v2.0's way if one has no answer."""
    rows = [
        {
            "id": one.id or f"q{number}",
            "title": one.title or None,
            "question": one.question,
            "context": one.context,
            "answers": {"text": list(one.golds), "answer_start": [one.context.find(gold) for gold in one.golds]},
        }
        for number, one in enumerate(asked)
    ]
    settings = WindowSettings(max_length, 16, 16)
    tokenizer = small_tokenizer()
    batch = Windower(tokenizer, settings)(
        [one.question for one in asked], [one.context for one in asked], [None] * len(asked)
    )
    version_2 = not all(one.golds for one in asked)
    predictions = Predictions(Rows(rows), np.arange(len(asked)), _spans(asked), version_2, threshold)
    scoring = Scoring(version_2)
    outcomes = judge(predictions, scoring)
    return Scored(
        model,
        "data.json",
        predictions,
        outcomes,
        Scaling(1.0, threshold),
        scoring,
        FeatureStore.of_batch(batch),
        tokenizer,
        settings.doc_stride,
        max_answer_length,
    )


def _spans(asked: list[Asked]) -> Spans:
    count = np.array([len(one.found) for one in asked], np.int32)
    found = [(one.context.index(text), len(text)) for one in asked for text, _ in one.found]
    starts = [start for start, _ in found]
    ends = [start + length for start, length in found]
    score = np.array([score for one in asked for _, score in one.found], float)
    null = np.array([one.null for one in asked])
    log_spans = np.array(
        [[np.log(sum(np.exp(score / at) for _, score in one.found)) for at in TEMPERATURES] for one in asked]
    ).reshape(len(asked), len(TEMPERATURES))
    total = np.array([np.logaddexp(np.log(sum(np.exp(s) for _, s in one.found)), one.null) for one in asked])
    spread = np.repeat(total, count)
    return Spans(
        count,
        np.array(starts, np.int32),
        np.array(ends, np.int32),
        score,
        np.exp(score - spread),
        null,
        np.exp(null - total),
        log_spans,
        np.array([one.found[1][1] if len(one.found) > 1 else -np.inf for one in asked]),
    )


def renamed(one: Asked, **changes: object) -> Asked:
    """The same question with other fields."""
    return replace(one, **changes)


def several(count: int = 40, title: str = "Article {}") -> list[Asked]:
    """Questions about eight articles; of four, one is right, one at another place, one too long, one is close."""
    context = "Anna lives in Paris . Ben works in the city of Oslo , and Carl lives in Rome ."
    kinds = (
        Asked(context, ("Paris", "Paris"), (("Paris", 6.0), ("Oslo", 2.0))),
        Asked(context, ("Paris",), (("Rome", 5.0), ("Paris", 3.0))),
        Asked(context, ("the city of Oslo", "Oslo", "city of Oslo"), (("the city", 7.0), ("Oslo", 3.5))),
        Asked(context, ("Rome",), (("lives in Rome", 1.0), ("Rome", 0.5))),
    )
    return [
        renamed(kinds[number % 4], title=title.format(number % 8), question=f"Where lives person {number} ?")
        for number in range(count)
    ]
