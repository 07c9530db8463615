"""What notebooks show of answers, in a real browser: hostile texts stay texts."""

from __future__ import annotations

from qa_lightning.marking import answer_card
from qa_lightning.wording import visible
from tests.helpers.payloads import PAYLOADS


def test_hostile_texts_stay_texts_in_a_notebook(open_page, tmp_path) -> None:
    cards = [answer_card(one, f"{one} is {one}.", len(one) + 4, 2 * len(one) + 4, 0.5, one) for one in PAYLOADS]
    file = tmp_path / "cards.html"
    cells = "".join(f"<section>{card}</section>" for card in cards)
    file.write_text(f"<!doctype html><meta charset=utf-8><title>t</title>{cells}", encoding="utf-8")
    page = open_page(file)
    shown = page.eval_on_selector_all("section", "found => found.map(one => one.textContent)")
    marks = page.eval_on_selector_all("mark", "found => found.map(one => one.textContent)")
    texts = [visible(one, lines=True) for one in PAYLOADS]
    assert marks == texts
    assert shown == [f"{one}{one} is {one}.score 0.500 · {one}" for one in texts]
    tags = page.eval_on_selector_all("section *", "found => [...new Set(found.map(one => one.tagName))].sort()")
    assert tags == ["DIV", "MARK", "STRONG"]
