"""Make the images of these pages from the quickstart's model, in a headless Chromium.

    python docs/images.py                       all images, of a quickstart that is trained for it
    python docs/images.py report.png            some of them
    python docs/images.py --model FOLDER        of a quickstart's model that is there

It needs playwright, and a chromium on the PATH. Each image is a function of `IMAGES`, which shows on a page what the
picture is taken of.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Page, sync_playwright

from qa_lightning.cli.main import call
from tests.helpers.browser import chromium_path

WIDTH, HEIGHT = 1100, 760  # pixels of an image
MODEL = "lightning_logs/version_0/model"  # as readers have it


def quickstart_model(given: str | None) -> None:
    """Put a model of the quickstart at `MODEL`: one that is given, or one that still has errors to show."""
    if given:
        shutil.copytree(given, MODEL)
    else:
        call("train", ["--config", "quickstart", "--trainer.max_epochs", "2"])


def report(page: Page) -> None:
    """The report of errors, at its surest one."""
    if not Path("report.html").is_file():
        call("report", ["--model", MODEL, "--data", "synthetic", "--max_examples", "300"])
    page.goto(Path("report.html").resolve().as_uri())


def slices(page: Page) -> None:
    """Its curves and slices."""
    report(page)
    page.locator("#trust").evaluate("part => part.scrollIntoView()")


IMAGES: dict[str, Callable[[Page], None]] = {"report.png": report, "report-slices.png": slices}


def main() -> None:
    """Make the images that the flags name, or all."""
    flags = argparse.ArgumentParser(description="Make the images of the docs.")
    flags.add_argument("images", nargs="*", choices=[*IMAGES, []], help="names; all without one")
    flags.add_argument("--model", help="folder of a quickstart's model")
    options = flags.parse_args()
    given = str(Path(options.model).resolve()) if options.model else None
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        os.chdir(folder)
        quickstart_model(given)
        browser = driver.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        for name in options.images or IMAGES:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            IMAGES[name](page)
            image = ROOT / "docs" / name
            page.screenshot(path=image)
            page.close()
            print(f"docs/{name}: {image.stat().st_size / 1000:,.0f} kB")
        browser.close()
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
