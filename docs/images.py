"""Make the images of these pages from the quickstart's model, in a headless Chromium.

    python docs/images.py                 all images
    python docs/images.py report.png      some of them

It trains the quickstart where lightning_logs holds no run, and needs playwright and a chromium on the PATH. Each image
is a function of `IMAGES`, which returns the path of a page or an address, and where in it the picture is taken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Page, sync_playwright

from qa_lightning.cli.main import call
from qa_lightning.models.loading import resolve
from tests.helpers.browser import chromium_path

WIDTH, HEIGHT = 1100, 760  # pixels of an image


def quickstart_model(folder: Path) -> str:
    """The model of the quickstart: trained for a few epochs, so that it has errors to show."""
    call("train", ["--config", "quickstart", "--trainer.max_epochs", "2", "--trainer.default_root_dir", str(folder)])
    return resolve(str(folder / "lightning_logs" / "version_0"))


def report(page: Page, model: str, folder: Path) -> None:
    """The report of errors, at its surest one."""
    page.goto((Path(model).parent / "report.html").as_uri())


def slices(page: Page, model: str, folder: Path) -> None:
    """Its curves and slices."""
    report(page, model, folder)
    page.locator("#trust").evaluate(
        "part => { document.documentElement.style.scrollPaddingTop = '3rem'; part.scrollIntoView() }"
    )


IMAGES: dict[str, Callable[[Page, str, Path], None]] = {"report.png": report, "report-slices.png": slices}


def main(names: list[str]) -> None:
    """Make the images of these names, or all."""
    with TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        model = quickstart_model(folder)
        browser = driver.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        for image in names or IMAGES:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            IMAGES[image](page, model, folder)
            page.screenshot(path=ROOT / "docs" / image)
            page.close()
            print(f"docs/{image}: {(ROOT / 'docs' / image).stat().st_size / 1000:,.0f} kB")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
