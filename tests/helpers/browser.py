"""A headless Chromium for tests: opens pages at a width, light or dark, and fails on what a page must not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NARROW, WIDE = 390, 1600  # pixels: a telephone, and a large screen
OFFLINE = ("file:", "data:", "blob:", "about:")  # what a page reads without asking anybody

OpenPage = Callable[..., "Page"]


def chromium_path() -> str | None:
    """The program of a Chromium that is installed; ``QA_LIGHTNING_TEST_CHROMIUM`` names another."""
    names = (os.environ.get("QA_LIGHTNING_TEST_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextmanager
def headless_chromium() -> Iterator[Browser]:
    """A running Chromium; skips the test, with the reason, where playwright or Chromium is not installed.

    While it is open, this thread has a running event loop, and ``asyncio.run`` fails in it.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it drives Chromium")
    program = chromium_path()
    if program is None:
        pytest.skip("no chromium on the PATH: .ci/chromium.sh installs one")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield running
        finally:
            running.close()


@pytest.fixture(scope="module")  # not the session: asyncio.run fails in this thread while it is open
def browser() -> Iterator[Browser]:
    """One Chromium for the tests of a module."""
    with headless_chromium() as running:
        yield running


class Watched:
    """Notes what a page must not do: requests to elsewhere, errors of its scripts, blocked content, dialogs.

    Args:
        allowed: beginnings of the addresses that the page may ask.
    """

    def __init__(self, page: Page, allowed: tuple[str, ...]) -> None:
        self.faults: list[str] = []
        page.on("request", lambda request: self._request(request.url, allowed))
        page.on("websocket", lambda socket: self._request(socket.url, allowed))
        page.on("pageerror", lambda error: self.faults.append(f"script failed: {error}"))
        page.on("console", lambda line: self.faults.append(f"console: {line.text}") if line.type == "error" else None)
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def _request(self, url: str, allowed: tuple[str, ...]) -> None:
        if not url.startswith(allowed):
            self.faults.append(f"request to {urlsplit(url)._replace(query='', fragment='').geturl()[:200]}")


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages; at the end of the test, a page that asked elsewhere or whose script failed fails the test.

    ``open_page(place, width=1600, height=1000, dark=False, allowed=())``: ``place`` is a file or an address;
    ``allowed`` lists beginnings of addresses that the page may ask besides files, such as that of its own server.
    """
    contexts, watched = [], []

    def open_one(
        place: Path | str, width: int = WIDE, height: int = 1000, dark: bool = False, allowed: tuple[str, ...] = ()
    ) -> Page:
        scheme = "dark" if dark else "light"
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        page = contexts[-1].new_page()
        watched.append(Watched(page, (*OFFLINE, *allowed)))
        page.goto(place.resolve().as_uri() if isinstance(place, Path) else place)
        return page

    yield open_one
    for context in contexts:
        context.close()
    faults = [fault for one in watched for fault in one.faults]
    assert not faults, "\n".join(faults)
