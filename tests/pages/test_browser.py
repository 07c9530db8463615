"""The browser of the other tests sees what a page must not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.browser import OFFLINE, Watched

FAULTS = [
    ("<img src='http://192.0.2.1/a.png'>", "request to http://192.0.2.1/a.png"),
    ("<script>fetch('https://192.0.2.1/b').catch(() => 0)</script>", "request to https://192.0.2.1/b"),
    ("<script>throw new Error('broken')</script>", "script failed: broken"),
    ("<script>alert('hello')</script>", "dialog: hello"),
]


@pytest.mark.parametrize(("body", "fault"), FAULTS)
def test_a_fault_is_noted(browser, tmp_path: Path, body: str, fault: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><title>t</title><p>text</p>{body}", encoding="utf-8")
    page = browser.new_page()
    watched = Watched(page, OFFLINE)
    page.goto(file.as_uri())
    page.close()
    assert fault in watched.faults


def test_a_page_without_faults_passes(open_page, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("<!doctype html><title>t</title><p>text</p>", encoding="utf-8")
    assert open_page(file).inner_text("p") == "text"
