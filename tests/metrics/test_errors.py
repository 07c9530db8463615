"""In which way an answer is wrong, and when the gold answer looks wrong."""

from __future__ import annotations

import pytest

from qa_lightning.metrics.errors import ErrorKind, agreement, doubt, kind_of
from qa_lightning.metrics.squad import Scoring

GOLDS = [(10, 20)]


@pytest.mark.parametrize(
    ("right", "has_answer", "predicted", "fits", "kind"),
    [
        (True, True, (40, 50), True, ErrorKind.RIGHT),
        (True, False, None, True, ErrorKind.RIGHT),
        (False, True, (40, 50), True, ErrorKind.WRONG_PLACE),
        (False, True, (20, 25), True, ErrorKind.WRONG_PLACE),
        (False, True, (5, 10), True, ErrorKind.WRONG_PLACE),
        (False, True, (19, 25), True, ErrorKind.BOUNDARY),
        (False, True, (12, 15), True, ErrorKind.BOUNDARY),
        (False, True, (0, 99), True, ErrorKind.BOUNDARY),
        (False, True, None, True, ErrorKind.SAID_NONE),
        (False, False, (3, 9), True, ErrorKind.MISSED_NONE),
        (False, True, (12, 15), False, ErrorKind.TOO_LONG),
        (False, True, None, False, ErrorKind.TOO_LONG),
    ],
)
def test_kinds(right, has_answer, predicted, fits, kind) -> None:
    assert kind_of(right, has_answer, predicted, GOLDS if has_answer else [], fits) is kind


def test_each_kind_is_explained() -> None:
    assert all(kind.meaning.endswith(".") for kind in ErrorKind)


@pytest.mark.parametrize(
    ("texts", "agreed"),
    [
        ([], 1.0),
        (["Paris"], 1.0),
        (["Paris", "the Paris."], 1.0),
        (["Paris", "Rome"], 0.0),
        (["the city of Oslo", "Oslo"], 0.5),
        (["Oslo", "Oslo", "city"], 1 / 3),
    ],
)
def test_agreement_is_the_mean_f1_of_pairs(texts, agreed) -> None:
    assert agreement(texts, Scoring()) == pytest.approx(agreed)


@pytest.mark.parametrize(
    ("kind", "confidence", "agreed", "doubted"),
    [
        (ErrorKind.BOUNDARY, 0.8, 0.5, 0.4),
        (ErrorKind.BOUNDARY, 0.5, 0.5, 0.25),
        (ErrorKind.BOUNDARY, 0.49, 0.5, 0.0),
        (ErrorKind.BOUNDARY, 0.9, 1.0, 0.0),
        (ErrorKind.WRONG_PLACE, 0.9, 0.0, 0.0),
        (ErrorKind.RIGHT, 0.9, 0.0, 0.0),
    ],
)
def test_gold_is_doubted_where_the_model_is_sure_and_close_and_annotators_disagree(
    kind, confidence, agreed, doubted
) -> None:
    assert doubt(kind, confidence, 0.5, agreed) == pytest.approx(doubted)
