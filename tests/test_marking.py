"""Spans marked in HTML: the text is all there, and means nothing."""

from __future__ import annotations

import html
import re

import pytest

from qa_lightning.marking import Tag, answer_card, inert, tagged
from qa_lightning.wording import visible
from tests.helpers.payloads import PAYLOADS


@pytest.mark.parametrize("text", [*PAYLOADS, "a\nb\tc", "", "\ud800", "\\${x}`"])
def test_a_text_is_shown_as_it_is(text) -> None:
    found = inert(text)
    assert html.unescape(found) == visible(text, lines=True)
    assert not re.search(r"[<>\"'${}`\\\x00-\x08\x0b-\x1f]", found)


def test_tags_stand_at_their_offsets() -> None:
    found = tagged("a<b & c", [Tag(0, "<i>"), Tag(2, "</i>"), Tag(2, "<mark>"), Tag(7, "</mark>")])
    assert found == "<i>a&lt;</i><mark>b &amp; c</mark>"
    assert tagged("abc", []) == "abc"


def test_a_card_shows_the_words_around_an_answer() -> None:
    context = "word " * 200 + "Rome" + " word" * 200
    card = answer_card("Where?", context, 1000, 1004, 0.25, "a.txt line 1")
    assert re.search(r"…word .*<mark[^>]*>Rome</mark> word.* word…</div>", card)
    assert "<strong>Where?</strong>" in card
    assert "score 0.250 · a.txt line 1" in card
    assert len(card) < 1500
    whole = answer_card("", "In Rome.", 3, 7, 1.0)
    assert re.search(r'pre-wrap;overflow-wrap:anywhere">In <mark[^>]*>Rome</mark>\.</div>', whole)


def test_a_card_without_an_answer_says_so() -> None:
    assert "<em>no answer</em> in: Rome" in answer_card("Where?", "Rome", 0, 0, 0.5)
    assert "<em>no answer</em></div>" in answer_card("Where?", "", 0, 0, 0.5)
