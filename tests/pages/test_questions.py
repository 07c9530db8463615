"""What a report says of each question: kinds of errors, probabilities, gold answers; and the scores of evaluate."""

from __future__ import annotations

import numpy as np
import pytest

from qa_lightning.evaluation.model import score_model
from qa_lightning.metrics.errors import ErrorKind
from qa_lightning.pages.questions import gold_spans
from tests.helpers.data import make_rows, write_json
from tests.helpers.scored import Asked, scored, several

CONTEXT = "Anna lives in Paris . Ben works in the city of Oslo ."
SURE_OF_NONE = Asked(CONTEXT, ("Oslo",), (("Paris", 1.0),), null=3.0)


def kinds(*asked: Asked, **settings) -> list[ErrorKind]:
    return [question.kind for question in scored(list(asked), **settings).questions()]


def test_each_kind_of_error_is_found() -> None:
    assert kinds(
        Asked(CONTEXT, ("Oslo",), (("Oslo", 3.0),)),
        Asked(CONTEXT, ("Oslo",), (("Paris", 3.0),)),
        Asked(CONTEXT, ("Oslo",), (("city of Oslo", 3.0),)),
        Asked(CONTEXT, (), (("Paris", 3.0),)),
        SURE_OF_NONE,
        Asked(CONTEXT, (), (("Paris", 1.0),), null=3.0),
    ) == [
        ErrorKind.RIGHT,
        ErrorKind.WRONG_PLACE,
        ErrorKind.BOUNDARY,
        ErrorKind.MISSED_NONE,
        ErrorKind.SAID_NONE,
        ErrorKind.RIGHT,
    ]


def test_the_threshold_decides_what_is_said() -> None:
    none = Asked(CONTEXT, (), (("Paris", 1.0),), null=3.0)
    assert kinds(SURE_OF_NONE, none, threshold=1.9) == [ErrorKind.SAID_NONE, ErrorKind.RIGHT]
    assert kinds(SURE_OF_NONE, none, threshold=2.1) == [ErrorKind.WRONG_PLACE, ErrorKind.MISSED_NONE]


def test_an_answer_that_no_prediction_can_give_is_too_long() -> None:
    gold = CONTEXT[CONTEXT.index("Paris") : CONTEXT.index("Oslo") + 4]
    asked = Asked(CONTEXT, (gold,), (("Ben", 3.0),))
    assert kinds(asked) == [ErrorKind.BOUNDARY]
    assert kinds(asked, max_answer_length=5) == [ErrorKind.TOO_LONG]
    far = "Anna lives in Paris . " + "the city is in the city . " * 12 + "Oslo is where Ben works ."
    asked = Asked(far, (far[far.index("Paris") :],), (("Ben", 3.0),))
    assert kinds(asked, max_answer_length=500) == [ErrorKind.TOO_LONG]
    assert kinds(asked, max_answer_length=500, max_length=256) == [ErrorKind.BOUNDARY]


def test_probabilities_are_those_of_the_candidates() -> None:
    (question,) = scored([Asked(CONTEXT, ("Oslo",), (("Oslo", 2.0), ("Paris", 1.0)), null=-1.0)]).questions()
    total = np.exp(2) + np.exp(1) + np.exp(-1)
    assert question.confidence == pytest.approx(np.exp(2) / total, abs=2e-3)
    assert [one.probability for one in question.n_best] == pytest.approx(
        [np.exp(2) / total, np.exp(1) / total], abs=2e-3
    )
    assert question.null_odds == -3


def test_candidates_are_in_the_order_of_their_probabilities_under_the_threshold() -> None:
    """The answer is among them, also where five spans have a higher score than "no answer" has before the threshold."""
    spans = tuple((text, 2.0 - number / 10) for number, text in enumerate(("Anna", "lives", "in", "Paris", "Ben", ".")))
    asked = Asked(CONTEXT, (), spans, null=1.0)
    (question,) = scored([asked], threshold=-3.0).questions()
    assert (question.answer, question.n_best[0].text, len(question.n_best)) == ("", "", 5)
    assert question.n_best[0].probability == pytest.approx(question.confidence)
    chances = [one.probability for one in question.n_best]
    assert chances == sorted(chances, reverse=True)


def test_gold_answers_are_counted_and_found() -> None:
    (question,) = scored([Asked(CONTEXT, ("Oslo", "the city of Oslo", "Oslo"), (("Paris", 1.0),))]).questions()
    assert [(gold.text, gold.annotators, CONTEXT[slice(*gold.span)]) for gold in question.golds if gold.span] == [
        ("Oslo", 2, "Oslo"),
        ("the city of Oslo", 1, "the city of Oslo"),
    ]


def test_a_gold_answer_without_its_offset_is_sought() -> None:
    assert gold_spans(CONTEXT, ["Oslo", "Paris", "Rome", ""], [-1, 0, 5, 0]) == [(47, 51), (14, 19), None, None]


def test_gold_looks_wrong_where_annotators_disagree_and_the_model_is_sure_and_close() -> None:
    doubted = [question for question in scored(several(8)).questions() if question.doubt]
    assert [question.answer for question in doubted] == ["the city"] * 2
    agreed = Asked(CONTEXT, ("Oslo", "Oslo"), (("city of Oslo", 9.0),))
    assert [question.doubt for question in scored([agreed]).questions()] == [0]


def test_some_questions_can_be_asked_for_and_many_are_not_kept(monkeypatch) -> None:
    found = scored(several(6))
    every = list(found.questions())
    assert list(found.questions([4, 1])) == [every[4], every[1]]
    monkeypatch.setattr("qa_lightning.pages.questions._IN_MEMORY", 0)
    fresh = scored(several(6))
    assert list(fresh.questions([4, 1])) == [every[4], every[1]]
    assert list(fresh.questions()) == every


@pytest.mark.parametrize("unanswerable", [0, 6])
def test_the_scores_are_those_of_an_evaluation(model_folder, tmp_path, unanswerable) -> None:
    data = write_json(tmp_path / "dev.json", make_rows(20, unanswerable))
    result = score_model(model_folder, data)
    assert result.scored is not None
    found = result.scored
    assert {name: result.metrics[name] for name in found.metrics} == found.metrics
    questions = list(found.questions())
    assert {question.id: question.answer for question in questions} == result.predictions
    for question in questions:
        best = result.n_best[question.id][: len(question.n_best)]
        assert [one.text for one in question.n_best] == [one["text"] for one in best]
        assert [one.probability for one in question.n_best] == pytest.approx(
            [one["probability"] for one in best], abs=2e-3
        )
    right = sum(question.kind is ErrorKind.RIGHT for question in questions)
    assert 100 * right / len(questions) == pytest.approx(found.metrics["exact" if unanswerable else "exact_match"])
