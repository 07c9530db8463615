"""Scores of Chinese, Japanese and Korean answers: equal to a second implementation of MLQA's and KorQuAD's rules.

The oracles are written from the published scripts, ``mlqa_evaluation_v1.py`` and KorQuAD's ``evaluate-v1.0.py``, letter
by letter and without what `squad` uses.
"""

from __future__ import annotations

import string
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qa_lightning.metrics.squad import Scoring, SquadMetric, answer_scores, normalize_answer

PIECES = (
    "北京 市 一 龥 龦 㐀 々 ひらがな カタカナ ー ﾊﾟ ゛ が 서울 은 《책》 〈글〉 (주) ‘말’ “x” ' \" < > a the The an 12 "
)
PIECES += ". ， 。 、 ・ - _"
TEXTS = st.one_of(
    st.lists(st.sampled_from([*PIECES.split(), " ", "\u3000", "\n"]), max_size=8).map("".join),
    st.text(max_size=10),
)


def split_alone(text: str, ranges: list[tuple[str, str]]) -> list[str]:
    """The tokens of MLQA's mixed segmentation, after lower case and without punctuation."""
    kept = [letter for letter in text.lower() if letter not in string.punctuation]
    tokens: list[str] = []
    word = ""
    for letter in (one for one in kept if unicodedata.category(one)[0] != "P"):
        alone = any(first <= letter <= last for first, last in ranges)
        if alone or letter.isspace():
            tokens += [word] if word else []
            word = ""
            tokens += [letter] if alone else []
        else:
            word += letter
    return tokens + ([word] if word else [])


def korean_words(text: str) -> list[str]:
    """The words of KorQuAD's normalisation."""
    spaced = "".join(" " if letter in "'\"《》<>〈〉()‘’" else letter for letter in text).lower()
    return "".join(letter for letter in spaced if letter not in string.punctuation).split()


HAN = [("\u4e00", "\u9fa5")]
KANA = [*HAN, *zip("\u3005\u3041\u30a0\u31f0\uff66", "\u3007\u309f\u30ff\u31ff\uff9f", strict=True)]
WORDS = {
    "mlqa": lambda text: split_alone(text, HAN),
    "kana": lambda text: split_alone(text, KANA),
    "korquad": korean_words,
}


def oracle(prediction: str, golds: list[str], rules: str) -> tuple[int, float]:
    exact, f1 = 0, 0.0
    for gold in golds:
        ours, theirs = WORDS[rules](prediction), WORDS[rules](gold)
        exact = max(exact, int(ours == theirs))
        if rules == "korquad":
            ours, theirs = list("".join(ours)), list("".join(theirs))
        same = sum(min(ours.count(token), theirs.count(token)) for token in set(ours))
        f1 = max(f1, 2 * same / (len(ours) + len(theirs)) if same else 0.0)
    return exact, f1


@pytest.mark.parametrize("rules", WORDS)
@settings(max_examples=400, deadline=None)
@given(prediction=TEXTS, golds=st.lists(TEXTS, min_size=1, max_size=3))
@example(prediction="the 北京", golds=["北京", "The 北 京"])
@example(prediction="ひらがなカタカナの", golds=["ひらがなカタカナ"])
@example(prediction="서울 에서", golds=["서울에서"])
@example(prediction="(주)대한", golds=["주 대한", "주대한"])
@example(prediction="", golds=["。"])
def test_scores_equal_the_published_rules_on_any_texts(rules, prediction, golds) -> None:
    exact, f1 = answer_scores(prediction, golds, Scoring(mixed_script=rules))
    expected = oracle(prediction, golds, rules)
    assert exact == expected[0]
    assert f1 == pytest.approx(expected[1], abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Lo"]), max_size=10))
def test_kana_changes_nothing_where_there_are_none(text) -> None:
    if not any(
        "\u3005" <= letter <= "\u3007" or "\u3041" <= letter <= "\u31ff" or letter >= "\uff66" for letter in text
    ):
        assert normalize_answer(text, "kana") == normalize_answer(text, "mlqa")


@pytest.mark.parametrize(
    ("rules", "prediction", "gold", "exact", "f1"),
    [
        (False, "ねこのえさ", "ねこの", 0, 0.0),
        ("mlqa", "ねこのえさ", "ねこの", 0, 0.0),
        ("kana", "ねこのえさ", "ねこの", 0, 0.75),
        ("kana", "ネコのﾊｺ", "ねこ", 0, 0.0),
        ("kana", "東京タワー", "東京", 0, 4 / 7),
        ("kana", "「東京」タワー。", "東京 タワー", 1, 1.0),
        (True, "東京タワー", "東京", 0, 0.8),
        ("mlqa", "東京タワー", "東京", 0, 0.8),
        (False, "부산에서", "부산", 0, 0.0),
        ("mlqa", "부산에서", "부산", 0, 0.0),
        ("korquad", "부산에서", "부산", 0, 2 / 3),
        ("korquad", "《부산》", "부산", 1, 1.0),
        ("korquad", "부산 항", "부산항", 0, 1.0),
        ("korquad", "the 부산", "부산", 0, 4 / 7),
    ],
)
def test_each_option_counts_as_its_scorer(rules, prediction, gold, exact, f1) -> None:
    assert answer_scores(prediction, [gold], Scoring(mixed_script=rules)) == (exact, pytest.approx(f1))
    metric = SquadMetric(version_2=True, mixed_script=rules)
    metric.update({"id": "1", "prediction_text": prediction}, {"id": "1", "answers": {"text": [gold]}})
    assert metric.compute()["f1"] == pytest.approx(100 * f1)
