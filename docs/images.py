"""Make the images of these pages from the quickstart's model, in a headless Chromium.

    python docs/images.py                 all images
    python docs/images.py report.png      some of them

It trains the quickstart where lightning_logs holds no run, and needs playwright and a chromium on the PATH. Each image
is a function of `IMAGES`, which returns the path of a page or an address, and where in it the picture is taken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Page, sync_playwright

from qa_lightning.cli.main import call
from qa_lightning.inference.reader import Reader
from qa_lightning.models.loading import resolve
from qa_lightning.pages.demo.answers import Asker, Limits
from qa_lightning.pages.demo.examples import openings_for
from qa_lightning.pages.demo.server import report_beside
from tests.helpers.browser import chromium_path
from tests.helpers.pages import served

WIDTH, HEIGHT = 1100, 760  # pixels of an image
UNTIL_TAKEN = ExitStack()  # what an image needs until it is taken, such as a server
MEMBERS = """\
The club meets on Friday evenings. Priya works as a dentist and has a flat in Lisbon. Tea and cake were served at \
four. Kofi plays the cello. In the band Elena plays the French horn. Hugo is a baker and looks after a white goat. \
Long ago Priya was born in Cairo. Elena lives in Vienna. Kofi calls Rome home and has been here since 2011.

The hall is a short walk from the station. Sara joined the club in 2019. Omar plays the banjo, and Sara practises the \
violin every day. At home Omar has a black parrot. By profession Omar is a pilot. Originally Omar is from Oslo.

These days Omar lives in Boston. For now Sara's home is Nairobi. Members share the work between them."""


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


def demo(page: Page, model: str, folder: Path) -> None:
    """The page to ask in, with an answer, and the windows shown."""
    reader = Reader.from_pretrained(model)
    openings = openings_for(model, reader.settings.version_2)
    served_at = served(Asker(reader.asked, Limits()), openings, name=model, report=report_beside(model))
    page.goto(UNTIL_TAKEN.enter_context(served_at))
    page.fill("#qa-text textarea", MEMBERS)
    page.fill("#qa-question input", "Which pet does Omar have?")
    page.press("#qa-question input", "Enter")
    page.click("#qa-panel summary")
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # bars grow


IMAGES: dict[str, Callable[[Page, str, Path], None]] = {
    "report.png": report,
    "report-slices.png": slices,
    "demo.png": demo,
}


def main(names: list[str]) -> None:
    """Make the images of these names, or all."""
    with UNTIL_TAKEN, TemporaryDirectory() as name, sync_playwright() as driver:
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
