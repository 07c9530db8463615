"""Pages are tested in a headless Chromium."""

from tests.helpers.browser import browser, open_page

__all__ = ["browser", "open_page"]
