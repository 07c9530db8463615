"""Pages as files: data that cannot end its element, half characters, and answers in a notebook."""

from __future__ import annotations

import json

import pytest

from qa_lightning.pages.html import as_bytes, embedded, framed
from qa_lightning.wording import visible
from tests.helpers.payloads import PAYLOADS
from tests.helpers.scored import Asked, scored


def test_embedded_data_cannot_end_its_element_and_is_read_back() -> None:
    text = embedded(PAYLOADS)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == PAYLOADS


def test_numbers_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded([float("nan")])


def test_half_of_a_surrogate_pair_is_written_as_an_escape() -> None:
    assert json.loads(as_bytes(embedded(["a\ud800b"]))) == ["a\ud800b"]


def test_in_a_notebook_hostile_answers_stay_text(open_page, tmp_path) -> None:
    """Predictions as a table, and a page in a frame, inside a page without a policy of its own."""
    ten = [PAYLOADS[begin : begin + 10] for begin in range(0, len(PAYLOADS), 10)]
    tables = []
    for texts in ten:
        asked = [Asked(f"Anna {text} .", (text,), ((text, 1.0),), question=text) for text in texts]
        tables.append(scored(asked).predictions._repr_html_())
    file = tmp_path / "notebook.html"
    frame = framed("<!doctype html><p>within</p><script>parent.document.title = 'out'</script>", 100)
    file.write_bytes(as_bytes(f"<!doctype html><title>t</title>{''.join(tables)}"))
    page = open_page(file)
    cells = page.locator("td:nth-child(2)").evaluate_all("all => all.map(one => one.textContent)")
    assert cells == [visible(" ".join(text.split())) for text in PAYLOADS]
    assert page.locator("script, img, iframe, svg, a, style, form, object").count() == 0
    assert 'sandbox="allow-scripts"' in frame
    assert "<script>" not in frame


def test_of_many_predictions_ten_are_shown() -> None:
    asked = [Asked("Anna lives in Paris .", ("Paris",), (("Paris", 1.0),))] * 12
    shown = scored(asked).predictions._repr_html_()
    assert shown.count("<tr>") == 11
    assert "and 2 more" in shown
