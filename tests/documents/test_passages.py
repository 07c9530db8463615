"""Passages cover a text without a gap; sentences are found around an answer."""

from __future__ import annotations

import random

import pytest

from qa_lightning.documents.passages import MAX_PASSAGE, MAX_SENTENCE, passages, passages_around, sentence_around


@pytest.mark.parametrize("seed", range(30))
def test_passages_follow_each_other_without_a_gap_and_are_not_too_long(seed) -> None:
    draw = random.Random(seed)
    pieces = ["word", " ", ". ", "\n", "\n\n", "\n \n", "\f", "x" * 300, "。", "A sentence of some words. "]
    text = "".join(draw.choices(pieces, k=draw.choice([1, 20, 400])))
    found = passages(text)
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == len(text)
    assert max(end - start for start, end in found) <= MAX_PASSAGE
    for start, end in found:
        assert "\f" not in text[start:end].strip("\f \n\t")
    for start in range(0, len(text), 97):
        begin, stop = passages_around(found, start, min(start + 30, len(text)))
        assert begin <= start < stop
        assert stop >= min(start + 30, len(text))
        assert (begin in {one for one, _ in found}, stop in {one for _, one in found}) == (True, True)


def test_short_paragraphs_are_joined_and_long_ones_cut_after_a_sentence() -> None:
    short = "Anna lives in Rome.\n\n" * 3
    assert passages(short) == [(0, len(short))]
    long = "Anna lives in Rome, and Ben in Oslo. " * 60
    assert len(passages(long)) > 1
    assert all(long[start:end].endswith("Oslo. ") for start, end in passages(long))
    assert passages("x" * 2500) == [(0, 1000), (1000, 2000), (2000, 2500)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Ben bakes. Anna lives in [Rome]. Dora works.", "Anna lives in [Rome]."),
        ("[Rome]. Then Oslo.", "[Rome]."),
        ('He left. "Anna lives in [Rome]!" Ben said so.', '"Anna lives in [Rome]!"'),
        ("It was Dr. Anna who lives in [Rome]. Next.", "It was Dr. Anna who lives in [Rome]."),
        ("It is 3.5 km to [Rome], e.g. by J. Baker. Next.", "It is 3.5 km to [Rome], e.g. by J. Baker."),
        ("Anna\nlives in\n[Rome]\n\nBen", "Anna\nlives in\n[Rome]"),
        ("# Where\n- Anna lives in [Rome]\n- Ben in Oslo", "- Anna lives in [Rome]"),
        ("Page one\fAnna lives in [Rome]\fPage three", "Anna lives in [Rome]"),
        ("安娜住在[罗马]。本住在奥斯陆。", "安娜住在[罗马]。"),
        ("One. Two [in Rome. Three] four. Five.", "Two [in Rome. Three] four."),
        ("Anna lives in [Rome.] Ben.", "Anna lives in [Rome.]"),
    ],
)
def test_the_sentence_around_an_answer(text, sentence) -> None:
    start, end = text.index("["), text.index("]") - 1
    plain = text.replace("[", "").replace("]", "")
    first, last = sentence_around(plain, start, end)
    assert plain[first:last] == sentence.replace("[", "").replace("]", "")


def test_a_sentence_without_end_is_cut_between_words() -> None:
    text = "word " * 300 + "Rome " + "word " * 300
    first, last = sentence_around(text, 1500, 1504)
    assert (text[first:last].startswith("word "), text[first:last].endswith(" word")) == (True, True)
    assert 1504 + MAX_SENTENCE - 6 < last <= 1504 + MAX_SENTENCE
    assert 1500 - MAX_SENTENCE <= first < 1500 - MAX_SENTENCE + 6
